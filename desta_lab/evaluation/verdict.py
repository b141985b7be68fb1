"""The rule of the claim: from the tidy table to scores per task and rung, and to the verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from desta_lab.evaluation.conditions import ORACLE
from desta_lab.evaluation.statistics import (
    Interval,
    bootstrap_intervals,
    bootstrap_means,
    correct_for_chance,
    format_interval,
    percentile_interval,
)

ABLE = 0.8  # chance-corrected accuracy of the text oracle from which a task counts
CONTROLS = {  # what audio has to be above, in the words of the rule
    "shuffled": "shuffled audio",
    "silence": "silence",
    "untrained": "the untrained connector",
}
CELL = ["run", "step", "condition"]
OWN, RIVAL = "self", "label"  # the run of self-generated targets, and of bare labels

NOT_TESTABLE = "NOT TESTABLE HERE"  # the text oracle cannot do what the claim is about
HEIGHTS = {  # how high a claim reaches: measure → how its answers are had
    "calibrated": "with options ranked",
    "said": "in the backbone's own words",
}
*_FIRST, _LAST = CONTROLS.values()
RULE = (
    "SUPPORTED if, {how} and on {units} never heard in training, rung 0 is above chance; most "
    f"rung-3 attributes of the self-generated run are above {', '.join(_FIRST)} and {_LAST} "
    "(paired 95 % intervals over {units}); the bare-label run has not risen on most attributes "
    "other than its own; and the self-generated run's mean on those is higher."
)


# ---- the table ----


def add_untrained(table: pd.DataFrame) -> pd.DataFrame:
    """Add the condition `untrained` to every step: the audio condition of step 0."""
    audio = table[table["condition"] == "audio"]
    start = audio[audio["step"] == 0]
    copies = [
        start[start["run"] == run].assign(condition="untrained", step=step)
        for (run, step), _ in audio.groupby(["run", "step"])
    ]
    return pd.concat([table, *copies], ignore_index=True)


def split_label_run(table: pd.DataFrame, attribute: str) -> pd.DataFrame:
    """Split the bare-label run into tasks about its own attribute and about others.

    They become the runs `label_own` and `label_others`: another question about what was trained is
    no transfer to other attributes.
    """
    parts = np.where(table["attribute"] == attribute, f"{RIVAL}_own", f"{RIVAL}_others")
    return table.assign(run=table["run"].where(table["run"] != RIVAL, parts))


def able_tasks(table: pd.DataFrame, measure: str = "calibrated") -> dict[str, float]:
    """The tasks that the text oracle can do, with its accuracy; no other task counts.

    Nor does one that it answers alike about every clip: where most clips have one value, that is
    right by itself.
    """
    oracle = table[table["condition"] == ORACLE].groupby("task")
    accuracy, chance = oracle[measure].mean(), oracle["chance"].first()
    able = accuracy[correct_for_chance(accuracy, chance) >= ABLE - 1e-9]  # 0.85 of 4 options is 0.8
    answers = "answer" if measure == "said" else "chosen"
    if answers in table:
        able = able[oracle[answers].nunique()[able.index] > 1]
    return {str(task): float(value) for task, value in able.items()}


# ---- scores ----


def score_per_task(
    table: pd.DataFrame, measures: Sequence[str] = ("calibrated", "raw")
) -> pd.DataFrame:
    """Accuracy with its 95 % interval over speakers per measure, run, step, condition and task.

    Beside it: rung, attribute and chance of the task, numbers of clips and speakers measured, the
    accuracy of the text oracle, and whether the task counts.
    """
    by = [*CELL, "task"]
    rows = [
        (*group, measure, *interval)
        for measure in measures
        for group, interval in bootstrap_intervals(table, measure, by).items()
    ]
    frame = pd.DataFrame(rows, columns=[*by, "measure", "accuracy", "low", "high"])
    known = table.groupby("task")[["rung", "attribute", "chance"]].first()
    counts = {"clips": ("clip", "nunique"), "speakers": ("speaker", "nunique")}
    sizes = pd.concat(
        {name: table.dropna(subset=[name]).groupby(by).agg(**counts) for name in measures},
        names=["measure"],
    ).reset_index()
    frame = frame.merge(known, left_on="task", right_index=True).merge(sizes, on=[*by, "measure"])
    frame["oracle"], frame["counted"] = float("nan"), False
    for measure in measures:
        here = frame["measure"] == measure
        known = "calibrated" if measure == "raw" else measure  # what counts is not calibrated away
        oracle = table[table["condition"] == ORACLE].groupby("task")[known].mean()
        frame.loc[here, "oracle"] = frame["task"].map(oracle)
        frame.loc[here, "counted"] = frame["task"].isin(able_tasks(table, known))
    return frame.sort_values(["measure", "rung", *["task", *CELL]]).reset_index(drop=True)


def score_per_rung(table: pd.DataFrame, measure: str = "calibrated") -> pd.DataFrame:
    """Mean chance-corrected accuracy of each rung's counted tasks per run, step and condition.

    0 is chance, 1 is perfect; intervals are of 95 % over speakers; `tasks` is how many the mean is
    of.
    """
    table = table[table["task"].isin(able_tasks(table, measure))]
    known = table.groupby("task")[["rung", "chance"]].first()
    scores: dict[tuple, list[np.ndarray]] = {}
    for (*cell, task), draws in bootstrap_means(table, measure, [*CELL, "task"]).items():
        rung, chance = known.loc[task]
        scores.setdefault((*cell, int(rung)), []).append(correct_for_chance(draws, chance))
    rows = [
        (*where, measure, *percentile_interval(np.mean(draws, axis=0)), len(draws))
        for where, draws in sorted(scores.items())
    ]
    columns = [*CELL, "rung", "measure", "score", "low", "high", "tasks"]
    return pd.DataFrame(rows, columns=columns)


def crossing_steps(steps: Sequence[float], above: Bool[np.ndarray, "step"]) -> tuple[float, float]:
    """The first step that is above, and the first from which on all are; NaN where none is."""
    below = np.flatnonzero(~above)
    stable = below[-1] + 1 if len(below) else 0
    return (
        float(steps[int(above.argmax())]) if above.any() else float("nan"),
        float(steps[stable]) if stable < len(steps) else float("nan"),
    )


def rung_crossings(rungs: pd.DataFrame, threshold: float = 0.5) -> pd.DataFrame:
    """The first and the stable step at which each rung's audio condition reaches a score."""
    rows = []
    audio = rungs[rungs["condition"] == "audio"].sort_values("step")
    for (run, rung), curve in audio.groupby(["run", "rung"]):
        steps = curve["step"].astype(float).tolist()
        crossed = crossing_steps(steps, curve["score"].to_numpy() >= threshold)
        rows.append((run, rung, threshold, *crossed))
    return pd.DataFrame(rows, columns=["run", "rung", "threshold", "first", "stable"])


