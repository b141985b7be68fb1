"""What every public test set offers here, and the questions and answers that it holds.

A test set is one file of this folder: a subclass of `Benchmark` that recognises, reads and writes
the format of its authors and applies their official rule, and one object of it under the name
`BENCHMARK`.
"""

import importlib
import json
import math
import pkgutil
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any, NoReturn

import pandas as pd

from desta_lab import cache
from desta_lab.audio import DataFault
from desta_lab.clips import unique_keys

WORD = (str, int, float)  # of a field that is read as text: an id or a label may be a number
NUMBER = (int, float)
Kind = type | tuple[type, ...] | list["Kind"]  # a list of one kind: a list of such values
Fields = Mapping[str, Kind]  # of a row
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


@dataclass(frozen=True)
class Item:
    """One question of a test set and, where a model answered it, the answer.

    `scores` and `silence` are log-probabilities per token of every option, hearing the clip and
    hearing silence; `judged` is the word of a judge. `row` is the question as its file has it, and
    `where` says where that is. Clips lie below `root`, whatever their file says.
    """

    where: str
    id: str
    question: str
    group: str = ""  # track, task or set
    hop: str = ""
    clips: tuple[str, ...] = ()  # relative to `root`, and below it
    root: Path = Path()
    options: tuple[str, ...] = ()
    answer: str | None = None
    response: str | None = None
    scores: tuple[float, ...] | None = None
    silence: tuple[float, ...] | None = None
    judged: bool | None = None
    row: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for clip in self.clips:
            check_path(self.where, clip)
        for name in ("scores", "silence"):
            values = getattr(self, name)
            if values is None:
                continue
            if len(values) != len(self.options):
                fault = f"{len(values)} {name} for {len(self.options)} options"
                fault += f" ({', '.join(self.options)})"
                raise BenchmarkError.at(self.where, fault, "write one for each, in their order")
            if not all(map(math.isfinite, values)):
                fault = f"{name} are {list(values)}, not all finite"
                raise BenchmarkError.at(self.where, fault, "answer it again in float32")


class Benchmark(ABC):
    """A public test set."""

    name: str  # as the command line has it
    published: str = ""  # as data/published.csv has it
    metric: str = "accuracy"  # the one that its headline and the order of systems go by
    files: str  # what its files are like, for the message where none are found
    questions: str = ""  # the name of the files of its questions, where that tells
    answers: str = ""  # a key that only its answer files have
    response_field: str = "response"  # a generated answer in its answer files

    def recognises(self, path: Path) -> bool:
        """Whether the files under a path are of this test set."""
        contents = (read_json(file) for file in find_json(path))
        return bool(find_files(path, self.questions)) or any(
            isinstance(content, dict) and self.answers in content for content in contents
        )

    @abstractmethod
    def parse(self, path: Path) -> list[Item]:
        """The questions under a path, with their answers where the files hold them."""

    @abstractmethod
    def write(self, items: Sequence[Item], folder: Path) -> list[Path]:
        """Write answered items in the test set's own format, which its authors' code reads."""

    @abstractmethod
    def score(self, items: Sequence[Item], text: Sequence[Item] | None = None) -> pd.DataFrame:
        """Per cent of every group and metric by every protocol, with 95 % intervals.

        Columns: group, metric, protocol, value, low, high, clips, and others that a test set adds.
        `text` are the answers of the model's own text LLM, which Speech-IFEval compares with.
        """

    def read(self, path: Path | str) -> list[Item]:
        """`parse`, checked: at least one question, and none twice.

        Raises:
            BenchmarkError: A file or row is not in the format; the message names it and the remedy.
        """
        items = self.parse(Path(path))
        if not items:
            raise BenchmarkError(
                f"{path}: no question here; give the folder or file that holds {self.files}."
            )
        refuse_repeated(path, [" ".join((i.group, i.hop, i.id)).strip() for i in items])
        return items

    def answered_row(self, item: Item) -> dict[str, Any]:
        """The question's row with the response and, of a choice, the scores of its options."""
        scores = {} if item.scores is None else {"scores": item.scores, "silence": item.silence}
        return {**item.row, self.response_field: item.response, **scores}


