"""Figures of the main job: what generalises, what the targets carry, where the connector reads."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Float
from matplotlib.axes import Axes

from desta_lab.evaluation.tasks import RUNGS
from desta_lab.views import style
from desta_lab.views.saving import Picture, styled
from desta_lab.views.style import PALETTE, draws, get_series, labelled_marker

MEASURES = {
    "calibrated": "calibrated ranking",
    "raw": "raw ranking",
    "free_form": "free-form match",
    "said": "the model's own words",
    "obeyed": "constraint obeyed",
}
_HATCHES = ("", "//", "..", "xx", "\\\\", "++")  # of the kinds of target
_TOKENS = 32  # tokens of a target in one line of bars

# ---- what generalises ----


@draws("run step condition rung measure score low high")
def plot_emergence(
    table: pd.DataFrame,
    headline: str = "",
    measure: str = "calibrated",
    names: Mapping[int, str] = RUNGS,
) -> Picture:
    """Emergence curves: how far above chance each rung is at every checkpoint, with its controls.

    Args:
        table: A score of 0 is chance, 1 is perfect. The controls are those of the first run in the
            order of `SERIES`; a rung without rows says so in its panel.
        names: The rungs to draw and their names.
    """
    table = style.select_measure(table, measure)
    share = {"sharex": True, "sharey": True, "squeeze": False}
    across = math.ceil(len(names) / 2)
    picture, grid = style.subplots(2, across, headline, (10, 5.8), table, **share)
    runs = style.sort_values(table["run"])
    for axes, (rung, name) in zip(grid.flat, names.items(), strict=False):
        axes.set_title(f"Rung {rung}: {name}", loc="left")
        axes.axhline(0, label="chance", **style.ZERO)
        _draw_rung(axes, table[table["rung"] == int(rung)].sort_values("step"), runs)
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    style.set_step_axis(grid[0, 0], max(1, int(table["step"].max())))
    grid[0, 0].set_ylim(min(-0.3, table["low"].min() - 0.05), 1.08)
    for axes in grid[-1]:
        axes.set_xlabel("training step")
    scale = "(0 is chance, 1 is perfect; bands: 95 % interval)"
    ranking = MEASURES.get(measure, measure)
    picture.supylabel(f"accuracy above chance, {ranking}\n{scale}", fontsize=9)
    style.add_legend(picture, list(grid.flat), columns=4)
    return picture


def _draw_rung(axes: Axes, rows: pd.DataFrame, runs: Sequence[str]) -> None:
    """The curves of one rung: controls of the first run, then every run, the first on top."""
    if rows.empty:
        style.annotate(axes, "no task that the oracle can do")
    series = dict(list(rows.groupby(["run", "condition"])))
    for condition in [*style.list_controls(rows["condition"]), "oracle"]:
        _draw_curve(axes, series.get((runs[0], condition)), condition, control=True)
    for run in reversed(runs):
        _draw_curve(axes, series.get((run, "audio")), run)
    heard = (rows["run"] == runs[0]) & (rows["condition"] == "audio")
    start = rows.loc[heard & (rows["step"] == 0), "score"]
    if len(start):
        axes.plot([0], start, **labelled_marker("untrained"), zorder=4)


def _draw_curve(axes: Axes, rows: pd.DataFrame | None, name: str, control: bool = False) -> None:
    """One series over the steps with its interval; the oracle, which no step changes, as a line."""
    if rows is None:
        return
    series = get_series(name)
    look: Any = {"color": series.colour, "ls": series.line, "label": series.label}
    if name == "oracle":
        axes.axhline(rows["score"].mean(), lw=1.2, **look)
        return
    look |= {"lw": 1.2, "ms": 3.5} if control else {"lw": 2.0, "ms": 4.5}
    band: Any = {"color": series.colour, "alpha": 0.18, "lw": 0}
    axes.fill_between(rows["step"], rows["low"], rows["high"], **band)
    axes.plot(rows["step"], rows["score"], marker=series.marker, **look)


@draws("run step condition task rung attribute chance measure accuracy low high oracle counted")
def plot_held_out(
    table: pd.DataFrame, headline: str = "", measure: str = "calibrated", rung: int = 3
) -> Picture:
    """Which attributes rose above every control: accuracy of each task at the last step.

    A task that the oracle cannot do (it is not `counted`) stays in the figure, and says so.
    """
    table = table[(table["measure"] == measure) & (table["rung"] == rung)]
    if table.empty:
        raise ValueError(
            f"No row of rung {rung} with measure {measure!r}; evaluate it first or name another."
        )
    series = _split_series(table)
    tasks = next(iter(series.values())).sort_values("accuracy")
    if "oracle" not in series:
        series["oracle"] = tasks.assign(accuracy=tasks["oracle"], low=math.nan, high=math.nan)
    picture, axes = style.subplots(1, 1, headline, (8, 1.6 + 0.62 * len(tasks)), table)
    for place, chance in enumerate(tasks["chance"]):
        axes.plot([chance] * 2, [place - 0.42, place + 0.42], label="chance", **style.CHANCE)
    style.stripe_rows(axes, len(tasks))
    _draw_tasks(axes, series, list(tasks["task"]))
    notes = tasks["counted"].map({True: "", False: "\n(the oracle cannot do it)"})
    axes.set_yticks(range(len(tasks)), _name_tasks(tasks) + notes, fontsize=10)
    axes.tick_params(axis="y", length=0)
    axes.set(xlim=(0, 1.02), ylim=(-0.5, len(tasks) - 0.5))
    axes.set_xlabel(f"accuracy, {MEASURES.get(measure, '')} (bars: 95 % interval)")
    style.add_legend(picture, [axes], columns=4)
    return picture


@draws("series task attribute step accuracy low high chance")
def plot_people(table: pd.DataFrame, headline: str = "") -> Picture:
    """When each question never trained is answered about people, and when about the run's own test.

    A `series` is `people`, `own test` (of the run), or a condition of people but
    `untrained`, which is step 0.
    """
    kinds = ["own test", "people"]
    controls = style.list_controls(table.loc[~table["series"].isin(kinds), "series"])
    order = [*controls, "oracle", *kinds]
    table = table[table["series"].isin(order)]
    table = table.assign(name=_name_tasks(table))
    picture, panels = style.facets(table, "name", headline, (2.9, 2.3), "training step")
    for axes, rows in panels:
        style.draw_chance(axes.axhline, rows, "chance")
        for name in order:
            own = rows[rows["series"] == name].rename(columns={"accuracy": "score"})
            curve = own.sort_values("step") if len(own) else None
            _draw_curve(axes, curve, name, control=name in controls)
    style.set_step_axis(panels[0][0], max(1, int(table["step"].max())))
    panels[0][0].set_ylim(min(0.1, table["low"].min() - 0.05), 1.03)
    picture.supylabel("accuracy, calibrated ranking", fontsize=9)
    style.add_legend(picture, picture.axes, 3, style.SPEAKER_INTERVAL)
    return picture


@draws("kind speakers condition task attribute chance seed accuracy mean low high")
def plot_speakers(table: pd.DataFrame, headline: str = "") -> Picture:
    """What so many people teach, and so many synthetic voices; the same people are the test.

    A dot is one seed, a line the mean with its 95 % t-interval over seeds. Controls are means over
    all arms.
    """
    table = table.assign(name=_name_tasks(table))
    picture, panels = style.facets(table, "name", headline, (2.9, 2.3), "speakers in training")
    for axes, rows in panels:
        style.draw_chance(axes.axhline, rows, "chance")
        for name in [*style.list_controls(rows["condition"]), "untrained", "oracle"]:
            series, control = get_series(name), rows[rows["condition"] == name]
            line = (0, (6, 1, 1, 1)) if series.line == "none" else series.line
            look: Any = {"color": series.colour, "ls": line, "label": series.label}
            axes.axhline(control["accuracy"].mean(), lw=1.2, **look)
        looks = {"synthetic": ("own test", "synthetic voices"), "people": ("people", "people")}
        for kind, (drawn_as, voices) in looks.items():
            own = rows[(rows["condition"] == "audio") & (rows["kind"] == kind)]
            series = get_series(drawn_as)._replace(label=f"trained on {voices}")
            _draw_speakers(axes, own.sort_values("speakers"), series)
    panels[0][0].set_xscale("log")
    style.set_ticks(panels[0][0], sorted(table["speakers"].unique()))
    panels[0][0].set_ylim(0, 1.08)
    picture.supylabel("accuracy, calibrated ranking", fontsize=9)
    note = "dots: seeds; bars: 95 % t-interval over seeds"
    style.add_legend(picture, picture.axes, 3, note)
    return picture


def _draw_speakers(axes: Axes, rows: pd.DataFrame, series: style.Series) -> None:
    """The seeds of one kind of voice as dots, and their mean over the numbers of speakers."""
    ends = rows.drop_duplicates("speakers")
    error = [ends["mean"] - ends["low"], ends["high"] - ends["mean"]]
    look: Any = {"color": series.colour, "ls": series.line, "marker": series.marker}
    axes.errorbar(ends["speakers"], ends["mean"], error, label=series.label, capsize=2, **look)
    axes.plot(rows["speakers"], rows["accuracy"], ".", color=series.colour, ms=4, alpha=0.6)


def _name_tasks(table: pd.DataFrame) -> pd.Series:
    """The attribute of every row, with its task where an attribute has several."""
    several = table.groupby("attribute")["task"].transform("nunique") > 1
    return table["attribute"].where(~several, table["attribute"] + ": " + table["task"])


def _split_series(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of every run by ear, then of the first run's controls; empty series are left out."""
    runs = style.sort_values(table["run"])
    heard = table[table["condition"] == "audio"]
    series = {run: _last_step(heard[heard["run"] == run]) for run in runs}
    main = table[table["run"] == runs[0]]
    series["untrained"] = main[(main["condition"] == "audio") & (main["step"] == 0)]
    for condition in [*style.list_controls(table["condition"])[::-1], "oracle"]:
        series[condition] = _last_step(main[main["condition"] == condition])
    return {name: rows for name, rows in series.items() if len(rows)}


