"""One checkpoint under every condition: the clip, silence, another speaker's clip, and the text oracle."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from desta_lab import audio
from desta_lab.clips import Clip
from desta_lab.evaluation import constraints, scoring
from desta_lab.evaluation.tasks import Task
from desta_lab.model import chat
from desta_lab.model.audio_llm import AudioLLM
from desta_lab.world.describe import describe, mentioned_values

Scores = Sequence[Float[Tensor, "_ _"]]  # clip × option, for every task


def embed_clips(
    llm: AudioLLM, states: Float[Tensor, "layer batch frame d_enc"], batch: int = 32
) -> Float[Tensor, "clip query d_llm"]:
    """Audio embeddings of many clips under the connector as it is now."""
    llm.connector.eval()
    with torch.no_grad():
        return torch.cat([llm.connect(part) for part in states.split(batch, dim=1)])


def embed_silence(llm: AudioLLM) -> Float[Tensor, "1 query d_llm"]:
    """What the connector says of a clip of zeros: the silence control, and what stands where a part is taken away."""
    nothing = np.zeros(round(llm.encoder.seconds * audio.RATE), dtype=np.float32)
    return embed_clips(llm, llm.encoder.encode([nothing]))


def shuffled_partners(clips: Sequence[Clip], seed: int = 0) -> list[int]:
    """For every clip the row of another speaker's clip: the shuffled-audio control listens to that one instead."""
    rng = np.random.default_rng(seed)
    speakers = np.array([clip.speaker for clip in clips])
    if len(set(speakers)) < 2:
        raise ValueError(
            "Shuffled audio needs clips of at least two speakers; take a larger split."
        )
    return [int(rng.choice(np.flatnonzero(speakers != speaker))) for speaker in speakers]


@torch.no_grad()
def score_conditions(
    llm: AudioLLM,
    tasks: Sequence[Task],
    clips: Sequence[Clip],
    spoken: Float[Tensor, "clip query d_llm"],
    held_out: Float[Tensor, "other query d_llm"],
    silence: Float[Tensor, "one query d_llm"],
    transcripts: Sequence[str] | None = None,
) -> pd.DataFrame:
    """The audio condition of one checkpoint with its controls, one row per condition × clip × task.

    `held_out` are clips of other speakers that calibrate the ranking. Shuffled audio scores another speaker's clip
    against this clip's truth; silence scores one clip of zeros against every truth. `transcripts` are those of the
    clips and, behind them, of the held-out ones; a shuffled clip brings its own, silence none.
    """
    lengths = [scoring.option_lengths(llm.backbone.tokenizer, task) for task in tasks]
    words = None if transcripts is None else [*transcripts, *[""] * len(silence)]
    heard = scoring.score_options(
        llm, tasks, torch.cat([spoken, held_out, silence]), transcripts=words
    )
    count, others = len(spoken), len(held_out)
    audio = [score[:count] for score in heard]
    calibration = [score[count : count + others] for score in heard]
    swap = shuffled_partners(clips)
    by_condition = {
        "audio": audio,
        "shuffled": [score[swap] for score in audio],
        "silence": [score[-1:].expand(count, -1) for score in heard],
    }
    return pd.concat(
        [
            _table(condition, tasks, clips, scores, calibration, lengths)
            for condition, scores in by_condition.items()
        ],
        ignore_index=True,
    )


def score_oracle(
    llm: AudioLLM,
    tasks: Sequence[Task],
    clips: Sequence[Clip],
    held_out: Sequence[Clip],
    describe: Callable[..., str] = describe,
) -> pd.DataFrame:
    """The text oracle: the untouched backbone reads the description and does every task, scored the same way.

    Tasks about an attribute that descriptions leave out (rung 5) are asked of a description that states it. `describe`
    is that of the clips' corpus, by default the spoken world's.
    """
    lengths = {task.name: scoring.option_lengths(llm.backbone.tokenizer, task) for task in tasks}
    tables = []
    for topic in (False, True):
        some = [task for task in tasks if (task.rung == 5) == topic]
        if not some:
            continue
        texts = [oracle_text(clip, topic, describe) for clip in [*clips, *held_out]]
        unique = list(dict.fromkeys(texts))
        with llm.backbone.untuned():
            scores = scoring.score_options_of_text(llm.backbone, some, unique)
        rows = [unique.index(text) for text in texts]
        own, other = rows[: len(clips)], rows[len(clips) :]
        tables.append(
            _table(
                "oracle",
                some,
                clips,
                [s[own] for s in scores],
                [s[other] for s in scores],
                [lengths[task.name] for task in some],
            )
        )
    return pd.concat(tables, ignore_index=True)


