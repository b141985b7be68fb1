"""What the panels draw: options, rungs, the embedding map, and the weight of every frame."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from desta_lab.clips import Clip
from desta_lab.evaluation.tasks import Task
from desta_lab.views.clip_figures import draw_mel
from desta_lab.views.saving import Picture
from desta_lab.views.style import DOTTED, PALETTE, SERIES, error_bars

CONDITIONS = {  # what each condition gives to the model
    "audio": "hears the clip",
    "oracle": "reads the description (text oracle)",
    "silence": "hears silence",
    "untrained": "hears the clip through the untrained connector",
}
_HATCHES = {"silence": "///", "untrained": "..."}
# light colours: the letter on them carries the value
_TINTS = ("#A6CEE3", "#FDBF6F", "#B2DF8A", "#FB9A99", "#CAB2D6", "#FFFF99")


def draw_options(
    axes: Axes, shares: Mapping[str, Mapping[str, float]], task: Task, right: str | None
) -> None:
    """The probability of every option, a bar for each condition; the right option has a tick."""
    height = min(0.3, 0.8 / len(shares))
    for i, (condition, options) in enumerate(shares.items()):
        look: Any = {"color": PALETTE[condition], "hatch": _HATCHES.get(condition)}
        at = np.arange(len(options)) + (i - (len(shares) - 1) / 2) * height
        label = CONDITIONS[condition]
        axes.barh(at, list(options.values()), height, edgecolor="white", label=label, **look)
    ticks = {value: " ✓" if value == right else "" for value in task.options}
    names = [text.strip() + ticks[value] for value, text in task.options.items()]
    axes.set_yticks(range(len(names)), names)
    axes.axvline(task.chance, color="#707070", ls=DOTTED, label="chance")
    axes.set(xlim=(0, 1), xlabel=f"probability after “{task.stem}”")
    axes.invert_yaxis()


def draw_rungs(axes: Axes, rows: pd.DataFrame) -> None:
    """The audio condition's score of every rung as a bar with its interval, controls as marks."""
    for condition, some in rows.groupby("condition"):
        look: Any = {"color": PALETTE[condition], "label": condition}
        if series := SERIES.get(condition):
            look["label"] = series.label
            axes.plot(some["rung"], some["score"], series.marker, **look)
        else:
            axes.bar(some["rung"], some["score"], yerr=error_bars(some, "score"), alpha=0.6, **look)
    axes.axhline(0, color="#B0B0B0", lw=0.8)
    axes.set(xlabel="rung", ylabel="score (0: chance, 1: perfect)")
    axes.set(ylim=(-0.5, 1.1), xlim=(-0.6, 5.6))
    axes.set_title("not measured at this step" if rows.empty else "score of every rung")


def letter_values(values: Iterable[str]) -> dict[str, tuple[str, str]]:
    """A letter and a tint for every value: its initial where these differ, otherwise a number."""
    names = sorted(set(values))
    initials = [name[:1].lower() for name in names]
    letters = initials if len(set(initials)) == len(names) else map(str, range(len(names)))
    return dict(zip(names, zip(letters, itertools.cycle(_TINTS), strict=False), strict=True))


def draw_map(
    axes: Axes, rows: pd.DataFrame, attribute: str, marks: Mapping[str, tuple[str, str]], clip: str
) -> None:
    """The embedding map at one step, every point with the letter of its value, one clip ringed."""
    for value, (letter, tint) in marks.items():
        some = rows[rows[attribute] == value]
        look: Any = {"s": 110, "color": tint, "edgecolor": "#555555", "lw": 0.5}
        axes.scatter(some["x"], some["y"], label=f"{letter}: {value}", **look)
        for x, y in zip(some["x"], some["y"], strict=True):
            axes.text(x, y, letter, ha="center", va="center_baseline", fontsize=8)
    ringed = rows[rows["clip"] == clip]
    axes.scatter(ringed["x"], ringed["y"], s=230, facecolor="none", edgecolor="black", lw=1.5)
    axes.set(xticks=[], yticks=[])


def plot_feature(
    activations: np.ndarray, values: Sequence[str], heard: Mapping[str, np.ndarray], seconds: float
) -> Picture:
    """A feature's activation in every clip, by value, and the spectrograms of some clips."""
    picture = Picture(size=(10.0, 2.8))
    left, *others = picture.subplots(1, 1 + len(heard), width_ratios=[1.6] + [1] * len(heard))
    names, rng = sorted(set(values)), np.random.default_rng(0)
    for place, name in enumerate(names):
        some = activations[np.asarray(values) == name]
        spread = place + rng.uniform(-0.25, 0.25, len(some))
        left.plot(some, spread, ".", color=PALETTE["audio"], ms=4, alpha=0.6)
    shares = [np.mean(activations[np.asarray(values) == name] > 0) for name in names]
    labels = [f"{name}\nlit {share:.0%}" for name, share in zip(names, shares, strict=True)]
    left.set_yticks(range(len(names)), labels)
    left.set(xlabel="largest activation in a clip", ylim=(len(names) - 0.5, -0.5))
    for axes, (title, mel) in zip(others, heard.items(), strict=True):
        draw_mel(axes, mel, seconds)
        axes.set_title(title, fontsize=8)
        axes.set(xlabel="time (s)", yticks=[])
    return picture


def plot_weights(
    mel: np.ndarray,
    clip: Clip,
    weights: np.ndarray,
    chosen: Sequence[tuple[float, float]],
    seconds: float,
) -> Picture:
    """A spectrogram below its evidence spans, the weight of every frame, and what is chosen."""
    picture = Picture(size=(9.0, 3.8))
    top, below = picture.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    draw_mel(top, mel, seconds)
    spans = [span for span in clip.spans if not span.name.startswith("word:")]
    for i, span in enumerate(spans):
        place = len(mel) * (1.06 + 0.16 * i)
        top.plot([span.start, span.end], [place] * 2, lw=3, color="black", clip_on=False)
        top.text(span.start, place + 2, span.name, fontsize=8, va="bottom")
    for axes, (start, end) in itertools.product((top, below), chosen):
        axes.axvspan(start, end, color=PALETTE["audio"], alpha=0.25, lw=0)
    edges = np.linspace(0, seconds, len(weights) + 1)
    below.stairs(weights / np.abs(weights).mean(), edges, color=PALETTE["audio"])
    top.set(ylabel="mel band", ylim=(0, len(mel)))
    below.set(xlabel="time (s)", ylabel="weight\n(mean: 1)", xlim=(0, seconds))
    return picture