# ---- the verdict ----


@dataclass(frozen=True)
class Verdict:
    """Whether the claim held in these runs, by which rule, and the numbers it was computed from."""

    verdict: str  # SUPPORTED, NOT SUPPORTED or NOT_TESTABLE
    rule: str
    reasons: list[str]
    above_controls: dict[str, list[str]]  # run → rung-3 attributes above every control

    def tabulate(self) -> pd.DataFrame:
        """What was measured, and whether it holds as the rule asks; empty where it asks nothing."""
        parts = [reason.partition(": ") for reason in self.reasons]
        asked = [
            (said, held) if held in ("yes", "no") else (f"{held}{by}{said}", "")
            for held, by, said in parts
        ]
        return pd.DataFrame(asked, columns=["measured", "holds"])


def control_margins(
    table: pd.DataFrame, run: str, step: int, measure: str = "calibrated"
) -> dict[str, dict[str, float]]:
    """How far a run's audio is above each control: counted rung-3 task → control → margin.

    The margin is the lower end of the 95 % interval over speakers of the paired difference. A task
    is above its controls where all margins are above zero.

    Raises:
        ValueError: the table lacks a control.
    """
    full = add_untrained(table)
    here = (full["run"] == run) & (full["step"] == step) & (full["rung"] == 3)
    counted = full["task"].isin(able_tasks(table, measure))
    means = bootstrap_means(full[here & counted], measure, ["condition", "task"])
    tasks = [task for condition, task in means if condition == "audio"]
    if missing := [name for name in CONTROLS if any((name, task) not in means for task in tasks)]:
        fault = f"The table has no condition {missing[0]!r} for every task of step {step}"
        raise ValueError(f"{fault}; evaluate the checkpoint again.")
    return {
        task: {
            control: percentile_interval(means["audio", task] - means[control, task])[1]
            for control in CONTROLS
        }
        for task in tasks
    }