def oracle_text(clip: Clip, topic: bool = False, describe: Callable[..., str] = describe) -> str:
    """What the text oracle reads of a clip: its description, with the topic for a task about what that leaves out."""
    return describe(clip.attributes, topic=True) if topic else describe(clip.attributes)


def _table(
    condition: str,
    tasks: Sequence[Task],
    clips: Sequence[Clip],
    scores: Scores,
    held_out: Scores,
    lengths: Sequence[Tensor],
) -> pd.DataFrame:
    table = scoring.judge_scores(
        tasks, scores, held_out, [clip.attributes for clip in clips], lengths
    )
    table.insert(0, "condition", condition)
    table["clip"] = [clips[i].id for i in table["row"]]
    table["speaker"] = [clips[i].speaker for i in table["row"]]
    return table.drop(columns="row")


def answer_free_form(
    llm: AudioLLM,
    tasks: Sequence[Task],
    clips: Sequence[Clip],
    spoken: Float[Tensor, "clip query d_llm"] | None,
    max_new_tokens: int = 24,
    batch: int = 48,
    describe: Callable[..., str] = describe,
    transcripts: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Answers in the backbone's own words: `free_form` 1 if only the right value is named, `obeyed` 1 if the output
    constraint is kept (rung 2), and the `answer` itself. Without `spoken` the description is read (text oracle).

    A question that several tasks share (the trained prompt) is answered once a clip; a clip whose attribute is not
    known has no row.
    """
    questions = list(dict.fromkeys((task.question, task.rung == 5) for task in tasks))
    every = [(question, topic, i) for question, topic in questions for i in range(len(clips))]
    answers: list[str] = []
    for first in range(0, len(every), batch):
        part = every[first : first + batch]
        if spoken is None:
            asked = [
                chat.description_messages(oracle_text(clips[i], topic, describe), question)
                for question, topic, i in part
            ]
        else:
            asked = [chat.audio_messages(question) for question, _, _ in part]
        words = [
            None if transcripts is None or spoken is None else [transcripts[i]] for *_, i in part
        ]
        streams = [
            chat.build_stream(llm.backbone.tokenizer, messages, llm.queries, transcripts=own)
            for messages, own in zip(asked, words, strict=True)
        ]
        heard = None if spoken is None else spoken[[i for *_, i in part]]
        answers += [
            llm.backbone.decode(ids)
            for ids in llm.generate_ids(streams, heard, max_new_tokens=max_new_tokens)
        ]
    told = {key: answers[n * len(clips) : (n + 1) * len(clips)] for n, key in enumerate(questions)}
    rows = []
    for task in tasks:
        for clip, answer in zip(clips, told[task.question, task.rung == 5], strict=True):
            right = clip.attributes.get(task.attribute)
            if right is None:
                continue
            rows.append(
                {
                    "condition": "oracle" if spoken is None else "audio",
                    "clip": clip.id,
                    "task": task.name,
                    "answer": answer,
                    "free_form": float(named_values(task, answer) == {right}),
                    "obeyed": float(constraints.is_obeyed(task.constraint, answer))
                    if task.constraint
                    else float("nan"),
                }
            )
    return pd.DataFrame(rows)


def named_values(task: Task, answer: str) -> set[str]:
    """The values of a task's attribute that an answer names, by the option's own words or the attribute's."""
    text = f" {answer.lower()} "
    options = {v for v, words in task.options.items() if f" {words.strip().lower()}" in text}
    return options | mentioned_values(answer, task.attribute, task.options)
