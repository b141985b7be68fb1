"""The evaluator: every task of every clip, under every condition, as one tidy table."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from desta_lab.clips import Clip
from desta_lab.evaluation import constraints, scoring
from desta_lab.evaluation.conditions import (
    AUDIO_CONDITIONS,
    CONTENT_FREE,
    ORACLE,
    embed_clips,
    embed_silence,
    make_condition,
    oracle_text,
)
from desta_lab.evaluation.tasks import Task, named_values, task_ladder
from desta_lab.model import chat
from desta_lab.model.audio_llm import AudioLLM
from desta_lab.model.backbone import Backbone
from desta_lab.training.features import FeatureStore, OnTheFlyFeatures
from desta_lab.world.attributes import ATTRIBUTES
from desta_lab.world.describe import describe

Features = FeatureStore | OnTheFlyFeatures
Describe = Callable[..., str]
ANSWER_COLUMNS = ["condition", "clip", "task", "answer", "free_form", "obeyed"]


@dataclass(frozen=True)
class FreeForm:
    """Which questions are also answered in the backbone's own words."""

    clips: int  # the first of the clips that are scored
    tasks: Sequence[Task] | None = None  # all tasks by default
    max_new_tokens: int = 24


@torch.no_grad()
def evaluate(
    llm: AudioLLM,
    tasks: Sequence[Task],
    clips: Sequence[Clip],
    calibration: Sequence[Clip],
    features: Features | None = None,
    *,
    conditions: Sequence[str] = tuple(AUDIO_CONDITIONS),
    audio_embeddings: Float[Tensor, "clip query d_llm"] | None = None,
    transcripts: bool = False,
    free_form: FreeForm | None = None,
    describe: Describe = describe,
    batch: int = 8,
) -> pd.DataFrame:
    """Score every task of every clip under every condition, with the model as it is now.

    Args:
        calibration: Clips of other speakers. How much an option is preferred on them, whatever is
            heard, is taken away before options are ranked (`scoring.Calibration`).
        features: Encoder states by clip id, from which the connector makes audio embeddings.
        conditions: Names among `conditions.AUDIO_CONDITIONS`, and `oracle`.
        audio_embeddings: Those of `clips` and then of `calibration`, instead of `features`.
        transcripts: Whether each clip's transcript stands behind its audio embeddings.
        free_form: What is also answered freely, under the conditions `audio` and `oracle`.
        describe: Turns attributes into a description, in the words of the clips' corpus.

    Returns:
        One row per condition × task × clip, but none for an attribute that a clip lacks. Columns:
        condition, those of `scoring.judge_scores` and, with `free_form`, those of
        `answer_free_form`.

    Raises:
        ValueError: A condition is unknown, or neither features nor audio embeddings are given.
    """
    by_ear = [name for name in conditions if name != ORACLE]
    tables = []
    if by_ear:
        if audio_embeddings is None:
            audio_embeddings = _embed(llm, features, clips, calibration)
        how = (by_ear, transcripts, batch)
        tables.append(score_conditions(llm, tasks, clips, calibration, audio_embeddings, *how))
    if ORACLE in conditions:
        tables.append(score_oracle(llm.backbone, tasks, clips, calibration, describe, batch))
    table = pd.concat(tables, ignore_index=True)
    if free_form is None:
        return table
    given = {"audio": audio_embeddings, ORACLE: None}
    asked = tasks if free_form.tasks is None else free_form.tasks
    some, length = clips[: free_form.clips], free_form.max_new_tokens
    answers = [
        answer_free_form(llm, asked, some, given[name], length, describe, transcripts)
        for name in conditions
        if name in given
    ]
    return table.merge(pd.concat(answers), on=["condition", "clip", "task"], how="left")


def _embed(
    llm: AudioLLM, features: Features | None, clips: Sequence[Clip], calibration: Sequence[Clip]
) -> Float[Tensor, "clip query d_llm"]:
    if features is None:
        raise ValueError("Nothing to hear: give features, or audio embeddings of all clips.")
    ids = [[clip.id for clip in part] for part in (clips, calibration)]
    return torch.cat([embed_clips(llm, features[part]) for part in ids])


# ---- closed-set ranking ----


def score_conditions(
    llm: AudioLLM,
    tasks: Sequence[Task],
    clips: Sequence[Clip],
    calibration: Sequence[Clip],
    audio_embeddings: Float[Tensor, "clip query d_llm"],
    names: Sequence[str],
    transcripts: bool,
    batch: int,
) -> pd.DataFrame:
    """Rank the options of every task by ear; clips, calibration and controls share one pass."""
    made = {name: make_condition(name, llm, clips) for name in names}
    others = [condition.others for condition in made.values() if condition.others is not None]
    pool = torch.cat([audio_embeddings, *others])
    words = None
    if transcripts:
        words = [clip.transcript for clip in [*clips, *calibration]]
        words += [""] * (len(pool) - len(words))
    scores = scoring.score_options(llm, tasks, pool, batch, words)
    end = len(clips) + len(calibration)
    known = scoring.Calibration(
        calibration,
        [score[len(clips) : end] for score in scores],
        lambda: scoring.score_options(llm, tasks, embed_silence(llm), batch, words and [""]),
    )
    tables = []
    for name, condition in made.items():
        first = 0
        if condition.others is not None:
            first, end = end, end + len(condition.others)
        rows = [first + row for row in condition.rows]
        picked = [score[rows] for score in scores]
        tables.append(_judge(name, llm.backbone, tasks, clips, picked, known))
    return pd.concat(tables, ignore_index=True)


