"""From the tidy table to curves, crossings and the verdict: every claim is a rule applied to numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy import stats

RESAMPLES = 1000  # bootstrap resamples of speakers
PERCENTILES = (2.5, 97.5)  # percentiles of a 95 % interval
ORACLE = 0.8  # chance-corrected accuracy of the text oracle from which a task counts
CONTROLS = ("shuffled", "silence", "untrained")
CELL = ["run", "step", "condition"]


def add_untrained(table: pd.DataFrame) -> pd.DataFrame:
    """Add the untrained-connector control: the audio condition of step 0, as its own condition at every later step."""
    born = table[(table["condition"] == "audio") & (table["step"] == 0)]
    copies = [
        born[born["run"] == run].assign(condition="untrained", step=step)
        for (run, step), _ in table[table["condition"] == "audio"].groupby(["run", "step"])
    ]
    return pd.concat([table, *copies], ignore_index=True)


def split_label_run(table: pd.DataFrame, attribute: str, run: str = "label") -> pd.DataFrame:
    """The bare-label run in two: tasks about its own attribute, and about others. Another question about what was
    trained is no transfer to other attributes."""
    kind = (table["attribute"] == attribute).map({True: f"{run}_own", False: f"{run}_others"})
    return table.assign(run=table["run"].where(table["run"] != run, kind))


def _draws(speakers: int, seed: int = 0) -> np.ndarray:
    """How often each speaker is drawn in each resample; the first row is the data itself."""
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(speakers, np.full(speakers, 1 / speakers), size=RESAMPLES)
    return np.vstack([np.ones((1, speakers), dtype=int), drawn])


def bootstrap_means(
    table: pd.DataFrame, measure: str, by: Sequence[str]
) -> dict[tuple, np.ndarray]:
    """Mean of a measure in every group and every resample of speakers, the same resamples for all groups; the first
    is the data itself."""
    cells = table.dropna(subset=[measure]).groupby([*by, "speaker"])[measure].agg(["sum", "count"])
    sums, counts = (cells[c].unstack("speaker").fillna(0) for c in ("sum", "count"))
    draws = _draws(sums.shape[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        values = (sums.to_numpy() @ draws.T) / (counts.to_numpy() @ draws.T)
    keys = [key if isinstance(key, tuple) else (key,) for key in sums.index]
    return dict(zip(keys, values, strict=True))


def bootstrap_intervals(
    table: pd.DataFrame, measure: str, by: Sequence[str]
) -> dict[tuple, tuple[float, float, float]]:
    """Mean of a measure with its 95 % interval over speakers, per group of `by`."""
    return {
        key: percentile_interval(values)
        for key, values in bootstrap_means(table, measure, by).items()
    }


def percentile_interval(values: Float[np.ndarray, "draw"]) -> tuple[float, float, float]:
    """The data's own value, which comes first, and the 95 % interval of the resamples after it."""
    low, high = np.nanpercentile(values[1:], PERCENTILES)
    return float(values[0]), float(low), float(high)


def able_tasks(table: pd.DataFrame) -> dict[str, float]:
    """Accuracy of the text oracle per task, for the tasks it can do: the others are left out of every claim."""
    oracle = (
        table[table["condition"] == "oracle"]
        .groupby("task")
        .agg({"calibrated": "mean", "chance": "first"})
    )
    able = (oracle["calibrated"] - oracle["chance"]) / (1 - oracle["chance"]) >= ORACLE
    return {str(task): float(value) for task, value in oracle.loc[able, "calibrated"].items()}


def score_per_task(
    table: pd.DataFrame, measures: Sequence[str] = ("calibrated", "raw")
) -> pd.DataFrame:
    """Accuracy with its 95 % interval (bootstrap over speakers) per run, step, condition and task."""
    known = table.groupby("task")[["rung", "attribute", "chance"]].first()
    oracle = table[table["condition"] == "oracle"].groupby("task")["calibrated"].mean()
    able = able_tasks(table)
    rows = []
    for measure in measures:
        for key, values in bootstrap_means(table, measure, [*CELL, "task"]).items():
            accuracy, low, high = percentile_interval(values)
            cell = dict(zip([*CELL, "task"], key, strict=True))
            rows.append(cell | {"measure": measure, "accuracy": accuracy, "low": low, "high": high})
    frame = pd.DataFrame(rows).merge(known, left_on="task", right_index=True)
    sizes = (
        table.groupby([*CELL, "task"])
        .agg(clips=("clip", "nunique"), speakers=("speaker", "nunique"))
        .reset_index()
    )
    frame = frame.merge(sizes, on=[*CELL, "task"])
    frame["oracle"] = frame["task"].map(oracle)
    frame["counted"] = frame["task"].isin(able)
    return frame.sort_values(["measure", "rung", "task", *CELL]).reset_index(drop=True)


