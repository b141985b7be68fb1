"""The papers' ablations at lab scale, as data: each a question, named arms, and what it cannot show.

A study is a sweep over named arms, so its cells are found wherever they were measured. What it shows is computed from
its table: the difference of each arm to the study's base, paired over seeds.
"""

import itertools
import json
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import optimize
from torch import nn

from desta_lab import cache
from desta_lab.evaluation import statistics, tasks
from desta_lab.experiments import forgetting
from desta_lab.experiments.experiment import Progress
from desta_lab.experiments.sweep import Measure, Sweep, train_and_forget
from desta_lab.model import nano, presets, weights
from desta_lab.model.presets import Preset
from desta_lab.views import claim_figures, representation_figures, saving

Arms = Mapping[str, Mapping[str, Any]]  # name → field → value, as a sweep's arms

HOME = (
    Path(__file__).resolve().parents[2] / "figures" / "ablations"
)  # the tables that ship, one folder a preset
# a preset as the studies turn it; nano: steps that tell arms apart before the best are perfect, the faster attention
TURNED: dict[str, dict[str, Any]] = {"nano": {"steps": 150, "attention": "eager"}}
SEEDS = {"nano": (0, 1, 2, 3, 4)}
FEWER = (0, 1, 2)  # seeds of every other preset
COLUMNS = [
    "arm",
    "at",
    "seed",
    "cell",
    "rung",
    "attribute",
    "condition",
    "score",
]  # of a study's table
RESAMPLES, TOP_WIDTH, HALF_RATIO = (
    200,
    0.2,
    3.0,
)  # a fit is determined within these widths of its 95 % intervals
LEVEL = 0.9  # of its top, which a curve that levels off has at the largest amount


@dataclass(frozen=True)
class Study:
    """A question put to a trained connector, by turning one thing.

    Another kind of study brings its own `measure`, named by `measured`, and may bring `draw` and `say`, which stand in
    for `picture` and `statements`.
    """

    name: str
    title: str
    question: str
    arms: Arms
    cannot: str  # what it does not show, whatever it measures
    base: str = (
        ""  # the arm that the others are compared with; by default the one that changes nothing
    )
    amount: str = ""  # the field whose value is an amount: a curve is fitted over it
    more: Mapping[str, Arms] = field(default_factory=dict)  # preset → arms that only it can run
    only: Mapping[str, tuple[str, ...]] = field(
        default_factory=dict
    )  # preset → the arms it keeps, where not all
    presets: tuple[str, ...] = ("nano",)  # those it is kept for
    parts: tuple[
        str, ...
    ] = ()  # frozen parts that are made before it runs, by their name in `PARTS`
    measure: Measure | None = None
    measured: str = "ladder"
    columns: tuple[str, ...] = ()  # of its table, beside the usual ones
    draw: Callable[["Study", pd.DataFrame], saving.Picture] | None = None
    say: Callable[["Study", pd.DataFrame], list[str]] | None = None

    def settings(self, preset: str) -> Arms:
        """The arms that a preset runs."""
        every = {**self.arms, **self.more.get(preset, {})}
        return {arm: every[arm] for arm in self.only.get(preset, every)}

    @property
    def against(self) -> str:
        """The arm that the others are compared with."""
        return self.base or next(name for name, settings in self.arms.items() if not settings)


# ---- frozen parts that nobody releases ----


def small_llm(width: int, layers: int) -> Callable[[Path, Any], None]:
    """What trains a smaller nano LLM on the text that the shipped one was trained on."""

    def make(folder: Path, tell: Any) -> None:
        model, words = nano.train_nano(
            tasks.nano_rows(),
            width=width,
            layers=layers,
            progress=lambda done, total, _: tell(done, total),
        )
        made = f"desta_lab.model.nano.train(desta_lab.evaluation.tasks.nano_rows(), width={width}, layers={layers})"
        nano.save_nano(
            model, words, folder, {"made_by": made, "parameters": model.num_parameters()}
        )

    return make


