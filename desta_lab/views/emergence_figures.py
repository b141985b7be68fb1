"""Drawings of the emergence report: how rung 3 rises over seeds, how suddenly, how much together, and after what."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from desta_lab.evaluation import statistics
from desta_lab.experiments import emergence_claims
from desta_lab.views import style
from desta_lab.views.saving import Picture
from desta_lab.views.style import PALETTE

MARGIN = {"color": PALETTE["soft"], "ls": (0, (4, 1.5)), "marker": "v", "ms": 4}
ANSWER = {"color": PALETTE["self"], "ls": "-", "marker": "o", "ms": 4}
PROBE = {"color": PALETTE["template"], "ls": "-.", "marker": "P", "ms": 5}
GREY = {"color": PALETTE["silence"], "ls": ":", "marker": "x", "ms": 5}
SIGNS = "os^Dv*PX"  # one an attribute, everywhere below
COLOURS = [
    PALETTE[name]
    for name in ("audio", "label", "template", "oracle", "soft", "untrained", "shuffled")
]
SEEDS = "95 % t-interval over seeds"


def _mean(rows: pd.DataFrame, at: str, value: str) -> pd.DataFrame:
    """Mean over seeds of a column at every place, with its interval."""
    found = [
        (place, *statistics.mean_interval(some[value].tolist())) for place, some in rows.groupby(at)
    ]
    return pd.DataFrame(found, columns=[at, "mean", "low", "high"])


def _line(
    axes: Axes, rows: pd.DataFrame, value: str, label: str, ink: dict[str, Any], every: int = 4
) -> None:
    mean = _mean(rows, "step", value)
    if rows["seed"].nunique() > 2:  # of two the interval is wider than the panel
        axes.fill_between(
            mean["step"], mean["low"], mean["high"], color=ink["color"], alpha=0.18, lw=0
        )
    axes.plot(mean["step"], mean["mean"], lw=1.5, label=label, markevery=every, **ink)


def _bars(
    axes: Axes,
    found: Sequence[tuple[float, float, float]],
    at: Any,
    label: str,
    ink: dict[str, Any],
) -> None:
    """Numbers with their intervals, across; a line is not drawn between them."""
    middle, low, high = np.array(found, dtype=float).reshape(-1, 3).T
    reach = np.nan_to_num(np.clip([middle - low, high - middle], 0, None))
    axes.errorbar(middle, at, xerr=reach, elinewidth=1.2, label=label, **{**ink, "ls": "none"})


def plot_curves(table: pd.DataFrame, probes: pd.DataFrame, headline: str) -> Picture:
    """Rung 3 per attribute along training: accuracy, the margin on a scale of its own, the probe, and the controls."""
    own = table[
        (table["run"] == "self") & (table["clips"] == table["clips"].max()) & (table["rung"] == 3)
    ]
    rival = table[
        (table["run"] == "label") & (table["rung"] == 3) & (table["condition"] == "audio")
    ]
    picture, grid = style.subplots(2, 3, headline, (10.0, 6.0), sharex=True, sharey=True)
    for axes, attribute in zip(grid.flat, style.seen(own["attribute"]), strict=True):
        rows = own[own["attribute"] == attribute]
        axes.axhline(0, color="#B0B0B0", lw=0.8, zorder=0)
        for condition in ("silence", "shuffled"):
            look = {"color": style.get_colour(condition), "ls": style.get_series(condition).line}
            _line(
                axes,
                rows[rows["condition"] == condition],
                "score",
                style.get_series(condition).label,
                look,
            )
        look = {
            "color": PALETTE["label"],
            "ls": style.get_series("label").line,
            "marker": "s",
            "ms": 3.5,
        }
        if len(some := rival[rival["attribute"] == attribute]):
            _line(axes, some, "score", style.get_series("label").label, look)
        heard = rows[rows["condition"] == "audio"]
        ends = heard.groupby("seed")["margin"].agg(["first", "last"])
        first, last = (heard["seed"].map(ends[end]) for end in ("first", "last"))
        scaled = heard.assign(margin=(heard["margin"] - first) / (last - first))
        _line(
            axes,
            probes[probes["attribute"] == attribute],
            "score",
            "probe on the audio embeddings",
            PROBE,
        )
        _line(axes, scaled, "margin", "log-probability margin (0 untrained, 1 last step)", MARGIN)
        _line(axes, heard, "score", "accuracy, audio", ANSWER)
        axes.set_title(attribute, loc="left")
        axes.set(ylim=(-0.35, 1.3), xlim=(-3, own["step"].max() + 3))
    for axes in grid[-1]:
        axes.set_xlabel("training step")
    picture.supylabel("above chance (0: chance, 1: perfect)", fontsize=9)
    style.add_legend(
        picture,
        list(grid.flat),
        3,
        f"lines: means over seeds; bands: {SEEDS}, of three seeds or more",
    )
    picture.table = pd.concat(
        [own.assign(part="answer"), rival.assign(part="rival"), probes.assign(part="probe")]
    )
    return picture


def plot_jumps(table: pd.DataFrame, tasks: Sequence[str], headline: str) -> Picture:
    """Jump share of accuracy and of the margin per task, beside a steady rise with the noise of each; above 1 is what
    fell first."""
    some = table[table["task"].isin(tasks)]
    order = some.groupby("task")["share"].mean().sort_values().index.tolist()
    picture, grid = style.subplots(
        1, 2, headline, (9.0, 1.6 + 0.24 * len(order)), sharey=True, sharex=True
    )
    for axes, (metric, ink) in zip(
        grid, zip(emergence_claims.METRICS.values(), (ANSWER, MARGIN), strict=True), strict=True
    ):
        rows = some[some["metric"] == metric]
        for value, label, look in (
            ("steady", "a steady rise with the same noise", GREY),
            ("share", "measured", ink),
        ):
            found = [
                statistics.mean_interval(rows.loc[rows["task"] == task, value].tolist())
                for task in order
            ]
            _bars(
                axes,
                found,
                np.arange(len(order)) + (0.15 if value == "steady" else -0.1),
                label,
                look,
            )
            mean = statistics.mean_interval(rows.groupby("seed")[value].mean().tolist())
            _bars(
                axes,
                [mean],
                [len(order) + (0.15 if value == "steady" else -0.1)],
                label,
                {**look, "ms": 7},
            )
        axes.axhline(len(order) - 0.5, color="#B0B0B0", lw=0.8)
        axes.set_title(metric, loc="left")
        axes.set(
            xlim=(0, max(1.0, some["share"].max() * 1.05)),
            xlabel="largest rise between two checkpoints / whole rise",
        )
    style.name_rows(grid[0], [*order, "all tasks"])
    for place in range(1, len(order), 2):
        grid[1].axhspan(place - 0.5, place + 0.5, color="#F3F3F3", zorder=-1, lw=0)
    style.add_legend(picture, [grid[0], grid[1]], 3, f"bars: {SEEDS}")
    picture.table = some
    return picture


def plot_crossings(crossings: pd.DataFrame, nulls: pd.DataFrame, headline: str) -> Picture:
    """Every task's stable crossing in every run, and how far apart they stand, beside both nulls."""
    picture, (left, right) = style.subplots(
        1, 2, headline, (10.0, 1.9 + 0.45 * crossings["seed"].nunique()), width_ratios=(2.2, 1.0)
    )
    seeds, names = sorted(crossings["seed"].unique()), style.seen(crossings["attribute"])
    drawn = crossings.dropna(subset="stable").sort_values(["seed", "stable", "attribute"])
    for name, sign, colour in zip(names, SIGNS, COLOURS, strict=False):
        some = drawn[drawn["attribute"] == name]
        crowd = drawn.groupby(["seed", "stable"]).cumcount()[
            some.index
        ]  # tasks that share a checkpoint are stacked
        size = drawn.groupby(["seed", "stable"])["task"].transform("size")[some.index]
        at = some["seed"].map(seeds.index) + (crowd - (size - 1) / 2) * 0.1
        left.plot(
            some["stable"],
            at,
            ls="none",
            marker=sign,
            ms=4.5,
            mec="white",
            mew=0.4,
            color=colour,
            label=name,
        )
    left.set_yticks(range(len(seeds)), [f"seed {seed}" for seed in seeds])
    left.set(
        ylim=(len(seeds) - 0.4, -0.6), xlabel="step of the stable half-way crossing", xlim=(0, None)
    )
    left.set_title("every task of every run", loc="left")
    for place, row in enumerate(nulls.itertuples()):
        look = GREY if row.name in ("tasks of different runs", "at any time") else ANSWER
        _bars(right, [(row.mean, row.low, row.high)], [place], row.name, look)
    right.set_yticks(range(len(nulls)), nulls["name"])
    right.set(
        ylim=(len(nulls) - 0.5, -0.5), xlim=(0, None), xlabel="steps between two tasks of a run"
    )
    right.set_title("how far apart they stand", loc="left")
    style.add_legend(
        picture, [left], 6, f"blue: measured, {SEEDS}; grey: nulls, 95 % of 2,000 draws"
    )
    picture.table = pd.concat([crossings.assign(part="crossing"), nulls.assign(part="distance")])
    return picture


