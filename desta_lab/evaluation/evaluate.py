"""The evaluator: every task of every clip, under every condition, as one tidy table."""

import itertools
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

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
from desta_lab.training.features import Features
from desta_lab.world.attributes import ATTRIBUTES
from desta_lab.world.describe import describe

Describe = Callable[..., str]
ANSWER_NUMBERS = {"free_form": float, "obeyed": float, "said": float}  # also where no row is
ANSWER_COLUMNS = ["condition", "clip", "task", "answer", *ANSWER_NUMBERS]


@dataclass(frozen=True)
class FreeForm:
    """Some questions that are also answered in the backbone's own words."""

    clips: int  # the first of the clips that are scored
    tasks: Sequence[Task]
    max_new_tokens: int = 24

    def facts(self) -> list[Any]:
        """What determines the answers besides the models and the clips, for a provenance."""
        return [self.clips, self.max_new_tokens, [task.name for task in self.tasks]]


@torch.no_grad()
def evaluate(
    llm: AudioLLM,
    tasks: Sequence[Task],
    clips: Sequence[Clip],
    calibration: Sequence[Clip],
    features: Features | None = None,
    *,
    conditions: Sequence[str] | None = None,
    audio_embeddings: Float[Tensor, "clip query d_llm"] | None = None,
    transcripts: bool = False,
    free_form: Sequence[FreeForm] = (),
    describe: Describe = describe,
    batch: int | None = None,  # clips ranked in one forward; None: 8, on a GPU 64
    progress: Callable[..., None] | None = None,
) -> pd.DataFrame:
    """Score every task of every clip under every condition, with the model as it is now.

    Args:
        calibration: Clips of other speakers. How much an option is preferred on them, whatever is
            heard, is taken away before options are ranked (`scoring.Calibration`).
        features: Encoder states by clip id, from which the connector makes audio embeddings.
        conditions: Names of `AUDIO_CONDITIONS`, which are the default, and `oracle`.
        audio_embeddings: Those of `clips` and then of `calibration`, instead of `features`.
        transcripts: Whether each clip's transcript stands behind its audio embeddings.
        free_form: What is also answered freely, under the same conditions.
        describe: Turns attributes into a description, in the words of the clips' corpus.
        progress: Called with (done, total) while options are ranked by ear.

    Returns:
        One row per condition × task × clip, but none for an attribute that a clip lacks. Columns:
        condition, those of `scoring.judge_scores` and, with `free_form`, of `answer_free_form`.

    Raises:
        ValueError: A condition is unknown, or neither features nor audio embeddings are given.
    """
    conditions = [*AUDIO_CONDITIONS] if conditions is None else conditions
    by_ear = [name for name in conditions if name != ORACLE]
    tables: dict[str, pd.DataFrame] = {}
    if by_ear:
        if audio_embeddings is None:
            if features is None:
                raise ValueError("Nothing to hear: give features, or audio embeddings.")
            ids = [[clip.id for clip in part] for part in (clips, calibration)]
            audio_embeddings = torch.cat([embed_clips(llm, features[part]) for part in ids])
        how = (by_ear, transcripts, batch, progress)
        tables |= _rank_by_ear(llm, tasks, clips, calibration, audio_embeddings, *how)
    if ORACLE in conditions:
        tables[ORACLE] = _rank_by_reading(llm.backbone, tasks, clips, calibration, describe, batch)
    table = pd.concat(tables, names=["condition"]).reset_index("condition").reset_index(drop=True)
    if not free_form:
        return table
    answers = []
    for one in free_form:
        some, asked = clips[: one.clips], (one.max_new_tokens, describe, transcripts)
        if audio_embeddings is not None and by_ear:
            heard = audio_embeddings[: one.clips]
            answers.append(answer_free_form(llm, one.tasks, some, heard, *asked, names=by_ear))
        if ORACLE in conditions:
            answers.append(answer_free_form(llm, one.tasks, some, None, *asked))
    return table.merge(pd.concat(answers), on=["condition", "clip", "task"], how="left")


# ---- closed-set ranking ----


