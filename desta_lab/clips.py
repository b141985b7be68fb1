"""Clip and Corpus: a folder of audio with one JSONL manifest, validated line by line."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from desta_lab import audio

HEAD, ROWS = "corpus.json", "clips.jsonl"
SPLITS = ("train", "validation", "test")
MIN_CLIPS = 16  # clips that can be split one by one: ten to train, two to calibrate, four to test
_SLACK = 1e-3  # seconds by which a span may pass the end of its clip: rounding in manifests
_HEAD_FIELDS = {"name": str, "recipe": dict, "seed": int, "licence": str, "splits": dict}


class CorpusError(audio.DataFault):
    """A corpus that cannot be trusted; the message names the file and the line."""


@dataclass(frozen=True)
class Span:
    """Where in a clip something is heard, in seconds: `word:<w>`, `speech` or `scene:<value>`."""

    name: str
    start: float
    end: float


@dataclass(frozen=True)
class Clip:
    """One audio file with all that is known about it; `audio` is relative to the corpus."""

    id: str
    audio: str
    seconds: float
    transcript: str
    speaker: str
    attributes: dict[str, str]
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True)
class Corpus:
    """A folder of audio with `corpus.json` (all fields but the clips) and `clips.jsonl`.

    `splits` gives each split its speakers; no speaker is in two.
    """

    folder: Path
    name: str
    recipe: dict[str, Any]
    seed: int
    licence: str
    splits: dict[str, tuple[str, ...]]
    clips: tuple[Clip, ...]

    @classmethod
    def read(cls, folder: Path | str, check_audio: bool = False) -> "Corpus":
        """Read and validate a corpus. Raises CorpusError.

        With check_audio every audio file is decoded, too (about 2 ms a clip).
        """
        folder = Path(folder)
        head = _read_head(folder / HEAD)
        speakers = {speaker for names in head["splits"].values() for speaker in names}
        clips: dict[str, Clip] = {}
        for where, row in _read_rows(folder / ROWS):
            clip = _parse_clip(row, where)
            if clip.id in clips:
                fault = f"the id {clip.id!r} appears twice"
                raise CorpusError.at(where, fault, "give every clip its own id")
            if clip.speaker not in speakers:
                fault = f"speaker {clip.speaker!r} is in no split of {HEAD}"
                raise CorpusError.at(where, fault, "add it to one")
            _check_file(folder / clip.audio, clip, where, check_audio)
            clips[clip.id] = clip
        if not clips:
            raise CorpusError.at(folder / ROWS, "no clips", "build the corpus again")
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
        """Write the two manifest files beside audio that lies in the folder, and read them back."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        members = {split: sorted(speakers) for split, speakers in splits.items()}
        head = {"name": name, "recipe": dict(recipe), "seed": seed, "licence": licence}
        rows = "".join(json.dumps(asdict(clip), ensure_ascii=False) + "\n" for clip in clips)
        text = json.dumps(head | {"splits": members}, indent=1, ensure_ascii=False) + "\n"
        (folder / ROWS).write_text(rows, encoding="utf-8")
        (folder / HEAD).write_text(text, encoding="utf-8")
        return cls.read(folder)

    def split(self, name: str) -> list[Clip]:
        """The clips whose speakers belong to this split, in manifest order."""
        if name not in self.splits:
            there = ", ".join(self.splits)
            raise CorpusError(f"{self.folder}: no split {name!r}; there are {there}.")
        speakers = set(self.splits[name])
        return [clip for clip in self.clips if clip.speaker in speakers]

    def path(self, clip: Clip) -> Path:
        """Where the audio of a clip lies."""
        return self.folder / clip.audio

    @cached_property
    def hash(self) -> str:
        """The sha256 of the two manifest files: one name for exactly these clips and labels."""
        manifest = (self.folder / HEAD).read_bytes() + (self.folder / ROWS).read_bytes()
        return hashlib.sha256(manifest).hexdigest()


@dataclass(frozen=True)
class ClipSplits:
    """The clips of each split, and whether no speaker is in two of them."""

    clips: dict[str, list[Clip]]
    disjoint_speakers: bool


def balance_speakers(clips: Sequence[Clip], count: int) -> list[Clip]:
    """The first `count` clips in turns: every speaker's first, then every speaker's second, …"""
    seen: Counter[str] = Counter()
    turns = []
    for clip in clips:
        turns.append((seen[clip.speaker], clip))
        seen[clip.speaker] += 1
    return [clip for _, clip in sorted(turns, key=lambda pair: pair[0])[:count]]


def split_clips(corpus: Corpus) -> ClipSplits:
    """The clips to train with, to calibrate with (validation) and to test with.

    The corpus's own splits are taken if all three have clips and the test has two speakers. Else
    the clips are split, 5 : 1 : 2 in the order of a hash, and each counts as a speaker: what is
    then measured says nothing about other voices. Raises CorpusError if the clips are too few.
    """
    own = {split: corpus.split(split) if split in corpus.splits else [] for split in SPLITS}
    if all(own.values()) and len({clip.speaker for clip in own["test"]}) > 1:
        return ClipSplits(own, disjoint_speakers=True)
    count = len(corpus.clips)
    if count < MIN_CLIPS:
        speakers = len({clip.speaker for clip in corpus.clips})
        raise CorpusError.at(
            corpus.folder,
            f"{count} clips of {speakers} speakers",
            f"record at least {MIN_CLIPS} to train, calibrate and test with, better of four "
            "speakers or more",
        )
    order = sorted(corpus.clips, key=lambda clip: hashlib.sha256(clip.id.encode()).hexdigest())
    alone = [replace(clip, speaker=clip.id) for clip in order]
    test, calibration = count // 4, count // 4 + count // 8
    parts = alone[calibration:], alone[test:calibration], alone[:test]
    return ClipSplits(dict(zip(SPLITS, parts, strict=True)), disjoint_speakers=False)


