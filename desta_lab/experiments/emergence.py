"""Emergence over seeds: several runs measured at every checkpoint, and a report of the tables."""

import functools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from desta_lab.analysis import probes
from desta_lab.analysis.probe_sites import pool_over_time
from desta_lab.cache import find_or_make, write_whole
from desta_lab.clips import Clip, balance_speakers
from desta_lab.evaluation import conditions, verdict
from desta_lab.evaluation.evaluate import evaluate
from desta_lab.evaluation.tasks import Task
from desta_lab.experiments import emergence_claims as claims
from desta_lab.experiments.experiment import Experiment
from desta_lab.model import presets
from desta_lab.model.presets import Preset
from desta_lab.training import checkpoints
from desta_lab.training.features import FeatureStore
from desta_lab.views import emergence_figures as figures
from desta_lab.views import saving
from desta_lab.views.progress import Progress, no_progress, report_each

# the report that ships, of preset nano
HOME = Path(__file__).resolve().parents[2] / "figures" / "emergence"
TABLES = ("curves", "jumps", "probes")  # what is tracked; everything else is made from them
PROBED = {"validation": 96, "test": 192}  # clips of speakers never heard in training
SCORED = 96  # of the test clips
CALIBRATING = 32  # of the validation clips
TRAIN_CLIPS = (96, 192, 384)  # sizes of smaller training sets
SEEDS, EVERY = (0, 1, 2, 3, 4), 16  # and steps between two checkpoints, of the report that ships
FEW_SEEDS = (0, 1, 2)  # of the runs with smaller training sets and of the rival
STEP_SECONDS = 0.3  # a training step of nano on one core of the machine of LOG.md
CHECKPOINT_SECONDS = 5.0  # measuring a checkpoint with its probes, there
COLUMNS = ["condition", "task", "rung", "attribute", "chance"]
COLUMNS += ["clip", "speaker", "calibrated", "margin"]  # of the answers that are kept

Judged = dict[str, tuple[claims.Claim, saving.Picture]]  # figure's name → claim and figure

# ---- runs → tables ----


@dataclass(frozen=True)
class Run:
    """One run to measure: its seed, its targets, and how many clips it trains with (None: all)."""

    seed: int
    kind: str = "self"
    train_clips: int | None = None

    @property
    def is_full(self) -> bool:
        """Whether rungs 2 to 5 are asked and embeddings are probed; other runs are asked rung 3."""
        return self.kind == "self" and self.train_clips is None


def report_folder(preset: Preset, seeds: Sequence[int]) -> Path:
    """Where a report goes if nobody says: the one that ships is renewed by its like alone."""
    usual = preset == replace(presets.nano(), checkpoint_every=EVERY) and tuple(seeds) == SEEDS
    return HOME if usual else HOME.with_name(f"emergence-{preset.name}")


def plan_runs(seeds: Sequence[int]) -> list[Run]:
    """Every run of the report, first those that most claims need."""
    seeds = list(dict.fromkeys(seeds))  # a seed counts once in every mean
    few = [seed for seed in seeds if seed in FEW_SEEDS]
    full = [Run(seed) for seed in seeds]
    rivals = [Run(seed, "label") for seed in few]
    return full + rivals + [Run(seed, train_clips=size) for size in TRAIN_CLIPS for seed in few]


