"""Notebook 05: the rise stands above its controls under every metric, and the jump is measured in
each.
"""

import numpy as np
import pandas as pd
import pytest

pytestmark = pytest.mark.weights


@pytest.fixture(scope="module")
def curves(ran) -> pd.DataFrame:
    return ran.table[ran.table["part"] == "curve"]


@pytest.fixture(scope="module")
def jumps(ran) -> pd.DataFrame:
    return ran.table[ran.table["part"] == "jump"].set_index(["metric", "series"])


def test_every_metric_comes_with_its_controls(curves) -> None:
    found = {metric: set(rows["series"]) for metric, rows in curves.groupby("metric")}
    assert len(found) == 5
    for metric, series in found.items():
        asked_of_the_clip_alone = metric == "free-form"
        assert series >= {"self", "label_others", "oracle"}
        assert asked_of_the_clip_alone or series >= {"shuffled", "silence"}


def test_the_scale_goes_from_the_untrained_connector_to_the_text_oracle(curves) -> None:
    start = curves[(curves["series"] == "self") & (curves["step"] == 0)]
    oracle = curves[curves["series"] == "oracle"]
    assert np.allclose(start["score"], 0, atol=1e-6) and np.allclose(oracle["score"], 1, atol=1e-6)
    assert (curves["low"] <= curves["score"] + 1e-9).all() and (
        curves["score"] <= curves["high"] + 1e-9
    ).all()


@pytest.mark.parametrize(
    "metric", ["accuracy", "probability", "log-probability", "all right at once"]
)
def test_at_the_last_step_the_clip_stands_above_every_control(curves, metric: str) -> None:
    end = curves[(curves["metric"] == metric) & (curves["step"] == curves["step"].max())].set_index(
        "series"
    )
    for control in ("shuffled", "silence", "label_others"):
        assert end.loc["self", "low"] > end.loc[control, "high"], control


def test_the_smooth_metrics_rise_in_a_jump_larger_than_that_of_a_steady_rise(jumps) -> None:
    for metric in ("probability", "log-probability"):
        assert jumps.loc[(metric, "self"), "score"] > jumps.loc[(metric, "steady"), "score"]
        assert jumps.loc[(metric, "self"), "low"] > jumps.loc[(metric, "self"), "score"] - 0.3


def test_all_right_at_once_rises_no_earlier_than_accuracy(curves, jumps) -> None:
    half = {
        metric: rows.loc[(rows["series"] == "self") & (rows["score"] >= 0.5), "step"].min()
        for metric, rows in curves.groupby("metric")
    }
    assert half["all right at once"] >= half["accuracy"]
    assert (
        jumps.loc[("all right at once", "self"), "step"] >= jumps.loc[("accuracy", "self"), "step"]
    )


def test_the_verdict_by_hand_is_the_package_s_and_both_guesses_are_told(ran) -> None:
    assert "SUPPORTED" in ran.printed
    assert set(ran.measured) == {"jump_accuracy", "jump_logprob"}
    assert all(0 < measured < 1 for measured in ran.measured.values())
