"""What a cell measures: train it, or find its run, and score the last step beside every control."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock

from desta_lab import cache
from desta_lab.evaluation import verdict
from desta_lab.evaluation.evaluate import evaluate
from desta_lab.experiments.cells import SCORED_RUNGS, Cell
from desta_lab.experiments.experiment import Experiment
from desta_lab.experiments.rows import WRITTEN
from desta_lab.training import checkpoints


@dataclass(frozen=True)
class TrainedCell:
    """A cell's experiment and run, with the seconds that preparing and training took."""

    experiment: Experiment
    folder: Path
    prepared: float
    trained: float

    def result(self, rows: pd.DataFrame, begin: float) -> dict[str, Any]:
        """What the cell leaves: its rows, its run and what it cost since `begin`."""
        scored = self.experiment.costs.seconds["models"] + time.perf_counter() - begin
        return {
            "run": self.folder.name,
            "rows": rows.to_dict("records"),
            "prepared": self.prepared,
            "trained": self.trained,
            "scored": scored,
        }


def train_and_score(cell: Cell, root: Path) -> dict[str, Any]:
    """Train a cell and score its rungs of the task ladder."""
    trained = train_cell(cell, root)
    begin = time.perf_counter()
    return trained.result(score_above_chance(score_last_step(trained)), begin)


def train_cell(cell: Cell, root: Path) -> TrainedCell:
    """Train a cell, or find its run. Cells share corpus, targets, oracle and features."""
    experiment = Experiment(cell.preset, seed=cell.seed, corpus=cell.corpus, root=root)
    with one_at_a_time(root, f"prepare-{cell.seed}"):
        experiment.oracle()
        if cell.target in WRITTEN:
            _ = experiment.targets
    with one_at_a_time(root, f"features-{cell.seed}-{Path(cell.preset.encoder).name}"):
        _ = experiment.features
    seconds = experiment.costs.seconds
    prepared = sum(seconds.values()) - seconds["models"]
    folder = experiment.run_folder(cell.target)
    with one_at_a_time(root, folder.name):
        experiment.train(cell.target)
    return TrainedCell(experiment, folder, prepared, sum(step_seconds(folder)))


def score_last_step(trained: TrainedCell) -> pd.DataFrame:
    """The scores of the last step under every control; the connector stays at that step."""
    experiment, folder = trained.experiment, trained.folder
    first, last = (checkpoints.list_checkpoints(folder)[i] for i in (0, -1))

    def score_untrained() -> pd.DataFrame:
        checkpoints.load_checkpoint(folder, experiment.llm, first["step"])
        table = score_by_ear(experiment)
        return table[table["condition"] == "audio"].assign(condition="untrained")

    how = {"rungs": SCORED_RUNGS, "condition": "untrained"}
    provenance = experiment.score_provenance(first).derive("scores", **how)
    untrained = cache.find_or_make(experiment.root, provenance, score_untrained)
    oracle = experiment.oracle()
    checkpoints.load_checkpoint(folder, experiment.llm, last["step"])
    scores = score_by_ear(experiment)
    return pd.concat([scores, untrained, oracle[oracle["rung"].isin(SCORED_RUNGS)]])


def score_by_ear(experiment: Experiment) -> pd.DataFrame:
    """The scores of a cell's rungs by ear, with the model as it is now."""
    return evaluate(
        experiment.llm,
        [task for task in experiment.tasks if task.rung in SCORED_RUNGS],
        experiment.clips("test"),
        experiment.clips("validation"),
        experiment.features,
        transcripts=experiment.preset.transcript,
    )


def score_above_chance(table: pd.DataFrame) -> pd.DataFrame:
    """Calibrated accuracy above chance by condition and rung, and of rung 3 by attribute.

    0 is chance, 1 is perfect. Only tasks that the text oracle can do count.
    """
    able = table[table["task"].isin(verdict.able_tasks(table))]
    groups = able.groupby(["condition", "rung", "attribute", "task"])
    tasks = groups[["calibrated", "chance"]].mean().reset_index()
    tasks["score"] = (tasks["calibrated"] - tasks["chance"]) / (1 - tasks["chance"])
    rungs = tasks.groupby(["condition", "rung"])["score"].mean().reset_index()
    third = tasks[tasks["rung"] == 3]
    attributes = third.groupby(["condition", "rung", "attribute"])["score"].mean().reset_index()
    return pd.concat([rungs.assign(attribute="all"), attributes], ignore_index=True)


@contextmanager
def one_at_a_time(root: Path, name: str) -> Iterator[None]:
    """Let one process at a time into a block; a process that dies lets the next one in."""
    folder = root / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{name}.lock"):
        yield


def step_seconds(folder: Path) -> list[float]:
    """The seconds of every training step of a run."""
    return [record["seconds"] for record in checkpoints.read_records(folder)]
