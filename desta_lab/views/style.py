"""What every figure shares: colours and lines, a picture that knows its table, saving it and drawing it again.

A drawing registers itself under the kind of picture it makes (`@drawing("emergence")`), so that `redraw` finds it from
the JSON of a saved figure. The same colour, line and marker mean the same thing in every figure, and tell things apart
in grey too.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from desta_lab import cache
from desta_lab.views.saving import STYLE, Picture

# Okabe and Ito's colours, which people with any colour vision tell apart, and a grey: one meaning each, everywhere
PALETTE = {
    "audio": "#0072B2",
    "self": "#0072B2",
    "label": "#E69F00",
    "label_others": "#E69F00",
    "label_own": "#E69F00",
    "soft": "#56B4E9",
    "template": "#009E73",
    "other": "#F0E442",
    "untrained": "#D55E00",
    "shuffled": "#CC79A7",
    "silence": "#7F7F7F",
    "oracle": "#000000",
    "text": "#000000",
}


class Look(NamedTuple):
    """How one series is named and drawn in every figure."""

    label: str
    line: Any
    marker: str


class Series(NamedTuple):
    """How one series of the analysis is named and drawn."""

    label: str
    colour: str
    line: Any
    marker: str


SERIES = {
    "self": Look("self-generated targets, audio", "-", "o"),
    "soft": Look("soft targets, audio", "-", "v"),
    "label": Look("bare-label targets, audio", "-", "s"),
    "label_others": Look("bare label, other attributes", (0, (5, 2)), "s"),
    "label_own": Look("bare label, its own attribute", (0, (1, 1)), "D"),
    "template": Look("templated targets, audio", (0, (5, 1)), "P"),
    "other": Look("another LLM's targets, audio", (0, (3, 1, 1, 1)), "X"),
    "untrained": Look("untrained connector (step 0)", "none", "D"),
    "shuffled": Look("shuffled audio", "-.", "^"),
    "silence": Look("silence", ":", "x"),
    "oracle": Look("text oracle", "--", "*"),
}
_MORE = sns.color_palette("mako_r", as_cmap=True)  # darker is more
_NAME_CHARACTERS = 26  # of a longer name the middle is left out
_LINE_CHARACTERS = 13  # characters of a bold headline per inch of figure

_DRAW: dict[str, Callable[..., None]] = {}  # the kind of a picture → what draws it


def subplots(
    rows: int = 1,
    columns: int = 1,
    headline: str = "",
    size: tuple[float, float] = (7.0, 3.2),
    **how: Any,
) -> Any:
    """An empty picture in the style of all figures, and its axes as `plt.subplots` gives them: a notebook fills it.

    `size` is in inches; `how` goes to `Figure.subplots`. Shown once, as the value of its cell.
    """
    with matplotlib.rc_context(STYLE):
        picture = Picture(figsize=size)
        picture.add_headline(headline)
        return picture, picture.subplots(rows, columns, **how)


def drawing(kind: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function `(picture, table, **options)` as the one that draws pictures of this kind."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        _DRAW[kind] = function
        return function

    return register


def draw(kind: str, table: pd.DataFrame, headline: str = "", **options: Any) -> Picture:
    """A picture of a registered kind, drawn from its table and options, under its headline."""
    with matplotlib.rc_context(STYLE):
        picture = Picture(table)
        _DRAW[kind](picture, picture.table, **cache.to_plain(options))
        picture.add_headline(headline)
    return picture


def add_legend(
    picture: Picture, grid: Sequence[Axes], columns: int, note: str | None = None
) -> None:
    """One legend below the panels, each series once, in the order of `LOOKS`, under a note on what is drawn."""
    found: dict[str, Any] = {}
    for axes in grid:
        handles, labels = axes.get_legend_handles_labels()
        found = dict(zip(labels, handles, strict=True)) | found
    order = [look.label for look in SERIES.values()]
    labels = sorted(found, key=lambda label: order.index(label) if label in order else len(order))
    if labels:
        where: Any = {
            "loc": "outside lower center",
            "ncols": columns,
            "title": note,
            "title_fontsize": 9,
        }
        picture.legend([found[label] for label in labels], labels, **where)


def say(axes: Axes, words: str) -> None:
    """What is missing, in the middle of the panel that would be empty without it."""
    box = {"facecolor": "white", "lw": 0, "pad": 2}
    axes.text(
        0.5,
        0.5,
        words,
        ha="center",
        va="center",
        transform=axes.transAxes,
        color="#555555",
        bbox=box,
    )


def printable(token: Any) -> str:
    """A token as the fonts of a figure can write it: blanks to be seen, foreign signs as their code points."""
    text = "—" if token is None or token != token else str(token)
    shown = text.strip().replace("\n", "⏎") or ("⏎" if "\n" in text else "␣")
    return "".join(sign if ord(sign) in _signs() else f"\\u{ord(sign):04x}" for sign in shown)


@functools.cache
def _signs() -> frozenset[int]:
    """The code points of the font that every figure is written in."""
    return frozenset(font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap())


def ordered(names: pd.Series) -> list[str]:
    """Each name once, in the order of `LOOKS`, strangers last."""
    return [name for name in (*SERIES, *sorted(set(names) - set(SERIES))) if name in set(names)]


def get_series(name: str) -> Look:
    """How a series is drawn; a stranger under its own name."""
    return SERIES.get(name, Look(name, (0, (1, 1)), "h"))


def get_colour(name: str) -> str:
    """The colour of a series; a dark grey for strangers."""
    return PALETTE.get(name, "#555555")


def marker_style(name: str) -> dict[str, Any]:
    """How one point is drawn, without a line."""
    edge = {} if get_series(name).marker == "x" else {"mec": "white", "mew": 0.5}
    return {
        "marker": get_series(name).marker,
        "color": get_colour(name),
        "ls": "none",
        "ms": 8 if name == "oracle" else 6,
        **edge,
    }


def as_span(span: Any) -> tuple[str, float, float]:
    """Name, start and end (seconds) of a span, which may be a triple or have these attributes."""
    name, start, end = (span.name, span.start, span.end) if hasattr(span, "name") else span
    return str(name), float(start), float(end)


def span_rows(panel: int, spans: Iterable[Any]) -> list[dict[str, Any]]:
    """Spans as table rows."""
    named = map(as_span, spans)
    return [
        {"part": "span", "panel": panel, "name": name, "start": start, "end": end}
        for name, start, end in named
    ]


def matrix_rows(part: str, panel: int, matrix: np.ndarray, digits: int) -> list[dict[str, Any]]:
    """A matrix as table rows, one a line, its numbers in one cell: a CSV of readable size."""
    lines = [
        " ".join(f"{value:.{digits}f}" for value in line)
        for line in np.asarray(matrix, dtype=float)
    ]
    return [
        {"part": part, "panel": panel, "row": i, "values": draw_line}
        for i, draw_line in enumerate(lines)
    ]


def matrix(table: pd.DataFrame, part: str) -> np.ndarray:
    """The matrix that `matrix_rows` wrote down."""
    return np.array(
        [
            [float(value) for value in draw_line.split()]
            for draw_line in table.loc[table["part"] == part, "values"]
        ]
    )


def span_bars(axes: Axes, table: pd.DataFrame, kind: str, place: float, height: float) -> None:
    """The spans of one kind as labelled bars at one height."""
    fill, ink = {"speech": ("#4D4D4D", "white"), "scene": ("#C9C9C9", "black")}.get(
        kind, ("white", "black")
    )
    for span in table[table["part"] == "span"].itertuples():
        sort, _, value = span.name.partition(":")
        if sort != kind:
            continue
        width = span.end - span.start
        axes.barh(place, width, height, left=span.start, color=fill, edgecolor="#4D4D4D", lw=0.6)
        middle = span.start + width / 2
        axes.text(
            middle,
            place,
            value or sort,
            color=ink,
            ha="center",
            va="center",
            fontsize=7,
            parse_math=False,
        )


def set_step_axis(axes: Axes, last: int) -> None:
    """Training steps 0 … last on the x axis, logarithmic, with step 0 in its place."""
    axes.set_xscale("symlog", linthresh=1, linscale=0.5)
    decades = [10**power for power in range(1 + int(math.log10(last))) if 2 * 10**power <= last]
    axes.set_xticks([0, *decades, last], [str(tick) for tick in (0, *decades, last)], minor=False)
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.set_xlim(-0.15, last * 1.15)


def spectrogram(bars: Axes, axes: Axes, table: pd.DataFrame, seconds: float) -> None:
    """The log-mel spectrogram of a clip, and above it the spans that hold the evidence."""
    for place, kind in ((0.0, "word"), (1.0, "scene"), (2.0, "speech")):
        span_bars(bars, table, kind, place, 0.8)
    bars.set(ylim=(-0.5, 2.5), xlim=(0, seconds))
    bars.set_yticks(range(3), ["words", "scene", "speech"])
    bars.tick_params(length=0)
    bars.spines[:].set_visible(False)
    mel = matrix(table, "mel")
    axes.imshow(mel, origin="lower", aspect="auto", cmap="Greys", extent=(0, seconds, 0, len(mel)))
    axes.set_ylabel("mel band")


# ---- tables → panels ----


def tidy(table: pd.DataFrame, columns: str) -> pd.DataFrame:
    """The columns of a table that a drawing needs, or an error that names what is missing."""
    names = columns.split()
    if absent := [name for name in names if name not in table]:
        raise ValueError(
            f"The table has no column {', '.join(absent)}; it has {', '.join(map(str, table.columns))}."
        )
    if table.empty:
        raise ValueError("The table has no row; measure first, then draw.")
    return table[names]


def seen(column: pd.Series) -> list[Any]:
    """Each name once, in the order of first appearance."""
    return list(dict.fromkeys(column.dropna()))


def pick_evenly(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many of the items, evenly spread, the first and the last among them."""
    return [
        items[i]
        for i in sorted(
            set(np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int))
        )
    ]


