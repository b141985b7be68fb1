"""Each claim of the emergence report follows its rule: what is built into a table is found, and
nothing else.
"""

import numpy as np
import pandas as pd
import pytest

from desta_lab.experiments import emergence_claims

STEPS = [0, 1, 2, 4, 8, *range(16, 304, 16), 300]
SEEDS = range(5)
TASKS = {"ask_gender": "gender", "ask_scene": "scene", "country": "accent", "ask_accent": "accent"}


def clips(shape, noise: float = 0.0) -> pd.DataFrame:
    """Answers of one run whose accuracy and margin go along `shape` (0 to 1) of training's share
    that is done.
    """
    rng = np.random.default_rng(0)
    rows = []
    for task, attribute in TASKS.items():
        for step in STEPS:
            for condition in ("audio", "shuffled", "silence"):
                level = shape(step / STEPS[-1]) if condition == "audio" else 0.0
                for i in range(32):
                    p = 0.5 + level / 2
                    right = float(rng.random() < p) if noise else p
                    rows.append(
                        {
                            "step": step,
                            "condition": condition,
                            "task": task,
                            "rung": 3,
                            "attribute": attribute,
                            "chance": 0.5,
                            "clip": f"c{i}",
                            "speaker": f"s{i % 16}",
                            "calibrated": right,
                            "margin": 4 * level + noise * rng.normal(),
                        }
                    )
    return pd.DataFrame(rows)


def curve_table(
    when: dict[tuple[int, str], float], clips: int = 768, width: float = 1.0
) -> pd.DataFrame:
    """Curves of runs whose tasks rise at a step of their own, over `width` steps."""
    rows = []
    for (seed, task), at in when.items():
        for step in STEPS:
            for condition in ("audio", "shuffled", "silence"):
                level = (
                    float(np.clip((step - at) / width + 1, 0, 1)) if condition == "audio" else 0.0
                )
                rows.append(
                    {
                        "run": "self",
                        "clips": clips,
                        "seed": seed,
                        "step": step,
                        "condition": condition,
                        "task": task,
                        "rung": 4 if task == "country" else 3,
                        "attribute": TASKS[task],
                        "counted": True,
                        "score": level,
                        "margin": 4 * level,
                        "lead": level - 0.1 if condition == "audio" else np.nan,
                    }
                )
    return pd.DataFrame(rows)


def probe_table(up_from: float) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "run": "self",
                "clips": 768,
                "seed": seed,
                "step": step,
                "attribute": attribute,
                "score": 0.9,
                "random": 0.0,
                "lead": 0.5 if step >= up_from else -0.1,
            }
            for seed in SEEDS
            for step in STEPS
            for attribute in sorted(set(TASKS.values()))
        ]
    )


def test_a_step_is_a_jump_and_a_line_is_not() -> None:
    line = np.linspace(0.0, 1.0, 11)
    curves = np.stack([line, line > 0.55, 100 * line - 7])  # the last: whatever the unit
    assert emergence_claims.jump_share(curves).tolist() == pytest.approx([0.1, 1.0, 0.1])


def test_a_steady_rise_goes_as_far_with_the_noise_of_the_data() -> None:
    rng = np.random.default_rng(0)
    curve = np.vstack([rng.random(4), rng.random((2000, 4))])
    flat = emergence_claims.steady_rise(curve, [0, 1, 10, 20])
    whole = curve[0, -1] - curve[0, 0]
    np.testing.assert_allclose(flat[0] - flat[0, 0], whole * np.array([0, 0.05, 0.5, 1]))
    np.testing.assert_allclose(flat[1:] - flat[0], curve[1:] - curve[0])


def both(accuracy, margin, noise: float = 0.5) -> emergence_claims.Claim:
    """The claim on five runs in which the two metrics have these shapes."""
    sudden, smooth = clips(accuracy, noise), clips(margin, noise)
    answers = sudden.assign(margin=smooth["margin"])
    found = pd.concat([emergence_claims.measure_jumps(answers).assign(seed=seed) for seed in SEEDS])
    found["share"] += 0.01 * np.random.default_rng(1).normal(
        size=len(found)
    )  # no two runs are the same
    when = {(seed, task): 100.0 for seed in SEEDS for task in TASKS}
    return emergence_claims.judge_jumps(found, curve_table(when))


