"""What the panels ask of the models, and the seconds they cut out of a clip."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from desta_lab import audio
from desta_lab.clips import Clip
from desta_lab.evaluation import conditions, scoring
from desta_lab.evaluation.tasks import Task
from desta_lab.model import chat
from desta_lab.model.audio_llm import AudioLLM
from desta_lab.training import checkpoints
from desta_lab.world.describe import describe

Profile = Callable[
    [Clip, int | None, Task | None], np.ndarray
]  # clip, query or task → a weight for every frame

_WINDOW = 0.1  # seconds: the shortest sound worth hearing alone
_FADED = 0.04  # what is left of the rest: −28 dB
_TOKENS = 32  # of an answer


@dataclass(frozen=True)
class Answer:
    """An answer in the backbone's own words and, for a task of the ladder, the probability of every option."""

    text: str
    options: dict[str, float] = field(default_factory=dict)


@contextmanager
def use_checkpoint(job: Any, step: int | None = None) -> Iterator[AudioLLM]:
    """The job's AudioLLM at one rung of its checkpoint ladder, by default the last, which is put back afterwards."""
    folder = job.run_folder("self")
    last = checkpoints.list_checkpoints(folder)[-1]["step"]
    try:
        checkpoints.load_checkpoint(folder, job.llm, last if step is None else step)
        yield job.llm
    finally:
        checkpoints.load_checkpoint(folder, job.llm, last)


def embed_audio(llm: AudioLLM, wave: Float[np.ndarray, "sample"]) -> Float[Tensor, "1 query d_llm"]:
    """Audio embeddings of one waveform under the connector as it is."""
    return conditions.embed_clips(llm, llm.encoder.encode([wave]).float())


def answer_audio(
    llm: AudioLLM, spoken: Float[Tensor, "1 query d_llm"], question: str, task: Task | None = None
) -> Answer:
    """The audio condition of a question."""
    text = _answer(llm, chat.audio_messages(question), spoken)
    with torch.no_grad():
        return Answer(
            text, _shares(task, scoring.score_options(llm, [task], spoken)[0]) if task else {}
        )


def answer_text(
    llm: AudioLLM,
    clip: Clip,
    question: str,
    task: Task | None = None,
    describe: Callable[..., str] = describe,
) -> Answer:
    """The text condition of a question; one about what descriptions leave out (rung 5) reads one that states it.

    `describe` is that of the clip's corpus (`describe.description_function`), by default the spoken world's.
    """
    known = conditions.oracle_text(clip, task is not None and task.rung == 5, describe)
    options = (
        _shares(task, scoring.score_options_of_text(llm.backbone, [task], [known])[0])
        if task
        else {}
    )
    return Answer(_answer(llm, chat.description_messages(known, question), None), options)


def _answer(llm: AudioLLM, messages: Sequence[Any], spoken: Tensor | None) -> str:
    room = None if llm.backbone.max_positions is None else llm.backbone.max_positions - _TOKENS
    stream = chat.build_stream(llm.backbone.tokenizer, messages, llm.queries, max_tokens=room)
    return llm.backbone.decode(llm.generate_ids([stream], spoken, max_new_tokens=_TOKENS)[0])


def _shares(task: Task, scores: Float[Tensor, "1 option"]) -> dict[str, float]:
    return dict(zip(task.options, scores[0].softmax(-1).tolist(), strict=True))


def make_attention_profile(job: Any, attention: Callable[[Any, Tensor], Any]) -> Profile:
    """A profile from `attention(connector, states)`, which gives a row of frames for every query of the one clip."""

    def profile(clip: Clip, query: int | None, task: Task | None) -> np.ndarray:
        if task is not None:
            raise ValueError(
                "Query → time attention knows no question; choose a query token, or another profile."
            )
        with use_checkpoint(job) as llm, torch.no_grad():
            rows = np.asarray(
                attention(llm.connector, llm.encoder.encode([read_wave(job, clip)]).float())
            )
        rows = rows.reshape(-1, rows.shape[-1])
        return rows.mean(0) if query is None else rows[query]

    return profile


def select_frames(
    weights: Float[np.ndarray, "frame"], seconds: float, share: float = 0.25
) -> Bool[np.ndarray, "frame"]:
    """The share of frames around which most weight lies, averaged over windows of 0.1 s."""
    width = max(1, round(_WINDOW / seconds * len(weights)))
    dense = np.convolve(np.pad(weights, width, mode="edge"), np.full(width, 1 / width), "same")[
        width:-width
    ]
    kept = np.zeros(len(weights), dtype=bool)
    kept[np.argsort(-dense, kind="stable")[: max(1, round(share * len(weights)))]] = True
    return kept


def isolate_frames(
    wave: Float[np.ndarray, "sample"], kept: Bool[np.ndarray, "frame"]
) -> Float[np.ndarray, "sample"]:
    """A waveform with the kept frames as they are and the rest faded, over ramps of 10 ms."""
    frame = np.minimum(np.arange(len(wave)) * len(kept) // len(wave), len(kept) - 1)
    ramp = np.hanning(audio.HOP + 2)[1:-1]
    heard = np.convolve(
        np.pad(kept[frame].astype(float), audio.HOP, mode="edge"), ramp / ramp.sum(), "same"
    )
    return (wave * (_FADED + (1 - _FADED) * heard[audio.HOP : -audio.HOP])).astype(np.float32)


def frames_to_spans(kept: Bool[np.ndarray, "frame"], seconds: float) -> list[tuple[float, float]]:
    """Begin and end, in seconds, of every run of kept frames."""
    edges = np.flatnonzero(np.diff(np.pad(kept.astype(int), 1))) * seconds / len(kept)
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def read_wave(job: Any, clip: Clip) -> Float[np.ndarray, "sample"]:
    """The waveform of one of the job's clips."""
    return audio.read_audio(job.corpus.path(clip))
