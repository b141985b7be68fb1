"""Grids over settings and seeds: every cell is measured once, wherever it is asked for."""

import gc
import itertools
import os
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from desta_lab import cache, processes
from desta_lab.clips import Corpus
from desta_lab.evaluation.statistics import add_mean_interval, format_interval, mean_interval
from desta_lab.experiments.cells import (
    LADDER,
    LISTS,
    TRAINING,
    WORDS,
    Cell,
    check_setting,
    make_cell,
)
from desta_lab.experiments.experiment import (
    ENOUGH_CLIPS,
    ENOUGH_SPEAKERS,
    Experiment,
    are_enough,
    describe_size,
)
from desta_lab.experiments.measures import train_and_score
from desta_lab.model import build
from desta_lab.model.bounds import Count, CountOrZero, check_value, is_number
from desta_lab.model.presets import Preset, part_id
from desta_lab.model.weights import models_dir
from desta_lab.views import study_figures
from desta_lab.views.progress import Progress, progress_reporter

COLUMNS = ["seed", "cell", "run", "error", "rung", "attribute", "condition", "share", "score"]
MEANS = ["knob", "name", "condition", "score", "low", "high", "cells"]  # columns of factor means
TYPES = dict.fromkeys(("run", "error", "attribute", "condition"), "string") | {
    "rung": "Int64",
    "share": "float",
    "score": "float",
    "said": "float",
}

Measure = Callable[[Cell, Path], dict[str, Any]]  # a cell and the data folder → `rows` and costs
Settings = Mapping[str, Any]  # dotted name → value


