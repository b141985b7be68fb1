"""Figures of clips over time: spectrograms with their evidence spans, and what looks where."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes

from desta_lab import audio
from desta_lab.clips import Clip, Corpus, Span
from desta_lab.views import style
from desta_lab.views.saving import Picture, styled
from desta_lab.views.style import PALETTE, draws

_GREY = "#4D4D4D"
_SPAN_COLOURS = {"speech": (_GREY, "white"), "scene": ("#C9C9C9", "black")}  # bar, text
_TRANSCRIPT_CHARACTERS = 48
_ANSWER_WIDTH = 22  # characters of a line of an answer


@styled
def plot_query_attention(
    attention: Float[np.ndarray, "query frame"],
    mel: Float[np.ndarray, "mel mel_frame"],
    spans: Sequence[Span],
    seconds: float,
    headline: str = "",
) -> Picture:
    """Where in the clip each query token looks, below its spectrogram and its evidence spans.

    Args:
        attention: Weights over 0 … `seconds`; each row sums to 1.
        mel: Log-mel spectrogram over 0 … `seconds`.
    """
    relative = attention * attention.shape[1]
    rows = [*_matrix_rows("mel", 0, mel, 2), *_matrix_rows("attention", 0, relative, 4)]
    table = pd.DataFrame([*rows, *_span_rows(0, spans)])
    queries = len(attention)
    share: Any = {"sharex": True, "height_ratios": [0.9, 2, 1 + 0.08 * queries]}
    size = (9, 4.2 + 0.06 * queries)
    picture, (bars, top, below) = style.subplots(3, 1, headline, size, table, **share)
    _draw_spectrogram(bars, top, mel, spans, seconds)
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
    spans: Sequence[Span],
    headline: str = "",
) -> Picture:
    """Where each method says that the answer was heard, below the spectrogram of the clip.

    Args:
        profiles: By the name of a method, an array of any length over 0 … `seconds`. Each strip
            has a scale of its own; what lies below its line is evidence against the answer.
    """
    scaled = {}
    for name, given in profiles.items():
        values = np.asarray(given, dtype=float)
        scaled[name] = values / (np.nanmax(np.abs(values), initial=0) or 1.0)
    rows = [*_matrix_rows("mel", 0, mel, 2), *_span_rows(0, spans)]
    for name, values in scaled.items():
        rows += [row | {"name": name} for row in _matrix_rows("profile", 0, values[None], 4)]
    share: Any = {"sharex": True, "height_ratios": [0.9, 2, *[0.6] * len(scaled)]}
    size, table = (9, 3.4 + 0.5 * len(scaled)), pd.DataFrame(rows)
    picture, grid = style.subplots(2 + len(scaled), 1, headline, size, table, **share)
    bars, top, *below = grid
    _draw_spectrogram(bars, top, mel, spans, seconds)
    for axes, (name, values) in zip(below, scaled.items(), strict=True):
        axes.set_ylabel(style.shorten(name), rotation=0, ha="right", va="center")
        _draw_profile(axes, values, spans, seconds)
    note = "time (s); each strip on a scale of its own; dashed: speech, dotted: scene"
    grid[-1].set_xlabel(note)
    return picture


def _draw_profile(axes: Axes, values: np.ndarray, spans: Sequence[Span], seconds: float) -> None:
    edges = np.linspace(0, seconds, len(values) + 1)
    axes.stairs(values, edges, baseline=0, fill=True, color=PALETTE["audio"])
    axes.axhline(0, color="#707070", lw=0.6)
    axes.set(yticks=[], ylim=(min(-0.05, np.nanmin(values, initial=0)), 1.05))
    if not np.isfinite(values).any():
        style.annotate(axes, "not measured")
    for span in spans:
        if not span.name.startswith("word"):
            look: Any = {"color": "black", "lw": 1, "transform": axes.get_xaxis_transform()}
            line = "--" if span.name.startswith("speech") else ":"
            axes.vlines([span.start, span.end], 0, 1, ls=line, **look)


def plot_clips(corpus: Corpus, clips: Sequence[Clip], columns: int = 3) -> Picture:
    """Clips of a corpus as spectrograms with their attributes and evidence spans.

    The end of a clip is filled to a whole encoder frame; of a long one the first 30 s are shown.
    """
    rows = []
    for clip in clips:
        frames = math.ceil(round(clip.seconds * audio.FRAMES_PER_SECOND, 6))
        seconds = min(frames / audio.FRAMES_PER_SECOND, audio.WHISPER_SECONDS)
        wave = audio.read_audio(corpus.path(clip))
        mel = audio.log_mel([wave], seconds)[0].numpy()
        rows.append({**vars(clip), "seconds": seconds, "mel": mel})
    return plot_spectrograms(rows, columns)


@styled
def plot_spectrograms(
    clips: Sequence[Mapping[str, Any]], columns: int = 3, headline: str = ""
) -> Picture:
    """Clips as spectrograms, with their attributes above and their evidence spans.

    Args:
        clips: Each with `mel` [mel, frame], and `seconds`, `attributes`, `spans` and `transcript`
            as a `Clip` has them.
        columns: How many clips stand side by side.
    """
    rows: list[dict[str, Any]] = []
    for panel, clip in enumerate(clips):
        about = {"name": _caption(clip), "start": 0.0, "end": float(clip["seconds"])}
        rows += [{"part": "clip", "panel": panel, **about}]
        rows += [*_matrix_rows("mel", panel, clip["mel"], 1), *_span_rows(panel, clip["spans"])]
    down = math.ceil(len(clips) / columns)
    size, table = (3.5 * columns, 2.3 * down + 0.4), pd.DataFrame(rows)
    share = {"sharex": True, "sharey": True, "squeeze": False}
    picture, grid = style.subplots(down, columns, headline, size, table, **share)
    longest = max(clip["seconds"] for clip in clips)
    for axes in grid.flat[len(clips) :]:
        axes.set_axis_off()
    for axes, clip in zip(grid.flat, clips, strict=False):
        _draw_clip(axes, clip, longest)
    picture.supxlabel("time (s)", fontsize=9)
    picture.supylabel("mel band", fontsize=9)
    return picture


def _draw_clip(axes: Axes, clip: Mapping[str, Any], longest: float) -> None:
    bands = len(clip["mel"])
    draw_mel(axes, clip["mel"], clip["seconds"])
    for kind, place in (("speech", 1.10), ("scene", 1.28)):
        _draw_spans(axes, clip["spans"], kind, place * bands, 0.16 * bands)
    axes.xaxis.set_major_locator(matplotlib.ticker.MultipleLocator(1 if longest < 10 else 5))
    axes.set(xlim=(0, longest), ylim=(0, 1.38 * bands), yticks=(0, bands // 2, bands))
    axes.set_title(_caption(clip), loc="left", fontsize=8)


def _caption(clip: Mapping[str, Any]) -> str:
    values = list(clip["attributes"].values())
    lines = [" · ".join(values[:3]), " · ".join(values[3:])]
    if short := textwrap.shorten(clip["transcript"], _TRANSCRIPT_CHARACTERS, placeholder=" …"):
        lines.append(f"“{short}”")
    return "\n".join(lines)


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
    size, share = (9, 1.45 * len(steps) + 0.4), {"sharex": True, "squeeze": False}
    picture, grid = style.subplots(len(steps), 1, headline, size, pd.DataFrame(rows), **share)
    for axes, (name, values) in zip(grid.flat, steps.items(), strict=True):
        axes.set_ylabel(name, fontsize=8)
        if values.ndim == 1:
            times = np.linspace(0, seconds, len(values), endpoint=False)
            axes.plot(times, values, color=_GREY, lw=0.4)
        else:
            draw_mel(axes, values, seconds)
    grid[-1, 0].set(xlabel="time (s)", xlim=(0, seconds))
    return picture


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
    bar: Any = {"color": fill, "edgecolor": _GREY, "lw": 0.6}
    text: Any = {"color": ink, "ha": "center", "va": "center", "fontsize": 7}
    for span in spans:
        sort, _, value = span.name.partition(":")
        if sort == kind:
            axes.barh(place, span.end - span.start, height, left=span.start, **bar)
            axes.text((span.start + span.end) / 2, place, value or sort, **text)


def _span_rows(panel: int, spans: Sequence[Span]) -> list[dict[str, Any]]:
    return [{"part": "span", "panel": panel, **vars(span)} for span in spans]


def _matrix_rows(part: str, panel: int, matrix: np.ndarray, digits: int) -> list[dict[str, Any]]:
    """A matrix as table rows, one a line, its numbers in one cell: a CSV of readable size."""
    lines = [" ".join(f"{value:.{digits}f}" for value in line) for line in np.asarray(matrix)]
    about = {"part": part, "panel": panel}
    return [about | {"row": row, "values": line} for row, line in enumerate(lines)]


# ---- what was said ----


@draws("clip who question answer value said")
def plot_answers(table: pd.DataFrame, headline: str = "") -> Picture:
    """What the model said about some clips in its own words: a row a clip, a column a question.

    A row of the table is a task asked about a clip: `said` is 1 where the answer is right (and
    obeys, where the question asks for a form), `value` is what is right, `who` names the clip.
    Tasks that share a question judge the same answer, and how many find it right is said.
    """
    questions, clips = map(style.unique_values, (table["question"], table["clip"]))
    cells = {
        (clip, question): _answer_lines(rows)
        for (clip, question), rows in table.groupby(["clip", "question"])
    }
    lines = pd.Series({key: len(words) + 1.7 for key, (words, *_) in cells.items()})
    heights = lines.groupby(level=0).max()[clips]
    ends = np.cumsum([0, *heights])
    size = (1.1 + 1.45 * len(questions), 0.8 + 0.145 * ends[-1])
    picture, axes = style.subplots(1, 1, headline, size, table)
    for row, clip in enumerate(clips):
        if row % 2:
            axes.axhspan(ends[row], ends[row + 1], color="#F3F3F3", lw=0)
        for column, question in enumerate(questions):
            if (clip, question) in cells:
                words, mark, right = cells[clip, question]
                look: Any = {"va": "top", "fontsize": 8}
                at = ends[row] + 0.35
                axes.text(column, at, "\n".join(words), **look)
                colour = PALETTE["audio" if right else "untrained"]
                axes.text(column, at + len(words) + 0.1, mark, color=colour, weight="bold", **look)
    who = table.drop_duplicates("clip").set_index("clip")["who"]
    axes.set_yticks((ends[:-1] + ends[1:]) / 2, [style.shorten(who[clip]) for clip in clips])
    axes.set(xlim=(-0.02, len(questions)), ylim=(ends[-1], 0))
    headers = [textwrap.fill(question, _ANSWER_WIDTH - 4) for question in questions]
    axes.set_xticks(range(len(questions)), headers, ha="left", weight="bold")
    axes.tick_params(length=0, top=False, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    return picture


def _answer_lines(rows: pd.DataFrame) -> tuple[list[str], str, bool]:
    """An answer in lines that fit a column, what is right of it in one line, and if all is."""
    words = " ".join(map(style.printable, str(rows["answer"].iloc[0]).split()))
    short = textwrap.shorten(words, 6 * _ANSWER_WIDTH, placeholder=" …") or "(nothing)"
    right = rows["said"] == 1
    missed = ", ".join(rows.loc[~right, "value"])
    if len(rows) == 1:
        mark = "✓" if right.all() else f"✗ right: {missed}"
    else:
        share = f"{right.sum()} of {len(rows)}"
        mark = f"✓ {share}" if right.all() else f"{share}; not {missed}"
    return textwrap.wrap(short, _ANSWER_WIDTH), style.shorten(mark, 24), bool(right.all())