# ---- finding a test set ----


def list_benchmarks() -> dict[str, Benchmark]:
    """Every test set of this folder by its name."""
    folder = [str(Path(__file__).parent)]
    names = [module.name for module in pkgutil.iter_modules(folder)]
    modules = [importlib.import_module(f"{__package__}.{name}") for name in names]
    found = [module.BENCHMARK for module in modules if hasattr(module, "BENCHMARK")]
    return {benchmark.name: benchmark for benchmark in found}


def get_benchmark(name: str | None, path: Path) -> Benchmark:
    """The test set of this name or, without a name, the one that the files under a path are of.

    Raises:
        BenchmarkError: There is none, or the files could be of several.
    """
    known = list_benchmarks()
    if name is not None and name not in known:
        raise BenchmarkError(f"There is no test set {name!r}; there is {', '.join(known)}.")
    found = [known[name]] if name else [one for one in known.values() if one.recognises(path)]
    if len(found) == 1:
        return found[0]
    if found:
        names = " or ".join(one.name for one in found)
        raise BenchmarkError(f"{path}: files of {names}; say which with --benchmark.")
    files = "; ".join(f"{one.name}: {one.files}" for one in known.values())
    raise BenchmarkError(
        f"{path}: files of no test set here ({files}); give the folder or file of the questions or "
        "answers, or "
        "name the test set with --benchmark."
    )


# ---- files and fields ----


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
    """The text of a UTF-8 file, without a byte order mark.

    Raises:
        BenchmarkError: It cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise BenchmarkError.at(path, f"no text in UTF-8 ({error})", "save it in UTF-8") from error


def parse_json(text: str, where: Path | str) -> Any:
    """The value of a JSON text, in which no key stands twice and every number is finite.

    Raises:
        BenchmarkError: It is none; the message begins with `where`.
    """
    try:
        return json.loads(text, object_pairs_hook=unique_keys, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BenchmarkError.at(where, f"no JSON ({error})", "write it again") from error


def read_json(path: Path) -> Any:
    """The content of a JSON file; raises BenchmarkError as `read_text` and `parse_json` do."""
    return parse_json(read_text(path), path)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def refuse_repeated(where: Path | str, names: Sequence[str]) -> None:
    """Refuse names of which one stands there twice.

    Raises:
        BenchmarkError: Naming them.
    """
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        verb = "is there twice" if len(repeated) == 1 else "are there twice"
        raise BenchmarkError.at(where, f"{name_some(repeated)} {verb}", "keep one of each")


def name_some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def check_path(where: str, path: str) -> None:
    """Refuse a path that a file states and that leads out of its folder, by either slash.

    Raises:
        BenchmarkError: Naming it.
    """
    stated = PureWindowsPath(path)
    if stated.anchor or ".." in stated.parts:
        fault = f"the path {path!r} leads out of its folder"
        raise BenchmarkError.at(where, fault, "write one relative to it")


def write_json(path: Path, content: Any) -> Path:
    """Write a JSON file, whole; returns its path."""
    cache.write_whole(path, f"{json.dumps(content, indent=1, allow_nan=False)}\n".encode())
    return path


def check_fields(where: str, row: Any, required: Fields, optional: Fields | None = None) -> None:
    """Refuse a row in which a required field is missing or empty, or a field is of another kind.

    An optional field that is null is missing.

    Raises:
        BenchmarkError: Naming the fields.
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


ANSWER_FIELDS: Fields = {"scores": [NUMBER], "silence": [NUMBER]}


def first_text(row: Mapping[str, Any], *names: str) -> str | None:
    """The first of these fields that is there, as text."""
    return next((str(row[name]) for name in names if row.get(name) is not None), None)


def option_scores(row: Mapping[str, Any]) -> dict[str, Any]:
    """The scores of options that an answer's row holds, as `Item` takes them."""
    names = [name for name in ANSWER_FIELDS if row.get(name) is not None]
    return {name: tuple(map(float, row[name])) for name in names}