def deaf_whisper(folder: Path, tell: Any) -> None:
    """Whisper tiny.en with all but its table of positions, which nobody learned, drawn again."""
    from transformers import WhisperModel

    model = WhisperModel.from_pretrained(
        weights.find_weights("whisper-tiny.en", folder.parent, progress=tell)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for module in model.modules():
            if isinstance(module, (nn.Linear, nn.Conv1d, nn.LayerNorm)):
                module.reset_parameters()
    model.save_pretrained(folder)


PARTS: dict[str, Callable[[Path, Any], None]] = {
    "nano-64x2": small_llm(64, 2),
    "nano-96x3": small_llm(96, 3),
    "whisper-tiny.en-redrawn": deaf_whisper,
}


def missing_parts(study: Study, models: Path) -> list[str]:
    """The frozen parts of a study that were not made yet."""
    return [part for part in study.parts if not (models / part / "config.json").exists()]


def make_part(name: str, models: Path, progress: Progress) -> None:
    """Make a frozen part, whole or not at all."""
    half = models / f"{name}.part"
    PARTS[name](half, progress(name))
    half.rename(models / name)


# ---- the studies ----

_ONE_WORLD = "It is one synthetic world of short clips and one small frozen LLM"
STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        Study(
            "targets",
            "Target kind",
            "Whose words should the connector learn to draw out?",
            {
                "self": {},
                "hard": {"target": "hard"},
                "template": {"target": "template"},
                "label": {"target": "label"},
            },
            f"{_ONE_WORLD}, whose own words are few; how far apart the kinds stand for a large LLM is not known from "
            "it. The label arm names one attribute (the scene) where the others name all, so it differs in more than "
            "who wrote it. On nano there is no arm of another LLM's words: SmolLM2's words are not in nano's "
            "vocabulary, so it is left out. (Our self is the papers' soft, the LLM's own answers with its "
            "distribution over the next token; our hard is the papers' self, the same answers as tokens alone.)",
            more={"cpu": {"another LLM": {"target": "other"}}},
            presets=("nano", "cpu"),
        ),
        Study(
            "prompts",
            "One prompt or many",
            "Does one prompt teach as much as several, at equal steps?",
            {"1": {}, "3": {"prompts": 3}, "6": {"prompts": 6}},
            "All six prompts ask for a description in other words. What training on many kinds of tasks would do, as "
            "other systems are trained, it does not show.",
            presets=("nano", "cpu"),
        ),
        Study(
            "layers",
            "Tapped layers",
            "How many layers of the encoder does the connector need, and which?",
            {
                "all four": {},
                "first": {"taps": (0,)},
                "middle two": {"taps": (1, 2)},
                "last": {"taps": (3,)},
            },
            "Whisper tiny.en has four layers. Which layers of a deep encoder matter, it does not show; and fewer taps "
            "are also a smaller connector, because each tapped layer brings its own queries.",
        ),
        Study(
            "queries",
            "Query tokens",
            "How many query tokens does the connector need, and must they be born as words?",
            {
                "4": {"connector.anchored": False, "connector.queries": 4},
                "16": {"connector.anchored": False, "connector.queries": 16},
                "64": {"connector.anchored": False, "connector.queries": 64},
                "anchored": {},
            },
            "A clip of this world holds six attributes and lasts 4 s; how many tokens longer or richer sound needs, it "
            "does not show. The anchored arm has as many queries as the sentence it is born saying, 19 here, so it "
            "differs from 16 in both.",
            base="16",
        ),
        Study(
            "depth",
            "Q-Former depth",
            "How deep must the Q-Former be?",
            {"1": {"connector.depth": 1}, "2": {}, "4": {"connector.depth": 4}},
            "All depths train for the same few steps at the same learning rate; a deeper one may need more of the "
            "first or less of the second, and was not tuned for itself.",
        ),
        Study(
            "connector",
            "Connector kind",
            "Does a Q-Former earn its place beside stacked frames and one projection?",
            {"Q-Former": {}, "frames": {"connector.kind": "frames"}},
            "The two differ in parameters, in the layers they read and in how they are born, and neither was tuned. "
            "It shows what each reaches with the shared recipe, not which of its parts makes the difference.",
        ),
        Study(
            "transcript",
            "Transcript",
            "Does the clip's transcript behind the audio embeddings help or hinder?",
            {"without": {}, "with": {"transcript": True}},
            "The transcript is the sentence that was rendered, not what Whisper hears. What is said has nothing to do "
            "with the attributes here, so there is nothing to gain from it; and the nano LLM learned to read a "
            "clip's description where its transcript stands. Questions about what is said are not in this score.",
        ),
        Study(
            "clips",
            "Clips (data scaling)",
            "How many clips does the claim need?",
            {
                "48": {"train": 48},
                "96": {"train": 96},
                "192": {"train": 192},
                "384": {"train": 384},
                "all": {},
            },
            "The steps are equal, so fewer clips are seen more often; and the clips are rendered from at most 192 "
            "descriptions. How the score grows with hours of varied, real sound, it does not show, and the curve "
            "holds between its ends alone.",
            amount="train",
            presets=("nano", "cpu"),
        ),
        Study(
            "steps",
            "Steps (compute scaling)",
            "How does the score grow with training?",
            {"40": {"steps": 40}, "80": {"steps": 80}, "150": {}, "300": {"steps": 300}},
            "Each length has its own learning-rate schedule, so the points are no checkpoints of one run. The curve "
            "holds between its ends alone; that it levels off at its top is its form, not a finding.",
            amount="steps",
        ),
        Study(
            "tuning",
            "Frozen or tuned",
            "Does it help to let the LLM learn, too?",
            {"frozen": {}, "LoRA, rank 8": {"tuning": "lora-8"}, "full": {"tuning": "full"}},
            "One learning rate serves the connector and the LLM, chosen for the connector. What the LLM forgets while "
            "it learns is not in this score.",
        ),
        Study(
            "forgetting",
            "Forgetting",
            "What does the LLM forget while it learns to hear, and what does that buy?",
            {"frozen, self": {}}
            | {
                f"{tuning}, {target}": {"tuning": tuning, "target": target}
                for tuning, target in itertools.product(
                    ("frozen", "lora-2", "lora-8", "lora-32", "full"), ("self", "template", "label")
                )
                if (tuning, target) != ("frozen", "self")
            },
            "One learning rate serves the connector and the LLM, chosen for the connector; another for the LLM was not "
            "tried. The nano LLM knows one small world and a handful of constraints by heart, and SmolLM2 obeys few "
            "constraints to begin with; how much a large LLM forgets, it does not show.",
            only={
                "cpu": (
                    "frozen, self",
                    "frozen, template",
                    "frozen, label",
                    "lora-2, self",
                    "lora-8, self",
                    "lora-8, template",
                    "lora-8, label",
                    "lora-32, self",
                )
            },
            presets=("nano", "cpu"),
            measure=train_and_forget,
            measured="forgetting",
            columns=("share",),
            draw=lambda _, found: representation_figures.plot_tradeoff(
                forgetting.plane(found), forgetting.headline(found)
            ),
            say=lambda _, found: forgetting.statements(found),
        ),
        Study(
            "backbone",
            "Backbone",
            "Does a smaller LLM hear worse?",
            {
                "64 wide, 2 layers": {"backbone": "nano-64x2"},
                "96 wide, 3 layers": {"backbone": "nano-96x3"},
                "192 wide, 4 layers": {},
            },
            "All sizes are nano LLMs, trained on this world's text alone, each once. What an LLM expects of its input "
            "has fewer dimensions the smaller it is, and all arms train for the same few steps; whether the larger "
            "ones catch up, or which of width and depth matters, it does not show. Tasks that an LLM cannot do when it "
            "reads are left out of its score, so arms may be scored on different tasks (see the text oracle).",
            parts=("nano-64x2", "nano-96x3"),
        ),
        Study(
            "encoder",
            "Encoder",
            "How much of it is what Whisper learned?",
            {
                "tiny.en": {},
                "tiny.en, re-drawn": {"encoder": "whisper-tiny.en-redrawn"},
                "base": {"encoder": "whisper-base"},
            },
            "Base is larger than tiny.en, was trained on more languages, and is tapped at three of its six layers; it "
            "does not show which of these matters. The re-drawn weights were drawn once.",
            parts=("whisper-tiny.en-redrawn",),
        ),
        Study(
            "rounding",
            "Rounding",
            "How far does a cell move where nothing changes but how its sums round?",
            {"written out": {}, "fused": {"attention": None}},
            "The two compute the LLM's attention in another order, which rounds otherwise; nothing else differs. "
            "Another machine, number of threads or version of torch rounds elsewhere, and may move a cell further.",
        ),
    )
}


