"""What panels and notebooks ask of the models, and the parts of a clip that they cut out."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor

from desta_lab import audio
from desta_lab.analysis.attention import query_attention_over_time
from desta_lab.clips import Clip, Span
from desta_lab.evaluation import conditions, scoring
from desta_lab.evaluation.tasks import Task
from desta_lab.model import chat
from desta_lab.model.audio_llm import AudioLLM
from desta_lab.training import checkpoints
from desta_lab.views.clip_figures import plot_query_attention
from desta_lab.views.saving import Picture
from desta_lab.world.describe import describe

# a clip, and a query or a task → a weight for every frame
Profile = Callable[[Clip, int | None, Task | None], np.ndarray]

_WINDOW = 0.1  # seconds: the shortest sound worth hearing alone
_FADED = 0.04  # what is left of the rest: −28 dB
_TOKENS = 32  # of an answer


@dataclass(frozen=True)
class Answer:
    """An answer in the backbone's own words and, for a task, the probability of every option."""

    text: str
    options: dict[str, float] = field(default_factory=dict)


@contextmanager
def use_checkpoint(experiment: Any, step: int | None = None) -> Iterator[AudioLLM]:
    """Give the experiment's AudioLLM at one step, by default the last, which is restored after."""
    folder, llm = experiment.run_folder("self"), experiment.llm
    last = checkpoints.list_checkpoints(folder)[-1]["step"]
    try:
        checkpoints.load_checkpoint(folder, llm, last if step is None else step)
        yield llm
    finally:
        checkpoints.load_checkpoint(folder, llm, last)


def read_wave(experiment: Any, clip: Clip) -> Float[np.ndarray, "sample"]:
    """The waveform of one of the experiment's clips."""
    return audio.read_audio(experiment.corpus.path(clip))


def find_words(
    experiment: Any, wave: Float[np.ndarray, "sample"], clip: Clip | None = None
) -> str | None:
    """The words behind a clip's audio embeddings; None where the run was trained without them.

    Those of a recording, which has no transcript, are written by Whisper.
    """
    if not experiment.preset.transcript:
        return None
    return clip.transcript if clip is not None else str(experiment.llm.transcribe([wave])[0])


# ---- answers ----


def embed_audio(llm: AudioLLM, wave: Float[np.ndarray, "sample"]) -> Float[Tensor, "1 query d_llm"]:
    """Audio embeddings of one waveform under the connector as it is."""
    return llm.encode_audio([wave])


def answer_audio(
    llm: AudioLLM,
    audio_embeddings: Float[Tensor, "1 query d_llm"],
    question: str,
    task: Task | None = None,
    transcript: str | None = None,
) -> Answer:
    """Answer a question under the audio condition; a transcript stands behind the embeddings."""
    words = None if transcript is None else [transcript]
    text = generate_answer(llm, chat.audio_messages(question), audio_embeddings, words)
    if task is None:
        return Answer(text)
    with torch.no_grad():
        scores = scoring.score_options(llm, [task], audio_embeddings, transcripts=words)[0]
    return Answer(text, _to_probabilities(task, scores))


def answer_text(
    llm: AudioLLM,
    clip: Clip,
    question: str,
    task: Task | None = None,
    describe: Callable[..., str] = describe,
) -> Answer:
    """Answer a question under the text condition.

    A task about what descriptions leave out (rung 5) reads a description that states it.
    `describe` is that of the clip's corpus (`description_function`), by default the spoken world's.
    """
    description = conditions.oracle_text(clip, task.hidden if task else None, describe)
    text = generate_answer(llm, chat.description_messages(description, question))
    if task is None:
        return Answer(text)
    scores = scoring.score_options_of_text(llm.backbone, [task], [description])[0]
    return Answer(text, _to_probabilities(task, scores))


def generate_answer(
    llm: AudioLLM,
    messages: Sequence[Any],
    audio_embeddings: Tensor | None = None,
    transcripts: Sequence[str] | None = None,
    tokens: int = _TOKENS,
    **how: Any,
) -> str:
    """The answer to messages, in at most so many tokens; `how` goes to `generate_ids`."""
    stream = llm.build_stream(messages, tokens, transcripts=transcripts)
    ids = llm.generate_ids([stream], audio_embeddings, max_new_tokens=tokens, **how)
    return llm.backbone.decode(ids[0])


def _to_probabilities(task: Task, scores: Float[Tensor, "1 option"]) -> dict[str, float]:
    return dict(zip(task.options, scores[0].softmax(-1).tolist(), strict=True))


# ---- frames ----


def make_attention_profile(experiment: Any, attention: Callable[[Any, Tensor], Any]) -> Profile:
    """A profile from `attention(connector, states)`, which gives a row of frames for every query.

    Without a query it is the mean over the queries; a task raises ValueError.
    """

    def profile(clip: Clip, query: int | None, task: Task | None) -> np.ndarray:
        if task is not None:
            raise ValueError("Query → time attention knows no question; choose a query token.")
        with use_checkpoint(experiment) as llm, torch.no_grad():
            states = llm.encoder.encode([read_wave(experiment, clip)]).float()
            rows = np.asarray(attention(llm.connector, states))
        rows = rows.reshape(-1, rows.shape[-1])
        return rows.mean(0) if query is None else rows[query]

    return profile


def plot_attention(
    llm: AudioLLM,
    wave: Float[np.ndarray, "sample"],
    states: Float[Tensor, "layer 1 frame d_enc"],
    spans: Sequence[Span],
) -> Picture:
    """Where in a clip each query token looks, of its waveform and its encoder states."""
    attention = query_attention_over_time(llm.connector, states)[0].numpy()
    seconds = llm.encoder.seconds
    mel = audio.log_mel([wave], seconds, llm.encoder.mel_bins)[0].numpy()
    return plot_query_attention(attention, mel, spans, seconds, "Where each query token looks")


def select_frames(
    weights: Float[np.ndarray, "frame"], seconds: float, share: float = 0.25
) -> Bool[np.ndarray, "frame"]:
    """The share of frames around which most weight lies, averaged over windows of 0.1 s."""
    width = max(1, round(_WINDOW / seconds * len(weights)))
    dense = ndimage.correlate1d(weights, np.full(width, 1 / width), mode="nearest")
    chosen = np.zeros(len(weights), dtype=bool)
    chosen[np.argsort(-dense, kind="stable")[: max(1, round(share * len(weights)))]] = True
    return chosen


def isolate_frames(
    wave: Float[np.ndarray, "sample"], chosen: Bool[np.ndarray, "frame"]
) -> Float[np.ndarray, "sample"]:
    """A waveform with the chosen frames as they are and the rest faded, over ramps of 10 ms."""
    frame = np.minimum(np.arange(len(wave)) * len(chosen) // len(wave), len(chosen) - 1)
    ramp = np.hanning(audio.HOP + 2)[1:-1]
    gain = ndimage.correlate1d(chosen[frame].astype(float), ramp / ramp.sum(), mode="nearest")
    return (wave * (_FADED + (1 - _FADED) * gain)).astype(np.float32)


def frames_to_spans(chosen: Bool[np.ndarray, "frame"], seconds: float) -> list[tuple[float, float]]:
    """Begin and end, in seconds, of every run of chosen frames."""
    edges = np.flatnonzero(np.diff(np.pad(chosen.astype(int), 1))) * seconds / len(chosen)
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
