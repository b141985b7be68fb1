"""A notebook's lesson: what the student guesses, tries and sees, and the card that sums it up."""

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api.types import is_numeric_dtype

from desta_lab import cache
from desta_lab.course import checks
from desta_lab.experiments.experiment import Experiment
from desta_lab.model.build import pick_device
from desta_lab.training import checkpoints
from desta_lab.views import saving

COSTS = Path(__file__).resolve().parents[2] / "notebooks" / "costs.json"
SURE = 0.8  # a guess is a range that should hold the answer this often


def score_interval(low: float, high: float, measured: float, least: float, most: float) -> float:
    """The interval score of a range that is 80 % sure, in widths of its slider: 0 is best.

    A range costs its width, and where it misses ten times the distance to what was measured. The
    whole slider costs 1. In the long run the least is paid by who gives the tenth and the
    ninetieth percentile of what they believe (Gneiting and Raftery, 2007, eq. 43).
    """
    missed = max(low - measured, measured - high, 0.0)
    return (high - low + 2 / (1 - SURE) * missed) / (most - least)


@dataclass(frozen=True)
class Guess:
    """A range that the student is 80 % sure of, on a slider, and what was measured."""

    name: str
    question: str
    low: float
    high: float
    least: float  # the slider's ends
    most: float
    default: bool  # nobody moved it or ticked its box
    measured: float | None = None

    @property
    def inside(self) -> bool | None:
        """Whether the range holds what was measured; None before it was."""
        return None if self.measured is None else self.low <= self.measured <= self.high

    @property
    def score(self) -> float | None:
        """Its interval score; 1 where nobody set the range, None before anything was measured."""
        if self.measured is None:
            return None
        own = score_interval(self.low, self.high, self.measured, self.least, self.most)
        return 1.0 if self.default else own

    def __repr__(self) -> str:
        if self.measured is None:
            return f"{self.question} {self.low:g} to {self.high:g}; not measured yet."
        whose = "The default range" if self.default else "You said"
        verdict = "inside" if self.inside else "outside"
        cost = "nobody set it, so it scores 1" if self.default else f"it scores {self.score:.2f}"
        said = f"{whose} {self.low:g} to {self.high:g}; measured {self.measured:.2f}: {verdict}"
        return f"{said}; {cost} (0 is best)."


