"""Clip and Corpus: a folder of audio with one JSONL manifest, validated line by line."""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from desta_lab import audio, cache

HEAD, ROWS = "corpus.json", "clips.jsonl"
SPLITS = ("train", "validation", "test")
SPLIT_NAMES = {
    "train": "train training",
    "validation": "validation valid val dev development eval evaluation",
    "test": "test testing",
}
_SPLIT_OF = {word: split for split, words in SPLIT_NAMES.items() for word in words.split()}
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}  # of speakers, where no split is given
LEAST = {"train": 1, "validation": 1, "test": 2}  # speakers needed to train, calibrate, compare
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
    """A folder of audio with `corpus.json` (all fields, and the count of clips) and `clips.jsonl`.

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
        files = [Path(folder) / HEAD, Path(folder) / ROWS]
        for path in files:
            if not path.is_file():
                remedy = f"a corpus is a folder with {HEAD} and {ROWS}: build one first"
                raise CorpusError.at(path, "no such file", remedy)
        head, rows = (path.read_bytes() for path in files)
        return _parse_corpus(Path(folder), head, rows, check_audio)

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
        save: bool = True,
    ) -> "Corpus":
        """Write the two manifest files beside audio that lies in the folder.

        They are validated first, each is written whole, and only if it changes. Where the folder
        cannot be written, or with save=False, the corpus is good all the same. Raises CorpusError.
        """
        folder = Path(folder)
        members = {split: sorted(speakers) for split, speakers in splits.items()}
        head = {"name": name, "recipe": dict(recipe), "seed": seed, "licence": licence}
        corpus = _parse_corpus(folder, _dump_head(head | {"splits": members}), _dump_clips(clips))
        text, rows = corpus._manifest
        files = {ROWS: rows, HEAD: _dump_head(json.loads(text) | {"count": len(corpus.clips)})}
        for file, content in files.items():
            path = folder / file
            if save and not (path.is_file() and path.read_bytes() == content):
                cache.write_where_allowed(path, content)
        return corpus

    def split(self, name: str) -> list[Clip]:
        """The clips whose speakers belong to this split, in manifest order."""
        own = _SPLIT_OF.get(name, name)
        if own not in self.splits:
            there = ", ".join(self.splits)
            raise CorpusError(f"{self.folder}: no split {name!r}; there are {there}.")
        speakers = set(self.splits[own])
        return [clip for clip in self.clips if clip.speaker in speakers]

    def path(self, clip: Clip) -> Path:
        """Where the audio of a clip lies."""
        return self.folder / clip.audio

    @cached_property
    def hash(self) -> str:
        """One sha256 over all fields and clips: one name for exactly these clips and labels."""
        return hashlib.sha256(b"".join(self._manifest)).hexdigest()

    @property
    def _manifest(self) -> tuple[bytes, bytes]:
        """The two files as `write` writes them, but for the count of clips, which is younger."""
        fields = ("name", "recipe", "seed", "licence", "splits")
        return _dump_head({name: getattr(self, name) for name in fields}), _dump_clips(self.clips)


def _dump_head(head: Mapping[str, Any]) -> bytes:
    return (json.dumps(head, indent=1, ensure_ascii=False) + "\n").encode()


def _dump_clips(clips: Iterable[Clip]) -> bytes:
    return "".join(json.dumps(asdict(clip), ensure_ascii=False) + "\n" for clip in clips).encode()


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
        turns.append(seen[clip.speaker])
        seen[clip.speaker] += 1
    return [clips[i] for i in sorted(range(len(clips)), key=turns.__getitem__)[:count]]


def split_clips(corpus: Corpus) -> ClipSplits:
    """The clips to train with, to calibrate with (validation) and to test with.

    The corpus's own splits are kept, and one that it lacks is dealt from the speakers of the
    training clips. Where no test is given and there are fewer than four speakers, the clips are
    split, 5 : 1 : 2 in the order of a hash, and each counts as a speaker: what is then measured
    says nothing about other voices. Raises CorpusError if clips or speakers are too few.
    """
    speakers = _complete_splits(corpus)
    if speakers is not None:
        own = {
            split: [clip for clip in corpus.clips if clip.speaker in speakers[split]]
            for split in SPLITS
        }
        return ClipSplits(own, disjoint_speakers=True)
    count = len(corpus.clips)
    if count < MIN_CLIPS:
        found = f"{count} clips of {len({clip.speaker for clip in corpus.clips})} speakers"
        remedy = f"record at least {MIN_CLIPS} to train, calibrate and test with"
        raise CorpusError.at(corpus.folder, found, f"{remedy}, better of four speakers or more")
    order = sorted(corpus.clips, key=lambda clip: hashlib.sha256(clip.id.encode()).hexdigest())
    alone = [replace(clip, speaker=clip.id) for clip in order]
    test, calibration = count // 4, count // 4 + count // 8
    parts = alone[calibration:], alone[test:calibration], alone[:test]
    return ClipSplits(dict(zip(SPLITS, parts, strict=True)), disjoint_speakers=False)


def _complete_splits(corpus: Corpus) -> dict[str, set[str]] | None:
    """The speakers of all three splits; None if there are too few and no test is given."""
    heard = {clip.speaker for clip in corpus.clips}
    speakers = {split: heard & set(corpus.splits.get(split, ())) for split in SPLITS}
    told = bool(speakers["test"])
    for split in ("test", "validation"):
        if not speakers[split]:
            pool = sorted(speakers["train"], key=place_speaker, reverse=True)
            count = max(LEAST[split], round(SHARES[split] * len(pool)))
            speakers[split] = set(pool[:count])
            speakers["train"] -= speakers[split]
    for split, least in LEAST.items():
        if (count := len(speakers[split])) < least:
            if not told:
                return None
            remedy = f"{least} are needed: move some there, or give no splits"
            raise CorpusError.at(corpus.folder, f"split {split!r} has {count} speakers", remedy)
    return speakers


def place_speaker(speaker: str) -> float:
    """A place in 0 … 1 by the hash of the name."""
    return int(hashlib.sha256(speaker.encode()).hexdigest()[:8], 16) / 2**32


def normalise_split(name: str, where: Path | str) -> str:
    """A split by its own name: validation for `dev`, train for `train.clean.100`.

    Raises CorpusError with the names that are known, also for a name of two splits, as `train-dev`.
    """
    (word,) = re.findall(r"^[a-z]*", name.strip().lower())
    split = _SPLIT_OF.get(word)
    known = ", ".join(_SPLIT_OF)
    if split is None:
        raise CorpusError.at(where, f"unknown split {name!r}", f"the names known are {known}")
    if {_SPLIT_OF.get(word, split) for word in re.findall(r"[a-z]+", name.lower())} != {split}:
        raise CorpusError.at(where, f"{name!r} names two splits", f"choose one of {known}")
    return split


def parse_json_row(line: bytes, where: str) -> dict[str, Any]:
    """One JSON object of a manifest, in UTF-8. Raises CorpusError, which begins with `where`."""
    try:
        text = line.decode()
        row = json.loads(text, object_pairs_hook=unique_keys)
        if "\\u" in text:
            json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair is no character
    except json.JSONDecodeError as error:
        fault = f"not JSON ({error.msg}, column {error.colno})"
        raise CorpusError.at(where, fault, "repair or remove it") from error
    except UnicodeError as error:
        raise CorpusError.at(where, f"not UTF-8 ({error})", "save it as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise CorpusError.at(where, f"not JSON ({error})", "repair or remove it") from error
    if not isinstance(row, dict):
        fault = f"a JSON object is needed, not {type(row).__name__}"
        raise CorpusError.at(where, fault, "write it in braces")
    return row


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object of its pairs, for `object_pairs_hook`; raises ValueError for a key twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        repeated = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        raise ValueError(f"{', '.join(repeated[:3])} stands twice in one object")
    return found


def _parse_corpus(
    folder: Path, head_text: bytes, rows_text: bytes, check_audio: bool = False
) -> Corpus:
    head = _parse_head(head_text, str(folder / HEAD))
    count = head.pop("count")
    speakers = {speaker for names in head["splits"].values() for speaker in names}
    clips: dict[str, Clip] = {}
    lines = rows_text.removesuffix(b"\n").split(b"\n") if rows_text else []
    for number, line in enumerate(lines, start=1):
        where = f"{folder / ROWS}, line {number}"
        clip = parse_clip(parse_json_row(line, where), where)
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
    if count not in (None, len(clips)):
        fault = f"{len(clips)} clips, and {HEAD} counts {count}"
        raise CorpusError.at(folder / ROWS, fault, f"restore it, or correct 'count' in {HEAD}")
    return Corpus(folder=folder, clips=tuple(clips.values()), **head)


def _parse_head(text: bytes, where: str) -> dict[str, Any]:
    row = parse_json_row(text, where)
    head = {field: get_field(row, field, kind, where) for field, kind in _HEAD_FIELDS.items()}
    head["count"] = get_field(row, "count", int, where) if "count" in row else None
    name = head["name"]
    if not name.strip().strip(".") or set(name) & set("/\\\0"):
        fault = f"the name {name!r} cannot be that of a folder"
        raise CorpusError.at(where, fault, "give another, without slashes")
    splits: dict[str, tuple[str, ...]] = {}
    split_of: dict[str, str] = {}
    for told, speakers in head["splits"].items():
        split = normalise_split(told, where)
        if not isinstance(speakers, list) or not all(isinstance(one, str) for one in speakers):
            fault = f"split {told!r} must be a list of speaker names"
            raise CorpusError.at(where, fault, "correct it")
        for speaker in speakers:
            if split_of.setdefault(speaker, split) != split:
                fault = f"speaker {speaker!r} is in {split_of[speaker]!r} and {split!r}"
                raise CorpusError.at(where, fault, "keep each speaker in one split")
        splits[split] = tuple(dict.fromkeys([*splits.get(split, ()), *speakers]))
    return head | {"splits": splits}


def get_field(row: Mapping[str, Any], field: str, kind: type, where: str) -> Any:
    """One field of a row, of the right type; for a float an int will do. Raises CorpusError."""
    if field not in row:
        raise CorpusError.at(where, f"the field {field!r} is missing", "add it")
    value: Any = row[field]
    kinds: Any = (int, float) if kind is float else kind
    if not isinstance(value, kinds) or isinstance(value, bool):
        fault = f"{field!r} is {type(value).__name__}, not {kind.__name__}"
        raise CorpusError.at(where, fault, "correct its type")
    try:
        return float(value) if kind is float else value
    except OverflowError:
        return float("inf")


def parse_clip(row: dict[str, Any], where: str) -> Clip:
    """The clip of one row of a manifest. Raises CorpusError, which begins with `where`."""
    names = ("id", "audio", "transcript", "speaker")
    texts = {field: get_field(row, field, str, where) for field in names}
    seconds = get_field(row, "seconds", float, where)
    if not 0 < seconds < float("inf"):
        raise CorpusError.at(where, f"'seconds' is {seconds:g}", "state the length of the audio")
    attributes = get_field(row, "attributes", dict, where)
    for name, value in attributes.items():
        if not isinstance(value, str):
            fault = f"attribute {name!r} is {type(value).__name__}, not str"
            raise CorpusError.at(where, fault, "put it in quotes")
    path = PurePosixPath(texts["audio"])
    if path.is_absolute() or ".." in path.parts:
        fault = f"audio {texts['audio']!r} leaves the folder"
        raise CorpusError.at(where, fault, "use a path relative to the corpus")
    spans = [_parse_span(span, seconds, where) for span in get_field(row, "spans", list, where)]
    return Clip(**texts, seconds=seconds, attributes=attributes, spans=tuple(spans))


def _parse_span(row: Any, seconds: float, where: str) -> Span:
    if not isinstance(row, dict):
        fault = f"a span is {type(row).__name__}, not name, start and end"
        raise CorpusError.at(where, fault, "correct it")
    name = get_field(row, "name", str, where)
    start, end = (get_field(row, edge, float, where) for edge in ("start", "end"))
    if not 0 <= start <= end <= seconds + _SLACK:
        fault = f"span {name!r} ({start} … {end} s) is not inside 0 … {seconds} s"
        raise CorpusError.at(where, fault, "correct it")
    return Span(name, start, end)


def _check_file(path: Path, clip: Clip, where: str, check_audio: bool) -> None:
    if not os.path.isfile(path):  # false, too, for what can be no path
        fault = f"audio file {clip.audio!r} is missing"
        raise CorpusError.at(where, fault, "restore it or remove the line")
    if not check_audio:
        return
    try:
        wave = audio.read_audio(path, seconds=float("inf"))
    except audio.AudioError as error:
        raise CorpusError(f"{where}: {error}") from error
    seconds = len(wave) / audio.RATE
    if abs(seconds - clip.seconds) > 1 / audio.FRAMES_PER_SECOND:
        fault = f"{seconds:.2f} s long but the manifest says {clip.seconds:.2f} s"
        raise CorpusError.at(f"{where}: {path}", fault, "correct one of them")