def plot_onsets(crossings: pd.DataFrame, last: int, headline: str) -> Picture:
    """When the probe and when the answer are stably above their controls, per attribute and seed."""
    spoken = crossings[(crossings["what"] == "heard") & (crossings["rung"] == 3)]
    names = spoken.groupby("attribute")["stable"].mean().sort_values().index.tolist()
    picture, axes = style.subplots(1, 1, headline, (8.0, 1.9 + 0.45 * len(names)))
    for what, shift, ink, label in (
        ("readable", 0.14, PROBE, "probe above random labels"),
        ("heard", -0.14, ANSWER, "answer above shuffled audio and silence"),
    ):
        rows = crossings[(crossings["what"] == what) & crossings["attribute"].isin(names)]
        rows = rows[(rows["what"] == "readable") | (rows["rung"] == 3)]
        at = rows["attribute"].map(names.index) + shift
        axes.plot(
            rows["stable"], at + 0.12, ls="none", marker=".", ms=4, color=ink["color"], alpha=0.6
        )
        found = [
            statistics.mean_interval(rows.loc[rows["attribute"] == name, "stable"].tolist())
            for name in names
        ]
        _bars(axes, found, np.arange(len(names)) + shift, label, {**ink, "ms": 6})
        never = rows[rows["stable"].isna()].groupby("attribute").size()
        for name, count in never.items():
            axes.text(
                last + 6,
                names.index(name) + shift,
                f"{count} never",
                color=ink["color"],
                va="center",
                fontsize=8,
            )
    style.name_rows(axes, names)
    axes.set(
        xlim=(-6, last + 40), xlabel="first training step from which on it is above, to the end"
    )
    style.add_legend(picture, [axes], 2, f"small dots: seeds; bars: {SEEDS}")
    picture.table = crossings[crossings["what"].isin(["readable", "heard"])]
    return picture