@dataclass
class Lesson:
    """One notebook's guesses, exercises and headline, beside the experiment that it works with.

    Args:
        notebook: its number.
        experiment: holds the corpus, the models and the runs that the notebook opens.
    """

    notebook: str
    experiment: Experiment
    exercises: dict[str, str] = field(default_factory=dict)  # name → state of the last try
    began: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self._asked: dict[str, tuple[str, Any]] = {}  # name → question, and its widgets
        self._locked: dict[str, Guess] = {}  # as they were before their answer was shown
        self._used: dict[str, bool] = {}  # exercise → whether the student's own code runs
        self._judged: dict[str, Any] = {}  # exercise → the answer that was judged last

    @property
    def out(self) -> Path:
        """The folder of figures and card: `$DESTA_LAB_FIGURES/course`, else `figures/lessons`.

        Git ignores `figures/lessons`; `figures/course` holds what the build has drawn.
        """
        if home := os.environ.get("DESTA_LAB_FIGURES"):
            return Path(home) / "course"
        return self.experiment.root.parent / "figures" / "lessons"

    def predict(
        self, name: str, question: str, low: float, high: float, *, step: float | None = None
    ) -> Any:
        """Ask for a range that the student is 80 % sure of, from all that is possible: a slider.

        A range counts as the student's own where it was moved, or where its box was ticked. Asked
        again, the same question brings the same slider back: locked, if it was.
        """
        import ipywidgets

        known, box = self._asked.get(name, ("", None))
        if known == question:
            return box
        self._locked.pop(name, None)
        step = step or (high - low) / 20
        quarter = round((high - low) / 4 / step) * step  # on the slider's grid
        slider = ipywidgets.FloatRangeSlider(
            value=(low + quarter, high - quarter),
            min=low,
            max=high,
            step=step,
            readout_format=".2f" if step < 1 else ".0f",
            layout={"width": "36em"},
        )
        meant = ipywidgets.Checkbox(description="This range is my guess.", indent=False)
        slider.observe(lambda change: setattr(meant, "value", True), names="value")
        task = f"Move the ends until you are {SURE:.0%} sure that the answer lies between."
        asked = ipywidgets.HTML(f"<b>{escape(question)}</b> {task}")
        box = ipywidgets.VBox([asked, slider, meant])
        self._asked[name] = question, box
        return box

    def lock(self, *names: str) -> None:
        """Close guesses, so that a cell may show what tells their answers.

        Raises:
            ValueError: nothing was predicted under one of these names.
        """
        for name in names:
            if name not in self._asked:
                cell = f"lesson.predict({name!r}, …)"
                raise ValueError(f"Nothing was predicted under {name!r}; run the cell with {cell}.")
            self._locked[name] = self._read(name)
            for widget in self._asked[name][1].children[1:]:
                widget.disabled = True

    def reveal(self, name: str, measured: float) -> Guess:
        """Lock the guess, and set what was measured beside it.

        Raises:
            ValueError: nothing was predicted under this name, or what was measured is no number.
        """
        if not math.isfinite(measured):
            raise ValueError(f"{name!r} was measured as {measured}; reveal a number.")
        self.lock(name)
        self._locked[name] = replace(self._locked[name], measured=float(measured))
        return self._locked[name]

    @property
    def guesses(self) -> list[Guess]:
        """Every guess as it stands, or as it was when it was locked."""
        return [self._read(name) for name in self._asked]

    def _read(self, name: str) -> Guess:
        question, box = self._asked[name]
        _, slider, meant = box.children
        low, high = slider.value
        now = Guess(name, question, low, high, slider.min, slider.max, not meant.value)
        return self._locked.get(name, now)

    def find_or_make(self, name: str, make: Callable[[], Any], **facts: Any) -> Any:
        """A result of this notebook about the finished run; found if it was made with these facts.

        Args:
            name: tells the results of one notebook apart.
            make: computes it: a table, a dict of tensors, or JSON data.
            facts: whatever else determines it.
        """
        experiment = self.experiment
        last = checkpoints.list_checkpoints(experiment.run_folder("self"))[-1]
        shared = {"notebook": self.notebook, "name": name, "connector": last["sha256"]}
        provenance = experiment.provenance("lessons", **shared, **facts)
        return cache.find_or_make(experiment.root, provenance, make)

    def check(self, name: str, answer: Any) -> checks.Judgement:
        """Judge an answer to an exercise, in words."""
        judged = checks.judge(name, answer)
        self.exercises[name], self._judged[name] = judged.state, answer
        return judged

    def use(
        self,
        name: str,
        answer: Callable[..., Any],
        ours: Callable[..., Any],
        *,
        tensors: bool = True,
    ) -> Callable[..., Any]:
        """What the notebook goes on with: the student's own function where its check passed.

        With `tensors` its results become tensors where it returns arrays. Until it passed it is
        `ours`. An answer that was written anew after it passed is judged again.
        """
        if self.exercises.get(name) == "passed" and self._judged.get(name, answer) is not answer:
            self.check(name, answer)
        self._used[name] = self.exercises.get(name) == "passed"
        if not self._used[name]:
            return ours
        return checks.as_tensors(answer) if tensors else answer

    @property
    def credit(self) -> str:
        """Whose code ran where an exercise's function was used, in words."""
        return self.credit_of(*self._used)

    def credit_of(self, *exercises: str) -> str:
        """Whose code ran for these exercises, in words.

        Raises:
            ValueError: `use` was not called for one of them.
        """
        if unused := [name for name in exercises if name not in self._used]:
            raise ValueError(f"Nobody used {', '.join(unused)}; call lesson.use before this.")
        own = [name for name in exercises if self._used[name]]
        rest = [name for name in exercises if name not in own]
        if not (own and rest):
            return "your code" if own else "the package's code"
        return f"your {', '.join(own)} and the package's {', '.join(rest)}"

    def show(self, figure: Any, alt: str, table: pd.DataFrame | None = None) -> Any:
        """Save the notebook's last figure with its table, and show it with its alternative text.

        A `Picture` brings its table; any other figure needs the one it was drawn from.
        """
        from IPython.display import Image

        provenance = {"alt": alt, **self._made_with()}
        path = saving.save_figure(figure, self.out, self.notebook, table, provenance)
        return Image(filename=str(path), metadata={"alt": alt})  # as IPython 7.34 takes it, too

    def card(self, student: str = "anonymous") -> Any:
        """Write this lesson's card as JSON, and show how well the guesses were calibrated.

        The file is `figures/lessons/card-NN.json`; `python -m desta_lab class FOLDER` merges those
        of a class.
        """
        from IPython.display import HTML

        path = self.out / f"card-{self.notebook}.json"
        content = {
            "notebook": self.notebook,
            "student": student,
            **self._made_with(),
            "predictions": [
                {**asdict(guess), "inside": guess.inside, "score": guess.score}
                for guess in self.guesses
            ],
            "exercises": self.exercises,
            "seconds": round(time.perf_counter() - self.began, 1),
        }
        cache.write_whole(path, cache.to_json(content))
        own = [guess for guess in self.guesses if not guess.default and guess.inside is not None]
        said = "you set no range, so there is nothing to say about your calibration"
        if own:
            held, score = (sum(getattr(one, name) for one in own) for name in ("inside", "score"))
            said = f"{held} of your {len(own)} ranges held the answer (well calibrated would be "
            said += f"{SURE:.0%}); interval score {score / len(own):.2f} (0 is best, the whole "
            said += "slider scores 1)"
        solved = f"{[*self.exercises.values()].count('passed')} of {len(self.exercises)} exercises"
        summary = f"<p><b>Card {self.notebook}</b>: {said}; {solved} solved. "
        table = pd.DataFrame([_card_row(guess) for guess in self.guesses])
        return HTML(f"{summary}Kept in {escape(path.name)}.</p>{format_table(table)}")

    def _made_with(self) -> dict[str, Any]:
        own = self.experiment
        return {"preset": own.preset.name, "seed": own.seed, "device": pick_device().type}


