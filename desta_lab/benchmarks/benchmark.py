"""What every public test set offers here, and the questions and answers that it holds.

A test set is one file of this folder: a subclass of `Benchmark` that recognises, reads and writes
the format of its authors and applies their official rule, and one object of it under the name
`BENCHMARK`.
"""

import importlib
import math
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

import pandas as pd

from desta_lab.benchmarks import formats
from desta_lab.benchmarks.formats import BenchmarkError


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
            stated = PureWindowsPath(clip)  # it knows both slashes
            if stated.anchor or ".." in stated.parts:
                fault = f"the path {clip!r} leads out of its folder"
                raise BenchmarkError.at(self.where, fault, "write one relative to it")
        for name, values in (("scores", self.scores), ("silence", self.silence)):
            if values is not None and len(values) != len(self.options):
                fault = f"{len(values)} {name} for {len(self.options)} options"
                fault += f" ({', '.join(self.options)})"
                raise BenchmarkError.at(self.where, fault, "write one for each, in their order")
            if not all(map(math.isfinite, values or ())):
                fault = f"{name} are {list(values or ())}, not all finite"
                raise BenchmarkError.at(self.where, fault, "answer it again in float32")

    @property
    def key(self) -> tuple[str, str, str]:
        """What the question is known by."""
        return self.group, self.hop, self.id


class Benchmark(ABC):
    """A public test set."""

    name: str  # as the command line has it
    published: str = ""  # as data/published.csv has it
    metric: str = "accuracy"  # the one that its headline and the order of systems go by
    files: str  # what its files are like, for the message where none are found
    questions: str = ""  # the name of the files of its questions, where that tells
    answers: str = ""  # a key that only its answer files have
    response_field: str = "response"  # a generated answer in its answer files
    compares_text: bool = False  # whether its score compares with the model's own text LLM

    def recognises(self, path: Path) -> bool:
        """Whether the files under a path are of this test set."""
        contents = map(formats.read_json, formats.find_json(path))
        named = self.questions and formats.find_files(path, self.questions)
        return bool(named) or any(
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
        `text` are the answers of the model's own text LLM, for a test set that `compares_text`.
        """

    def read(self, path: Path | str) -> list[Item]:
        """`parse`, checked: at least one question, and none twice.

        Raises BenchmarkError, which names the file or row that is not in the format.
        """
        items = self.parse(Path(path))
        if not items:
            remedy = f"give the folder or file that holds {self.files}"
            raise BenchmarkError.at(path, "no question here", remedy)
        formats.refuse_repeated(path, [" ".join(item.key).strip() for item in items])
        return items

    def answered_row(self, item: Item) -> dict[str, Any]:
        """The question's row with the response and, of a choice, the scores of its options."""
        scores = {} if item.scores is None else {"scores": item.scores, "silence": item.silence}
        return {**item.row, self.response_field: item.response, **scores}


def list_benchmarks() -> dict[str, Benchmark]:
    """Every test set of this folder by its name."""
    folder = [str(Path(__file__).parent)]
    names = [module.name for module in pkgutil.iter_modules(folder)]
    modules = [importlib.import_module(f"{__package__}.{name}") for name in names]
    found = [module.BENCHMARK for module in modules if hasattr(module, "BENCHMARK")]
    return {benchmark.name: benchmark for benchmark in found}


def get_benchmark(name: str | None, path: Path) -> Benchmark:
    """The test set of this name or, without a name, the one that the files under a path are of.

    Raises BenchmarkError if there is none, or if the files could be of several.
    """
    known = list_benchmarks()
    if name is not None and name not in known:
        raise BenchmarkError(f"There is no test set {name!r}; there is {', '.join(known)}.")
    found = [known[name]] if name else [one for one in known.values() if one.recognises(path)]
    if len(found) == 1:
        return found[0]
    if found:
        names = " or ".join(one.name for one in found)
        raise BenchmarkError.at(path, f"files of {names}", "say which with --benchmark")
    files = "; ".join(f"{one.name}: {one.files}" for one in known.values())
    remedy = "give the folder or file of the questions or answers, or name it with --benchmark"
    raise BenchmarkError.at(path, f"files of no test set here ({files})", remedy)
