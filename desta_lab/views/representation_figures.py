"""Figures of what the model holds: what probes read, how clips lie, what they are near to.

Darker is more in every heat map, and a crossed cell was not measured.
"""

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from desta_lab import cache
from desta_lab.views import style
from desta_lab.views.saving import Picture, styled, write_plainly
from desta_lab.views.style import ANALYSIS_SERIES, SPEAKER_INTERVAL, Series
from desta_lab.world.attributes import ATTRIBUTES

_GAP = {  # what is on the y axis → the measures drawn there
    "norm of an audio embedding\n(1: as long as a token's)": ["norm ratio"],
    "cosine": [
        "cosine, a sentence that says nothing",
        "cosine, other clip's text",
        "cosine to its own text",
    ],
}
STRETCH = 3.0  # of the colours of probes, most of which lie near 1
_METHODS = {"pca": "principal component", "umap": "UMAP dimension"}
_ROWS_OF_A_FAMILY = 6  # of "slots 0" … "slots 29", so many rows are drawn
_FRAMES_PER_SECOND = 6

# ---- what is where ----


@styled
def plot_probe_accuracy(probes: pd.DataFrame, spoken: pd.DataFrame, headline: str = "") -> Picture:
    """Present, readable, spoken: what a linear probe reads at every site and step, and the answers.

    Args:
        probes: A row per step × site × attribute × kind with `accuracy`, `low`, `high` and
            `chance`, its sites in the order of the signal. A site with rows of the first step
            alone is one that training does not move.
        spoken: The zero-shot accuracy of the model per step × attribute.
    """
    columns = "step attribute accuracy low high chance"
    answers = style.select_columns(spoken, columns).assign(site="spoken", kind="spoken")
    table = pd.concat([style.select_columns(probes, f"{columns} site kind"), answers])
    scored = table.assign(score=(table["accuracy"] - table["chance"]) / (1 - table["chance"]))
    sites, fixed, steps = _order_sites(scored)
    names = style.unique_values(table["attribute"])
    across = style.count_columns(len(names))
    down = math.ceil(len(names) / across)
    size = (2.8 + 2.4 * max(2, across), 0.9 + down * (1 + 0.15 * len(sites)))
    picture = Picture(table, headline, size)
    heights = [max(3, len(sites)), 1.4] * down
    share: Any = {"squeeze": False, "sharex": True, "sharey": "row", "height_ratios": heights}
    grid = picture.subplots(2 * down, across, **share)
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
            readable = [site for site in sites if site not in fixed]
            _draw_braces(upper, {"present": fixed, "readable": readable}, sites)
            _draw_braces(strip, {"spoken": ["spoken"]}, ["spoken"], rotation=0)
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
    image = style.draw_heat_map(axes, wide[list(steps)], stretch=STRETCH)
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


def _draw_braces(
    axes: Axes, groups: Mapping[str, Sequence[str]], sites: Sequence[str], rotation: int = 90
) -> None:
    """Names of groups of rows, right of a heat map."""
    where: Any = {"transform": axes.get_yaxis_transform(), "clip_on": False}
    look: Any = {"rotation": rotation, "va": "center", "fontweight": "bold"}
    for name, members in groups.items():
        if members:
            places = [sites.index(member) for member in members]
            ends = [min(places) - 0.35, max(places) + 0.35]
            axes.plot([1.03] * 2, ends, color="black", lw=1, **where)
            axes.text(1.06, float(np.mean(places)), name, **look, **where)


def thin_sites(sites: Sequence[str], most: int = _ROWS_OF_A_FAMILY) -> list[str]:
    """Of sites that differ in their number alone, a few; the first and the last among them."""
    families: dict[str, list[str]] = {}
    for site in sites:
        families.setdefault(re.sub(r"\d+", "", site), []).append(site)
    chosen = {site for family in families.values() for site in style.pick_evenly(family, most)}
    return [site for site in sites if site in chosen]


@styled
def plot_selectivity(probes: pd.DataFrame, headline: str = "") -> Picture:
    """Does the probe read or remember? Its accuracy beside the same probe on random labels.

    Columns as in `plot_probe_accuracy`; of each site the last step it was measured at.
    """
    table = style.select_columns(probes, "step site attribute kind accuracy low high chance")
    table = table[table["step"] == table.groupby("site")["step"].transform("max")]
    sites = thin_sites(style.unique_values(table["site"]))
    places = {site: place for place, site in enumerate(sites)}
    size, label = (2.8, 0.8 + 0.17 * len(sites)), "accuracy at the last step"
    picture, panels = style.facets(table, "attribute", headline, size, label)
    for axes, rows in panels:
        rows = rows[rows["site"].isin(sites)]
        for kind in ("random labels", "probe"):
            some = rows[rows["kind"] == kind]
            at = some["site"].map(places)
            style.draw_dots(axes, some, "accuracy", at, ANALYSIS_SERIES[kind])
        style.draw_chance(axes.axvline, rows)
        style.name_rows(axes, sites)
        axes.set_xlim(-0.02, 1.02)
    picture.supylabel("site", fontsize=9)
    style.add_legend(picture, picture.axes, 3, SPEAKER_INTERVAL)
    return picture