def _last_step(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["step"] == rows["step"].max()]


def _draw_tasks(axes: Axes, series: Mapping[str, pd.DataFrame], tasks: Sequence[str]) -> None:
    """Every series as dots with intervals, a little below the one before."""
    shifts = np.linspace(0.34, -0.34, len(series))
    for shift, (name, rows) in zip(shifts, series.items(), strict=True):
        reach = style.error_bars(rows, "accuracy")
        bars = reach if np.isfinite(reach).any() else None
        look = labelled_marker(name) | {"elinewidth": 1.5}
        axes.errorbar(rows["accuracy"], rows["task"].map(tasks.index) + shift, xerr=bars, **look)


# ---- what the connector reads, what the targets carry ----


@styled
def plot_layer_mixture(
    weights: Float[np.ndarray, "query tap"], taps: Sequence[int], headline: str = ""
) -> Picture:
    """Where each query token reads: its softmaxed share of every tapped layer."""
    if not np.allclose(weights.sum(axis=1), 1, atol=1e-3):
        total = weights.sum(axis=1).max()
        raise ValueError(f"A row sums to {total:.3g}, not 1; take the softmax over the taps first.")
    wide = pd.DataFrame(weights, columns=pd.Index(taps, name="layer")).rename_axis("query")
    queries, layers = wide.shape
    few = queries <= 16  # few enough to write every number into its cell
    height = max(2.4, 1.2 + (0.28 if few else 0.07) * queries)
    table = wide.stack().rename("share").reset_index()
    picture, axes = style.subplots(1, 1, headline, (2.4 + 0.75 * layers, height), table)
    look: Any = {"cmap": "mako_r", "vmin": 0, "annot": few, "fmt": ".2f", "linewidths": 0.5 * few}
    look["cbar_kws"] = {"label": f"share of the mixture (even: {1 / layers:.2f})"}
    sns.heatmap(wide, ax=axes, yticklabels=1 if few else 8, **look)
    axes.tick_params(axis="y", rotation=0)
    axes.set(xlabel="tapped layer (0 is the first)", ylabel="query token")
    return picture