def plot_corpus_size(table: pd.DataFrame, last: int, headline: str) -> Picture:
    """The stable crossing of rung 3 and its score at the end, against the clips trained with; controls beside it."""
    picture, (left, right) = style.subplots(1, 2, headline, (8.5, 4.2))
    sizes = sorted(table["clips"].unique())
    for _, some in table.groupby("seed"):
        some = some.sort_values("clips")
        for axes, value in ((left, "stable"), (right, "score")):
            axes.plot(
                some["clips"],
                some[value],
                color=ANSWER["color"],
                lw=0.8,
                alpha=0.45,
                marker=".",
                ms=4,
            )
    for axes, value, label, ink in (
        (left, "stable", "mean over seeds", ANSWER),
        (right, "score", "mean over seeds", ANSWER),
        (right, "shuffled", style.get_series("shuffled").label, style.marker_style("shuffled")),
        (right, "silence", style.get_series("silence").label, style.marker_style("silence")),
        (right, "untrained", style.get_series("untrained").label, style.marker_style("untrained")),
    ):
        mean = _mean(table, "clips", value)
        reach = np.nan_to_num(
            np.clip([mean["mean"] - mean["low"], mean["high"] - mean["mean"]], 0, None)
        )
        axes.errorbar(
            mean["clips"],
            mean["mean"],
            yerr=reach,
            elinewidth=1.2,
            label=label,
            **{**ink, "ls": "none"},
        )
    for clips, count in table[table["stable"].isna()].groupby("clips").size().items():
        left.text(
            clips,
            last,
            f"{count} never",
            ha="center",
            va="bottom",
            color=ANSWER["color"],
            fontsize=8,
        )
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
        axes.set_xlabel("clips trained with")
    left.set(ylim=(0, last * 1.1), ylabel="step of the stable half-way crossing")
    right.axhline(0, color="#B0B0B0", lw=0.8, zorder=0)
    right.set(ylim=(-0.35, 1.08), ylabel=f"score at step {last} (0: chance, 1: perfect)")
    left.set_title("rung 3, mean of its attributes", loc="left")
    style.add_legend(picture, [left, right], 4, f"thin lines: seeds; bars: {SEEDS}")
    picture.table = table
    return picture
