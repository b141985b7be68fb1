"""What the model is given beside a question: a clip, another one, silence, or a description."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from desta_lab import audio
from desta_lab.clips import Clip
from desta_lab.model import chat
from desta_lab.model.audio_llm import AudioLLM
from desta_lab.world.describe import attribute_clause, describe

BATCH = 32  # clips in one forward of the connector


def embed_clips(
    llm: AudioLLM, states: Float[Tensor, "layer batch frame d_enc"]
) -> Float[Tensor, "clip query d_llm"]:
    """Audio embeddings of many clips under the connector as it is now."""
    llm.connector.eval()
    with torch.no_grad():
        return torch.cat([llm.connect(part) for part in states.split(BATCH, dim=1)])


def embed_silence(llm: AudioLLM) -> Float[Tensor, "1 query d_llm"]:
    """Audio embeddings of a clip of zeros, also used where a part of a clip is taken away."""
    zeros = np.zeros(round(llm.encoder.seconds * audio.RATE), dtype=np.float32)
    return llm.encode_audio([zeros])


def shuffled_partners(clips: Sequence[Clip]) -> list[int]:
    """For every clip the row of a clip of another speaker.

    Raises:
        ValueError: All clips are of one speaker.
    """
    rng = np.random.default_rng(0)
    speakers = np.array([clip.speaker for clip in clips])
    if len(set(speakers)) < 2:
        raise ValueError("Shuffled audio needs clips of two speakers or more; take a larger split.")
    return [int(rng.choice(np.flatnonzero(speakers != speaker))) for speaker in speakers]


def ask_each(
    llm: AudioLLM, wave: Float[np.ndarray, "sample"], description: str, question: str
) -> pd.DataFrame:
    """Answers to a question with the clip, with silence, with its description, and with nothing.

    Columns: condition, answer. A reader can see with them what the clip itself tells.
    """
    heard = chat.audio_messages(question)
    read = chat.description_messages(description, question)
    given = {
        "with the clip": (heard, llm.encode_audio([wave])),
        "with silence": (heard, embed_silence(llm)),
        "reading the description": (read, None),
        "without the clip": (chat.description_messages("", question), None),
    }
    rows = []
    for condition, (messages, embeddings) in given.items():
        slots = 0 if embeddings is None else llm.queries
        stream = chat.build_stream(llm.backbone.tokenizer, messages, slots)
        ids = llm.generate_ids([stream], embeddings, max_new_tokens=32)
        rows.append((condition, llm.backbone.decode(ids[0])))
    return pd.DataFrame(rows, columns=["condition", "answer"])


# ---- conditions of audio ----


@dataclass(frozen=True)
class AudioCondition:
    """Which audio embeddings stand in the slots when each clip's questions are asked.

    `rows[i]` is what clip i's questions are asked with: a row of the clips' own audio embeddings
    or, where they are given, of `others`.
    """

    rows: Sequence[int]
    others: Float[Tensor, "other query d_llm"] | None = None


AUDIO_CONDITIONS: dict[str, Callable[[AudioLLM, Sequence[Clip]], AudioCondition]] = {
    # each clip itself
    "audio": lambda llm, clips: AudioCondition(range(len(clips))),
    # another speaker's clip, scored against this clip's truth
    "shuffled": lambda llm, clips: AudioCondition(shuffled_partners(clips)),
    # one clip of zeros, scored against every clip's truth
    "silence": lambda llm, clips: AudioCondition([0] * len(clips), embed_silence(llm)),
}


_SHIPPED = ["audio", "shuffled", "silence"]  # stays: a provenance names other conditions than these


def condition_facts() -> dict[str, list[str]]:
    """The conditions by ear; nothing where they are those of the scores that were kept."""
    names = list(AUDIO_CONDITIONS)
    return {} if names == _SHIPPED else {"conditions": names}


def make_condition(name: str, llm: AudioLLM, clips: Sequence[Clip]) -> AudioCondition:
    """The condition of this name for these clips.

    Raises:
        ValueError: There is no condition of this name.
    """
    if name not in AUDIO_CONDITIONS:
        known = ", ".join([*AUDIO_CONDITIONS, ORACLE])
        raise ValueError(f"There is no condition {name!r}; there are {known}.")
    return AUDIO_CONDITIONS[name](llm, clips)


# ---- the condition of text ----

ORACLE = "oracle"  # the untouched backbone reads the description
CONTENT_FREE = "N/A"  # a description that says nothing, where one is wanted to calibrate


def oracle_text(
    clip: Clip, hidden: str | None = None, describe: Callable[..., str] = describe
) -> str:
    """What the text oracle reads of a clip: its description.

    Args:
        hidden: the attribute that is asked about where descriptions leave it out (`Task.hidden`);
            a sentence that states it follows.
    """
    text = describe(clip.attributes)
    if hidden is None or hidden not in clip.attributes:
        return text
    return f"{text} {attribute_clause(hidden, clip.attributes[hidden])}"