class Sweep:
    """A grid of cells: every combination of some settings' values, or named arms, for every seed.

    `Sweep(preset, {"steps": [40, 80], "connector.pool": [1, 2]}, seeds=range(3)).run()` is a tidy
    table. `Sweep(preset, arms={"all layers": {}, "the last": {"taps": (3,)}})` names its settings.
    A seed is that of the world, of the untrained connector and of the order of examples.

    Args:
        grid: setting → its values.
        arms: name → setting → value, instead of a grid; the table then has the column `arm`.
        corpus: somebody's own, or its folder, instead of the spoken world; a seed is then that of
            the untrained connector and of the order of examples alone.
        root: the folder of all data; `data/` by default.
        measure: what measures a cell; `train_and_score` by default.
        measured: the name of what another `measure` measures, by which its results are found.
        progress: as for `Experiment`; it also gets the forecast, before anything runs.

    Raises:
        ValueError: a setting or a value does not exist, and the message lists those that do; a seed
            is no whole number; or another `measure` has no name.
        CorpusError: the table of the corpus is wrong.
    """

    def __init__(
        self,
        preset: Preset,
        grid: Mapping[str, Any] | None = None,
        *,
        seeds: Iterable[int | np.integer] = (0,),
        arms: Mapping[str, Settings] | None = None,
        corpus: Corpus | Path | str | None = None,
        root: Path | None = None,
        measure: Measure | None = None,
        measured: str = LADDER,
        progress: Progress | None = None,
    ) -> None:
        if measure is not None and measured == LADDER:
            raise ValueError(
                f"{measured!r} is what the package measures; name what your measure does "
                "(measured='…'), so that its results are kept apart."
            )
        labels: tuple[str, ...] = ()
        own: Corpus | None = None
        self.caveat = ""  # why scores on a small corpus of somebody's own show little
        if corpus is not None:
            experiment = Experiment(preset, corpus=corpus, root=root)
            preset, own = experiment.preset, experiment.own_corpus
            labels = tuple(experiment.values)
            self.caveat = _describe_few(experiment)
        self.preset, self.measure = preset, measure or train_and_score
        self.root = root or models_dir().parent
        self.progress = progress or progress_reporter()
        whole = {int(seed) if isinstance(seed, int | np.integer) else seed for seed in seeds}
        check_value("seeds", tuple(whole), CountOrZero)
        self.seeds = sorted(whole)
        if arms:
            self.factors = ["arm"]
            names = [{"arm": arm} for arm in arms]
            settings = [
                {name: check_setting(preset, name, value, labels) for name, value in arm.items()}
                for arm in arms.values()
            ]
        else:
            named = {name.removeprefix(TRAINING): v for name, v in (grid or {}).items()}
            values = {name: _check_values(preset, name, v, labels) for name, v in named.items()}
            self.factors = sorted(values)
            combinations = itertools.product(*(values[name] for name in self.factors))
            names = settings = [dict(zip(self.factors, one, strict=True)) for one in combinations]
        if not self.seeds or not settings:
            raise ValueError("A sweep needs a seed, and a value for each of its settings.")
        _check_settings(preset, settings, own)
        self.cells = [
            make_cell(preset, s, seed, measured, own) for seed in self.seeds for s in settings
        ]
        self.names = [{**name, "seed": seed} for seed in self.seeds for name in names]

    # ---- measuring ----

    def results(self) -> list[dict[str, Any] | None]:
        """What each cell left, in the order of `cells`; None where it was not measured."""
        return [cache.find(self.root, cell.provenance) for cell in self.cells]

    def run(
        self, jobs: int = 1, *, retry: bool = False, slurm: Mapping[str, Any] | None = None
    ) -> pd.DataFrame:
        """Measure the cells that are missing and return `table`; killed, the same call goes on.

        Args:
            jobs: so many processes of this machine.
            retry: measure the cells that failed again.
            slurm: submitit's parameters, to run every cell as a job of a Slurm cluster.

        Raises:
            ValueError: what a missing cell needs cannot be had, said before the first is measured.
        """
        check_value("jobs", jobs, Count)
        if retry:
            for cell, result in zip(self.cells, self.results(), strict=True):
                if result and "error" in result:
                    cache.remove(self.root, cell.provenance)
        report = self.progress("sweep")
        missing = self._missing_cells()
        for cell in missing:
            build.check_parts(cell.preset, self.root / "models")
        report(self.forecast(jobs))
        for done, cell in enumerate(self._measure(missing, jobs, slurm), 1):
            error = (cache.find(self.root, cell.provenance) or {}).get("error")
            if error:
                report(f"Cell {cell.key} (seed {cell.seed}) failed. {error}")
            report(done, len(missing))
        if self.caveat:
            report(self.caveat)
        return self.table()

    def _missing_cells(self) -> list[Cell]:
        """The cells without a result, one of every seed first: so no seed waits for another."""
        pairs = zip(self.cells, self.results(), strict=True)
        missing = [cell for cell, result in pairs if result is None]
        first = {cell.seed: cell for cell in reversed(missing)}
        return sorted(missing, key=lambda cell: cell is not first[cell.seed])

    def _measure(
        self, cells: Sequence[Cell], jobs: int, slurm: Mapping[str, Any] | None
    ) -> Iterator[Cell]:
        """Measure cells; yields each when it has a result, its error included."""
        tasks = [(cell, self.root.resolve(), self.measure) for cell in cells]
        if not tasks or (slurm is None and jobs == 1):
            for task in tasks:
                measure_cell(task)
                yield task[0]
            return
        _check_importable(self.measure)
        if slurm is None:
            ended = processes.run_workers(measure_cell, tasks, min(jobs, len(tasks)))
        else:
            ended = processes.run_on_slurm(measure_cell, tasks, self.root / "jobs", **slurm)
        for number, fault in ended:
            cell = cells[number]
            if fault:  # a process that died left no result
                died = partial(_describe_cell, cell, error=fault)
                cache.find_or_make(self.root, cell.provenance, died)
            yield cell

    def forecast(self, jobs: int = 1) -> str:
        """How many cells are there and missing, and how long those take, in two sentences."""
        results = self.results()
        finished = [one for one in results if one and "error" not in one]
        failed = sum(one is not None and "error" in one for one in results)
        missing = len(results) - len(finished) - failed
        counts = (
            f"{len(results)} cells (settings: {len(results) // len(self.seeds)}, seeds: "
            f"{len(self.seeds)}): {len(finished)} finished, {failed} failed, {missing} to run."
        )
        if not missing:
            return counts
        costs: list[Any] = [(one.get("trained"), one.get("scored")) for one in finished]
        # another measure may not say what it took
        known = [sum(cost) for cost in costs if all(map(is_number, cost))]
        if not known:
            return f"{counts} How long that takes will be known from the first cells."
        seconds = statistics.median(known)
        minutes = missing * seconds / max(1, min(jobs, missing)) / 60
        return (
            f"{counts} That takes about {minutes:.0f} minutes, by the {seconds:.0f} s of the "
            "median finished cell."
        )

    # ---- the table ----

    def table(self) -> pd.DataFrame:
        """One row per cell × rung (of rung 3 also × attribute) × condition, with its `score`.

        The score is above chance and calibrated; `said` is of answers in words, where those were
        measured. `mean`, `low` and `high` are of the score over seeds, with a 95 % t-interval. A
        cell that failed is one row.
        """
        rows: list[dict[str, Any]] = []
        for cell, name, result in zip(self.cells, self.names, self.results(), strict=True):
            if result is None:
                continue
            about = {key: _table_value(key, value) for key, value in name.items()}
            about |= {"cell": cell.key, "run": result.get("run"), "error": result.get("error")}
            rows += [{**about, **row} for row in result.get("rows") or [{}]]
        in_words = ["said"] if self.cells[0].measured == WORDS else []
        columns = [*self.factors, *COLUMNS, *in_words]
        table = pd.DataFrame(rows, columns=columns)
        table = table.astype({name: kind for name, kind in TYPES.items() if name in table})
        table = table.fillna({"share": 1.0})
        groups = [*self.factors, "rung", "attribute", "condition", "share"]
        return add_mean_interval(table, groups)

    def factor_means(self, rung: int = 3) -> pd.DataFrame:
        """Mean score of a rung at every value of every factor, with a 95 % interval over cells.

        The factor that moves the audio condition most comes first, the seed last: it shows what
        chance alone moves.
        """
        table = self._rung_rows(rung)
        if table.empty:
            raise ValueError(
                f"No cell of this sweep has a score on rung {rung}; run it, or read its errors."
            )
        varied = [name for name in (*self.factors, "seed") if table[name].nunique() > 1] or ["seed"]
        parts = []
        for factor in varied:
            by = [factor, "condition"]
            means = add_mean_interval(table, by, count="cells").drop_duplicates(by)
            names = {"knob": factor, "name": means[factor].astype(str), "score": means["mean"]}
            parts.append(means.assign(**names)[MEANS])

        def rank(means: pd.DataFrame) -> tuple[bool, float]:
            audio = means.loc[means["condition"] == "audio", "score"]
            return means["knob"].iloc[0] == "seed", float(audio.min() - audio.max())

        return pd.concat(sorted(parts, key=rank), ignore_index=True)

    def figure(self, rung: int = 3) -> Any:
        """The means of `factor_means`, drawn; the headline says which factor moves most."""
        means = self.factor_means(rung)
        factor = means["knob"].iloc[0]
        audio = means[(means["condition"] == "audio") & (means["knob"] == factor)]
        low, high = (audio.sort_values("score").iloc[end] for end in (0, -1))
        headline = f"Rung {rung}: {low['score']:.2f} at {factor} {low['name']}"
        if low["name"] != high["name"]:
            headline = (
                f"{factor} moves rung {rung} most: {low['score']:.2f} at {low['name']}, "
                f"{high['score']:.2f} at {high['name']}; all else equal "
                f"{self._difference(rung, factor, low['name'], high['name'])}"
            )
        headline = ". ".join(filter(None, [headline, self.caveat.rstrip(".")]))
        return study_figures.plot_knobs(means, headline, rung)

    def _rung_rows(self, rung: int) -> pd.DataFrame:
        table = self.table()
        chosen = (table["rung"] == rung) & (table["attribute"] == "all") & (table["share"] == 1)
        return table[chosen]

    def _difference(self, rung: int, factor: str, low: str, high: str) -> str:
        """The difference between two values of a factor, over cells that share all else."""
        table = self._rung_rows(rung)
        audio = table[table["condition"] == "audio"]
        others = [name for name in (*self.factors, "seed") if name != factor] or ["condition"]
        wide = audio.assign(value=audio[factor].astype(str)).pivot_table(
            index=others, columns="value", values="score"
        )
        gaps = (wide[high] - wide[low]).dropna()
        return format_interval(mean_interval(gaps), "+.2f", " in one pair of cells")


