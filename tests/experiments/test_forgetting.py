"""What is forgotten is measured against the untouched backbone: nothing by itself, and by rule what
was spoiled.
"""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from desta_lab.clips import Clip
from desta_lab.evaluation import constraints
from desta_lab.experiments import forgetting
from desta_lab.model import build, presets, weights
from desta_lab.model.audio_llm import AudioLLM
from desta_lab.model.backbone import Backbone
from desta_lab.training import targets
from desta_lab.views import saving, study_figures
from desta_lab.world.attributes import ATTRIBUTES
from desta_lab.world.describe import describe
from tests import tiny

QUESTIONS = ("What is the background sound?", "What is the gender of the speaker?")
TAUGHT = {
    "change_case:english_capital",
    "change_case:english_lowercase",
    "detectable_format:json_format",
    "detectable_format:number_bullet_lists",
    "length_constraints:number_words",
    "startend:quotation",
}


def clips(count: int = 3) -> list[Clip]:
    values = [{name: v[i % len(v)] for name, v in ATTRIBUTES.items()} for i in range(count)]
    return [Clip(f"clip-{i}", f"{i}.wav", 4.0, "", f"speaker-{i}", a) for i, a in enumerate(values)]


def glass_box(tuning: str = "frozen") -> AudioLLM:
    """The nano LLM that ships, behind tiny random ears."""
    ears, mind = tiny.audio_llm().encoder, Backbone.load(weights.NANO_FOLDER, dtype=torch.float32)
    connector = build.build_connector(presets.SMALL, ears, mind)
    mind.unfreeze(tuning)
    return AudioLLM(ears, connector, mind, {})