# ---- running and finding ----


def named(name: str) -> Study:
    """A study by its name; raises ValueError with the names there are."""
    if name not in STUDIES:
        raise ValueError(f"There is no study {name!r}; take one of {', '.join(STUDIES)}.")
    return STUDIES[name]


def lab_scale(preset: str | Preset | None) -> Preset:
    """The preset that a study turns: a name as the studies have it (`TURNED`), any other exactly as it is."""
    if isinstance(preset, Preset):
        return preset
    found = presets.get_preset(preset or "nano")
    return replace(found, **TURNED.get(found.name, {}))


def sweep(
    name: str,
    preset: str | Preset | None = None,
    seeds: Iterable[int] | None = None,
    more: Arms | None = None,
    **how: Any,
) -> Sweep:
    """The sweep of a study; `more` adds arms of your own, and `how` goes to `Sweep` (root, progress).

    `sweep("depth", more={"8": {"connector.depth": 8}}).run()` measures what is missing and returns the sweep's table.
    """
    study, base = named(name), lab_scale(preset)
    arms = {**study.settings(base.name), **(more or {})}
    seeds = SEEDS.get(base.name, FEWER) if seeds is None else seeds
    return Sweep(
        base,
        arms=arms,
        seeds=seeds,
        **{"measure": study.measure, "measured": study.measured, **how},
    )


