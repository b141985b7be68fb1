"""Forgetting: what a tuned backbone still obeys and expects in text, beside the untouched one.

Items are made as Speech-IFEval makes them: a question about a clip and one output constraint of
IFEval, checked by rule alone. In the text condition the backbone reads the description; in the
audio condition it is given the clip.
"""

import itertools
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from desta_lab.clips import Clip
from desta_lab.evaluation import conditions, constraints
from desta_lab.evaluation.statistics import add_mean_interval
from desta_lab.experiments.cells import Cell
from desta_lab.experiments.experiment import Experiment
from desta_lab.experiments.measures import (
    score_above_chance,
    score_by_ear,
    score_last_step,
    train_cell,
)
from desta_lab.model import chat
from desta_lab.model.audio_llm import AudioLLM
from desta_lab.training.targets import Target, generate_targets, target_perplexity
from desta_lab.world.describe import describe

MIN_OBEYED = 0.5  # the untouched backbone obeys so often when asked, and less often when not
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of what adapters have learned, at test time
DESCRIPTIONS = 4  # whose answers by the untouched backbone measure perplexity

# constraint → words and arguments; the nano LLM was taught six of them
WORDINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "change_case:english_capital": ("Answer in capital letters.", {}),
    "change_case:english_lowercase": ("Answer in lower case.", {}),
    "combination:repeat_prompt": (
        "Start your answer with the word Here.",
        {"prompt_to_repeat": "Here"},
    ),
    "detectable_format:json_format": ("Answer in JSON.", {}),
    "detectable_format:number_bullet_lists": ("Start with a bullet.", {"num_bullets": 1}),
    "detectable_format:title": (
        "Wrap your answer in double angular brackets, such as <<answer>>.",
        {},
    ),
    "keywords:existence": ("Include the word clip in your answer.", {"keywords": ["clip"]}),
    "keywords:forbidden_words": ("Do not use the word is.", {"forbidden_words": ["is"]}),
    "length_constraints:number_paragraphs": (
        "Answer in two paragraphs, divided by ***.",
        {"num_paragraphs": 2},
    ),
    "length_constraints:number_sentences": (
        "Answer in at least two sentences.",
        {"num_sentences": 2, "relation": "at least"},
    ),
    "length_constraints:number_words": (
        "Answer in one word.",
        {"num_words": 2, "relation": "less than"},
    ),
    "startend:end_checker": ("End your answer with the word done.", {"end_phrase": "done"}),
    "startend:quotation": ("Put the answer in quotes.", {}),
}


# ---- instructions ----


@dataclass(frozen=True)
class Instruction:
    """A question about a clip under one output constraint, by its IFEval id."""

    clip: Clip
    question: str
    constraint: str

    @property
    def text(self) -> str:
        """The question with the constraint."""
        return f"{self.question} {WORDINGS[self.constraint][0]}"

    def is_obeyed(self, answer: str) -> bool:
        """Whether an answer obeys the constraint."""
        return constraints.is_obeyed(self.constraint, answer, **WORDINGS[self.constraint][1])


def make_instructions(
    clips: Sequence[Clip],
    questions: Sequence[str],
    each: int = 2,
    only: Collection[str] = tuple(WORDINGS),
) -> list[Instruction]:
    """Every question under every constraint, `each` times, about one clip after the other."""
    wanted = itertools.product(range(each), WORDINGS, questions)
    items = [
        Instruction(clip, question, constraint)
        for clip, (_, constraint, question) in zip(itertools.cycle(clips), wanted, strict=False)
    ]
    return [item for item in items if item.constraint in only]


def answer_instructions(
    llm: AudioLLM,
    items: Sequence[Instruction],
    audio_embeddings: Float[Tensor, "item query d_llm"] | None = None,
    *,
    stated: bool = True,
    max_new_tokens: int = 24,
    batch: int = 64,
) -> pd.DataFrame:
    """Columns clip, question, constraint, `answer` and `obeyed` (0 or 1), by the backbone as it is.

    Args:
        audio_embeddings: of every item's clip; without them the description is read.
        stated: whether the constraint is stated; what is obeyed without it follows nothing.
    """
    answers: list[str] = []
    for first in range(0, len(items), batch):
        some = items[first : first + batch]
        texts = [item.text if stated else item.question for item in some]
        if audio_embeddings is None:
            ids = _read_and_answer(llm, some, texts, max_new_tokens, batch)
        else:
            heard = [chat.audio_messages(text) for text in texts]
            streams = [chat.build_stream(llm.backbone.tokenizer, m, llm.queries) for m in heard]
            embeddings = audio_embeddings[first : first + batch]
            ids = llm.generate_ids(streams, embeddings, max_new_tokens=max_new_tokens)
        answers += [llm.backbone.decode(row) for row in ids]
    rows = [
        (item.clip.id, item.question, item.constraint, answer, float(item.is_obeyed(answer)))
        for item, answer in zip(items, answers, strict=True)
    ]
    return pd.DataFrame(rows, columns=["clip", "question", "constraint", "answer", "obeyed"])


