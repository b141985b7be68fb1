"""Emergence over seeds: every rung of the finest ladder measured, and the report that is made of the tables alone."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import torch

from desta_lab import cache
from desta_lab.analysis import probes
from desta_lab.analysis.sites import pool_over_time
from desta_lab.clips import Clip, balance_speakers
from desta_lab.evaluation import conditions, verdict
from desta_lab.evaluation.evaluate import evaluate
from desta_lab.evaluation.tasks import Task
from desta_lab.experiments import emergence_claims
from desta_lab.experiments.experiment import Experiment, Progress, no_progress
from desta_lab.model import presets
from desta_lab.model.presets import Preset
from desta_lab.training import checkpoints
from desta_lab.training.features import FeatureStore
from desta_lab.views import emergence_figures as drawings
from desta_lab.views import saving

HOME = (
    Path(__file__).resolve().parents[2] / "figures" / "emergence"
)  # the report that ships, of preset nano
TABLES = ("curves", "jumps", "probes")  # what is tracked; all else is made of them
VERSION = 1  # of what is measured at a rung: raise it and everything is measured again
PROBED = {"validation": 96, "test": 192}  # clips of speakers never heard in training
SCORED, CALIBRATING = (
    96,
    32,
)  # of these: test clips that are scored, validation clips that calibrate
SIZES = (96, 192, 384)  # clips trained with, beside all; seeds 0 to 2
STEP_S, RUNG_S = (
    0.3,
    5.0,
)  # one core of the machine of LOG.md, nano: a training step, a rung with its probes


@dataclass(frozen=True)
class Run:
    """One run to measure: its seed, its targets, how many clips it trains with (None: all), and what is asked."""

    seed: int
    kind: str = "self"
    train: int | None = None

    @property
    def whole(self) -> bool:
        """Whether rungs 2 to 5 are asked and the audio embeddings are probed; of the other runs rung 3 is asked."""
        return self.kind == "self" and self.train is None


def home(preset: Preset) -> Path:
    """Where the report of a preset goes."""
    return HOME if preset.glass_box else HOME.with_name(f"emergence-{preset.name}")


def plan(seeds: Sequence[int], sizes: Sequence[int] = SIZES) -> list[Run]:
    """Every run of the report, the ones that most claims need first."""
    few = [seed for seed in seeds if seed in (0, 1, 2)]
    return [
        *(Run(seed) for seed in seeds),
        *(Run(seed, "label") for seed in few),
        *(Run(seed, train=size) for size in sizes for seed in few),
    ]


class Climb:
    """One run's ladder, measured at every rung; what is known of a checkpoint is kept by its hash."""

    def __init__(
        self, preset: Preset, run: Run, root: Path | None = None, progress: Progress = no_progress
    ) -> None:
        self.run, self.progress = run, progress
        rungs = (
            preset.checkpoint_every
            if run.kind == "self"
            else presets.get_preset(preset.name).checkpoint_every
        )  # the rival's, of quickstarts
        settings = replace(preset, train=run.train, checkpoint_every=rungs)
        self.lab = Experiment(settings, seed=run.seed, root=root, progress=progress)
        asked = (2, 3, 4, 5) if run.whole else (3,)
        self.tasks: list[Task] = [task for task in self.lab.tasks if task.rung in asked]
        clips = {
            split: balance_speakers(self.lab.corpus.split(split), count)
            for split, count in PROBED.items()
        }
        self.stored: list[Clip] = [*clips["validation"], *clips["test"]]
        self.held_out, self.scored = clips["validation"][:CALIBRATING], clips["test"][:SCORED]
        self.clips = self.stored if run.whole else [*self.held_out, *self.scored]
        self.row = {clip.id: i for i, clip in enumerate(self.clips)}
        self._heard: tuple[str, torch.Tensor] | None = None

    def measure(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Answers (a row per step × condition × task × clip) and probes (per step × attribute × kind × clip)."""
        folder, lab = self.lab.train(self.run.kind), self.lab
        store = FeatureStore(
            lab.root / "features",
            lab.llm.encoder,
            lab.llm.provenance["encoder_sha256"],
            lab.corpus,
            self.stored,
        )
        store.compute(self.progress("features"))
        rungs = checkpoints.list_checkpoints(folder)
        tell = self.progress(f"rungs of {folder.name}")
        answers, read = [], []
        for done, rung in enumerate(rungs, 1):
            at = {
                "step": rung["step"],
                "seed": self.run.seed,
                "run": self.run.kind,
                "clips": len(lab.clips("train")),
            }
            table = cache.cached_table(
                self._place("answers", rung), partial(self._answers, folder, rung, store)
            )
            answers.append(table.assign(**at))
            if self.run.whole:
                table = cache.cached_table(
                    self._place("probes", rung), partial(self._probes, folder, rung, store)
                )
                read.append(table.assign(**at))
            tell(done, len(rungs))
        return pd.concat(answers, ignore_index=True), pd.concat(
            read, ignore_index=True
        ) if read else pd.DataFrame()

    def _place(self, table: str, rung: dict[str, Any]) -> Path:
        """By the checkpoint and all that is asked of it: runs that are born the same share their first rung."""
        about = [
            VERSION,
            table,
            rung["sha256"],
            self.lab.corpus.hash,
            [clip.id for clip in self.clips],
            [SCORED, CALIBRATING],
            [repr(task) for task in self.tasks],
            self.lab.llm.provenance,
        ]
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
        return self.lab.root / "emergence" / f"{table}-{digest}.csv"

    def _spoken(self, folder: Path, rung: dict[str, Any], store: FeatureStore) -> torch.Tensor:
        """Audio embeddings of `clips` at a rung, heard once."""
        if self._heard is None or self._heard[0] != rung["sha256"]:
            checkpoints.load_checkpoint(folder, self.lab.llm, rung["step"])
            self._heard = (
                rung["sha256"],
                conditions.embed_clips(self.lab.llm, store[list(self.row)]),
            )
        return self._heard[1]

    def _answers(self, folder: Path, rung: dict[str, Any], store: FeatureStore) -> pd.DataFrame:
        whole = self._spoken(folder, rung, store)
        rows = [self.row[clip.id] for clip in [*self.scored, *self.held_out]]
        table = evaluate(
            self.lab.llm, self.tasks, self.scored, self.held_out, audio_embeddings=whole[rows]
        )
        columns = [
            "condition",
            "task",
            "rung",
            "attribute",
            "chance",
            "clip",
            "speaker",
            "calibrated",
            "margin",
        ]
        return table[columns].round({"margin": 4})

    def _probes(self, folder: Path, rung: dict[str, Any], store: FeatureStore) -> pd.DataFrame:
        """What a linear probe on other speakers reads off the audio embeddings of the clips that are scored."""
        site = pool_over_time(self._spoken(folder, rung, store)).cpu().numpy()
        speakers = [clip.speaker for clip in self.clips]
        labels = {
            t.attribute: [c.attributes[t.attribute] for c in self.clips]
            for t in self.tasks
            if t.rung == 3
        }
        strata = [f"{c.attributes['gender']} {c.attributes['accent']}" for c in self.clips]
        told = probes.fit_probes(site, labels, speakers, probes.speaker_folds(speakers, strata))
        told["clip"] = told["row"].map(dict(enumerate(clip.id for clip in self.clips)))
        return told[told["clip"].isin({clip.id for clip in self.scored})].drop(columns="row")


def measure(
    preset: Preset,
    seeds: Sequence[int],
    out: Path,
    *,
    root: Path | None = None,
    progress: Progress = no_progress,
) -> dict[str, pd.DataFrame]:
    """Every run of the plan, trained and measured or found on disk; leaves the tables of the report in `out`.

    The tables are written after every run, so that a report can be made of what there is.
    """
    runs = plan(seeds)
    tell = progress("emergence")
    tell(cost(preset, runs))
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in TABLES}
    tables: dict[str, pd.DataFrame] = {}
    for done, run in enumerate(runs, 1):
        climb = Climb(preset, run, root, progress)
        answers, told = climb.measure()
        able = [
            task for task in verdict.able_tasks(climb.lab.oracle()) if task in set(answers["task"])
        ]
        about = {"run": run.kind, "clips": len(climb.lab.clips("train")), "seed": run.seed}
        parts["curves"].append(emergence_claims.curves(answers, able).assign(**about))
        if run.whole:
            parts["jumps"].append(emergence_claims.jumps(answers).assign(**about))
            parts["probes"].append(emergence_claims.probed(told).assign(**about))
        tables = {name: pd.concat(some, ignore_index=True).round(4) for name, some in parts.items()}
        for name, table in tables.items():
            cache.write_whole(
                out / f"{name}.csv", table.to_csv(index=False, lineterminator="\n").encode()
            )
        tell(done, len(runs))
    return tables


def cost(preset: Preset, runs: Sequence[Run]) -> str:
    """What the report costs where nothing is on disk, in two sentences."""
    rungs = len(checkpoints.checkpoint_steps(preset.steps, preset.checkpoint_every))
    minutes = len(runs) * (preset.steps * STEP_S + rungs * RUNG_S) / 60
    return (
        f"{len(runs)} runs of {preset.steps} steps, {rungs} rungs each; what is on disk is not done again. At most "
        f"about {minutes:.0f} minutes on one core, at {STEP_S:g} s a step and {RUNG_S:g} s a rung (preset nano)."
    )


# ---- tables → report ----


def claims(
    tables: dict[str, pd.DataFrame],
) -> dict[str, tuple[emergence_claims.Claim, saving.Picture]]:
    """Every claim with its figure, from the tables alone."""
    curves, told = tables["curves"], tables["probes"]
    tasks, last = emergence_claims.risen(curves), int(curves["step"].max())
    steps = sorted(emergence_claims.whole(curves)["step"].unique().astype(float).tolist())
    crossed = emergence_claims.crossings(curves, told)
    own = crossed[(crossed["run"] == "self") & (crossed["clips"] == crossed["clips"].max())]
    half = own[(own["what"] == "half way") & own["task"].isin(tasks)]
    distances, data = emergence_claims.distances(half, steps), emergence_claims.scaled(curves)
    told_of = {
        "curves": emergence_claims.once(crossed),
        "jumps": emergence_claims.mirage(tables["jumps"], curves),
        "together": emergence_claims.together(distances, half),
        "before": emergence_claims.before(crossed),
    }
    if len(data):
        told_of["scaled"] = emergence_claims.data(data)
    draw = {
        "curves": lambda head: drawings.plot_curves(curves, told, head),
        "jumps": lambda head: drawings.plot_jumps(tables["jumps"], tasks, head),
        "together": lambda head: drawings.plot_crossings(half, distances, head),
        "before": lambda head: drawings.plot_onsets(own, last, head),
        "scaled": lambda head: drawings.plot_corpus_size(data, last, head),
    }
    with matplotlib.rc_context(saving.STYLE):
        drawn = {
            name: draw[name](f"{claim.question} {claim.verdict[0].upper()}{claim.verdict[1:]}")
            for name, claim in told_of.items()
        }
    return {name: (told_of[name], drawn[name]) for name in told_of}


def report(folder: Path) -> Path:
    """Write the report and its figures from the tables in a folder; returns the path of the report.

    Raises:
        FileNotFoundError: a table is missing.
    """
    tables = {name: pd.read_csv(folder / f"{name}.csv") for name in TABLES}
    found = claims(tables)
    for name, (_, picture) in found.items():
        saving.save_figure(picture, folder, f"figure_{name}")
    cache.write_whole(folder / "README.md", text(tables, found).encode())
    return folder / "README.md"


def text(
    tables: dict[str, pd.DataFrame], found: dict[str, tuple[emergence_claims.Claim, saving.Picture]]
) -> str:
    """The report as Markdown."""
    curves = tables["curves"]
    own = emergence_claims.whole(curves)
    runs = curves.drop_duplicates(emergence_claims.RUN)
    small = runs[runs["clips"] < own["clips"].max()]
    kinds = [
        f"seeds {_listed(own['seed'])} with self-generated targets of all {own['clips'].max()} clips"
    ]
    if len(small):
        kinds.append(f"seeds {_listed(small['seed'])} with {_listed(small['clips'])}")
    if len(rival := runs[runs["run"] == "label"]):
        kinds.append(
            f"seeds {_listed(rival['seed'])} with bare labels of one attribute, as a control"
        )
    lines = [
        "# Emergence, taken seriously",
        "",
        f"Made by `python -m desta_lab emerge` from the tables beside it: {len(runs)} runs ({'; '.join(kinds)}), "
        f"{own['step'].nunique()} checkpoints, {own['task'].nunique()} tasks never trained, {SCORED} clips of speakers "
        "never heard in training. A seed is a world, a newborn connector and an order of examples. Accuracy is of "
        "calibrated ranking and above chance (0 chance, 1 perfect); the margin is the calibrated log-probability of "
        "the right option above that of the best other one, so that accuracy is its sign. Brackets are 95 % "
        "intervals: over seeds t-intervals, since a bootstrap of so few seeds would promise too much.",
        "",
    ]
    for name, (claim, picture) in found.items():
        lines += [
            f"## {claim.question}",
            "",
            f"**{claim.verdict[0].upper()}{claim.verdict[1:]}.**",
            "",
            *(f"- {number}" for number in claim.numbers),
            "",
            f"*Rule.* {claim.rule}",
            "",
            f"![{picture.get_suptitle()}](figure_{name}.png)".replace("\n", " "),
            "",
        ]
    return "\n".join(lines)


def _listed(values: pd.Series) -> str:
    return ", ".join(map(str, sorted(values.unique())))
