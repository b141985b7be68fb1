"""Clips of a corpus, seen as spectrograms and heard through players."""

from collections.abc import Sequence
from typing import Any

from desta_lab import audio
from desta_lab.clips import Clip, Corpus
from desta_lab.views.clip_figures import plot_spectrograms
from desta_lab.views.saving import Picture
from desta_lab.world.describe import description_function


def plot_clips(corpus: Corpus, clips: Sequence[Clip], columns: int = 3) -> Picture:
    """Clips as spectrograms with their attributes and evidence spans."""
    waves = [audio.read_audio(corpus.path(clip)) for clip in clips]
    rows = [
        {**vars(clip), "mel": audio.log_mel([wave], clip.seconds)[0].numpy()}
        for clip, wave in zip(clips, waves, strict=True)
    ]
    return plot_spectrograms(rows, columns=columns)


def show_players(corpus: Corpus, clips: Sequence[Clip]) -> Any:
    """A player for each clip below its seed description; the sound is part of the notebook."""
    import ipywidgets
    from IPython.display import Audio

    from desta_lab.views.panel_base import clip_html

    boxes, describe = [], description_function(corpus)
    for clip in clips:
        player = Audio(audio.read_audio(corpus.path(clip)), rate=audio.RATE, normalize=False)
        about = clip_html(clip, describe(clip.attributes))
        parts = [ipywidgets.HTML(about), ipywidgets.HTML(player._repr_html_())]
        boxes.append(ipywidgets.VBox(parts))
    return ipywidgets.VBox(boxes)
