"""Other people's audio: the rows of a table become a corpus, and a folder with a CSV is one."""

import csv
import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from desta_lab import audio
from desta_lab.clips import Clip, Corpus, CorpusError

SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}  # of speakers, where no split is given
LEAST = {"train": 1, "validation": 1, "test": 2}  # speakers needed to train, calibrate, compare
_OWN_COLUMNS = ("audio", "speaker", "transcript", "split")


@dataclass(frozen=True)
class Row:
    """One clip as its source has it.

    `where` is the file and line for error messages; `unfit` is why the clip is left out, if it is.
    """

    where: str
    audio: str
    speaker: str
    transcript: str = ""
    split: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    unfit: str = ""


def build_corpus(
    folder: Path | str,
    rows: Iterable[Row],
    *,
    name: str,
    recipe: Mapping[str, Any],
    licence: str,
    own_splits: bool = True,
    max_seconds: float = audio.WHISPER_SECONDS,
    leave_out_long: bool = False,
) -> Corpus:
    """Write the two manifest files of a corpus beside its audio, from the rows of some source.

    Speakers without a split, or all of them with own_splits=False, are dealt 80 : 10 : 10; if no
    row gives a split, four speakers or more always fill all three. An attribute with an empty
    value is left out. With leave_out_long, clips beyond max_seconds are left out instead of
    refused; `left_out` in the corpus's recipe counts them by reason. Raises CorpusError.
    """
    folder = Path(folder)
    limit = math.inf if leave_out_long else max_seconds
    clips: list[Clip] = []
    split_of: dict[str, str] = {}
    given = False
    left_out: Counter[str] = Counter()
    for row in rows:
        if not row.speaker:
            remedy = "name one, splits are disjoint by speaker"
            raise CorpusError.at(row.where, "the speaker is empty", remedy)
        seconds = 0.0 if row.unfit else _measure_seconds(folder / row.audio, row.where, limit)
        reason = row.unfit or (f"longer than {max_seconds:g} s" if seconds > max_seconds else "")
        if reason:
            left_out[reason] += 1
            continue
        clips.append(_make_clip(row, seconds))
        given |= own_splits and bool(row.split)
        _assign_split(split_of, row, (row.split if own_splits else "") or deal_speaker(row.speaker))
    if not clips:
        fault = f"no clips, and {left_out.total()} left out"
        raise CorpusError.at(folder, fault, "check that this is the right folder")
    speakers: dict[str, list[str]] = {}
    for speaker, split in (split_of if given else _fill_splits(split_of)).items():
        speakers.setdefault(split, []).append(speaker)
    recipe = {**recipe, "left_out": dict(left_out)} if left_out else recipe
    return Corpus.write(
        folder, clips, name=name, recipe=recipe, seed=0, licence=licence, splits=speakers
    )


def _measure_seconds(path: Path, where: str, max_seconds: float) -> float:
    try:
        return audio.read_header(path, max_seconds).seconds
    except audio.AudioError as error:
        raise CorpusError(f"{error}" if where == str(path) else f"{where}: {error}") from error


def _make_clip(row: Row, seconds: float) -> Clip:
    name = Path(row.audio).with_suffix("").as_posix()
    attributes = {attribute: value for attribute, value in row.attributes.items() if value}
    return Clip(name, row.audio, seconds, row.transcript, row.speaker, attributes)


def _assign_split(split_of: dict[str, str], row: Row, split: str) -> None:
    before = split_of.setdefault(row.speaker, split)
    if before != split:
        fault = f"speaker {row.speaker!r} is in {before!r} and {split!r}"
        raise CorpusError.at(row.where, fault, "keep one split")


def deal_speaker(speaker: str) -> str:
    """The split of a speaker by the hash of the name, so that adding speakers moves nobody."""
    place = _hash_place(speaker)
    for split, share in SHARES.items():
        place -= share
        if place < 0:
            return split
    return split


def _hash_place(speaker: str) -> float:
    """A place in 0 … 1 by the hash of the name."""
    return int(hashlib.sha256(speaker.encode()).hexdigest()[:8], 16) / 2**32


def _fill_splits(split_of: dict[str, str]) -> dict[str, str]:
    """The same splits if each has enough speakers, else new ones in the order of the same hash."""
    counts = Counter(split_of.values())
    enough = all(counts[split] >= least for split, least in LEAST.items())
    if enough or len(split_of) < sum(LEAST.values()):
        return split_of
    order = sorted(split_of, key=_hash_place, reverse=True)
    first = ["test"] * LEAST["test"] + ["validation"] * LEAST["validation"]
    return dict(zip(order, first + ["train"] * (len(order) - len(first)), strict=True))


def open_corpus(folder: Path | str) -> Corpus:
    """The corpus of a folder: made anew from its `clips.csv` if there is one, else as written."""
    folder = Path(folder)
    return corpus_from_folder(folder) if (folder / "clips.csv").is_file() else Corpus.read(folder)


def corpus_from_folder(
    folder: Path | str,
    table: str = "clips.csv",
    *,
    name: str | None = None,
    licence: str = "unknown",
    max_seconds: float = audio.WHISPER_SECONDS,
) -> Corpus:
    """Make a corpus of a folder of audio and a CSV in it, writing the two manifest files there.

    The CSV has the columns `audio` (path in the folder) and `speaker`, and may have `transcript`
    and `split`; every other column is an attribute, left out where its cell is empty. Without
    `split`, speakers are dealt 80 : 10 : 10. Raises CorpusError with file and line.
    """
    folder = Path(folder)
    rows = [
        Row(
            where,
            row["audio"],
            row["speaker"],
            row.get("transcript", ""),
            row.get("split", ""),
            {column: value for column, value in row.items() if column not in _OWN_COLUMNS},
        )
        for where, row in read_table(folder / table, ("audio", "speaker"))
    ]
    sha256 = hashlib.sha256((folder / table).read_bytes()).hexdigest()
    return build_corpus(
        folder,
        rows,
        name=name or folder.name,
        recipe={"source": "folder", "table": table, "sha256": sha256},
        licence=licence,
        max_seconds=max_seconds,
    )


def read_table(
    path: Path, needed: Iterable[str], tabs: bool = False
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the rows of a CSV, or of a TSV without quoting, each with its file and line.

    Raises CorpusError.
    """
    if not path.is_file():
        remedy = f"it is a table with the columns {', '.join(needed)}: put it there"
        raise CorpusError.at(path, "no such file", remedy)
    options: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tabs else {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, **options)
        missing = sorted(set(needed) - set(reader.fieldnames or ()))
        if missing:
            fault = f"no column {', '.join(missing)}"
            raise CorpusError.at(f"{path}, line 1", fault, "add it to the header")
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                fault = "more or fewer cells than the header has columns"
                raise CorpusError.at(where, fault, "correct the row")
            yield where, row
