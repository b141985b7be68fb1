"""Figures of the emergence report: how rung 3 rises, how suddenly, together, and after what."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from desta_lab.evaluation.statistics import add_mean_interval, mean_interval
from desta_lab.views import style
from desta_lab.views.saving import Picture, styled
from desta_lab.views.style import PALETTE, get_series, marker_style

_MARGIN: Any = {"color": PALETTE["soft"], "ls": (0, (4, 1.5)), "marker": "v", "ms": 4}
_ANSWER: Any = {"color": PALETTE["self"], "ls": "-", "marker": "o", "ms": 4}
_PROBE: Any = {"color": PALETTE["template"], "ls": "-.", "marker": "P", "ms": 5}
_NULL: Any = {"color": PALETTE["silence"], "ls": ":", "marker": "x", "ms": 5}
_SEEDS = "95 % t-interval over seeds"
_NULLS = ("tasks of different runs", "at any time")
_METRICS = {"accuracy": _ANSWER, "log-probability margin": _MARGIN}


@styled
def plot_curves(table: pd.DataFrame, probes: pd.DataFrame, headline: str) -> Picture:
    """Rung 3 per attribute along training: accuracy, margin, probe and the controls.

    The margin is on a scale of its own: 0 at the first step, 1 at the last.
    """
    third = table[table["rung"] == 3]
    own = third[(third["run"] == "self") & (third["clips"] == table["clips"].max())]
    rival = third[(third["run"] == "label") & (third["condition"] == "audio")]
    parts = {"answer": own, "rival": rival, "probe": probes}
    drawn = pd.concat([rows.assign(part=part) for part, rows in parts.items()])
    size = (9.2 / 3, 2.45)
    picture, panels = style.facets(drawn, "attribute", headline, size, "training step")
    for axes, rows in panels:
        axes.axhline(0, **style.ZERO)
        _draw_attribute(axes, *(rows[rows["part"] == part] for part in parts))
        axes.set(ylim=(-0.35, 1.3), xlim=(-3, own["step"].max() + 3))
    picture.supylabel("above chance (0: chance, 1: perfect)", fontsize=9)
    note = f"lines: means over seeds; bands: {_SEEDS}, of three seeds or more"
    style.add_legend(picture, [axes for axes, _ in panels], 3, note)
    return picture


def _draw_attribute(
    axes: Axes, own: pd.DataFrame, rival: pd.DataFrame, probes: pd.DataFrame
) -> None:
    for condition in style.list_controls(own["condition"]):
        series = get_series(condition)
        rows = own[own["condition"] == condition]
        _draw_mean(axes, rows, "score", series.label, color=series.colour, ls=series.line)
    if len(rival):
        series = get_series("label")
        look: Any = {"color": series.colour, "ls": series.line, "marker": "s", "ms": 3.5}
        _draw_mean(axes, rival, "score", series.label, **look)
    heard = own[own["condition"] == "audio"]
    margins = heard.groupby("seed")["margin"]
    first, last = margins.transform("first"), margins.transform("last")
    scaled = heard.assign(margin=(heard["margin"] - first) / (last - first))
    label = "log-probability margin (0 untrained, 1 last step)"
    _draw_mean(axes, probes, "score", "probe on the audio embeddings", **_PROBE)
    _draw_mean(axes, scaled, "margin", label, **_MARGIN)
    _draw_mean(axes, heard, "score", "accuracy, audio", **_ANSWER)


@styled
def plot_jumps(table: pd.DataFrame, tasks: Sequence[str], headline: str) -> Picture:
    """Jump share of accuracy and of the margin per task, beside a steady rise with the same noise.

    The share is the largest rise between two checkpoints over the whole rise; it is above 1 for
    what fell first.
    """
    table = table[table["task"].isin(tasks)]
    order = table.groupby("task")["share"].mean().sort_values().index.tolist()
    size, share = (9.0, 1.6 + 0.24 * len(order)), {"sharex": True, "sharey": True}
    picture, grid = style.subplots(1, 2, headline, size, table, **share)
    for axes, (metric, look) in zip(grid, _METRICS.items(), strict=True):
        rows = table[table["metric"] == metric]
        _draw_jumps(axes, rows, "steady", order, 0.15, "a steady rise with the same noise", **_NULL)
        _draw_jumps(axes, rows, "share", order, -0.1, "measured", **look)
        axes.axhline(len(order) - 0.5, color="#B0B0B0", lw=0.8)
        axes.set_title(metric, loc="left")
        axes.set_xlim(0, max(1.0, table["share"].max() * 1.05))
        axes.set_xlabel("largest rise between two checkpoints / whole rise")
    style.name_rows(grid[0], [*order, "all tasks"])
    style.stripe_rows(grid[1], len(order))
    style.add_legend(picture, list(grid), 3, f"bars: {_SEEDS}")
    return picture


def _draw_jumps(
    axes: Axes,
    rows: pd.DataFrame,
    value: str,
    order: list[str],
    shift: float,
    label: str,
    **look: Any,
) -> None:
    """One value per task with its interval, and below all of them their mean."""
    _draw_bars(axes, _mean_over_seeds(rows, "task", value).loc[order], shift, label, **look)
    mean = mean_interval(rows.groupby("seed")[value].mean())
    all_tasks = pd.DataFrame([mean], columns=["mean", "low", "high"])
    _draw_bars(axes, all_tasks, len(order) + shift, label, **{**look, "ms": 7})


@styled
def plot_crossings(crossings: pd.DataFrame, nulls: pd.DataFrame, headline: str) -> Picture:
    """Every task's stable crossing in every run, and how far apart they are, beside both nulls."""
    seeds = sorted(crossings["seed"].unique())
    table = pd.concat([crossings.assign(part="crossing"), nulls.assign(part="distance")])
    size, share = (10.0, 1.9 + 0.45 * len(seeds)), {"width_ratios": (2.2, 1.0)}
    picture, (left, right) = style.subplots(1, 2, headline, size, table, **share)
    drawn = crossings.dropna(subset="stable").sort_values(["seed", "stable", "attribute"])
    crowd = drawn.groupby(["seed", "stable"])["task"]  # tasks that share a checkpoint are stacked
    above = crowd.cumcount() - (crowd.transform("size") - 1) / 2
    at = drawn["seed"].map(seeds.index) + above * 0.1
    names = style.unique_values(crossings["attribute"])
    for place, name in enumerate(names):
        own = drawn["attribute"] == name
        look: Any = {"ls": "none", "ms": 4.5, "mec": "white", "mew": 0.4}
        look |= style.category_style(place)
        left.plot(drawn.loc[own, "stable"], at[own], label=name, **look)
    left.set_yticks(range(len(seeds)), [f"seed {seed}" for seed in seeds])
    left.set(ylim=(len(seeds) - 0.4, -0.6), xlim=(0, None))
    left.set_xlabel("step of the stable half-way crossing")
    left.set_title("every task of every run", loc="left")
    for place, name in enumerate(nulls["name"]):
        look = _NULL if name in _NULLS else _ANSWER
        _draw_bars(right, nulls.iloc[[place]], place, name, **look)
    right.set_yticks(range(len(nulls)), nulls["name"])
    right.set(ylim=(len(nulls) - 0.5, -0.5), xlim=(0, None))
    right.set_xlabel("steps between two tasks of a run")
    right.set_title("how far apart they stand", loc="left")
    note = f"blue: measured, {_SEEDS}; grey: nulls, 95 % of 2,000 draws"
    style.add_legend(picture, [left], 6, note)
    return picture


