"""Drawings of the analysis, each from one tidy table: what is present, readable and spoken, and what it looks like.

Every public function keeps what it drew as a table on the `Picture` it returns, as those of `figures` do. Darker is
more in every heat map, and a crossed cell was not measured.
"""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from desta_lab.views import style
from desta_lab.views.saving import Picture
from desta_lab.views.style import (
    PALETTE,
    Series,
    add_legend,
    draw,
    drawing,
    pick_evenly,
    say,
    seen,
    tidy,
)
from desta_lab.world.attributes import ATTRIBUTES


def _heard(label: str) -> Series:
    return Series(label, PALETTE["audio"], "-", "o")


def _shuffled(label: str) -> Series:
    return Series(label, PALETTE["shuffled"], "-.", "^")


ANALYSIS_SERIES = {
    "probe": _heard("linear probe"),
    "random labels": _shuffled("probe on random labels"),
    "norm ratio": _heard("norm"),
    "cosine to its own text": _heard("cosine to the clip's own text"),
    "cosine, other clip's text": _shuffled("cosine to another clip's text"),
    "own": _heard("own evidence"),
    "shuffled": _shuffled("shuffled (another clip's)"),
    "uniform": Series("uniform (a flat profile)", PALETTE["silence"], ":", "x"),
    "attribution": _heard("in the order of attribution"),
    "random": _shuffled("in random order"),
    "audio": _heard("audio"),
    "oracle": Series("text oracle", PALETTE["oracle"], "--", "*"),
    "untrained": Series("untrained connector", PALETTE["untrained"], (0, (1, 1)), "D"),
}
_GAP = {  # what is on the y axis → the measures drawn there
    "norm of an audio embedding\n(1: as long as a token's)": ["norm ratio"],
    "cosine": ["cosine, other clip's text", "cosine to its own text"],
}
_MARKERS = "os^Dv*PX"
_COLOURS = [
    PALETTE[name]
    for name in ("audio", "label", "template", "oracle", "soft", "untrained", "shuffled", "silence")
]
_TUNED = {"frozen": "o", "lora-2": "^", "lora-8": "s", "lora-32": "D", "full": "X"}
_ROWS_OF_A_FAMILY = 6  # of "slots 0" … "slots 29", so many rows are drawn
INTERVAL = "bars and bands: 95 % interval over speakers"


# ---- what is where ----


def plot_probe_accuracy(probes: pd.DataFrame, spoken: pd.DataFrame, headline: str = "") -> Picture:
    """Present, readable, spoken: how well a linear probe reads each attribute at every site and step, and what is said.

    `probes` has a row per step × site × attribute × kind with `accuracy`, `low`, `high` and `chance`, its sites in the
    order of the signal; a site with rows of the first step alone is one that training does not move. `spoken` is the
    zero-shot accuracy of the model per step × attribute.
    """
    columns = "step attribute accuracy low high chance"
    said = tidy(spoken, columns).assign(site="spoken", kind="spoken")
    return draw("readable", pd.concat([tidy(probes, f"{columns} site kind"), said]), headline)