def _rank_by_ear(
    llm: AudioLLM,
    tasks: Sequence[Task],
    clips: Sequence[Clip],
    calibration: Sequence[Clip],
    audio_embeddings: Float[Tensor, "clip query d_llm"],
    names: Sequence[str],
    transcripts: bool,
    batch: int | None,
    progress: Callable[..., None] | None,
) -> dict[str, pd.DataFrame]:
    """Rank the options of every task by ear; clips, calibration and controls share one pass."""
    pool, rows_of = _pool_conditions(llm, clips, audio_embeddings, names)
    words = None
    if transcripts:
        words = [clip.transcript for clip in [*clips, *calibration]]
        words += [""] * (len(pool) - len(words))
    scores = scoring.score_options(llm, tasks, pool, batch, words, progress)
    known = scoring.Calibration(
        calibration,
        [score[len(clips) : len(audio_embeddings)] for score in scores],
        lambda: scoring.score_options(llm, tasks, embed_silence(llm), batch, words and [""]),
    )
    judge = partial(scoring.judge_scores, llm.backbone.tokenizer, tasks, clips)
    return {name: judge([score[rows] for score in scores], known) for name, rows in rows_of.items()}


def _pool_conditions(
    llm: AudioLLM,
    clips: Sequence[Clip],
    audio_embeddings: Float[Tensor, "own query d_llm"],
    names: Sequence[str],
) -> tuple[Float[Tensor, "row query d_llm"], dict[str, list[int]]]:
    """Every audio embedding that some conditions need, and per condition each clip's row of it.

    `audio_embeddings` are those of the clips, and perhaps more behind them.
    """
    device = llm.backbone.device
    parts, rows_of = [audio_embeddings.to(device)], {}
    for name in names:
        condition, first = make_condition(name, llm, clips), 0
        if condition.others is not None:
            first = sum(map(len, parts))
            parts.append(condition.others.to(device))
        rows_of[name] = [first + row for row in condition.rows]
    return torch.cat(parts), rows_of


def _rank_by_reading(
    backbone: Backbone,
    tasks: Sequence[Task],
    clips: Sequence[Clip],
    calibration: Sequence[Clip],
    describe: Describe = describe,
    batch: int | None = None,
) -> pd.DataFrame:
    """Rank the options of every task by reading: the untouched backbone is given the description.

    Tasks about an attribute that descriptions leave out (rung 5) are asked of one that states it.
    """

    def score(asked: Sequence[Task], texts: Sequence[str]) -> scoring.Scores:
        with backbone.untuned():
            return scoring.score_options_of_text(backbone, asked, texts, batch)

    tables = []
    for hidden in dict.fromkeys([None, *(task.hidden for task in tasks)]):
        asked = [task for task in tasks if task.hidden == hidden]
        if not asked:
            continue
        texts = [oracle_text(clip, hidden, describe) for clip in [*clips, *calibration]]
        unique = list(dict.fromkeys(texts))
        rows = [unique.index(text) for text in texts]
        scores = [of_unique[rows] for of_unique in score(asked, unique)]
        others = [one[len(clips) :] for one in scores]
        known = scoring.Calibration(calibration, others, partial(score, asked, [CONTENT_FREE]))
        own = [one[: len(clips)] for one in scores]
        tables.append(scoring.judge_scores(backbone.tokenizer, asked, clips, own, known))
    return pd.concat(tables, ignore_index=True)


def oracle_accuracy(backbone: Backbone) -> dict[str, list[float]]:
    """[raw, calibrated] accuracy of a backbone per task, over all combinations of attributes."""
    combinations = itertools.product(*ATTRIBUTES.values())
    clips = [
        Clip(str(i), "", 0.0, "", "", dict(zip(ATTRIBUTES, values, strict=True)))
        for i, values in enumerate(combinations)
    ]
    table = _rank_by_reading(backbone, task_ladder(), clips, clips)
    means = table.groupby("task", sort=False)[["raw", "calibrated"]].mean().round(4)
    return {str(row.Index): [float(row.raw), float(row.calibrated)] for row in means.itertuples()}


# ---- answers in the backbone's own words ----


