"""A notebook's lesson: what the student guesses, tries and sees, and the card that says how well they knew."""

import json
import os
import time
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from desta_lab import cache
from desta_lab.course import checks
from desta_lab.experiments.experiment import Experiment
from desta_lab.model import build
from desta_lab.views import saving

COSTS = Path(__file__).resolve().parents[2] / "notebooks" / "costs.json"
SURE = 0.8  # a guess is a range that should hold the answer this often


@dataclass
class Guess:
    """A range that the student is 80 % sure of, and what was measured."""

    name: str
    question: str
    low: float
    high: float
    default: bool  # nobody moved it
    measured: float | None = None

    @property
    def inside(self) -> bool | None:
        """Whether the range holds what was measured; None before it was."""
        return None if self.measured is None else self.low <= self.measured <= self.high


@dataclass
class Lesson:
    """One notebook's guesses, exercises and headline, beside the lab that it works with.

    Args:
        notebook: its number.
        lab: the main job whose parts and runs the notebook opens.
    """

    notebook: str
    lab: Experiment
    exercises: dict[str, str] = field(default_factory=dict)  # name → state of the last try
    began: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self._sliders: dict[str, tuple[str, Any, tuple[float, float]]] = {}
        self._measured: dict[str, float] = {}

    @property
    def out(self) -> Path:
        """Where this lesson's figures and card go: `$DESTA_LAB_FIGURES/course`, else `figures/course`."""
        home = os.environ.get("DESTA_LAB_FIGURES") or self.lab.root.parent / "figures"
        return Path(home) / "course"

    def predict(
        self, name: str, question: str, low: float, high: float, *, step: float | None = None
    ) -> Any:
        """A slider for a range that the student is 80 % sure of, from all that is possible; shown by the cell."""
        import ipywidgets

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
        self._sliders[name] = (question, slider, tuple(slider.value))
        ask = f"<b>{escape(question)}</b> Move the ends until you are {SURE:.0%} sure that the answer lies between."
        return ipywidgets.VBox([ipywidgets.HTML(ask), slider])

    def reveal(self, name: str, measured: float) -> "Told":
        """Set what was measured beside the guess."""
        if name not in self._sliders:
            raise ValueError(
                f"Nothing was predicted under {name!r}; run the cell with lesson.predict({name!r}, …)."
            )
        self._measured[name] = float(measured)
        return Told(next(guess for guess in self.guesses if guess.name == name))

    @property
    def guesses(self) -> list[Guess]:
        """Every guess as it stands."""
        return [
            Guess(name, question, low, high, (low, high) == start, self._measured.get(name))
            for name, (question, slider, start) in self._sliders.items()
            for low, high in (slider.value,)
        ]

    def check(self, name: str, answer: Any) -> checks.Judgement:
        """What the check of an exercise says about an answer, in words."""
        judged = checks.judge(name, answer)
        self.exercises[name] = judged.state
        return judged

    def show(self, figure: Any, alt: str, table: pd.DataFrame | None = None) -> "Shown":
        """Save the notebook's headline figure with its table, and show it with its alternative text.

        A `Picture` brings its table; any other matplotlib figure needs the one it was drawn from.
        """
        path = saving.save_figure(
            figure, self.out, self.notebook, table, {"alt": alt, **self._made_with()}
        )
        return Shown(path, alt)

    def card(self, student: str = "anonymous") -> Any:
        """Write this lesson's card as JSON, and show how well the guesses were calibrated.

        The file is `figures/course/card-NN.json`; `python -m desta_lab class FOLDER` merges those of a class.
        """
        from IPython.display import HTML

        guesses = self.guesses
        content = {
            "notebook": self.notebook,
            "student": student,
            **self._made_with(),
            "predictions": [{**asdict(guess), "inside": guess.inside} for guess in guesses],
            "exercises": self.exercises,
            "seconds": round(time.perf_counter() - self.began, 1),
        }
        path = self.out / f"card-{self.notebook}.json"
        cache.write_whole(path, cache.to_json(content))
        own = [guess for guess in guesses if not guess.default and guess.inside is not None]
        held = (
            f"{sum(bool(guess.inside) for guess in own)} of your {len(own)} ranges held the answer"
            if own
            else ("you moved no range, so there is nothing to say about your calibration")
        )
        solved = sum(state == "passed" for state in self.exercises.values())
        rows = pd.DataFrame(
            [
                {
                    "question": g.question,
                    "your range": f"{g.low:g} to {g.high:g}" + (" (default)" if g.default else ""),
                    "measured": "not yet" if g.measured is None else f"{g.measured:.2f}",
                    "inside": "" if g.inside is None else "yes" if g.inside else "no",
                }
                for g in guesses
            ]
        )
        said = (
            f"<p><b>Card {self.notebook}</b>: {held} (well calibrated would be {SURE:.0%}); "
            f"{solved} of {len(self.exercises)} exercises solved. Kept in {escape(path.name)}.</p>"
        )
        return HTML(said + rows.to_html(index=False, border=0))

    def _made_with(self) -> dict[str, Any]:
        return {
            "preset": self.lab.preset.name,
            "seed": self.lab.seed,
            "device": build.pick_device().type,
        }


@dataclass(frozen=True)
class Shown:
    """A saved figure with its alternative text, as the value of a cell."""

    path: Path
    alt: str

    def _repr_png_(self) -> tuple[bytes, dict[str, str]]:
        return self.path.read_bytes(), {"alt": self.alt}


class Told:
    """A guess beside what was measured, in one line."""

    def __init__(self, guess: Guess) -> None:
        self.guess = guess

    def __repr__(self) -> str:
        g = self.guess
        verdict = "inside" if g.inside else "outside"
        whose = "The default range" if g.default else "You said"
        return f"{whose} {g.low:g} to {g.high:g}; measured {g.measured:.2f}: {verdict}."


def costs() -> dict[str, dict[str, Any]]:
    """What the build measured: notebook → preset → seconds, seconds of its cells, memory, and on what."""
    measured: dict[str, dict[str, Any]] = (
        json.loads(COSTS.read_text(encoding="utf-8")) if COSTS.exists() else {}
    )
    return measured


def cost(notebook: str, preset: str) -> str:
    """What a notebook takes on a preset, as the build measured it; said plainly where it was not."""
    entry = costs().get(notebook, {}).get(preset)
    if entry is None:
        return f"Notebook {notebook} on {preset}: time and memory were not measured yet."
    return (
        f"Notebook {notebook} on {preset}: about {max(1, round(entry['seconds'] / 60))} min of computing and "
        f"{entry['memory_gb']:.1f} GB of memory (measured on {entry['on']})."
    )