def test_accuracy_that_jumps_over_a_smooth_margin_is_called_so() -> None:
    assert "part of the jump is the metric" in both(lambda t: float(t > 0.5), lambda t: t).verdict


def test_no_mirage_is_claimed_where_both_rise_alike() -> None:
    assert "no mirage" in both(lambda t: t, lambda t: t).verdict
    assert "no mirage" in both(lambda t: float(t > 0.5), lambda t: float(t > 0.5)).verdict


def test_only_tasks_that_rise_in_every_run_and_that_the_oracle_can_do_are_counted() -> None:
    table = curve_table({(seed, task): 100.0 for seed in SEEDS for task in TASKS})
    table.loc[table["task"] == "country", "counted"] = False
    table.loc[(table["task"] == "ask_scene") & (table["seed"] == 3), "lead"] = -0.1
    assert emergence_claims.rising_tasks(table) == ["ask_accent", "ask_gender"]


def distances_of(when: dict[tuple[int, str], float]) -> emergence_claims.Claim:
    half = emergence_claims.find_crossings(curve_table(when), probe_table(0.0)).query(
        "what == 'half way'"
    )
    return emergence_claims.judge_distances(
        emergence_claims.measure_distances(half, [float(step) for step in STEPS]), half
    )


def test_independent_crossings_are_not_called_together() -> None:
    rng = np.random.default_rng(2)
    claim = distances_of(
        {(seed, task): float(rng.uniform(10, 290)) for seed in SEEDS for task in TASKS}
    )
    assert claim.verdict.startswith("no: ") and "moment of its own is not shown" in claim.verdict


def test_a_shared_part_of_training_is_told_from_a_moment_of_each_run() -> None:
    rng = np.random.default_rng(2)
    shared = {(seed, task): float(rng.uniform(90, 160)) for seed in SEEDS for task in TASKS}
    assert (
        distances_of(shared).verdict
        == "yes, in one part of training; that a run has a moment of its own is not shown"
    )
    own = {(seed, task): 50.0 + 50 * seed + rng.uniform(0, 30) for seed in SEEDS for task in TASKS}
    assert "steps closer than tasks of different runs" in distances_of(own).verdict


def test_a_task_that_never_crosses_is_counted_and_in_no_distance() -> None:
    when = {(seed, task): 100.0 for seed in SEEDS for task in TASKS}
    half = emergence_claims.find_crossings(
        curve_table(when | {(0, "country"): 999.0}), probe_table(0.0)
    ).query("what == 'half way'")
    found = emergence_claims.measure_distances(half, [float(step) for step in STEPS])
    assert found.set_index("name").loc["measured", "mean"] == 0.0
    assert "1 crossings censored" in emergence_claims.judge_distances(found, half).numbers[0]


def test_exchanged_crossings_keep_every_tasks_own_times() -> None:
    steps = np.arange(20, dtype=float).reshape(5, 4)
    dealt = emergence_claims.exchange_runs(steps)
    assert (np.sort(dealt, axis=1) == steps).all()
    assert len(np.unique(dealt[:, :, 0] - dealt[:, :, 1])) > 1  # and lose their run


@pytest.mark.parametrize(
    ("up_from", "words"),
    [(0, "up from step 0"), (16, "the probe is up first"), (200, "the answer is up first")],
    ids=["from birth", "earlier", "later"],
)
def test_the_probe_is_first_only_where_it_rises_first(up_from: int, words: str) -> None:
    rng = np.random.default_rng(0)
    table = curve_table(
        {(seed, task): 100.0 + rng.uniform(0, 40) for seed in SEEDS for task in TASKS}
    )
    assert (
        words
        in emergence_claims.judge_order(
            emergence_claims.find_crossings(table, probe_table(up_from))
        ).verdict
    )


