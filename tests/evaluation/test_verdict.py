"""The verdict is a rule applied to a table: it follows the numbers, both ways."""

import numpy as np
import pandas as pd
import pytest

from desta_lab.evaluation import verdict

ATTRIBUTES = {"gender": 2, "accent": 3, "rate": 2, "scene": 4}
SPEAKERS, EACH = 16, 6


def table(skill: dict[tuple[str, str], float], seed: int = 0) -> pd.DataFrame:
    """A tidy table where (run, attribute) is right this often at step 8, else by chance."""
    rng = np.random.default_rng(seed)
    rows = []
    for run in ("self", "label"):
        for step in (0, 8):
            for condition in ("audio", "shuffled", "silence", "oracle"):
                for rung in (0, 3, 5):
                    for attribute, k in ATTRIBUTES.items():
                        name = f"{rung}_{attribute}"
                        learned = condition == "audio" and step == 8 and rung != 5
                        p = (
                            1.0
                            if condition == "oracle"
                            else skill.get((run, attribute), 1 / k)
                            if learned
                            else 1 / k
                        )
                        right = rng.random(SPEAKERS * EACH) < p
                        rows += [
                            {
                                "run": run,
                                "step": step,
                                "seed": 0,
                                "condition": condition,
                                "clip": f"c{i}",
                                "speaker": f"s{i % SPEAKERS}",
                                "task": name,
                                "rung": rung,
                                "attribute": attribute,
                                "chance": 1 / k,
                                "raw": float(r),
                                "calibrated": float(r),
                                "logprob": -1.0,
                            }
                            for i, r in enumerate(right)
                        ]
    return pd.DataFrame(rows)


ALL = {("self", a): 0.95 for a in ATTRIBUTES}


@pytest.mark.parametrize(("right", "options", "counts"), [(17, 4, True), (16, 4, False)])
def test_a_task_counts_from_the_bound_on(right: int, options: int, counts: bool) -> None:
    """17 of 20 right with 4 options is 0.8 above chance to the digit."""
    rows = pd.DataFrame({"calibrated": [1.0] * right + [0.0] * (20 - right)})
    rows = rows.assign(task="ask", condition="oracle", chance=1 / options)
    assert ("ask" in verdict.able_tasks(rows)) == counts


def test_transfer_beside_a_label_run_without_it_supports_the_claim() -> None:
    found = verdict.judge_claim(table({**ALL, ("label", "scene"): 0.95}), "scene")
    assert found.verdict == "SUPPORTED"
    assert found.above_controls == {"self": sorted(ATTRIBUTES), "label": ["scene"]}


def test_the_rule_names_what_was_kept_for_the_test() -> None:
    rules = [verdict.judge_claim(table(ALL), "scene", units=u).rule for u in ("speakers", "clips")]
    assert "on speakers never heard" in rules[0] and "intervals over speakers" in rules[0]
    assert rules[1] == rules[0].replace("speakers", "clips")


def test_a_label_run_that_transfers_refutes_it() -> None:
    everywhere = {("label", a): 0.95 for a in ATTRIBUTES}
    assert verdict.judge_claim(table({**ALL, **everywhere}), "scene").verdict == "NOT SUPPORTED"


def test_nothing_learned_is_not_support() -> None:
    found = verdict.judge_claim(table({}), "scene")
    assert found.verdict == "NOT SUPPORTED"
    assert found.above_controls["self"] == []


def test_a_task_the_oracle_cannot_do_is_left_out() -> None:
    data = table(ALL)
    data.loc[
        (data["condition"] == "oracle") & (data["task"] == "3_rate"), ["calibrated", "raw"]
    ] = 0.0
    assert "3_rate" not in verdict.able_tasks(data)
    assert "rate" not in verdict.judge_claim(data, "scene").above_controls["self"]
    rows = verdict.score_per_task(verdict.add_untrained(data))
    assert not rows.loc[rows["task"] == "3_rate", "counted"].any()


@pytest.mark.parametrize(
    ("measure", "column"), [("calibrated", "chosen"), ("said", "answer"), ("raw", "chosen")]
)
def test_a_task_the_oracle_answers_alike_about_every_clip_is_left_out(measure, column) -> None:
    data = table(ALL).rename(columns={"calibrated": measure} if measure == "said" else {})
    data[column] = np.where(data["clip"] == "c0", "male", "female")  # nearly all are women
    assert "3_gender" in verdict.able_tasks(data, measure)
    deaf = (data["condition"] == "oracle") & (data["task"] == "3_gender")
    data.loc[deaf & (data["clip"] == "c0"), [measure, column]] = [0.0, "female"]
    assert "3_gender" not in verdict.able_tasks(data, measure)
    assert "3_rate" in verdict.able_tasks(data, measure)


@pytest.mark.parametrize("able", [(), ("scene",)])
def test_where_the_oracle_can_do_no_task_but_the_labels_nothing_is_judged(able) -> None:
    data = table(ALL)
    lost = (data["condition"] == "oracle") & ~data["attribute"].isin(able)
    data.loc[lost, ["calibrated", "raw"]] = 0.0
    found = verdict.judge_claim(data, "scene")
    assert found.verdict == verdict.NOT_TESTABLE
    assert "no rung-3 question about another attribute than scene" in found.reasons[0]


