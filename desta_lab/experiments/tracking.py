"""Tracking: what a tracker of accelerate gets of a run: its config, every step, every score."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from desta_lab import cache, processes
from desta_lab.training import checkpoints

Track = Callable[[str], Any] | None  # the name of a run → an open tracker; None tracks nothing
Config = Callable[[], Mapping[str, Any]]  # what determines the run
Log = Callable[[int, Mapping[str, Any]], None]  # takes a step and what is known of it
LOGGED = ("loss", "lr", "grad_norm")


@contextmanager
def open_log(track: Track, name: str, config: Config) -> Iterator[Log]:
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


@contextmanager
def log_training(track: Track, folder: Path, config: Config) -> Iterator[Log]:
    """What logs the records of a run while it trains; of one that goes on, the earlier ones too."""
    with open_log(track, folder.name, config) as log:
        begun = track is None

        def log_record(step: int, record: Mapping[str, Any]) -> None:
            nonlocal begun
            earlier = [] if begun else checkpoints.read_records(folder)
            begun = True
            for one in [*(r for r in earlier if r["step"] < step), record]:
                log(one["step"], {name: one[name] for name in LOGGED})

        yield log_record


def log_finished(track: Track, folder: Path, config: Config) -> None:
    """Log every step of a run that was found finished."""
    if track is None:
        return
    with open_log(track, folder.name, config) as log:
        for record in checkpoints.read_records(folder):
            log(record["step"], {name: record[name] for name in LOGGED})


def log_scores(track: Track, name: str, config: Config, scores: Sequence[pd.DataFrame]) -> None:
    """Log the mean calibrated accuracy of every rung under every condition, at each checkpoint."""
    if track is None:
        return
    with open_log(track, name, config) as log:
        for table in scores:
            means = table.groupby(["rung", "condition"])["calibrated"].mean()
            values = {f"accuracy/rung {rung}/{name}": float(v) for (rung, name), v in means.items()}
            log(int(table["step"].iloc[0]), values)