def short(name: Any, most: int = _NAME_CHARACTERS) -> str:
    """A name as an axis has room for it: of a longer one the middle is left out."""
    name = str(name)
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-(most // 2) + 1 :]}"


def as_matrix(
    table: pd.DataFrame, down: str, across: str, value: str, rows: Any, columns: Any
) -> pd.DataFrame:
    """One column of a tidy table as a matrix; NaN where it has no row."""
    return table.pivot(index=down, columns=across, values=value).reindex(
        index=rows, columns=columns
    )


def columns_of(panels: int) -> int:
    """How many panels stand side by side: three in one row, and two rows of more."""
    return panels if panels <= 3 else math.ceil(panels / 2)


def panels(
    picture: Picture,
    table: pd.DataFrame,
    by: str,
    size: tuple[float, float],
    xlabel: str,
    **share: Any,
) -> Iterable[tuple[Axes, pd.DataFrame]]:
    """One panel per value of a column, in two rows at most, with its rows of the table."""
    names = seen(table[by])
    columns = columns_of(len(names))
    rows = math.ceil(len(names) / columns)
    picture.set_size_inches(max(6.5, 0.8 + size[0] * columns), 1.1 + size[1] * rows)
    grid = picture.subplots(rows, columns, squeeze=False, **share)
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    for axes in grid.flat[max(0, len(names) - columns) : len(names)]:  # the lowest of each column
        axes.set_xlabel(xlabel)
        axes.tick_params(labelbottom=True)
    for axes, name in zip(grid.flat, names, strict=False):
        axes.set_title(str(name), loc="left")
        yield axes, table[table[by] == name]


def dots(axes: Axes, rows: pd.DataFrame, value: str, at: pd.Series, look: Series) -> None:
    """One series as dots with their intervals, at places down the y axis."""
    reach = np.clip([rows[value] - rows["low"], rows["high"] - rows[value]], 0, None)
    axes.errorbar(
        rows[value], at, xerr=reach, elinewidth=1.2, label=look.label, **_ink(look) | {"ls": "none"}
    )


def draw_line(axes: Axes, rows: pd.DataFrame, at: str, value: str, look: Series) -> None:
    """One series along x with its interval as a band, or as a bar where it is one point."""
    if rows.empty:
        return
    rows = rows.sort_values(at)
    if len(rows) == 1:
        reach = np.clip([rows[value] - rows["low"], rows["high"] - rows[value]], 0, None)
        axes.errorbar(
            rows[at], rows[value], yerr=reach, ls="none", color=look.colour, elinewidth=1.2
        )
    axes.fill_between(rows[at], rows["low"], rows["high"], color=look.colour, alpha=0.18, lw=0)
    axes.plot(
        rows[at],
        rows[value],
        lw=1.6,
        label=look.label,
        markevery=max(1, len(rows) // 8),
        **_ink(look),
    )


def _ink(look: Series) -> dict[str, Any]:
    edge = {} if look.marker == "x" else {"mec": "white", "mew": 0.5}
    return {
        "color": look.colour,
        "ls": look.line,
        "marker": look.marker,
        "ms": 8 if look.marker == "*" else 5,
        **edge,
    }


def name_rows(axes: Axes, names: Sequence[str], absent: Sequence[str] = ()) -> None:
    """Names down the y axis, the first on top; a row that has nothing says so."""
    axes.set_yticks(range(len(names)), [short(name) for name in names], fontsize=8)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    for place in range(1, len(names), 2):
        axes.axhspan(place - 0.5, place + 0.5, color="#F3F3F3", zorder=-1, lw=0)
    for name in absent:
        axes.text(0.5, names.index(name), "not measured", ha="center", va="center", color="#555555")


def heat_map(
    axes: Axes,
    wide: pd.DataFrame,
    top: float = 1.0,
    faint: np.ndarray | None = None,
    reason: str = "",
    texts: pd.DataFrame | None = None,
    bold: np.ndarray | None = None,
) -> AxesImage:
    """A matrix from 0 to `top` with its names; crossed where not measured, hatched where `faint` for a `reason`."""
    values = wide.to_numpy(float)
    image = axes.imshow(values, aspect="auto", cmap=_MORE, vmin=0, vmax=top)
    axes.set_yticks(range(len(wide)), [short(name) for name in wide.index])
    axes.set_xticks(range(wide.shape[1]), [short(name) for name in wide.columns])
    axes.spines[:].set_visible(False)
    box: Any = {"fill": False, "edgecolor": "#8A8A8A", "lw": 0}
    if texts is not None:
        axes.hlines(np.arange(1, len(wide)) - 0.5, -0.5, wide.shape[1] - 0.5, color="white", lw=0.5)
        axes.vlines(np.arange(1, wide.shape[1]) - 0.5, -0.5, len(wide) - 0.5, color="white", lw=0.5)
    for (row, column), value in np.ndenumerate(values):
        if math.isnan(value):
            axes.add_patch(
                Rectangle((column - 0.5, row - 0.5), 1, 1, hatch="xxx", label="not measured", **box)
            )
        elif faint is not None and faint[row, column]:
            axes.add_patch(
                Rectangle((column - 0.5, row - 0.5), 1, 1, hatch="///", label=reason, **box)
            )
        if texts is not None and not math.isnan(value):
            weight = "bold" if bold is not None and bold[row, column] else "normal"
            ink: Any = {
                "color": "white" if value > 0.45 * top else "black",
                "fontsize": 7,
                "fontweight": weight,
            }
            ink["bbox"] = {
                "facecolor": image.to_rgba(np.array(value)),
                "lw": 0,
                "pad": 1,
            }  # no hatch behind words
            axes.text(
                column,
                row,
                texts.iat[row, column],
                ha="center",
                va="center",
                parse_math=False,
                **ink,
            )
    return image