def test_untrained_control_is_step_zero_at_every_step() -> None:
    full = verdict.add_untrained(table(ALL))
    copies = (
        full[full["condition"] == "untrained"].groupby(["run", "step", "task"])["calibrated"].mean()
    )
    born = (
        full[(full["condition"] == "audio") & (full["step"] == 0)]
        .groupby(["run", "task"])["calibrated"]
        .mean()
    )
    for run, step, task in copies.index:
        assert copies[run, step, task] == born[run, task]


def test_scores_are_zero_at_chance_and_one_when_perfect() -> None:
    rungs = verdict.score_per_rung(table({("self", a): 1.0 for a in ATTRIBUTES}))
    last = rungs[(rungs["run"] == "self") & (rungs["step"] == 8) & (rungs["rung"] == 3)].set_index(
        "condition"
    )["score"]
    assert last["audio"] == pytest.approx(1.0)
    assert abs(last["shuffled"]) < 0.15


def test_crossings_tell_first_from_stable() -> None:
    curve = pd.DataFrame(
        {
            "run": "self",
            "condition": "audio",
            "rung": 3,
            "step": [0, 1, 2, 4, 8],
            "score": [0.0, 0.6, 0.4, 0.7, 0.9],
        }
    )
    row = verdict.rung_crossings(curve).iloc[0]
    assert (row["first"], row["stable"]) == (1, 4)
    never = verdict.rung_crossings(curve.assign(score=0.1)).iloc[0]
    assert np.isnan(never["first"]) and np.isnan(never["stable"])


def test_other_questions_about_the_trained_attribute_stand_apart() -> None:
    rungs = verdict.score_per_rung(
        verdict.split_label_run(table({("label", "scene"): 1.0}), "scene")
    )
    last = rungs[
        (rungs["step"] == 8) & (rungs["rung"] == 3) & (rungs["condition"] == "audio")
    ].set_index("run")["score"]
    assert last["label_own"] == pytest.approx(1.0)
    assert abs(last["label_others"]) < 0.2


def test_where_no_question_is_of_rung_5_the_verdict_claims_nothing_about_it() -> None:
    data = table(ALL)
    assert "not above chance" in verdict.judge_claim(data, "scene").reasons[-1]
    assert (
        verdict.judge_claim(data[data["rung"] != 5], "scene")
        .reasons[-1]
        .startswith("Rung 5: no question")
    )


def test_what_is_ranked_and_what_is_said_are_judged_apart() -> None:
    data = table(ALL)
    data["said"] = np.where(data["condition"] == "oracle", 1.0, 0.0)
    ranked = verdict.judge_claim(data, "scene")
    said = verdict.judge_claim(data, "scene", measure="said")
    assert (ranked.verdict, said.verdict) == ("SUPPORTED", "NOT SUPPORTED")
    assert "with options ranked" in ranked.rule and "in the backbone's own words" in said.rule
    data["said"] = np.where(data["rung"] == 3, data["calibrated"], np.nan)
    silent = data.assign(said=data["said"].where(data["condition"] != "oracle", 0.0))
    assert verdict.judge_claim(silent, "scene", measure="said").verdict == verdict.NOT_TESTABLE


def test_an_attribute_with_several_questions_is_above_controls_where_all_of_them_are() -> None:
    data = table(ALL)
    rate = data[(data["attribute"] == "rate") & (data["rung"] == 3)]
    better = rate.assign(task="3_rate_again")
    worse = better.assign(calibrated=better["calibrated"].where(better["condition"] == "oracle", 0))
    for second, above in ((better, True), (worse, False)):
        judged = verdict.judge_claim(pd.concat([data, second], ignore_index=True), "scene")
        assert ("rate" in judged.above_controls["self"]) is above
        assert f"of {len(ATTRIBUTES)} rung-3 attributes" in judged.reasons[1]


def test_a_control_that_was_not_measured_is_named() -> None:
    data = table(ALL)
    with pytest.raises(ValueError, match="no condition 'silence'"):
        verdict.judge_claim(data[data["condition"] != "silence"], "scene")


def test_the_rule_names_every_control() -> None:
    rule = verdict.judge_claim(table(ALL), "scene").rule
    assert "are above shuffled audio, silence and the untrained connector (paired" in rule


def test_the_reasons_of_a_verdict_make_a_table() -> None:
    reasons = ["yes: Rung 0: score 0.9.", "no: Bare label: 2 of 5.", "Rung 5: score 0.1."]
    table = verdict.Verdict("NOT SUPPORTED", "", reasons, {}).tabulate()
    assert table["holds"].tolist() == ["yes", "no", ""]
    assert table["measured"].tolist() == [
        "Rung 0: score 0.9.",
        "Bare label: 2 of 5.",
        "Rung 5: score 0.1.",
    ]