@styled
def plot_onsets(crossings: pd.DataFrame, last: int, headline: str) -> Picture:
    """When the probe and the answer are stably above their controls, per attribute and seed."""
    readable = crossings[crossings["what"] == "readable"]
    heard = crossings[crossings["what"] == "heard"]
    answers = heard[heard["rung"] == 3]
    names = answers.groupby("attribute")["stable"].mean().sort_values().index.tolist()
    table = crossings[crossings["what"].isin(["readable", "heard"])]
    picture, axes = style.subplots(1, 1, headline, (8.0, 1.9 + 0.45 * len(names)), table)
    for rows, shift, look, label in (
        (readable, 0.14, _PROBE, "probe above random labels"),
        (answers, -0.14, _ANSWER, "answer above shuffled audio and silence"),
    ):
        rows = rows[rows["attribute"].isin(names)]
        at = rows["attribute"].map(names.index) + shift + 0.12
        dots: Any = {"ls": "none", "marker": ".", "ms": 4, "alpha": 0.6}
        axes.plot(rows["stable"], at, color=look["color"], **dots)
        mean = _mean_over_seeds(rows, "attribute", "stable").reindex(names)
        _draw_bars(axes, mean, shift, label, **{**look, "ms": 6})
        text: Any = {"color": look["color"], "va": "center", "fontsize": 8}
        for name, count in rows[rows["stable"].isna()].groupby("attribute").size().items():
            axes.text(last + 6, names.index(name) + shift, f"{count} never", **text)
    style.name_rows(axes, names)
    axes.set_xlim(-6, last + 40)
    axes.set_xlabel("first training step from which on it is above, to the end")
    style.add_legend(picture, [axes], 2, f"small dots: seeds; bars: {_SEEDS}")
    return picture


