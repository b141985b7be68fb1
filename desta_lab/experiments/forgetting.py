"""Forgetting: what a tuned backbone still obeys and expects in text, beside the untouched one.

Items are made as Speech-IFEval makes them: a question about a clip and one output constraint of
IFEval, checked by rule alone. In the text condition the backbone reads the description; in the
audio condition it is given the clip.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
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
    measure_trained,
    score_above_chance,
    score_by_ear,
    score_last_step,
)
from desta_lab.model import chat
from desta_lab.model.audio_llm import AudioLLM
from desta_lab.model.presets import part_id
from desta_lab.training.targets import Target, generate_targets, target_perplexity
from desta_lab.world.describe import describe

MIN_OBEYED = 0.5  # the untouched backbone obeys so often when asked, and less often when not
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of what adapters have learned, at test time
DESCRIPTIONS = 4  # whose answers by the untouched backbone measure perplexity
EACH = 2  # items of a question under a constraint
MAX_NEW_TOKENS, BATCH = 24, 64

COLUMNS = ["attribute", "condition", "score"]
Row = tuple[str, str, float]  # of these columns

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
    """A question about a clip under one output constraint, by its IFEval id.

    Args:
        description: what is read of the clip in the text condition.
    """

    clip: Clip
    question: str
    constraint: str
    description: str

    @property
    def text(self) -> str:
        """The question with the constraint."""
        return f"{self.question} {WORDINGS[self.constraint][0]}"

    def is_obeyed(self, answer: str) -> bool:
        """Whether an answer obeys the constraint."""
        return constraints.is_obeyed(self.constraint, answer, **WORDINGS[self.constraint][1])


def make_instructions(
    clips: Sequence[Clip], questions: Sequence[str], describe: Callable[..., str] = describe
) -> list[Instruction]:
    """Every question under every constraint, `EACH` times, about one clip after the other.

    `describe` makes the description that is read out of a clip's attributes.
    """
    wanted = itertools.product(range(EACH), WORDINGS, questions)
    return [
        Instruction(clip, question, constraint, describe(clip.attributes))
        for clip, (_, constraint, question) in zip(itertools.cycle(clips), wanted, strict=False)
    ]


def answer_instructions(
    llm: AudioLLM,
    items: Sequence[Instruction],
    audio_embeddings: Float[Tensor, "item query d_llm"] | None = None,
    *,
    stated: bool = True,
    transcripts: bool = False,
) -> pd.DataFrame:
    """Columns clip, question, constraint, `answer` and `obeyed` (0 or 1), by the backbone as it is.

    Args:
        audio_embeddings: of every item's clip; without them the description is read.
        stated: whether the constraint is stated; what is obeyed without it follows nothing.
        transcripts: whether each clip's transcript stands behind its audio embeddings.
    """

    def ask(item: Instruction) -> chat.TokenStream:
        text = item.text if stated else item.question
        if audio_embeddings is None:
            messages = chat.description_messages(item.description, text)
            return chat.build_stream(llm.backbone.tokenizer, messages, 0)
        words, messages = [item.clip.transcript] if transcripts else None, chat.audio_messages(text)
        return chat.build_stream(llm.backbone.tokenizer, messages, llm.queries, transcripts=words)

    streams, answers = [ask(item) for item in items], []
    if audio_embeddings is None:  # the AudioLLM would untune the backbone
        answers = llm.backbone.generate_ids(streams, MAX_NEW_TOKENS, BATCH)
    else:
        for first in range(0, len(items), BATCH):
            some, heard = streams[first:][:BATCH], audio_embeddings[first:][:BATCH]
            answers += llm.generate_ids(some, heard, max_new_tokens=MAX_NEW_TOKENS)
    rows = []
    for item, answer in zip(items, map(llm.backbone.decode, answers), strict=True):
        asked = (item.clip.id, item.question, item.constraint)
        rows.append((*asked, answer, float(item.is_obeyed(answer))))
    return pd.DataFrame(rows, columns=["clip", "question", "constraint", "answer", "obeyed"])


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
            f"This backbone obeys none of {len(table)} constraints in text, which it could forget; "
            "take one that follows instructions, or other forgetting.WORDINGS in a study whose "
            "`measured` has a name of its own, as cells do not know them."
        )
    return table


# ---- what a cell of the study measures ----


def train_and_forget(cell: Cell, root: Path) -> dict[str, Any]:
    """Train a cell and score its rungs, and what its backbone has forgotten in text and by ear.

    Adapters are measured at every share of `SHARES`, or whole and turned off where the preset
    scores only the ends of a run. Rows without a rung have the attribute `following`, or one
    constraint's id, under the conditions `text` and `audio` (the backbone as it is), `untouched`,
    `unasked` and `label` (the bare label, whatever is asked); or the attribute `perplexity`, of
    the untouched backbone's own answers.
    """
    return measure_trained(cell, root, _score_forgetting)


def _score_forgetting(experiment: Experiment, folder: Path) -> pd.DataFrame:
    scores, backbone = score_last_step(experiment, folder), experiment.llm.backbone
    items, baseline = _baseline(experiment)
    own_answers = write_own_answers(experiment)
    with backbone.untuned():
        before = target_perplexity(backbone, own_answers)
    baseline.append(("perplexity", "untouched", before))
    parts = [score_above_chance(scores), pd.DataFrame(baseline, columns=COLUMNS)]
    shares = SHARES if experiment.preset.every_checkpoint else (SHARES[0], SHARES[-1])
    for share in shares if experiment.preset.tuning.startswith("lora") else (1.0,):
        backbone.scale_adapters(share)
        surprise = target_perplexity(backbone, own_answers)
        rows = [("perplexity", "text", surprise), *_following(experiment, items)]
        now = [pd.DataFrame(rows, columns=COLUMNS)]
        if share != 1:
            controls = scores[scores["condition"] != "audio"]
            table = score_above_chance(pd.concat([score_by_ear(experiment), controls]))
            now.append(table[table["condition"] == "audio"])
        parts += [part.assign(share=share) for part in now]
    return pd.concat(parts, ignore_index=True)


def _baseline(experiment: Experiment) -> tuple[list[Instruction], list[Row]]:
    """The instructions that count, and what the untouched backbone and a bare label obey."""
    clips = experiment.clips("test")
    questions = [task.question for task in experiment.tasks if task.rung == 3]
    items = make_instructions(clips, questions, experiment.describe)
    rates = rate_constraints(experiment.llm, items)
    counted = rates[rates["counted"]]
    items = [item for item in items if item.constraint in set(counted["constraint"])]
    label = experiment.preset.label
    bare = np.mean([item.is_obeyed(item.clip.attributes[label]) for item in items])
    asked = ("untouched", "unasked")
    rows: list[Row] = [
        (rate["constraint"], name, rate[name]) for _, rate in rates.iterrows() for name in asked
    ]
    rows += [("following", condition, counted[condition].mean()) for condition in asked]
    return items, [*rows, ("following", "label", float(bare))]


def _following(experiment: Experiment, items: Sequence[Instruction]) -> list[Row]:
    """How often each constraint is obeyed in text and by ear, and their mean."""
    clips = experiment.clips("test")
    features = experiment.features[[clip.id for clip in clips]]
    embeddings = conditions.embed_clips(experiment.llm, features)
    heard = embeddings[[clips.index(item.clip) for item in items]]
    rows: list[Row] = []
    for condition, given in (("text", None), ("audio", heard)):
        words = experiment.preset.transcript
        answers = answer_instructions(experiment.llm, items, given, transcripts=words)
        obeyed = answers.groupby("constraint")["obeyed"].mean()
        rows += [(str(name), condition, score) for name, score in obeyed.items()]
        rows.append(("following", condition, obeyed.mean()))
    return rows


def write_own_answers(experiment: Experiment) -> list[Target]:
    """The untouched backbone's answers to the ladder's questions about some descriptions."""
    questions = dict.fromkeys(
        task.question for task in experiment.tasks if task.attribute != "topic"
    )
    descriptions = dict.fromkeys(
        experiment.describe(clip.attributes) for clip in experiment.clips("test")
    )
    pairs = itertools.product(list(descriptions)[:DESCRIPTIONS], questions)
    backbone = experiment.llm.backbone
    return list(generate_targets(backbone, part_id(experiment.preset.backbone), "", pairs).values())


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
        the untouched backbone in text; `perplexity` is a ratio to the untouched backbone's, and its
        mean geometric, as no ratio is below 0; `learned` is rung 3 above chance. The arm `control`
        holds the connector at step 0 (`untrained`), the text `oracle`, and the `bare label` as the
        answer to everything.
    """
    kept = table["attribute"].isin(["following", "perplexity", "all"])
    used = table[kept & ((table["rung"] == 3) | table["rung"].isna())]
    wide = used.pivot_table(
        index=["arm", "seed", "share"],
        columns=["attribute", "condition"],
        values="score",
        sort=False,
    )
    seeds = ["arm", "seed"]  # the untouched backbone's numbers stand at share 1 alone
    before = wide["following", "untouched"].groupby(seeds).transform("max")
    perplexity = wide["perplexity", "untouched"].groupby(seeds).transform("max")
    measures = {
        "forgotten": forgetting_rate(wide["following", "text"], before),
        "by ear": forgetting_rate(wide["following", "audio"], before),
        "perplexity": np.log(wide["perplexity", "text"] / perplexity),
        "learned": wide["all", "audio"],
    }
    rows = []
    for measure, scores in measures.items():
        found = scores.rename("score").reset_index()
        rows.append(found.assign(measure=measure, kind=found["arm"].str.split(", ").str[1]))
    controls = {
        ("learned", "untrained"): wide["all", "untrained"],
        ("learned", "oracle"): wide["all", "oracle"],
        ("forgotten", "bare label"): forgetting_rate(wide["following", "label"], before),
    }
    for (measure, kind), scores in controls.items():
        means = scores.groupby("seed").mean().rename("score").reset_index()
        rows.append(means.assign(arm="control", measure=measure, kind=kind, share=1.0))
    groups = ["arm", "kind", "share", "measure"]
    whole = pd.concat(rows, ignore_index=True).dropna(subset=["score"])
    means = add_mean_interval(whole, groups).drop_duplicates(groups).reset_index(drop=True)
    ratios, ends = means["measure"] == "perplexity", ["mean", "low", "high"]
    means.loc[ratios, ends] = np.exp(means.loc[ratios, ends])
    return means[[*groups, "mean", "seeds", "low", "high"]]