class RunMeasurement:
    """One run, measured at every checkpoint; what is known of a checkpoint is found by its hash."""

    def __init__(
        self, preset: Preset, run: Run, root: Path | None = None, progress: Progress = no_progress
    ) -> None:
        if run.kind != "self":  # the rival has the checkpoints of a quickstart
            usual = presets.PRESETS[preset.name]() if preset.name in presets.PRESETS else preset
            preset = replace(preset, checkpoint_every=usual.checkpoint_every)
        preset = replace(preset, train=run.train_clips)
        self.run = run
        self.experiment = Experiment(preset, seed=run.seed, root=root, progress=progress)
        self.llm, corpus = self.experiment.llm, self.experiment.corpus
        rungs = (2, 3, 4, 5) if run.is_full else (3,)
        self.tasks: list[Task] = [task for task in self.experiment.tasks if task.rung in rungs]
        probed = {s: balance_speakers(corpus.split(s), count) for s, count in PROBED.items()}
        self.stored: list[Clip] = [*probed["validation"], *probed["test"]]
        self.calibration = probed["validation"][:CALIBRATING]
        self.scored = probed["test"][:SCORED]
        self.clips = self.stored if run.is_full else [*self.calibration, *self.scored]

    def measure(self) -> dict[str, pd.DataFrame]:
        """The tables of all checkpoints: `answers` and, of a full run, `probes`.

        Answers have a row per step × condition × task × clip, probes per step × attribute × kind ×
        clip.
        """
        listed = checkpoints.list_checkpoints(self.folder)
        report = self.experiment.progress(f"checkpoints of {self.folder.name}")
        parts: dict[str, list[pd.DataFrame]] = defaultdict(list)
        for checkpoint in report_each(listed, report):
            for kind, table in self._measure_checkpoint(checkpoint).items():
                parts[kind].append(table.assign(step=checkpoint["step"]))
        return {kind: pd.concat(some, ignore_index=True) for kind, some in parts.items()}

    @cached_property
    def folder(self) -> Path:
        """The folder of the run, which is trained if it is not there."""
        return self.experiment.train(self.run.kind)

    def _measure_checkpoint(self, checkpoint: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
        """The tables of one checkpoint; runs that begin with the same connector share their first.

        The audio embeddings are made once for both tables, and only where one is missing.
        """
        embed = functools.cache(lambda: self._embed(checkpoint))
        facts = {
            "checkpoint": checkpoint["sha256"],
            "corpus": self.experiment.corpus.hash,
            "clips": [clip.id for clip in self.clips],
            "sizes": [SCORED, CALIBRATING],
            "tasks": [repr(task) for task in self.tasks],
            **conditions.condition_facts(),
        }
        if self.experiment.preset.transcript:
            facts["transcript"] = True

        def find(kind: str, measure: Callable[[Tensor], pd.DataFrame]) -> pd.DataFrame:
            provenance = self.experiment.provenance(kind, **facts)
            return find_or_make(self.experiment.root, provenance, lambda: measure(embed()))

        tables = {"answers": find("answers", self._score_answers)}
        if self.run.is_full:
            tables["probes"] = find("probes", self._fit_probes)
        return tables

    @cached_property
    def _features(self) -> FeatureStore:
        return self.experiment.store_features(self.stored)

    def _embed(self, checkpoint: Mapping[str, Any]) -> Tensor:
        """Audio embeddings of `clips` at a checkpoint."""
        checkpoints.load_checkpoint(self.folder, self.llm, checkpoint["step"])
        return conditions.embed_clips(self.llm, self._features[[clip.id for clip in self.clips]])

    def _score_answers(self, audio_embeddings: Tensor) -> pd.DataFrame:
        """The scores of every task under every condition."""
        rows = [self.clips.index(clip) for clip in [*self.scored, *self.calibration]]
        embeddings = audio_embeddings[rows]
        table = evaluate(
            self.llm,
            self.tasks,
            self.scored,
            self.calibration,
            audio_embeddings=embeddings,
            transcripts=self.experiment.preset.transcript,
        )
        return table[COLUMNS].round({"margin": 4})

    def _fit_probes(self, audio_embeddings: Tensor) -> pd.DataFrame:
        """What a probe of other speakers reads in the audio embeddings of the scored clips."""
        site = pool_over_time(audio_embeddings).cpu().numpy()
        speakers = [clip.speaker for clip in self.clips]
        attributes = [task.attribute for task in self.tasks if task.rung == 3]
        labels = {name: [clip.attributes[name] for clip in self.clips] for name in attributes}
        strata = [f"{c.attributes['gender']} {c.attributes['accent']}" for c in self.clips]
        folds = probes.speaker_folds(speakers, strata)
        found = probes.fit_probes(site, labels, speakers, folds)
        found["clip"] = [self.clips[row].id for row in found["row"]]
        scored = {clip.id for clip in self.scored}
        return found[found["clip"].isin(scored)].drop(columns="row")


def measure_runs(
    preset: Preset,
    seeds: Sequence[int],
    out: Path,
    *,
    root: Path | None = None,
    progress: Progress = no_progress,
) -> dict[str, pd.DataFrame]:
    """Train and measure every run of the plan, or find it; write the tables of the report to `out`.

    The tables are written after every run, so that a report can be made of what there is.
    """
    runs = plan_runs(seeds)
    report = progress("emergence")
    report(describe_cost(preset, runs))
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in TABLES}
    tables: dict[str, pd.DataFrame] = {}
    for run in report_each(runs, report):
        measurement = RunMeasurement(preset, run, root, progress)
        measured = measurement.measure()
        experiment = measurement.experiment
        able = set(verdict.able_tasks(experiment.oracle()))
        found = {"curves": claims.score_curves(measured["answers"], able)}
        if run.is_full:
            found["jumps"] = claims.measure_jumps(measured["answers"])
            found["probes"] = claims.score_probes(measured["probes"])
        clips = len(experiment.clips("train"))
        for name, table in found.items():
            parts[name].append(table.assign(run=run.kind, clips=clips, seed=run.seed))
            tables[name] = pd.concat(parts[name], ignore_index=True).round(4)
            content = tables[name].to_csv(index=False, lineterminator="\n")
            write_whole(out / f"{name}.csv", content.encode())
    return tables


