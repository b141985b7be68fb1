"""The analysis over several training seeds: its tables pooled, its figures drawn over them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from desta_lab.evaluation.statistics import SeedsError, pool_seeds
from desta_lab.experiments.experiment import Experiment
from desta_lab.experiments.inside import Inside
from desta_lab.experiments.inside_figures import draw_figures
from desta_lab.experiments.inside_inputs import InsideError
from desta_lab.experiments.inside_tables import ROWS
from desta_lab.views import saving, style


def look_over_seeds(
    experiments: Iterable[Experiment], kind: str = "self", *, out: Path | None = None, **how: Any
) -> tuple[Inside, dict[str, pd.DataFrame]]:
    """Look into a run of every experiment, which differ in their seed, and pool the tables.

    Every figure is drawn over the seeds, and saved with a table that has a row of each seed and of
    their mean. A clip, a map and words are those of the first seed, and the figure says so.

    Args:
        out: where figures go; `figures_folder("inside/seeds")` of the first experiment by default.
        how: as in `Inside.from_experiment`.

    Returns:
        The look at the first seed, whose `refused` says which tables are left out, and the tables.

    Raises:
        InsideError: there is no experiment.
    """
    found: dict[int, dict[str, pd.DataFrame]] = {}
    first: Inside | None = None
    for experiment in experiments:
        out = out or experiment.figures_folder("inside/seeds")
        look = Inside.from_experiment(experiment, kind, out=out, **how)
        found[experiment.seed] = look.run(save=False)
        first = first or look
        first.refused = look.refused | first.refused
    if first is None or out is None:
        raise InsideError("There is no experiment to look into; give one for each seed.")
    own, pooled = next(iter(found.values())), _pool_tables(found, first.refused)
    _save_over_seeds(first, found, pooled, out)
    return first, own | pooled


def _pool_tables(
    found: Mapping[int, Mapping[str, pd.DataFrame]], refused: dict[str, str]
) -> dict[str, pd.DataFrame]:
    """The tables that can be pooled and that every seed has; of others `refused` says why not."""
    pooled = {}
    for name, rows in ROWS.items():
        tables = {seed: own[name] for seed, own in found.items() if name in own}
        if name == "sparse_features":  # the features that answers were steered with
            tables = {seed: table.dropna(subset="change") for seed, table in tables.items()}
        if len(tables) == len(found):
            try:
                pooled[name] = pool_seeds(tables, rows)
            except SeedsError as error:
                refused[name] = f"{name}: {error}"
    return pooled


def _save_over_seeds(
    first: Inside,
    found: Mapping[int, Mapping[str, pd.DataFrame]],
    pooled: dict[str, pd.DataFrame],
    out: Path,
) -> None:
    """Save the figures of pooled tables with the rows of every seed, and the rest of the first."""
    facts = first.facts | {"seeds": list(found)}
    seed, own = next(iter(found.items()))
    alone = {name: table for name, table in own.items() if name not in ROWS}
    for name, picture in draw_figures(first, alone).items():
        style.state_seeds(picture, [seed])
        saving.save_figure(picture, out, name, provenance=facts | {"seeds": [seed]})
    parts = {
        seed: draw_figures(first, {name: tables[name] for name in pooled})
        for seed, tables in found.items()
    }
    for name, picture in draw_figures(first, pooled, len(found)).items():
        style.state_seeds(picture, list(found))
        rows = [figures[name].table.assign(seed=seed) for seed, figures in parts.items()]
        rows.append(picture.table.assign(seed="mean"))
        saving.save_figure(picture, out, name, pd.concat(rows), provenance=facts)
