"""Running studies: their sweeps, the tables that are kept of them, and their figures."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from desta_lab.audio import DataFault
from desta_lab.experiments import findings, frozen_parts
from desta_lab.experiments.cells import list_settings
from desta_lab.experiments.studies import (
    BROUGHT,
    DEFAULT_SEEDS,
    PRESET_SEEDS,
    PRESET_SETTINGS,
    Arms,
    Study,
    get_study,
)
from desta_lab.experiments.sweep import Sweep
from desta_lab.model import presets
from desta_lab.model.presets import Preset
from desta_lab.model.weights import models_dir
from desta_lab.views.progress import Progress
from desta_lab.views.saving import save_figure
from desta_lab.world.tables import read_results

SHIPPED = Path(__file__).resolve().parents[2] / "figures" / "ablations"  # one folder a preset
KEYS = (
    "arm",
    "seed",
    "rung",
    "attribute",
    "condition",
    "share",
)  # what tells rows of a table apart
COLUMNS = ["arm", "at", "seed", "cell", "rung", "attribute", "condition", "score"]


def build_sweep(
    name: str,
    preset: str | Preset = "nano",
    seeds: Iterable[int] | None = None,
    more: Arms | None = None,
    **options: Any,
) -> Sweep:
    """The sweep of a study.

    `build_sweep("depth", more={"8": {"connector.depth": 8}}).run()` adds an arm, measures what is
    missing and returns the sweep's table.

    Args:
        preset: a name, which then has its `PRESET_SETTINGS`, or a preset as it is.
        seeds: by default five of nano, three of other presets.
        more: arms to add.
        options: `root` and `progress` of the sweep.
    """
    study = get_study(name)
    if isinstance(preset, str):
        preset = replace(presets.get_preset(preset), **PRESET_SETTINGS.get(preset, {}))
    return Sweep(
        preset,
        arms={**study.arms_of(preset.name), **(more or {})},
        seeds=PRESET_SEEDS.get(preset.name, DEFAULT_SEEDS) if seeds is None else seeds,
        measure=study.measure,
        measured=study.measured,
        **options,
    )


def page_folder(
    names: Iterable[str], preset: str | Preset = "nano", seeds: Iterable[int] | None = None
) -> Path:
    """Where the page of some studies goes if nobody says: what ships is renewed by its like alone.

    Other studies, presets and seeds than those of the page that ships have a page of their own, in
    `figures/ablations-own`.
    """
    usual = all(name in BROUGHT and preset in get_study(name).presets for name in names)
    own = models_dir().parent.parent / "figures" / "ablations-own"
    return SHIPPED if usual and seeds is None else own


def load_table(name: str, preset: str = "nano", folder: Path | None = None) -> pd.DataFrame:
    """The table of a study on disk: a row per arm × seed × rung × condition (× attribute).

    `score` is 0 at chance and 1 when perfect; `at` is the amount of a scaling study. `folder` is
    that of the page, by default `page_folder([name], preset)`.

    Raises:
        FileNotFoundError: the study was not run on this preset; the message says how to run it.
        DataFault: the table is not as it was written.
    """
    folder = folder or page_folder([name], preset)
    path = folder / preset / f"{get_study(name).name}.csv"
    if not path.exists():
        command = f"python -m desta_lab ablate {name} --preset {preset}"
        raise FileNotFoundError(
            f"{path}: the study {name} has no table of preset {preset}; run `{command}`."
        )
    texts = ("arm", "cell", "attribute", "condition")
    table = read_results(path, texts, ("at", "seed", "rung", "score"), gaps=("at", "rung", "score"))
    twice = table.duplicated([name for name in KEYS if name in table]).to_numpy()
    whole = table["seed"].to_numpy() % 1 == 0
    if twice.any() or not whole.all():
        line = int((twice | ~whole).argmax()) + 2
        fault = "a seed that is no whole number, or a second score of the same"
        raise DataFault.at(f"{path}, line {line}", fault, "restore it, or measure it again")
    return table


def study_table(study: Study, sweep: Sweep) -> pd.DataFrame:
    """What a study keeps of its sweep: the scores of finished cells.

    Single attributes are kept of the audio condition alone, and single constraints of whole
    adapters alone.
    """
    table = sweep.table()
    table = table[table["error"].isna()]
    whole = table["attribute"].isin(["all", "following", "perplexity"])
    by_ear = (table["attribute"] == "all") | (table["condition"] == "audio")
    table = table[(by_ear | table["rung"].isna()) & ((table["share"] == 1) | whole)]
    pairs = zip(sweep.names, sweep.cells, strict=True)
    amounts = {name["arm"]: _amount(study, cell.preset) for name, cell in pairs}
    order = table["arm"].map(list(amounts).index)
    table = table.round({"score": 4, "said": 4}).assign(at=table["arm"].map(amounts), order=order)
    table = table.sort_values(["order", "seed"], kind="stable")
    return table[[*COLUMNS, *study.columns]].reset_index(drop=True)


def _amount(study: Study, preset: Preset) -> float:
    if study.amount == "train":
        return float(preset.clips["train"] if preset.train is None else preset.train)
    return float(list_settings(preset)[study.amount]) if study.amount else float("nan")


def seeds_of(table: pd.DataFrame) -> list[int]:
    """The training seeds of a table, in order."""
    return sorted({int(seed) for seed in table["seed"]})


def preset_name(preset: str | Preset) -> str:
    """The name of a preset, or the name itself."""
    return preset if isinstance(preset, str) else preset.name


def run_studies(
    names: Iterable[str],
    preset: str | Preset,
    seeds: Sequence[int] | None,
    jobs: int,
    out: Path,
    progress: Progress,
    root: Path | None = None,
    retry: bool = False,
) -> Iterator[tuple[Study, list[str]]]:
    """Measure what is missing, save each study's table and figure, and yield what it shows.

    With `jobs=0` nothing is measured, and what is finished is drawn. With `retry` what failed is
    measured again.
    """
    studies = [get_study(name) for name in names]
    options: Any = {"preset": preset, "seeds": seeds, "root": root, "progress": progress}
    if jobs:
        for measured in dict.fromkeys(study.measured for study in studies):
            some = [study for study in studies if study.measured == measured]
            _measure_together(some, jobs, options, retry)
    for study in studies:
        table = study_table(study, build_sweep(study.name, **options))
        if table["arm"].nunique() > 1:  # one arm alone answers nothing
            about = {
                "preset": preset_name(preset),
                "cells": sorted(set(table["cell"])),
                "seeds": seeds_of(table),
            }
            figure = findings.draw_study(study, table)
            save_figure(figure, out, study.name, table=table, provenance=about)
            yield study, findings.state_findings(study, table)


def find_failures(
    names: Iterable[str], preset: str | Preset, seeds: Sequence[int] | None
) -> tuple[int, dict[str, str]]:
    """How many cells studies have on a preset, and of those that failed: cell → error."""
    cells: dict[str, str | None] = {}
    for name in names:
        sweep = build_sweep(name, preset, seeds)
        for cell, result in zip(sweep.cells, sweep.results(), strict=True):
            cells[cell.key] = (result or {}).get("error")
    return len(cells), {cell: error for cell, error in cells.items() if error}


def _measure_together(
    studies: list[Study], jobs: int, options: dict[str, Any], retry: bool
) -> None:
    """Measure the cells of several studies as one sweep; an arm that two share is one cell."""
    one, progress = build_sweep(studies[0].name, **options), options["progress"]
    arms = {
        json.dumps(settings, sort_keys=True): settings
        for study in studies
        for settings in study.arms_of(one.preset.name).values()
    }
    how = {"measure": studies[0].measure, "measured": studies[0].measured, "progress": progress}
    sweep = Sweep(one.preset, arms=arms, seeds=one.seeds, root=one.root, **how)
    models = sweep.root / "models"
    parts = [part for study in studies for part in study.frozen_parts]
    missing = [part for part in parts if not (models / part / "config.json").exists()]
    if missing:
        made = f"Made first, once: {', '.join(missing)}."
        progress("ablate")(f"{sweep.forecast(jobs)} {made}")
    for part in missing:
        frozen_parts.make_part(part, models, progress)
    sweep.run(jobs, retry=retry)