def describe_cost(preset: Preset, runs: Sequence[Run]) -> str:
    """What the report costs where nothing is on disk, in two sentences."""
    count = len(checkpoints.checkpoint_steps(preset.steps, preset.checkpoint_every))
    seconds = preset.steps * STEP_SECONDS + count * CHECKPOINT_SECONDS
    return (
        f"{len(runs)} runs of {preset.steps} steps, {count} checkpoints each; what is on disk is"
        f" not done again. At most about {len(runs) * seconds / 60:.0f} minutes on one core, at"
        f" {STEP_SECONDS:g} s a step and {CHECKPOINT_SECONDS:g} s a checkpoint (preset nano)."
    )


# ---- tables → report ----


def judge_tables(tables: Mapping[str, pd.DataFrame]) -> Judged:
    """Every claim with its figure, from the tables alone."""
    curves, jumps, probed = (tables[name] for name in TABLES)
    tasks, last = claims.rising_tasks(curves), int(curves["step"].max())
    crossed = claims.find_crossings(curves, probed)
    own = claims.select_full_runs(crossed)
    half = own[(own["what"] == "half way") & own["task"].isin(tasks)]
    steps = sorted(claims.select_full_runs(curves)["step"].unique().astype(float).tolist())
    distances = claims.measure_distances(half, steps)
    sizes = claims.score_corpus_sizes(curves)
    draw = {
        "curves": (
            claims.judge_arrival(crossed, max(np.diff(steps), default=0)),
            partial(figures.plot_curves, curves, probed),
        ),
        "jumps": (claims.judge_jumps(jumps, curves), partial(figures.plot_jumps, jumps, tasks)),
        "together": (
            claims.judge_distances(distances, half),
            partial(figures.plot_crossings, half, distances),
        ),
        "before": (claims.judge_order(crossed), partial(figures.plot_onsets, own, last)),
    }
    if len(sizes):
        scaled = partial(figures.plot_corpus_size, sizes, last)
        draw["scaled"] = (claims.judge_corpus_size(sizes), scaled)
    return {
        name: (claim, plot(f"{claim.question} {_capitalise(claim.verdict)}"))
        for name, (claim, plot) in draw.items()
    }


def write_report(folder: Path) -> Path:
    """Write the report and its figures from the tables in a folder; returns the path of the report.

    Raises:
        FileNotFoundError: a table is missing.
    """
    how: dict[str, Any] = {"keep_default_na": False, "na_values": [""]}  # a task may be called NA
    tables = {name: pd.read_csv(folder / f"{name}.csv", **how) for name in TABLES}
    judged = judge_tables(tables)
    for name, (_, picture) in judged.items():
        saving.save_figure(picture, folder, f"figure_{name}")
    text = format_report(tables, judged)
    write_whole(folder / "README.md", text.encode())
    return folder / "README.md"


def format_report(tables: Mapping[str, pd.DataFrame], judged: Judged) -> str:
    """The report as Markdown."""
    own = claims.select_full_runs(tables["curves"])
    runs = tables["curves"].drop_duplicates(claims.RUN)
    lines = [
        "# Emergence, taken seriously",
        "",
        f"Made by `python -m desta_lab emerge` from the tables beside it: {len(runs)} runs"
        f" ({_describe_runs(runs)}), {own['step'].nunique()} checkpoints,"
        f" {own['task'].nunique()} tasks never trained, {SCORED} clips of speakers never heard in"
        " training. A seed is a world, a newborn connector and an order of examples. Accuracy is"
        " of calibrated ranking and above chance (0 chance, 1 perfect); the margin is the"
        " calibrated log-probability of the right option above that of the best other one, so"
        " that accuracy is its sign. Brackets are 95 % intervals: over seeds t-intervals, since a"
        " bootstrap of so few seeds would promise too much.",
        "",
    ]
    for name, (claim, picture) in judged.items():
        lines += [
            f"## {claim.question}",
            "",
            f"**{_capitalise(claim.verdict)}.**",
            "",
            *(f"- {number}" for number in claim.numbers),
            "",
            f"*Rule.* {claim.rule}",
            "",
            f"![{picture.get_suptitle()}](figure_{name}.png)".replace("\n", " "),
            "",
        ]
    return "\n".join(lines)


def _describe_runs(runs: pd.DataFrame) -> str:
    whole = runs["clips"].max()
    own, small = runs[runs["clips"] == whole], runs[runs["clips"] < whole]
    own, rival = own[own["run"] == "self"], runs[runs["run"] == "label"]
    words = [f"seeds {_list(own['seed'])} with self-generated targets of all {whole} clips"]
    if len(small):
        words.append(f"seeds {_list(small['seed'])} with {_list(small['clips'])}")
    if len(rival):
        seeds = _list(rival["seed"])
        words.append(f"seeds {seeds} with bare labels of one attribute, as a control")
    return "; ".join(words)


def _list(values: pd.Series) -> str:
    return ", ".join(map(str, sorted(values.unique())))


def _capitalise(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]
