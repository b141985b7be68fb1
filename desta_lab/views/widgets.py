"""Panels for JupyterLab and Colab; each leaves something to see where no widget runs."""

from collections.abc import Sequence
from typing import Any

from desta_lab import audio
from desta_lab.clips import Clip, Corpus
from desta_lab.views import clip_figures
from desta_lab.views.saving import Picture
from desta_lab.world.describe import description_function


def plot_clips(corpus: Corpus, clips: Sequence[Clip], columns: int = 3) -> Picture:
    """Clips as spectrograms with their attributes and evidence spans."""
    rows: list[dict[str, Any]] = []
    for clip in clips:
        mel = audio.log_mel([audio.read_audio(corpus.path(clip))], clip.seconds)[0].numpy()
        rows.append(
            {
                "mel": mel,
                "seconds": clip.seconds,
                "attributes": clip.attributes,
                "spans": clip.spans,
                "transcript": clip.transcript,
            }
        )
    return clip_figures.plot_spectrograms(rows, columns=columns)


def show_players(corpus: Corpus, clips: Sequence[Clip]) -> Any:
    """A player for each clip under its seed description; the waveform travels in the notebook, so it works offline."""
    import ipywidgets
    from IPython.display import Audio

    boxes, describe = [], description_function(corpus)
    for clip in clips:
        player = Audio(audio.read_audio(corpus.path(clip)), rate=audio.RATE, normalize=False)
        words = (
            f"<b>{clip.id}</b> ({clip.speaker}): “{clip.transcript}”<br>{describe(clip.attributes)}"
        )
        boxes.append(
            ipywidgets.VBox([ipywidgets.HTML(words), ipywidgets.HTML(player._repr_html_())])
        )
    return ipywidgets.VBox(boxes)
