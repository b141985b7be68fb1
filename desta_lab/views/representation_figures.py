"""Figures of what the model holds: what probes read, how clips lie, what they are near to.

Darker is more in every heat map, and a crossed cell was not measured.
"""

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from desta_lab import cache
from desta_lab.evaluation.statistics import correct_for_chance
from desta_lab.views import style
from desta_lab.views.saving import Picture, styled, write_plainly
from desta_lab.views.style import ANALYSIS_SERIES, SPEAKER_INTERVAL, Series, draws
from desta_lab.world.attributes import ATTRIBUTES

_GAP = {  # what is on the y axis → the measures drawn there
    "norm of an audio embedding\n(1: as long as a token's)": ["norm ratio"],
    "cosine": [
        "cosine, a sentence that says nothing",
        "cosine, other clip's text",
        "cosine to its own text",
    ],
}
_STRETCH = 3.0  # of the colours of probes, most of which lie near 1
_METHODS = {"pca": "principal component", "umap": "UMAP dimension"}
_ROWS_OF_A_FAMILY = 6  # of "slots 0" … "slots 29", so many rows are drawn
_FRAMES_PER_SECOND = 6

# ---- what is where ----


@draws(
    "step attribute accuracy low high chance site kind", "step attribute accuracy low high chance"
)
def plot_probe_accuracy(probes: pd.DataFrame, spoken: pd.DataFrame, headline: str = "") -> Picture:
    """Present, readable, spoken: what a linear probe reads at every site and step, and the answers.

    Args:
        probes: Its sites are in the order of the signal. A site with rows of the first step alone
            is one that training does not move.
        spoken: The zero-shot accuracy of the model.
    """
    table = pd.concat([probes, spoken.assign(site="spoken", kind="spoken")])
    scored = table.assign(score=correct_for_chance(table["accuracy"], table["chance"]))
    sites, fixed, steps = _order_sites(scored)
    readable = [site for site in sites if site not in fixed]
    names = style.unique_values(table["attribute"])
    across = style.count_columns(len(names))
    down = math.ceil(len(names) / across)
    size = (2.8 + 2.4 * max(2, across), 0.9 + down * (1 + 0.15 * len(sites)))
    heights = [max(3, len(sites)), 1.4] * down
    share: Any = {"squeeze": False, "sharex": True, "sharey": "row", "height_ratios": heights}
    picture, grid = style.subplots(2 * down, across, headline, size, table, **share)
    for axes in grid.flat:
        axes.set_axis_off()  # those in use are switched on again
    for i, name in enumerate(names):
        upper, strip = grid[i // across * 2 : i // across * 2 + 2, i % across]
        rows = scored[scored["attribute"] == name]
        upper.set_title(f"{name} (chance {rows['chance'].mean():.2f})", loc="left")
        image = _draw_sites(upper, rows[rows["kind"] == "probe"], sites, steps, fixed)
        _draw_sites(strip, rows[rows["kind"] == "spoken"], ["spoken"], steps)
        upper.tick_params(labelbottom=False)
        lowest = i + across >= len(names)
        strip.tick_params(labelbottom=lowest)
        strip.set_xlabel("training step" if lowest else "")
        if i % across == across - 1 or i == len(names) - 1:
            _draw_brace(upper, "present", [sites.index(site) for site in fixed])
            _draw_brace(upper, "readable", [sites.index(site) for site in readable])
            _draw_brace(strip, "spoken", [0], rotation=0)
    label = "accuracy above chance (0 is chance, 1 is perfect)"
    ticks = (0, 0.5, 0.7, 0.8, 0.9, 1)
    picture.colorbar(image, ax=list(grid.flat), label=label, shrink=0.5, ticks=ticks)
    picture.supylabel("site, from the sound down to the answer", fontsize=9)
    style.add_legend(picture, list(grid.flat), columns=3)
    return picture


def _order_sites(table: pd.DataFrame) -> tuple[list[str], list[str], list[int]]:
    """The sites to draw, those among them that training does not move, and the steps."""
    probed = table[table["kind"] == "probe"]
    moved = set(probed.loc[probed["step"] > table["step"].min(), "site"])
    sites = thin_sites(style.unique_values(probed["site"]))
    fixed = [site for site in sites if moved and site not in moved]
    return sites, fixed, sorted(set(table.loc[~table["site"].isin(fixed), "step"]))


def _draw_sites(
    axes: Axes,
    rows: pd.DataFrame,
    sites: Sequence[str],
    steps: Sequence[int],
    fixed: Sequence[str] = (),
) -> AxesImage:
    """Scores of sites over the steps; what training does not move as one unbroken bar."""
    axes.set_axis_on()
    every = sorted({*steps, *rows["step"]})
    wide = style.pivot(rows, "score", ("site", sites), ("step", every))
    wide.loc[list(fixed)] = wide.loc[list(fixed)].ffill(axis=1).bfill(axis=1)
    image = style.draw_heat_map(axes, wide[list(steps)], stretch=_STRETCH)
    edges = np.arange(1, len(steps)) - 0.5
    for row, site in enumerate(sites):
        if site not in fixed:
            axes.vlines(edges, row - 0.5, row + 0.5, color="white", lw=0.4)
    few = style.pick_evenly(range(len(steps)), 6)
    axes.set_xticks(few, [str(steps[i]) for i in few], fontsize=7)
    axes.tick_params(axis="both", length=2, labelsize=7)
    if rows.empty:
        style.annotate(axes, "not measured")
    return image


def _draw_brace(axes: Axes, name: str, rows: Sequence[int], rotation: int = 90) -> None:
    """The name of a group of rows, right of a heat map."""
    if rows:
        where: Any = {"transform": axes.get_yaxis_transform(), "clip_on": False}
        ends = [min(rows) - 0.35, max(rows) + 0.35]
        axes.plot([1.03] * 2, ends, color="black", lw=1, **where)
        look: Any = {"rotation": rotation, "va": "center", "fontweight": "bold"}
        axes.text(1.06, float(np.mean(rows)), name, **look, **where)


def thin_sites(sites: Sequence[str], most: int = _ROWS_OF_A_FAMILY) -> list[str]:
    """Of sites that differ in their number alone, a few; the first and the last among them."""
    families: dict[str, list[str]] = {}
    for site in sites:
        families.setdefault(re.sub(r"\d+", "", site), []).append(site)
    chosen = {site for family in families.values() for site in style.pick_evenly(family, most)}
    return [site for site in sites if site in chosen]


@draws("step site attribute kind accuracy low high chance")
def plot_selectivity(table: pd.DataFrame, headline: str = "") -> Picture:
    """Does the probe read or remember? Its accuracy beside the same probe on random labels.

    Each site is drawn at the last step it was measured at.
    """
    table = table[table["step"] == table.groupby("site")["step"].transform("max")]
    sites = thin_sites(style.unique_values(table["site"]))
    size, label = (2.8, 0.8 + 0.17 * len(sites)), "accuracy at the last step"
    picture, panels = style.facets(table, "attribute", headline, size, label)
    for axes, rows in panels:
        rows = rows[rows["site"].isin(sites)]
        for kind in ("random labels", "probe"):
            some = rows[rows["kind"] == kind]
            at = some["site"].map(sites.index)
            style.draw_dots(axes, some, "accuracy", at, ANALYSIS_SERIES[kind])
        style.draw_chance(axes.axvline, rows)
        style.name_rows(axes, sites)
        axes.set_xlim(-0.02, 1.02)
    picture.supylabel("site", fontsize=9)
    style.add_legend(picture, picture.axes, 3, SPEAKER_INTERVAL)
    return picture


@draws("site attribute clips accuracy low high chance")
def plot_learning_curves(table: pd.DataFrame, headline: str = "") -> Picture:
    """How many clips a probe needs: accuracy by the number of clips it was fitted to.

    Of more than eight sites, eight are drawn, evenly spread.
    """
    sites = style.pick_evenly(style.unique_values(table["site"]), len(style.MARKERS))
    shades = sns.color_palette("mako_r", len(sites) + 2).as_hex()[1:-1]  # darker is further along
    label = "clips the probe was fitted to"
    picture, panels = style.facets(table, "attribute", headline, (2.9, 2.2), label)
    for axes, rows in panels:
        for site, shade, marker in zip(sites, shades, style.MARKERS, strict=False):
            series = Series(style.shorten(site), shade, "-", marker)
            series = ANALYSIS_SERIES.get(site, series)
            style.draw_line(axes, rows[rows["site"] == site], "clips", "accuracy", series)
        style.draw_chance(axes.axhline, rows)
        axes.set(ylim=(-0.02, 1.05), xscale="log")
        style.set_ticks(axes, style.pick_evenly(sorted(table["clips"].unique()), 5))
    picture.supylabel("accuracy", fontsize=9)
    style.add_legend(picture, picture.axes, 3, SPEAKER_INTERVAL)
    return picture


# ---- how the clips lie ----


@draws("a b cka low high null p scaled")
def plot_similarity(table: pd.DataFrame, headline: str = "") -> Picture:
    """Which sites (or steps) lay out the clips alike: debiased CKA of every pair.

    Below the diagonal `scaled` is drawn, the CKA of features of equal variance: where it is the
    higher one, a few large features decide. Above it a pair is hatched that is not above its
    `null`, the 95th percentile under permutation of the clips; `scaled` has no null.
    """
    down, across = style.unique_values(table["a"]), style.unique_values(table["b"])
    pairs = table
    if set(down) & set(across) or len(down) == len(across) == 1:
        down = across = list(dict.fromkeys([*down, *across]))
        mirrored = table.rename(columns={"a": "b", "b": "a"})
        scaled = mirrored["scaled"].fillna(mirrored["cka"])
        mirrored = mirrored.assign(cka=scaled, null=mirrored["null"].where(table["scaled"].isna()))
        pairs = pd.concat([table, mirrored]).drop_duplicates(["a", "b"])
    wide, null = (style.pivot(pairs, name, ("a", down), ("b", across)) for name in ("cka", "null"))
    if down == across:
        own = np.eye(len(down), dtype=bool)
        wide, null = wide.mask(own, 1.0), null.mask(own, 0.0)
    size = (max(6, 2.8 + 0.42 * len(across)), max(3.4, 1.8 + 0.36 * len(down)))
    picture, axes = style.subplots(1, 1, headline, size, table)
    faint, reason = (wide <= null).to_numpy(), "not above its permutation null"
    texts = wide.map("{:z.2f}".format) if max(wide.shape) <= 12 else None
    image = style.draw_heat_map(axes, wide, faint=faint, reason=reason, texts=texts)
    axes.tick_params(axis="x", rotation=90)
    axes.set(xlabel="site or step", ylabel="site or step")
    picture.colorbar(image, ax=axes, label="debiased CKA (1: the same shape)")
    note = "above the diagonal: features as they are; below it: all of the same variance"
    style.add_legend(picture, [axes], 3, note if down == across else None)
    return picture


@styled
def plot_maps(
    points: pd.DataFrame,
    colour: str = "gender",
    headline: str = "",
    method: str = "pca",
    purity: pd.DataFrame | None = None,
) -> Picture:
    """The clips on a plane, at up to six steps, coloured and shaped by an attribute.

    Args:
        points: step, method, seed, x, y and a column per attribute; the first seed is drawn. The
            means over the seeds of trustworthiness (1 if neighbours on the map are neighbours in
            truth) and explained (share of the variance on the map's axes) stand above each map.
        purity: step, method, seed, attribute, purity (share of neighbours of the same value) and
            null_low and null_high of random labels; that of the map drawn is written above it.
    """
    told = ["trustworthiness", "explained"]
    columns = f"step method seed x y {colour} {' '.join(told)}"
    table = style.select_columns(points[points["method"] == method], columns)
    means = table.drop_duplicates(["step", "seed"]).groupby("step", as_index=False)[told].mean()
    steps = style.pick_evenly(sorted(table["step"].unique()), 6)
    table = table[(table["seed"] == table["seed"].min()) & table["step"].isin(steps)]
    table = table.drop(columns=told).merge(means, on="step")
    if purity is not None:
        drawn = {"method": method, "seed": table["seed"].min(), "attribute": colour}
        alike = purity[(purity[list(drawn)] == pd.Series(drawn)).all(axis=1)]
        table = table.merge(alike[["step", "purity", "null_low", "null_high"]], "left", "step")
    across, down = (f"{_METHODS[method]} {axis}" for axis in (1, 2))
    picture, panels = style.facets(table, "step", headline, (2.7, 2.6), across, (False, False))
    values = style.sort_values(table[colour], ATTRIBUTES.get(colour, ()))
    for axes, rows in panels:
        for i, value in enumerate(values):
            some = rows[rows[colour] == value]
            axes.scatter(some["x"], some["y"], label=f"{colour}: {value}", **_point_style(i))
        axes.set_title(_title_of_map(rows.iloc[0]), loc="left")
        axes.set_aspect("equal", adjustable="datalim")
        axes.set(xticks=[], yticks=[])
    picture.supylabel(down, fontsize=9)
    note = "each panel on a scale of its own, the same along both axes"
    style.add_legend(picture, picture.axes, 4, note)
    return picture


def _title_of_map(first: pd.Series) -> str:
    """The step of a map, and what may be believed of it."""
    kept = first["trustworthiness"]
    trust = f"trustworthiness {'not measured' if math.isnan(kept) else f'{kept:.2f}'}"
    if first["explained"] > 0:
        trust += f", variance {first['explained']:.0%}"
    lines = [f"step {first['step']}", trust]
    if first.get("purity", math.nan) >= 0:
        null = f"{first['null_low']:.2f} to {first['null_high']:.2f}"
        lines.append(f"neighbours alike {first['purity']:.2f} (random {null})")
    return "\n".join(lines)


def _point_style(i: int) -> dict[str, Any]:
    return {"s": 20, "edgecolor": "white", "lw": 0.4, **style.category_style(i)}


def save_film(
    points: pd.DataFrame, path: Path, colour: str = "gender", method: str = "umap", between: int = 6
) -> Path:
    """Save the map along training as an animated GIF.

    Each checkpoint rests, then its points move to the next in `between` frames. The axes are the
    same throughout, so what moves has moved. Columns of `points` as in `plot_maps`, and `clip`.
    """
    from matplotlib.animation import PillowWriter

    table = points[(points["method"] == method) & (points["seed"] == points["seed"].min())]
    values = style.sort_values(table[colour], ATTRIBUTES.get(colour, ()))
    own = table.drop_duplicates("clip").sort_values("clip")[colour].to_numpy()  # of each clip
    picture = Picture(size=(4.4, 4.4))
    axes: Axes = picture.subplots()
    ends = {axis: (table[axis].min() - 0.5, table[axis].max() + 0.5) for axis in "xy"}
    name = method.upper()
    axes.set(xticks=[], yticks=[], xlabel=f"{name} 1", ylabel=f"{name} 2", aspect="equal")
    axes.set(xlim=ends["x"], ylim=ends["y"])
    dots = {
        value: axes.scatter([], [], label=f"{colour}: {value}", **_point_style(i))
        for i, value in enumerate(values)
    }
    picture.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    writer = PillowWriter(fps=_FRAMES_PER_SECOND)
    write_plainly(picture)
    with TemporaryDirectory() as place:
        with writer.saving(picture, Path(place) / "moving.gif", dpi=90):
            for step, places in _move_points(table, between):
                axes.set_title(f"step {step}", loc="left")
                for value, cloud in dots.items():
                    cloud.set_offsets(places[own == value])
                writer.grab_frame()
        cache.write_whole(path, (Path(place) / "moving.gif").read_bytes())
    return path


def _move_points(table: pd.DataFrame, between: int) -> Iterator[tuple[int, np.ndarray]]:
    """The step and the places [clip, 2] of every frame: a rest at each step, then the way on."""
    maps = {
        step: rows.sort_values("clip")[["x", "y"]].to_numpy()
        for step, rows in table.groupby("step")
    }
    steps = sorted(maps)
    for step, following in [*itertools.pairwise(steps), (steps[-1], steps[-1])]:
        for share in [0.0] * between + list(np.linspace(0, 1, between, endpoint=False)):
            yield step, (1 - share) * maps[step] + share * maps[following]


# ---- what the audio embeddings are near to ----


@draws("step measure value low high")
def plot_modality_gap(table: pd.DataFrame, headline: str = "") -> Picture:
    """How far hearing lies from reading along training: norms in token norms, and cosine.

    A `measure` is `norm ratio`, `cosine to its own text`, `cosine, other clip's text` or `cosine, a
    sentence that says nothing`.
    """
    picture, grid = style.subplots(1, 2, headline, (8.5, 3.4), table)
    for axes, (label, measures) in zip(grid, _GAP.items(), strict=True):
        for name in measures:
            rows = table[table["measure"] == name]
            style.draw_line(axes, rows, "step", "value", ANALYSIS_SERIES[name])
        if not table["measure"].isin(measures).any():
            style.annotate(axes, "not measured")
        axes.axhline(float("norm ratio" in measures), **style.ZERO)
        style.set_step_axis(axes, max(1, int(table["step"].max())))
        axes.set(xlabel="training step", ylabel=label)
    style.add_legend(picture, picture.axes[1:], 2, SPEAKER_INTERVAL)
    return picture


@draws("step query word cosine share null initial_cosine anchor")
def plot_nearest_words(table: pd.DataFrame, headline: str = "") -> Picture:
    """The words that each query's audio embeddings lie nearest to, at up to three steps.

    `share` is of the clips whose nearest word it is, and `anchor` the word that the query was
    initialised with. A word is hatched that is no nearer than `null`, what the cosine of a random
    direction's nearest word stays below.
    """
    anchors = table["anchor"].map(lambda anchor: style.printable(anchor or None))
    table = table.assign(word=table["word"].map(style.printable), anchor=anchors)
    queries = sorted(table["query"].unique())
    steps = style.pick_evenly(sorted(table["step"].unique()), 3)
    size = (1.8 + 3.2 * max(2, len(steps)), 1.6 + 0.3 * len(queries))
    share = {"sharey": True, "squeeze": False}
    picture, grid = style.subplots(1, len(steps), headline, size, table, **share)
    anchor = table.groupby("query")["anchor"].first().reindex(queries)
    for axes, step in zip(grid[0], steps, strict=True):
        axes.set_title(f"step {step}", loc="left")
        image = _draw_words(axes, table[table["step"] == step], anchor)
    grid[0, 0].set_ylabel("query token, and the word it was born as")
    label = "word by its cosine to the audio embedding (bold: the word it was born as)"
    grid[0, len(steps) // 2].set_xlabel(label)
    picture.colorbar(image, ax=list(grid.flat), label="mean cosine over the clips", shrink=0.6)
    style.add_legend(picture, picture.axes, columns=3)
    return picture


def _draw_words(axes: Axes, rows: pd.DataFrame, anchor: pd.Series) -> AxesImage:
    """The three nearest words of every query, in bold where it is the query's anchor."""
    rows = rows.sort_values(["query", "cosine"], ascending=[True, False], kind="stable")
    rows = rows.assign(rank=1 + rows.groupby("query").cumcount())
    cosine, null, word = (
        style.pivot(rows, name, ("query", anchor.index), ("rank", [1, 2, 3]))
        for name in ("cosine", "null", "word")
    )
    texts = word.map(lambda text: style.shorten(str(text), 11)) + cosine.map(" {:.2f}".format)
    bold = word.eq(anchor, axis=0).to_numpy()
    by_chance = ~(cosine > null).to_numpy()
    reason = "no nearer than 19 of 20 random directions are to their nearest word"
    image = style.draw_heat_map(axes, cosine, 1.0, by_chance, reason, texts=texts, bold=bold)
    axes.set_xticks(range(3), ["nearest", "second", "third"])
    labels = [f"{query}  {name}" for query, name in anchor.items()]
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    return image