@styled
def plot_learning_curves(curves: pd.DataFrame, headline: str = "") -> Picture:
    """How many clips a probe needs: accuracy by the number of clips it was fitted to.

    Of more than eight sites, eight are drawn, evenly spread.
    """
    table = style.select_columns(curves, "site attribute clips accuracy low high chance")
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


@styled
def plot_similarity(cka: pd.DataFrame, headline: str = "") -> Picture:
    """Which sites (or steps) lay out the clips alike: debiased CKA of every pair.

    Columns: a, b, cka, low, high, null (95th percentile under permutation of the clips), p and
    scaled, the CKA of features of equal variance, which is drawn below the diagonal: where it is
    the higher one, a few large features decide. A pair that is not above its null is hatched.
    """
    table = style.select_columns(cka, "a b cka low high null p scaled")
    down, across = style.unique_values(table["a"]), style.unique_values(table["b"])
    pairs = table
    if set(down) & set(across) or len(down) == len(across) == 1:
        down = across = list(dict.fromkeys([*down, *across]))
        mirrored = table.rename(columns={"a": "b", "b": "a"})
        mirrored = mirrored.assign(cka=mirrored["scaled"].fillna(mirrored["cka"]))
        pairs = pd.concat([table, mirrored]).drop_duplicates(["a", "b"])
    wide = style.pivot(pairs, "cka", ("a", down), ("b", across))
    null = style.pivot(pairs, "null", ("a", down), ("b", across))
    if down == across:
        own = np.eye(len(down), dtype=bool)
        wide, null = wide.mask(own, 1.0), null.mask(own, 0.0)
    size = (max(6, 2.8 + 0.42 * len(across)), max(3.4, 1.8 + 0.36 * len(down)))
    picture = Picture(table, headline, size)
    axes = picture.subplots()
    faint, reason = ~(wide > null).to_numpy(), "not above its permutation null"
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
    trust: pd.DataFrame,
    colour: str = "gender",
    headline: str = "",
    method: str = "pca",
    purity: pd.DataFrame | None = None,
) -> Picture:
    """The clips on a plane, at up to six steps, coloured and shaped by an attribute.

    Args:
        points: step, method, seed, x, y and a column per attribute; the first seed is drawn.
        trust: step, method, seed, trustworthiness (1 if neighbours on the map are neighbours in
            truth) and explained (share of the variance on the map's axes); the means over the seeds
            are written above each map.
        purity: step, method, seed, attribute, purity (share of neighbours of the same value) and
            null_low and null_high of random labels; that of the map drawn is written above it.
    """
    columns = f"step method seed x y {colour}"
    table = style.select_columns(points[points["method"] == method], columns)
    steps = style.pick_evenly(sorted(table["step"].unique()), 6)
    table = table[(table["seed"] == table["seed"].min()) & table["step"].isin(steps)]
    own = trust[trust["method"] == method]
    own = own.reindex(columns=["step", "trustworthiness", "explained"])
    table = table.merge(own.groupby("step", as_index=False).mean(), on="step", how="left")
    if purity is not None:
        drawn = {"method": method, "seed": table["seed"].min(), "attribute": colour}
        alike = purity[(purity[list(drawn)] == pd.Series(drawn)).all(axis=1)]
        table = table.merge(alike[["step", "purity", "null_low", "null_high"]], "left", "step")
    label = f"{_METHODS[method]} 1"
    share = (False, False)
    picture, panels = style.facets(table, "step", headline, (2.7, 2.6), label, share)
    for axes, rows in panels:
        for i, value in enumerate(_attribute_values(table, colour)):
            some = rows[rows[colour] == value]
            axes.scatter(some["x"], some["y"], label=f"{colour}: {value}", **_point_style(i))
        axes.set_title(_title_of_map(rows.iloc[0]), loc="left")
        axes.set_aspect("equal", adjustable="datalim")
        axes.set(xticks=[], yticks=[])
    picture.supylabel(f"{_METHODS[method]} 2", fontsize=9)
    note = "each panel on a scale of its own, the same along both axes"
    style.add_legend(picture, picture.axes, 4, note)
    return picture


def _title_of_map(first: pd.Series) -> str:
    """The step of a map, and what may be believed of it."""
    kept = first["trustworthiness"]
    lines = [f"step {first['step']}"]
    lines.append(f"trustworthiness {'not measured' if math.isnan(kept) else f'{kept:.2f}'}")
    if first["explained"] > 0:
        lines[-1] += f", variance {first['explained']:.0%}"
    if first.get("purity", math.nan) >= 0:
        null = f"{first['null_low']:.2f} to {first['null_high']:.2f}"
        lines.append(f"neighbours alike {first['purity']:.2f} (random {null})")
    return "\n".join(lines)