def rates_per_constraint(table: pd.DataFrame) -> pd.DataFrame:
    """How often each constraint is obeyed: one column a condition, NaN where it was left out.

    The mean over seeds of the mean over arms: a seed with more arms weighs no more.
    """
    rows = table[table["attribute"].isin(WORDINGS) & (table["share"] == 1)]
    of_seed = rows.groupby(["attribute", "condition", "seed"])["score"].mean()
    rates = of_seed.groupby(["attribute", "condition"]).mean().unstack("condition")
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
        _state_constraints(rates_per_constraint(table), _count_seeds(table)),
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


def _count_seeds(table: pd.DataFrame) -> dict[str, str]:
    """Constraints that count in some seeds and not in all, each with how many."""
    heard = table[table["attribute"].isin(WORDINGS) & (table["condition"] == "text")]
    seeds, every = heard.groupby("attribute")["seed"].nunique(), heard["seed"].nunique()
    return {str(n): f" (in {k} of {every} seeds)" for n, k in seeds.items() if k < every}


def _state_constraints(rates: pd.DataFrame, seeds: Mapping[str, str]) -> str:
    absent = rates["text"].isna()
    counted = [name + seeds.get(name, "") for name in rates.index[~absent]]
    left_out = [
        f"{name} {row['untouched']:.0%} and {row['unasked']:.0%}"
        for name, row in rates[absent].iterrows()
    ]
    return (
        f"Δ counts {len(rates) - absent.sum()} of {len(rates)} constraints: "
        f"{', '.join(counted)}. Left out, with how often the untouched LLM obeys "
        f"them when asked and when not: {', '.join(left_out) or 'none'}."
    )


