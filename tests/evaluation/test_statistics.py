"""Intervals hold what they promise, and every bootstrap draws the same way every time."""

import re

import numpy as np
import pandas as pd
import pytest

from desta_lab.evaluation import statistics
from desta_lab.experiments.quickstart import FEW_SPEAKERS


def right(speakers: int, each: int, rate: float, seed: int) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "task": "t",
            "speaker": np.repeat([f"s{i}" for i in range(speakers)], each),
            "correct": (draw.random(speakers * each) < rate).astype(float),
        }
    )


def test_intervals_over_speakers_hold_the_true_mean_in_nearly_all_of_many_tables() -> None:
    inside = []
    for seed in range(60):
        table = right(16, 6, 0.8, seed)
        mean, low, high = statistics.bootstrap_intervals(table, "correct", ["task"])["t",]
        assert mean == pytest.approx(table["correct"].mean())
        inside.append(low <= 0.8 <= high)
    assert np.mean(inside) >= 0.85


def test_the_interval_of_half_samples_holds_the_truth_in_95_of_100() -> None:
    rng, rows, inside = np.random.default_rng(0), 96, []
    for _ in range(400):
        drawn = rng.normal(size=rows)
        halves = [drawn[rng.permutation(rows)[: rows // 2]].mean() for _ in range(100)]
        low, high = statistics.half_sample_ends(float(drawn.mean()), halves)
        inside.append(low <= 0 <= high)
    assert 0.91 <= np.mean(inside) <= 0.98, np.mean(inside)


def test_clips_of_one_speaker_count_as_one_witness() -> None:
    """Where speakers differ, their interval is wider than the one that clips alone would give."""
    table = right(16, 6, 0.5, 0)
    table["correct"] = table["speaker"].isin([f"s{i}" for i in range(8)]).astype(float)
    _, low, high = statistics.bootstrap_intervals(table, "correct", ["task"])["t",]
    assert high - low > 1.5 * 2 * 1.96 * np.sqrt(0.25 / 96)


def test_groups_share_their_resamples_so_that_differences_are_paired() -> None:
    table = right(8, 3, 0.5, 1)
    both = pd.concat([table, table.assign(task="same")])
    means = statistics.bootstrap_means(both, "correct", ["task"])
    np.testing.assert_array_equal(means["t",], means["same",])


def test_what_is_not_known_counts_in_no_mean() -> None:
    table = right(4, 2, 1.0, 0)
    table.loc[0, "correct"] = float("nan")
    assert statistics.bootstrap_intervals(table, "correct", ["task"])["t",] == (1.0, 1.0, 1.0)
    assert statistics.bootstrap_means(table.assign(correct=float("nan")), "correct", ["task"]) == {}


def test_the_first_weights_are_the_data_and_every_resample_draws_as_many() -> None:
    weights = statistics.resample_weights(7)
    assert (weights[0] == 1).all() and (weights.sum(1) == 7).all()
    with pytest.raises(ValueError, match="read-only"):
        weights[0] = 2
    rows = statistics.resample_rows(7)
    assert rows.shape == (statistics.RESAMPLES, 7) and rows.min() == 0 and rows.max() == 6


def test_an_interval_table_has_a_row_a_group() -> None:
    table = pd.concat([right(6, 4, 0.5, 0), right(6, 4, 0.5, 1).assign(task="u")])
    found = statistics.interval_table(table, "correct", ["task"], "accuracy")
    assert list(found.columns) == ["task", "accuracy", "low", "high"]
    assert list(found["task"]) == ["t", "u"] and (found["low"] <= found["high"]).all()


def test_an_interval_over_rows_is_of_the_statistic_itself() -> None:
    values = np.arange(20.0)
    mean, low, high = statistics.bootstrap_interval(lambda rows: values[rows].mean(-1), 20)
    assert mean == 9.5 and low < 9.5 < high


def test_an_interval_over_seeds_is_that_of_student() -> None:
    middle, low, high = statistics.mean_interval([1.0, 2.0, 3.0, float("nan")])
    assert (middle, high - middle) == (2.0, pytest.approx(4.303 / 3**0.5, rel=1e-3))
    assert low == pytest.approx(2 * middle - high)


def test_one_seed_has_a_mean_and_no_interval() -> None:
    mean, *ends = statistics.mean_interval([0.5])
    assert mean == 0.5 and np.isnan(ends).all()
    assert np.isnan(statistics.mean_interval([])).all()


def test_every_row_gets_the_interval_of_its_group() -> None:
    table = pd.DataFrame({"arm": ["a", "a", "a", "b"], "score": [1.0, 2.0, 3.0, 5.0]})
    found = statistics.add_mean_interval(table, ["arm"])
    assert list(found["mean"]) == [2.0, 2.0, 2.0, 5.0] and list(found["seeds"]) == [3, 3, 3, 1]
    assert (found["low"][0], found["high"][0]) == pytest.approx(
        statistics.mean_interval([1.0, 2.0, 3.0])[1:]
    )
    assert np.isnan(found["low"][3])


def test_the_sign_flip_test_is_wrong_in_any_of_its_cells_at_the_rate_it_says():
    rng = np.random.default_rng(0)
    false = 0
    for _ in range(300):
        common = rng.normal(size=(24, 1))  # cells that go together, as layers do
        p = statistics.sign_flip_p(0.7 * common + rng.normal(size=(24, 12)), flips=200)
        false += bool((p < 0.05).any())
    assert 0.02 < false / 300 < 0.09


def test_the_sign_flip_test_finds_the_cell_that_differs():
    differences = np.random.default_rng(1).normal(size=(24, 12))
    differences[:, 7] += 1.5
    differences[:, 3] = 0
    p = statistics.sign_flip_p(differences)
    assert (p < 0.05).tolist() == [cell == 7 for cell in range(12)]
    assert p[3] == 1


@pytest.mark.parametrize("signal", [0.0, 1.6])
def test_groups_that_differ_in_one_cell_are_told_there_and_nowhere_else(signal):
    rng, found = np.random.default_rng(2), np.zeros(8)
    for _ in range(100):
        marked = np.arange(40) % 4 < 2
        values = rng.normal(size=(40, 1)) + rng.normal(size=(40, 8))
        values[:, 0] = 0
        values[marked, 5] += 1.5 * signal
        found += statistics.group_difference_p(values, marked, draws=200) < 0.05
    assert found[0] == 0
    assert found[[1, 2, 3, 4, 6, 7]].max() <= 6
    assert (found[5] > 80) == bool(signal)


def test_a_value_like_its_draws_has_a_small_rank_at_most_at_the_stated_rate():
    """Simulated: as random heads or random directions beside one of their own kind."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2000, 21))
    small = [statistics.rank_p(row[0], row[1:]) < 0.05 for row in values]
    assert 0.03 < np.mean(small) < 0.065
    assert statistics.rank_p(0.0, np.zeros(20)) == 1
    assert statistics.rank_p(1.0, np.zeros(19)) == 0.05


@pytest.mark.parametrize(("draws", "rate"), [(20, 1 / 21), (39, 1 / 40), (200, 0.025)])
def test_another_draw_of_a_null_lies_beyond_an_end_as_often_as_is_said(draws, rate) -> None:
    drawn = np.random.default_rng(0).standard_normal((4000, draws + 1))
    ends = np.array([statistics.null_ends(row[1:]) for row in drawn])
    beyond = (drawn[:, 0] < ends[:, 0]).mean(), (drawn[:, 0] > ends[:, 1]).mean()
    assert beyond == pytest.approx((rate, rate), abs=0.01)


def test_what_could_not_be_measured_has_no_rank_and_one_pair_shows_nothing() -> None:
    assert np.isnan(statistics.rank_p(float("nan"), [float("nan")] * 200))
    assert statistics.sign_flip_p(np.array([[1.0, 0.0, -2.0]])).tolist() == [1, 1, 1]


def test_intervals_over_few_speakers_hold_the_truth_as_often_as_the_card_says():
    """Speakers of 4 clips each, about whom a model is right more or less often (logit 1.4 ± 1)."""
    rng = np.random.default_rng(0)
    truth = (1 / (1 + np.exp(-(1.4 + rng.normal(size=200_000))))).mean()

    def holds(speakers: int) -> bool:
        right = rng.binomial(4, 1 / (1 + np.exp(-(1.4 + rng.normal(size=speakers))))) / 4
        _, low, high = statistics.bootstrap_interval(lambda rows: right[rows].mean(-1), speakers)
        return low <= truth <= high

    told = re.findall(r"(\d+)(?: of 100 cases)? with (\d+)", FEW_SPEAKERS)
    assert [int(speakers) for _, speakers in told] == [4, 8, 12, 16]
    for share, speakers in told:
        held = [holds(int(speakers)) for _ in range(800)]
        assert abs(100 * np.mean(held) - int(share)) < 4, speakers
