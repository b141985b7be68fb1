"""What every panel shares: the box with its still, the small widgets, and what is drawn into them."""

import base64
import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any

import ipywidgets as w
import numpy as np
import pandas as pd
import soundfile
from IPython.display import HTML, display
from jaxtyping import Float
from matplotlib.axes import Axes

from desta_lab import audio
from desta_lab.clips import Clip
from desta_lab.evaluation.tasks import Task
from desta_lab.views.replies import frames_to_spans
from desta_lab.views.saving import Picture
from desta_lab.views.style import PALETTE, SERIES

CONDITIONS = {
    "audio": "hears the clip",
    "oracle": "reads the description (text oracle)",
    "silence": "hears silence",
    "untrained": "hears the clip through the untrained connector",
}
TINTS = (
    "#A6CEE3",
    "#FDBF6F",
    "#B2DF8A",
    "#FB9A99",
    "#CAB2D6",
    "#FFFF99",
)  # light: the letter on them carries the value
_HATCH = {"silence": "///", "untrained": "..."}
WIDE = {"layout": {"width": "auto", "max_width": "56em"}, "style": {"description_width": "6em"}}


class Panel:
    """Rows of widgets and a line that says what is going on; errors land there as sentences.

    Shown in a notebook it leaves two outputs: the live widgets, and a still of them as HTML, which follows every
    change, hides while the widgets live beside it, and is what remains in a saved page.

    Args:
        rows: the widgets from top to bottom; None is where the line stands.
        choices: those whose change calls `act`.
    """

    def __init__(
        self, rows: Sequence[Any], choices: Sequence[Any], act: Callable[[], None]
    ) -> None:
        self.note = w.HTML(
            layout={"min_height": "28px"}
        )  # a line's height: nothing jumps when it speaks
        self.box = w.VBox([self.note if row is None else row for row in rows])
        self._name = f"desta-{type(self).__name__.lower()}-{self.box.model_id}"
        self._shown: Any = None
        self.box.add_class(self._name)
        for choice in choices:
            choice.observe(lambda _: act(), "value")
        act()

    def still(self) -> str:
        """The panel as it stands, as HTML without any widget."""
        hide = f"<style>body:has(.{self._name}) .{self._name}-still {{ display: none }}</style>"
        return f'{hide}<div class="{self._name}-still">{_still(self.box)}</div>'

    def _ipython_display_(self) -> None:
        plain = {
            "text/plain": f"{type(self).__name__}: a panel; where no widget runs, its still stands below."
        }
        display(self.box._repr_mimebundle_() | plain, raw=True)
        self._shown = display(HTML(self.still()), display_id=True)

    @contextmanager
    def _working(self, *locked: Any) -> Iterator[None]:
        """Say that it is at work, lock what would start it again, and turn an error into a sentence."""
        self.note.value = working = "<em>working…</em>"
        for widget in locked:
            widget.disabled = True
        try:
            yield
            self.note.value = self.note.value.replace(working, "")
        except Exception as error:  # whatever it is: a callback that raises is silent
            kind = "" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: "
            self.note.value = f'<span role="alert">⚠ {escape(kind + str(error))}</span>'
        finally:
            for widget in locked:
                widget.disabled = False
            if self._shown is not None:
                self._shown.update(HTML(self.still()))


def _still(widget: Any) -> str:
    """A widget, and all that is in it, as HTML."""
    if isinstance(widget, w.Box):
        return "".join(
            f"<div>{inner}</div>" for child in widget.children if (inner := _still(child))
        )
    if isinstance(widget, w.HTML):
        return str(widget.value)
    if isinstance(widget, w.Image):
        return png(bytes(widget.value), widget.says) if widget.value else ""
    if isinstance(widget, w.Audio):
        data = base64.b64encode(widget.value).decode()
        return data and f'<audio controls src="data:audio/wav;base64,{data}"></audio>'
    chosen = getattr(widget, "label", None) or getattr(widget, "value", None)
    return f"{escape(widget.description)}: {escape(str(chosen))}" if chosen else ""