def answer_free_form(
    llm: AudioLLM,
    tasks: Sequence[Task],
    clips: Sequence[Clip],
    audio_embeddings: Float[Tensor, "clip query d_llm"] | None,
    max_new_tokens: int = 24,
    describe: Describe = describe,
    transcripts: bool = False,
    batch: int = 96,
    names: Sequence[str] = ("audio",),
) -> pd.DataFrame:
    """Answer every task about every clip greedily, in the backbone's own words.

    A task that has a form `in_words` is asked in it.
    Without audio embeddings the description is read, which is the condition `oracle`; otherwise
    `names` are conditions by ear, without shuffled audio where all clips are of one speaker.
    Columns: condition, clip, task, `answer`, `free_form` (1 where the right value and no other is
    named), `obeyed` (1 where the output constraint is kept; NaN where there is none) and `said` (1
    where both are so). What is asked twice is answered once. A clip has no row for an attribute
    that it lacks.
    """
    tokenizer = llm.backbone.tokenizer
    asked = {task.name: (task.in_words or task.question, task.hidden) for task in tasks}
    if audio_embeddings is None:
        hidden = {attribute for _, attribute in asked.values()}
        first: dict[tuple[str, ...], int] = {}
        read = [tuple(oracle_text(clip, name, describe) for name in hidden) for clip in clips]
        pool, rows_of = None, {ORACLE: [first.setdefault(one, row) for row, one in enumerate(read)]}
    else:
        several = len({clip.speaker for clip in clips}) > 1
        names = [name for name in names if several or name != "shuffled"]
        pool, rows_of = _pool_conditions(llm, clips, audio_embeddings, names)

    def build(question: str, hidden: str | None, row: int) -> chat.TokenStream:
        if pool is None:
            text = oracle_text(clips[row], hidden, describe)
            return chat.build_stream(tokenizer, chat.description_messages(text, question), 0)
        words = [clips[row].transcript if row < len(clips) else ""] if transcripts else None
        messages = chat.audio_messages(question)
        return chat.build_stream(tokenizer, messages, llm.queries, transcripts=words)

    rows = sorted({row for rows in rows_of.values() for row in rows})
    questions = list(dict.fromkeys(asked.values()))
    streams = [[build(*question, row) for question in questions] for row in rows]
    heard = None if pool is None else pool[rows]
    answers = _answer_streams(llm, streams, heard, max_new_tokens, batch)
    found = dict(zip(itertools.product(rows, questions), answers, strict=True))
    table = [
        {
            "condition": name,
            "clip": clip.id,
            "task": task.name,
            **judge_answer(task, clip, found[row, asked[task.name]]),
        }
        for name, rows in rows_of.items()
        for task in tasks
        for clip, row in zip(clips, rows, strict=True)
        if task.attribute in clip.attributes
    ]
    return pd.DataFrame(table, columns=ANSWER_COLUMNS).astype(ANSWER_NUMBERS)


def _answer_streams(
    llm: AudioLLM,
    streams: Sequence[Sequence[chat.TokenStream]],
    audio_embeddings: Float[Tensor, "row query d_llm"] | None,
    max_new_tokens: int,
    batch: int,
) -> list[str]:
    """The answers to all questions about row 0, about row 1, …; each trunk is read once.

    Without audio the untouched backbone reads.
    """
    backbone, texts = llm.backbone, []
    with backbone.untuned() if audio_embeddings is None else nullcontext():
        for first in range(0, len(streams), batch):
            some = streams[first : first + batch]
            trunks = [chat.common_trunk(own, behind=1) for own in some]
            ids, real = backbone.pad_left(trunks)
            if audio_embeddings is None:
                trunk = backbone.embed(ids)
            else:
                trunk = llm.splice(ids, audio_embeddings[first : first + batch])
            pairs = zip(some, trunks, strict=True)
            branches = [[one.ids[len(beginning.ids) :] for one in own] for own, beginning in pairs]
            answers = backbone.generate_branches(trunk, real, branches, max_new_tokens)
            texts += [backbone.decode(ids) for own in answers for ids in own]
    return texts


def judge_answer(task: Task, clip: Clip, answer: str) -> dict[str, str | float]:
    """An answer; whether it names the right value alone, obeys the constraint, and does both."""
    right = {clip.attributes[task.attribute]}
    obeyed = float("nan")
    if task.constraint:
        obeyed = float(constraints.is_obeyed(task.constraint, answer))
    named = float(named_values(task, answer) == right)
    said = named * obeyed if task.constraint else named
    return {"answer": answer, "free_form": named, "obeyed": obeyed, "said": said}
