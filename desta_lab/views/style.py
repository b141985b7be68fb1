"""What every figure shares: colours, lines and markers, and the pieces that panels are made of.

The same colour, line and marker mean the same thing in every figure, and tell things apart in grey.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from desta_lab.views.saving import Picture, Size, styled

# Okabe and Ito's colours, which people with any colour vision tell apart, two of Tol's, and a grey
PALETTE = {
    "audio": "#0072B2",
    "self": "#0072B2",
    "label": "#E69F00",
    "label_others": "#E69F00",
    "label_own": "#E69F00",
    "soft": "#56B4E9",
    "hard": "#882255",
    "mispaired": "#999933",
    "template": "#009E73",
    "other": "#F0E442",
    "people": "#0072B2",
    "own test": "#E69F00",
    "untrained": "#D55E00",
    "shuffled": "#CC79A7",
    "silence": "#7F7F7F",
    "oracle": "#000000",
    "text": "#000000",
}
COLOURS = [  # of categories that have no meaning of their own, in this order, with MARKERS
    PALETTE[name]
    for name in ("audio", "label", "template", "oracle", "soft", "untrained", "shuffled", "silence")
]
MARKERS = "os^Dv*PX"
DOTTED: Any = (0, (1, 1))
CONDITIONS = ("audio", "untrained", "silence", "shuffled", "oracle")  # in the order of drawing
ZERO: Any = {"color": "#B0B0B0", "lw": 0.8, "zorder": 0}  # the line at 0
CHANCE: Any = {"color": "#707070", "lw": 1.2, "ls": DOTTED, "zorder": 0}  # a guess's accuracy
SPEAKER_INTERVAL = "bars and bands: 95 % interval over speakers"

_CENTRED: Any = {"ha": "center", "va": "center"}
_MORE = sns.color_palette("mako_r", as_cmap=True)  # darker is more
_NAME_CHARACTERS = 26  # of a longer name the middle is left out
Plot = TypeVar("Plot", bound=Callable[..., Picture])


class Series(NamedTuple):
    """How one series is named and drawn."""

    label: str
    colour: str
    line: Any
    marker: str


SERIES = {  # of runs and conditions, in the order of every legend
    name: Series(label, PALETTE[name], line, marker)
    for name, (label, line, marker) in {
        "self": ("self-generated targets, audio", "-", "o"),
        "soft": ("soft targets, audio", "-", "v"),
        "hard": ("hard targets, audio", (0, (4, 1)), "h"),
        "mispaired": ("wrong targets, audio", (0, (2, 1)), "<"),
        "label": ("bare-label targets, audio", "-", "s"),
        "label_others": ("bare label, other attributes", (0, (5, 2)), "s"),
        "label_own": ("bare label, its own attribute", DOTTED, "D"),
        "template": ("templated targets, audio", (0, (5, 1)), "P"),
        "other": ("another LLM's targets, audio", (0, (3, 1, 1, 1)), "X"),
        "people": ("people", "-", "p"),
        "own test": ("the run's own test", (0, (5, 2)), "d"),
        "untrained": ("untrained connector (step 0)", "none", "D"),
        "shuffled": ("shuffled audio", "-.", "^"),
        "silence": ("silence", ":", "x"),
        "oracle": ("text oracle", "--", "*"),
    }.items()
}


def _measured(label: str) -> Series:
    return Series(label, PALETTE["audio"], "-", "o")


def _null(label: str) -> Series:
    return Series(label, PALETTE["shuffled"], "-.", "^")


def _flat(label: str) -> Series:
    return Series(label, PALETTE["silence"], ":", "x")


ANALYSIS_SERIES = {  # what is measured inside the model, and its nulls
    "probe": _measured("linear probe"),
    "random labels": _null("probe on random labels"),
    "norm ratio": _measured("norm"),
    "cosine to its own text": _measured("cosine to the clip's own text"),
    "cosine, other clip's text": _null("cosine to another clip's text"),
    "own": _measured("own evidence"),
    "shuffled": _null("shuffled (another clip's)"),
    "uniform": _flat("uniform (a flat profile)"),
    "cosine, a sentence that says nothing": _flat("cosine of a sentence that says nothing"),
    "tuned lens": Series("audio, tuned lens", PALETTE["audio"], (0, (5, 2)), "v"),
    "purity": _measured("the purest feature of an attribute"),
    "purity null": _null("what shuffled labels stay below"),
    "feature": _measured("the feature added"),
    "listening heads": _measured("those that look at the audio most"),
    "random heads": _null("as many random heads"),
    "audio minus silence": _measured("audio minus silence"),
    "another clip's": _flat("another clip's audio minus silence"),
    "random directions": _null("random directions of the same length"),
    "attribution": _measured("in the order of attribution"),
    "random": _null("in random order"),
    "audio": _measured("audio"),
    "oracle": SERIES["oracle"],
    "untrained": Series("untrained connector", PALETTE["untrained"], DOTTED, "D"),
}


def list_conditions(conditions: pd.Series) -> list[str]:
    """The conditions of a table in the order of drawing; new ones last."""
    there = {*conditions}
    return [*(n for n in CONDITIONS if n in there), *sorted(there - {*CONDITIONS})]


def list_controls(conditions: pd.Series) -> list[str]:
    """The conditions by ear beside the clip itself, in the order of drawing; new ones last."""
    own = ("audio", "untrained", "oracle")
    return [name for name in list_conditions(conditions) if name not in own]


def get_series(name: str) -> Series:
    """How a run or condition is drawn; an unknown one is drawn under its own name."""
    return SERIES.get(name, Series(name, get_colour(name), DOTTED, "h"))


def get_colour(name: str) -> str:
    """The colour of a run or condition; dark grey for an unknown one."""
    return PALETTE.get(name, "#555555")


def category_style(place: int) -> dict[str, Any]:
    """Colour and marker of the category at a place, counted from 0: 64 of them differ."""
    count = len(MARKERS)
    marker = MARKERS[(place + place // count) % count]
    return {"color": COLOURS[place % count], "marker": marker}


def marker_style(name: str) -> dict[str, Any]:
    """The point of a run or condition as arguments of `plot`, without a line."""
    return _mark(get_series(name), 6) | {"ls": "none"}


def labelled_marker(name: str) -> dict[str, Any]:
    """The point of a run or condition, with its label for the legend."""
    return marker_style(name) | {"label": get_series(name).label}


def _mark(series: Series, size: int) -> dict[str, Any]:
    """The line and marker of a series: a star is larger, and all but a cross have a white edge."""
    edge = {} if series.marker == "x" else {"mec": "white", "mew": 0.5}
    size = 8 if series.marker == "*" else size
    return {"marker": series.marker, "color": series.colour, "ls": series.line, "ms": size, **edge}


# ---- tables ----


def draws(*columns: str) -> Callable[[Plot], Plot]:
    """Let a function draw, in the style of all figures, these columns of its tables.

    The tables are its first arguments; each has its columns in one string, in which `name?` may be
    missing. An error names the others that are.
    """

    def decorate(plot: Plot) -> Plot:
        @functools.wraps(plot)
        def draw(*args: Any, **kwargs: Any) -> Picture:
            return plot(*map(select_columns, args, columns), *args[len(columns) :], **kwargs)

        return cast(Plot, styled(draw))

    return decorate


def select_columns(table: pd.DataFrame, columns: str) -> pd.DataFrame:
    """The columns of a table that a figure needs; an error names the ones that are missing."""
    asked = columns.split()
    names = [name for name in asked if not name.endswith("?") or name[:-1] in table]
    names = [name.removesuffix("?") for name in names]
    if absent := [name for name in names if name not in table]:
        there = ", ".join(map(str, table.columns))
        raise ValueError(f"The table has no column {', '.join(absent)}; it has {there}.")
    if table.empty:
        raise ValueError("The table has no row; measure first, then draw.")
    return table[names]


def select_measure(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """The rows of one measure; an error names the measures that are there."""
    rows = table[table["measure"] == measure]
    if rows.empty:
        there = sorted(table["measure"].unique())
        raise ValueError(f"No row with measure {measure!r}; the table has {there}.")
    return rows


def unique_values(column: pd.Series) -> list[Any]:
    """Each value once, in the order of first appearance."""
    return list(dict.fromkeys(column.dropna()))


def sort_values(column: pd.Series, known: Iterable[Any] = SERIES) -> list[Any]:
    """Each value once, in the order in which they are known, unknown ones last."""
    there, order = set(column), dict.fromkeys(known)
    return [value for value in (*order, *sorted(there - set(order))) if value in there]


def pick_evenly(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many of the items, evenly spread, the first and the last among them."""
    places = np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int)
    return [items[place] for place in sorted(set(places))]


