"""Notebook 09: frozen forgets nothing, bare labels disobey by ear, and adapters can reach the
text.
"""

import pandas as pd
import pytest

pytestmark = pytest.mark.weights
FROZEN = ["untrained", "bare-label run", "self-generated", "+ label, frozen"]


@pytest.fixture(scope="module")
def score(ran) -> pd.DataFrame:
    """Model × part, from the table of the headline."""
    table = ran.table
    assert ((table["low"] <= table["score"]) & (table["score"] <= table["high"])).all()
    return table.pivot(index="model", columns="part", values="score")


def test_without_adapters_the_text_view_is_the_same_to_the_last_answer(score) -> None:
    text = score.loc[FROZEN, ["obeys in text", "right in text"]]
    assert (text == text.iloc[0]).all(axis=None)


def test_by_ear_bare_labels_follow_worse_than_self_generated_targets(score) -> None:
    obeys = score["obeys by ear"]
    assert obeys["self-generated"] - obeys["bare-label run"] > 0.2
    # in float32 a few labels cost .05 of obedience, in bf16 nothing; labels from birth cost more
    assert obeys["self-generated"] >= obeys["+ label, frozen"] > obeys["bare-label run"] + 0.1


def test_a_few_bare_labels_teach_their_attribute_and_cost_the_others(score) -> None:
    taught, before = score.loc["+ label, frozen"], score.loc["self-generated"]
    assert taught["taught"] - taught["shuffled"] > 0.4
    assert before["others"] - taught["others"] > 0.2


def test_the_larger_rate_of_lora_reaches_the_text_and_turning_it_off_gives_it_back(score) -> None:
    lora = [model for model in score.index if "LoRA" in model]
    strong = max(
        (model for model in lora if "scale" not in model),
        key=lambda model: float(model.rsplit(" ", 1)[1]),
    )
    assert score.loc["+ label, frozen", "obeys in text"] - score.loc[strong, "obeys in text"] > 0.2
    off = score.loc[f"{strong}, scale 0", ["obeys in text", "right in text"]]
    assert (off == score.loc["+ label, frozen", ["obeys in text", "right in text"]]).all()


def test_the_untrained_connector_shows_that_following_is_not_hearing(score) -> None:
    assert score.loc["untrained", "obeys by ear"] > 0.8
    assert score.loc["untrained", "others"] < score.loc["self-generated", "others"] - 0.2


def test_the_forgetting_rate_of_bare_labels_is_a_loss(ran) -> None:
    measured = ran.measured
    assert measured["delta_label"] < -0.1


def test_the_constraints_that_the_backbone_cannot_obey_are_named_and_the_plane_is_read_out(
    ran,
) -> None:
    assert "left out: combination:repeat_prompt" in ran.printed
    assert "Δ in text" in ran.printed and "Δ by ear" in ran.printed