def _attribute_values(table: pd.DataFrame, attribute: str) -> list[Any]:
    """The values of an attribute in its own order, unknown ones last."""
    there, known = set(table[attribute]), ATTRIBUTES.get(attribute, ())
    return [value for value in (*known, *sorted(there - set(known))) if value in there]


def _point_style(i: int) -> dict[str, Any]:
    marks = {"color": style.COLOURS[i % 8], "marker": style.MARKERS[i % 8]}
    return {"s": 20, "edgecolor": "white", "lw": 0.4, **marks}


def save_film(
    points: pd.DataFrame, path: Path, colour: str = "gender", method: str = "umap", between: int = 6
) -> Path:
    """Save the map along training as an animated GIF.

    Each checkpoint rests, then its points move to the next in `between` frames. The axes are the
    same throughout, so what moves has moved. Columns of `points` as in `plot_maps`, and `clip`.
    """
    from matplotlib.animation import PillowWriter

    table = points[(points["method"] == method) & (points["seed"] == points["seed"].min())]
    values = table.drop_duplicates("clip").sort_values("clip")[colour].to_numpy()
    picture = Picture(size=(4.4, 4.4))
    axes = _draw_empty_map(picture, table, method)
    dots = {
        value: axes.scatter([], [], label=f"{colour}: {value}", **_point_style(i))
        for i, value in enumerate(_attribute_values(table, colour))
    }
    picture.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    writer = PillowWriter(fps=_FRAMES_PER_SECOND)
    write_plainly(picture)
    with TemporaryDirectory() as place:
        with writer.saving(picture, Path(place) / "moving.gif", dpi=90):
            for step, places in _move_points(table, between):
                axes.set_title(f"step {step}", loc="left")
                for value, cloud in dots.items():
                    cloud.set_offsets(places[values == value])
                writer.grab_frame()
        cache.write_whole(path, (Path(place) / "moving.gif").read_bytes())
    return path


def _draw_empty_map(picture: Picture, table: pd.DataFrame, method: str) -> Axes:
    axes: Axes = picture.subplots()
    name = method.upper()
    axes.set(xticks=[], yticks=[], xlabel=f"{name} 1", ylabel=f"{name} 2", aspect="equal")
    axes.set(xlim=(table["x"].min() - 0.5, table["x"].max() + 0.5))
    axes.set(ylim=(table["y"].min() - 0.5, table["y"].max() + 0.5))
    return axes


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


@styled
def plot_modality_gap(gap: pd.DataFrame, headline: str = "") -> Picture:
    """How far hearing lies from reading along training: norms in token norms, and cosine.

    Columns: step, measure (`norm ratio`, `cosine to its own text`, `cosine, other clip's text`,
    `cosine, a sentence that says nothing`), value, low, high.
    """
    table = style.select_columns(gap, "step measure value low high")
    picture = Picture(table, headline, (8.5, 3.4))
    for axes, (label, measures) in zip(picture.subplots(1, 2), _GAP.items(), strict=True):
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


@styled
def plot_nearest_words(words: pd.DataFrame, headline: str = "") -> Picture:
    """The words that each query's audio embeddings lie nearest to, at up to three steps.

    Columns: step, query, word, cosine, share (of the clips whose nearest word it is), null (what
    the cosine of a random direction's nearest word stays below), initial_cosine and anchor, the
    word that the query was initialised with. A word that is no nearer than that is hatched.
    """
    columns = "step query word cosine share null initial_cosine anchor"
    table = style.select_columns(words, columns)
    anchors = table["anchor"].map(lambda anchor: style.printable(anchor or None))
    table = table.assign(word=table["word"].map(style.printable), anchor=anchors)
    queries = sorted(table["query"].unique())
    steps = style.pick_evenly(sorted(table["step"].unique()), 3)
    size = (1.8 + 3.2 * max(2, len(steps)), 1.6 + 0.3 * len(queries))
    picture = Picture(table, headline, size)
    anchor = table.groupby("query")["anchor"].first().reindex(queries)
    grid = picture.subplots(1, len(steps), sharey=True, squeeze=False)[0]
    for axes, step in zip(grid, steps, strict=True):
        axes.set_title(f"step {step}", loc="left")
        image = _draw_words(axes, table[table["step"] == step], anchor)
    grid[0].set_ylabel("query token, and the word it was born as")
    label = "word by its cosine to the audio embedding (bold: the word it was born as)"
    grid[len(grid) // 2].set_xlabel(label)
    picture.colorbar(image, ax=list(grid), label="mean cosine over the clips", shrink=0.6)
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