def stored(name: str, preset: str = "nano", folder: Path = HOME) -> pd.DataFrame:
    """The table of a study that ships: a row per arm × seed × rung × condition, of rung 3 also × attribute.

    `score` is 0 at chance and 1 when perfect; `at` is the amount of a scaling study.

    Raises:
        FileNotFoundError: this study was not run on this preset; the message says how to run it.
    """
    path = folder / preset / f"{named(name).name}.csv"
    if not path.exists():
        command = f"python -m desta_lab ablate {name} --preset {preset}"
        raise FileNotFoundError(
            f"{path}: the study {name} has no table of preset {preset}; run `{command}`."
        )
    words = dict.fromkeys(("arm", "cell", "attribute", "condition"), str)
    return pd.read_csv(path, dtype=words, keep_default_na=False, na_values=[""])


def table(study: Study, swept: Sweep) -> pd.DataFrame:
    """What a study keeps of its sweep: scores of finished cells; of the ladder, attributes of the audio condition alone."""
    found = swept.table()
    found = found[found["error"].isna()]
    found = found[
        (found["attribute"] == "all") | (found["condition"] == "audio") | found["rung"].isna()
    ]
    found = found[
        (found["share"] == 1) | found["attribute"].isin(["all", "following", "perplexity"])
    ]
    amounts = {
        about["arm"]: _amount(study, cell.preset)
        for about, cell in zip(swept.about, swept.cells, strict=True)
    }
    found = found.assign(at=found["arm"].map(amounts), score=found["score"].round(4))
    places = {arm: place for place, arm in enumerate(amounts)}
    return found.sort_values(
        ["arm", "seed"],
        key=lambda column: column.map(places) if column.name == "arm" else column,
        kind="stable",
    )[[*COLUMNS, *study.columns]].reset_index(drop=True)


def _amount(study: Study, preset: Preset) -> float:
    if study.amount == "train":
        return float(preset.clips["train"] if preset.train is None else preset.train)
    return float(getattr(preset, study.amount)) if study.amount else float("nan")


def run(
    names: Iterable[str],
    preset: str,
    seeds: Iterable[int] | None,
    jobs: int,
    out: Path,
    progress: Progress,
    root: Path | None = None,
) -> Iterator[tuple[Study, list[str]]]:
    """Run what is missing of some studies, keep each one's table and figure, and yield what it shows.

    The cells of all of them run together. With `jobs=0` nothing is run: what is finished is drawn.
    """
    chosen = [named(name) for name in names]
    how: dict[str, Any] = {
        "preset": preset,
        "seeds": None if seeds is None else list(seeds),
        "root": root,
    }
    if jobs:
        for measured in dict.fromkeys(study.measured for study in chosen):
            some = [study for study in chosen if study.measured == measured]
            arms = {
                arm: turned for study in some for arm, turned in _distinct(study.settings(preset))
            }
            every = sweep(some[0].name, **how, progress=progress)
            whole = Sweep(
                every.preset,
                arms=arms,
                seeds=every.seeds,
                root=every.root,
                measure=some[0].measure,
                measured=measured,
                progress=progress,
            )
            if absent := [
                part for study in some for part in missing_parts(study, every.root / "models")
            ]:
                progress("ablate")(f"{whole.cost(jobs)} Before, made once: {', '.join(absent)}.")
            for part in absent:
                make_part(part, every.root / "models", progress)
            whole.run(jobs)
    for study in chosen:
        found = table(study, sweep(study.name, **how, progress=progress))
        if found["arm"].nunique() > 1:  # one arm alone answers nothing
            seen = {
                "cells": sorted(set(found["cell"])),
                "seeds": sorted({int(seed) for seed in found["seed"]}),
            }
            saving.save_figure(
                picture(study, found),
                out,
                study.name,
                table=found,
                provenance={"preset": preset, **seen},
            )
            yield study, statements(study, found)


