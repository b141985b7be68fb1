"""Panels to ask about clips, follow training, hear what matters, walk maps, browse features.

They are plain ipywidgets, and a still of each remains where no widget runs. A panel takes an
experiment: any object with `corpus`, `clips(split)`, `tasks`, `describe`, `llm`,
`preset.transcript` and `run_folder("self")`, as `Experiment` has.
"""

import math
import tempfile
from collections.abc import Mapping
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
from desta_lab.views import panel_base, panel_figures, replies
from desta_lab.views.panel_base import (
    WIDE,
    Panel,
    encode_wav,
    fill_html,
    make_dropdown,
    make_image,
    make_player,
    table_html,
    take_upload,
)
from desta_lab.views.panel_figures import CONDITIONS
from desta_lab.views.replies import Answer
from desta_lab.views.saving import Picture

_CELLS = 24  # the map's grid is this many cells wide and high, or more where there are many clips
_CELL = 22  # pixels
_MOST_LIT = 3  # clips that light a feature most
_UPLOAD_HINT = (
    "<small>Your own voice: record it with a phone or a recorder and upload it as WAV, FLAC, OGG "
    "or MP3; a notebook's plain widgets cannot open the microphone.</small>"
)


class AskPanel(Panel):
    """Ask any question about a clip or an upload; every condition answers side by side."""

    def __init__(self, experiment: Any) -> None:
        self.experiment = experiment
        self._clips = {clip.id: clip for clip in experiment.clips("test")}
        self._uploads: dict[str, np.ndarray] = {}
        questions, first = panel_base.list_questions(experiment.tasks)
        tasks = [("(a question of your own)", None), *questions]
        self.clip = make_dropdown("clip", list(self._clips))
        self.task = make_dropdown("ladder", tasks, first + 1)
        look: Any = {"description": "upload a sound", "layout": {"width": "auto"}}
        self.upload = w.FileUpload(accept="audio/*", **look)
        self.player, self.known, self.table = make_player(), w.HTML(), w.HTML()
        self.question = w.Text(description="question", **WIDE)
        self.button = w.Button(description="Ask", button_style="primary")
        self.bars = make_image("Probability of every option under each condition")
        sound = [w.HBox([self.clip, self.upload]), w.HTML(_UPLOAD_HINT), self.player, self.known]
        rows = [*sound, self.task, self.question, self.button, None, self.table, self.bars]
        super().__init__(rows, [self.clip, self.task])
        self.upload.observe(lambda _: self._add_upload(), "value")
        self.question.observe(lambda _: self._leave_task(), "value")
        self.button.on_click(lambda _: self.ask())

    def update(self) -> None:
        """Show the chosen clip and question, without an answer."""
        with self._working():
            clip = self._clips.get(self.clip.value)
            self.player.value = encode_wav(self._read_wave())
            known = "Only its sound."
            if clip:
                known = panel_base.clip_html(clip, self.experiment.describe(clip.attributes))
            summary = "<summary>what is known about it</summary>"
            self.known.value = f"<details>{summary}{known}</details>"
            if self.task.value is not None:
                self.question.value = self.task.value.question
            self.table.value, self.bars.value = "", b""

    def ask(self) -> None:
        """Ask the question under every condition, and show the answers side by side."""
        with self._working(self.button):
            question, task = self.question.value.strip(), self.task.value
            clip = self._clips.get(self.clip.value)
            if not question:
                raise ValueError("There is no question yet; write or choose one.")
            answers = self._answer(question, task, clip)
            nothing = Answer("(it has no description)")
            rows = [(name, answers.get(key, nothing).text) for key, name in CONDITIONS.items()]
            self.bars.value = self._draw(answers, task, clip) if task else b""
            self.table.value = table_html(("the model", f"answers “{question}”"), *rows)

    def _answer(self, question: str, task: Task | None, clip: Clip | None) -> dict[str, Answer]:
        wave = self._read_wave()
        asked = question, task, replies.find_words(self.experiment, wave, clip)
        answers: dict[str, Answer] = {}
        with replies.use_checkpoint(self.experiment) as llm:
            answers["audio"] = replies.answer_audio(llm, replies.embed_audio(llm, wave), *asked)
            if clip:
                describe = self.experiment.describe
                answers["oracle"] = replies.answer_text(llm, clip, question, task, describe)
            silence = replies.embed_audio(llm, np.zeros_like(wave))
            answers["silence"] = replies.answer_audio(llm, silence, question, task)
        with replies.use_checkpoint(self.experiment, 0) as llm:
            answers["untrained"] = replies.answer_audio(llm, replies.embed_audio(llm, wave), *asked)
        return answers

    def _draw(self, answers: Mapping[str, Answer], task: Task, clip: Clip | None) -> bytes:
        picture = Picture(size=(8.0, 1.6 + 0.5 * len(task.options)))
        right = clip.attributes.get(task.attribute) if clip else None
        shares = {condition: answer.options for condition, answer in answers.items()}
        panel_figures.draw_options(picture.subplots(), shares, task, right)
        picture.legend(loc="outside lower center", ncols=2, frameon=False)
        return picture.png()

    def _leave_task(self) -> None:
        """A question that was changed by hand is no task of the ladder any more."""
        if self.task.value is not None and self.question.value != self.task.value.question:
            self.task.value = None

    def _read_wave(self) -> np.ndarray:
        if self.clip.value in self._uploads:
            return self._uploads[self.clip.value]
        return replies.read_wave(self.experiment, self._clips[self.clip.value])

    def _add_upload(self) -> None:
        """Decode an upload and choose it; bad audio becomes a note."""
        if (given := take_upload(self.upload)) is None:
            return
        name, content = given
        with self._working(self.button):
            self._uploads[name] = wave = _decode(name, content)
            self.clip.options = [*self._clips, *self._uploads]
            self.clip.value = name
            length = len(wave) / audio.RATE
            limit = self.experiment.llm.encoder.seconds
            if length > limit:
                lasts = f"lasts {length:.1f} s; the encoder hears its first {limit:g} s."
                self.note.value = fill_html("{} {}", name, lasts)


