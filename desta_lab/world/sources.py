"""Other people's data: a folder with a CSV or a Hugging Face dataset becomes a corpus; DeSTA-AQA5M manifests stream."""

import csv
import hashlib
import io
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from jaxtyping import Int

from desta_lab import audio
from desta_lab.clips import Clip, Corpus, CorpusError, parse_json_row

AQA_COLUMNS = {
    "id": str,
    "dataset": str,
    "seed_description": str,
    "prompt": str,
    "response": str,
    "messages": list,
}
SHARES = {
    "train": 0.8,
    "validation": 0.1,
    "test": 0.1,
}  # of the speakers, where a table names no split
LEAST = {
    "train": 1,
    "validation": 1,
    "test": 2,
}  # speakers without whom nothing can be trained, calibrated, compared
BLOCK = 1 << 22  # bytes of a manifest searched for line breaks at a time
_OWN_COLUMNS = ("audio", "speaker", "transcript", "split")
_SUFFIXES = {
    "WAVEX": ".wav",
    "RF64": ".wav",
    "MPEG": ".mp3",
}  # libsndfile's names that are no usual file ending


@dataclass(frozen=True)
class Row:
    """One clip as its source tells it; `where` opens every complaint, `unfit` says why the clip is left out."""

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
    """Make a corpus of the rows of some source, writing the two manifest files into the folder of the audio.

    Speakers without a split, or all of them with own_splits=False, are dealt 80 : 10 : 10; four or more of whom too few
    land in validation (one) or test (two) are dealt anew, so that there are enough. An attribute with an empty
    value is left out. With leave_out_long, clips beyond max_seconds are left out instead of refused; `left_out` in the
    recipe of the corpus counts them by reason. Raises CorpusError.
    """
    folder = Path(folder)
    clips: list[Clip] = []
    split_of: dict[str, str] = {}
    told = False
    left_out: Counter[str] = Counter()
    for row in rows:
        if not row.speaker:
            raise CorpusError(
                f"{row.where}: the speaker is empty; name one, splits are disjoint by speaker."
            )
        reason = row.unfit
        if not reason:
            seconds = _seconds(
                folder / row.audio, row.where, math.inf if leave_out_long else max_seconds
            )
            reason = f"longer than {max_seconds:g} s" if seconds > max_seconds else ""
        if reason:
            left_out[reason] += 1
            continue
        attributes = {attribute: value for attribute, value in row.attributes.items() if value}
        identity = Path(row.audio).with_suffix("").as_posix()
        clips.append(Clip(identity, row.audio, seconds, row.transcript, row.speaker, attributes))
        told |= own_splits and bool(row.split)
        split = (row.split if own_splits else "") or _deal(row.speaker)
        if split_of.setdefault(row.speaker, split) != split:
            before = split_of[row.speaker]
            raise CorpusError(
                f"{row.where}: speaker {row.speaker!r} is in {before!r} and {split!r}; keep one split."
            )
    if not clips:
        raise CorpusError(
            f"{folder}: no clips, and {left_out.total()} left out; check that this is the right folder."
        )
    split_of = split_of if told else _deal_few(split_of)
    splits: dict[str, list[str]] = {}
    for speaker, split in split_of.items():
        splits.setdefault(split, []).append(speaker)
    recipe = {**recipe, "left_out": dict(left_out)} if left_out else recipe
    return Corpus.write(
        folder, clips, name=name, recipe=recipe, seed=0, licence=licence, splits=splits
    )


def _seconds(path: Path, where: str, max_seconds: float) -> float:
    try:
        return audio.read_header(path, max_seconds).seconds
    except audio.AudioError as error:
        raise CorpusError(f"{error}" if where == str(path) else f"{where}: {error}") from error


def _place(speaker: str) -> float:
    return int(hashlib.sha256(speaker.encode()).hexdigest()[:8], 16) / 2**32