def parse_json_row(text: str, where: str) -> dict[str, Any]:
    """One JSON object of a manifest. Raises CorpusError, which begins with `where`."""
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        fault = f"not JSON ({error.msg}, column {error.colno})"
        raise CorpusError.at(where, fault, "repair or remove it") from error
    if not isinstance(row, dict):
        fault = f"a JSON object is needed, not {type(row).__name__}"
        raise CorpusError.at(where, fault, "write it in braces")
    return row


def _read_head(path: Path) -> dict[str, Any]:
    _check_manifest(path)
    where = str(path)
    row = parse_json_row(path.read_text(encoding="utf-8"), where)
    head = {field: _get_field(row, field, kind, where) for field, kind in _HEAD_FIELDS.items()}
    split_of: dict[str, str] = {}
    for split, speakers in head["splits"].items():
        if not isinstance(speakers, list) or not all(isinstance(name, str) for name in speakers):
            fault = f"split {split!r} must be a list of speaker names"
            raise CorpusError.at(where, fault, "correct it")
        for speaker in speakers:
            if speaker in split_of:
                fault = f"speaker {speaker!r} is in {split_of[speaker]!r} and {split!r}"
                raise CorpusError.at(where, fault, "keep each speaker in one split")
            split_of[speaker] = split
    return head | {"splits": {split: tuple(names) for split, names in head["splits"].items()}}


def _read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    _check_manifest(path)
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{path}, line {number}"
            yield where, parse_json_row(line, where)


def _check_manifest(path: Path) -> None:
    if not path.is_file():
        remedy = f"a corpus is a folder with {HEAD} and {ROWS}: build one first"
        raise CorpusError.at(path, "no such file", remedy)


def _get_field(row: Mapping[str, Any], field: str, kind: type, where: str) -> Any:
    """One field of a row, of the right type; where a float is wanted, an int will do."""
    if field not in row:
        raise CorpusError.at(where, f"the field {field!r} is missing", "add it")
    value = row[field]
    kinds = (int, float) if kind is float else (kind,)
    if not isinstance(value, kinds) or isinstance(value, bool):
        fault = f"{field!r} is {type(value).__name__}, not {kind.__name__}"
        raise CorpusError.at(where, fault, "correct its type")
    return float(row[field]) if kind is float else row[field]


def _parse_clip(row: dict[str, Any], where: str) -> Clip:
    names = ("id", "audio", "transcript", "speaker")
    texts = {field: _get_field(row, field, str, where) for field in names}
    seconds = _get_field(row, "seconds", float, where)
    if not 0 < seconds < float("inf"):
        remedy = "state the length of the audio in seconds"
        raise CorpusError.at(where, f"'seconds' is {row['seconds']}", remedy)
    attributes = _get_field(row, "attributes", dict, where)
    for name, value in attributes.items():
        if not isinstance(value, str):
            fault = f"attribute {name!r} is {type(value).__name__}, not str"
            raise CorpusError.at(where, fault, "put it in quotes")
    path = PurePosixPath(texts["audio"])
    if path.is_absolute() or ".." in path.parts:
        fault = f"audio {texts['audio']!r} leaves the folder"
        raise CorpusError.at(where, fault, "use a path relative to the corpus")
    spans = [_parse_span(span, seconds, where) for span in _get_field(row, "spans", list, where)]
    return Clip(**texts, seconds=seconds, attributes=attributes, spans=tuple(spans))


def _parse_span(row: Any, seconds: float, where: str) -> Span:
    if not isinstance(row, dict):
        fault = f"a span is {type(row).__name__}, not name, start and end"
        raise CorpusError.at(where, fault, "correct it")
    name = _get_field(row, "name", str, where)
    start, end = (_get_field(row, edge, float, where) for edge in ("start", "end"))
    if not 0 <= start <= end <= seconds + _SLACK:
        fault = f"span {name!r} ({start} … {end} s) is not inside 0 … {seconds} s"
        raise CorpusError.at(where, fault, "correct it")
    return Span(name, start, end)


def _check_file(path: Path, clip: Clip, where: str, check_audio: bool) -> None:
    if not path.is_file():
        fault = f"audio file {clip.audio!r} is missing"
        raise CorpusError.at(where, fault, "restore it or remove the line")
    if not check_audio:
        return
    try:
        wave = audio.read_audio(path, max_seconds=max(audio.WHISPER_SECONDS, clip.seconds + 1))
    except audio.AudioError as error:
        raise CorpusError(f"{where}: {error}") from error
    seconds = len(wave) / audio.RATE
    if abs(seconds - clip.seconds) > 1 / audio.FRAMES_PER_SECOND:
        fault = f"{seconds:.2f} s long but the manifest says {clip.seconds:.2f} s"
        raise CorpusError.at(f"{where}: {path}", fault, "correct one of them")