def score_oracle(
    backbone: Backbone,
    tasks: Sequence[Task],
    clips: Sequence[Clip],
    calibration: Sequence[Clip],
    describe: Describe = describe,
    batch: int = 8,
) -> pd.DataFrame:
    """Rank the options of every task by reading: the untouched backbone is given the description.

    Tasks about an attribute that descriptions leave out (rung 5) are asked of one that states it.
    """
    tables = []
    for hidden in dict.fromkeys([None, *(task.hidden for task in tasks)]):
        asked = [task for task in tasks if task.hidden == hidden]
        if not asked:
            continue
        texts = [oracle_text(clip, hidden, describe) for clip in [*clips, *calibration]]
        unique = list(dict.fromkeys(texts))
        with backbone.untuned():
            scores = scoring.score_options_of_text(backbone, asked, unique, batch)
        rows = [unique.index(text) for text in texts]
        own = [score[rows[: len(clips)]] for score in scores]
        known = scoring.Calibration(
            calibration,
            [score[rows[len(clips) :]] for score in scores],
            partial(_score_without_content, backbone, asked),
        )
        tables.append(_judge(ORACLE, backbone, asked, clips, own, known))
    return pd.concat(tables, ignore_index=True)


def _score_without_content(backbone: Backbone, tasks: Sequence[Task]) -> scoring.Scores:
    with backbone.untuned():
        return scoring.score_options_of_text(backbone, tasks, [CONTENT_FREE])


def oracle_accuracy(backbone: Backbone) -> dict[str, list[float]]:
    """[raw, calibrated] accuracy of a backbone per task, over all combinations of attributes."""
    combinations = itertools.product(*ATTRIBUTES.values())
    clips = [
        Clip(str(i), "", 0.0, "", "", dict(zip(ATTRIBUTES, values, strict=True)))
        for i, values in enumerate(combinations)
    ]
    table = score_oracle(backbone, task_ladder(), clips, clips)
    means = table.groupby("task", sort=False)[["raw", "calibrated"]].mean().round(4)
    return {str(row.Index): [float(row.raw), float(row.calibrated)] for row in means.itertuples()}


def _judge(
    condition: str,
    backbone: Backbone,
    tasks: Sequence[Task],
    clips: Sequence[Clip],
    scores: scoring.Scores,
    calibration: scoring.Calibration,
) -> pd.DataFrame:
    table = scoring.judge_scores(backbone.tokenizer, tasks, clips, scores, calibration)
    table.insert(0, "condition", condition)
    return table


# ---- answers in the backbone's own words ----


def answer_free_form(
    llm: AudioLLM,
    tasks: Sequence[Task],
    clips: Sequence[Clip],
    audio_embeddings: Float[Tensor, "clip query d_llm"] | None,
    max_new_tokens: int = 24,
    describe: Describe = describe,
    transcripts: bool = False,
    batch: int = 48,
) -> pd.DataFrame:
    """Answer every task about every clip greedily, in the backbone's own words.

    Without audio embeddings the description is read. Columns: condition (audio or oracle), clip,
    task, `answer`, `free_form` (1 where the right value and no other is named) and `obeyed` (1
    where the output constraint is kept; NaN where there is none). Tasks that share a question share
    its answer. A clip has no row for an attribute that it lacks.
    """
    questions = list(dict.fromkeys((task.question, task.hidden) for task in tasks))
    asked = [(*question, row) for question in questions for row in range(len(clips))]
    answers: list[str] = []
    for first in range(0, len(asked), batch):
        some = asked[first : first + batch]
        streams = [
            _stream(
                llm, question, clips[row], hidden, audio_embeddings is None, describe, transcripts
            )
            for question, hidden, row in some
        ]
        given = None if audio_embeddings is None else audio_embeddings[[row for *_, row in some]]
        ids = llm.generate_ids(streams, given, max_new_tokens=max_new_tokens)
        answers += [llm.backbone.decode(row) for row in ids]
    found = dict(zip(asked, answers, strict=True))
    rows = [
        {
            "condition": ORACLE if audio_embeddings is None else "audio",
            "clip": clip.id,
            "task": task.name,
            **judge_answer(task, clip, found[task.question, task.hidden, row]),
        }
        for task in tasks
        for row, clip in enumerate(clips)
        if task.attribute in clip.attributes
    ]
    return pd.DataFrame(rows, columns=ANSWER_COLUMNS)


def _stream(
    llm: AudioLLM,
    question: str,
    clip: Clip,
    hidden: str | None,
    read: bool,
    describe: Describe,
    transcripts: bool,
) -> chat.TokenStream:
    if read:
        messages = chat.description_messages(oracle_text(clip, hidden, describe), question)
    else:
        messages = chat.audio_messages(question)
    words = [clip.transcript] if transcripts and not read else None
    return chat.build_stream(llm.backbone.tokenizer, messages, llm.queries, transcripts=words)


def judge_answer(task: Task, clip: Clip, answer: str) -> dict[str, str | float]:
    """An answer, whether it names the right value alone, and whether it obeys the constraint."""
    right = {clip.attributes[task.attribute]}
    obeyed = float("nan")
    if task.constraint:
        obeyed = float(constraints.is_obeyed(task.constraint, answer))
    named = float(named_values(task, answer) == right)
    return {"answer": answer, "free_form": named, "obeyed": obeyed}