def _read_and_answer(
    llm: AudioLLM,
    items: Sequence[Instruction],
    texts: Sequence[str],
    max_new_tokens: int,
    batch: int,
) -> list[tuple[int, ...]]:
    """Answers in the text condition by the backbone as it is; the AudioLLM would untune it."""
    streams = [
        chat.build_stream(
            llm.backbone.tokenizer,
            chat.description_messages(describe(item.clip.attributes), text),
            0,
        )
        for item, text in zip(items, texts, strict=True)
    ]
    return llm.backbone.generate_ids(streams, max_new_tokens, batch)


def rate_constraints(llm: AudioLLM, items: Sequence[Instruction]) -> pd.DataFrame:
    """One row a constraint: how often the untouched backbone obeys it in text.

    Columns: `untouched` (the constraint is stated), `unasked` (it is not), and `counted`: obeyed
    when stated and not otherwise.

    Raises:
        ValueError: no constraint counts.
    """
    rates = {}
    with llm.backbone.untuned():
        for name, stated in (("untouched", True), ("unasked", False)):
            answers = answer_instructions(llm, items, stated=stated)
            rates[name] = answers.groupby("constraint", sort=False)["obeyed"].mean()
    table = pd.DataFrame(rates).reset_index()
    table["counted"] = (table["untouched"] >= MIN_OBEYED) & (table["unasked"] < MIN_OBEYED)
    if not table["counted"].any():
        raise ValueError(
            f"This backbone obeys none of {len(table)} constraints in text, so nothing can be "
            "forgotten; take one that follows instructions, or other wordings "
            "(forgetting.WORDINGS)."
        )
    return table


# ---- what a cell of the study measures ----


def train_and_forget(cell: Cell, root: Path) -> dict[str, Any]:
    """Train a cell and score its rungs, and what its backbone has forgotten in text and by ear.

    Adapters are measured at every share of `SHARES`. Rows without a rung have the attribute
    `following`, or one constraint's id, under the conditions `text` and `audio` (the backbone as
    it is), `untouched`, `unasked` and `label` (the bare label, whatever is asked); or the
    attribute `perplexity`, of the untouched backbone's own answers.
    """
    trained = train_cell(cell, root)
    begin = time.perf_counter()
    experiment = trained.experiment
    scores = score_last_step(trained)
    items, baseline = _baseline(experiment)
    own_answers = write_own_answers(experiment)
    with experiment.llm.backbone.untuned():
        before = target_perplexity(experiment.llm.backbone, own_answers)
    parts = [score_above_chance(scores), baseline, _row("perplexity", "untouched", before)]
    for share in SHARES if cell.preset.tuning.startswith("lora") else (1.0,):
        experiment.llm.backbone.scale_adapters(share)
        now = [
            _row("perplexity", "text", target_perplexity(experiment.llm.backbone, own_answers)),
            *_following(experiment, items),
        ]
        if share != 1:
            controls = scores[scores["condition"] != "audio"]
            table = score_above_chance(pd.concat([score_by_ear(experiment), controls]))
            now.append(table[table["condition"] == "audio"])
        parts += [part.assign(share=share) for part in now]
    return trained.result(pd.concat(parts, ignore_index=True), begin)


def _baseline(experiment: Experiment) -> tuple[list[Instruction], pd.DataFrame]:
    """The instructions that count, and what the untouched backbone and a bare label obey."""
    clips = experiment.clips("test")
    questions = [task.question for task in experiment.tasks if task.rung == 3]
    items = make_instructions(clips, questions)
    rates = rate_constraints(experiment.llm, items)
    counted = rates[rates["counted"]]
    items = [item for item in items if item.constraint in set(counted["constraint"])]
    label = experiment.preset.label
    bare = np.mean([item.is_obeyed(item.clip.attributes[label]) for item in items])
    rows = [
        _row(rate.constraint, condition, getattr(rate, condition))
        for rate in rates.itertuples()
        for condition in ("untouched", "unasked")
    ]
    for condition in ("untouched", "unasked"):
        rows.append(_row("following", condition, counted[condition].mean()))
    rows.append(_row("following", "label", float(bare)))
    return items, pd.concat(rows)


