"""A figure that knows its table, and how it is saved: PNG, SVG, table and provenance together."""

import importlib.util
import io
import os
import platform
import textwrap
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import LogFormatterMathtext
from pandas.api.types import infer_dtype

import desta_lab
from desta_lab import cache
from desta_lab.views import ALSO_VARIABLE

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "image.interpolation": "nearest",
    "svg.hashsalt": "desta_lab",  # the same bytes for the same table
}
ALSO = ("pdf", "parquet")  # forms beside the usual ones
# decorates what draws in the style of all figures
styled = matplotlib.rc_context({**STYLE, "text.parse_math": False, "text.usetex": False})
_DPI = 150  # pixels per inch of the PNG
_MOST_TICKS = 64  # of a logarithmic axis
_LINE_CHARACTERS = 10.4  # characters of a bold headline per inch of figure
_LIBRARIES = ("matplotlib", "numpy", "pandas", "seaborn")

Size = tuple[float | int, float | int]  # width and height in inches


class Picture(Figure):
    """A figure that knows the table it was drawn from; a notebook shows it once, as a PNG.

    Args:
        table: The tidy table of what is drawn; saved beside the figure.
        headline: The sentence above the panels, in as many lines as the width needs.
        size: Width and height in inches.
    """

    table: pd.DataFrame

    def __init__(
        self, table: pd.DataFrame | None = None, headline: str = "", size: Size = (7.0, 3.2)
    ) -> None:
        super().__init__(figsize=size, layout="constrained")
        FigureCanvasAgg(self)
        if table is not None:
            self.table = table.reset_index(drop=True)
        if headline:
            lines = textwrap.fill(headline, int(_LINE_CHARACTERS * size[0]))
            self.suptitle(lines, x=0.01, ha="left", fontsize=11, fontweight="bold")

    def png(self) -> bytes:
        """The figure as the bytes of a PNG file."""
        return _render(self, "png")

    def _repr_png_(self) -> tuple[bytes, dict[str, Any]]:
        return self.png(), {"alt": self.get_suptitle() or "figure"}


def save_figure(
    figure: Figure,
    folder: Path | str,
    name: str,
    table: pd.DataFrame | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Save a figure as PNG and SVG with its table (CSV) and provenance (JSON).

    Args:
        table: What the figure was drawn from; by default the table of a `Picture`.
        provenance: Config hash, checkpoint hash, seeds. The versions of Python, of this package
            and of the drawing libraries are added.

    Returns:
        The path of the PNG. Each file is whole or not there.
    """
    forms = parse_also()
    table = table if table is not None else getattr(figure, "table", None)
    if table is None:
        raise ValueError(f"The figure {name!r} comes without a table; pass what it was drawn from.")
    versions = {"python": platform.python_version(), "desta_lab": desta_lab.__version__}
    versions |= {library: version(library) for library in _LIBRARIES}
    files = {form: _render(figure, form) for form in ["png", "svg"] + ["pdf"] * ("pdf" in forms)}
    files["csv"] = table.to_csv(index=False, lineterminator="\n").encode()
    files["json"] = cache.to_json({**(provenance or {}), "versions": versions})
    if "parquet" in forms:
        files["parquet"] = _to_parquet(table)
    for suffix, content in files.items():
        cache.write_whole(Path(folder) / f"{name}.{suffix}", content)
    return Path(folder) / f"{name}.png"


def parse_also() -> list[str]:
    """The forms, some of `ALSO`, in which `$DESTA_LAB_ALSO` wants figures and tables saved, too.

    Raises:
        ValueError: there is no such form.
        ImportError: Parquet needs pyarrow, which is not installed.
    """
    forms = [
        name for part in os.environ.get(ALSO_VARIABLE, "").split(",") if (name := part.strip())
    ]
    if unknown := [name for name in forms if name not in ALSO]:
        raise ValueError(
            f"There is no form {unknown[0]!r} to save in beside the usual ones; take some of "
            f"{', '.join(ALSO)}."
        )
    if "parquet" in forms and importlib.util.find_spec("pyarrow") is None:
        raise ImportError(
            "Tables as Parquet need pyarrow; run `pip install pyarrow`, or leave parquet out."
        )
    return forms


def save_parquet(table: pd.DataFrame, path: Path) -> None:
    """Save a table as Parquet too, where `$DESTA_LAB_ALSO` asks for it."""
    if "parquet" in parse_also():
        cache.write_whole(path, _to_parquet(table))


def _to_parquet(table: pd.DataFrame) -> bytes:
    """A table as the bytes of a Parquet file; a column of several types is one of texts."""
    mixed = [name for name in table if infer_dtype(table[name]).startswith("mixed")]
    typed = table.astype(dict.fromkeys(mixed, "string"))
    content: bytes = typed.to_parquet(engine="pyarrow", index=False)
    return content


def write_plainly(figure: Figure) -> None:
    """Let no text be read as mathematics, since a label may hold any sign; powers of ten are."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        for kind, ticks in ((axis.major, axis.get_major_ticks), (axis.minor, axis.get_minor_ticks)):
            if isinstance(kind.formatter, LogFormatterMathtext):
                for tick in ticks(_MOST_TICKS):
                    tick.label1.set_parse_math(True)


@styled
def _render(figure: Figure, form: str) -> bytes:
    buffer = io.BytesIO()
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form)
    write_plainly(figure)
    figure.savefig(buffer, format=form, dpi=_DPI, metadata=metadata)
    return buffer.getvalue()