def _card_row(guess: Guess) -> dict[str, str]:
    return {
        "question": guess.question,
        "your range": f"{guess.low:g} to {guess.high:g}" + " (default)" * guess.default,
        "measured": "not yet" if guess.measured is None else f"{guess.measured:.2f}",
        "inside": {None: "", True: "yes", False: "no"}[guess.inside],
        "score": "" if guess.score is None else f"{guess.score:.2f}",
    }


def format_table(table: pd.DataFrame) -> str:
    """A table as HTML: columns of words stand on the left, and an index that only counts is out."""
    count = len(table.columns)
    places = [i for i, kind in enumerate(table.dtypes, 1) if not is_numeric_dtype(kind)]
    words = {f"words-{i}-of-{count}": count - i + 1 for i in places}  # class → place from the right
    rules = "".join(
        f".{name} tr > :nth-last-child({place}) {{ text-align: left; }} "
        for name, place in words.items()
    )
    index = not isinstance(table.index, pd.RangeIndex)
    with pd.option_context("display.max_colwidth", None):
        shown = table.to_html(index=index, border=0, max_rows=60, classes=list(words))
    return f"<style>{rules}</style>{shown}"


def read_costs() -> dict[str, dict[str, Any]]:
    """What the build measured: notebook → preset → seconds, those of its cells, memory, machine."""
    return dict(json.loads(COSTS.read_text(encoding="utf-8"))) if COSTS.exists() else {}


def describe_cost(notebook: str, preset: str) -> str:
    """What a notebook takes on a preset, as the build measured it, or that it did not."""
    cost = read_costs().get(notebook, {}).get(preset)
    if cost is None:
        return f"Notebook {notebook} on {preset}: time and memory were not measured yet."
    minutes = max(1, round(cost["seconds"] / 60))
    return (
        f"Notebook {notebook} on {preset}: about {minutes} min of computing and "
        f"{cost['memory_gb']:.1f} GB of memory (measured on {cost['on']})."
    )