def _distinct(arms: Arms) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Arms under the name of what they change: one that two studies share is one."""
    for settings in arms.values():
        yield json.dumps(settings, sort_keys=True), settings


# ---- what a table shows ----


class Difference(NamedTuple):
    """An arm's score minus that of the base, paired over seeds, with a 95 % t-interval."""

    arm: str
    mean: float
    low: float
    high: float
    seeds: int

    @property
    def shown(self) -> bool:
        """Whether the interval excludes 0; that of one seed is unknown and excludes nothing."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        digits = (
            3 if min(abs(self.low), abs(self.high)) < 0.005 else 2
        )  # so many that the interval tells its side of 0
        mean, low, high = (f"{value:+.{digits}f}" for value in self[1:4])
        return f"{mean} [{low}, {high}]" if self.seeds > 1 else f"{mean} (one seed)"


def scores(found: pd.DataFrame, rung: int = 3, condition: str = "audio") -> pd.DataFrame:
    """Score of a rung under a condition: one column an arm in the table's order, one row a seed."""
    some = found[
        (found["rung"] == rung) & (found["attribute"] == "all") & (found["condition"] == condition)
    ]
    arms = list(dict.fromkeys(found["arm"]))
    return some.pivot(index="seed", columns="arm", values="score").reindex(columns=arms)


def differences(study: Study, found: pd.DataFrame, rung: int = 3) -> list[Difference]:
    """Each arm beside the base, over the seeds that both have."""
    wide, listed = scores(found, rung), []
    for arm in [arm for arm in wide if arm != study.against and study.against in wide]:
        gaps = (wide[arm] - wide[study.against]).dropna()
        if len(gaps):
            listed.append(Difference(arm, *statistics.mean_interval(gaps), len(gaps)))
    return listed


class Fit(NamedTuple):
    """score = top / (1 + (half / n) ** slope): chance at nothing, `half` of `top` at n = half; intervals of 95 %."""

    top: tuple[float, float, float]  # value, low, high
    half: tuple[float, float, float]
    slope: tuple[float, float, float]
    last: float  # the largest amount that was measured

    @property
    def level(self) -> bool:
        """Whether the points come near the curve's top: else it stands beyond them, and is a guess."""
        return float(self.at(np.array([self.last]))[0]) >= LEVEL * self.top[0]

    @property
    def determined(self) -> bool:
        """Whether the points level off and the seeds agree on where: on the top, and on the amount for half of it."""
        narrow = (
            self.top[2] - self.top[1] <= TOP_WIDTH and self.half[2] <= HALF_RATIO * self.half[1]
        )
        return narrow and self.level

    def at(self, amount: np.ndarray) -> np.ndarray:
        """The curve's score at some amounts."""
        return _saturating(np.log(amount), self.top[0], np.log(self.half[0]), self.slope[0])


def _saturating(log_n: Any, top: float, log_half: float, slope: float) -> Any:
    return top / (1 + np.exp(slope * (log_half - log_n)))


