"""What every panel shares: the box and its still, the small widgets, HTML and players of clips."""

import base64
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any

import ipywidgets as w
import jinja2
import numpy as np
import pandas as pd
import soundfile
from IPython.display import HTML, Audio, display
from jaxtyping import Float

from desta_lab import audio
from desta_lab.clips import Clip, Corpus
from desta_lab.evaluation.tasks import Task
from desta_lab.world.describe import description_function

WIDE: Any = {
    "layout": {"width": "auto", "max_width": "56em"},
    "style": {"description_width": "6em"},
}

_WORKING = "<em>working…</em>"
_TABLE = """
{%- set look = "text-align: left; padding: .1em .8em; vertical-align: top; line-height: 1.5" -%}
<table><tr>{% for text in head %}<th style="{{ look }}">{{ text }}</th>{% endfor %}</tr>
{%- for row in rows -%}
<tr>{% for text in row %}<td style="{{ look }}">{{ text }}</td>{% endfor %}</tr>
{%- endfor %}</table>"""


class Panel:
    """Rows of widgets and a line for notes and errors.

    Shown in a notebook a panel leaves two outputs: the live widgets, and a still of them as HTML.
    The still follows every change, hides while the widgets live beside it, and remains in a saved
    page.

    Args:
        rows: The widgets from top to bottom; None is the place of the line.
        choices: The widgets whose change calls `update`.
    """

    def __init__(self, rows: Sequence[Any], choices: Sequence[Any]) -> None:
        self.note = w.HTML(layout={"min_height": "28px"})  # a line's height: nothing jumps
        self.box = w.VBox([self.note if row is None else row for row in rows])
        self._name = f"desta-{type(self).__name__.lower()}-{self.box.model_id}"
        self._shown: Any = None
        self.box.add_class(self._name)
        for choice in choices:
            choice.observe(lambda _: self.update(), "value")
        self.update()

    def update(self) -> None:
        """Show what is chosen."""
        raise NotImplementedError

    def still(self) -> str:
        """The panel as it is now, as HTML without any widget."""
        hide = f"<style>body:has(.{self._name}) .{self._name}-still {{ display: none }}</style>"
        return f'{hide}<div class="{self._name}-still">{_render_still(self.box)}</div>'

    def _ipython_display_(self) -> None:
        text = f"{type(self).__name__}: a panel; where no widget runs, its still stands below."
        view = {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}
        display({"application/vnd.jupyter.widget-view+json": view, "text/plain": text}, raw=True)
        self._shown = display(HTML(self.still()), display_id=True)

    @contextmanager
    def _working(self, *locked: Any) -> Iterator[None]:
        """Note the work, lock what would start it again, and turn an error into a sentence."""
        self.note.value = _WORKING
        for widget in locked:
            widget.disabled = True
        try:
            yield
            self.note.value = self.note.value.replace(_WORKING, "")
        except Exception as error:  # whatever it is: a callback that raises is silent
            kind = "" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: "
            self.note.value = fill_html('<span role="alert">⚠ {}</span>', f"{kind}{error}")
        finally:
            for widget in locked:
                widget.disabled = False
            if self._shown is not None:
                self._shown.update(HTML(self.still()))


def _render_still(widget: Any) -> str:
    """A widget, and all that is in it, as HTML."""
    if isinstance(widget, w.Box):
        inner = map(_render_still, widget.children)
        return "".join(f"<div>{html}</div>" for html in inner if html)
    if isinstance(widget, w.HTML):
        return str(widget.value)
    if isinstance(widget, w.Image):
        return image_html(bytes(widget.value), widget.text) if widget.value else ""
    if isinstance(widget, w.Audio):
        data = base64.b64encode(widget.value).decode()
        return data and f'<audio controls src="data:audio/wav;base64,{data}"></audio>'
    chosen = getattr(widget, "label", None) or getattr(widget, "value", None)
    return fill_html("{}: {}", widget.description, chosen) if chosen else ""


# ---- widgets ----


def make_player(autoplay: bool = False) -> Any:
    """An empty player; `autoplay` for one that follows a press."""
    return w.Audio(value=b"", format="wav", autoplay=autoplay, loop=False)


def make_image(text: str) -> Any:
    """A picture that takes no room until it has one; `text` describes it in the still."""
    image = w.Image(value=b"", format="png", layout={"max_width": "100%", "object_fit": "contain"})
    image.text = text  # `tooltip` breaks the Image of ipywidgets
    w.dlink((image, "value"), (image.layout, "display"), lambda png: None if png else "none")
    return image


def take_upload(upload: Any) -> tuple[str, bytes] | None:
    """Name and content of what was uploaded, if anything was; the same file can be chosen again.

    Such files are a dict by name in ipywidgets 7, which Colab has, and a tuple in 8.
    """
    files = upload.value
    if not files:
        return None
    upload.set_trait("value", type(files)())
    named = files if isinstance(files, dict) else {file["name"]: file for file in files}
    name, file = next(iter(named.items()))
    return name, bytes(file["content"])


def make_dropdown(name: str, options: Sequence[Any], index: int = 0) -> Any:
    """A drop-down list."""
    return w.Dropdown(options=options, index=index, description=name, **WIDE)


def list_questions(tasks: Sequence[Task]) -> tuple[list[tuple[str, Task]], int]:
    """The tasks to pick from, and the place of the first question that was never trained."""
    names = [(f"rung {task.rung}: {task.question} [{task.attribute}]", task) for task in tasks]
    return names, next((i for i, task in enumerate(tasks) if task.rung == 3), 0)


def list_attributes(experiment: Any, points: pd.DataFrame) -> list[str]:
    """The attributes that a map's points have a column for; raises ValueError for none."""
    known = {name for clip in experiment.corpus.clips for name in clip.attributes}
    if names := [name for name in points.columns if name in known]:
        return names
    there = ", ".join(sorted(known))
    raise ValueError(f"The points have no column of an attribute ({there}); merge them in by clip.")


# ---- HTML and sound ----


def fill_html(template: str, *values: Any) -> str:
    """A piece of HTML with values in its places `{}`; whatever they hold, they are text."""
    return template.format(*(escape(str(value)) for value in values))


def image_html(content: bytes, text: str) -> str:
    """A PNG as an image that is part of the page, with its description."""
    data = base64.b64encode(content).decode()
    look = '<img style="max-width: 100%" alt="{}" src="data:image/png;base64,{}">'
    return fill_html(look, text, data)


def table_html(head: Sequence[str], *rows: Sequence[str]) -> str:
    """A small table; everything in it is text."""
    return jinja2.Template(_TABLE, autoescape=True).render(head=head, rows=rows)


def clip_html(clip: Clip, description: str = "") -> str:
    """A clip's name, speaker and transcript, and its description below."""
    about = (clip.id, clip.speaker, clip.transcript, description)
    return fill_html("<b>{}</b> ({}): “{}”<br>{}", *about)


def encode_wav(wave: Float[np.ndarray, "sample"]) -> bytes:
    """A waveform as the bytes of a WAV file."""
    file = io.BytesIO()
    soundfile.write(file, wave, audio.RATE, format="WAV")
    return file.getvalue()


def show_players(corpus: Corpus, clips: Sequence[Clip]) -> Any:
    """A player for each clip below its seed description; the sound is part of the notebook."""
    boxes, describe = [], description_function(corpus)
    for clip in clips:
        player = Audio(audio.read_audio(corpus.path(clip)), rate=audio.RATE, normalize=False)
        about = clip_html(clip, describe(clip.attributes))
        boxes.append(w.VBox([w.HTML(about), w.HTML(player._repr_html_())]))
    return w.VBox(boxes)