def _deal(speaker: str) -> str:
    """A split for a speaker by the hash of the name, so that adding speakers moves nobody."""
    place = _place(speaker)
    for split, share in SHARES.items():
        place -= share
        if place < 0:
            return split
    return split


def _deal_few(dealt: dict[str, str]) -> dict[str, str]:
    """The same splits, or, where chance left validation empty or test with one voice, other ones by the same order."""
    counts = Counter(dealt.values())
    if len(dealt) < sum(LEAST.values()) or all(
        counts[split] >= least for split, least in LEAST.items()
    ):
        return dealt
    order = sorted(dealt, key=_place, reverse=True)
    ends = LEAST["test"], LEAST["test"] + LEAST["validation"]
    return {
        s: "test" if i < ends[0] else "validation" if i < ends[1] else "train"
        for i, s in enumerate(order)
    }


def open_corpus(folder: Path | str) -> Corpus:
    """The corpus of a folder: of its `clips.csv`, read anew, or else as its manifest files have it."""
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
    """Make a corpus of a folder of audio and a CSV in it, writing the two manifest files beside them.

    The CSV has the columns `audio` (path in the folder) and `speaker`, may have `transcript` and `split`; every other
    column is an attribute, left out where its cell is empty. Without `split`, speakers are dealt 80 : 10 : 10.
    """
    folder = Path(folder)
    rows = []
    for where, row in read_table(folder / table, ("audio", "speaker")):
        attributes = {column: value for column, value in row.items() if column not in _OWN_COLUMNS}
        transcript, split = row.get("transcript", ""), row.get("split", "")
        rows.append(Row(where, row["audio"], row["speaker"], transcript, split, attributes))
    recipe = {
        "source": "folder",
        "table": table,
        "sha256": hashlib.sha256((folder / table).read_bytes()).hexdigest(),
    }
    return build_corpus(
        folder,
        rows,
        name=name or folder.name,
        recipe=recipe,
        licence=licence,
        max_seconds=max_seconds,
    )