def pivot(
    table: pd.DataFrame, value: str, down: tuple[str, Any], across: tuple[str, Any]
) -> pd.DataFrame:
    """One column of a tidy table as a matrix; NaN where it has no row.

    `down` and `across` are each the name of a column and its values in order.
    """
    wide = table.pivot(index=down[0], columns=across[0], values=value)
    return wide.reindex(index=down[1], columns=across[1])


def error_bars(rows: pd.DataFrame, value: str) -> np.ndarray:
    """How far `low` and `high` lie from a value, as `errorbar` takes them."""
    return np.clip([rows[value] - rows["low"], rows["high"] - rows[value]], 0, None)


# ---- texts ----


def printable(token: Any) -> str:
    """A token in the signs of the font: blanks are visible, other signs are code points."""
    text = "—" if token is None or token != token else str(token)
    shown = text.strip().replace("\n", "⏎") or ("⏎" if "\n" in text else "␣")
    return "".join(sign if ord(sign) in _code_points() else f"\\u{ord(sign):04x}" for sign in shown)


@functools.cache
def _code_points() -> frozenset[int]:
    return frozenset(font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap())


def shorten(name: Any, most: int = _NAME_CHARACTERS) -> str:
    """A name that an axis has room for: of a longer one the middle is left out."""
    name = str(name)
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-(most // 2) + 1 :]}"


def annotate(axes: Axes, text: str) -> None:
    """Write into the middle of a panel why it is empty."""
    box = {"facecolor": "white", "lw": 0, "pad": 2}
    look: Any = {"color": "#555555", "bbox": box, "transform": axes.transAxes}
    axes.text(0.5, 0.5, text, **_CENTRED, **look)


# ---- panels ----


@styled
def subplots(
    rows: int = 1,
    columns: int = 1,
    headline: str = "",
    size: Size = (7.0, 3.2),
    table: pd.DataFrame | None = None,
    **options: Any,
) -> Any:
    """A figure of a table in the style of all figures, and its axes as `plt.subplots` gives them.

    `size` is in inches; `options` go to `Figure.subplots`.
    """
    picture = Picture(table, headline, size)
    return picture, picture.subplots(rows, columns, **options)


def count_columns(panels: int) -> int:
    """How many panels stand side by side: three in one row, and two rows of more."""
    return panels if panels <= 3 else math.ceil(panels / 2)


def facets(
    table: pd.DataFrame,
    by: str,
    headline: str,
    size: Size,
    xlabel: str,
    share: tuple[bool, bool] = (True, True),
) -> tuple[Picture, list[tuple[Axes, pd.DataFrame]]]:
    """A figure with one panel per value of a column, in two rows at most.

    Args:
        size: Width and height of a panel in inches.
        share: Whether panels share the x axis, and the y axis.

    Returns:
        The figure, and of every panel its axes and its rows of the table.
    """
    names = unique_values(table[by])
    columns = count_columns(len(names))
    rows = math.ceil(len(names) / columns)
    inches = (max(6.5, 0.8 + size[0] * columns), 1.1 + size[1] * rows)
    how: Any = {"squeeze": False, "sharex": share[0], "sharey": share[1]}
    picture, grid = subplots(rows, columns, headline, inches, table, **how)
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    for axes in grid.flat[max(0, len(names) - columns) : len(names)]:  # the lowest of each column
        axes.set_xlabel(xlabel)
        axes.tick_params(labelbottom=True)
    panels = []
    for axes, name in zip(grid.flat, names, strict=False):
        axes.set_title(str(name), loc="left")
        panels.append((axes, picture.table[picture.table[by] == name]))
    return picture, panels


def add_legend(
    picture: Picture, panels: Sequence[Axes], columns: int, note: str | None = None
) -> None:
    """One legend below the panels under a note; each series once, in the order of `SERIES`."""
    found: dict[str, Any] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        found = dict(zip(labels, handles, strict=True)) | found
    order = {series.label: place for place, series in enumerate(SERIES.values())}
    labels = sorted(found, key=lambda label: order.get(label, len(order)))
    if labels or note:
        look: Any = {"loc": "outside lower center", "title": note, "title_fontsize": 9}
        picture.legend([found[label] for label in labels], labels, ncols=columns, **look)


def state_seeds(picture: Picture, seeds: Sequence[int]) -> None:
    """Let the note below the panels say of which training seeds a figure is the mean, or of one."""
    legend = picture.legends[0] if picture.legends else None
    if legend is None:
        look: Any = {"loc": "outside lower center", "frameon": False, "title_fontsize": 9}
        legend = picture.legend([], [], **look)
    note, over = legend.get_title().get_text(), f"{len(seeds)} training seeds"
    if len(seeds) > 1 and "over speakers" in note:
        note = note.replace("interval over speakers", f"t-interval over {over}")
    else:
        own = f"training seed {seeds[0]} alone" if len(seeds) == 1 else f"mean of {over}"
        if len(seeds) > 1 and any("p ≥" in text.get_text() for text in legend.get_texts()):
            own += "; p: the largest of theirs"
        note = "\n".join(part for part in (note, own) if part)
    legend.set_title(note)


# ---- axes ----


def set_step_axis(axes: Axes, last: int) -> None:
    """Training steps 0 … last on the x axis, logarithmic, with step 0 in its place."""
    axes.set_xscale("symlog", linthresh=1, linscale=0.5)
    decades = [10**power for power in range(1 + int(math.log10(last))) if 2 * 10**power <= last]
    set_ticks(axes, [0, *decades, last])
    axes.set_xlim(-0.15, last * 1.15)


def set_ticks(axes: Axes, values: Sequence[Any]) -> None:
    """These values, and no others, as ticks of the x axis."""
    axes.set_xticks(values, [str(value) for value in values], minor=False)
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())


