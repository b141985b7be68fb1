"""What every public test set offers here, and the questions and answers that it holds.

A test set is one file of this folder: a subclass of `Benchmark` that recognises, reads and writes
the format of its authors and applies their official rule, and one object of it under the name
`BENCHMARK`.
"""

import importlib
import json
import pkgutil
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from desta_lab import cache


class BenchmarkError(ValueError):
    """A file of a test set is not in its format; the message names the place and the remedy."""


@dataclass(frozen=True)
class Item:
    """One question of a test set and, where a model answered it, the answer.

    `scores` and `silence` are log-probabilities per token of every option, hearing the clip and
    hearing silence; `judged` is the word of a judge. `row` is the question as its file has it, and
    `where` says where that is.
    """

    where: str
    id: str
    question: str
    group: str = ""  # track, task or set
    hop: str = ""
    clips: tuple[str, ...] = ()  # relative to `root`
    root: Path = Path()
    options: tuple[str, ...] = ()
    answer: str | None = None
    response: str | None = None
    scores: tuple[float, ...] | None = None
    silence: tuple[float, ...] | None = None
    judged: bool | None = None
    row: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("scores", "silence"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.options):
                raise BenchmarkError(
                    f"{self.where}: {len(values)} {name} for {len(self.options)} options "
                    f"({', '.join(self.options)}); write one for each, in their order."
                )


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
        (key, count) = Counter((i.group, i.hop, i.id) for i in items).most_common(1)[0]
        if count > 1:
            raise BenchmarkError(f"{path}: {' '.join(key).strip()} is there twice; keep one.")
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


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        BenchmarkError: It cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"{path}: no JSON ({error}); write the file again.") from error


def write_json(path: Path, content: Any) -> Path:
    """Write a JSON file, whole; returns its path."""
    cache.write_whole(path, f"{json.dumps(content, indent=1)}\n".encode())
    return path


def require_fields(where: str, row: Any, names: Sequence[str]) -> None:
    """Refuse a row in which one of these fields is missing or empty.

    Raises:
        BenchmarkError: Naming the fields.
    """
    row = row if isinstance(row, dict) else {}
    missing = [name for name in names if row.get(name) in (None, "", [])]
    if missing:
        raise BenchmarkError(
            f"{where}: no {', '.join(missing)}; add it, or name the right --benchmark."
        )


def first_text(row: Mapping[str, Any], *names: str) -> str | None:
    """The first of these fields that is there, as text."""
    return next((str(row[name]) for name in names if row.get(name) is not None), None)


def option_scores(row: Mapping[str, Any]) -> dict[str, Any]:
    """The scores of options that an answer's row holds, as `Item` takes them."""
    names = [name for name in ("scores", "silence") if row.get(name) is not None]
    return {name: tuple(map(float, row[name])) for name in names}
