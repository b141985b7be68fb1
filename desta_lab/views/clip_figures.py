"""Figures of clips over time: spectrograms with their evidence spans, and what looks where."""

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes

from desta_lab.views import style
from desta_lab.views.saving import Picture, styled
from desta_lab.views.style import PALETTE

Span = tuple[str, float, float]  # name, start and end in seconds

_GREY = "#4D4D4D"
_SPAN_COLOURS = {"speech": (_GREY, "white"), "scene": ("#C9C9C9", "black")}  # bar, text
_TRANSCRIPT_CHARACTERS = 48


@styled
def plot_query_attention(
    attention: Float[np.ndarray, "query frame"],
    mel: Float[np.ndarray, "mel mel_frame"],
    spans: Sequence[Any],
    seconds: float,
    words: Sequence[Any] = (),
    headline: str = "",
) -> Picture:
    """Where in the clip each query token looks, below its spectrogram and its evidence spans.

    Args:
        attention: Weights over 0 … `seconds`; each row sums to 1.
        mel: Log-mel spectrogram over 0 … `seconds`.
        spans: Each is `(name, start, end)` or has these attributes. A name is `speech`,
            `scene:<value>` or `word:<word>`.
        words: More spans, named by the word alone.
    """
    named = [*map(_to_span, spans)]
    named += [(f"word:{name}", start, end) for name, start, end in map(_to_span, words)]
    relative = attention * attention.shape[1]
    rows = [*_matrix_rows("mel", 0, mel, 2), *_matrix_rows("attention", 0, relative, 4)]
    queries = len(attention)
    table = pd.DataFrame([*rows, *_span_rows(0, named)])
    picture = Picture(table, headline, (9, 4.2 + 0.06 * queries))
    heights = [0.9, 2, 1 + 0.08 * queries]
    bars, top, below = picture.subplots(3, 1, sharex=True, height_ratios=heights)
    _draw_spectrogram(bars, top, mel, named, seconds)
    look: Any = {"aspect": "auto", "cmap": "mako_r", "vmin": 0}
    image = below.imshow(relative, extent=(0, seconds, queries - 0.5, -0.5), **look)
    below.set(ylabel="query token", xlabel="time (s)")
    below.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(8, integer=True))
    picture.colorbar(image, ax=below, label="attention\n(1: spread evenly)", pad=0.01)
    return picture


@styled
def plot_time_profiles(
    mel: Float[np.ndarray, "mel frame"],
    seconds: float,
    profiles: Mapping[str, Any],
    spans: Iterable[Any],
    headline: str = "",
) -> Picture:
    """Where each method says that the answer was heard, below the spectrogram of the clip.

    Args:
        profiles: By the name of a method, an array of any length over 0 … `seconds`. Each strip
            has a scale of its own; what lies below its line is evidence against the answer.
        spans: As in `plot_query_attention`.
    """
    named = [*map(_to_span, spans)]
    given = {name: np.asarray(values, dtype=float) for name, values in profiles.items()}
    tops = {name: np.nanmax(np.abs(values), initial=0) for name, values in given.items()}
    scaled = {name: values / (tops[name] or 1.0) for name, values in given.items()}
    rows = [*_matrix_rows("mel", 0, mel, 2), *_span_rows(0, named)]
    for name, values in scaled.items():
        rows += [row | {"name": name} for row in _matrix_rows("profile", 0, values[None], 4)]
    picture = Picture(pd.DataFrame(rows), headline, (9, 3.4 + 0.5 * len(scaled)))
    heights = [0.9, 2, *[0.6] * len(scaled)]
    bars, top, *below = picture.subplots(2 + len(scaled), 1, sharex=True, height_ratios=heights)
    _draw_spectrogram(bars, top, mel, named, seconds)
    for axes, (name, values) in zip(below, scaled.items(), strict=True):
        axes.set_ylabel(style.shorten(name), rotation=0, ha="right", va="center")
        _draw_profile(axes, values, named, seconds)
    note = "time (s); each strip on a scale of its own; dashed: speech, dotted: scene"
    picture.axes[-1].set_xlabel(note)
    return picture


def _draw_profile(axes: Axes, values: np.ndarray, spans: Sequence[Span], seconds: float) -> None:
    edges = np.linspace(0, seconds, len(values) + 1)
    axes.stairs(values, edges, baseline=0, fill=True, color=PALETTE["audio"])
    axes.axhline(0, color="#707070", lw=0.6)
    axes.set(yticks=[], ylim=(min(-0.05, np.nanmin(values, initial=0)), 1.05))
    if not np.isfinite(values).any():
        style.annotate(axes, "not measured")
    for name, start, end in spans:
        if not name.startswith("word"):
            look: Any = {"color": "black", "lw": 1, "transform": axes.get_xaxis_transform()}
            line = "--" if name.startswith("speech") else ":"
            axes.vlines([start, end], 0, 1, ls=line, **look)


