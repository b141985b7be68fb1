"""What the formats of all test sets share: JSON files that are found, read, checked and written."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from desta_lab import cache
from desta_lab.audio import DataFault
from desta_lab.clips import unique_keys
from desta_lab.model.bounds import is_number

WORD = (str, int, float)  # of a field that is read as text: an id or a label may be a number
NUMBER = (int, float)
Kind = type | tuple[type, ...] | list["Kind"]  # a list of one kind: a list of such values
Fields = Mapping[str, Kind]  # of a row
ANSWER_FIELDS: Fields = {"scores": [NUMBER], "silence": [NUMBER]}
KIND_NAMES: dict[Any, str] = {
    str: "a text",
    dict: "an object",
    bool: "true or false",
    WORD: "a text or a number",
    NUMBER: "a number",
}
MAX_NAMED = 5  # faulty ids that a message names


class BenchmarkError(DataFault):
    """A file of a test set is not in its format; the message names the place and the remedy."""


def find_files(path: Path, name: str) -> list[Path]:
    """Files of this name: the path itself, in it, or in its folders."""
    if path.name == name:
        return [path]
    return sorted([*path.glob(name), *path.glob(f"*/{name}")])


def find_json(path: Path) -> list[Path]:
    """The JSON files of a folder, or the path itself, without judgements."""
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    return [f for f in files if f.suffix == ".json" and not f.stem.endswith("_judgements")]


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, without a byte order mark. Raises BenchmarkError."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        fault = f"no file that can be read ({error.strerror})"
        raise BenchmarkError.at(path, fault, "check the path") from error
    except UnicodeError as error:
        raise BenchmarkError.at(path, f"no text in UTF-8 ({error})", "save it in UTF-8") from error


def parse_json(text: str, where: Path | str) -> Any:
    """The value of a JSON text, in which no key stands twice and every number is finite.

    Raises BenchmarkError, which begins with `where`.
    """
    try:
        return json.loads(text, object_pairs_hook=unique_keys, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BenchmarkError.at(where, f"no JSON ({error})", "write it again") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises BenchmarkError."""
    return parse_json(read_text(path), path)


def write_json(path: Path, content: Any) -> Path:
    """Write a JSON file, whole; returns its path."""
    cache.write_whole(path, f"{json.dumps(content, indent=1, allow_nan=False)}\n".encode())
    return path


def check_fields(where: str, row: Any, required: Fields, optional: Fields | None = None) -> None:
    """Refuse a row in which a required field is missing or empty, or a field is of another kind.

    An optional field that is null is missing. Raises BenchmarkError, which names the fields.
    """
    missing = list(required) or ["field"]
    if isinstance(row, dict):
        missing = [name for name in required if row.get(name) in (None, "", [])]
    if missing:
        fault = f"no {', '.join(missing)}"
        raise BenchmarkError.at(where, fault, "add it, or name the right --benchmark")
    for name, kind in {**required, **(optional or {})}.items():
        if row.get(name) is not None and not _is_of(row[name], kind):
            fault = f"{name} is {json.dumps(row[name])[:40]}, not {_name_kind(kind)}"
            raise BenchmarkError.at(where, fault, "correct its type")


def _is_of(value: Any, kind: Kind) -> bool:
    if isinstance(kind, list):
        return isinstance(value, list) and all(_is_of(one, kind[0]) for one in value)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _name_kind(kind: Kind) -> str:
    return f"a list, each {KIND_NAMES[kind[0]]}" if isinstance(kind, list) else KIND_NAMES[kind]


def refuse_repeated(where: Path | str, names: Sequence[str]) -> None:
    """Refuse names of which one stands there twice. Raises BenchmarkError, which names them."""
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        verb = "is there twice" if len(repeated) == 1 else "are there twice"
        raise BenchmarkError.at(where, f"{name_some(repeated)} {verb}", "keep one of each")


def name_some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def first_text(row: Mapping[str, Any], *names: str) -> str | None:
    """The first of these fields that is there, as text."""
    return next((str(row[name]) for name in names if row.get(name) is not None), None)


def option_scores(row: Mapping[str, Any]) -> dict[str, Any]:
    """The scores of options that an answer's row holds, as `Item` takes them."""
    names = [name for name in ANSWER_FIELDS if row.get(name) is not None]
    return {name: tuple(map(_to_float, row[name])) for name in names}


def _to_float(value: Any) -> float:
    """A number as a float; a whole number that none can hold is infinite."""
    if is_number(value):
        return float(value)
    return math.inf if value > 0 else -math.inf