def fit(found: pd.DataFrame, rung: int = 3) -> Fit | None:
    """A saturating curve through the means over seeds; None below four amounts or three seeds that have them all, or
    where no fit is found.

    Its intervals are those of a bootstrap over seeds, which a few seeds make too narrow rather than too wide.
    """
    wide = scores(found, rung).dropna()
    amounts = (
        found.drop_duplicates("arm").set_index("arm")["at"].reindex(wide.columns).to_numpy(float)
    )
    if len(wide) < 3 or len(set(amounts)) < 4:
        return None
    x, y = np.log(amounts), wide.to_numpy()
    limits = (
        [0.0, x.min() - 5, 0.1],
        [1.0, x.max() + 5, 8.0],
    )  # a score ends at 1; halves far outside are possible

    def curve(rows: np.ndarray) -> np.ndarray:
        means = y[rows].mean(axis=0)
        first = (np.clip(means.max(), 0.05, 0.99), np.median(x), 1.0)
        try:
            return np.asarray(
                optimize.curve_fit(_saturating, x, means, first, bounds=limits, max_nfev=60)[0]
            )
        except RuntimeError:
            return np.full(3, np.nan)

    draws = statistics.resample_rows(len(y), resamples=RESAMPLES)
    known: dict[bytes, np.ndarray] = {}
    for rows in np.sort(draws, axis=1):
        known.setdefault(rows.tobytes(), curve(rows))
    some = np.array([known[rows.tobytes()] for rows in np.sort(draws, axis=1)])
    some[:, 1] = np.exp(some[:, 1])
    value = curve(np.arange(len(y)))
    value[1] = np.exp(value[1])
    low, high = zip(*map(statistics.interval_ends, some.T), strict=True)
    if np.isnan(some).any(axis=1).mean() > 0.05 or np.isnan(value).any():
        return None
    top, half, slope = (
        (float(v), float(a), float(b)) for v, a, b in zip(value, low, high, strict=True)
    )
    return Fit(top, half, slope, float(amounts.max()))


def statements(study: Study, found: pd.DataFrame) -> list[str]:
    """What a table shows, by rule, in sentences."""
    if study.say:
        return study.say(study, found)
    gaps = differences(study, found)
    shown = [f"{gap.arm} {gap}" for gap in gaps if gap.shown]
    rest = [f"{gap.arm} {gap}" for gap in gaps if not gap.shown]
    seeds = sorted({gap.seeds for gap in gaps})
    said = []
    if seeds == [1]:
        said.append(
            f"Rung 3 against {study.against}, in one seed, which alone shows nothing: {_means(gaps)}."
        )
    elif gaps:
        over = "–".join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))
        said.append(
            f"Rung 3 against {study.against}, over {over} seeds: "
            f"shown: {', '.join(shown) or 'nothing'}; not shown: {', '.join(rest) or 'nothing'}."
        )
    if study.amount:
        said.append(_said_of(fit(found), study))
    return said


def _means(gaps: Iterable[Difference]) -> str:
    return ", ".join(f"{gap.arm} {gap.mean:+.2f}" for gap in gaps)


def _said_of(curve: Fit | None, study: Study) -> str:
    if curve is None:
        return "No curve: it takes four amounts, three seeds that have them all, and a fit that converges."
    top, half, slope = (
        "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(*v, d=d)
        for v, d in zip(curve[:3], (2, 0, 1), strict=True)
    )
    unit = "clips" if study.amount == "train" else study.amount
    if not curve.determined:
        return (
            f"The saturating curve is not determined by these points{' (they do not level off)' * (not curve.level)}: "
            f"top {top}, half of it at {half} {unit} (95 % over seeds)."
        )
    return f"Saturating curve: top {top}, half of it at {half} {unit}, slope {slope} (95 % over seeds)."


def picture(study: Study, found: pd.DataFrame) -> saving.Picture:
    """The arms' scores on rung 3, rung 0 beside it, every seed a dot, with every control; the curve where one holds."""
    if study.draw:
        return study.draw(study, found)
    gaps, curve = differences(study, found), fit(found) if study.amount else None
    shown = _means(gap for gap in gaps if gap.shown)
    rest = ", ".join(gap.arm for gap in gaps if not gap.shown)
    words = "; ".join([f"shown {shown}"] * bool(shown) + [f"not shown {rest}"] * bool(rest))
    seeds = found["seed"].nunique()
    if seeds == 1:
        words = _means(gaps)
    words = (
        f"{study.title}, rung 3 against {study.against}: {words} ({seeds} seed{'s' * (seeds > 1)})"
    )
    line = (
        []
        if curve is None or not curve.determined
        else [curve.top[0], curve.half[0], curve.slope[0]]
    )
    unit = {"train": "training clips", "": ""}.get(study.amount, f"training {study.amount}")
    return claim_figures.plot_ablation(found, words, unit, line)


# ---- the page ----


