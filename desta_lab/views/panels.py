"""Panels to ask, climb, listen and look around; plain ipywidgets, and a still of each stays where no widget runs.

A panel takes a job: any object with `corpus`, `clips(split)`, `tasks`, `llm` and `folder("self")`, as `Quickstart` has.
"""

import base64
import io
import itertools
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as w
import numpy as np
import pandas as pd
import soundfile
import torch
from IPython.display import HTML, display
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from torch import Tensor

from desta_lab import audio
from desta_lab.clips import Clip
from desta_lab.evaluation import controls, scoring
from desta_lab.evaluation.tasks import Task
from desta_lab.model import chat
from desta_lab.model.audio_llm import AudioLLM
from desta_lab.training import ladder
from desta_lab.views.figures import LOOKS, PALETTE, Picture
from desta_lab.world.describe import describe

Profile = Callable[[Clip, int | None, Task | None], np.ndarray]  # clip, query or task → a weight for every frame

VIEWS = {
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
_CELLS = 24  # the map's grid is this many cells wide and high, or more where there are many clips
_CELL = 22  # pixels
_WINDOW = 0.1  # seconds: the shortest sound worth hearing alone
_FADED = 0.04  # what is left of the rest: −28 dB
_TOKENS = 32  # of an answer
_WIDE = {"layout": {"width": "auto", "max_width": "56em"}, "style": {"description_width": "6em"}}


# ---- what the panels ask of the models ----


@dataclass(frozen=True)
class Reply:
    """An answer in the backbone's own words and, for a task of the ladder, the probability of every option."""

    text: str
    options: dict[str, float] = field(default_factory=dict)


@contextmanager
def standing(job: Any, step: int | None = None) -> Iterator[AudioLLM]:
    """The job's AudioLLM at one rung of its checkpoint ladder, by default the last, which is put back afterwards."""
    folder = job.folder("self") / "ladder"
    last = ladder.entries(folder)[-1]["step"]
    try:
        ladder.climb(folder, job.llm, last if step is None else step)
        yield job.llm
    finally:
        ladder.climb(folder, job.llm, last)


def hear(llm: AudioLLM, wave: Float[np.ndarray, "sample"]) -> Float[Tensor, "1 query d_llm"]:
    """Audio embeddings of one waveform under the connector as it is."""
    return controls.hear(llm, llm.encoder.hear([wave]).float())


def listening(llm: AudioLLM, spoken: Float[Tensor, "1 query d_llm"], question: str, task: Task | None = None) -> Reply:
    """The audio view of a question."""
    text = _answer(llm, chat.ask(question), spoken)
    with torch.no_grad():
        return Reply(text, _shares(task, scoring.rank(llm, [task], spoken)[0]) if task else {})


def reading(llm: AudioLLM, clip: Clip, question: str, task: Task | None = None) -> Reply:
    """The text view of a question; one about the topic reads a description that states it."""
    known = describe(clip.attributes, topic=task is not None and task.attribute == "topic")
    options = _shares(task, scoring.rank_text(llm.backbone, [task], [known])[0]) if task else {}
    return Reply(_answer(llm, chat.read(known, question), None), options)


def _answer(llm: AudioLLM, messages: Sequence[Any], spoken: Tensor | None) -> str:
    room = None if llm.backbone.positions is None else llm.backbone.positions - _TOKENS
    stream = chat.stream(llm.backbone.tokenizer, messages, llm.queries, max_tokens=room)
    return llm.backbone.text(llm.answer([stream], spoken, max_new_tokens=_TOKENS)[0])


def _shares(task: Task, scores: Float[Tensor, "1 option"]) -> dict[str, float]:
    return dict(zip(task.options, scores[0].softmax(-1).tolist(), strict=True))


def looking(job: Any, attention: Callable[[Any, Tensor], Any]) -> Profile:
    """A profile from `attention(connector, states)`, which gives a row of frames for every query of the one clip."""

    def profile(clip: Clip, query: int | None, task: Task | None) -> np.ndarray:
        if task is not None:
            raise ValueError("Query → time attention knows no question; choose a query token, or another profile.")
        with standing(job) as llm, torch.no_grad():
            rows = np.asarray(attention(llm.connector, llm.encoder.hear([_wave(job, clip)]).float()))
        rows = rows.reshape(-1, rows.shape[-1])
        return rows.mean(0) if query is None else rows[query]

    return profile


def strongest(weights: Float[np.ndarray, "frame"], seconds: float, share: float = 0.25) -> Bool[np.ndarray, "frame"]:
    """The share of frames around which most weight lies, averaged over windows of 0.1 s."""
    width = max(1, round(_WINDOW / seconds * len(weights)))
    dense = np.convolve(np.pad(weights, width, mode="edge"), np.full(width, 1 / width), "same")[width:-width]
    kept = np.zeros(len(weights), dtype=bool)
    kept[np.argsort(-dense, kind="stable")[: max(1, round(share * len(weights)))]] = True
    return kept


def alone(wave: Float[np.ndarray, "sample"], kept: Bool[np.ndarray, "frame"]) -> Float[np.ndarray, "sample"]:
    """A waveform with the kept frames as they are and the rest faded, over ramps of 10 ms."""
    frame = np.minimum(np.arange(len(wave)) * len(kept) // len(wave), len(kept) - 1)
    ramp = np.hanning(audio.HOP + 2)[1:-1]
    heard = np.convolve(np.pad(kept[frame].astype(float), audio.HOP, mode="edge"), ramp / ramp.sum(), "same")
    return (wave * (_FADED + (1 - _FADED) * heard[audio.HOP : -audio.HOP])).astype(np.float32)


def stretches(kept: Bool[np.ndarray, "frame"], seconds: float) -> list[tuple[float, float]]:
    """Begin and end, in seconds, of every run of kept frames."""
    edges = np.flatnonzero(np.diff(np.pad(kept.astype(int), 1))) * seconds / len(kept)
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


# ---- what every panel shares ----


class Panel:
    """Rows of widgets and a line that says what is going on; errors land there as sentences.

    Shown in a notebook it leaves two outputs: the live widgets, and a still of them as HTML, which follows every
    change, hides while the widgets live beside it, and is what remains in a saved page.

    Args:
        rows: the widgets from top to bottom; None is where the line stands.
        choices: those whose change calls `act`.
    """

    def __init__(self, rows: Sequence[Any], choices: Sequence[Any], act: Callable[[], None]) -> None:
        self.note = w.HTML(layout={"min_height": "28px"})  # a line's height: nothing jumps when it speaks
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
        plain = {"text/plain": f"{type(self).__name__}: a panel; where no widget runs, its still stands below."}
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
        return "".join(f"<div>{inner}</div>" for child in widget.children if (inner := _still(child)))
    if isinstance(widget, w.HTML):
        return str(widget.value)
    if isinstance(widget, w.Image):
        return _png(bytes(widget.value), widget.says) if widget.value else ""
    if isinstance(widget, w.Audio):
        data = base64.b64encode(widget.value).decode()
        return data and f'<audio controls src="data:audio/wav;base64,{data}"></audio>'
    chosen = getattr(widget, "label", None) or getattr(widget, "value", None)
    return f"{escape(widget.description)}: {escape(str(chosen))}" if chosen else ""


def _png(content: bytes, says: str) -> str:
    data = base64.b64encode(content).decode()
    return f'<img style="max-width: 100%" alt="{escape(says)}" src="data:image/png;base64,{data}">'


def sound(wave: Float[np.ndarray, "sample"]) -> bytes:
    """A waveform as the bytes of a WAV file."""
    file = io.BytesIO()
    soundfile.write(file, wave, audio.RATE, format="WAV")
    return file.getvalue()


def _wave(job: Any, clip: Clip) -> Float[np.ndarray, "sample"]:
    return audio.read(job.corpus.path(clip))


def _player(autoplay: bool = False) -> Any:
    return w.Audio(value=b"", format="wav", autoplay=autoplay, loop=False)


def _image(says: str) -> Any:
    """A picture that takes no room until it has one; `says` is for the still (`tooltip` breaks ipywidgets' Image)."""
    image = w.Image(value=b"", format="png", layout={"max_width": "100%", "object_fit": "contain", "display": "none"})
    image.says = says
    image.observe(lambda change: setattr(image.layout, "display", None if change.new else "none"), "value")
    return image


def _pick(name: str, options: Sequence[Any], index: int = 0) -> Any:
    return w.Dropdown(options=options, index=index, description=name, **_WIDE)


def _questions(tasks: Sequence[Task]) -> tuple[list[tuple[str, Task]], int]:
    """The ladder's tasks to pick from, and where the first question that was never trained stands."""
    names = [(f"rung {task.rung}: {task.question} [{task.attribute}]", task) for task in tasks]
    return names, next((i for i, task in enumerate(tasks) if task.rung == 3), 0)


def _attributes(job: Any, points: pd.DataFrame) -> list[str]:
    known = {name for clip in job.corpus.clips for name in clip.attributes}
    if names := [name for name in points.columns if name in known]:
        return names
    raise ValueError(f"The points have no column of an attribute ({', '.join(sorted(known))}); merge them in by clip.")


def _about(clip: Clip) -> str:
    return f"<b>{escape(clip.id)}</b> ({escape(clip.speaker)}): “{escape(clip.transcript)}”"


def _table(head: Sequence[str], *rows: Sequence[str]) -> str:
    cell = 'style="text-align: left; padding: .1em .8em; vertical-align: top; line-height: 1.5"'
    lines = ["".join(f"<{kind} {cell}>{escape(text)}</{kind}>" for text in row)
             for kind, row in [("th", head), *(("td", row) for row in rows)]]  # fmt: skip
    return f"<table><tr>{'</tr><tr>'.join(lines)}</tr></table>"


# ---- what they draw ----


def _picture(width: float, height: float) -> Picture:  # inches
    return Picture(figsize=(width, height), layout="constrained")


def _bars(axes: Axes, shares: Mapping[str, Mapping[str, float]], task: Task, right: str | None) -> None:
    """The probability of every option, a bar for each view; the right option wears a tick."""
    thick = min(0.3, 0.8 / len(shares))
    for i, (view, options) in enumerate(shares.items()):
        look: Any = {"color": PALETTE[view], "hatch": _HATCH.get(view), "edgecolor": "white", "label": VIEWS[view]}
        axes.barh(np.arange(len(options)) + (i - (len(shares) - 1) / 2) * thick, list(options.values()), thick, **look)
    ticks = [text.strip() + (" ✓" if value == right else "") for value, text in task.options.items()]
    axes.set_yticks(range(len(ticks)), ticks)
    axes.axvline(task.chance, color="#707070", ls=(0, (1, 1)), label="chance")
    axes.set(xlim=(0, 1), xlabel=f"probability after “{task.stem}”")
    axes.invert_yaxis()


def _rungs(axes: Axes, rows: pd.DataFrame) -> None:
    """The audio view's score of every rung as a bar with its interval, the controls as marks."""
    for view, some in rows.groupby("view"):
        colour, look = PALETTE[str(view)], LOOKS.get(str(view))
        if look:
            axes.plot(some["rung"], some["score"], ls="none", marker=look.marker, color=colour, label=look.label)
        else:
            reach = np.clip([some["score"] - some["low"], some["high"] - some["score"]], 0, None)
            axes.bar(some["rung"], some["score"], yerr=reach, color=colour, alpha=0.6, label=str(view))
    axes.axhline(0, color="#B0B0B0", lw=0.8)
    axes.set(xlabel="rung", ylabel="score (0: chance, 1: perfect)", ylim=(-0.5, 1.1), xlim=(-0.6, 5.6))
    axes.set_title("not measured at this step" if rows.empty else "score of every rung")


def _marks(values: Iterable[str]) -> dict[str, tuple[str, str]]:
    """A letter and a tint for every value: its initial where these differ, its number otherwise."""
    names = sorted(set(values))
    initials = [name[:1].lower() for name in names]
    letters = initials if len(set(initials)) == len(names) else map(str, range(len(names)))
    return dict(zip(names, zip(letters, itertools.cycle(TINTS), strict=False), strict=True))


def _scatter(axes: Axes, rows: pd.DataFrame, attribute: str, marks: Mapping[str, tuple[str, str]], clip: str) -> None:
    """The embedding map at one step, every point with the letter of its value; one clip is ringed."""
    for value, (letter, tint) in marks.items():
        some = rows[rows[attribute] == value]
        axes.scatter(some["x"], some["y"], s=110, color=tint, edgecolor="#555555", lw=0.5, label=f"{letter}: {value}")
        for x, y in zip(some["x"], some["y"], strict=True):
            axes.text(x, y, letter, ha="center", va="center_baseline", fontsize=8)
    ringed = rows[rows["clip"] == clip]
    axes.scatter(ringed["x"], ringed["y"], s=230, facecolor="none", edgecolor="black", lw=1.5)
    axes.set(xticks=[], yticks=[])


def _limits(values: pd.Series) -> tuple[float, float]:
    room = 0.08 * (values.max() - values.min()) or 1.0
    return float(values.min() - room), float(values.max() + room)


def _profile(picture: Picture, mel: np.ndarray, clip: Clip, weights: np.ndarray, kept: np.ndarray, end: float) -> None:
    """The spectrogram under its evidence spans, the weight of every frame below, the kept stretches in blue."""
    top, below = picture.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    top.imshow(mel, origin="lower", aspect="auto", cmap="Greys", extent=(0, end, 0, len(mel)))
    for i, span in enumerate(span for span in clip.spans if not span.name.startswith("word:")):
        place = len(mel) * (1.06 + 0.16 * i)
        top.plot([span.start, span.end], [place] * 2, lw=3, color="black", clip_on=False)
        top.text(span.start, place + 2, span.name, fontsize=8, va="bottom", parse_math=False)
    for axes in (top, below):
        for start, stop in stretches(kept, end):
            axes.axvspan(start, stop, color=PALETTE["audio"], alpha=0.25, lw=0)
    below.stairs(weights / np.abs(weights).mean(), np.linspace(0, end, len(weights) + 1), color=PALETTE["audio"])
    top.set(ylabel="mel band", ylim=(0, len(mel)))
    below.set(xlabel="time (s)", ylabel="weight\n(mean: 1)", xlim=(0, end))


# ---- the panels ----


class Ask(Panel):
    """Ask any question about a clip or an upload; see who answers what: the clip, the description, two controls."""

    def __init__(self, job: Any) -> None:
        self.job, self._clips = job, {clip.id: clip for clip in job.clips("test")}
        self._uploads: dict[str, np.ndarray] = {}
        questions, first = _questions(job.tasks)
        self.clip = _pick("clip", list(self._clips))
        self.upload = w.FileUpload(accept="audio/*", description="upload a sound", layout={"width": "auto"})
        hint = w.HTML(
            "<small>Your own voice: record it with a phone or a recorder and upload it as WAV, FLAC, OGG or MP3; "
            "a notebook's plain widgets cannot open the microphone.</small>"
        )
        self.player, self.known = _player(), w.HTML()
        self.task = _pick("ladder", [("(a question of your own)", None), *questions], first + 1)
        self.question = w.Text(description="question", **_WIDE)
        self.button = w.Button(description="Ask", button_style="primary")
        self.table, self.bars = w.HTML(), _image("Probability of every option under each view")
        chosen = [w.HBox([self.clip, self.upload]), hint, self.player, self.known]
        asked = [self.task, self.question, self.button, None, self.table, self.bars]
        super().__init__([*chosen, *asked], [self.clip, self.task], self._choose)
        self.upload.observe(lambda _: self._take(), "value")
        self.question.observe(lambda _: self._own(), "value")
        self.button.on_click(lambda _: self.press())

    def _choose(self) -> None:
        with self._working():
            clip = self._clips.get(self.clip.value)
            self.player.value = sound(self._wave())
            about = f"{_about(clip)} {escape(describe(clip.attributes))}" if clip else "Only its sound is known."
            self.known.value = f"<details><summary>what is known about it</summary>{about}</details>"
            if self.task.value is not None:
                self.question.value = self.task.value.question
            self.table.value, self.bars.value = "", b""

    def _own(self) -> None:
        """A question that was changed by hand is no task of the ladder any more."""
        if self.task.value is not None and self.question.value != self.task.value.question:
            self.task.value = None

    def _wave(self) -> np.ndarray:
        name = self.clip.value
        return self._uploads[name] if name in self._uploads else _wave(self.job, self._clips[name])

    def _take(self) -> None:
        """Hear an upload, once it is sound that can be heard, and choose it."""
        if not self.upload.value:
            return
        name, content = (self.upload.value[0][key] for key in ("name", "content"))
        self.upload.value = ()  # so that the same file can be chosen again
        with self._working(self.button):
            self._uploads[name] = _read(name, bytes(content))
            self.clip.options = [*self._clips, *self._uploads]
            self.clip.value = name
            heard, seconds = len(self._uploads[name]) / audio.RATE, self.job.llm.encoder.seconds
            if heard > seconds:
                self.note.value = f"{escape(name)} lasts {heard:.1f} s; the encoder hears its first {seconds:g} s."

    def press(self) -> None:
        """Ask the question under every view, and show the answers side by side."""
        with self._working(self.button):
            question, task, clip = self.question.value.strip(), self.task.value, self._clips.get(self.clip.value)
            if not question:
                raise ValueError("There is no question yet; write one, or choose one of the ladder.")
            replies = self._replies(question, task, clip)
            answers = {view: replies[view].text if view in replies else "(it has no description)" for view in VIEWS}
            rows = [(name, answers[view]) for view, name in VIEWS.items()]
            bars = self._draw(replies, task, clip) if task else b""
            self.table.value, self.bars.value = _table(("the model", f"answers “{question}”"), *rows), bars

    def _replies(self, question: str, task: Task | None, clip: Clip | None) -> dict[str, Reply]:
        wave = self._wave()
        with standing(self.job) as llm:
            replies = {"audio": listening(llm, hear(llm, wave), question, task)}
            replies |= {"oracle": reading(llm, clip, question, task)} if clip else {}
            replies["silence"] = listening(llm, hear(llm, np.zeros_like(wave)), question, task)
        with standing(self.job, 0) as llm:
            return replies | {"untrained": listening(llm, hear(llm, wave), question, task)}

    def _draw(self, replies: Mapping[str, Reply], task: Task, clip: Clip | None) -> bytes:
        picture = _picture(8.0, 1.6 + 0.5 * len(task.options))
        right = clip.attributes.get(task.attribute) if clip else None
        _bars(picture.subplots(), {view: reply.options for view, reply in replies.items()}, task, right)
        picture.legend(loc="outside lower center", ncols=2, frameon=False)
        return picture._repr_png_()


def _read(name: str, content: bytes) -> Float[np.ndarray, "sample"]:
    """The waveform of a file's bytes; an error names the file alone, not the folder it was put into."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(name).name
        path.write_bytes(content)
        try:
            return audio.read(path)
        except audio.AudioError as error:
            raise audio.AudioError(str(error).replace(f"{path}", path.name)) from error


class Ladder(Panel):
    """One slider over the checkpoints moves the embedding map, the rungs and one clip's answer together.

    Args:
        points: the map's table: step, method, seed, clip, x, y and a column for every attribute.
        rungs: scores as `emergence.per_rung` gives them: run, step, view, rung, score, low, high.
    """

    def __init__(self, job: Any, points: pd.DataFrame, rungs: pd.DataFrame) -> None:
        self.job, self._clips = job, {clip.id: clip for clip in job.clips("test")}
        self.points, self.rungs = points[points["seed"] == points["seed"].min()], rungs[rungs["run"] == "self"]
        self._replies: dict[tuple[int, str, str], Reply] = {}
        steps = [rung["step"] for rung in ladder.entries(job.folder("self") / "ladder")]
        self.step = w.SelectionSlider(
            options=steps, value=steps[-1], description="step", continuous_update=False, **_WIDE
        )
        self.clip, self.task = _pick("clip", list(self._clips)), _pick("question", *_questions(job.tasks))
        self.attribute = _pick("letters", _attributes(job, points))
        self.method = _pick("map", sorted(set(points["method"])))
        self.picture, self.words = _image("Embedding map, score of every rung, and one answer, at one step"), w.HTML()
        choices = [self.clip, self.task, self.attribute, self.method]
        super().__init__([self.step, None, self.picture, self.words, *choices], [self.step, *choices], self.move)

    def move(self) -> None:
        """Show everything at the chosen step."""
        with self._working():  # nothing is locked: a locked slider loses the keyboard
            clip, task, step = self._clips[self.clip.value], self.task.value, self.step.value
            key = step, clip.id, task.name
            if key not in self._replies:
                with standing(self.job, step) as llm:
                    self._replies[key] = listening(llm, hear(llm, _wave(self.job, clip)), task.question, task)
            picture = self._draw(step, clip, task, self._replies[key])
            answer = str(step), task.question, self._replies[key].text
            self.picture.value, self.words.value = picture, _table(("step", "question", "answer"), answer)

    def _draw(self, step: int, clip: Clip, task: Task, reply: Reply) -> bytes:
        picture = _picture(12.0, 4.2)
        left, middle, right = picture.subplots(1, 3, width_ratios=[1.2, 1, 1])
        every = self.points[self.points["method"] == self.method.value]
        rows, name = every[every["step"] == step], self.attribute.value
        left.set(xlim=_limits(every["x"]), ylim=_limits(every["y"]))  # the same at every step
        left.set_title(f"audio embeddings at step {step}" if len(rows) else f"no map at step {step}")
        _scatter(left, rows, name, _marks(every[name]), clip.id)
        _rungs(middle, self.rungs[self.rungs["step"] == step])
        _bars(right, {"audio": reply.options}, task, clip.attributes.get(task.attribute))
        right.set_title(f"{clip.id}: every option")
        for axes in (axes for axes in (left, middle) if axes.get_legend_handles_labels()[0]):
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False, fontsize=8)
        return picture._repr_png_()


class Listen(Panel):
    """Listen where it looks: the seconds that a query token or an answer rests on, seen, and heard alone.

    Args:
        profiles: by name, what weighs every frame of a clip: `looking(job, attention)`, or an attribution.
    """

    def __init__(self, job: Any, **profiles: Profile) -> None:
        self.job, self.profiles, self._clips = job, profiles, {clip.id: clip for clip in job.clips("test")}
        self._weights: dict[tuple[str, str, str], np.ndarray] = {}
        queries = [("all query tokens", None), *((f"query token {i}", i) for i in range(job.llm.queries))]
        asked = [(f"answer to {label}", task) for label, task in _questions(job.tasks)[0]]
        self.clip, self.query = _pick("clip", list(self._clips)), _pick("looks", [*queries, *asked])
        self.profile = _pick("by", list(profiles))
        self.share = w.FloatSlider(
            0.25, min=0.05, max=0.95, step=0.05, description="keep", readout_format=".0%", continuous_update=False,
            style={"description_width": "6em"},
        )  # fmt: skip
        self.picture, self.words = _image("Spectrogram with the seconds that carry most weight"), w.HTML()
        self.part, self.whole = _player(), _player()
        heard = [w.VBox([w.HTML(name), player]) for name, player in (("alone", self.part), ("whole", self.whole))]
        choices = [self.clip, self.query, self.profile, self.share]
        super().__init__([*choices, None, self.picture, self.words, w.HBox(heard)], choices, self.look)

    def look(self) -> None:
        """Show and cut out where the chosen profile has most of its weight."""
        with self._working(self.clip, self.query, self.profile):
            clip, encoder = self._clips[self.clip.value], self.job.llm.encoder
            wave = audio.fit(_wave(self.job, clip), encoder.seconds)
            self.whole.value, self.part.value, self.picture.value, self.words.value = sound(wave), b"", b"", ""
            weights = self._weigh(clip)
            above = weights.clip(min=0)  # an attribution may also speak against
            kept, picture = strongest(weights, encoder.seconds, self.share.value), _picture(9.0, 3.8)
            mel = audio.log_mel([wave], encoder.seconds, encoder.mels)[0].numpy()
            _profile(picture, mel, clip, weights, kept, encoder.seconds)
            self.part.value, self.picture.value = sound(alone(wave, kept)), picture._repr_png_()
            where = ", ".join(f"{start:.2f}–{end:.2f} s" for start, end in stretches(kept, encoder.seconds))
            self.words.value = f"{above[kept].sum() / (above.sum() or 1):.0%} of the weight lies in {where}."

    def _weigh(self, clip: Clip) -> np.ndarray:
        key, at = (self.profile.value, clip.id, self.query.label), self.query.value
        if key not in self._weights:
            query, task = (None, at) if isinstance(at, Task) else (at, None)
            self._weights[key] = np.asarray(self.profiles[self.profile.value](clip, query, task), dtype=float)
        return self._weights[key]


class Map(Panel):
    """The embedding map as buttons: press a point and hear its clip; the letter in it is its value of the attribute."""

    def __init__(self, job: Any, points: pd.DataFrame) -> None:
        self.job, self._clips, self.chosen = job, {clip.id: clip for clip in job.corpus.clips}, ""
        self.points, steps = points[points["seed"] == points["seed"].min()], sorted(set(points["step"]))
        self.method, self.step = _pick("map", sorted(set(points["method"]))), _pick("step", steps, len(steps) - 1)
        self.attribute = _pick("letters", _attributes(job, points))
        size = {"width": f"{_CELL}px", "height": f"{_CELL}px", "padding": "0", "margin": "0"}
        self.buttons = {clip: w.Button(layout=size) for clip in dict.fromkeys(points["clip"])}
        self.side = max(_CELLS, math.ceil((3 * len(self.buttons)) ** 0.5))
        tracks = f"repeat({self.side}, {_CELL}px)"
        frame = {"border": "1px solid #888", "width": "max-content", "overflow": "auto", "max_width": "100%"}
        grid = w.GridBox(
            list(self.buttons.values()), layout={"grid_template_columns": tracks, "grid_template_rows": tracks, **frame}
        )
        self.legend, self.words = w.HTML(), w.HTML("Press a point to hear its clip.")
        self.player = _player(autoplay=True)  # it follows a press, so no browser minds
        choices, wrap = [self.method, self.step, self.attribute], {"flex_flow": "row wrap"}
        beside = w.HBox([grid, w.VBox([self.player, self.words])], layout=wrap)
        super().__init__([w.HBox(choices, layout=wrap), self.legend, None, beside], choices, self.place)
        for clip, button in self.buttons.items():
            button.on_click(lambda _, clip=clip: self.hear(clip))

    @property
    def shown(self) -> pd.DataFrame:
        """The points of the chosen map and step."""
        return self.points[(self.points["method"] == self.method.value) & (self.points["step"] == self.step.value)]

    def place(self) -> None:
        """Put every button into the cell of its point, with the letter and tint of its value."""
        with self._working():
            rows, marks = self.shown, _marks(self.points[self.attribute.value])
            self.legend.value = " &nbsp; ".join(
                f'<span style="background: {tint}; color: black; padding: 0 .5em">{letter}</span> {escape(value)}'
                for value, (letter, tint) in marks.items()
            )
            places = dict(zip(rows["clip"], cells(rows, self.side), strict=True))
            values = dict(zip(rows["clip"], rows[self.attribute.value], strict=True))
            for clip, button in self.buttons.items():
                button.layout.display = None if clip in places else "none"
                if clip in places:
                    row, column = places[clip]
                    button.layout.grid_area = f"{row + 1} / {column + 1}"
                    button.description, button.style.button_color = marks[values[clip]]
                    button.tooltip = f"{clip}: {values[clip]}"

    def hear(self, clip: str) -> None:
        """Play one clip and say what is known about it."""
        with self._working():
            one = self._clips[clip]
            for name, button in self.buttons.items():
                button.layout.border = "2px solid black" if name == clip else None
            self.player.value, self.chosen = sound(_wave(self.job, one)), clip
            self.words.value = _about(one) + _table(("attribute", "value"), *one.attributes.items())

    def still(self) -> str:
        """The panel as it stands, with its map as one picture."""
        picture, name = _picture(6.0, 5.0), self.attribute.value
        axes = picture.subplots()
        _scatter(axes, self.shown, name, _marks(self.points[name]), self.chosen)
        return f"{super().still().removesuffix('</div>')}{_png(picture._repr_png_(), 'The embedding map')}</div>"


def cells(rows: pd.DataFrame, side: int) -> list[tuple[int, int]]:
    """(row, column) of every point on a square grid, y upwards; where a cell is taken, the nearest free one."""
    low, high = rows[["x", "y"]].min(), rows[["x", "y"]].max()
    flat = (rows[["x", "y"]] - low) / (high - low).replace(0, 1) * (side - 1)
    free, found = np.ones((side, side), dtype=bool), []
    for x, y in zip(flat["x"], side - 1 - flat["y"], strict=True):
        down, along = np.nonzero(free)
        nearest = ((down - y) ** 2 + (along - x) ** 2).argmin()
        found.append((int(down[nearest]), int(along[nearest])))
        free[found[-1]] = False
    return found
