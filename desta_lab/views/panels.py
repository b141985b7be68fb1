"""Panels to ask, climb, listen and look around; plain ipywidgets, and a still of each stays where no widget runs.

A panel takes a job: any object with `corpus`, `clips(split)`, `tasks`, `llm` and `run_folder("self")`, as `Experiment` has.
"""

import math
import tempfile
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as w
import numpy as np
import pandas as pd
from jaxtyping import Float

from desta_lab import audio
from desta_lab.clips import Clip
from desta_lab.evaluation.tasks import Task
from desta_lab.training import checkpoints
from desta_lab.views.panel import (
    CONDITIONS,
    WIDE,
    Panel,
    attributes_of,
    blank_picture,
    draw_bars,
    draw_map,
    draw_profile,
    draw_rungs,
    html_table,
    image,
    limits_of,
    marks_of,
    pick,
    player,
    png,
    questions_of,
    sound,
    words_about,
)
from desta_lab.views.replies import (
    Answer,
    Profile,
    answer_audio,
    answer_text,
    embed_audio,
    frames_to_spans,
    isolate_frames,
    read_wave,
    select_frames,
    use_checkpoint,
)
from desta_lab.world.describe import description_function

_CELLS = 24  # the map's grid is this many cells wide and high, or more where there are many clips
_CELL = 22  # pixels


class AskPanel(Panel):
    """Ask any question about a clip or an upload; see who answers what: the clip, the description, two controls."""

    def __init__(self, job: Any) -> None:
        self.job, self._clips = job, {clip.id: clip for clip in job.clips("test")}
        self._describe = description_function(job.corpus)
        self._uploads: dict[str, np.ndarray] = {}
        questions, first = questions_of(job.tasks)
        self.clip = pick("clip", list(self._clips))
        self.upload = w.FileUpload(
            accept="audio/*", description="upload a sound", layout={"width": "auto"}
        )
        hint = w.HTML(
            "<small>Your own voice: record it with a phone or a recorder and upload it as WAV, FLAC, OGG or MP3; "
            "a notebook's plain widgets cannot open the microphone.</small>"
        )
        self.player, self.known = player(), w.HTML()
        self.task = pick("ladder", [("(a question of your own)", None), *questions], first + 1)
        self.question = w.Text(description="question", **WIDE)
        self.button = w.Button(description="Ask", button_style="primary")
        self.table, self.bars = w.HTML(), image("Probability of every option under each condition")
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
            known = (
                f"{words_about(clip)} {escape(self._describe(clip.attributes))}"
                if clip
                else "Only its sound."
            )
            self.known.value = (
                f"<details><summary>what is known about it</summary>{known}</details>"
            )
            if self.task.value is not None:
                self.question.value = self.task.value.question
            self.table.value, self.bars.value = "", b""

    def _own(self) -> None:
        """A question that was changed by hand is no task of the ladder any more."""
        if self.task.value is not None and self.question.value != self.task.value.question:
            self.task.value = None

    def _wave(self) -> np.ndarray:
        name = self.clip.value
        return (
            self._uploads[name] if name in self._uploads else read_wave(self.job, self._clips[name])
        )

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
        """Ask the question under every condition, and show the answers side by side."""
        with self._working(self.button):
            question, task, clip = (
                self.question.value.strip(),
                self.task.value,
                self._clips.get(self.clip.value),
            )
            if not question:
                raise ValueError(
                    "There is no question yet; write one, or choose one of the ladder."
                )
            replies = self._replies(question, task, clip)
            answers = {
                condition: replies[condition].text
                if condition in replies
                else "(it has no description)"
                for condition in CONDITIONS
            }
            rows = [(name, answers[condition]) for condition, name in CONDITIONS.items()]
            bars = self._draw(replies, task, clip) if task else b""
            self.table.value, self.bars.value = (
                html_table(("the model", f"answers “{question}”"), *rows),
                bars,
            )

    def _replies(self, question: str, task: Task | None, clip: Clip | None) -> dict[str, Answer]:
        wave = self._wave()
        with use_checkpoint(self.job) as llm:
            replies = {"audio": answer_audio(llm, embed_audio(llm, wave), question, task)}
            replies |= (
                {"oracle": answer_text(llm, clip, question, task, self._describe)} if clip else {}
            )
            replies["silence"] = answer_audio(
                llm, embed_audio(llm, np.zeros_like(wave)), question, task
            )
        with use_checkpoint(self.job, 0) as llm:
            return replies | {
                "untrained": answer_audio(llm, embed_audio(llm, wave), question, task)
            }

    def _draw(self, replies: Mapping[str, Answer], task: Task, clip: Clip | None) -> bytes:
        picture = blank_picture(8.0, 1.6 + 0.5 * len(task.options))
        right = clip.attributes.get(task.attribute) if clip else None
        draw_bars(
            picture.subplots(),
            {condition: reply.options for condition, reply in replies.items()},
            task,
            right,
        )
        picture.legend(loc="outside lower center", ncols=2, frameon=False)
        return picture.png()