def headline(table: pd.DataFrame) -> str:
    """The arm that forgot most in text and the one that learned most, in a sentence.

    Of the arms with the most seeds, as of few seeds luck is best; where one arm alone has so many,
    of those with the next most, too. It says so where that leaves an arm out.
    """
    means = learned_and_forgotten(table)
    whole = means[(means["arm"] != "control") & (means["share"] == 1)]
    seeds = whole.groupby("arm")["seeds"].min()
    compared = seeds.index[seeds >= seeds.nlargest(2).iloc[-1]]
    whole = whole[whole["arm"].isin(compared)].set_index(["measure", "arm"])
    lost, learned = whole.loc["forgotten"], whole.loc["learned"]
    worst, best = lost["mean"].idxmin(), learned["mean"].idxmax()
    least = seeds[compared].min()
    among = f"Of the arms of {least} seeds, most" if len(compared) < len(seeds) else "Most"
    return (
        f"{among} is forgotten by {_name_arm(worst)}, Δ {_number(lost.loc[worst], '.0f')} % in "
        f"text; most is learned by {_name_arm(best)}, {_number(learned.loc[best], '.2f')} at Δ "
        f"{_number(lost.loc[best], '.0f')} %"
    )


def _name_arm(arm: str) -> str:
    tuning, target = arm.split(", ")
    names = {"frozen": "a frozen LLM", "full": "full tuning"}
    return f"{names.get(tuning, tuning.replace('lora-', 'LoRA of rank '))} with {target} targets"


def _number(row: Any, form: str) -> str:
    near = min((abs(row[end]) for end in ("low", "high") if row[end] != 0), default=1.0)
    if form == ".0f" and near < 0.5:
        form = ".1f" if near >= 0.05 else ".2f"  # digits that tell the side of 0
    mean, low, high = (f"{row[name]:z{form}}".replace("-", "−") for name in ("mean", "low", "high"))
    return mean if low == high else f"{mean} [{low}, {high}]"  # of one seed both are NaN


def _list(rows: pd.DataFrame, form: str) -> str:
    return "; ".join(f"{row['arm']} {_number(row, form)}" for _, row in rows.iterrows()) or "–"