@drawing("readable")
def _readable(picture: Picture, table: pd.DataFrame) -> None:
    table = table.assign(score=(table["accuracy"] - table["chance"]) / (1 - table["chance"]))
    names, probed = seen(table["attribute"]), table[table["kind"] == "probe"]
    moved = set(probed.loc[probed["step"] > table["step"].min(), "site"])
    sites = thin_sites(seen(probed["site"]))
    fixed = [site for site in sites if moved and site not in moved]
    ladder = sorted(set(table.loc[~table["site"].isin(fixed), "step"]))
    columns = style.columns_of(len(names))
    tall = math.ceil(len(names) / columns)
    picture.set_size_inches(2.8 + 2.4 * max(2, columns), 0.9 + tall * (1 + 0.15 * len(sites)))
    heights = [max(3, len(sites)), 1.4] * tall
    grid = picture.subplots(
        2 * tall, columns, squeeze=False, sharex=True, sharey="row", height_ratios=heights
    )
    for axes in grid.flat:
        axes.set_axis_off()  # those in use are switched on again
    for i, name in enumerate(names):
        upper, strip = grid[i // columns * 2 : i // columns * 2 + 2, i % columns]
        rows = table[table["attribute"] == name]
        upper.set_title(f"{name} (chance {rows['chance'].mean():.2f})", loc="left")
        image = _ladder(upper, rows[rows["kind"] == "probe"], sites, ladder, fixed)
        _ladder(strip, rows[rows["kind"] == "spoken"], ["spoken"], ladder)
        upper.tick_params(labelbottom=False)
        strip.tick_params(labelbottom=i + columns >= len(names))
        strip.set_xlabel("training step" if i + columns >= len(names) else "")
        if i % columns == columns - 1 or i == len(names) - 1:
            _braces(
                upper, {"present": fixed, "readable": [s for s in sites if s not in fixed]}, sites
            )
            _braces(strip, {"spoken": ["spoken"]}, ["spoken"], rotation=0)
    picture.colorbar(
        image,
        ax=list(grid.flat),
        label="accuracy above chance (0 is chance, 1 is perfect)",
        shrink=0.5,
    )
    picture.supylabel("site, from the sound down to the answer", fontsize=9)
    add_legend(picture, list(grid.flat), columns=3)


def _ladder(
    axes: Axes,
    rows: pd.DataFrame,
    sites: Sequence[str],
    ladder: Sequence[int],
    fixed: Sequence[str] = (),
) -> AxesImage:
    """Scores of sites over the steps; what training does not move as one unbroken bar."""
    axes.set_axis_on()
    wide = style.as_matrix(rows, "site", "step", "score", sites, sorted({*ladder, *rows["step"]}))
    wide.loc[list(fixed)] = wide.loc[list(fixed)].ffill(axis=1).bfill(axis=1)
    image = style.heat_map(axes, wide[list(ladder)])
    for row, site in enumerate(sites):
        if site not in fixed:
            axes.vlines(
                np.arange(1, len(ladder)) - 0.5, row - 0.5, row + 0.5, color="white", lw=0.4
            )
    few = pick_evenly(range(len(ladder)), 6)
    axes.set_xticks(few, [str(ladder[i]) for i in few], fontsize=7)
    axes.tick_params(axis="both", length=2, labelsize=7)
    if rows.empty:
        say(axes, "not measured")
    return image


def _braces(
    axes: Axes, groups: Mapping[str, Sequence[str]], sites: Sequence[str], rotation: int = 90
) -> None:
    """Names of groups of rows, right of a heat map."""
    for name, members in groups.items():
        if members:
            places = [sites.index(member) for member in members]
            where: Any = {"transform": axes.get_yaxis_transform(), "clip_on": False}
            axes.plot(
                [1.03] * 2, [min(places) - 0.35, max(places) + 0.35], color="black", lw=1, **where
            )
            axes.text(
                1.06,
                float(np.mean(places)),
                name,
                rotation=rotation,
                va="center",
                fontweight="bold",
                **where,
            )


def plot_selectivity(probes: pd.DataFrame, headline: str = "") -> Picture:
    """Does the probe read or remember? Its accuracy at the last step beside the same probe on random labels and chance.

    Columns as in `readable`; of each site the last step it was measured at.
    """
    table = tidy(probes, "step site attribute kind accuracy low high chance")
    return draw(
        "selectivity",
        table[table["step"] == table.groupby("site")["step"].transform("max")],
        headline,
    )


@drawing("selectivity")
def _selectivity(picture: Picture, table: pd.DataFrame) -> None:
    sites = thin_sites(seen(table["site"]))
    places = {site: place for place, site in enumerate(sites)}
    table = table[table["site"].isin(sites)]
    for axes, rows in style.panels(
        picture,
        table,
        "attribute",
        (2.8, 0.8 + 0.17 * len(sites)),
        "accuracy at the last step",
        sharex=True,
        sharey=True,
    ):
        for kind in ("random labels", "probe"):
            some = rows[rows["kind"] == kind]
            style.dots(axes, some, "accuracy", some["site"].map(places), ANALYSIS_SERIES[kind])
        chance(axes.axvline, rows)
        style.name_rows(axes, sites)
        axes.set_xlim(-0.02, 1.02)
    picture.supylabel("site", fontsize=9)
    add_legend(picture, picture.axes, 3, INTERVAL)


def plot_learning_curves(curves: pd.DataFrame, headline: str = "") -> Picture:
    """How many clips a probe needs: accuracy by the number of clips it was fitted to, per site and attribute.

    Of more than eight sites, eight are drawn, evenly spread.
    """
    return draw(
        "learning_curves", tidy(curves, "site attribute clips accuracy low high chance"), headline
    )


@drawing("learning_curves")
def _learning_curves(picture: Picture, table: pd.DataFrame) -> None:
    sites = pick_evenly(seen(table["site"]), len(_MARKERS))
    shades = sns.color_palette("mako_r", len(sites) + 2).as_hex()[
        1:-1
    ]  # darker is further along the signal
    for axes, rows in style.panels(
        picture,
        table,
        "attribute",
        (2.9, 2.2),
        "clips the probe was fitted to",
        sharex=True,
        sharey=True,
    ):
        for site, shade, sign in zip(sites, shades, _MARKERS, strict=False):
            style.draw_line(
                axes,
                rows[rows["site"] == site],
                "clips",
                "accuracy",
                Series(style.short(site), shade, "-", sign),
            )
        chance(axes.axhline, rows)
        axes.set(ylim=(-0.02, 1.05), xscale="log")
        few = pick_evenly(sorted(table["clips"].unique()), 5)
        axes.set_xticks(few, [str(clips) for clips in few])
        axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    picture.supylabel("accuracy", fontsize=9)
    add_legend(picture, picture.axes, 3, INTERVAL)


# ---- what it looks like ----


def plot_similarity(cka: pd.DataFrame, headline: str = "") -> Picture:
    """Which sites (or steps) lay out the clips alike: debiased CKA of every pair, hatched where chance does as well.

    Columns: a, b, cka, low, high, null (95th percentile under permutation of the clips) and p.
    """
    return draw("similarity", tidy(cka, "a b cka low high null p"), headline)


@drawing("similarity")
def _similarity(picture: Picture, table: pd.DataFrame) -> None:
    down, across = seen(table["a"]), seen(table["b"])
    if set(down) & set(across) or len(down) == len(across) == 1:
        down = across = list(dict.fromkeys([*down, *across]))
        table = pd.concat([table, table.rename(columns={"a": "b", "b": "a"})]).drop_duplicates(
            ["a", "b"]
        )
    wide, null = (style.as_matrix(table, "a", "b", name, down, across) for name in ("cka", "null"))
    if down == across:
        wide, null = (
            wide.mask(np.eye(len(down), dtype=bool), value)
            for wide, value in ((wide, 1.0), (null, 0.0))
        )
    picture.set_size_inches(max(6, 2.8 + 0.42 * len(across)), max(3.4, 1.8 + 0.36 * len(down)))
    axes = picture.subplots()
    few = max(wide.shape) <= 12
    texts = wide.map("{:.2f}".format) if few else None
    image = style.heat_map(
        axes,
        wide,
        faint=~(wide > null).to_numpy(),
        reason="not above its permutation null",
        texts=texts,
    )
    axes.tick_params(axis="x", rotation=90)
    axes.set(xlabel="site or step", ylabel="site or step")
    picture.colorbar(image, ax=axes, label="debiased CKA (1: the same shape)")
    add_legend(picture, [axes], columns=3)


def plot_maps(
    points: pd.DataFrame,
    trust: pd.DataFrame,
    colour: str = "gender",
    headline: str = "",
    method: str = "pca",
) -> Picture:
    """The clips on a plane, at up to six steps, coloured and shaped by an attribute; one method, its first seed.

    `points`: step, method, seed, x, y and a column per attribute. `trust`: step, method, seed, trustworthiness (1 if
    neighbours on the map are neighbours in truth), here its mean over the seeds.
    """
    table = tidy(points[points["method"] == method], f"step method seed x y {colour}")
    steps = pick_evenly(sorted(table["step"].unique()), 6)
    table = table[(table["seed"] == table["seed"].min()) & table["step"].isin(steps)]
    mean = (
        trust[trust["method"] == method].groupby("step", as_index=False)["trustworthiness"].mean()
    )
    return draw("maps", table.merge(mean, on="step", how="left"), headline, colour=colour)


def _values(table: pd.DataFrame, colour: str) -> list[Any]:
    known = ATTRIBUTES.get(colour, ())
    return [
        value
        for value in (*known, *sorted(set(table[colour]) - set(known)))
        if value in set(table[colour])
    ]


def _look(i: int) -> dict[str, Any]:
    return {
        "s": 20,
        "color": _COLOURS[i % 8],
        "marker": _MARKERS[i % 8],
        "edgecolor": "white",
        "lw": 0.4,
    }


def save_film(
    points: pd.DataFrame, path: Path, colour: str = "gender", method: str = "umap", between: int = 6
) -> Path:
    """The map along the ladder as an animated GIF: each checkpoint rests, and points move to the next in `between`
    frames. Axes are the same throughout, so what moves has moved."""
    from matplotlib.animation import PillowWriter

    table = points[(points["method"] == method) & (points["seed"] == points["seed"].min())]
    wide = table.pivot(index="clip", columns="step", values=["x", "y"])
    known = table.drop_duplicates("clip").set_index("clip").loc[wide.index, colour]
    steps = sorted(table["step"].unique())
    picture = Picture(figsize=(4.4, 4.4), layout="constrained")
    axes = picture.subplots()
    groups = {v: (known == v).to_numpy() for v in _values(table, colour)}
    dots = {
        v: axes.scatter([], [], label=f"{colour}: {v}", **_look(i)) for i, v in enumerate(groups)
    }
    axes.set(
        xticks=[],
        yticks=[],
        xlabel=f"{method.upper()} 1",
        ylabel=f"{method.upper()} 2",
        aspect="equal",
    )
    axes.set(**{f"{a}lim": (table[a].min() - 0.5, table[a].max() + 0.5) for a in "xy"})
    picture.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    writer, part = PillowWriter(fps=between), path.with_suffix(".part.gif")
    path.parent.mkdir(parents=True, exist_ok=True)
    with writer.saving(picture, part, dpi=90):
        for before, after in [*itertools.pairwise(steps), (steps[-1], steps[-1])]:
            axes.set_title(f"step {before}", loc="left")
            for share in [0.0] * between + list(np.linspace(0, 1, between, endpoint=False)):
                for value, rows in groups.items():
                    now, then = (
                        wide.xs(step, axis=1, level="step").to_numpy()[rows]
                        for step in (before, after)
                    )
                    dots[value].set_offsets((1 - share) * now + share * then)
                writer.grab_frame()
    part.replace(path)
    return path


@drawing("maps")
def _maps(picture: Picture, table: pd.DataFrame, colour: str) -> None:
    values = _values(table, colour)
    name = {"pca": "principal component", "umap": "UMAP dimension"}[table["method"].iloc[0]]
    for axes, rows in style.panels(picture, table, "step", (2.7, 2.6), f"{name} 1"):
        for i, value in enumerate(values):
            some = rows[rows[colour] == value]
            axes.scatter(some["x"], some["y"], label=f"{colour}: {value}", **_look(i))
        trust = rows["trustworthiness"].iloc[0]
        told = "not measured" if math.isnan(trust) else f"{trust:.2f}"
        axes.set_title(f"step {rows['step'].iloc[0]}\ntrustworthiness {told}", loc="left")
        axes.set_aspect("equal", adjustable="datalim")
        axes.set(xticks=[], yticks=[])
    picture.supylabel(f"{name} 2", fontsize=9)
    add_legend(
        picture, picture.axes, 4, "each panel on a scale of its own, the same along both axes"
    )


def plot_modality_gap(gap: pd.DataFrame, headline: str = "") -> Picture:
    """How far hearing lies from reading along training: norms in token norms, and cosine to the text condition.

    Columns: step, measure (`norm ratio`, `cosine to its own text`, `cosine, other clip's text`), value, low, high.
    """
    return draw("modality_gap", tidy(gap, "step measure value low high"), headline)


@drawing("modality_gap")
def _modality_gap(picture: Picture, table: pd.DataFrame) -> None:
    picture.set_size_inches(8.5, 3.4)
    for axes, (said, measures) in zip(picture.subplots(1, 2), _GAP.items(), strict=True):
        for name in measures:
            style.draw_line(
                axes, table[table["measure"] == name], "step", "value", ANALYSIS_SERIES[name]
            )
        if not table["measure"].isin(measures).any():
            say(axes, "not measured")
        axes.axhline(float("norm ratio" in measures), color="#B0B0B0", lw=0.8, zorder=0)
        style.set_step_axis(axes, max(1, int(table["step"].max())))
        axes.set(xlabel="training step", ylabel=said)
    add_legend(picture, picture.axes[1:], 2, INTERVAL)


def plot_nearest_words(words: pd.DataFrame, headline: str = "") -> Picture:
    """The words that each query's audio embeddings lie nearest to, at the first, a middle and the last step.

    Columns: step, query, word, share (of the clips) and anchor, the word that the query was born as.
    """
    table = tidy(words, "step query word share anchor")
    return draw(
        "nearest_words",
        table.assign(word=table["word"].map(style.printable), anchor=table["anchor"].map(born_as)),
        headline,
    )


@drawing("nearest_words")
def _nearest_words(picture: Picture, table: pd.DataFrame) -> None:
    queries = sorted(table["query"].unique())
    table = table.sort_values(
        ["step", "query", "share"], ascending=[True, True, False], kind="stable"
    )
    table = table.assign(rank=1 + table.groupby(["step", "query"]).cumcount())
    steps, ranks = pick_evenly(sorted(table["step"].unique()), 3), [1, 2, 3]
    born = table.groupby("query")["anchor"].first()
    picture.set_size_inches(1.8 + 3.2 * max(2, len(steps)), 1.6 + 0.3 * len(queries))
    grid = picture.subplots(1, len(steps), sharey=True, squeeze=False)[0]
    for axes, step in zip(grid, steps, strict=True):
        rows = table[table["step"] == step]
        share, word = (
            style.as_matrix(rows, "query", "rank", name, queries, ranks)
            for name in ("share", "word")
        )
        texts = word.map(lambda text: style.short(str(text), 11)) + share.map(" {:.2f}".format)
        same = word.eq(born.reindex(queries), axis=0).to_numpy()
        image = style.heat_map(axes, share, texts=texts, bold=same, reason="fewer words")
        axes.set_title(f"step {step}", loc="left")
        axes.set_xticks(range(3), ["nearest", "second", "third"])
        axes.set_yticks(
            range(len(queries)),
            [f"{query}  {born.get(query, '')}" for query in queries],
            fontsize=8,
        )
    grid[0].set_ylabel("query token, and the word it was born as")
    grid[len(grid) // 2].set_xlabel(
        "word nearest to the audio embedding (bold: the word it was born as)"
    )
    picture.colorbar(image, ax=list(grid), label="share of clips", shrink=0.6)
    add_legend(picture, picture.axes, columns=3)


# ---- what was learned against what was forgotten ----


def plot_tradeoff(plane: pd.DataFrame, headline: str = "") -> Picture:
    """The trade-off plane: what was learned against what was forgotten, in text and by ear, one mark an arm.

    `plane` is that of `forgetting.learned_and_forgotten`; the thin lines are adapters turned down at test time, to 0.
    """
    columns = "arm kind share measure mean seeds low high"
    return draw("tradeoff", tidy(plane, columns), headline)


@drawing("tradeoff")
def _tradeoff(picture: Picture, table: pd.DataFrame) -> None:
    picture.set_size_inches(9.5, 5.2)
    grid = picture.subplots(1, 2, sharey=True)
    plane = table.set_index(["arm", "share", "measure"])
    arms = [
        arm
        for arm in seen(table["arm"])
        if arm != "control" and (arm, 1.0, "forgotten") in plane.index
    ]
    marks = {
        tuning: _TUNED.get(tuning, "P")
        for tuning in seen(pd.Series([arm.split(", ")[0] for arm in arms]))
    }
    control = plane.loc["control"].droplevel("share").reset_index().set_index(["measure", "kind"])
    titles = {
        "forgotten": "In text: what the LLM forgot",
        "by ear": "By ear: what the whole model lost",
    }
    for axes, (across, title) in zip(grid, titles.items(), strict=True):
        axes.set_title(title, loc="left")
        axes.axvline(0, color="#B0B0B0", lw=0.8, zorder=0)
        for condition, words in (
            ("untrained", "untrained connector (step 0)"),
            ("oracle", "text oracle"),
        ):
            rows, look = control.loc[("learned", condition)], style.get_series(condition)
            dashes = ":" if look.line == "none" else look.line
            axes.axhline(rows["mean"], color=PALETTE[condition], ls=dashes, lw=1.2, label=words)
        bare = control.loc[("forgotten", "bare label"), "mean"]
        axes.axvline(
            bare,
            color=PALETTE["label"],
            ls=(0, (1, 1)),
            lw=1.4,
            label="the bare label, whatever is asked",
        )
        for arm in arms:
            tuning, kind = arm.split(", ")
            shares = sorted(
                share for name, share, what in plane.index if name == arm and what == across
            )
            x, y = (
                plane.loc[[(arm, share, what) for share in shares]] for what in (across, "learned")
            )
            axes.plot(x["mean"], y["mean"], color=PALETTE[kind], lw=0.9, marker=".", ms=3, zorder=1)
            last, up = x.iloc[-1], y.iloc[-1]
            reach = {"xerr": [[last["mean"] - last["low"]], [last["high"] - last["mean"]]]}
            reach["yerr"] = [[up["mean"] - up["low"]], [up["high"] - up["mean"]]]
            face: Any = {
                "marker": marks[tuning],
                "ms": 7,
                "elinewidth": 0.9,
                "zorder": 3,
                **_face(kind),
            }
            axes.errorbar(last["mean"], up["mean"], **reach, **face)
        axes.set_xlabel(
            "Δ: change in instructions obeyed, per cent\n(0: as the untouched LLM reading the description)"
        )
    whole = (
        plane.loc[arms].reset_index().groupby("measure")["mean"].agg(["min", "max"])
    )  # bars of few seeds are cut
    left, right = whole.loc[list(titles), "min"].min(), whole.loc[list(titles), "max"].max()
    for axes in grid:
        axes.set_xlim(
            min(left, control.loc[("forgotten", "bare label"), "mean"]) - 8, max(right, 0) + 8
        )
    grid[0].set_ylim(min(whole.loc["learned", "min"], 0) - 0.15, 1.08)
    grid[0].set_ylabel("learned: rung 3 above chance, by ear")
    for tuning, marker in marks.items():
        grid[0].plot([], [], marker=marker, ls="none", color="#555555", ms=7, label=tuning)
    for kind in seen(pd.Series([arm.split(", ")[1] for arm in arms])):
        grid[0].plot([], [], marker="o", ls="none", ms=8, label=f"{kind} targets", **_face(kind))
    grid[0].plot(
        [], [], color="#555555", lw=0.9, marker=".", ms=3, label="adapters turned down, to 0"
    )
    seeds = "bars: 95 % interval over seeds" if plane["seeds"].max() > 1 else "one seed"
    add_legend(picture, list(grid), 4, f"upper right is best; {seeds}")


def _face(kind: str) -> dict[str, Any]:
    """The colour of a kind of target, told apart in grey by how much of the mark is filled."""
    filled = {"label": "none", "template": "left"}.get(kind, "full")
    inside = (
        {"mfc": "white"}
        if filled == "none"
        else {"fillstyle": filled, "markerfacecoloralt": "white"}
    )
    return {"color": PALETTE[kind], "mec": PALETTE[kind], "mew": 1.2, **inside}


# ---- shared ----


def thin_sites(sites: Sequence[str], most: int = _ROWS_OF_A_FAMILY) -> list[str]:
    """Sites that differ in their number alone are a family, of which a few are kept, its ends among them."""
    families: dict[str, list[str]] = {}
    for site in sites:
        families.setdefault(re.sub(r"\d+", "", site), []).append(site)
    kept = {site for family in families.values() for site in pick_evenly(family, most)}
    return [site for site in sites if site in kept]


def chance(line: Any, rows: pd.DataFrame) -> None:
    """The accuracy of a guess as a dotted line; `line` is `axhline` or `axvline`."""
    line(
        rows["chance"].mean(),
        color="#707070",
        lw=1.2,
        ls=(0, (1, 1)),
        zorder=0,
        label="chance (the commonest value)",
    )


def born_as(word: Any) -> str:
    """The word that a query was born as; a dash where it was born as none."""
    return style.printable(word or None)
