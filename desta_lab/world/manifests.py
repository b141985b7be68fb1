"""DeSTA-AQA5M manifests: JSONL files of training examples, read a row at a time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from desta_lab.clips import CorpusError, parse_json_row

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
            self._read_row(len(self) - 1)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, i: Any) -> Any:
        """One row, or the list of a slice. Raises CorpusError."""
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        i = range(len(self))[i]
        row, where = self._read_row(i), f"{self.path}, line {i + 1}"
        sounds = list_sounds(row["messages"], where)
        if len(sounds) != 1:
            fault = f"{len(sounds)} clips in 'audios'; training takes one: remove or split the row"
            raise CorpusError(f"{where}: {fault}.")
        clip, text = sounds[0]["audio"], sounds[0].get("text")
        if not Path(clip).is_file():
            fault = f"audio file {clip!r} is missing; restore it, or pass root=, its folder"
            raise CorpusError(f"{where}: {fault}.")
        return {**row, "clip": clip} | ({"transcripts": [text or ""]} if self.transcripts else {})

    def _read_row(self, i: int) -> dict[str, Any]:
        where = f"{self.path}, line {i + 1}"
        try:
            line = self._read_line(i).decode()
        except UnicodeDecodeError as error:
            raise CorpusError.at(
                where, f"not UTF-8 ({error.reason})", "repair or remove it"
            ) from error
        return _parse_row(line, where, self.root)

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


def _parse_row(line: str, where: str, root: Path | str | None) -> dict[str, Any]:
    row = parse_json_row(line, where)
    for column, kind in AQA_COLUMNS.items():
        if column in NEEDED and column not in row:
            raise CorpusError.at(where, f"the field {column!r} is missing", "add it")
        if column in row and not isinstance(row[column], kind):
            fault = f"{column!r} is {type(row[column]).__name__}, not {kind.__name__}"
            raise CorpusError.at(where, fault, "correct its type")
    for sound in list_sounds(row["messages"], where):
        if root is not None:
            sound["audio"] = str(Path(root) / sound["audio"])
    return row


def list_sounds(messages: Any, where: str) -> list[dict[str, Any]]:
    """The clips of messages as they came from a file, each with `audio` and perhaps `text`.

    Raises CorpusError, which begins with `where`, for what are no messages.
    """
    found: list[dict[str, Any]] = []
    if not isinstance(messages, list):
        raise CorpusError.at(where, f"'messages' is {type(messages).__name__}", "write a list")
    for message in messages:
        texts = (
            [message.get(name) for name in ("role", "content")]
            if isinstance(message, dict)
            else [None]
        )
        if not all(isinstance(text, str) for text in texts):
            raise CorpusError.at(where, "a message lacks role or content", "give it both as texts")
        sounds = message.get("audios") or []
        if not isinstance(sounds, list):
            fault = f"'audios' is {type(sounds).__name__}, not list"
            raise CorpusError.at(where, fault, "correct its type")
        for sound in sounds:
            if not isinstance(sound, dict) or not isinstance(sound.get("audio"), str):
                fault = "an entry of 'audios' lacks its 'audio' path"
                raise CorpusError.at(where, fault, "add it")
            if not isinstance(sound.get("text"), str | None):
                fault = f"the 'text' of a clip is {type(sound['text']).__name__}, not str"
                raise CorpusError.at(where, fault, "correct its type")
        found += sounds
    return found