@styled
def plot_token_evidence(
    tokens: Sequence[str], nats: Sequence[float] | Float[np.ndarray, "token"], headline: str = ""
) -> Picture:
    """Which tokens of a target carry the audio: how much the description changes each one (KL)."""
    words = [style.printable(token) for token in tokens]
    table = pd.DataFrame({"token": words, "nats": np.asarray(nats, dtype=float)})
    lines = [table.iloc[start : start + _TOKENS] for start in range(0, len(table), _TOKENS)]
    room = min(_TOKENS, max(12, len(table)))
    size, share = (1.2 + 0.28 * room, 0.4 + 1.9 * len(lines)), {"sharey": True, "squeeze": False}
    picture, grid = style.subplots(len(lines), 1, headline, size, table, **share)
    look: Any = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"}
    for axes, rows in zip(grid.flat, lines, strict=True):
        axes.bar(range(len(rows)), rows["nats"], color=PALETTE["audio"], width=0.75)
        axes.set_xticks(range(len(rows)), rows["token"], **look)
        axes.set_xlim(-0.6, room - 0.4)
        axes.tick_params(axis="x", length=0)
    picture.supylabel("evidence from the audio (KL, nats)", fontsize=9)
    return picture


@styled
def plot_coverage(table: pd.DataFrame, headline: str = "") -> Picture:
    """What a target drops it cannot teach: the share of targets that name each attribute rightly.

    Columns: kind, attribute, share and, where it is known, perplexity, of the kind under the
    backbone.
    """
    table = table[[name for name in ("kind", "attribute", "share", "perplexity") if name in table]]
    kinds = style.sort_values(table["kind"])
    width = 1.6 + table["attribute"].nunique() * (0.5 + 0.2 * len(kinds))
    picture, axes = style.subplots(1, 1, headline, (width, 3.2), table)
    look: Any = {"edgecolor": "#222222", "linewidth": 0.6, "saturation": 1, "legend": False}
    look["palette"] = {kind: style.get_colour(kind) for kind in kinds}
    sns.barplot(table, x="attribute", y="share", hue="kind", hue_order=kinds, ax=axes, **look)
    known = table.groupby("kind")["perplexity"].mean().dropna() if "perplexity" in table else {}
    for kind, bars, hatch in zip(kinds, axes.containers, _HATCHES, strict=False):
        bars.set_label(f"{kind} (perplexity {known[kind]:.3g})" if kind in known else kind)
        for bar in bars:
            bar.set_hatch(hatch)
    axes.set(ylim=(0, 1.02), xlabel="attribute", ylabel="share of targets that\nname it rightly")
    style.add_legend(picture, [axes], columns=3)
    return picture