def test_half_way_is_reached_also_where_rounding_falls_below_it() -> None:
    half = (2 / 3 - 1 / 3) / (1 - 1 / 3)  # two right of three, of three options
    assert half < 0.5
    table = curve_table({(seed, "ask_gender"): 50.0 for seed in SEEDS})
    table.loc[table["step"] >= 100, "score"] = half
    found = emergence_claims.find_crossings(table, probe_table(0.0)).query("what == 'half way'")
    assert found["stable"].unique().item() == 64.0


def test_an_answer_that_goes_and_comes_again_has_two_crossings() -> None:
    table = curve_table({(seed, "ask_gender"): 50.0 for seed in SEEDS})
    table.loc[table["step"].between(100, 150), "score"] = 0.1
    found = emergence_claims.find_crossings(table, probe_table(0.0)).query("what == 'half way'")
    assert (found["first"].unique().item(), found["stable"].unique().item()) == (64.0, 160.0)
    assert found["stable"].notna().sum() == len(SEEDS)


def test_what_stays_is_told_from_what_goes_and_from_what_is_not_decided() -> None:
    table = curve_table({(seed, "ask_gender"): 50.0 for seed in SEEDS})
    assert (
        emergence_claims.judge_arrival(
            emergence_claims.find_crossings(table, probe_table(0.0)), 16
        ).verdict
        == "it comes and stays"
    )
    gone = table["step"].between(100, 150)
    some = table.assign(score=table["score"].where(~(gone & table["seed"].isin([0])), 0.1))
    assert (
        "not decided"
        in emergence_claims.judge_arrival(
            emergence_claims.find_crossings(some, probe_table(0.0)), 16
        ).verdict
    )
    every = table.assign(score=table["score"].where(~gone, 0.1 + 0.0 * table["seed"]))
    assert (
        "goes"
        in emergence_claims.judge_arrival(
            emergence_claims.find_crossings(every, probe_table(0.0)), 16
        ).verdict
    )


def scaling(at: dict[int, float]) -> emergence_claims.Claim:
    rng = np.random.default_rng(0)
    tables = [
        curve_table(
            {(seed, task): step + rng.uniform(0, 10) for seed in range(3) for task in TASKS},
            clips=size,
        )
        for size, step in at.items()
    ]
    return emergence_claims.judge_corpus_size(
        emergence_claims.score_corpus_sizes(pd.concat(tables))
    )


def test_the_slope_over_data_follows_the_crossings() -> None:
    assert "earlier" in scaling({96: 250.0, 192: 200.0, 384: 150.0, 768: 100.0}).verdict
    assert "later" in scaling({96: 100.0, 192: 150.0, 384: 200.0, 768: 250.0}).verdict
    opposed = [
        curve_table({(seed, task): 150.0 + turn * size / 10 for task in TASKS}, clips=size)
        for seed, turn in enumerate((-1, 0, 1))
        for size in (96, 192, 384, 768)
    ]
    assert (
        emergence_claims.judge_corpus_size(
            emergence_claims.score_corpus_sizes(pd.concat(opposed))
        ).verdict
        == "not shown"
    )


def test_a_censored_run_gives_no_slope() -> None:
    claim = scaling({96: 999.0, 192: 200.0, 384: 150.0, 768: 100.0})
    assert claim.verdict == "not shown"
    assert "0 of 3 runs" in claim.numbers[0] and "3 runs censored" in claim.numbers[-1]


def test_what_is_above_chance_by_a_hair_has_no_lead() -> None:
    answers = clips(lambda t: 0.0, noise=0.5)
    table = emergence_claims.score_curves(answers, list(TASKS))
    heard = table[table["condition"] == "audio"]
    assert (heard["lead"] < 0).mean() > 0.9
    sure = emergence_claims.score_curves(clips(lambda t: t, noise=0.5), list(TASKS)).query(
        "condition == 'audio' and step == 300"
    )
    assert (sure["lead"] > 0).all() and set(sure["counted"]) == {True}
