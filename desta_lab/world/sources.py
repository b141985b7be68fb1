"""Other people's data: a folder with a CSV becomes a corpus; DeSTA-AQA5M manifests stream row by row."""

import csv
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from desta_lab import audio
from desta_lab.clips import Clip, Corpus, CorpusError, parse_row

AQA_COLUMNS = {"id": str, "dataset": str, "seed_description": str, "prompt": str, "response": str, "messages": list}
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}  # of the speakers, where a table names no split
_OWN_COLUMNS = ("audio", "speaker", "transcript", "split")


def from_folder(
    folder: Path | str,
    table: str = "clips.csv",
    *,
    name: str | None = None,
    licence: str = "unknown",
    max_seconds: float = audio.WHISPER_SECONDS,
) -> Corpus:
    """Make a corpus of a folder of audio and a CSV in it, writing the two manifest files beside them.

    The CSV has the columns `audio` (path in the folder) and `speaker`, may have `transcript` and `split`; every other
    column is an attribute, left out where its cell is empty. Without `split`, speakers are dealt 80 : 10 : 10.
    """
    folder = Path(folder)
    clips: list[Clip] = []
    split_of: dict[str, str] = {}
    for where, row in _table(folder / table):
        clips.append(_clip(folder, row, where, max_seconds))
        split = row.get("split") or _deal(row["speaker"])
        if split_of.setdefault(row["speaker"], split) != split:
            before = split_of[row["speaker"]]
            raise CorpusError(f"{where}: speaker {row['speaker']!r} is in {before!r} and {split!r}; keep one split.")
    splits: dict[str, list[str]] = {}
    for speaker, split in split_of.items():
        splits.setdefault(split, []).append(speaker)
    recipe = {"source": "folder", "table": table, "sha256": hashlib.sha256((folder / table).read_bytes()).hexdigest()}
    return Corpus.write(folder, clips, name=name or folder.name, recipe=recipe, seed=0, licence=licence, splits=splits)


def _table(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    if not path.is_file():
        raise CorpusError(f"{path}: no such file; write a CSV with the columns audio and speaker.")
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        missing = {"audio", "speaker"} - set(reader.fieldnames or ())
        if missing:
            raise CorpusError(f"{path}, line 1: no column {', '.join(sorted(missing))}; add it to the header.")
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                raise CorpusError(f"{where}: more or fewer cells than the header has columns; correct the row.")
            if not row["speaker"]:
                raise CorpusError(f"{where}: the speaker is empty; name one, splits are disjoint by speaker.")
            yield where, row


def _clip(folder: Path, row: Mapping[str, str], where: str, max_seconds: float) -> Clip:
    try:
        seconds = audio.header(folder / row["audio"], max_seconds).seconds
    except audio.AudioError as error:
        raise CorpusError(f"{where}: {error}") from error
    attributes = {column: value for column, value in row.items() if column not in _OWN_COLUMNS and value}
    identity = Path(row["audio"]).with_suffix("").as_posix()
    return Clip(identity, row["audio"], seconds, row.get("transcript", ""), row["speaker"], attributes)


def _deal(speaker: str) -> str:
    """A split for a speaker by the hash of the name, so that adding speakers moves nobody."""
    place = int(hashlib.sha256(speaker.encode()).hexdigest()[:8], 16) / 2**32
    for split, share in SHARES.items():
        place -= share
        if place < 0:
            return split
    return split


def stream_manifest(path: Path | str, root: Path | str | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a DeSTA-AQA5M style JSONL file one at a time, so that millions fit in no memory at all.

    Every row has at least `id`, `messages` and `response`; the other columns, where present, have their type. With
    `root`, each relative audio path in the messages is completed by it. Raises CorpusError with file and line.
    """
    path = Path(path)
    if not path.is_file():
        raise CorpusError(f"{path}: no such file; download the manifest first.")
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _manifest_row(line, f"{path}, line {number}", root)


def _manifest_row(line: str, where: str, root: Path | str | None) -> dict[str, Any]:
    row = parse_row(line, where)
    for column, kind in AQA_COLUMNS.items():
        if column not in row and column in ("id", "messages", "response"):
            raise CorpusError(f"{where}: the field {column!r} is missing; add it.")
        if column in row and not isinstance(row[column], kind):
            found = type(row[column]).__name__
            raise CorpusError(f"{where}: {column!r} is {found}, not {kind.__name__}; correct its type.")
    for message in row["messages"]:
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise CorpusError(f"{where}: a message lacks role or content; give it both.")
        for sound in message.get("audios") or ():
            if not isinstance(sound, dict) or not isinstance(sound.get("audio"), str):
                raise CorpusError(f"{where}: an entry of 'audios' lacks its 'audio' path; add it.")
            if root is not None:
                sound["audio"] = str(Path(root) / sound["audio"])
    return row
