"""A figure that knows its table, and how it is saved: PNG, SVG, table and provenance side by side."""

import io
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

import desta_lab
from desta_lab import cache

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
_DPI = 150  # pixels per inch of the PNG
_LINE_CHARACTERS = 10.4  # characters of a bold headline per inch of figure
_LIBRARIES = ("matplotlib", "numpy", "pandas", "seaborn")


class Picture(Figure):
    """A figure that knows the table it was drawn from; a notebook shows it once, as a PNG."""

    table: pd.DataFrame

    def __init__(self, table: pd.DataFrame | None = None, **figure: Any) -> None:
        super().__init__(**{"layout": "constrained", **figure})
        FigureCanvasAgg(self)
        if table is not None:
            self.table = table.reset_index(drop=True)

    def add_headline(self, headline: str) -> None:
        """Write a headline above the panels, in as many lines as the width needs."""
        if not headline:
            return
        lines = textwrap.fill(headline, int(_LINE_CHARACTERS * self.get_figwidth()))
        look: Any = {"x": 0.01, "ha": "left", "fontsize": 11, "fontweight": "bold"}
        self.suptitle(lines, parse_math=False, **look)

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
        table: what the figure was drawn from; by default the table of a `Picture`.
        provenance: config hash, checkpoint hash, seeds; the versions of Python, of this package and
            of the drawing libraries are added.

    Returns:
        The path of the PNG. Each file is whole or not there.
    """
    table = table if table is not None else getattr(figure, "table", None)
    if table is None:
        raise ValueError(
            f"The figure {name!r} comes without a table; pass the one that it was drawn from."
        )
    files = {
        "png": _render(figure, "png"),
        "svg": _render(figure, "svg"),
        "csv": table.to_csv(index=False, lineterminator="\n").encode(),
        "json": cache.to_json(_add_versions(provenance or {})),
    }
    for suffix, content in files.items():
        cache.write_whole(Path(folder) / f"{name}.{suffix}", content)
    return Path(folder) / f"{name}.png"


def _add_versions(provenance: Mapping[str, Any]) -> dict[str, Any]:
    ours = {"python": platform.python_version(), "desta_lab": desta_lab.__version__}
    ours |= {library: version(library) for library in _LIBRARIES}
    return {**provenance, "versions": ours | provenance.get("versions", {})}


def _render(figure: Figure, form: str) -> bytes:
    buffer = io.BytesIO()
    metadata = {"Date": None} if form == "svg" else None
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format=form, dpi=_DPI, metadata=metadata)
    return buffer.getvalue()