def page(folder: Path = HOME) -> str:
    """The page of all studies that have a table under a folder, generated from the tables alone."""
    kept = [
        (study, preset, stored(study.name, preset, folder))
        for study in STUDIES.values()
        for preset in presets.PRESETS
        if (folder / preset / f"{study.name}.csv").exists()
    ]
    noise = "".join(_noise(found) for study, _, found in kept if study.name == "rounding")
    compared = sum(len(differences(study, found)) for study, _, found in kept if study.say is None)
    lines = [
        "# Ablations",
        "",
        "*Generated by `python -m desta_lab ablate` from the tables in this folder; the sentences are computed.*",
        "",
        "Each study turns one thing and trains a connector per arm and seed. A seed is that of the world, of the "
        "connector's birth and of the order of examples. The score is accuracy above chance, calibrated: 0 is chance, "
        "1 is perfect, on voices never heard in training. Rung 3 asks what was never trained; rung 0 is the trained "
        "prompt. **Shown** means that the 95 % t-interval of the difference, paired over seeds, excludes 0; *not "
        "shown* does not mean *no difference*: the interval says how large one could still be. There is no correction "
        f"for the {compared} comparisons on this page: of so many, {compared / 20:.0f} would be called shown by "
        f"chance alone if nothing differed.{noise}",
        "",
    ]
    for name in dict.fromkeys(study.name for study, _, _ in kept):
        lines += _section(
            named(name), [(preset, found) for study, preset, found in kept if study.name == name]
        )
    missing = [study for study in STUDIES.values() if study not in [one for one, _, _ in kept]]
    if missing:
        lines += ["## Not run yet", ""]
        lines += [
            f"- **{study.title}**: `python -m desta_lab ablate {study.name}`" for study in missing
        ] + [""]
    return "\n".join(lines)


def _noise(found: pd.DataFrame) -> str:
    gaps = scores(found).diff(axis=1).iloc[:, 1].abs().dropna()
    return (
        f" And rounding alone moves a cell on rung 3: by {gaps.median():.2f} at the median of {len(gaps)} seeds and "
        f"{gaps.max():.2f} at most (Rounding, at the end)."
    )


def _section(study: Study, kept: list[tuple[str, pd.DataFrame]]) -> list[str]:
    lines = [f"## {study.title}", "", study.question, ""]
    for preset, found in kept:
        said = statements(study, found)
        seeds = [str(seed) for seed in sorted({int(seed) for seed in found["seed"]})]
        where = f"On preset `{preset}`, seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}"
        where += (
            f", {TURNED[preset]['steps']} steps unless an arm says otherwise"
            if preset in TURNED
            else ""
        )
        drawn = (
            "What was learned against what was forgotten by"
            if study.draw
            else "Rung 3 and rung 0 of"
        )
        alt = " ".join([f"{drawn} every arm of {study.title} on preset {preset}.", *said])
        lines += [f"{where}:", "", f"![{alt}]({preset}/{study.name}.png)", ""]
        lines += [
            *(f"- {sentence}" for sentence in said),
            "",
            *([] if study.say else _numbers(study, found)),
            "",
        ]
    commands = [
        shlex.join(["python", "-m", "desta_lab", "ablate", study.name, "--preset", preset])
        for preset in study.presets
    ]
    again = "; ".join(f"`{command}`" for command in commands)
    return [*lines, f"**What it does not show.** {study.cannot}", "", f"Again: {again}.", ""]


def _numbers(study: Study, found: pd.DataFrame) -> list[str]:
    """One row an arm: means over its seeds, and the difference on rung 3."""
    conditions = [
        (3, "audio"),
        (0, "audio"),
        (3, "untrained"),
        (3, "shuffled"),
        (3, "silence"),
        (3, "oracle"),
    ]
    wide = [scores(found, *condition) for condition in conditions]
    gaps = {gap.arm: gap for gap in differences(study, found)}
    rows = [
        "| arm | seeds | rung 3 | rung 0 | untrained | shuffled | silence | text oracle | rung 3 against "
        f"{study.against} |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for arm in wide[0]:
        means = [one[arm].mean() for one in wide]
        cells = ["—" if np.isnan(mean) else f"{mean:.2f}" for mean in means]
        gap = f"{gaps[arm]}, {'shown' if gaps[arm].shown else 'not shown'}" if arm in gaps else "—"
        rows.append(f"| {arm} | {wide[0][arm].count()} | {' | '.join(cells)} | {gap} |")
    return rows


def write_page(folder: Path = HOME) -> Path:
    """Write the page beside its tables."""
    cache.write_whole(folder / "README.md", page(folder).encode())
    return folder / "README.md"