def _describe_few(experiment: Experiment) -> str:
    """A sentence where clips or speakers of the test are too few to judge; else nothing."""
    test, disjoint = experiment.clips("test"), experiment.splits.disjoint_speakers
    if disjoint and are_enough(test):
        return ""
    return (
        f"Tested with {describe_size(test, disjoint)}, so that "
        f"differences may be chance; {ENOUGH_CLIPS} clips and {ENOUGH_SPEAKERS} speakers are the "
        "least."
    )


def measure_cell(task: tuple[Cell, Path, Measure]) -> None:
    """Measure one cell and keep its result, or the error it failed with, if there is none yet."""
    cell, root, measure = task

    def make() -> dict[str, Any]:
        try:
            return _describe_cell(cell, **measure(cell, root))
        except Exception as error:
            words = " ".join(str(error).split())
            if processes.is_out_of_memory(error):
                words = processes.explain_memory(error, ["--jobs", "--preset"])
            return _describe_cell(cell, error=f"{type(error).__name__}: {words}")

    cache.find_or_make(root, cell.provenance, make)
    gc.collect()  # models hold themselves by cycles


def _describe_cell(cell: Cell, **result: Any) -> dict[str, Any]:
    """A cell's result with what it is of, and the device that measured it."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    device = gpu or f"{os.cpu_count()}-core CPU"
    return {"settings": cell.settings, "seed": cell.seed, "device": device, **result}


def _table_value(name: str, value: Any) -> Any:
    """A setting's value in a table: no value is a word, a list its text, a folder its name."""
    if name in ("encoder", "backbone"):
        return part_id(value)
    return "none" if value is None else str(list(value)) if isinstance(value, tuple) else value