def read_table(
    path: Path, needed: Iterable[str], tabs: bool = False
) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a CSV, or of a TSV without quoting, each with its file and line; raises CorpusError."""
    if not path.is_file():
        raise CorpusError(
            f"{path}: no such file; it is a table with the columns {', '.join(needed)}: put it there."
        )
    with path.open(encoding="utf-8-sig", newline="") as file:
        how: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tabs else {}
        reader = csv.DictReader(file, **how)
        missing = set(needed) - set(reader.fieldnames or ())
        if missing:
            raise CorpusError(
                f"{path}, line 1: no column {', '.join(sorted(missing))}; add it to the header."
            )
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                raise CorpusError(
                    f"{where}: more or fewer cells than the header has columns; correct the row."
                )
            yield where, row


def corpus_from_datasets(
    dataset: Path | str,
    folder: Path | str,
    columns: Mapping[str, str],
    *,
    config: str | None = None,
    name: str | None = None,
    licence: str = "unknown",
    own_splits: bool = True,
    max_seconds: float = audio.WHISPER_SECONDS,
) -> Corpus:
    """Make a corpus in `folder` of a Hugging Face dataset: what `save_to_disk` wrote, or what `load_dataset` finds.

    `columns` says where things stand: `speaker` must be told, `transcript` may, `audio` is "audio" unless told, every
    other key is an attribute: `{"speaker": "client_id", "transcript": "sentence", "gender": "gender"}`. Class numbers
    become their names. The audio is copied as it is stored and read by soundfile, never decoded by `datasets`. Splits
    of the dataset are kept if there are several; its speakers are dealt 80 : 10 : 10 if there is one, or with
    own_splits=False. Needs the package `datasets`, which for a loose folder of audio needs torchcodec: there, write a
    CSV for `from_folder` instead. Raises CorpusError with split and row.
    """
    if "speaker" not in columns:
        raise CorpusError(
            f"{dataset}: columns name no speaker; say which column does, splits are disjoint by speaker."
        )
    library = _library(dataset)
    parts = _load(library, dataset, config)
    rows = (
        row
        for split, part in parts.items()
        for row in _dataset_rows(
            library, part, f"{dataset}, split {split}", split, columns, Path(folder)
        )
    )
    title = Path(dataset).name
    recipe = {
        "source": "datasets",
        "dataset": title if Path(dataset).exists() else str(dataset),
        "config": config,
    }
    return build_corpus(
        folder,
        rows,
        name=name or title,
        recipe={**recipe, "columns": dict(columns)},
        licence=licence,
        own_splits=own_splits and len(parts) > 1,
        max_seconds=max_seconds,
    )


def _library(dataset: Path | str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise CorpusError(
            f"{dataset}: a Hugging Face dataset is read by its library; pip install datasets."
        ) from error
    return datasets


def _load(library: Any, dataset: Path | str, config: str | None) -> dict[str, Any]:
    saved = any((Path(dataset) / mark).is_file() for mark in ("state.json", "dataset_dict.json"))
    try:
        found = (
            library.load_from_disk(str(dataset))
            if saved
            else library.load_dataset(str(dataset), config)
        )
    except (OSError, ValueError, library.exceptions.DatasetsError) as error:
        why = error.__cause__ or error
        raise CorpusError(
            f"{dataset}: not loaded ({why}); check the name or folder, and the config."
        ) from error
    return dict(found) if isinstance(found, dict) else {"all": found}


def _dataset_rows(
    library: Any, part: Any, where: str, split: str, columns: Mapping[str, str], folder: Path
) -> Iterator[Row]:
    sound = columns.get("audio", "audio")
    words = {ours: theirs for ours, theirs in columns.items() if ours != "audio"}
    needed = dict.fromkeys([sound, *words.values()])
    unknown = needed.keys() - set(part.column_names)
    if unknown:
        there = ", ".join(part.column_names)
        raise CorpusError(f"{where}: no column {', '.join(sorted(unknown))}; there are {there}.")
    part = part.select_columns(list(needed))
    part = part.cast_column(
        sound, library.Audio(decode=False)
    )  # decoding would need torchcodec and FFmpeg
    for number, row in enumerate(part):
        here = f"{where}, row {number}"
        told = {
            ours: _word(row[theirs], part.features[theirs], theirs, here)
            for ours, theirs in words.items()
        }
        path = _copy(row[sound], folder, f"audio/{split}/{number:06d}", here)
        yield Row(here, path, told.pop("speaker"), told.pop("transcript", ""), split, told)


def _word(value: Any, feature: Any, column: str, where: str) -> str:
    """A cell as text: nothing is "", a class number is its name."""
    names = getattr(feature, "names", None)
    if value is None or (names and value == -1):  # -1: how `datasets` writes an unlabelled row
        return ""
    if not isinstance(value, str | int | float):
        raise CorpusError(
            f"{where}: {column!r} holds {type(value).__name__}; choose a column of words or numbers."
        )
    return str(names[value] if names else value).strip()


def _copy(cell: Any, folder: Path, stem: str, where: str) -> str:
    """Put one stored file into the folder, unchanged, under the ending of its content."""
    data, path = (cell or {}).get("bytes"), (cell or {}).get("path")
    if data is None and path and Path(path).is_file():
        data = Path(path).read_bytes()
    if not data:
        raise CorpusError(
            f"{where}: no audio is stored, and its path is {path!r}; embed the files in the dataset."
        )
    try:
        kind = soundfile.info(io.BytesIO(data)).format
    except soundfile.LibsndfileError as error:
        raise CorpusError(
            f"{where}: not readable as audio ({error.error_string}); store WAV, FLAC or MP3."
        ) from error
    name = stem + _SUFFIXES.get(kind, f".{kind.lower()}")
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    return name


def iterate_manifest(path: Path | str, root: Path | str | None = None) -> Iterator[dict[str, Any]]:
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
    row = parse_json_row(line, where)
    for column, kind in AQA_COLUMNS.items():
        if column not in row and column in ("id", "messages", "response"):
            raise CorpusError(f"{where}: the field {column!r} is missing; add it.")
        if column in row and not isinstance(row[column], kind):
            found = type(row[column]).__name__
            raise CorpusError(
                f"{where}: {column!r} is {found}, not {kind.__name__}; correct its type."
            )
    for message in row["messages"]:
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise CorpusError(f"{where}: a message lacks role or content; give it both.")
        for sound in message.get("audios") or ():
            if not isinstance(sound, dict) or not isinstance(sound.get("audio"), str):
                raise CorpusError(f"{where}: an entry of 'audios' lacks its 'audio' path; add it.")
            if root is not None:
                sound["audio"] = str(Path(root) / sound["audio"])
    return row


class Manifest(Sequence[dict[str, Any]]):
    """A DeSTA-AQA5M style JSONL file as training examples, each read from disk when it is asked for.

    In memory stands only where the lines begin, 8 bytes a row, found by reading the file once (a gigabyte a second).
    A row is checked as `stream_manifest` checks it, has one clip that is there, and gets a column more: `clip`, its
    path completed by `root`, which is what training asks a feature store for. With `transcripts`, the `text` of the
    clip stands behind it, as in DeSTA2.5-Audio.

    Raises CorpusError with file and line: at once for an empty line and a last line that is torn, else with the row.
    """

    def __init__(
        self, path: Path | str, root: Path | str | None = None, transcripts: bool = False
    ) -> None:
        self.path, self.root, self.transcripts = Path(path), root, transcripts
        if not self.path.is_file():
            raise CorpusError(f"{self.path}: no such file; download the manifest first.")
        self._starts = _line_starts(self.path)
        if not len(self):
            raise CorpusError(f"{self.path}: no rows; download the manifest again.")
        empty = np.flatnonzero(np.diff(self._starts) == 1)
        if len(empty):
            raise CorpusError(f"{self.path}, line {empty[0] + 1}: empty; remove the line.")
        if not self._line(len(self) - 1).endswith(b"\n"):
            self._row(len(self) - 1)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, i: Any) -> Any:
        """One row, or the list of a slice; raises CorpusError."""
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        i = range(len(self))[i]
        row, where = self._row(i), f"{self.path}, line {i + 1}"
        sounds = [sound for message in row["messages"] for sound in message.get("audios") or ()]
        if len(sounds) != 1:
            raise CorpusError(
                f"{where}: {len(sounds)} clips in 'audios'; training takes one: remove or split the row."
            )
        clip, text = sounds[0]["audio"], sounds[0].get("text")
        if not Path(clip).is_file():
            raise CorpusError(
                f"{where}: audio file {clip!r} is missing; restore it, or pass root=, its folder."
            )
        return {**row, "clip": clip} | ({"transcripts": [text or ""]} if self.transcripts else {})

    def _row(self, i: int) -> dict[str, Any]:
        where = f"{self.path}, line {i + 1}"
        try:
            line = self._line(i).decode()
        except UnicodeDecodeError as error:
            raise CorpusError(
                f"{where}: not UTF-8 ({error.reason}); repair or remove it."
            ) from error
        return _manifest_row(line, where, self.root)

    def _line(self, i: int) -> bytes:
        with self.path.open(
            "rb"
        ) as file:  # opened anew: nothing to close, and nothing shared between processes
            file.seek(self._starts[i])
            return file.read(self._starts[i + 1] - self._starts[i])


def _line_starts(path: Path) -> Int[np.ndarray, "line"]:
    """Where every line begins, and at last where the file ends, in bytes."""
    starts, at = [np.zeros(1, np.int64)], 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            starts.append(np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + at + 1)
            at += len(block)
    found = np.concatenate(starts)
    return found if found[-1] == at else np.append(found, at)