def spoil(llm: AudioLLM) -> AudioLLM:
    """Move all that learns far away from where it was."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in llm.backbone.trainable_parameters.values():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return llm


def own_answers(llm: AudioLLM) -> list[targets.Target]:
    pairs = [(describe(clip.attributes), question) for clip in clips() for question in QUESTIONS]
    return list(targets.generate_targets(llm.backbone, "nano", "", pairs).values())


def make_instructions(only: Collection[str]) -> list[forgetting.Instruction]:
    """The instructions about three clips under some of the constraints."""
    items = forgetting.make_instructions(clips(), QUESTIONS)
    return [item for item in items if item.constraint in only]


def obeyed(llm: AudioLLM, items: list[forgetting.Instruction], **how: Any) -> list[float]:
    return forgetting.answer_instructions(llm, items, **how)["obeyed"].tolist()


def test_every_constraint_there_is_a_check_for_is_asked_about_every_question():
    items = forgetting.make_instructions(clips(), QUESTIONS)
    assert (
        {item.constraint for item in items} == set(constraints.CHECKS) == set(forgetting.WORDINGS)
    )
    counts = pd.DataFrame([(i.constraint, i.question) for i in items]).value_counts()
    assert set(counts) == {2}
    assert {item.clip.id for item in items} == {"clip-0", "clip-1", "clip-2"}
    assert all(item.description == describe(item.clip.attributes) for item in items)
    own = forgetting.make_instructions(clips(), QUESTIONS, lambda attributes: attributes["scene"])
    assert all(item.description == item.clip.attributes["scene"] for item in own)


@pytest.fixture(scope="module")
def untouched() -> AudioLLM:
    return glass_box()


def test_what_the_backbone_was_taught_is_counted_and_what_it_cannot_do_is_named(
    untouched: AudioLLM,
):
    table = forgetting.rate_constraints(
        untouched, forgetting.make_instructions(clips(), QUESTIONS)
    ).set_index("constraint")
    assert set(table.index) == set(constraints.CHECKS)
    assert set(table.index[table["counted"]]) >= TAUGHT
    assert (
        not table.loc["startend:end_checker", "counted"]
        and table.loc["startend:end_checker", "untouched"] == 0
    )


def test_what_is_obeyed_unasked_is_not_counted(
    untouched: AudioLLM, monkeypatch: pytest.MonkeyPatch
):
    short = ("Answer in less than 90 words.", {"num_words": 90, "relation": "less than"})
    monkeypatch.setitem(forgetting.WORDINGS, "length_constraints:number_words", short)
    table = forgetting.rate_constraints(
        untouched, forgetting.make_instructions(clips(), QUESTIONS)
    ).set_index("constraint")
    assert table.loc["length_constraints:number_words", "unasked"] == 1
    assert not table.loc["length_constraints:number_words", "counted"]


def test_a_backbone_that_obeys_nothing_has_nothing_to_forget():
    with pytest.raises(ValueError, match="obeys none of 13 constraints"):
        forgetting.rate_constraints(
            tiny.audio_llm(), forgetting.make_instructions(clips(1), QUESTIONS[:1])
        )


@pytest.mark.parametrize("tuning", ["frozen", "lora-4", "full"])
def test_a_backbone_that_learned_nothing_has_forgotten_nothing_at_all(tuning: str):
    llm = glass_box(tuning)
    items = make_instructions(TAUGHT)
    written = own_answers(llm)
    with llm.backbone.untuned():
        before, calm = obeyed(llm, items), targets.target_perplexity(llm.backbone, written)
    assert obeyed(llm, items) == before and sum(before) == len(items)
    assert targets.target_perplexity(llm.backbone, written) / calm == 1


@pytest.mark.parametrize("tuning", ["lora-4", "full"])
def test_a_spoiled_backbone_obeys_less_in_text_and_is_surprised_by_its_own_words(tuning: str):
    llm = glass_box(tuning)
    items, written = make_instructions(TAUGHT), own_answers(llm)
    calm = targets.target_perplexity(llm.backbone, written)
    spoil(llm)
    assert sum(obeyed(llm, items)) < 0.5 * len(items)
    assert targets.target_perplexity(llm.backbone, written) > 2 * calm
    with llm.backbone.untuned():
        assert sum(obeyed(llm, items)) == len(items)


@pytest.mark.parametrize("transcripts", [False, True])
def test_by_ear_the_words_of_a_clip_follow_it_where_they_did_in_training(transcripts, monkeypatch):
    llm, streams = tiny.audio_llm(), []
    monkeypatch.setattr(
        llm, "generate_ids", lambda some, *_, **how: streams.extend(some) or [()] * len(some)
    )
    items = [
        replace(item, clip=replace(item.clip, transcript="said aloud"))
        for item in forgetting.make_instructions(clips(1), QUESTIONS[:1])
    ]
    heard = torch.zeros(len(items), llm.queries, tiny.WIDTH)
    forgetting.answer_instructions(llm, items, heard, transcripts=transcripts)
    asked = [llm.backbone.decode([i for i in stream.ids if i >= 0]) for stream in streams]
    assert len(asked) == len(items)
    assert all(("said aloud" in text) == transcripts for text in asked)


def test_adapters_at_0_give_the_untouched_backbone_back():
    llm = spoil(glass_box("lora-4"))
    items, written = make_instructions(TAUGHT), own_answers(llm)
    with llm.backbone.untuned():
        answers, calm = (
            forgetting.answer_instructions(llm, items)["answer"],
            targets.target_perplexity(llm.backbone, written),
        )
    llm.backbone.scale_adapters(0.0)
    assert forgetting.answer_instructions(llm, items)["answer"].tolist() == answers.tolist()
    assert targets.target_perplexity(llm.backbone, written) == calm


def test_by_ear_the_clip_is_heard_and_the_description_is_not_read(untouched: AudioLLM):
    items = make_instructions(["detectable_format:json_format"])
    words = torch.zeros(len(items), untouched.queries, untouched.backbone.width)
    heard = forgetting.answer_instructions(untouched, items, words)["answer"].tolist()
    other = [replace(item, clip=items[0].clip, description=items[0].description) for item in items]
    assert forgetting.answer_instructions(untouched, other, words)["answer"].tolist() == heard
    assert forgetting.answer_instructions(untouched, items)["answer"].tolist() != heard


# ---- the plane ----


def swept(seeds: int = 3) -> pd.DataFrame:
    """A table as a study keeps it: labels with adapters forget half of it, which scaling to 0 gives
    back.
    """
    rows = []
    for arm, text, learned in (("frozen, self", 1.0, 0.6), ("lora-8, label", 0.5, 0.1)):
        for seed in range(seeds):
            rows += [
                (arm, seed, 3, "all", condition, 1.0, score)
                for condition, score in (
                    ("audio", learned + seed / 100),
                    ("untrained", 0.0),
                    ("oracle", 1.0),
                )
            ]
            rows += [
                (arm, seed, None, "following", condition, 1.0, score)
                for condition, score in (
                    ("untouched", 1.0),
                    ("text", text),
                    ("audio", text - 0.1),
                    ("label", 0.25),
                )
            ]
            rows += [
                (arm, seed, None, "perplexity", condition, 1.0, n)
                for condition, n in (("untouched", 2.0), ("text", 3.0))
            ]
            if arm.startswith("lora"):
                rows += [
                    (arm, seed, 3, "all", "audio", 0.0, 0.0),
                    (arm, seed, None, "following", "text", 0.0, 1.0),
                    (arm, seed, None, "following", "audio", 0.0, 1.0),
                    (arm, seed, None, "perplexity", "text", 0.0, 2.0),
                ]
    return pd.DataFrame(
        rows, columns=["arm", "seed", "rung", "attribute", "condition", "share", "score"]
    )


def test_the_plane_sets_every_share_against_the_untouched_text_view():
    plane = forgetting.learned_and_forgotten(swept()).set_index(["arm", "share", "measure"])["mean"]
    assert (
        plane["frozen, self", 1.0, "forgotten"] == 0
        and plane["frozen, self", 1.0, "perplexity"] == 1.5
    )
    assert plane["lora-8, label", 1.0, "forgotten"] == -50
    assert plane["lora-8, label", 1.0, "by ear"] == pytest.approx(-60)
    assert (
        plane["lora-8, label", 0.0, "forgotten"] == 0
        and plane["lora-8, label", 0.0, "perplexity"] == 1
    )


def test_the_plane_has_its_controls_and_intervals_over_seeds():
    plane = forgetting.learned_and_forgotten(swept()).set_index(["arm", "kind", "measure"])
    assert plane.loc[("control", "bare label", "forgotten"), "mean"] == -75
    assert plane.loc[("control", "oracle", "learned"), "mean"] == 1
    row = plane.loc[("frozen, self", "self", "learned")]
    assert row["low"] < 0.6 < row["mean"] < row["high"] and row["seeds"] == 3
    assert forgetting.learned_and_forgotten(swept(1))["low"].isna().all()


def test_the_sentences_tell_what_was_shown_from_what_was_not_and_name_what_was_left_out():
    absent = [
        ("frozen, self", 0, None, "startend:end_checker", condition, 1.0, 0.0)
        for condition in ("untouched", "unasked")
    ]
    kept = [
        ("frozen, self", 0, None, "startend:quotation", condition, 1.0, 1.0)
        for condition in ("untouched", "text", "audio")
    ]
    table = swept()
    said = forgetting.state_findings(
        pd.concat([table, pd.DataFrame(absent + kept, columns=table.columns)])
    )
    assert (
        "in text" in said[0] and "shown lora-8, label −50 [" not in said[0]
    )  # no width: every seed the same
    assert "shown lora-8, label −50; not shown –; none in any seed frozen, self." in said[0]
    assert "give the text back in 1 of 1 arms" in said[4]
    assert said[-1].endswith("startend:end_checker 0% and 0%.")
    assert forgetting.headline(table) == (
        "Most is forgotten by LoRA of rank 8 with label targets, Δ −50 % in text; most is "
        "learned by a frozen LLM with "
        "self targets, 0.61 [0.59, 0.63] at Δ 0 %"
    )


def test_constraints_weigh_every_seed_alike_and_say_in_how_many_they_count():
    rows = [
        (arm, seed, None, "startend:quotation", condition, 1.0, score)
        for arm, seed in (("frozen, self", 0), ("frozen, self", 1), ("lora-8, label", 0))
        for condition, score in (("untouched", 1.0 - seed), ("unasked", 0.0), ("text", 1.0))
        if condition != "text" or seed == 0
    ]
    rows += [("frozen, self", 1, None, "detectable_format:title", "text", 1.0, 1.0)]
    rows += [("frozen, self", 0, None, "detectable_format:title", "text", 1.0, 1.0)]
    table = pd.concat([swept(2), pd.DataFrame(rows, columns=swept().columns)])
    rates = forgetting.rates_per_constraint(table)
    assert rates.loc["startend:quotation", "untouched"] == 0.5
    said = forgetting.state_findings(table)[-1]
    assert "detectable_format:title, startend:quotation (in 1 of 2 seeds)." in said


def test_an_arm_of_one_seed_beside_others_of_more_is_said_to_be_one():
    one = [
        ("frozen, self", 0, None, "startend:quotation", condition, 1.0, 1.0)
        for condition in ("untouched", "text", "audio")
    ]
    table = pd.concat([swept(), pd.DataFrame(one, columns=swept().columns)])
    some = table[(table["arm"] == "frozen, self") | (table["seed"] == 0)]
    assert "not shown lora-8, label (one seed) −50;" in forgetting.state_findings(some)[0]
    assert not any(
        "(one seed)" in sentence
        for sentence in forgetting.state_findings(table[table["seed"] == 0])
    )


def test_the_headline_says_of_which_arms_it_speaks():
    table = swept()
    more = [table.assign(arm=arm) for arm in ("lora-2, self", "lora-8, self")]
    some = pd.concat([table[(table["arm"] == "frozen, self") | (table["seed"] == 0)], *more])
    said = forgetting.headline(some)
    assert said.startswith(f"Of the arms of {table['seed'].nunique()} seeds, most is forgotten by")
    assert "label" not in said


def test_the_headline_compares_arms_while_one_of_them_is_ahead_in_seeds():
    table = swept()
    some = table[(table["arm"] == "frozen, self") | (table["seed"] == 0)]
    said = forgetting.headline(some)
    assert said.startswith("Most is forgotten by LoRA of rank 8 with label targets, Δ −50 % in")


@pytest.mark.parametrize(
    ("losses", "number"),
    [
        ((1, 2, 1.7), "−1.6 [−2.8, −0.3]; lora-8, label −50"),
        ((30, 40, 50), "−40 [−65, −15]; lora-8, label −50"),
    ],
)
def test_a_number_near_0_has_the_digits_that_tell_its_side(losses, number):
    table = swept()
    heard = (table["attribute"] == "following") & (table["condition"] == "text")
    for seed, loss in enumerate(losses):
        own = heard & (table["arm"] == "frozen, self") & (table["seed"] == seed)
        table.loc[own, "score"] = 1 - loss / 100
    one = [
        ("frozen, self", 0, None, "startend:quotation", condition, 1.0, 1.0)
        for condition in ("untouched", "text", "audio")
    ]
    table = pd.concat([table, pd.DataFrame(one, columns=table.columns)])
    assert f"shown frozen, self {number}" in forgetting.state_findings(table)[0]


def test_the_interval_of_a_ratio_stays_above_zero():
    table = swept()
    text = (table["attribute"] == "perplexity") & (table["condition"] == "text")
    own = text & (table["arm"] == "lora-8, label") & (table["share"] == 1)
    untouched = table.loc[own, "score"].to_numpy()
    table.loc[own, "score"] = untouched * 10.0 ** np.arange(own.sum())
    plane = forgetting.learned_and_forgotten(table).set_index(["arm", "share", "measure"])
    row = plane.loc["lora-8, label", 1.0, "perplexity"]
    assert 0 < row["low"] < row["mean"] < row["high"]
    assert row["low"] * row["high"] == pytest.approx(row["mean"] ** 2)


def test_the_plane_names_the_arms_that_have_no_bars():
    table = swept()
    some = table[(table["arm"] == "frozen, self") | (table["seed"] == 0)]

    def note(table: pd.DataFrame) -> str:
        picture = study_figures.plot_tradeoff(forgetting.learned_and_forgotten(table))
        return picture.legends[0].get_title().get_text()

    assert note(some).endswith("without bars, of one seed: lora-8, label")
    assert "without" not in note(table) and "one seed" in note(table[table["seed"] == 0])


def test_the_plane_holds_the_intervals_of_its_marks():
    plane = forgetting.learned_and_forgotten(swept())
    across = plane["measure"].isin(["forgotten", "by ear"]) & (plane["share"] == 1)
    of_frozen = across & (plane["arm"] == "frozen, self")
    plane.loc[of_frozen, "low"], plane.loc[of_frozen, "high"] = -20.0, 20.0  # its mean is 0
    left, right = study_figures.plot_tradeoff(plane).axes[0].get_xlim()
    assert left < plane.loc[across, "low"].min() and plane.loc[across, "high"].max() < right


def test_the_plane_is_drawn_with_a_mark_for_each_arm(tmp_path):
    picture = study_figures.plot_tradeoff(
        forgetting.learned_and_forgotten(swept()), "What was learned"
    )
    saving.save_figure(picture, tmp_path, "forgetting")
    labels = set(picture.axes[0].get_legend_handles_labels()[1])
    assert {"untrained connector (step 0)", "text oracle", "self targets"} <= labels
