"""Forgetting: what a backbone still obeys and expects in plain text, beside what it does untouched.

Items are made as Speech-IFEval makes them: a question about a clip and one output constraint of IFEval, checked by rule
alone. The text condition gives the backbone, as it is now, the description; the audio condition gives it the clip.
"""

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from desta_lab.clips import Clip
from desta_lab.evaluation import constraints
from desta_lab.evaluation.statistics import add_mean_interval
from desta_lab.model import chat
from desta_lab.model.audio_llm import AudioLLM
from desta_lab.world.describe import describe

ABLE = 0.5  # the untouched backbone obeys so often when asked, and less often when not: else a constraint is left out
WORDINGS: dict[
    str, tuple[str, dict[str, Any]]
] = {  # words and arguments; the nano LLM was taught six of them
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


@dataclass(frozen=True)
class Instruction:
    """A question about a clip under one output constraint, by its IFEval id."""

    clip: Clip
    question: str
    constraint: str

    @property
    def asked(self) -> str:
        """The question with the constraint."""
        return f"{self.question} {WORDINGS[self.constraint][0]}"

    def obeyed(self, answer: str) -> float:
        """1 if the answer obeys the constraint, else 0."""
        return float(constraints.is_obeyed(self.constraint, answer, **WORDINGS[self.constraint][1]))


def instructions(
    clips: Sequence[Clip],
    questions: Sequence[str],
    each: int = 2,
    only: Collection[str] = tuple(WORDINGS),
) -> list[Instruction]:
    """Every question under every constraint, `each` times, about one clip after the other."""
    wanted = itertools.product(range(each), WORDINGS, questions)
    items = [
        Instruction(clip, q, name)
        for clip, (_, name, q) in zip(itertools.cycle(clips), wanted, strict=False)
    ]
    return [item for item in items if item.constraint in only]


def followed(
    llm: AudioLLM,
    items: Sequence[Instruction],
    spoken: Float[Tensor, "item query d_llm"] | None = None,
    *,
    asked: bool = True,
    max_new_tokens: int = 24,
    batch: int = 64,
) -> pd.DataFrame:
    """Clip, question, constraint, `answer` and `obeyed` (0 or 1) of every item, by the backbone as it is now.

    It hears `spoken`, the audio embeddings of every item's clip, or else reads the description. With `asked` false the
    constraint is not stated: what is obeyed even so follows nothing.
    """
    answers: list[str] = []
    for first in range(0, len(items), batch):
        part = items[first : first + batch]
        words = [item.asked if asked else item.question for item in part]
        if spoken is None:
            read = [
                chat.description_messages(describe(i.clip.attributes), w)
                for i, w in zip(part, words, strict=True)
            ]
            streams = [chat.build_stream(llm.backbone.tokenizer, messages, 0) for messages in read]
            ids = llm.backbone.generate_ids(
                streams, max_new_tokens, batch
            )  # not `answer`, which reads untouched
        else:
            streams = [
                chat.build_stream(llm.backbone.tokenizer, chat.audio_messages(w), llm.queries)
                for w in words
            ]
            ids = llm.generate_ids(
                streams, spoken[first : first + batch], max_new_tokens=max_new_tokens
            )
        answers += [llm.backbone.decode(row) for row in ids]
    rows = [
        (item.clip.id, item.question, item.constraint, answer, item.obeyed(answer))
        for item, answer in zip(items, answers, strict=True)
    ]
    return pd.DataFrame(rows, columns=["clip", "question", "constraint", "answer", "obeyed"])


def counted(llm: AudioLLM, items: Sequence[Instruction]) -> pd.DataFrame:
    """One row a constraint: how often the untouched backbone obeys it in text when asked and when not, and whether it
    is `counted`; those left out are those it cannot obey, and those it obeys unasked.

    Raises:
        ValueError: none is left.
    """
    with llm.backbone.untuned():
        rates = {
            name: followed(llm, items, asked=asked)
            .groupby("constraint", sort=False)["obeyed"]
            .mean()
            for name, asked in (("untouched", True), ("unasked", False))
        }
    table = pd.DataFrame(rates).reset_index()
    table["counted"] = (table["untouched"] >= ABLE) & (table["unasked"] < ABLE)
    if not table["counted"].any():
        raise ValueError(
            f"This backbone obeys none of {len(table)} constraints in text, so nothing can be forgotten; take one that "
            "follows instructions, or other wordings (forgetting.WORDINGS)."
        )
    return table


def delta(now: Any, before: Any) -> Any:
    """The forgetting rate of Speech-IFEval in per cent: 0 is nothing lost, −100 all."""
    return 100 * (now - before) / before


def plane(table: pd.DataFrame) -> pd.DataFrame:
    """What each arm, at each share of its adapters, has learned and forgotten: mean over seeds, 95 % t-interval.

    `table` has a row per arm × seed × rung × attribute × condition × share with its `score`. Of the measures, `forgotten`
    and `by ear` are Δ in per cent (text and audio condition against the untouched
    text condition), `perplexity` is a ratio to the untouched backbone, `learned` is rung 3 above chance. The arm `control` holds the connector at step 0 (`untrained`),
    the text `oracle`, and the `bare label` as the answer to everything.
    """
    known = table[
        table["attribute"].isin(["following", "perplexity"]) | (table["attribute"] == "all")
    ]
    known = known[(known["rung"] == 3) | known["rung"].isna()]
    wide = known.pivot_table(
        index=["arm", "seed", "share"],
        columns=["attribute", "condition"],
        values="score",
        sort=False,
    )
    before = (
        wide["following", "untouched"].groupby(["arm", "seed"]).transform("max")
    )  # stands at share 1 alone
    calm = wide["perplexity", "untouched"].groupby(["arm", "seed"]).transform("max")
    measures = {
        "forgotten": delta(wide["following", "text"], before),
        "by ear": delta(wide["following", "audio"], before),
        "perplexity": wide["perplexity", "text"] / calm,
        "learned": wide["all", "audio"],
    }
    own = pd.concat(
        [one.rename("score").reset_index().assign(measure=name) for name, one in measures.items()]
    )
    controls = {
        ("learned", "untrained"): wide["all", "untrained"],
        ("learned", "oracle"): wide["all", "oracle"],
        ("forgotten", "bare label"): delta(wide["following", "label"], before),
    }
    lines = [
        one.groupby("seed")
        .mean()
        .rename("score")
        .reset_index()
        .assign(arm="control", measure=measure, kind=kind, share=1.0)
        for (measure, kind), one in controls.items()
    ]
    own["kind"] = own["arm"].str.split(", ").str[1]
    every = pd.concat([own, *lines], ignore_index=True).dropna(subset=["score"])
    by = ["arm", "kind", "share", "measure"]
    columns = [*by, "mean", "low", "high", "seeds"]
    return add_mean_interval(every, by).drop_duplicates(by)[columns].reset_index(drop=True)


def per_constraint(table: pd.DataFrame) -> pd.DataFrame:
    """How often each constraint is obeyed, over the arms and seeds of a table: one column a condition; NaN where it was
    left out."""
    some = table[table["attribute"].isin(WORDINGS) & (table["share"] == 1)]
    rates = some.pivot_table(index="attribute", columns="condition", values="score")
    return rates.reindex(index=[name for name in WORDINGS if name in rates.index])


def statements(table: pd.DataFrame) -> list[str]:
    """What the plane shows, by rule: a change is shown where its 95 % interval over seeds excludes none."""
    known = plane(table)
    known = known[known["arm"] != "control"]
    alone = (known["seeds"] == 1) & (known["seeds"].max() > 1)
    known = known.assign(arm=known["arm"].mask(alone, known["arm"] + " (one seed)"))
    whole = known[known["share"] == 1]
    said = []
    for measure, what in (("forgotten", "in text"), ("by ear", "by ear")):
        rows = whole[whole["measure"] == measure]
        change = f"Δ {what}, per cent of what the untouched LLM obeys when it reads"
        if whole["seeds"].max() == 1:
            said.append(f"{change}, in one seed, which alone shows nothing: {_told(rows, '.0f')}.")
            continue
        none = (rows["low"] == 0) & (rows["high"] == 0)
        shown = (rows["high"] < 0) | (rows["low"] > 0)
        said.append(
            f"{change}: shown {_told(rows[shown], '.0f')}; not shown {_told(rows[~shown & ~none], '.0f')}; "
            f"none in any seed {'; '.join(rows[none]['arm']) or '–'}."
        )
    rows = whole[whole["measure"] == "perplexity"]
    said.append(
        f"Perplexity of its own answers in text, as a ratio: {_told(rows[rows['mean'] != 1], '.2f')}; else 1."
    )
    said.append(
        f"Learned, rung 3 above chance: {_told(whole[whole['measure'] == 'learned'], '.2f')}."
    )
    down = known[(known["share"] == 0) & (known["measure"] == "forgotten")]
    if len(down):
        back = down[(down["mean"] == 0) & (down["high"].fillna(0) == 0)]
        heard = known[(known["share"] == 0) & (known["measure"] == "learned")]
        said.append(
            f"Adapters turned down to 0 give the text back in {len(back)} of {len(down)} arms; learned then: "
            f"{_told(heard, '.2f')}."
        )
    rates = per_constraint(table)
    absent = rates["text"].isna()
    left_out = [
        f"{i} {row['untouched']:.0%} and {row['unasked']:.0%}"
        for i, row in rates[absent].iterrows()
    ]
    said.append(
        f"Δ counts {len(rates) - absent.sum()} of {len(rates)} constraints: "
        f"{', '.join(rates.index[~absent])}. Left out, with how often the untouched LLM obeys them when asked and when "
        f"not: {', '.join(left_out) or 'none'}."
    )
    return said


def headline(table: pd.DataFrame) -> str:
    """The arm that forgot most in text and the one that learned most, of those with the most seeds, in a sentence."""
    known = plane(table)
    whole = known[(known["arm"] != "control") & (known["share"] == 1)]
    whole = whole[whole["seeds"] == whole["seeds"].max()].set_index(
        ["measure", "arm"]
    )  # of few seeds luck is best
    lost, learned = whole.loc["forgotten"], whole.loc["learned"]
    worst, best = lost["mean"].idxmin(), learned["mean"].idxmax()
    return (
        f"Most is forgotten by {_named(worst)}, Δ {_number(lost.loc[worst], '.0f')} % in text; most is learned by "
        f"{_named(best)}, {_number(learned.loc[best], '.2f')} at Δ {_number(lost.loc[best], '.0f')} %"
    )


def _named(arm: str) -> str:
    tuning, target = arm.split(", ")
    words = {"frozen": "a frozen LLM", "full": "full tuning"}.get(
        tuning, tuning.replace("lora-", "LoRA of rank ")
    )
    return f"{words} with {target} targets"


def _number(row: Any, form: str) -> str:
    mean, low, high = (f"{row[name]:z{form}}".replace("-", "−") for name in ("mean", "low", "high"))
    return mean if low == high else f"{mean} [{low}, {high}]"  # of one seed both are NaN


def _told(rows: pd.DataFrame, form: str) -> str:
    return "; ".join(f"{row['arm']} {_number(row, form)}" for _, row in rows.iterrows()) or "–"