@styled
def plot_corpus_size(table: pd.DataFrame, last: int, headline: str) -> Picture:
    """The stable crossing of rung 3 and its last score, against the clips trained with."""
    picture, (left, right) = style.subplots(1, 2, headline, (8.5, 4.2), table)
    thin: Any = {"color": _ANSWER["color"], "lw": 0.8, "alpha": 0.45, "marker": ".", "ms": 4}
    for axes, value in ((left, "stable"), (right, "score")):
        for _, rows in table.sort_values("clips").groupby("seed"):
            axes.plot(rows["clips"], rows[value], **thin)
        _draw_means(axes, table, value, "mean over seeds", **_ANSWER)
        axes.set_xscale("log")
        style.set_ticks(axes, sorted(table["clips"].unique()))
        axes.set_xlabel("clips trained with")
    for control in ("shuffled", "silence", "untrained"):
        _draw_means(right, table, control, get_series(control).label, **marker_style(control))
    text: Any = {"ha": "center", "va": "bottom", "color": _ANSWER["color"], "fontsize": 8}
    for clips, count in table[table["stable"].isna()].groupby("clips").size().items():
        left.text(clips, last, f"{count} never", **text)
    left.set(ylim=(0, last * 1.1), ylabel="step of the stable half-way crossing")
    right.axhline(0, **style.ZERO)
    right.set(ylim=(-0.35, 1.08), ylabel=f"score at step {last} (0: chance, 1: perfect)")
    left.set_title("rung 3, mean of its attributes", loc="left")
    style.add_legend(picture, [left, right], 4, f"thin lines: seeds; bars: {_SEEDS}")
    return picture


# ---- means over seeds ----


def _mean_over_seeds(rows: pd.DataFrame, at: str, value: str) -> pd.DataFrame:
    """`mean`, `low` and `high` over seeds of a column at every place."""
    return add_mean_interval(rows, [at], value).drop_duplicates(at).set_index(at).sort_index()


def _draw_mean(axes: Axes, rows: pd.DataFrame, value: str, label: str, **look: Any) -> None:
    """The mean over seeds along the steps, with its interval as a band."""
    mean = _mean_over_seeds(rows, "step", value)
    if rows["seed"].nunique() > 2:  # of two the interval is wider than the panel
        band: Any = {"color": look["color"], "alpha": 0.18, "lw": 0}
        axes.fill_between(mean.index, mean["low"], mean["high"], **band)
    axes.plot(mean["mean"], lw=1.5, label=label, markevery=4, **look)


def _draw_means(axes: Axes, table: pd.DataFrame, value: str, label: str, **look: Any) -> None:
    """The mean over seeds at every number of clips, with its interval as a bar."""
    mean = _mean_over_seeds(table, "clips", value)
    look |= {"yerr": np.nan_to_num(style.error_bars(mean, "mean")), "ls": "none"}
    axes.errorbar(mean.index, mean["mean"], label=label, elinewidth=1.2, **look)


def _draw_bars(
    axes: Axes, means: pd.DataFrame, first: float | int, label: str, **look: Any
) -> None:
    """Means with their intervals across, one below the other from a place on."""
    look |= {"xerr": np.nan_to_num(style.error_bars(means, "mean")), "ls": "none"}
    axes.errorbar(means["mean"], first + np.arange(len(means)), label=label, elinewidth=1.2, **look)