def _decode(name: str, content: bytes) -> Float[np.ndarray, "sample"]:
    """The waveform of a file's bytes; an error names the file alone, without its folder."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(name).name
        path.write_bytes(content)
        try:
            return audio.read_audio(path)
        except audio.AudioError as error:
            raise audio.AudioError(str(error).replace(f"{path}", path.name)) from error


class CheckpointPanel(Panel):
    """One slider over the checkpoints moves the embedding map, the rungs and one clip's answer.

    Args:
        points: The map's table: step, method, seed, clip, x, y and a column for every attribute.
        rungs: Scores of every rung: run, step, condition, rung, score, low, high.
    """

    def __init__(self, experiment: Any, points: pd.DataFrame, rungs: pd.DataFrame) -> None:
        self.experiment = experiment
        self._clips = {clip.id: clip for clip in experiment.clips("test")}
        self.points = points[points["seed"] == points["seed"].min()]
        self.rungs = rungs[rungs["run"] == "self"]
        self._answers: dict[tuple[int, str, str], Answer] = {}
        listed = checkpoints.list_checkpoints(experiment.run_folder("self"))
        steps = [checkpoint["step"] for checkpoint in listed]
        slider: Any = {"description": "step", "continuous_update": False, **WIDE}
        self.step = w.SelectionSlider(options=steps, value=steps[-1], **slider)
        self.clip = make_dropdown("clip", list(self._clips))
        self.task = make_dropdown("question", *panel_base.list_questions(experiment.tasks))
        self.attribute = make_dropdown("letters", panel_base.list_attributes(experiment, points))
        self.method = make_dropdown("map", sorted(set(points["method"])))
        text = "Embedding map, score of every rung, and one answer, at one step"
        self.picture, self.words = make_image(text), w.HTML()
        choices = [self.clip, self.task, self.attribute, self.method]
        rows = [self.step, None, self.picture, self.words, *choices]
        super().__init__(rows, [self.step, *choices])

    def update(self) -> None:
        """Show everything at the chosen step."""
        with self._working():  # nothing is locked: a locked slider loses the keyboard
            clip, task, step = self._clips[self.clip.value], self.task.value, self.step.value
            answer = self._answer(step, clip, task)
            self.picture.value = self._draw(step, clip, task, answer)
            row = (str(step), task.question, answer.text)
            self.words.value = table_html(("step", "question", "answer"), row)

    def _answer(self, step: int, clip: Clip, task: Task) -> Answer:
        key = step, clip.id, task.name
        if key not in self._answers:
            wave = replies.read_wave(self.experiment, clip)
            asked = task.question, task, replies.find_words(self.experiment, wave, clip)
            with replies.use_checkpoint(self.experiment, step) as llm:
                heard = replies.embed_audio(llm, wave)
                self._answers[key] = replies.answer_audio(llm, heard, *asked)
        return self._answers[key]

    def _draw(self, step: int, clip: Clip, task: Task, answer: Answer) -> bytes:
        picture = Picture(size=(12.0, 4.2))
        left, middle, right = picture.subplots(1, 3, width_ratios=[1.2, 1, 1])
        points = self.points[self.points["method"] == self.method.value]
        rows, name = points[points["step"] == step], self.attribute.value
        left.update_datalim(points[["x", "y"]])  # the same at every step
        left.margins(0.08)
        title = f"audio embeddings at step {step}" if len(rows) else f"no map at step {step}"
        left.set_title(title)
        marks = panel_figures.letter_values(points[name])
        panel_figures.draw_map(left, rows, name, marks, clip.id)
        panel_figures.draw_rungs(middle, self.rungs[self.rungs["step"] == step])
        value = clip.attributes.get(task.attribute)
        panel_figures.draw_options(right, {"audio": answer.options}, task, value)
        right.set_title(f"{clip.id}: every option")
        below: Any = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.14), "fontsize": 8}
        for axes in (left, middle):
            if axes.get_legend_handles_labels()[0]:
                axes.legend(ncols=2, frameon=False, **below)
        return picture.png()


class ListenPanel(Panel):
    """See the seconds that a query token or an answer rests on, and hear them alone.

    Args:
        profiles: By name, what weighs every frame of a clip: `make_attention_profile(…)`, or an
            attribution.
    """

    def __init__(self, experiment: Any, **profiles: replies.Profile) -> None:
        self.experiment, self.profiles = experiment, profiles
        self._clips = {clip.id: clip for clip in experiment.clips("test")}
        self._weights: dict[tuple[str, str, str], np.ndarray] = {}
        self.clip = make_dropdown("clip", list(self._clips))
        self.query = make_dropdown("looks", self._list_queries())
        self.profile = make_dropdown("by", list(profiles))
        slider: Any = {"min": 0.05, "max": 0.95, "step": 0.05, "readout_format": ".0%"}
        slider |= {"continuous_update": False, "style": WIDE["style"]}
        self.share = w.FloatSlider(0.25, description="keep", **slider)
        self.picture = make_image("Spectrogram with the seconds that carry most weight")
        self.words, self.part, self.whole = w.HTML(), make_player(), make_player()
        players = [w.VBox([w.HTML("alone"), self.part]), w.VBox([w.HTML("whole"), self.whole])]
        choices = [self.clip, self.query, self.profile, self.share]
        rows = [*choices, None, self.picture, self.words, w.HBox(players)]
        super().__init__(rows, choices)

    def _list_queries(self) -> list[tuple[str, Any]]:
        queries = [(f"query token {i}", i) for i in range(self.experiment.llm.queries)]
        questions, _ = panel_base.list_questions(self.experiment.tasks)
        asked = [(f"answer to {label}", task) for label, task in questions]
        return [("all query tokens", None), *queries, *asked]

    def update(self) -> None:
        """Show and cut out where the chosen profile has most of its weight."""
        with self._working(self.clip, self.query, self.profile):
            clip, encoder = self._clips[self.clip.value], self.experiment.llm.encoder
            wave = audio.crop_or_pad(replies.read_wave(self.experiment, clip), encoder.seconds)
            self.whole.value, self.part.value = encode_wav(wave), b""
            self.picture.value, self.words.value = b"", ""
            weights = self._weigh(clip)
            chosen = replies.select_frames(weights, encoder.seconds, self.share.value)
            spans = replies.frames_to_spans(chosen, encoder.seconds)
            mel = audio.log_mel([wave], encoder.seconds, encoder.mel_bins)[0].numpy()
            picture = panel_figures.plot_weights(mel, clip, weights, spans, encoder.seconds)
            self.part.value = encode_wav(replies.isolate_frames(wave, chosen))
            self.picture.value = picture.png()
            above = weights.clip(min=0)  # an attribution may also speak against
            share = above[chosen].sum() / (above.sum() or 1)
            where = ", ".join(f"{start:.2f}–{end:.2f} s" for start, end in spans)
            self.words.value = f"{share:.0%} of the weight lies in {where}."

    def _weigh(self, clip: Clip) -> np.ndarray:
        key, chosen = (self.profile.value, clip.id, self.query.label), self.query.value
        if key not in self._weights:
            query, task = (None, chosen) if isinstance(chosen, Task) else (chosen, None)
            weights = self.profiles[self.profile.value](clip, query, task)
            self._weights[key] = np.asarray(weights, dtype=float)
        return self._weights[key]


class MapPanel(Panel):
    """The embedding map as buttons: a press plays the clip of a point.

    The letter in a button is the clip's value of the chosen attribute. `points` has step, method,
    seed, clip, x, y and a column for every attribute.
    """

    def __init__(self, experiment: Any, points: pd.DataFrame) -> None:
        self.experiment, self.chosen = experiment, ""
        self._clips = {clip.id: clip for clip in experiment.corpus.clips}
        self.points = points[points["seed"] == points["seed"].min()]
        steps = sorted(set(points["step"]))
        self.method = make_dropdown("map", sorted(set(points["method"])))
        self.step = make_dropdown("step", steps, len(steps) - 1)
        self.attribute = make_dropdown("letters", panel_base.list_attributes(experiment, points))
        size = {"width": f"{_CELL}px", "height": f"{_CELL}px", "padding": "0", "margin": "0"}
        # a line of JupyterLab's buttons is higher than a cell
        size |= {"display": "flex", "align_items": "center", "justify_content": "center"}
        self.buttons = {clip: w.Button(layout=size) for clip in dict.fromkeys(points["clip"])}
        self.side = max(_CELLS, math.ceil((3 * len(self.buttons)) ** 0.5))
        self.legend, self.words = w.HTML(), w.HTML("Press a point to hear its clip.")
        self.player = make_player(autoplay=True)  # it follows a press, so no browser minds
        choices, wrap = [self.method, self.step, self.attribute], {"flex_flow": "row wrap"}
        tracks = f"repeat({self.side}, {_CELL}px)"
        layout = {"grid_template_columns": tracks, "grid_template_rows": tracks}
        layout |= {"border": "1px solid #888", "overflow": "auto"}
        layout |= {"width": "max-content", "max_width": "100%"}
        grid = w.GridBox(list(self.buttons.values()), layout=layout)
        beside = w.HBox([grid, w.VBox([self.player, self.words])], layout=wrap)
        rows = [w.HBox(choices, layout=wrap), self.legend, None, beside]
        super().__init__(rows, choices)
        for clip, button in self.buttons.items():
            button.on_click(lambda _, clip=clip: self.play(clip))

    def _select_points(self) -> pd.DataFrame:
        """The points of the chosen map and step."""
        points = self.points[self.points["method"] == self.method.value]
        return points[points["step"] == self.step.value]

    def update(self) -> None:
        """Put every button into the cell of its point, with the letter and tint of its value."""
        with self._working():
            name = self.attribute.value
            rows, marks = self._select_points(), panel_figures.letter_values(self.points[name])
            tag = '<span style="background: {}; color: black; padding: 0 .5em">{}</span> {}'
            self.legend.value = " &nbsp; ".join(
                fill_html(tag, tint, letter, value) for value, (letter, tint) in marks.items()
            )
            places = dict(zip(rows["clip"], find_cells(rows, self.side), strict=True))
            values = dict(zip(rows["clip"], rows[name], strict=True))
            for clip, button in self.buttons.items():
                button.layout.display = "flex" if clip in places else "none"
                if clip in places:
                    row, column = places[clip]
                    button.layout.grid_area = f"{row + 1} / {column + 1}"
                    button.description, button.style.button_color = marks[values[clip]]
                    button.tooltip = f"{clip}: {values[clip]}"

    def play(self, clip_id: str) -> None:
        """Play one clip and show what is known about it."""
        with self._working():
            clip = self._clips[clip_id]
            for name, button in self.buttons.items():
                button.layout.border = "2px solid black" if name == clip_id else None
            self.chosen = clip_id
            self.player.value = encode_wav(replies.read_wave(self.experiment, clip))
            known = table_html(("attribute", "value"), *clip.attributes.items())
            self.words.value = panel_base.clip_html(clip) + known

    def still(self) -> str:
        """The panel as it is now, with its map as one picture."""
        picture, name = Picture(size=(6.0, 5.0)), self.attribute.value
        marks = panel_figures.letter_values(self.points[name])
        rows = self._select_points()
        panel_figures.draw_map(picture.subplots(), rows, name, marks, self.chosen)
        image = panel_base.image_html(picture.png(), "The embedding map")
        return f"{super().still().removesuffix('</div>')}{image}</div>"


class FeaturePanel(Panel):
    """Browse sparse features: how much of one is in clips of each value, and the clips most lit.

    Args:
        look: an `Inside`, whose table `sparse_features` is found or computed. The features that
            are purer than under shuffled labels can be chosen, the purest first.
    """

    def __init__(self, look: Any) -> None:
        table = look.table("sparse_features")
        above = (table["purity"] - table["null"]).sort_values(ascending=False)
        rows = table.loc[above.index[: max(1, (above > 0).sum())]]
        self.look = look
        self._lit: dict[str, np.ndarray] = {}
        names = [
            (f"{row.site} {row.feature} · {row.attribute}: {row.value} ({row.purity:.2f})", row)
            for row in rows.itertuples()
        ]
        self.feature = make_dropdown("feature", names)
        self.attribute = make_dropdown("by", ["its own attribute", *look.labels])
        self.picture = make_image("Activation by value, and the clips that light it most")
        self.players = [make_player() for _ in range(_MOST_LIT)]
        choices = [self.feature, self.attribute]
        super().__init__([*choices, None, self.picture, w.HBox(self.players)], choices)

    def update(self) -> None:
        """Show the chosen feature."""
        with self._working():
            look, chosen, name = self.look, self.feature.value, self.attribute.value
            name = name if name in look.labels else chosen.attribute
            rows, lit = look.scored, self._activations(chosen.site)[:, chosen.feature]
            most = [rows[i] for i in np.argsort(-lit, kind="stable")[:_MOST_LIT]]
            encoder, waves = look.llm.encoder, look.read_waves(most)
            mels = audio.log_mel(waves, encoder.seconds, encoder.mel_bins)
            heard = {
                f"{look.clips[row].id}: {look.values(name, [row])[0]}": mel.numpy()
                for row, mel in zip(most, mels, strict=True)
            }
            values = look.values(name, rows)
            picture = panel_figures.plot_feature(lit, values, heard, encoder.seconds)
            self.picture.value = picture.png()
            for player, wave in zip(self.players, waves, strict=False):
                player.value = encode_wav(wave)

    def _activations(self, site: str) -> Float[np.ndarray, "clip feature"]:
        """The largest activation in each scored clip."""
        if site not in self._lit:
            vectors = self.look.slot_vectors(site)[self.look.scored]
            self._lit[site] = self.look.dictionary(site).encode(vectors).amax(1).numpy()
        return self._lit[site]


def find_cells(rows: pd.DataFrame, side: int) -> list[tuple[int, int]]:
    """(row, column) of every point on a square grid, y upwards; the nearest cell that is free."""
    low, high = rows[["x", "y"]].min(), rows[["x", "y"]].max()
    flat = (rows[["x", "y"]] - low) / (high - low).replace(0, 1) * (side - 1)
    free, found = np.ones((side, side), dtype=bool), []
    for x, y in zip(flat["x"], side - 1 - flat["y"], strict=True):
        down, along = np.nonzero(free)
        nearest = ((down - y) ** 2 + (along - x) ** 2).argmin()
        found.append((int(down[nearest]), int(along[nearest])))
        free[found[-1]] = False
    return found
