"""Notebook 06: readable before training, said only after it, and every number beside its null."""

import pandas as pd
import pytest

pytestmark = pytest.mark.weights

ATTRIBUTES = {"gender", "accent", "rate", "loudness", "manner", "scene"}


@pytest.fixture(scope="module")
def ends(ran) -> pd.DataFrame:
    return ran.table.set_index(["part", "series", "step", "attribute"]).sort_index()


def test_probe_and_answer_both_come_with_their_controls(ran) -> None:
    found = {part: set(rows["series"]) for part, rows in ran.table.groupby("part")}
    assert found["readable"] == {"log-mel", "random labels", "untrained", "trained"}
    assert found["spoken"] == {"shuffled", "untrained", "trained"}
    assert all(
        set(rows["attribute"]) == ATTRIBUTES for _, rows in ran.table.groupby(["part", "series"])
    )


def test_the_untrained_embeddings_are_read_and_on_average_say_nothing(ran, ends) -> None:
    null = ends.loc[("readable", "random labels", 0)]
    assert (ends.loc[("readable", "untrained", 0), "low"] > null["high"]).sum() >= 5
    said = ends.loc[("spoken", "untrained", 0)]
    assert abs((said["accuracy"] - said["chance"]).mean()) < 0.05  # some above it, some below
    assert (said["low"] <= said["chance"] + 0.02).sum() >= 4


def test_after_training_most_attributes_are_said_and_not_by_shuffled_audio(ran, ends) -> None:
    last = ran.table["step"].max()
    shuffled = ends.loc[("spoken", "shuffled", last)]
    assert (ends.loc[("spoken", "trained", last), "low"] > shuffled["high"]).sum() >= 4
    assert (shuffled["low"] <= shuffled["chance"] + 0.05).sum() >= 5


def test_a_random_labels_probe_stays_at_chance(ran) -> None:
    null = ran.table[ran.table["series"] == "random labels"]
    assert (null["accuracy"] < null["chance"] + 0.05).all()


def test_erasing_one_direction_takes_the_answer_down(ran) -> None:
    guesses = ran.measured
    assert guesses["erased"] < 0.75 < guesses["readable"]
