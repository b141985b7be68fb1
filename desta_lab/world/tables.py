"""Other people's audio: the rows of a table become a corpus, and a folder with a CSV is one."""

import codecs
import csv
import hashlib
import io
import os
import string
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from desta_lab import audio, cache
from desta_lab.clips import (
    HEAD,
    LEAST,
    SHARES,
    Clip,
    Corpus,
    CorpusError,
    normalise_split,
    place_speaker,
)

TABLE = "clips.csv"  # of a folder that somebody brings
_OWN_COLUMNS = ("audio", "speaker", "transcript", "split")  # also the names of Row's fields
_SEPARATORS = ",;\t,"  # the first that parts the needed columns; if none does, a comma
_FEWEST_NUMBERED = 4  # rows in which 0, 1, 2, … is no attribute but an index
_MARKS = {  # by which a file says its encoding; longer ones first
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_UNSEEN = (
    "\u00ad\u200b\u200e\u200f\u2060\ufeff\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)
_BLANKS = string.whitespace + "\u00a0" + _UNSEEN
_FROM_CYRILLIC = str.maketrans("асеіјорѕхукмнтв", "aceijopsxykmhtb")  # letters that look alike
_MARKS_ALIKE = str.maketrans("’‘–—_-", "''    ")


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
    max_seconds: float = float("inf"),
    save: bool = True,
    hash_audio: bool = False,
) -> Corpus:
    """Write the two manifest files of a corpus beside its audio, from the rows of some source.

    Texts are trimmed and their letters written one way (NFC). Speakers without a split, or all of
    them with own_splits=False, are dealt 80 : 10 : 10; if no row gives a split, four speakers or
    more fill all three, and of fewer none is in the test. Empty values are left out, and clips over
    max_seconds: the recipe counts them by reason, and with hash_audio hashes the rest.

    Warns (DataWarning) of clips longer than Whisper hears, and of values that differ in case alone.
    Raises CorpusError, before anything is written.
    """
    folder = Path(folder)
    clips: dict[str, Clip] = {}
    told: dict[str, str] = {}
    left_out: Counter[str] = Counter()
    long: list[str] = []
    for row in map(_clean_row, rows):
        if not row.speaker:
            remedy = "name one, splits are disjoint by speaker"
            raise CorpusError.at(row.where, "the speaker is empty", remedy)
        sound = _find_audio(folder, row)
        seconds = 0.0 if row.unfit else _measure_seconds(folder / sound, row.where, max_seconds)
        reason = row.unfit or (f"longer than {max_seconds:g} s" if seconds > max_seconds else "")
        if reason:
            left_out[reason] += 1
            continue
        if seconds > audio.WHISPER_SECONDS:
            long.append(row.where)
        key = unicodedata.normalize("NFC", Path(sound).with_suffix("").as_posix())
        clip = Clip(key, sound, seconds, row.transcript, row.speaker, dict(row.attributes))
        if clips.setdefault(key, clip) is not clip:
            remedy = "give each clip one row, and each file its own name"
            raise CorpusError.at(row.where, f"the clip {key!r} appears twice", remedy)
        split = normalise_split(row.split, row.where) if own_splits and row.split else ""
        if split and told.setdefault(row.speaker, split) != split:
            fault = f"speaker {row.speaker!r} is in {told[row.speaker]!r} and {split!r}"
            raise CorpusError.at(row.where, fault, "keep one split")
    if not clips:
        fault = f"no clips, and {left_out.total()} left out"
        raise CorpusError.at(folder, fault, "check that this is the right folder")
    dealt = {clip.speaker: deal_speaker(clip.speaker) for clip in clips.values()}
    speakers: dict[str, list[str]] = {}
    for speaker, split in (dealt | told if told else _fill_splits(dealt)).items():
        speakers.setdefault(split, []).append(speaker)
    _warn_of(folder, clips.values(), long)
    recipe = {**recipe, "left_out": dict(left_out)} if left_out else recipe
    recipe = {**recipe, "audio": _hash_audio(folder, clips.values())} if hash_audio else recipe
    head: Any = {"name": name, "recipe": recipe, "seed": 0, "licence": licence, "save": save}
    return Corpus.write(folder, clips.values(), splits=speakers, **head)


def _clean_row(row: Row) -> Row:
    words = {_clean_word(name): _clean_word(value) for name, value in row.attributes.items()}
    return replace(
        row,
        speaker=_clean_word(row.speaker),
        transcript=_trim(row.transcript),
        split=_clean_word(row.split),
        attributes={name: word for name, word in words.items() if word},
    )


def _trim(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip(_BLANKS)


def _clean_word(text: str) -> str:
    """A value with single blanks and no signs unseen, so that what looks the same is the same."""
    return " ".join(_trim(text).translate(dict.fromkeys(map(ord, _UNSEEN))).split())


def _find_audio(folder: Path, row: Row) -> str:
    """The path of a clip as the disk spells it. Raises CorpusError if it leaves the folder."""
    path = PurePosixPath(row.audio.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        fault = f"audio {row.audio!r} leaves the folder"
        raise CorpusError.at(row.where, fault, "use a path inside it")
    if not path.name:
        raise CorpusError.at(row.where, f"audio {row.audio!r} names no file", "write its path")
    spellings = [unicodedata.normalize(form, row.audio) for form in ("NFC", "NFD")]
    spellings += [row.audio.replace("\\", "/")]
    return next((name for name in spellings if os.path.isfile(folder / name)), row.audio)


def _measure_seconds(path: Path, where: str, max_seconds: float) -> float:
    try:
        return audio.measure_seconds(path, max_seconds)
    except audio.AudioError as error:
        raise CorpusError(f"{error}" if where == str(path) else f"{where}: {error}") from error


def _hash_audio(folder: Path, clips: Iterable[Clip]) -> str:
    """One sha256 of the audio of all clips: a recording may change and keep its length."""
    hashes = "".join(cache.hash_file(folder / clip.audio) for clip in clips)
    return hashlib.sha256(hashes.encode()).hexdigest()


def _warn_of(folder: Path, clips: Collection[Clip], long: Sequence[str]) -> None:
    """Warn of long clips, by their places, and of values in spellings that look alike."""
    if long:
        fault = f"{len(long)} of {len(clips)} clips are longer than {audio.WHISPER_SECONDS:g} s"
        heard = f"their first {audio.WHISPER_SECONDS:g} s are heard (the first is {long[0]})"
        warnings.warn(f"{folder}: {fault}; {heard}.", audio.DataWarning, stacklevel=3)
    counts: Any = defaultdict(lambda: defaultdict(Counter))  # attribute → look → value → clips
    for clip in clips:
        for name, value in [("speaker", clip.speaker), *clip.attributes.items()]:
            counts[name][_look_of(value)][value] += 1
    for name, values in counts.items():
        alike = [spellings for spellings in values.values() if len(spellings) > 1]
        if alike:
            first = ", ".join(f"{value!r} ({count} clips)" for value, count in alike[0].items())
            fault = f"{name} has {len(alike)} values in spellings that look alike: {first}"
            remedy = "they count as different, so write them alike if they are not"
            warnings.warn(f"{folder}: {fault}; {remedy}.", audio.DataWarning, stacklevel=3)


def _look_of(value: str) -> str:
    """What values have in common that differ in case, width, dashes, quotes or Cyrillic letters."""
    plain = unicodedata.normalize("NFKC", value).casefold()
    return " ".join(plain.translate(_FROM_CYRILLIC | _MARKS_ALIKE).split())


def deal_speaker(speaker: str) -> str:
    """The split of a speaker by the hash of the name, so that adding speakers moves nobody."""
    place = place_speaker(speaker)
    for split, share in SHARES.items():
        place -= share
        if place < 0:
            return split
    return split


def _fill_splits(split_of: dict[str, str]) -> dict[str, str]:
    """The same splits if each has enough speakers, else new ones in the order of the same hash.

    Of too few for all three none is in the test, so that `split_clips` may split their clips.
    """
    counts = Counter(split_of.values())
    if all(counts[split] >= least for split, least in LEAST.items()):
        return split_of
    if len(split_of) < sum(LEAST.values()):
        return {s: "train" if split == "test" else split for s, split in split_of.items()}
    order = sorted(split_of, key=place_speaker, reverse=True)
    first = ["test"] * LEAST["test"] + ["validation"] * LEAST["validation"]
    return dict(zip(order, first + ["train"] * (len(order) - len(first)), strict=True))


def open_corpus(folder: Path | str) -> Corpus:
    """The corpus of a folder: made anew from its `clips.csv` if there is one, else as written.

    Made anew it keeps the name and the licence that `corpus_from_folder` was told. Raises
    CorpusError, also for a folder that has neither.
    """
    folder = Path(folder)
    if (folder / TABLE).is_file():
        told: dict[str, Any] = {}
        with suppress(CorpusError):  # there is none, or it is torn
            before = Corpus.read(folder)
            if before.recipe.get("source") == "folder":
                told = {"name": before.name, "licence": before.licence}
        return corpus_from_folder(folder, **told)
    if not (folder / HEAD).is_file():
        fault = f"it has no {TABLE}" if folder.is_dir() else "no such folder"
        remedy = f"give a folder with {TABLE}, whose columns are audio, speaker and what you know"
        raise CorpusError.at(folder, fault, remedy)
    return Corpus.read(folder)


def corpus_from_folder(
    folder: Path | str,
    table: str = TABLE,
    *,
    name: str | None = None,
    licence: str = "unknown",
    encoding: str | None = None,
    save: bool = True,
    hash_audio: bool = True,
) -> Corpus:
    """Make a corpus of a folder of audio and a table in it, writing the two manifest files there.

    The table has the columns `audio` (path in the folder) and `speaker`, and may have `transcript`
    and `split`; every other column is an attribute, left out where its cell is empty. Without
    `split`, speakers are dealt 80 : 10 : 10. A column that only numbers the rows is left out with a
    DataWarning. With save=False nothing is written. With hash_audio the hash of the corpus is also
    one of its sound. Raises CorpusError with file and line.
    """
    folder = Path(folder)
    needed = ("audio", "speaker")
    cells = list(read_table(folder / table, needed, _OWN_COLUMNS, encoding=encoding))
    unused = (*_OWN_COLUMNS, *_find_counters(folder / table, [row for _, row in cells]))
    rows = [
        Row(
            where,
            **{column: row.get(column, "") for column in _OWN_COLUMNS},
            attributes={column: value for column, value in row.items() if column not in unused},
        )
        for where, row in cells
    ]
    sha256 = hashlib.sha256((folder / table).read_bytes()).hexdigest()
    return build_corpus(
        folder,
        rows,
        name=name or cache.show_name(folder),
        recipe={"source": "folder", "table": table, "sha256": sha256},
        licence=licence,
        save=save,
        hash_audio=hash_audio,
    )


def _find_counters(path: Path, rows: Sequence[Mapping[str, str]]) -> list[str]:
    """The columns that only number the rows, from 0 or 1, as an index does."""
    numbers = [[str(first + i) for i in range(len(rows))] for first in (0, 1)]
    others = [name for name in (rows or [{}])[0] if name not in _OWN_COLUMNS]
    enough = len(rows) >= _FEWEST_NUMBERED
    found = [name for name in others if enough and [row[name] for row in rows] in numbers]
    if found:
        fault = f"the column {' and '.join(map(repr, found))} only numbers the rows and is left out"
        warnings.warn(f"{path}, line 1: {fault}.", audio.DataWarning, stacklevel=3)
    return found


def read_table(
    path: Path,
    needed: Sequence[str],
    known: Sequence[str] = (),
    *,
    tabs: bool = False,
    encoding: str | None = None,
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the rows of a table of texts, each with its file and line; nothing becomes a number.

    Cells are separated by comma, semicolon or tab, whichever parts the needed columns; with `tabs`
    by tabs, and quotes are letters. The names of needed and `known` columns may be written in
    capitals. A column without a name is left out with a DataWarning. The encoding is UTF-8, or what
    a byte order mark says, unless one is given. Raises CorpusError.
    """
    if not path.is_file():
        remedy = f"it is a table with the columns {', '.join(needed)}: put it there"
        raise CorpusError.at(path, "no such file", remedy)
    text = read_text(path, encoding)
    own = {name.casefold(): name for name in (*known, *needed)}
    separators = "\t" if tabs else _SEPARATORS
    for tried, separator in enumerate(separators, start=1):
        rows = _parse_rows(path, text, separator, tabs)
        try:
            names = map(_clean_word, next(rows, ("", []))[1])
        except CorpusError:  # quotes between other separators
            if tried == len(separators):
                raise
            continue
        header = [own.get(name.casefold(), name) for name in names]
        if set(needed) <= set(header):
            break
    _check_header(path, header, needed)
    for where, cells in rows:
        if len(cells) != len(header):
            fault = f"{len(cells)} cells, not {len(header)} as the header has"
            raise CorpusError.at(where, fault, "correct the row")
        pairs = zip(header, cells, strict=True)
        yield where, {name: _trim(cell) for name, cell in pairs if not _is_index(name)}


def read_results(
    path: Path, texts: Sequence[str], numbers: Sequence[str], *, gaps: Collection[str] = ()
) -> pd.DataFrame:
    """A table of results in CSV, which somebody may have edited since it was written.

    An empty cell is missing, and every other word is a word. Raises DataFault, with the line, where
    one of the columns `texts` and `numbers` is not there, or a number is no finite one. Of these
    columns only `gaps` may miss some.
    """
    remedy = "restore it from where it comes from, or measure it again"
    how: Any = {"dtype": dict.fromkeys(texts, str), "keep_default_na": False, "na_values": [""]}
    try:
        table = pd.read_csv(path, **how)
    except ValueError as error:
        fault = f"no table in CSV ({str(error).strip()})"
        raise audio.DataFault.at(path, fault, remedy) from error
    columns = [*texts, *numbers]
    if missing := [name for name in columns if name not in table]:
        raise audio.DataFault.at(f"{path}, line 1", f"no column {', '.join(missing)}", remedy)
    if not isinstance(table.index, pd.RangeIndex):  # pandas makes the first cells a name of the row
        raise audio.DataFault.at(f"{path}, line 2", "more cells than columns", remedy)
    for name in columns:
        bad = table[name].isna() if name not in gaps else pd.Series(False, table.index)
        if name in numbers:
            values = pd.to_numeric(table[name], errors="coerce")
            bad |= table[name].notna() & ~(values.abs() < float("inf"))
        if bad.any():
            row = int(bad.argmax())
            there = "nothing" if table[name].isna()[row] else table[name][row]
            fault = f"the column {name!r} has {there}"
            raise audio.DataFault.at(f"{path}, line {row + 2}", fault, remedy)
    return table


def read_text(path: Path, encoding: str | None = None) -> str:
    """A text in UTF-8, in what its byte order mark says, or in `encoding`. Raises CorpusError."""
    content = path.read_bytes()
    marked = (name for mark, name in _MARKS.items() if content.startswith(mark))
    encoding = encoding or next(marked, "utf-8")
    remedy = "save the table as UTF-8, or read it in Python with encoding= (such as 'cp1252')"
    try:
        text = content.decode(encoding)
    except LookupError as error:
        raise CorpusError.at(path, f"unknown encoding {encoding!r}", remedy) from error
    except UnicodeError as error:
        start = getattr(error, "start", 0)
        line = content.count(b"\n", 0, start) + 1
        fault = f"byte {start} is not {encoding}"
        raise CorpusError.at(f"{path}, line {line}", fault, remedy) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise CorpusError.at(f"{path}, line {line}", f"a zero byte is not {encoding}", remedy)
    return text.removeprefix("\ufeff")  # the mark, which an encoding that was given may keep


def _parse_rows(
    path: Path, text: str, separator: str, tabs: bool
) -> Iterator[tuple[str, list[str]]]:
    """Yield the rows that are not blank, each with the line where it begins."""
    quoting: Any = csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=separator, quoting=quoting, strict=True)
    limit = csv.field_size_limit()
    while True:
        where = f"{path}, line {reader.line_num + 1}"
        csv.field_size_limit(max(limit, len(text)))  # that of all readers: a cell may be long
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            fault = f"no row of a table ({error})"
            raise CorpusError.at(where, fault, "correct its quotes") from error
        finally:
            csv.field_size_limit(limit)
        if any(map(_trim, cells)):
            yield where, cells


def _check_header(path: Path, header: Sequence[str], needed: Sequence[str]) -> None:
    where = f"{path}, line 1"
    missing = sorted(set(needed) - set(header))
    if missing:
        there = ", ".join(header)[:80] or "nothing"
        remedy = f"the header has {there}: name it there, with commas, semicolons or tabs between"
        raise CorpusError.at(where, f"no column {', '.join(missing)}", remedy)
    counts = Counter(name.casefold() for name in header if not _is_index(name))
    twice = [name for name in header if counts[name.casefold()] > 1]
    if twice:
        fault = f"the column {' and '.join(map(repr, twice))} is there twice"
        raise CorpusError.at(where, fault, "keep one, or rename it")
    if any(map(_is_index, header)):
        fault = "a column without a name, such as an index, is left out"
        warnings.warn(f"{where}: {fault}.", audio.DataWarning, stacklevel=3)


def _is_index(name: str) -> bool:
    """Whether a column has no name, or the one that pandas gives to such a column."""
    return not name or name.startswith("Unnamed: ")