def png(content: bytes, says: str) -> str:
    """A PNG as an image that stands in the page itself, with what it shows in words."""
    data = base64.b64encode(content).decode()
    return f'<img style="max-width: 100%" alt="{escape(says)}" src="data:image/png;base64,{data}">'


def sound(wave: Float[np.ndarray, "sample"]) -> bytes:
    """A waveform as the bytes of a WAV file."""
    file = io.BytesIO()
    soundfile.write(file, wave, audio.RATE, format="WAV")
    return file.getvalue()


def player(autoplay: bool = False) -> Any:
    """An empty player; `autoplay` for one that follows a press."""
    return w.Audio(value=b"", format="wav", autoplay=autoplay, loop=False)


def image(says: str) -> Any:
    """A picture that takes no room until it has one; `says` is for the still (`tooltip` breaks ipywidgets' Image)."""
    image = w.Image(
        value=b"",
        format="png",
        layout={"max_width": "100%", "object_fit": "contain", "display": "none"},
    )
    image.says = says
    image.observe(
        lambda change: setattr(image.layout, "display", None if change.new else "none"), "value"
    )
    return image


def pick(name: str, options: Sequence[Any], index: int = 0) -> Any:
    """A drop-down list."""
    return w.Dropdown(options=options, index=index, description=name, **WIDE)


def questions_of(tasks: Sequence[Task]) -> tuple[list[tuple[str, Task]], int]:
    """The ladder's tasks to pick from, and where the first question that was never trained stands."""
    names = [(f"rung {task.rung}: {task.question} [{task.attribute}]", task) for task in tasks]
    return names, next((i for i, task in enumerate(tasks) if task.rung == 3), 0)


def attributes_of(job: Any, points: pd.DataFrame) -> list[str]:
    """The attributes that a map's points have a column for; raises ValueError where there is none."""
    known = {name for clip in job.corpus.clips for name in clip.attributes}
    if names := [name for name in points.columns if name in known]:
        return names
    raise ValueError(
        f"The points have no column of an attribute ({', '.join(sorted(known))}); merge them in by clip."
    )


def words_about(clip: Clip) -> str:
    """A clip's name, speaker and words, as HTML."""
    return f"<b>{escape(clip.id)}</b> ({escape(clip.speaker)}): “{escape(clip.transcript)}”"


def html_table(head: Sequence[str], *rows: Sequence[str]) -> str:
    """A small table as HTML; everything in it is text."""
    cell = 'style="text-align: left; padding: .1em .8em; vertical-align: top; line-height: 1.5"'
    lines = [
        "".join(f"<{kind} {cell}>{escape(text)}</{kind}>" for text in row)
        for kind, row in [("th", head), *(("td", row) for row in rows)]
    ]
    return f"<table><tr>{'</tr><tr>'.join(lines)}</tr></table>"


# ---- what they draw ----


def blank_picture(width: float, height: float) -> Picture:  # inches
    """An empty picture of so many inches."""
    return Picture(figsize=(width, height), layout="constrained")


def draw_bars(
    axes: Axes, shares: Mapping[str, Mapping[str, float]], task: Task, right: str | None
) -> None:
    """The probability of every option, a bar for each condition; the right option wears a tick."""
    thick = min(0.3, 0.8 / len(shares))
    for i, (condition, options) in enumerate(shares.items()):
        look: Any = {
            "color": PALETTE[condition],
            "hatch": _HATCH.get(condition),
            "edgecolor": "white",
            "label": CONDITIONS[condition],
        }
        axes.barh(
            np.arange(len(options)) + (i - (len(shares) - 1) / 2) * thick,
            list(options.values()),
            thick,
            **look,
        )
    ticks = [
        text.strip() + (" ✓" if value == right else "") for value, text in task.options.items()
    ]
    axes.set_yticks(range(len(ticks)), ticks)
    axes.axvline(task.chance, color="#707070", ls=(0, (1, 1)), label="chance")
    axes.set(xlim=(0, 1), xlabel=f"probability after “{task.stem}”")
    axes.invert_yaxis()


