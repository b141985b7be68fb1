"""Clip and Corpus: a folder of audio with one JSONL manifest, validated line by line."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from desta_lab import audio

HEAD, ROWS = "corpus.json", "clips.jsonl"
SPLITS = ("train", "validation", "test")
MIN_CLIPS = 16  # clips that can be parted one by one: ten to train, two to calibrate, four to test
_SLACK = 1e-3  # seconds by which a span may pass the end of its clip: rounding in manifests


class CorpusError(ValueError):
    """A corpus that cannot be trusted; the message names file, line, fault and remedy."""


@dataclass(frozen=True)
class Span:
    """Where in a clip something is heard, in seconds: `word:<w>`, `speech` or `scene:<value>`."""

    name: str
    start: float
    end: float


@dataclass(frozen=True)
class Clip:
    """One audio file with all that is known about it; `audio` is relative to the folder of its corpus."""

    id: str
    audio: str
    seconds: float
    transcript: str
    speaker: str
    attributes: dict[str, str]
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True)
class Corpus:
    """A folder with `corpus.json` (name, recipe, seed, licence, splits) and `clips.jsonl` (one clip a line)."""

    folder: Path
    name: str
    recipe: dict[str, Any]
    seed: int
    licence: str
    splits: dict[str, tuple[str, ...]]
    clips: tuple[Clip, ...]

    @classmethod
    def read(cls, folder: Path | str, check_audio: bool = False) -> "Corpus":
        """Read and validate a corpus; with check_audio every file is heard (about 2 ms a clip). Raises CorpusError."""
        folder = Path(folder)
        head = _read_head(folder / HEAD)
        speakers = {speaker for names in head["splits"].values() for speaker in names}
        clips: dict[str, Clip] = {}
        for where, row in _rows(folder / ROWS):
            clip = _clip(row, where)
            if clip.id in clips:
                raise CorpusError(
                    f"{where}: the id {clip.id!r} appears twice; give every clip its own id."
                )
            if clip.speaker not in speakers:
                raise CorpusError(
                    f"{where}: speaker {clip.speaker!r} is in no split of {HEAD}; add it to one."
                )
            _check_file(folder / clip.audio, clip, where, check_audio)
            clips[clip.id] = clip
        if not clips:
            raise CorpusError(f"{folder / ROWS}: no clips; build the corpus again.")
        return cls(folder=folder, clips=tuple(clips.values()), **head)

    @classmethod
    def write(
        cls,
        folder: Path | str,
        clips: Iterable[Clip],
        *,
        name: str,
        recipe: Mapping[str, Any],
        seed: int,
        licence: str,
        splits: Mapping[str, Iterable[str]],
    ) -> "Corpus":
        """Write both manifest files beside audio that already lies in the folder, and read them back, validated."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        members = {split: sorted(speakers) for split, speakers in splits.items()}
        head = {
            "name": name,
            "recipe": dict(recipe),
            "seed": seed,
            "licence": licence,
            "splits": members,
        }
        rows = "".join(json.dumps(asdict(clip), ensure_ascii=False) + "\n" for clip in clips)
        (folder / ROWS).write_text(rows, encoding="utf-8")
        (folder / HEAD).write_text(
            json.dumps(head, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        return cls.read(folder)

    def split(self, name: str) -> list[Clip]:
        """The clips whose speakers belong to this split, in manifest order."""
        if name not in self.splits:
            raise CorpusError(
                f"{self.folder}: no split {name!r}; there are {', '.join(self.splits)}."
            )
        speakers = set(self.splits[name])
        return [clip for clip in self.clips if clip.speaker in speakers]

    def path(self, clip: Clip) -> Path:
        """Where the audio of a clip lies."""
        return self.folder / clip.audio

    @cached_property
    def hash(self) -> str:
        """The sha256 of the two manifest files: one name for exactly these clips and labels."""
        return hashlib.sha256(
            (self.folder / HEAD).read_bytes() + (self.folder / ROWS).read_bytes()
        ).hexdigest()


def balance_speakers(clips: Sequence[Clip], count: int) -> list[Clip]:
    """So many clips, as many of each speaker as of any other: first everybody's first, then everybody's second, …"""
    said: Counter[str] = Counter()
    turns = []
    for clip in clips:
        turns.append(said[clip.speaker])
        said[clip.speaker] += 1
    return [
        clip for _, clip in sorted(zip(turns, clips, strict=True), key=lambda pair: pair[0])[:count]
    ]


def split_clips(corpus: Corpus) -> tuple[dict[str, list[Clip]], bool]:
    """The clips to train with, to calibrate with (validation) and to test with; and whether their voices are apart.

    Where train, validation and test have no speakers of their own, two in test, the clips themselves are parted, 5 : 1
    : 2 in the order of a hash, and each counts as a speaker: what is then measured says nothing about other voices.
    Raises CorpusError where even that is too few.
    """
    own = {split: corpus.split(split) if split in corpus.splits else [] for split in SPLITS}
    if all(own.values()) and len({clip.speaker for clip in own["test"]}) > 1:
        return own, True
    if len(corpus.clips) < MIN_CLIPS:
        raise CorpusError(
            f"{corpus.folder}: {len(corpus.clips)} clips of {len({c.speaker for c in corpus.clips})} speakers; record "
            f"at least {MIN_CLIPS} to train, calibrate and test with, better of four speakers or more."
        )
    order = sorted(corpus.clips, key=lambda clip: hashlib.sha256(clip.id.encode()).hexdigest())
    alone = [replace(clip, speaker=clip.id) for clip in order]
    test, held_out = len(order) // 4, len(order) // 8
    return {
        "train": alone[test + held_out :],
        "validation": alone[test : test + held_out],
        "test": alone[:test],
    }, False


def _read_head(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CorpusError(
            f"{path}: no such file; a corpus is a folder with {HEAD} and {ROWS}: build one first."
        )
    head = parse_json_row(path.read_text(encoding="utf-8"), str(path))
    for field, kind in {
        "name": str,
        "recipe": dict,
        "seed": int,
        "licence": str,
        "splits": dict,
    }.items():
        _need(head, field, kind, str(path))
    owner: dict[str, str] = {}
    for split, speakers in head["splits"].items():
        if not isinstance(speakers, list) or not all(
            isinstance(speaker, str) for speaker in speakers
        ):
            raise CorpusError(
                f"{path}: split {split!r} must be a list of speaker names; correct it."
            )
        for speaker in speakers:
            if speaker in owner:
                both = f"{owner[speaker]!r} and {split!r}"
                raise CorpusError(
                    f"{path}: speaker {speaker!r} is in {both}; keep each speaker in one split."
                )
            owner[speaker] = split
    splits = {split: tuple(speakers) for split, speakers in head["splits"].items()}
    return {field: head[field] for field in ("name", "recipe", "seed", "licence")} | {
        "splits": splits
    }


def _rows(path: Path) -> Iterable[tuple[str, dict[str, Any]]]:
    if not path.is_file():
        raise CorpusError(
            f"{path}: no such file; a corpus is a folder with {HEAD} and {ROWS}: build one first."
        )
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{path}, line {number}"
            yield where, parse_json_row(line, where)


def parse_json_row(text: str, where: str) -> dict[str, Any]:
    """One JSON object of a manifest; raises CorpusError that begins with `where`."""
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise CorpusError(
            f"{where}: not JSON ({error.msg}, column {error.colno}); repair or remove it."
        ) from error
    if not isinstance(row, dict):
        raise CorpusError(
            f"{where}: a JSON object is needed, not {type(row).__name__}; write it in braces."
        )
    return row


def _need(row: Mapping[str, Any], field: str, kind: type | tuple[type, ...], where: str) -> Any:
    """One field of one row, of the right type."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if field not in row:
        raise CorpusError(f"{where}: the field {field!r} is missing; add it.")
    if not isinstance(row[field], kinds) or isinstance(row[field], bool):
        wanted, found = kinds[-1].__name__, type(row[field]).__name__
        raise CorpusError(f"{where}: {field!r} is {found}, not {wanted}; correct its type.")
    return row[field]


def _clip(row: dict[str, Any], where: str) -> Clip:
    text = {
        field: _need(row, field, str, where) for field in ("id", "audio", "transcript", "speaker")
    }
    seconds = float(_need(row, "seconds", (int, float), where))
    if not 0 < seconds < float("inf"):
        raise CorpusError(
            f"{where}: 'seconds' is {seconds}; state the length of the audio in seconds."
        )
    attributes = _need(row, "attributes", dict, where)
    for name, value in attributes.items():
        if not isinstance(value, str):
            raise CorpusError(
                f"{where}: attribute {name!r} is {type(value).__name__}, not str; put it in quotes."
            )
    if PurePosixPath(text["audio"]).is_absolute() or ".." in PurePosixPath(text["audio"]).parts:
        raise CorpusError(
            f"{where}: audio {text['audio']!r} leaves the folder; use a path relative to the corpus."
        )
    spans = tuple(_span(span, seconds, where) for span in _need(row, "spans", list, where))
    return Clip(**text, seconds=seconds, attributes=attributes, spans=spans)


def _span(row: Any, seconds: float, where: str) -> Span:
    if not isinstance(row, dict):
        raise CorpusError(
            f"{where}: a span is {type(row).__name__}, not name, start and end; correct it."
        )
    name = _need(row, "name", str, where)
    start, end = (float(_need(row, edge, (int, float), where)) for edge in ("start", "end"))
    if not 0 <= start <= end <= seconds + _SLACK:
        raise CorpusError(
            f"{where}: span {name!r} ({start} … {end} s) is not inside 0 … {seconds} s; correct it."
        )
    return Span(name, start, end)


def _check_file(path: Path, clip: Clip, where: str, listen: bool) -> None:
    if not path.is_file():
        raise CorpusError(
            f"{where}: audio file {clip.audio!r} is missing; restore it or remove the line."
        )
    if listen:
        try:
            audio.check_audio(
                path, clip.seconds, max_seconds=max(audio.WHISPER_SECONDS, clip.seconds + 1)
            )
        except audio.AudioError as error:
            raise CorpusError(f"{where}: {error}") from error