def name_rows(axes: Axes, names: Sequence[str], absent: Sequence[str] = ()) -> None:
    """Names down the y axis, the first on top; a row in `absent` says that it was not measured."""
    axes.set_yticks(range(len(names)), [shorten(name) for name in names], fontsize=8)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    stripe_rows(axes, len(names))
    for name in absent:
        axes.text(0.5, names.index(name), "not measured", color="#555555", **_CENTRED)


def stripe_rows(axes: Axes, count: int) -> None:
    """A grey band behind every second row."""
    for place in range(1, count, 2):
        axes.axhspan(place - 0.5, place + 0.5, zorder=-1, color="#F3F3F3", lw=0)


def draw_chance(line: Any, rows: pd.DataFrame, label: str = "chance (the commonest value)") -> None:
    """The accuracy of a guess as a dotted line; `line` is `axhline` or `axvline`."""
    line(rows["chance"].mean(), label=label, **CHANCE)


# ---- marks ----


def draw_dots(axes: Axes, rows: pd.DataFrame, value: str, at: pd.Series, series: Series) -> None:
    """One series as dots with their intervals, at places down the y axis."""
    look = _mark(series, 5) | {"ls": "none", "label": series.label, "elinewidth": 1.2}
    axes.errorbar(rows[value], at, xerr=error_bars(rows, value), **look)