def _score(
    values: dict[tuple, np.ndarray], keys: Sequence[tuple], chances: Sequence[float]
) -> np.ndarray:
    """Chance-corrected mean over tasks, in every resample: 0 is chance, 1 is perfect."""
    return np.mean([(values[k] - c) / (1 - c) for k, c in zip(keys, chances, strict=True)], axis=0)


def score_per_rung(table: pd.DataFrame, measure: str = "calibrated") -> pd.DataFrame:
    """Chance-corrected mean accuracy of each rung's counted tasks, with 95 % intervals over speakers."""
    able = able_tasks(table)
    table = table[table["task"].isin(able)]
    chance = table.groupby("task")["chance"].first()
    rung = table.groupby("task")["rung"].first()
    values = bootstrap_means(table, measure, [*CELL, "task"])
    rows = []
    for cell in dict.fromkeys(key[:-1] for key in values):
        for number in sorted(set(rung)):
            keys = [key for key in values if key[:-1] == cell and rung[key[-1]] == number]
            if keys:
                score, low, high = percentile_interval(
                    _score(values, keys, [chance[key[-1]] for key in keys])
                )
                rows.append(
                    dict(zip(CELL, cell, strict=True))
                    | {
                        "rung": int(number),
                        "measure": measure,
                        "score": score,
                        "low": low,
                        "high": high,
                        "tasks": len(keys),
                    }
                )
    return pd.DataFrame(rows)


def t_half_width(sem: Any, count: Any) -> Any:
    """Half the width of the 95 % t-interval of a mean over `count` values with this standard error; NaN for one value.

    Numbers, or arrays and series of them.
    """
    return sem * stats.t.ppf(PERCENTILES[1] / 100, count - 1)


@dataclass(frozen=True)
class Verdict:
    """Whether the claim held in this run, by which rule, and the numbers it was computed from."""

    verdict: str
    rule: str
    reasons: list[str]
    risen: dict[str, list[str]]  # run → rung-3 attributes clearly above every control


def control_margins(
    table: pd.DataFrame, run: str, step: int, rung: int = 3
) -> dict[str, dict[str, float]]:
    """Margin of a run over each control per counted task of a rung: the lower end of the 95 % interval of the paired
    difference, resampled over speakers. A task has risen when every margin is above zero."""
    able = able_tasks(table)
    full = add_untrained(table)
    some = full[
        (full["run"] == run)
        & (full["step"] == step)
        & (full["rung"] == rung)
        & full["task"].isin(able)
    ]
    values = bootstrap_means(some, "calibrated", ["condition", "task"])
    tasks = [task for condition, task in values if condition == "audio"]
    return {
        task: {
            control: float(
                np.nanpercentile(
                    (values["audio", task] - values[control, task])[1:], PERCENTILES[0]
                )
            )
            for control in CONTROLS
        }
        for task in tasks
    }


