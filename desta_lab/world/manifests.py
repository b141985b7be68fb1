"""DeSTA-AQA5M manifests: JSONL files of training examples, read a row at a time."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from desta_lab.clips import CorpusError, get_field, parse_json_row

AQA_COLUMNS = {
    "id": str,
    "dataset": str,
    "seed_description": str,
    "prompt": str,
    "response": str,
    "messages": list,
}
NEEDED = ("id", "messages", "response")  # the columns that every row has
BLOCK = 1 << 22  # bytes of a manifest searched for line breaks at a time


class Manifest(Sequence[dict[str, Any]]):
    """The training examples of a DeSTA-AQA5M style JSONL file, each read from disk when needed.

    Memory holds only where the lines begin, 8 bytes a row, found by reading the file once (a
    gigabyte a second). Every row has at least `id`, `messages` and `response`, and exactly one
    clip. It gets one more column, `clip`: the path of the audio, completed by `root`, by which a
    feature store finds it. With `transcripts`, the `text` of the clip follows the audio, as in
    DeSTA2.5-Audio.

    Raises CorpusError with file and line: at once for an empty line and for a last line that is
    cut off, else when the row is read.
    """

    def __init__(
        self, path: Path | str, root: Path | str | None = None, transcripts: bool = False
    ) -> None:
        self.path, self.root, self.transcripts = Path(path), root, transcripts
        if not self.path.is_file():
            raise CorpusError.at(path, "no such file", "download the manifest first")
        self._starts = _find_lines(self.path)
        if not len(self):
            raise CorpusError.at(self.path, "no rows", "download the manifest again")
        empty = np.flatnonzero(np.diff(self._starts) == 1)
        if len(empty):
            raise CorpusError.at(f"{self.path}, line {empty[0] + 1}", "empty", "remove the line")
        if not self._read_line(len(self) - 1).endswith(b"\n"):
            self._read_row(len(self) - 1, f"{self.path}, line {len(self)}")

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, i: Any) -> Any:
        """One row, or the list of a slice. Raises CorpusError."""
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        i = range(len(self))[i]
        where = f"{self.path}, line {i + 1}"
        row, sounds = self._read_row(i, where)
        if len(sounds) != 1:
            remedy = "training takes one: remove or split the row"
            raise CorpusError.at(where, f"{len(sounds)} clips in 'audios'", remedy)
        clip, text = sounds[0]["audio"], sounds[0].get("text")
        if not os.path.isfile(clip):  # false, too, for what can be no path
            remedy = "restore it, or pass root=, its folder"
            raise CorpusError.at(where, f"audio file {clip!r} is missing", remedy)
        return {**row, "clip": clip} | ({"transcripts": [text or ""]} if self.transcripts else {})

    def _read_row(self, i: int, where: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """A row and the clips of its messages, with `root` before their paths."""
        row = parse_json_row(self._read_line(i), where)
        for column, kind in AQA_COLUMNS.items():
            if column in NEEDED or column in row:
                get_field(row, column, kind, where)
        sounds = list_sounds(row["messages"], where)
        if self.root is not None:
            for sound in sounds:
                sound["audio"] = str(Path(self.root) / sound["audio"])
        return row, sounds

    def _read_line(self, i: int) -> bytes:
        with self.path.open("rb") as file:  # opened anew: processes share nothing
            file.seek(self._starts[i])
            return file.read(self._starts[i + 1] - self._starts[i])


def _find_lines(path: Path) -> Int[np.ndarray, "line"]:
    """Where every line begins and, last, where the file ends, in bytes."""
    starts, offset = [np.zeros(1, np.int64)], 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            breaks = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
            starts.append(breaks + offset + 1)
            offset += len(block)
    found = np.concatenate(starts)
    return found if found[-1] == offset else np.append(found, offset)


def list_sounds(messages: Any, where: str) -> list[dict[str, Any]]:
    """The clips of messages as they came from a file, each with `audio` and perhaps `text`.

    Raises CorpusError, which begins with `where`, for what are no messages.
    """
    found: list[dict[str, Any]] = []
    if not isinstance(messages, list):
        raise CorpusError.at(where, f"'messages' is {type(messages).__name__}", "write a list")
    for message in messages:
        about = message if isinstance(message, dict) else {}
        if not all(isinstance(about.get(name), str) for name in ("role", "content")):
            raise CorpusError.at(where, "a message lacks role or content", "give it both as texts")
        sounds = get_field(about, "audios", list, where) if about.get("audios") else []
        for sound in sounds:
            if not isinstance(sound, dict) or not isinstance(sound.get("audio"), str):
                raise CorpusError.at(where, "an entry of 'audios' lacks its 'audio' path", "add it")
            if not isinstance(sound.get("text"), str | None):
                fault = f"the 'text' of a clip is {type(sound['text']).__name__}, not str"
                raise CorpusError.at(where, fault, "correct its type")
        found += sounds
    return found