def judge_claim(
    table: pd.DataFrame, label_attribute: str, units: str = "speakers", measure: str = "calibrated"
) -> Verdict:
    """Apply `RULE` to the last step of the self-generated run and of the bare-label run.

    `units` are what the column `speaker` tells apart: `clips` where no speaker was kept for a test.
    `measure` is one of `HEIGHTS`. A clip counts where it was answered so, with every control, and
    a task where the text oracle answers so. An attribute with several counted tasks is above the
    controls where all of them are.

    Where the text oracle can answer no rung-3 question about another attribute than the label,
    nothing can be said of what was not trained: the verdict is `NOT_TESTABLE`.
    """
    audio = table[table["condition"] == "audio"]
    last = {run: int(audio.loc[audio["run"] == run, "step"].max()) for run in (OWN, RIVAL)}
    margins = {run: control_margins(table, run, step, measure) for run, step in last.items()}
    attribute = table.groupby("task")["attribute"].first().to_dict()
    above = {run: _attributes_above(found, attribute) for run, found in margins.items()}
    asked = sorted({attribute[task] for task in margins[OWN]})
    other_tasks = [task for task in margins[OWN] if attribute[task] != label_attribute]
    ground, fifth = (_rung_interval(table, last[OWN], rung, measure) for rung in (0, 5))
    rule, about_rung_5 = RULE.format(units=units, how=HEIGHTS[measure]), _about_rung_5(fifth)
    if not other_tasks:
        reason = (
            "Even when it reads the description, the backbone answers no rung-3 question about "
            f"another attribute than {label_attribute}, {HEIGHTS[measure]}; take a larger preset, "
            "or other attributes."
        )
        return Verdict(NOT_TESTABLE, rule, [reason, about_rung_5], above)
    difference = score_difference(table, last, other_tasks, measure)
    tests = _test_claim(ground, above, asked, label_attribute, difference)
    reasons = [f"{'yes' if passed else 'no'}: {sentence}" for passed, sentence in tests]
    outcome = "SUPPORTED" if all(passed for passed, _ in tests) else "NOT SUPPORTED"
    return Verdict(outcome, rule, [*reasons, about_rung_5], above)


def _attributes_above(
    margins: Mapping[str, Mapping[str, float]], attribute: Mapping[str, str]
) -> list[str]:
    """The attributes all of whose tasks are above every control."""
    below = {attribute[task] for task, over in margins.items() if min(over.values()) <= 0}
    return sorted({attribute[task] for task in margins} - below)


def _test_claim(
    ground: Interval | None,
    above: Mapping[str, list[str]],
    asked: Sequence[str],
    label_attribute: str,
    difference: Interval,
) -> list[tuple[bool, str]]:
    """Each condition of `RULE`: whether it holds, and in which numbers."""
    others = [name for name in asked if name != label_attribute]
    leaked = [name for name in above[RIVAL] if name != label_attribute]
    return [
        (
            ground is not None and ground[1] > 0,
            f"Rung 0, the trained prompt: score {_written(ground)} (0 chance, 1 perfect).",
        ),
        (
            2 * len(above[OWN]) > len(asked),
            f"Self-generated targets: {len(above[OWN])} of {len(asked)} rung-3 attributes above "
            f"every control ({', '.join(above[OWN]) or 'none'}).",
        ),
        (
            2 * len(leaked) <= len(others),
            f"Bare label ({label_attribute}): {len(leaked)} of {len(others)} other attributes "
            f"above every control ({', '.join(leaked) or 'none'}).",
        ),
        (
            difference[1] > 0,
            "Mean score on those other attributes, self-generated minus bare label: "
            f"{format_interval(difference, '+.2f')}.",
        ),
    ]


def score_difference(
    table: pd.DataFrame, last: Mapping[str, int], tasks: Sequence[str], measure: str
) -> Interval:
    """Mean score of the first run minus that of the second over these tasks, each at its last step.

    The 95 % interval is of the paired difference over speakers.
    """
    audio = table[(table["condition"] == "audio") & table["task"].isin(tasks)]
    audio = audio[audio["step"] == audio["run"].map(last)]
    means = bootstrap_means(audio, measure, ["run", "task"])
    chances = audio.groupby("task")["chance"].first()

    def mean_score(run: str) -> Float[np.ndarray, "draw"]:
        scores = [correct_for_chance(means[run, task], c) for task, c in chances.items()]
        return np.mean(scores, axis=0)

    own, rival = map(mean_score, last)
    return percentile_interval(own - rival)


def _rung_interval(table: pd.DataFrame, step: int, rung: int, measure: str) -> Interval | None:
    """Score of the own run's audio condition on a rung; None where no task of it counts."""
    here = (table["step"] == step) & (table["run"] == OWN) | (table["condition"] == ORACLE)
    rungs = score_per_rung(table[here], measure)
    found = rungs[(rungs["condition"] == "audio") & (rungs["rung"] == rung)]
    scores = found[["score", "low", "high"]].itertuples(index=False, name=None)
    return next(scores, None)


def _about_rung_5(score: Interval | None) -> str:
    if score is None:
        return "Rung 5: no question is about an attribute that no target mentions."
    where = "above chance, which the claim does not need" if score[1] > 0 else "not above chance"
    return f"Rung 5, an attribute no target mentions: score {_written(score)}; {where}."


def _written(score: Interval | None) -> str:
    return "not measured" if score is None else format_interval(score)