def _following(experiment: Experiment, items: Sequence[Instruction]) -> list[pd.DataFrame]:
    """How often each constraint is obeyed in text and by ear, and their mean."""
    clips = experiment.clips("test")
    row_of = {clip.id: row for row, clip in enumerate(clips)}
    features = experiment.features[[clip.id for clip in clips]]
    embeddings = conditions.embed_clips(experiment.llm, features)
    rows = []
    for condition, given in (
        ("text", None),
        ("audio", embeddings[[row_of[item.clip.id] for item in items]]),
    ):
        answers = answer_instructions(experiment.llm, items, given)
        obeyed = answers.groupby("constraint")["obeyed"].mean()
        rows += [_row(str(name), condition, score) for name, score in obeyed.items()]
        rows.append(_row("following", condition, obeyed.mean()))
    return rows


def _row(attribute: str, condition: str, score: float) -> pd.DataFrame:
    return pd.DataFrame([{"attribute": attribute, "condition": condition, "score": score}])


def write_own_answers(experiment: Experiment) -> list[Target]:
    """The untouched backbone's answers to the ladder's questions about some descriptions."""
    questions = dict.fromkeys(
        task.question for task in experiment.tasks if task.attribute != "topic"
    )
    descriptions = dict.fromkeys(describe(clip.attributes) for clip in experiment.clips("test"))
    pairs = itertools.product(list(descriptions)[:DESCRIPTIONS], questions)
    backbone = experiment.llm.backbone
    return list(generate_targets(backbone, experiment.preset.backbone, "", pairs).values())


# ---- what the study shows ----


def forgetting_rate(now: Any, before: Any) -> Any:
    """The Δ of Speech-IFEval in per cent: 0 is nothing lost, −100 everything."""
    return 100 * (now - before) / before


def learned_and_forgotten(table: pd.DataFrame) -> pd.DataFrame:
    """What each arm has learned and forgotten: mean over seeds with a 95 % t-interval.

    Args:
        table: columns arm, seed, rung, attribute, condition, share and score.

    Returns:
        One row per arm × share × measure. `forgotten` and `by ear` are Δ in per cent, against
        the untouched backbone in text; `perplexity` is a ratio to the untouched backbone's;
        `learned` is rung 3 above chance. The arm `control` holds the connector at step 0
        (`untrained`), the text `oracle`, and the `bare label` as the answer to everything.
    """
    whole = table["attribute"].isin(["following", "perplexity", "all"])
    used = table[whole & ((table["rung"] == 3) | table["rung"].isna())]
    wide = used.pivot_table(
        index=["arm", "seed", "share"],
        columns=["attribute", "condition"],
        values="score",
        sort=False,
    )
    seeds = ["arm", "seed"]  # the untouched backbone's numbers stand at share 1 alone
    before = wide["following", "untouched"].groupby(seeds).transform("max")
    perplexity = wide["perplexity", "untouched"].groupby(seeds).transform("max")
    arms = {
        "forgotten": forgetting_rate(wide["following", "text"], before),
        "by ear": forgetting_rate(wide["following", "audio"], before),
        "perplexity": wide["perplexity", "text"] / perplexity,
        "learned": wide["all", "audio"],
    }
    rows = [
        scores.rename("score").reset_index().assign(measure=measure)
        for measure, scores in arms.items()
    ]
    found = pd.concat(rows)
    found["kind"] = found["arm"].str.split(", ").str[1]
    controls = {
        ("learned", "untrained"): wide["all", "untrained"],
        ("learned", "oracle"): wide["all", "oracle"],
        ("forgotten", "bare label"): forgetting_rate(wide["following", "label"], before),
    }
    lines = [_control(*key, scores) for key, scores in controls.items()]
    return _means_over_seeds(pd.concat([found, *lines], ignore_index=True))


def _control(measure: str, kind: str, scores: pd.Series) -> pd.DataFrame:
    means = scores.groupby("seed").mean().rename("score").reset_index()
    return means.assign(arm="control", measure=measure, kind=kind, share=1.0)


def _means_over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    groups = ["arm", "kind", "share", "measure"]
    means = add_mean_interval(table.dropna(subset=["score"]), groups)
    return means.drop_duplicates(groups)[[*groups, "mean", "seeds", "low", "high"]].reset_index(
        drop=True
    )