def _check_importable(measure: Measure) -> None:
    """Refuse a function that another process cannot import."""
    name, module = getattr(measure, "__qualname__", "<object>"), getattr(measure, "__module__", "")
    if "<" in name or module == "__main__":
        raise ValueError(
            f"Another process cannot import {name}; put it into a file, or run with jobs=1."
        )


def _check_values(preset: Preset, name: str, values: Any, labels: Sequence[str]) -> list[Any]:
    """The values of one setting, each once and in order."""
    many = isinstance(values, Iterable) and not isinstance(values, str)
    several = list(values) if many else [values]
    if name in LISTS and many and all(isinstance(value, int | float) for value in several):
        several = [several]  # one list, not many numbers
    checked = {check_setting(preset, name, value, labels) for value in several}
    return sorted(checked, key=lambda value: (value is None, value or 0))


def _check_settings(preset: Preset, settings: Iterable[Settings], corpus: Corpus | None) -> None:
    """Refuse settings that change nothing here."""
    for one in settings:
        if corpus is not None and (made := [name for name in one if name.startswith("clips.")]):
            raise ValueError(
                f"{made[0]} changes nothing on a corpus of your own; change train or test."
            )
        if "connector.queries" in one and make_cell(preset, one, 0).preset.connector.anchored:
            raise ValueError(
                "connector.queries changes nothing while connector.anchored is true: the sentence "
                "that it starts as sets their number; set connector.anchored to false as well."
            )