def judge_claim(
    table: pd.DataFrame, label_attribute: str, runs: tuple[str, str] = ("self", "label")
) -> Verdict:
    """Apply the rule of the claim to the last step of both runs.

    SUPPORTED needs all of: rung 0 is above chance; most counted rung-3 attributes are above every control in the
    self-generated run; on attributes other than its own the bare-label run has not risen on most, and the
    self-generated run's mean there is above the bare-label run's (95 % interval of the paired difference).
    """
    mine, rival = runs
    last = {
        run: int(table.loc[(table["run"] == run) & (table["condition"] == "audio"), "step"].max())
        for run in runs
    }
    margins = {run: control_margins(table, run, last[run]) for run in runs}
    attribute = table.groupby("task")["attribute"].first()
    up = {
        run: sorted({attribute[t] for t, m in margins[run].items() if min(m.values()) > 0})
        for run in runs
    }
    asked = sorted({attribute[task] for task in margins[mine]})
    others = [a for a in asked if a != label_attribute]
    leaked = [a for a in up[rival] if a != label_attribute]
    gap = _gap(table, runs, last, [t for t in margins[mine] if attribute[t] != label_attribute])
    rungs = score_per_rung(
        table[
            (table["step"] == last[mine]) & (table["run"] == mine)
            | (table["condition"] == "oracle")
        ]
    )
    ground, fifth = (
        rungs[(rungs["condition"] == "audio") & (rungs["rung"] == rung)] for rung in (0, 5)
    )
    holds = not ground.empty and float(ground["low"].iloc[0]) > 0
    tests = [
        (holds, f"Rung 0, the trained prompt: score {_number(ground)} (0 chance, 1 perfect)."),
        (
            2 * len(up[mine]) > len(asked),
            f"Self-generated targets: {len(up[mine])} of {len(asked)} rung-3 attributes above every control "
            f"({', '.join(up[mine]) or 'none'}).",
        ),
        (
            2 * len(leaked) <= len(others),
            f"Bare label ({label_attribute}): {len(leaked)} of {len(others)} other attributes above every control "
            f"({', '.join(leaked) or 'none'}).",
        ),
        (
            gap[1] > 0,
            f"Mean score on those other attributes, self-generated minus bare label: {gap[0]:+.2f} "
            f"[{gap[1]:+.2f}, {gap[2]:+.2f}].",
        ),
    ]
    finding = "Rung 5: no question is about an attribute that no target mentions."
    if not fifth.empty:
        above = (
            "above chance, which the claim does not need"
            if fifth["low"].iloc[0] > 0
            else "near chance"
        )
        finding = f"Rung 5, an attribute no target mentions: score {_number(fifth)}; {above}."
    rule = (
        "SUPPORTED if, on speakers never heard in training, rung 0 is above chance; most rung-3 attributes of the "
        "self-generated run are above shuffled audio, silence and the untrained connector (paired 95 % intervals over "
        "speakers); the bare-label run has not risen on most attributes other than its own; and the self-generated "
        "run's mean on those is higher."
    )
    reasons = [("yes: " if ok else "no: ") + sentence for ok, sentence in tests]
    return Verdict(
        "SUPPORTED" if all(ok for ok, _ in tests) else "NOT SUPPORTED",
        rule,
        [*reasons, finding],
        up,
    )


def _number(ground: pd.DataFrame) -> str:
    if ground.empty:
        return "not measured"
    row = ground.iloc[0]
    return f"{row['score']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"


def _gap(
    table: pd.DataFrame, runs: tuple[str, str], last: dict[str, int], tasks: Sequence[str]
) -> tuple[float, float, float]:
    """Difference of the two runs' mean scores over these tasks, with its interval."""
    if not tasks:
        return (float("nan"),) * 3
    audio = table[(table["condition"] == "audio") & table["task"].isin(tasks)]
    audio = audio[
        [step == last[run] for run, step in zip(audio["run"], audio["step"], strict=True)]
    ]
    values = bootstrap_means(audio, "calibrated", ["run", "task"])
    chances = audio.groupby("task")["chance"].first()
    scores = [
        _score(values, [(run, t) for t in tasks], [chances[t] for t in tasks]) for run in runs
    ]
    return percentile_interval(scores[0] - scores[1])


def crossing_steps(steps: Sequence[float], above: Bool[np.ndarray, "step"]) -> tuple[float, float]:
    """First step that is above, and first from which on all are; NaN where there is none."""
    below = np.flatnonzero(~above)
    stable = below[-1] + 1 if len(below) else 0
    return (
        float(steps[int(above.argmax())]) if above.any() else float("nan"),
        float(steps[stable]) if stable < len(steps) else float("nan"),
    )


def rung_crossings(rungs: pd.DataFrame, threshold: float = 0.5) -> pd.DataFrame:
    """First and stable step at which each rung's audio condition reaches a score; NaN where it never does."""
    rows = []
    for (run, rung), curve in (
        rungs[rungs["condition"] == "audio"].sort_values("step").groupby(["run", "rung"])
    ):
        first, stable = crossing_steps(
            curve["step"].astype(float).tolist(), curve["score"].to_numpy() >= threshold
        )
        rows.append(
            {"run": run, "rung": rung, "threshold": threshold, "first": first, "stable": stable}
        )
    return pd.DataFrame(rows)