def rates_per_constraint(table: pd.DataFrame) -> pd.DataFrame:
    """How often each constraint is obeyed: one column a condition, NaN where it was left out."""
    rows = table[table["attribute"].isin(WORDINGS) & (table["share"] == 1)]
    rates = rows.pivot_table(index="attribute", columns="condition", values="score")
    return rates.reindex(index=[name for name in WORDINGS if name in rates.index])


def state_findings(table: pd.DataFrame) -> list[str]:
    """What the study shows, by rule: a change is shown where its interval excludes none."""
    means = learned_and_forgotten(table)
    means = means[means["arm"] != "control"]
    alone = (means["seeds"] == 1) & (means["seeds"].max() > 1)
    means = means.assign(arm=means["arm"].mask(alone, means["arm"] + " (one seed)"))
    whole = means[means["share"] == 1]
    perplexity = whole[(whole["measure"] == "perplexity") & (whole["mean"] != 1)]
    learned = whole[whole["measure"] == "learned"]
    return [
        _state_change(whole[whole["measure"] == "forgotten"], "in text"),
        _state_change(whole[whole["measure"] == "by ear"], "by ear"),
        f"Perplexity of its own answers in text, as a ratio: {_list(perplexity, '.2f')}; else 1.",
        f"Learned, rung 3 above chance: {_list(learned, '.2f')}.",
        *_state_adapters_off(means[means["share"] == 0]),
        _state_constraints(rates_per_constraint(table)),
    ]


def _state_change(rows: pd.DataFrame, where: str) -> str:
    change = f"Δ {where}, per cent of what the untouched LLM obeys when it reads"
    if rows["seeds"].max() == 1:
        return f"{change}, in one seed, which alone shows nothing: {_list(rows, '.0f')}."
    none = (rows["low"] == 0) & (rows["high"] == 0)
    shown = (rows["high"] < 0) | (rows["low"] > 0)
    return (
        f"{change}: shown {_list(rows[shown], '.0f')}; not shown "
        f"{_list(rows[~shown & ~none], '.0f')}; none in any seed "
        f"{'; '.join(rows[none]['arm']) or '–'}."
    )


def _state_adapters_off(rows: pd.DataFrame) -> list[str]:
    forgotten, learned = (rows[rows["measure"] == name] for name in ("forgotten", "learned"))
    if forgotten.empty:
        return []
    back = (forgotten["mean"] == 0) & (forgotten["high"].fillna(0) == 0)
    return [
        f"Adapters turned down to 0 give the text back in {back.sum()} of {len(back)} arms; "
        f"learned then: {_list(learned, '.2f')}."
    ]


def _state_constraints(rates: pd.DataFrame) -> str:
    absent = rates["text"].isna()
    left_out = [
        f"{name} {row['untouched']:.0%} and {row['unasked']:.0%}"
        for name, row in rates[absent].iterrows()
    ]
    return (
        f"Δ counts {len(rates) - absent.sum()} of {len(rates)} constraints: "
        f"{', '.join(rates.index[~absent])}. Left out, with how often the untouched LLM obeys "
        f"them when asked and when not: {', '.join(left_out) or 'none'}."
    )


def headline(table: pd.DataFrame) -> str:
    """The arm that forgot most in text and the one that learned most, in a sentence."""
    means = learned_and_forgotten(table)
    whole = means[(means["arm"] != "control") & (means["share"] == 1)]
    whole = whole[whole["seeds"] == whole["seeds"].max()]  # of few seeds luck is best
    whole = whole.set_index(["measure", "arm"])
    lost, learned = whole.loc["forgotten"], whole.loc["learned"]
    worst, best = lost["mean"].idxmin(), learned["mean"].idxmax()
    return (
        f"Most is forgotten by {_name_arm(worst)}, Δ {_number(lost.loc[worst], '.0f')} % in text; "
        f"most is learned by {_name_arm(best)}, {_number(learned.loc[best], '.2f')} at Δ "
        f"{_number(lost.loc[best], '.0f')} %"
    )


def _name_arm(arm: str) -> str:
    tuning, target = arm.split(", ")
    names = {"frozen": "a frozen LLM", "full": "full tuning"}
    return f"{names.get(tuning, tuning.replace('lora-', 'LoRA of rank '))} with {target} targets"


def _number(row: Any, form: str) -> str:
    mean, low, high = (f"{row[name]:z{form}}".replace("-", "−") for name in ("mean", "low", "high"))
    return mean if low == high else f"{mean} [{low}, {high}]"  # of one seed both are NaN


def _list(rows: pd.DataFrame, form: str) -> str:
    return "; ".join(f"{row['arm']} {_number(row, form)}" for _, row in rows.iterrows()) or "–"
