"""A Hugging Face dataset, on disk or on the hub, becomes a corpus."""

import io
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import soundfile

from desta_lab import cache
from desta_lab.clips import HEAD, Corpus, CorpusError, parse_json_row
from desta_lab.world.tables import Row, build_corpus

# libsndfile's names of formats that are no usual file ending
_SUFFIXES = {"WAVEX": ".wav", "RF64": ".wav", "MPEG": ".mp3"}


def corpus_from_dataset(
    dataset: Path | str,
    folder: Path | str,
    columns: Mapping[str, str],
    *,
    config: str | None = None,
    name: str | None = None,
    licence: str = "unknown",
    own_splits: bool = True,
) -> Corpus:
    """Make a corpus in `folder` of what `save_to_disk` wrote, or of what `load_dataset` finds.

    `columns` names the dataset's column of each thing: `speaker` is needed, `transcript` is not,
    `audio` is "audio" by default, every other key is an attribute: `{"speaker": "client_id",
    "transcript": "sentence", "gender": "gender"}`. Class numbers become their names. Audio files
    are copied as they are stored. The dataset's splits are kept if it has several; if it has one,
    or with own_splits=False, its speakers are dealt 80 : 10 : 10.

    Needs the package `datasets`, which for a loose folder of audio needs torchcodec: there, write
    a CSV for `corpus_from_folder` instead. Raises CorpusError with split and row.
    """
    if "speaker" not in columns:
        remedy = "say which column does, splits are disjoint by speaker"
        raise CorpusError.at(dataset, "columns name no speaker", remedy)
    title = Path(dataset).name
    recipe = {
        "source": "datasets",
        "dataset": title if Path(dataset).exists() else str(dataset),
        "config": config,
        "columns": dict(columns),
    }
    head = Path(folder) / HEAD
    if head.is_file() and parse_json_row(head.read_bytes(), str(head)).get("recipe") != recipe:
        fault = f"not a corpus of {recipe}"  # its audio would be overwritten
        raise CorpusError.at(head, fault, "choose another folder")
    library = _import_library(dataset)
    splits = _load_splits(library, dataset, config)
    rows = (
        row
        for split, part in splits.items()
        for row in _read_rows(library, part, columns, Path(folder), f"{dataset}", split)
    )
    return build_corpus(
        folder,
        rows,
        name=name or title,
        recipe=recipe,
        licence=licence,
        own_splits=own_splits and len(splits) > 1,
    )


def _import_library(dataset: Path | str) -> Any:
    try:
        import datasets
    except ImportError as error:
        fault = "a Hugging Face dataset is read by its library"
        raise CorpusError.at(dataset, fault, "pip install datasets") from error
    return datasets


def _load_splits(library: Any, dataset: Path | str, config: str | None) -> dict[str, Any]:
    marks = ("state.json", "dataset_dict.json")
    saved = any((Path(dataset) / mark).is_file() for mark in marks)
    place = str(dataset)
    try:
        found = library.load_from_disk(place) if saved else library.load_dataset(place, config)
    except (OSError, ValueError, library.exceptions.DatasetsError) as error:
        fault = f"not loaded ({error.__cause__ or error})"
        remedy = "check the name or folder, and the config"
        raise CorpusError.at(dataset, fault, remedy) from error
    splits = dict(found) if isinstance(found, dict) else {"all": found}
    for split in splits:
        if not re.fullmatch(r"\w+([.-]\w+)*", split):
            raise CorpusError.at(dataset, f"{split!r} cannot name a split's folder", "rename it")
    return splits


def _read_rows(
    library: Any, part: Any, columns: Mapping[str, str], folder: Path, dataset: str, split: str
) -> Iterator[Row]:
    where = f"{dataset}, split {split}"
    sound = columns.get("audio", "audio")
    texts = {ours: theirs for ours, theirs in columns.items() if ours != "audio"}
    used = list(dict.fromkeys([sound, *texts.values()]))
    unknown = sorted(set(used) - set(part.column_names))
    if unknown:
        there = ", ".join(part.column_names)
        raise CorpusError.at(where, f"no column {', '.join(unknown)}", f"there are {there}")
    # audio stays as it is stored: decoding would need torchcodec and FFmpeg
    try:
        part = part.select_columns(used).cast_column(sound, library.Audio(decode=False))
    except (ImportError, TypeError, ValueError, NotImplementedError) as error:
        fault = f"the column {sound!r} holds no stored audio ({error})"
        remedy = "store whole files there, or write WAV files and a CSV"
        raise CorpusError.at(where, fault, remedy) from error
    for number, row in enumerate(part):
        here = f"{where}, row {number}"
        values = {
            ours: _read_text(row[theirs], part.features[theirs], theirs, here)
            for ours, theirs in texts.items()
        }
        path = _copy_audio(row[sound], folder, f"audio/{split}/{number:06d}", here)
        speaker, transcript = values.pop("speaker"), values.pop("transcript", "")
        yield Row(here, path, speaker, transcript, split, values)


def _read_text(value: Any, feature: Any, column: str, where: str) -> str:
    """A cell as text: nothing is "", a class number is its name."""
    names = getattr(feature, "names", None)
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    if missing or (names and value == -1):  # -1: how `datasets` writes an unlabelled row
        return ""
    if not isinstance(value, str | int | float):
        fault = f"{column!r} holds {type(value).__name__}"
        raise CorpusError.at(where, fault, "choose a column of words or numbers")
    return str(names[value] if names else value).strip()


def _copy_audio(cell: Any, folder: Path, stem: str, where: str) -> str:
    """Write a stored file into the folder, unchanged, with the ending of its content."""
    content, path = (cell or {}).get("bytes"), (cell or {}).get("path")
    if content is None and path and os.path.isfile(path):  # false, too, for what can be no path
        content = Path(path).read_bytes()
    if not content:
        fault = f"no audio is stored, and its path is {path!r}"
        raise CorpusError.at(where, fault, "embed the files in the dataset")
    try:
        kind = soundfile.info(io.BytesIO(content)).format
    except soundfile.LibsndfileError as error:
        fault = f"not readable as audio ({error.error_string})"
        raise CorpusError.at(where, fault, "store WAV, FLAC or MP3") from error
    name = stem + _SUFFIXES.get(kind, f".{kind.lower()}")
    cache.write_whole(folder / name, content)
    return name
