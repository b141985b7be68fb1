"""Tracking: what a tracker of accelerate gets of a run: its config, every step, every score."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from desta_lab import cache, processes
from desta_lab.training import checkpoints

Log = Callable[[int, Mapping[str, float]], None]  # takes a step and what is known of it
LOGGED = ("loss", "lr", "grad_norm")


@contextmanager
def open_log(
    track: Callable[[str], Any] | None, name: str, config: Callable[[], Mapping[str, Any]]
) -> Iterator[Log]:
    """What logs to a tracker's run of this name, if anything is tracked; rank 0 alone does."""
    if track is None or not processes.is_main_rank():
        yield lambda step, values: None
        return
    tracker = track(name)
    facts = cache.to_plain(config())
    tracker.store_init_configuration(
        {key: v if isinstance(v, str | float | int) else str(v) for key, v in facts.items()}
    )
    try:
        yield lambda step, values: tracker.log(dict(values), step=step)
    finally:
        tracker.finish()


def log_records(folder: Path, log: Log, before: int | None = None) -> None:
    """Log the steps that a run on disk has taken, or those before one."""
    for record in checkpoints.read_records(folder):
        if before is None or record["step"] < before:
            log(record["step"], {name: record[name] for name in LOGGED})


def log_scores(scores: Sequence[pd.DataFrame], log: Log) -> None:
    """Log the mean calibrated accuracy of every rung under every condition, at each checkpoint."""
    for table in scores:
        means = table.groupby(["rung", "condition"])["calibrated"].mean()
        values = {f"accuracy/rung {rung}/{name}": float(v) for (rung, name), v in means.items()}
        log(int(table["step"].iloc[0]), values)
