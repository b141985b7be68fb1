"""Notebook 07: the figure keeps shape and place apart, each beside its control."""

import pytest

pytestmark = pytest.mark.weights


def test_training_gives_hearing_the_shape_of_reading(ran) -> None:
    shape = ran.table.query("part == 'shape'").set_index("name")
    assert shape.loc["heard, trained", "low"] > shape.loc["heard, untrained", "high"]
    assert (
        shape.loc["heard, untrained", "value"] > shape.loc["heard, untrained", "null"]
    )  # no blank page before


def test_noise_has_no_shape_in_common_with_the_descriptions(ran) -> None:
    shape = ran.table.query("part == 'shape'").set_index("name")
    assert abs(shape.loc["noise (control)", "value"]) < 0.05
    assert shape["null"].between(-0.02, 0.05).all()


def test_the_gap_does_not_close(ran) -> None:
    place = ran.table.query("part == 'place'")
    own = place[place["name"] == "cosine to its own text"].set_index("step")["value"]
    other = place[place["name"] == "cosine, other clip's text"].set_index("step")["value"]
    assert own[own.index.max()] < own[0]
    assert (
        own[own.index.max()] > other[other.index.max()]
    )  # yet nearer to its own text than to another clip's


def test_trained_neighbours_share_the_accent_and_random_labels_do_not(ran) -> None:
    near = ran.table.query("part == 'neighbours'").set_index("name")
    assert near.loc["heard, trained", "low"] > near.loc["heard, untrained", "high"]
    assert near.loc["read, random labels", "high"] < near.loc["heard, untrained", "low"]
    assert near.loc["read, random labels", "value"] == pytest.approx(1 / 3, abs=0.05)


def test_the_usual_cka_of_noise_is_revealed_as_large(ran) -> None:
    told = ran.measured
    assert told["noise"] > 0.8 and told["shape"] < 1 and 0 < told["cosine"] < 0.5


def test_every_map_shows_the_same_clips_and_says_how_far_to_trust_it(ran) -> None:
    maps = ran.table.query("part == 'map'")
    assert maps.groupby("name").size().nunique() == 1 and maps["name"].nunique() == 3
    assert maps["name"].str.contains("trustworthiness").all()
