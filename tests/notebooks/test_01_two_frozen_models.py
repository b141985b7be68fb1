"""What notebook 01 shows: Whisper holds the attributes, the language model answers from vectors;
both have a null.
"""

import pandas as pd
import pytest

pytestmark = pytest.mark.weights


@pytest.fixture
def whisper(ran) -> pd.DataFrame:
    """Attribute × kind down, site across (0 is the log-mel, then the tapped layers)."""
    rows = ran.table[ran.table["model"] == "Whisper"]
    return rows.pivot(index=["attribute", "kind"], columns="x", values="value")


@pytest.fixture
def llm(ran) -> pd.DataFrame:
    """Attribute × kind down, share of the second word across."""
    rows = ran.table[ran.table["model"] == "LLM"]
    return rows.pivot(index=["attribute", "kind"], columns="x", values="value")


def test_every_attribute_is_readable_in_the_encoder_by_a_probe_that_never_heard_the_speaker(
    whisper,
) -> None:
    best = whisper.drop(columns=0).max(axis=1).unstack()
    assert len(best) == 6 and (best["probe"] > best["random labels"] + 0.3).all(), best


def test_a_probe_on_random_labels_knows_nothing(whisper) -> None:
    chance = {"accent": 1 / 3, "scene": 1 / 4}
    random = whisper.xs("random labels", level="kind").max(axis=1)
    assert all(value < chance.get(name, 1 / 2) + 0.1 for name, value in random.items()), random


def test_the_layers_make_readable_what_the_spectrogram_holds_less_plainly(whisper) -> None:
    probe = whisper.xs("probe", level="kind")
    assert (
        probe.loc[["accent", "rate"]].drop(columns=0).max(axis=1)
        > probe.loc[["accent", "rate"], 0] + 0.1
    ).all()


def test_the_language_model_turns_with_the_words_as_the_text_oracle_does_and_not_with_noise(
    llm,
) -> None:
    words, noise, oracle = (llm.xs(kind, level="kind") for kind in ("words", "noise", "oracle"))
    assert (words[1.0] - words[0.0] > 0.9).all()
    assert ((words[[0.0, 1.0]] - oracle[[0.0, 1.0]]).abs() < 0.1).all(axis=None)
    assert ((noise[1.0] - noise[0.0]).abs() < 0.2).all(), noise


def test_a_coin_is_guessed_by_a_probe_that_knows_the_voices(ran) -> None:
    measured = ran.measured
    assert 0.6 < measured["leak"] <= 1, "the leak should show at the first tapped layer"
    assert measured["best_layer"] in (0, 1, 2, 3) and 0.2 < measured["flip"] < 0.8
