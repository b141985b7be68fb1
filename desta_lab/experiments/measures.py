"""What a cell measures: train it, or find its run, and score the last step beside every control."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import BaseFileLock, FileLock

from desta_lab import cache
from desta_lab.evaluation import verdict
from desta_lab.evaluation.evaluate import evaluate
from desta_lab.evaluation.statistics import correct_for_chance
from desta_lab.experiments.cells import SCORED_RUNGS, Cell
from desta_lab.experiments.experiment import Experiment
from desta_lab.experiments.rows import WRITTEN
from desta_lab.training import checkpoints


def train_and_score(cell: Cell, root: Path) -> dict[str, Any]:
    """Train a cell and score its rungs of the task ladder."""
    return measure_trained(cell, root, lambda *run: score_above_chance(score_last_step(*run)))


def train_and_ask(cell: Cell, root: Path) -> dict[str, Any]:
    """Train a cell and score all rungs as the main job does: options ranked, and answers in words.

    Rows have `score`, of ranking, and `said`, in the backbone's own words; NaN where no task
    counts.
    """
    return measure_trained(cell, root, score_both_heights)


def measure_trained(
    cell: Cell, root: Path, score: Callable[[Experiment, Path], pd.DataFrame]
) -> dict[str, Any]:
    """Train a cell, or find its run: the rows of its score, its run, and what it cost in seconds.

    Cells share corpus, targets, oracle and features.
    """
    experiment = Experiment(cell.preset, seed=cell.seed, corpus=cell.corpus, root=root)
    with one_at_a_time(root, f"prepare-{cell.seed}"):
        experiment.oracle()
        if cell.target in WRITTEN:
            experiment.written_targets(cell.target)
    with one_at_a_time(root, f"features-{cell.seed}-{Path(cell.preset.encoder).name}"):
        _ = experiment.features
    seconds = experiment.costs.seconds
    prepared = sum(seconds.values()) - seconds["models"]
    folder = experiment.run_folder(cell.target)
    with one_at_a_time(root, folder.name):
        experiment.train(cell.target)
    begin = time.perf_counter()
    rows = score(experiment, folder)
    return {
        "run": folder.name,
        "rows": rows.to_dict("records"),
        "prepared": prepared,
        "trained": sum(record["seconds"] for record in checkpoints.read_records(folder)),
        "scored": seconds["models"] + time.perf_counter() - begin,
    }


def score_last_step(experiment: Experiment, folder: Path) -> pd.DataFrame:
    """The scores of the last step under every control; the connector stays at that step."""
    first, last = (checkpoints.list_checkpoints(folder)[i] for i in (0, -1))

    def score_untrained() -> pd.DataFrame:
        checkpoints.load_checkpoint(folder, experiment.llm, first["step"])
        return _as_untrained(score_by_ear(experiment))

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


def score_both_heights(experiment: Experiment, folder: Path) -> pd.DataFrame:
    """The last step above chance, ranked (`score`) and in the backbone's own words (`said`).

    The scores of both ends are those of the main job, found or made.
    """
    listed = checkpoints.list_checkpoints(folder)
    start, end = (experiment.score_checkpoint(folder, listed[i]) for i in (0, -1))
    table = pd.concat([end, _as_untrained(start), experiment.oracle()])
    said = score_above_chance(table, "said").rename(columns={"score": "said"})
    return score_above_chance(table).merge(said, "outer", ["condition", "rung", "attribute"])


def _as_untrained(start: pd.DataFrame) -> pd.DataFrame:
    """The scores by ear of the first step, as a control of the last."""
    return start[start["condition"] == "audio"].assign(condition="untrained")


def score_above_chance(table: pd.DataFrame, measure: str = "calibrated") -> pd.DataFrame:
    """Accuracy above chance by condition and rung, and of rung 3 by attribute.

    0 is chance, 1 is perfect. Only tasks that the text oracle can do count. `measure` is one of
    `verdict.HEIGHTS`.
    """
    able = table[table["task"].isin(verdict.able_tasks(table, measure)) & table[measure].notna()]
    groups = able.groupby(["condition", "rung", "attribute", "task"])
    tasks = groups[[measure, "chance"]].mean().reset_index()
    tasks["score"] = correct_for_chance(tasks[measure], tasks["chance"])
    rungs = tasks.groupby(["condition", "rung"])["score"].mean().reset_index()
    third = tasks[tasks["rung"] == 3]
    attributes = third.groupby(["condition", "rung", "attribute"])["score"].mean().reset_index()
    return pd.concat([rungs.assign(attribute="all"), attributes], ignore_index=True)


def one_at_a_time(root: Path, name: str) -> BaseFileLock:
    """What lets one process at a time into a block; one that dies lets the next one in."""
    folder = root / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{name}.lock")
