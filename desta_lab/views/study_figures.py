"""Figures of what was varied: sweeps, ablations, what was forgotten, and public test sets."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from desta_lab.evaluation.statistics import t_half_width
from desta_lab.evaluation.tasks import RUNGS
from desta_lab.views import style
from desta_lab.views.saving import Picture
from desta_lab.views.style import PALETTE, draws, get_series, labelled_marker, marker_style

_SHIFTS = {"audio": 0.0, "untrained": 0.14, "silence": 0.22, "shuffled": 0.30, "oracle": 0.38}
_LAST_SHIFT = 0.46  # of a condition that somebody added
_SYSTEMS: Mapping[str, Mapping[str, Any]] = {  # the kinds of number about a test set
    "measured": marker_style("audio") | {"marker": "o", "label": "measured here, 95 % interval"},
    "control": marker_style("silence") | {"label": "control: the clip is silence"},
    "published": {"marker": "o", "mfc": "none", "mec": "black", "ms": 6, "label": "published"},
}
_TUNING_MARKERS = {"frozen": "o", "lora-2": "^", "lora-8": "s", "lora-32": "D", "full": "X"}
_SMALL_DOT: Any = {"marker": ".", "ms": 3, "lw": 0.9}
_PLANES = {
    "forgotten": "In text: what the LLM forgot",
    "by ear": "By ear: what the whole model lost",
}

# ---- sweeps and ablations ----


@draws("knob name condition score low high cells")
def plot_knobs(table: pd.DataFrame, headline: str = "", rung: int = 3) -> Picture:
    """Which settings of a sweep matter: the mean score of a rung at every value, with controls.

    `name` is of the value of a knob, and the score is over the `cells` that have it.
    """
    conditions = style.list_conditions(table["condition"])
    shifts = dict(zip(conditions, np.linspace(-0.24, 0.24, len(conditions)), strict=True))
    picture, panels = style.facets(table, "knob", headline, (3.0, 2.6), "value", (False, True))
    for axes, rows in panels:
        values = style.unique_values(rows["name"])
        axes.axhline(0, label="chance", **style.ZERO)
        for condition in conditions:
            own = rows[rows["condition"] == condition]
            at = own["name"].map(values.index) + shifts[condition]
            look = labelled_marker(condition)
            look |= {"marker": "o", "label": "audio, trained"} if condition == "audio" else {}
            bars = style.error_bars(own, "score")
            axes.errorbar(at, own["score"], yerr=bars, elinewidth=1.2, **look)
        axes.set_xticks(range(len(values)), [style.shorten(value) for value in values])
        axes.tick_params(axis="x", rotation=25 if sum(map(len, values)) > 24 else 0)
        axes.set_xlim(-0.5, len(values) - 0.5)
    low, high = table[["low", "score"]].min().min(), table[["high", "score"]].max().max()
    picture.axes[0].set_ylim(min(-0.3, low - 0.05), max(1.08, high + 0.05))
    scale = "(0 is chance, 1 is perfect)"
    picture.supylabel(f"rung {rung}, accuracy above chance\n{scale}", fontsize=9)
    note = "bars: 95 % interval over cells and seeds, where there are several"
    style.add_legend(picture, picture.axes, 3, note)
    return picture


@draws("arm at seed rung attribute condition score said?")
def plot_ablation(
    table: pd.DataFrame, headline: str = "", unit: str = "", curve: Sequence[float] = ()
) -> Picture:
    """The arms of a study on rung 3 and rung 0: every seed a dot, the mean with its interval.

    With a column `said`, rungs 3 and 2 in the backbone's own words stand beside rung 3.

    Args:
        unit: Of the arms where they are amounts (`at`); they then stand on a logarithmic axis.
        curve: Top, half and slope of a curve through rung 3.
    """
    drawn = table[(table["attribute"] == "all") & table["rung"].isin([0, 2, 3])]
    arms = drawn.drop_duplicates("arm").set_index("arm")["at"]
    places, names = _place_arms(arms, unit)
    long = sum(map(len, names)) > 26
    panels = [(3, "score", f"Rung 3: {RUNGS[3]}"), (0, "score", f"Rung 0: {RUNGS[0]}")]
    if "said" in table:
        panels[1:] = [
            (3, "said", "Rung 3, in its own words"),
            (2, "said", f"Rung 2, in its own words: {RUNGS[2]}"),
        ]
    width = max(3.5, 0.7 + 0.65 * (1 + places.max()))
    size = (width * len(panels), 4.2 if long else 3.8)
    picture, grid = style.subplots(1, len(panels), headline, size, table, sharey=True, sharex=True)
    many = drawn["seed"].nunique() > 1
    for axes, (rung, height, title) in zip(grid, panels, strict=True):
        axes.set_title(title, loc="left")
        axes.axhline(0, label="chance", **style.ZERO)
        if curve and rung == 3 and height == "score":
            _draw_curve(axes, curve, arms, places)
        rows = drawn[drawn["rung"] == rung].assign(score=drawn[height])
        for condition in style.list_conditions(drawn["condition"]):
            own = rows[rows["condition"] == condition]
            _draw_arms(axes, own, condition, places, many)
        turn: Any = {"rotation": 20, "ha": "right"} if long else {"rotation": 0, "ha": "center"}
        axes.set_xticks(places, names, **turn)
        axes.set(xlim=(-0.5, places.max() + 0.65), xlabel=unit)
    lowest = min(drawn.loc[drawn["rung"] == rung, height].min() for rung, height, _ in panels)
    grid[0].set_ylim(min(-0.3, lowest - 0.05), 1.08)
    picture.supylabel("accuracy above chance\n(0 is chance, 1 is perfect)", fontsize=9)
    note = "bars: 95 % interval over seeds" if many else "one seed"
    style.add_legend(picture, list(grid), 3, note)
    return picture


def _place_arms(arms: pd.Series, unit: str) -> tuple[pd.Series, list[str]]:
    """The place and name of every arm: amounts by their logarithms, the nearest two 1 apart."""
    names = [str(arm) for arm in arms.index]
    if not unit:
        return pd.Series(np.arange(len(arms), dtype=float), index=arms.index), names
    logs = np.log(arms)
    step = max(np.diff(np.sort(logs)).min(), 1e-9) if len(logs) > 1 else 1.0
    amounts = [f"{at:g}" for at in arms]
    pairs = zip(names, amounts, strict=True)
    named = [name if name == amount else f"{name} ({amount})" for name, amount in pairs]
    return (logs - logs.min()) / step, named


def _draw_curve(axes: Axes, curve: Sequence[float], arms: pd.Series, places: pd.Series) -> None:
    """A saturating curve through the amounts, from the smallest to the largest."""
    top, half, slope = curve
    amounts = np.geomspace(arms.min(), arms.max(), 100)
    at = np.linspace(places.min(), places.max(), 100)
    look: Any = {"color": PALETTE["audio"], "lw": 1.2, "label": "fitted curve"}
    axes.plot(at, top / (1 + (half / amounts) ** slope), **look)


def _draw_arms(
    axes: Axes, rows: pd.DataFrame, condition: str, places: pd.Series, many: bool
) -> None:
    """One condition: the mean of every arm with its t-interval; by ear also every seed."""
    look = labelled_marker(condition)
    look["ms"] = 7 if condition == "oracle" else 4
    if condition == "audio":
        look |= {"marker": "o", "ms": 7}
        if many:
            look["label"] = "audio, mean over seeds"
            dot: Any = {"ls": "none", "marker": "o", "ms": 3.5, "alpha": 0.55}
            dot |= {"color": PALETTE["audio"], "label": "audio, one seed"}
            axes.plot(rows["arm"].map(places) - 0.16, rows["score"], **dot)
    scores = rows.groupby("arm", sort=False)["score"]
    mean, bars = scores.mean(), t_half_width(scores.sem(), scores.count())
    at = places[mean.index] + _SHIFTS.get(condition, _LAST_SHIFT)
    axes.errorbar(at, mean, yerr=bars, elinewidth=1.2, **look)


# ---- beside what was published ----


@draws("system metric protocol value low high clips chance kind differs source")
def plot_benchmark(table: pd.DataFrame, headline: str = "", note: str = "") -> Picture:
    """What was measured on a public test set, with controls, beside what was published (hollow).

    A value is in per cent, a `kind` is measured, control or published, and `differs` has the marks
    of what cannot be compared, which `note` explains below.
    """
    systems, metrics = (style.unique_values(table[name]) for name in ("system", "metric"))
    size = (3.2 + 1.75 * max(2, len(metrics)), 1.7 + 0.23 * len(systems))
    share = {"sharey": True, "squeeze": False}
    picture, grid = style.subplots(1, len(metrics), headline, size, table, **share)
    for axes, metric in zip(grid[0], metrics, strict=True):
        rows = table[table["metric"] == metric]
        style.name_rows(axes, systems)
        axes.set_yticks(range(len(systems)), [style.shorten(name, 48) for name in systems])
        _draw_systems(axes, rows, systems)
        low, high = (0, 106.0) if metric != "delta" else (-60, max(12, rows["high"].max() + 3))
        axes.set_xlim(min(low, rows["value"].min() - 5) - 2, high)
        axes.set_title("Δ, forgetting rate" if metric == "delta" else metric, loc="left")
        axes.set_xlabel("per cent")
    lines = textwrap.fill(note, int(13 * size[0]))
    style.add_legend(picture, list(grid.flat), 4 if len(metrics) > 2 else 2, lines)
    return picture


def _draw_systems(axes: Axes, rows: pd.DataFrame, systems: Sequence[str]) -> None:
    if rows["chance"].notna().any():
        style.draw_chance(axes.axvline, rows, "chance")
    for kind, look in _SYSTEMS.items():
        own = rows[rows["kind"] == kind]
        if own.empty:
            continue
        reach = style.error_bars(own, "value")
        bars = reach if np.isfinite(reach).any() else None
        at = own["system"].map(systems.index)
        axes.errorbar(own["value"], at, xerr=bars, elinewidth=1.5, **{"ls": "none", **look})
    for row in rows[rows["differs"].fillna("") != ""].itertuples():
        where = (row.value, systems.index(row.system))
        axes.annotate(row.differs, where, (4, 2), textcoords="offset points")


# ---- what was learned against what was forgotten ----


@draws("arm kind share measure mean seeds low high")
def plot_tradeoff(plane: pd.DataFrame, headline: str = "") -> Picture:
    """What was learned against what was forgotten, in text and by ear, one mark an arm.

    `plane` is that of `forgetting.learned_and_forgotten`. The thin lines are adapters turned down
    at test time, to 0.
    """
    picture, grid = style.subplots(1, 2, headline, (9.5, 5.2), plane, sharey=True)
    control = plane[plane["arm"] == "control"].set_index(["measure", "kind"])["mean"]
    trained = plane[plane["arm"] != "control"]
    arms = style.unique_values(trained.loc[trained["measure"] == "forgotten", "arm"])
    for axes, (measure, title) in zip(grid, _PLANES.items(), strict=True):
        axes.set_title(title, loc="left")
        _draw_controls(axes, control)
        for arm in arms:
            _draw_arm(axes, trained[trained["arm"] == arm], measure)
        scale = "(0: as the untouched LLM reading the description)"
        axes.set_xlabel(f"Δ: change in instructions obeyed, per cent\n{scale}")
    _limit_plane(picture.axes, trained, control)
    _explain_marks(grid[0], arms)
    note = f"upper right is best; {_explain_bars(trained)}"
    style.add_legend(picture, picture.axes, 4, note)
    return picture


def _explain_bars(trained: pd.DataFrame) -> str:
    """What the bars are, and which arms have none because they have one seed."""
    if trained["seeds"].max() == 1:
        return "one seed"
    alone = style.unique_values(trained.loc[trained["seeds"] == 1, "arm"])
    without = f"\nwithout bars, of one seed: {'; '.join(alone)}" if alone else ""
    return f"bars: 95 % interval over seeds{without}"


def _draw_controls(axes: Axes, control: pd.Series) -> None:
    axes.axvline(0, **style.ZERO)
    for name, line in (("untrained", ":"), ("oracle", "--")):
        look: Any = {"color": PALETTE[name], "ls": line, "label": get_series(name).label}
        axes.axhline(control["learned", name], lw=1.2, **look)
    bare: Any = {"color": PALETTE["label"], "ls": style.DOTTED, "lw": 1.4}
    label = "the bare label, whatever is asked"
    axes.axvline(control["forgotten", "bare label"], label=label, **bare)


def _draw_arm(axes: Axes, rows: pd.DataFrame, measure: str) -> None:
    """A line from the adapters at 0 to their full share, which carries the mark and intervals."""
    tuning, kind = rows["arm"].iloc[0].split(", ")
    shares = {name: part.sort_values("share") for name, part in rows.groupby("measure")}
    across = shares[measure]
    up = shares["learned"]
    up = up[up["share"].isin(across["share"])]
    axes.plot(across["mean"], up["mean"], color=PALETTE[kind], zorder=1, **_SMALL_DOT)
    right, top = across.tail(1), up.tail(1)
    look = {"ms": 7, "elinewidth": 0.9, "zorder": 3, **_face(kind)}
    look |= {"xerr": style.error_bars(right, "mean"), "yerr": style.error_bars(top, "mean")}
    marker = _TUNING_MARKERS.get(tuning, "P")
    axes.errorbar(right["mean"], top["mean"], marker=marker, **look)


def _limit_plane(grid: Sequence[Axes], trained: pd.DataFrame, control: pd.Series) -> None:
    """Limits that hold every mean, and every interval that does not double the picture."""
    drawn = trained["share"] == 1  # where adapters are turned down, intervals are not
    trained = trained.assign(low=trained["low"].where(drawn), high=trained["high"].where(drawn))
    across = trained[trained["measure"].isin(["forgotten", "by ear"])]
    for axes in grid:
        axes.set_xlim(_span(across, [0.0, control["forgotten", "bare label"]]))
    grid[0].set_ylim(_span(trained[trained["measure"] == "learned"], [0.0, 1.0]))
    grid[0].set_ylabel("learned: rung 3 above chance, by ear")


def _span(rows: pd.DataFrame, more: Sequence[float]) -> tuple[float, float]:
    """From the lowest to the highest of some means and intervals, with a margin."""
    means = np.array([*rows["mean"], *more])
    room = max(np.ptp(means), 0.1)
    low = np.nanmin([*means, *rows["low"].clip(lower=means.min() - room)])
    high = np.nanmax([*means, *rows["high"].clip(upper=means.max() + room)])
    margin = 0.08 * (high - low)
    return low - margin, high + margin


def _explain_marks(axes: Axes, arms: Sequence[str]) -> None:
    """Empty series that name the marker of every tuning and the face of every kind of target."""
    names = [arm.split(", ") for arm in arms]
    grey: Any = {"color": "#555555"}
    for tuning in dict.fromkeys(tuning for tuning, _ in names):
        marker = _TUNING_MARKERS.get(tuning, "P")
        axes.plot([], [], marker=marker, ls="none", ms=7, label=tuning, **grey)
    for kind in dict.fromkeys(kind for _, kind in names):
        axes.plot([], [], marker="o", ls="none", ms=8, label=f"{kind} targets", **_face(kind))
    axes.plot([], [], label="adapters turned down, to 0", **grey, **_SMALL_DOT)


def _face(kind: str) -> dict[str, Any]:
    """The colour of a kind of target; in grey it is told by how much of the mark is filled."""
    edge = {"color": PALETTE[kind], "mec": PALETTE[kind], "mew": 1.2}
    if kind == "label":
        return edge | {"mfc": "white"}
    fill = "left" if kind == "template" else "full"
    return edge | {"fillstyle": fill, "markerfacecoloralt": "white"}


# ---- what a step costs ----


@draws("factor value per name tokens seconds floor")
def plot_costs(table: pd.DataFrame, headline: str = "") -> Picture:
    """Seconds of a training step and of its floor against every factor, on logarithmic axes.

    The slope is that of a line through the steps: 1 where twice the factor takes twice as long.
    """
    picture, panels = style.facets(table, "factor", headline, (2.7, 2.3), "", (False, True))
    line: Any = {"lw": 1.0, "ls": style.DOTTED, "color": "#555555", "label": "fitted line"}
    for axes, rows in panels:
        at = rows["value"].to_numpy(float)
        look: Any = {"ls": "none", "marker": "o", "color": PALETTE["audio"]}
        axes.plot(at, rows["seconds"], label="training step", **look)
        look |= {"marker": "s", "mfc": "none", "color": PALETTE["untrained"]}
        axes.plot(at, rows["floor"], label="its floor: the frozen backbone alone", **look)
        if len(rows) > 1:
            slope, start = np.polyfit(np.log(at), np.log(rows["seconds"]), 1)
            axes.plot(at, np.exp(start) * at**slope, zorder=0, **line)
            axes.set_title(f"slope {slope:.2f}", loc="right")
        axes.set(xscale="log", yscale="log", xlabel=rows["per"].iloc[0])
        axes.set_xticks(at, [f"{value:g}" for value in at])
        axes.set_xticks([], minor=True)
    picture.supylabel("seconds a step", fontsize=9)
    style.add_legend(picture, picture.axes, 3)
    return picture