def draw_rungs(axes: Axes, rows: pd.DataFrame) -> None:
    """The audio condition's score of every rung as a bar with its interval, the controls as marks."""
    for condition, some in rows.groupby("condition"):
        colour, look = PALETTE[str(condition)], SERIES.get(str(condition))
        if look:
            axes.plot(
                some["rung"],
                some["score"],
                ls="none",
                marker=look.marker,
                color=colour,
                label=look.label,
            )
        else:
            reach = np.clip([some["score"] - some["low"], some["high"] - some["score"]], 0, None)
            axes.bar(
                some["rung"],
                some["score"],
                yerr=reach,
                color=colour,
                alpha=0.6,
                label=str(condition),
            )
    axes.axhline(0, color="#B0B0B0", lw=0.8)
    axes.set(
        xlabel="rung", ylabel="score (0: chance, 1: perfect)", ylim=(-0.5, 1.1), xlim=(-0.6, 5.6)
    )
    axes.set_title("not measured at this step" if rows.empty else "score of every rung")


def marks_of(values: Iterable[str]) -> dict[str, tuple[str, str]]:
    """A letter and a tint for every value: its initial where these differ, its number otherwise."""
    names = sorted(set(values))
    initials = [name[:1].lower() for name in names]
    letters = initials if len(set(initials)) == len(names) else map(str, range(len(names)))
    return dict(zip(names, zip(letters, itertools.cycle(TINTS), strict=False), strict=True))


def draw_map(
    axes: Axes, rows: pd.DataFrame, attribute: str, marks: Mapping[str, tuple[str, str]], clip: str
) -> None:
    """The embedding map at one step, every point with the letter of its value; one clip is ringed."""
    for value, (letter, tint) in marks.items():
        some = rows[rows[attribute] == value]
        axes.scatter(
            some["x"],
            some["y"],
            s=110,
            color=tint,
            edgecolor="#555555",
            lw=0.5,
            label=f"{letter}: {value}",
        )
        for x, y in zip(some["x"], some["y"], strict=True):
            axes.text(x, y, letter, ha="center", va="center_baseline", fontsize=8)
    ringed = rows[rows["clip"] == clip]
    axes.scatter(ringed["x"], ringed["y"], s=230, facecolor="none", edgecolor="black", lw=1.5)
    axes.set(xticks=[], yticks=[])


def limits_of(values: pd.Series) -> tuple[float, float]:
    """Ends of an axis that hold these values with some room."""
    room = 0.08 * (values.max() - values.min()) or 1.0
    return float(values.min() - room), float(values.max() + room)


def draw_profile(
    picture: Picture, mel: np.ndarray, clip: Clip, weights: np.ndarray, kept: np.ndarray, end: float
) -> None:
    """The spectrogram under its evidence spans, the weight of every frame below, the kept stretches in blue."""
    top, below = picture.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    top.imshow(mel, origin="lower", aspect="auto", cmap="Greys", extent=(0, end, 0, len(mel)))
    for i, span in enumerate(span for span in clip.spans if not span.name.startswith("word:")):
        place = len(mel) * (1.06 + 0.16 * i)
        top.plot([span.start, span.end], [place] * 2, lw=3, color="black", clip_on=False)
        top.text(span.start, place + 2, span.name, fontsize=8, va="bottom", parse_math=False)
    for axes in (top, below):
        for start, stop in frames_to_spans(kept, end):
            axes.axvspan(start, stop, color=PALETTE["audio"], alpha=0.25, lw=0)
    below.stairs(
        weights / np.abs(weights).mean(),
        np.linspace(0, end, len(weights) + 1),
        color=PALETTE["audio"],
    )
    top.set(ylabel="mel band", ylim=(0, len(mel)))
    below.set(xlabel="time (s)", ylabel="weight\n(mean: 1)", xlim=(0, end))