@styled
def plot_spectrograms(
    clips: Sequence[Mapping[str, Any]], columns: int = 3, headline: str = ""
) -> Picture:
    """Clips of a corpus as spectrograms, with their attributes above and their evidence spans.

    Args:
        clips: Each with `mel` [mel, frame], `seconds`, `attributes` {name: value}, `spans` as in
            `plot_query_attention` and, if it is known, a `transcript`.
        columns: How many clips stand side by side.
    """
    rows: list[dict[str, Any]] = []
    for panel, clip in enumerate(clips):
        about = {"name": _caption(clip), "start": 0.0, "end": float(clip["seconds"])}
        rows += [{"part": "clip", "panel": panel, **about}]
        rows += [*_matrix_rows("mel", panel, clip["mel"], 1)]
        rows += [*_span_rows(panel, [*map(_to_span, clip["spans"])])]
    down = math.ceil(len(clips) / columns)
    picture = Picture(pd.DataFrame(rows), headline, (3.5 * columns, 2.3 * down + 0.4))
    grid = picture.subplots(down, columns, sharex=True, sharey=True, squeeze=False)
    longest = max(clip["seconds"] for clip in clips)
    for axes in grid.flat[len(clips) :]:
        axes.set_axis_off()
    for axes, clip in zip(grid.flat, clips, strict=False):
        _draw_clip(axes, clip, longest)
    picture.supxlabel("time (s)", fontsize=9)
    picture.supylabel("mel band", fontsize=9)
    return picture


@styled
def plot_steps_to_mel(
    steps: Mapping[str, Float[np.ndarray, "..."]], seconds: float, headline: str = ""
) -> Picture:
    """How a waveform becomes what an encoder is given, one panel a step.

    Args:
        steps: By what the vertical axis shows, samples [sample] or a picture [row, frame] over
            0 … `seconds`.
    """
    rows = [
        row | {"name": name}
        for panel, (name, values) in enumerate(steps.items())
        for row in _matrix_rows("step", panel, np.atleast_2d(values), 3)
    ]
    picture = Picture(pd.DataFrame(rows), headline, (9, 1.45 * len(steps) + 0.4))
    panels = picture.subplots(len(steps), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, values) in zip(panels, steps.items(), strict=True):
        axes.set_ylabel(name, fontsize=8)
        if values.ndim == 1:
            times = np.linspace(0, seconds, len(values), endpoint=False)
            axes.plot(times, values, color=_GREY, lw=0.4)
        else:
            draw_mel(axes, values, seconds)
    panels[-1].set(xlabel="time (s)", xlim=(0, seconds))
    return picture


def _caption(clip: Mapping[str, Any]) -> str:
    values = list(clip["attributes"].values())
    lines = [" · ".join(values[:3]), " · ".join(values[3:])]
    transcript = str(clip.get("transcript", ""))
    if short := textwrap.shorten(transcript, _TRANSCRIPT_CHARACTERS, placeholder=" …"):
        lines.append(f"“{short}”")
    return "\n".join(lines)


def _draw_clip(axes: Axes, clip: Mapping[str, Any], longest: float) -> None:
    bands = len(clip["mel"])
    draw_mel(axes, clip["mel"], clip["seconds"])
    spans = [*map(_to_span, clip["spans"])]
    for kind, place in (("speech", 1.10), ("scene", 1.28)):
        _draw_spans(axes, spans, kind, place * bands, 0.16 * bands)
    axes.xaxis.set_major_locator(matplotlib.ticker.MultipleLocator(1 if longest < 10 else 5))
    axes.set(xlim=(0, longest), ylim=(0, 1.38 * bands), yticks=(0, bands // 2, bands))
    axes.set_title(_caption(clip), loc="left", fontsize=8)


# ---- spans and spectrograms ----


def _draw_spectrogram(
    bars: Axes, axes: Axes, mel: np.ndarray, spans: Sequence[Span], seconds: float
) -> None:
    """A log-mel spectrogram, and above it the evidence spans."""
    for place, kind in ((0.0, "word"), (1.0, "scene"), (2.0, "speech")):
        _draw_spans(bars, spans, kind, place, 0.8)
    bars.set(ylim=(-0.5, 2.5), xlim=(0, seconds))
    bars.set_yticks(range(3), ["words", "scene", "speech"])
    bars.tick_params(length=0)
    bars.spines[:].set_visible(False)
    draw_mel(axes, mel, seconds)
    axes.set_ylabel("mel band")


def draw_mel(axes: Axes, mel: np.ndarray, seconds: float) -> None:
    """A log-mel spectrogram over 0 … `seconds`; darker is louder."""
    look: Any = {"origin": "lower", "aspect": "auto", "cmap": "Greys"}
    axes.imshow(mel, extent=(0, seconds, 0, len(mel)), **look)


def _draw_spans(axes: Axes, spans: Sequence[Span], kind: str, place: float, height: float) -> None:
    """The spans of one kind as labelled bars at one height."""
    fill, ink = _SPAN_COLOURS.get(kind, ("white", "black"))
    look: Any = {"ha": "center", "va": "center", "fontsize": 7}
    for name, start, end in spans:
        sort, _, value = name.partition(":")
        if sort == kind:
            axes.barh(place, end - start, height, left=start, color=fill, edgecolor=_GREY, lw=0.6)
            axes.text((start + end) / 2, place, value or sort, color=ink, **look)


def _to_span(span: Any) -> Span:
    name, start, end = (span.name, span.start, span.end) if hasattr(span, "name") else span
    return str(name), float(start), float(end)


def _span_rows(panel: int, spans: Sequence[Span]) -> list[dict[str, Any]]:
    about = {"part": "span", "panel": panel}
    return [about | {"name": name, "start": start, "end": end} for name, start, end in spans]


def _matrix_rows(part: str, panel: int, matrix: np.ndarray, digits: int) -> list[dict[str, Any]]:
    """A matrix as table rows, one a line, its numbers in one cell: a CSV of readable size."""
    lines = [" ".join(f"{value:.{digits}f}" for value in line) for line in np.asarray(matrix)]
    return [
        {"part": part, "panel": panel, "row": row, "values": line} for row, line in enumerate(lines)
    ]