def _read(name: str, content: bytes) -> Float[np.ndarray, "sample"]:
    """The waveform of a file's bytes; an error names the file alone, not the folder it was put into."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(name).name
        path.write_bytes(content)
        try:
            return audio.read_audio(path)
        except audio.AudioError as error:
            raise audio.AudioError(str(error).replace(f"{path}", path.name)) from error


class CheckpointPanel(Panel):
    """One slider over the checkpoints moves the embedding map, the rungs and one clip's answer together.

    Args:
        points: the map's table: step, method, seed, clip, x, y and a column for every attribute.
        rungs: scores as `emergence.per_rung` gives them: run, step, condition, rung, score, low, high.
    """

    def __init__(self, job: Any, points: pd.DataFrame, rungs: pd.DataFrame) -> None:
        self.job, self._clips = job, {clip.id: clip for clip in job.clips("test")}
        self.points, self.rungs = (
            points[points["seed"] == points["seed"].min()],
            rungs[rungs["run"] == "self"],
        )
        self._replies: dict[tuple[int, str, str], Answer] = {}
        steps = [rung["step"] for rung in checkpoints.list_checkpoints(job.run_folder("self"))]
        self.step = w.SelectionSlider(
            options=steps, value=steps[-1], description="step", continuous_update=False, **WIDE
        )
        self.clip, self.task = (
            pick("clip", list(self._clips)),
            pick("question", *questions_of(job.tasks)),
        )
        self.attribute = pick("letters", attributes_of(job, points))
        self.method = pick("map", sorted(set(points["method"])))
        self.picture, self.words = (
            image("Embedding map, score of every rung, and one answer, at one step"),
            w.HTML(),
        )
        choices = [self.clip, self.task, self.attribute, self.method]
        super().__init__(
            [self.step, None, self.picture, self.words, *choices], [self.step, *choices], self.move
        )

    def move(self) -> None:
        """Show everything at the chosen step."""
        with self._working():  # nothing is locked: a locked slider loses the keyboard
            clip, task, step = self._clips[self.clip.value], self.task.value, self.step.value
            key = step, clip.id, task.name
            if key not in self._replies:
                with use_checkpoint(self.job, step) as llm:
                    self._replies[key] = answer_audio(
                        llm, embed_audio(llm, read_wave(self.job, clip)), task.question, task
                    )
            picture = self._draw(step, clip, task, self._replies[key])
            answer = str(step), task.question, self._replies[key].text
            self.picture.value, self.words.value = (
                picture,
                html_table(("step", "question", "answer"), answer),
            )

    def _draw(self, step: int, clip: Clip, task: Task, reply: Answer) -> bytes:
        picture = blank_picture(12.0, 4.2)
        left, middle, right = picture.subplots(1, 3, width_ratios=[1.2, 1, 1])
        every = self.points[self.points["method"] == self.method.value]
        rows, name = every[every["step"] == step], self.attribute.value
        left.set(xlim=limits_of(every["x"]), ylim=limits_of(every["y"]))  # the same at every step
        left.set_title(
            f"audio embeddings at step {step}" if len(rows) else f"no map at step {step}"
        )
        draw_map(left, rows, name, marks_of(every[name]), clip.id)
        draw_rungs(middle, self.rungs[self.rungs["step"] == step])
        draw_bars(right, {"audio": reply.options}, task, clip.attributes.get(task.attribute))
        right.set_title(f"{clip.id}: every option")
        for axes in (axes for axes in (left, middle) if axes.get_legend_handles_labels()[0]):
            axes.legend(
                loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False, fontsize=8
            )
        return picture.png()


class ListenPanel(Panel):
    """Listen where it looks: the seconds that a query token or an answer rests on, seen, and heard alone.

    Args:
        profiles: by name, what weighs every frame of a clip: `looking(job, attention)`, or an attribution.
    """

    def __init__(self, job: Any, **profiles: Profile) -> None:
        self.job, self.profiles, self._clips = (
            job,
            profiles,
            {clip.id: clip for clip in job.clips("test")},
        )
        self._weights: dict[tuple[str, str, str], np.ndarray] = {}
        queries = [
            ("all query tokens", None),
            *((f"query token {i}", i) for i in range(job.llm.queries)),
        ]
        asked = [(f"answer to {label}", task) for label, task in questions_of(job.tasks)[0]]
        self.clip, self.query = pick("clip", list(self._clips)), pick("looks", [*queries, *asked])
        self.profile = pick("by", list(profiles))
        self.share = w.FloatSlider(
            0.25,
            min=0.05,
            max=0.95,
            step=0.05,
            description="keep",
            readout_format=".0%",
            continuous_update=False,
            style={"description_width": "6em"},
        )
        self.picture, self.words = (
            image("Spectrogram with the seconds that carry most weight"),
            w.HTML(),
        )
        self.part, self.whole = player(), player()
        heard = [
            w.VBox([w.HTML(name), player])
            for name, player in (("alone", self.part), ("whole", self.whole))
        ]
        choices = [self.clip, self.query, self.profile, self.share]
        super().__init__(
            [*choices, None, self.picture, self.words, w.HBox(heard)], choices, self.look
        )

    def look(self) -> None:
        """Show and cut out where the chosen profile has most of its weight."""
        with self._working(self.clip, self.query, self.profile):
            clip, encoder = self._clips[self.clip.value], self.job.llm.encoder
            wave = audio.crop_or_pad(read_wave(self.job, clip), encoder.seconds)
            self.whole.value, self.part.value, self.picture.value, self.words.value = (
                sound(wave),
                b"",
                b"",
                "",
            )
            weights = self._weigh(clip)
            above = weights.clip(min=0)  # an attribution may also speak against
            kept, picture = (
                select_frames(weights, encoder.seconds, self.share.value),
                blank_picture(9.0, 3.8),
            )
            mel = audio.log_mel([wave], encoder.seconds, encoder.mel_bins)[0].numpy()
            draw_profile(picture, mel, clip, weights, kept, encoder.seconds)
            self.part.value, self.picture.value = sound(isolate_frames(wave, kept)), picture.png()
            where = ", ".join(
                f"{start:.2f}–{end:.2f} s" for start, end in frames_to_spans(kept, encoder.seconds)
            )
            self.words.value = (
                f"{above[kept].sum() / (above.sum() or 1):.0%} of the weight lies in {where}."
            )

    def _weigh(self, clip: Clip) -> np.ndarray:
        key, at = (self.profile.value, clip.id, self.query.label), self.query.value
        if key not in self._weights:
            query, task = (None, at) if isinstance(at, Task) else (at, None)
            self._weights[key] = np.asarray(
                self.profiles[self.profile.value](clip, query, task), dtype=float
            )
        return self._weights[key]


class MapPanel(Panel):
    """The embedding map as buttons: press a point and hear its clip; the letter in it is its value of the attribute."""

    def __init__(self, job: Any, points: pd.DataFrame) -> None:
        self.job, self._clips, self.chosen = job, {clip.id: clip for clip in job.corpus.clips}, ""
        self.points, steps = (
            points[points["seed"] == points["seed"].min()],
            sorted(set(points["step"])),
        )
        self.method, self.step = (
            pick("map", sorted(set(points["method"]))),
            pick("step", steps, len(steps) - 1),
        )
        self.attribute = pick("letters", attributes_of(job, points))
        size = {"width": f"{_CELL}px", "height": f"{_CELL}px", "padding": "0", "margin": "0"}
        self.buttons = {clip: w.Button(layout=size) for clip in dict.fromkeys(points["clip"])}
        self.side = max(_CELLS, math.ceil((3 * len(self.buttons)) ** 0.5))
        tracks = f"repeat({self.side}, {_CELL}px)"
        frame = {
            "border": "1px solid #888",
            "width": "max-content",
            "overflow": "auto",
            "max_width": "100%",
        }
        grid = w.GridBox(
            list(self.buttons.values()),
            layout={"grid_template_columns": tracks, "grid_template_rows": tracks, **frame},
        )
        self.legend, self.words = w.HTML(), w.HTML("Press a point to hear its clip.")
        self.player = player(autoplay=True)  # it follows a press, so no browser minds
        choices, wrap = [self.method, self.step, self.attribute], {"flex_flow": "row wrap"}
        beside = w.HBox([grid, w.VBox([self.player, self.words])], layout=wrap)
        super().__init__(
            [w.HBox(choices, layout=wrap), self.legend, None, beside], choices, self.place
        )
        for clip, button in self.buttons.items():
            button.on_click(lambda _, clip=clip: self.hear(clip))

    @property
    def shown(self) -> pd.DataFrame:
        """The points of the chosen map and step."""
        return self.points[
            (self.points["method"] == self.method.value) & (self.points["step"] == self.step.value)
        ]

    def place(self) -> None:
        """Put every button into the cell of its point, with the letter and tint of its value."""
        with self._working():
            rows, marks = self.shown, marks_of(self.points[self.attribute.value])
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
            self.player.value, self.chosen = sound(read_wave(self.job, one)), clip
            self.words.value = words_about(one) + html_table(
                ("attribute", "value"), *one.attributes.items()
            )

    def still(self) -> str:
        """The panel as it stands, with its map as one picture."""
        picture, name = blank_picture(6.0, 5.0), self.attribute.value
        axes = picture.subplots()
        draw_map(axes, self.shown, name, marks_of(self.points[name]), self.chosen)
        return f"{super().still().removesuffix('</div>')}{png(picture.png(), 'The embedding map')}</div>"


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
