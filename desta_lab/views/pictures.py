"""What every figure shares: colours and lines, a picture that knows its table, saving it and drawing it again.

A drawing registers itself under the kind of picture it makes (`@drawing("emergence")`), so that `redraw` finds it from
the JSON of a saved figure. The same colour, line and marker mean the same thing in every figure, and tell things apart
in grey too.
"""

import importlib
import io
import json
import math
import platform
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import desta_lab
from desta_lab.views.card import plain, save_bytes, to_json

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


LOOKS = {
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
STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "image.interpolation": "nearest",
    "svg.hashsalt": "desta_lab",  # the same bytes for the same table
}
_DPI = 150  # pixels per inch of the PNG
_LINE_CHARACTERS = 13  # characters of a bold headline per inch of figure

_BOOKS = ("figures",)  # the files of this folder that hold drawings
_DRAW: dict[str, Callable[..., None]] = {}  # the kind of a picture → what draws it


class Picture(Figure):
    """A figure that knows the table it was drawn from; a notebook shows it once, as a PNG."""

    kind: str = ""
    table: pd.DataFrame
    options: dict[str, Any]

    def _repr_png_(self) -> bytes:
        with matplotlib.rc_context(STYLE):
            return _render(self, "png")


def save(
    figure: Figure,
    folder: Path | str,
    name: str,
    table: pd.DataFrame | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Save a figure as PNG and SVG with its table (CSV) and provenance (JSON); returns the path of the PNG.

    Without `table` it is the table of the picture. `provenance` is config hash, checkpoint hash, seeds, versions; how
    to draw the figure again and the versions of the drawing libraries are added. Each file is whole or not there.
    """
    table = table if table is not None else getattr(figure, "table", None)
    if table is None:
        raise ValueError(f"The figure {name!r} comes without a table; pass the one that it was drawn from.")
    given = dict(provenance or {})
    libraries = {package: version(package) for package in ("matplotlib", "numpy", "pandas", "seaborn")}
    ours = {"python": platform.python_version(), "desta_lab": desta_lab.__version__, **libraries}
    recipe = {"kind": getattr(figure, "kind", ""), "options": getattr(figure, "options", {})}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        files = {"png": _render(figure, "png"), "svg": _render(figure, "svg")}
    files["csv"] = table.to_csv(index=False, lineterminator="\n").encode()
    files["json"] = to_json({**given, "figure": recipe, "versions": {**ours, **given.get("versions", {})}})
    for suffix, content in files.items():
        save_bytes(folder / f"{name}.{suffix}", content)
    return folder / f"{name}.png"


def redraw(csv: Path | str) -> Picture:
    """Draw a saved figure again from its CSV and the JSON beside it."""
    path = Path(csv)
    recipe = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["figure"]
    for book in _BOOKS:  # a drawing is known once its file is imported
        importlib.import_module(f"desta_lab.views.{book}")
    if recipe["kind"] not in _DRAW:
        raise ValueError(f"{path} was drawn by other hands than {', '.join(_DRAW)}; draw it where it was made.")
    words = dict.fromkeys(("token", "name", "values"), str)  # never numbers, whatever they look like
    table = pd.read_csv(path, dtype=words, keep_default_na=False, na_values=[""])
    return draw(recipe["kind"], table, **recipe["options"])


def drawing(kind: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function `(picture, table, **options)` as the one that draws pictures of this kind."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        _DRAW[kind] = function
        return function

    return register


def draw(kind: str, table: pd.DataFrame, headline: str = "", **options: Any) -> Picture:
    """A picture of a registered kind, drawn from its table and options, under its headline."""
    with matplotlib.rc_context(STYLE):
        picture = Picture(layout="constrained")
        FigureCanvasAgg(picture)
        picture.kind, picture.table = kind, table.reset_index(drop=True)
        picture.options = plain({"headline": headline, **options})
        _DRAW[kind](picture, picture.table, **plain(options))
        if headline:
            lines = textwrap.fill(headline, int(_LINE_CHARACTERS * picture.get_figwidth() * 0.8))
            picture.suptitle(lines, x=0.01, ha="left", fontsize=11, fontweight="bold", parse_math=False)
    return picture


def _render(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=_DPI, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def legend(picture: Picture, grid: Sequence[Axes], columns: int) -> None:
    """One legend below the panels, each series once, in the order of `LOOKS`."""
    found: dict[str, Any] = {}
    for axes in grid:
        handles, labels = axes.get_legend_handles_labels()
        found = dict(zip(labels, handles, strict=True)) | found
    order = [look.label for look in LOOKS.values()]
    labels = sorted(found, key=lambda label: order.index(label) if label in order else len(order))
    picture.legend([found[label] for label in labels], labels, loc="outside lower center", ncols=columns)


def ordered(names: pd.Series) -> list[str]:
    """Each name once, in the order of `LOOKS`, strangers last."""
    return [name for name in (*LOOKS, *sorted(set(names) - set(LOOKS))) if name in set(names)]


def look_of(name: str) -> Look:
    """How a series is drawn; a stranger under its own name."""
    return LOOKS.get(name, Look(name, (0, (1, 1)), "h"))


def colour_of(name: str) -> str:
    """The colour of a series; a dark grey for strangers."""
    return PALETTE.get(name, "#555555")


def mark(name: str) -> dict[str, Any]:
    """How one point is drawn, without a line."""
    edge = {} if look_of(name).marker == "x" else {"mec": "white", "mew": 0.5}
    return {
        "marker": look_of(name).marker,
        "color": colour_of(name),
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
    return [{"part": "span", "panel": panel, "name": name, "start": start, "end": end} for name, start, end in named]


def matrix_rows(part: str, panel: int, matrix: np.ndarray, digits: int) -> list[dict[str, Any]]:
    """A matrix as table rows, one a line, its numbers in one cell: a CSV of readable size."""
    lines = [" ".join(f"{value:.{digits}f}" for value in line) for line in np.asarray(matrix, dtype=float)]
    return [{"part": part, "panel": panel, "row": i, "values": line} for i, line in enumerate(lines)]


def matrix(table: pd.DataFrame, part: str) -> np.ndarray:
    """The matrix that `matrix_rows` wrote down."""
    return np.array([[float(value) for value in line.split()] for line in table.loc[table["part"] == part, "values"]])


def span_bars(axes: Axes, table: pd.DataFrame, kind: str, place: float, height: float) -> None:
    """The spans of one kind as labelled bars at one height."""
    fill, ink = {"speech": ("#4D4D4D", "white"), "scene": ("#C9C9C9", "black")}.get(kind, ("white", "black"))
    for span in table[table["part"] == "span"].itertuples():
        sort, _, value = span.name.partition(":")
        if sort != kind:
            continue
        width = span.end - span.start
        axes.barh(place, width, height, left=span.start, color=fill, edgecolor="#4D4D4D", lw=0.6)
        middle = span.start + width / 2
        axes.text(middle, place, value or sort, color=ink, ha="center", va="center", fontsize=7, parse_math=False)


def step_axis(axes: Axes, last: int) -> None:
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