def draw_line(axes: Axes, rows: pd.DataFrame, at: str, value: str, series: Series) -> None:
    """One series along x with its interval as a band, or as a bar where it is one point."""
    if rows.empty:
        return
    rows = rows.sort_values(at)
    if len(rows) == 1:
        bar: Any = {"ls": "none", "color": series.colour, "elinewidth": 1.2}
        axes.errorbar(rows[at], rows[value], yerr=error_bars(rows, value), **bar)
    axes.fill_between(rows[at], rows["low"], rows["high"], color=series.colour, alpha=0.18, lw=0)
    look = _mark(series, 5) | {"markevery": max(1, len(rows) // 8)}
    axes.plot(rows[at], rows[value], lw=1.6, label=series.label, **look)


def draw_heat_map(
    axes: Axes,
    wide: pd.DataFrame,
    top: float = 1.0,
    faint: np.ndarray | None = None,
    reason: str = "",
    texts: pd.DataFrame | None = None,
    bold: np.ndarray | None = None,
    stretch: float = 1.0,
) -> AxesImage:
    """A matrix from 0 to `top` with its names; darker is more.

    Args:
        faint: Cells that are hatched for a `reason`, which the legend gives. A cell that was not
            measured (NaN) is crossed.
        texts: What is written into the cells; `bold` says into which in bold.
        stretch: The exponent of the colours: above 1, values near the top differ more.
    """
    values = wide.to_numpy(float)
    norm = Normalize(0, top) if stretch == 1 else PowerNorm(stretch, 0, top)
    image = axes.imshow(values, aspect="auto", cmap=_MORE, norm=norm)
    axes.set_yticks(range(len(wide)), [shorten(name) for name in wide.index])
    axes.set_xticks(range(wide.shape[1]), [shorten(name) for name in wide.columns])
    axes.spines[:].set_visible(False)
    look: Any = {"fill": False, "edgecolor": "#8A8A8A", "lw": 0}
    for (row, column), value in np.ndenumerate(values):
        missing = math.isnan(value)
        if missing or (faint is not None and faint[row, column]):
            hatch, label = ("xxx", "not measured") if missing else ("///", reason)
            corner = (column - 0.5, row - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, hatch=hatch, label=label, **look))
    if texts is not None:
        _write_cells(axes, image, values, texts.to_numpy(), bold)
    return image


def _write_cells(
    axes: Axes, image: AxesImage, values: np.ndarray, texts: np.ndarray, bold: np.ndarray | None
) -> None:
    rows, columns = values.shape
    axes.hlines(np.arange(1, rows) - 0.5, -0.5, columns - 0.5, color="white", lw=0.5)
    axes.vlines(np.arange(1, columns) - 0.5, -0.5, rows - 0.5, color="white", lw=0.5)
    top = image.get_clim()[1]
    for (row, column), value in np.ndenumerate(values):
        if math.isnan(value):
            continue
        look: Any = {"fontsize": 7, "color": "white" if value > 0.45 * top else "black"}
        look["fontweight"] = "bold" if bold is not None and bold[row, column] else "normal"
        face = image.to_rgba(np.array(value))  # no hatch behind the text
        look["bbox"] = {"facecolor": face, "lw": 0, "pad": 1}
        axes.text(column, row, str(texts[row, column]), **_CENTRED, **look)
