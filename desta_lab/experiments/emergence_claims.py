"""Claims on emergence over several runs: when answers arrive, how suddenly, how much together.

A run is one seed: its own world, its own untrained connector, its own order of examples. Intervals
over runs are t-intervals of one number a run; intervals within a run resample its speakers.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from jaxtyping import Float

from desta_lab.evaluation.statistics import (
    Interval,
    bootstrap_means,
    correct_for_chance,
    format_interval,
    interval_ends,
    mean_interval,
    percentile_interval,
)
from desta_lab.evaluation.verdict import CONTROLS, crossing_steps

HALF = 0.5  # of the way from chance to perfect: there an answer has arrived
DRAWS = 2000  # of a null
METRICS = {"calibrated": "accuracy", "margin": "log-probability margin"}
RUN = ["run", "clips", "seed"]
OTHER_AUDIO = [name for name in CONTROLS if name != "untrained"]  # scored at every checkpoint


@dataclass(frozen=True)
class Claim:
    """A question, the rule set for its answer, what the rule says of the tables, and numbers."""

    question: str
    rule: str
    verdict: str
    numbers: list[str]


_format = partial(format_interval, alone=" (one run)")


def _format_mean(values: pd.Series, form: str = ".2f") -> str:
    """Mean and interval of one number a run."""
    return _format(mean_interval(values), form)


def _tell_side(interval: Interval, below: str, above: str) -> str:
    """The words for the side of zero that an interval lies on."""
    return below if interval[2] < 0 else above if interval[1] > 0 else "not shown"


# ---- clips → curves ----


def score_curves(answers: pd.DataFrame, able: Collection[str]) -> pd.DataFrame:
    """One run's answers per step × condition × task; `counted` marks the tasks among `able`.

    `score`: 0 chance, 1 perfect. `margin`: nats. `lead`: how far audio is above both controls, by
    the lower end of the 95 % interval over speakers of the paired difference.
    """
    by = ["step", "condition", "task"]
    accuracy = bootstrap_means(answers, "calibrated", by)
    margins = answers.groupby(by)["margin"].mean()
    known = answers.groupby("task")[["rung", "attribute", "chance"]].first()
    rows = []
    for (step, condition, task), draws in accuracy.items():
        rung, attribute, chance = known.loc[task]
        others = OTHER_AUDIO if condition == "audio" else ()
        leads = [percentile_interval(draws - accuracy[step, other, task])[1] for other in others]
        score, margin = correct_for_chance(draws[0], chance), margins[step, condition, task]
        numbers = (score, margin, min(leads, default=np.nan))
        rows.append((step, condition, task, rung, attribute, task in able, *numbers))
    columns = [*by, "rung", "attribute", "counted", "score", "margin", "lead"]
    return pd.DataFrame(rows, columns=columns)


def score_probes(probes: pd.DataFrame) -> pd.DataFrame:
    """One run's probes per step × attribute: `score`, and that of `random` labels.

    `lead` is the lower end of the 95 % interval over speakers of their paired difference.
    """
    accuracy = bootstrap_means(probes, "correct", ["step", "attribute", "kind"])
    chances = probes.groupby("attribute")["chance"].first()
    rows = []
    for step, attribute in dict.fromkeys(key[:2] for key in accuracy):
        probe = accuracy[step, attribute, "probe"]
        random = accuracy[step, attribute, "random labels"]
        scores = [correct_for_chance(draws[0], chances[attribute]) for draws in (probe, random)]
        rows.append((step, attribute, *scores, percentile_interval(probe - random)[1]))
    return pd.DataFrame(rows, columns=["step", "attribute", "score", "random", "lead"])


def select_full_runs(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the runs with self-generated targets and all clips."""
    own = table[table["run"] == "self"]
    return own[own["clips"] == own["clips"].max()]


def rising_tasks(curves: pd.DataFrame) -> list[str]:
    """Tasks never trained that the oracle can do and that end above both controls in every run."""
    full = select_full_runs(curves[curves["condition"] == "audio"])
    last = full[(full["step"] == full["step"].max()) & (full["rung"] >= 2)]
    rises = (last["counted"] & (last["lead"] > 0)).groupby(last["task"]).all()
    return [str(task) for task in rises.index[rises]]


# ---- how suddenly ----


def jump_share(curve: Float[np.ndarray, "draw step"]) -> Float[np.ndarray, "draw"]:
    """The largest rise between two checkpoints, as a share of the whole rise: 1 is a step."""
    with np.errstate(divide="ignore", invalid="ignore"):  # what did not rise has no share
        return np.diff(curve).max(-1) / (curve[:, -1] - curve[:, 0])


def steady_rise(
    curve: Float[np.ndarray, "draw step"], steps: Sequence[int]
) -> Float[np.ndarray, "draw step"]:
    """The same whole rise, spread evenly, with the noise of these draws; draw 0 is the data."""
    data = curve[0]
    return curve - data + data[0] + (data[-1] - data[0]) * np.asarray(steps) / steps[-1]


def measure_jumps(answers: pd.DataFrame) -> pd.DataFrame:
    """Jump share per task and metric of one run, beside that of an equally noisy steady rise."""
    audio = answers[answers["condition"] == "audio"]
    steps = sorted(audio["step"].unique().tolist())
    rows = []
    for measure, metric in METRICS.items():
        means = bootstrap_means(audio, measure, ["task", "step"])
        for task in dict.fromkeys(task for task, _ in means):
            curve = np.stack([means[task, step] for step in steps], axis=-1)
            largest = int(np.diff(curve[0]).argmax())
            steady = np.median(jump_share(steady_rise(curve, steps)[1:]))
            shares = (curve[0, -1] - curve[0, 0], jump_share(curve[:1])[0], steady)
            rows.append((task, metric, *shares, *steps[largest : largest + 2]))
    columns = ["task", "metric", "rise", "share", "steady", "before", "step"]
    return pd.DataFrame(rows, columns=columns)


def judge_jumps(jumps: pd.DataFrame, curves: pd.DataFrame) -> Claim:
    """Does accuracy jump where the log-probability margin moves smoothly?"""
    tasks = rising_tasks(curves)
    wide = jumps[jumps["task"].isin(tasks)].pivot(
        index=["seed", "task"], columns="metric", values=["share", "steady"]
    )
    runs = wide.groupby("seed").mean()
    beyond = (wide["share"] - wide["steady"]).groupby("seed").mean()
    accuracy, margin = METRICS.values()
    raw = (wide["share"][accuracy] - wide["share"][margin]).groupby("seed").mean()
    gap = mean_interval(beyond[accuracy] - beyond[margin])
    plain = mean_interval(raw)
    numbers = [
        f"{metric[0].upper()}{metric[1:]}: jump share {_format_mean(runs['share'][metric])};"
        f" a steady rise with its noise {mean_interval(runs['steady'][metric])[0]:.2f};"
        f" beyond that {_format_mean(beyond[metric], '+.2f')}."
        for metric in (accuracy, margin)
    ]
    seeds = wide.index.get_level_values("seed").nunique()
    numbers.append(
        f"Accuracy minus margin: {_format(gap, '+.2f')} beyond noise,"
        f" {_format(plain, '+.2f')} as it stands ({seeds} seeds, {len(tasks)} tasks)."
    )
    return Claim(
        "Does accuracy jump while log-probability moves smoothly?",
        "Jump share: the largest rise between two checkpoints over the whole rise, per task;"
        " mean over the tasks that rise in every seed. Accuracy jumps more if the 95 % interval"
        " over seeds of accuracy minus margin is above zero, as it stands and after the share of"
        " a steady rise with the same noise is taken from each. (The second of these alone is not"
        " enough: noise adds more to the largest rise of a steady curve than to that of a curve"
        " which jumps, so it takes too much from the noisier metric.) The margin jumps if its"
        " share is beyond that of the steady rise.",
        _jump_verdict(gap, plain, mean_interval(beyond[margin])),
        numbers,
    )


def _jump_verdict(gap: Interval, plain: Interval, margin: Interval) -> str:
    if max(gap[2], plain[2]) < 0:
        return "the margin jumps more than accuracy does: no mirage"
    if min(gap[1], plain[1]) > 0:
        return "accuracy jumps more than the margin does: a part of the jump is the metric"
    jumps = "the margin jumps, too" if margin[1] > 0 else "whether the margin jumps is open"
    larger = f"the jump share of accuracy is larger by at most {plain[2]:.2f}"
    return f"no mirage shown: {jumps}; {larger}"


# ---- when ----


def find_crossings(curves: pd.DataFrame, probes: pd.DataFrame) -> pd.DataFrame:
    """First and stable crossing of every run, task and attribute, by `what` is crossed.

    `half way`: an accuracy half way to perfect. `heard`: an accuracy above both controls. `half
    margin`: half of the margin's own rise. `readable`: an attribute's probe above random labels.
    """
    rows = []
    audio = curves[(curves["condition"] == "audio") & curves["counted"]].sort_values("step")
    for (*run, task), curve in audio.groupby([*RUN, "task"]):
        margin = curve["margin"].to_numpy()
        rise = margin - margin[0]
        crossed = {
            "half way": curve["score"].to_numpy() >= HALF - 1e-9,  # (2/3 - 1/3) / (2/3) is below
            "heard": curve["lead"].to_numpy() > 0,
            "half margin": rise >= HALF * max(rise[-1], 1e-9),
        }
        asked = (task, *curve[["rung", "attribute"]].iloc[0])
        for what, above in crossed.items():
            rows.append((*run, *asked, what, *crossing_steps(_steps(curve), above)))
    for (*run, attribute), curve in probes.sort_values("step").groupby([*RUN, "attribute"]):
        crossed_at = crossing_steps(_steps(curve), curve["lead"].to_numpy() > 0)
        rows.append((*run, f"probe_{attribute}", -1, attribute, "readable", *crossed_at))
    columns = [*RUN, "task", "rung", "attribute", "what", "first", "stable"]
    return pd.DataFrame(rows, columns=columns)


def _steps(curve: pd.DataFrame) -> list[float]:
    return curve["step"].astype(float).tolist()


def judge_arrival(crossings: pd.DataFrame, every: float | int) -> Claim:
    """When does an answer that was never trained arrive, and does it stay?

    `every` is how many steps lie between two checkpoints, at most.
    """
    full = select_full_runs(crossings)
    half = full[(full["what"] == "half way") & (full["rung"] == 3)]
    delay = mean_interval((half["stable"] - half["first"]).groupby(half["seed"]).mean())
    verdict = "whether it stays is not decided"
    if delay[1] > 0:
        verdict = "it comes, goes and comes again"
    elif delay[2] < every:
        verdict = "it comes and stays"
    order = half.groupby("attribute", sort=False)["stable"].mean().sort_values().index
    numbers = [
        f"{attribute}: first at step {_format_mean(runs['first'], '.0f')}, stable from"
        f" {_format_mean(runs['stable'], '.0f')} ({runs['stable'].count()} of {len(runs)} runs)."
        for attribute, runs in ((name, half[half["attribute"] == name]) for name in order)
    ]
    fell_back = int((half["stable"] > half["first"]).sum())
    never = int(half["stable"].isna().sum())
    numbers.append(
        f"Stable minus first: {_format(delay, '+.0f')} steps;"
        f" {fell_back} of {len(half)} fell back once or more, {never} never stayed."
    )
    return Claim(
        "When does an answer that was never trained arrive, and does it stay?",
        "First crossing: the first checkpoint at which a rung-3 attribute is half way from"
        " chance to perfect; stable: the first from which on it stays there. A run that never"
        " stays is censored, counted, and in no mean. It stays if the 95 % interval over seeds of"
        f" stable minus first ends below one checkpoint ({every:g} steps); it goes again if that"
        " interval is above zero.",
        verdict,
        numbers,
    )


# ---- together ----


def mean_distance(steps: Float[np.ndarray, "draw run task"]) -> Float[np.ndarray, "draw"]:
    """Mean distance in steps between the crossings of two tasks of one run, of those that cross."""
    gaps = np.abs(steps[..., :, None] - steps[..., None, :])
    first, second = np.triu_indices(steps.shape[-1], 1)
    return np.nanmean(gaps[..., first, second], axis=(-2, -1))


def exchange_runs(steps: Float[np.ndarray, "run task"]) -> Float[np.ndarray, "draw run task"]:
    """Every task's crossings, exchanged between runs: what tasks of one run share is lost."""
    rng = np.random.default_rng(0)
    return rng.permuted(np.broadcast_to(steps, (DRAWS, *steps.shape)), axis=1)


def draw_crossings(
    steps: Float[np.ndarray, "run task"], checkpoints: Sequence[float]
) -> Float[np.ndarray, "draw run task"]:
    """Every crossing at a random time of training, seen at the next checkpoint."""
    times = np.random.default_rng(0).uniform(0, checkpoints[-1], (DRAWS, *steps.shape))
    seen = np.asarray(checkpoints, dtype=float)[np.searchsorted(checkpoints, times)]
    return np.where(np.isnan(steps), np.nan, seen)


def measure_distances(crossings: pd.DataFrame, checkpoints: Sequence[float]) -> pd.DataFrame:
    """How far apart two tasks of one run cross, beside both nulls, and by attribute."""
    wide = crossings.pivot(index="seed", columns="task", values="stable")
    steps = wide.to_numpy()
    measured = [float(mean_distance(run[None, None])[0]) for run in steps]
    rows = [("measured", *mean_interval(measured))]
    nulls = {
        "tasks of different runs": exchange_runs(steps),
        "at any time": draw_crossings(steps, checkpoints),
    }
    for name, drawn in nulls.items():
        distances = mean_distance(drawn)
        rows.append((name, float(distances.mean()), *interval_ends(distances)))
    attribute = crossings.groupby("task")["attribute"].first()[wide.columns].to_numpy()
    first, second = np.triu_indices(len(attribute), 1)
    gaps = pd.DataFrame(np.abs(steps[:, first] - steps[:, second]))
    same = attribute[first] == attribute[second]
    for name, pairs in (("same attribute", same), ("other attribute", ~same)):
        if pairs.any():
            rows.append((name, *mean_interval(gaps.loc[:, pairs].mean(axis=1))))
    return pd.DataFrame(rows, columns=["name", "mean", "low", "high"])


def judge_distances(distances: pd.DataFrame, crossings: pd.DataFrame) -> Claim:
    """Is there a step at which many tasks rise together?"""
    row = distances.set_index("name")
    steps = {
        name: _format((one["mean"], one["low"], one["high"]), ".0f") for name, one in row.iterrows()
    }
    crossed = crossings.dropna(subset="stable")
    crowd = crossed.groupby(["seed", "stable"]).size() / crossed.groupby("seed").size()
    numbers = [
        f"Two tasks of one run stand {steps['measured']} steps apart"
        f" ({crossings['seed'].nunique()} seeds, {crossings['task'].nunique()} tasks,"
        f" {int(crossings['stable'].isna().sum())} crossings censored).",
        f"With the tasks taken from different runs: {steps['tasks of different runs']};"
        f" each at any time: {steps['at any time']}.",
        "The checkpoint at which most tasks cross has"
        f" {_format_mean(crowd.groupby('seed').max(), '.0%')} of them.",
    ]
    if "same attribute" in steps:
        numbers.append(
            f"Tasks about the same attribute stand {steps['same attribute']} steps apart, about"
            f" different ones {steps['other attribute']}."
        )
    return Claim(
        "Is there a step at which many tasks rise together?",
        "Mean distance between the stable half-way crossings of two tasks of one run. Tasks rise"
        " together if it is below the 95 % range of as many crossings at any time of training;"
        " tasks of one run stand closer than those of different runs if it is below that of the"
        " same crossings exchanged between runs, task by task (2,000 draws each).",
        _distance_verdict(row),
        numbers,
    )


def _distance_verdict(distances: pd.DataFrame) -> str:
    measured = distances.loc["measured", "mean"]
    other_runs = distances.loc["tasks of different runs"]
    verdict = "no: they come as if each had a time of its own"
    if measured < distances.loc["at any time", "low"]:
        verdict = "yes, in one part of training"
    closer = "that a run has a moment of its own is not shown"
    if measured < other_runs["low"]:
        steps = f"{other_runs['mean'] - measured:.0f} steps"
        closer = f"tasks of one run stand {steps} closer than tasks of different runs"
    return f"{verdict}; {closer}"


# ---- what comes first ----


def judge_order(crossings: pd.DataFrame) -> Claim:
    """Does the probe rise before the answer?"""
    full = select_full_runs(crossings)
    pair = ["seed", "attribute"]
    probe = full[full["what"] == "readable"].set_index(pair)["stable"]
    answer = full[(full["what"] == "heard") & (full["rung"] == 3)].set_index(pair)["stable"]
    both = pd.DataFrame({"probe": probe, "answer": answer}).loc[answer.index]
    delay = mean_interval((both["answer"] - both["probe"]).groupby("seed").mean())
    from_start = int((both["probe"] == 0).sum())
    verdict = _tell_side(delay, "the answer is up first", "the probe is up first")
    if 2 * from_start > len(both):
        verdict = "the probe does not rise: it is up from step 0, before anything is learned"
    never = both.isna().sum()
    numbers = [
        f"The answer follows the probe by {_format(delay, '+.0f')} steps"
        f" (pairs with both: {len(both.dropna())} of {len(both)}).",
        f"The probe is stably up from step 0 in {from_start} of {len(both)} pairs;"
        f" it never stays up in {never['probe']}, the answer in {never['answer']}.",
    ]
    numbers += [
        f"{attribute}: probe from step {_format_mean(runs['probe'], '.0f')},"
        f" answer from {_format_mean(runs['answer'], '.0f')}."
        for attribute, runs in both.groupby("attribute")
    ]
    return Claim(
        "Does the probe rise before the answer?",
        "Per attribute and run, on the same clips of unseen speakers: the first checkpoint from"
        " which on the probe on the audio embeddings stays above random labels, and the first"
        " from which on the answer stays above shuffled audio and silence (lower ends of paired"
        " 95 % intervals above zero). The probe is first if the interval over seeds of the"
        " difference is above zero; it does not rise if it is up from step 0 in most pairs.",
        verdict,
        numbers,
    )


# ---- with more data ----


def score_corpus_sizes(curves: pd.DataFrame) -> pd.DataFrame:
    """Crossing of rung 3's mean score, and that score at the end, per run.

    Of runs with self-generated targets, and of seeds that were trained with fewer clips, too.
    """
    own = curves[(curves["run"] == "self") & (curves["rung"] == 3) & curves["counted"]]
    small = own.loc[own["clips"] < own["clips"].max(), "seed"]
    own = own[own["seed"].isin(small)]
    scores = own.groupby([*RUN, "step", "condition"])["score"].mean().unstack("condition")
    rows = []
    for run, curve in scores.reset_index().groupby(RUN):
        crossed = crossing_steps(_steps(curve), curve["audio"].to_numpy() >= HALF)
        ends = curve[["audio", *OTHER_AUDIO]].iloc[-1]
        rows.append((*run, *crossed, *ends, curve["audio"].iloc[0]))
    columns = [*RUN, "first", "stable", "score", *OTHER_AUDIO, "untrained"]
    return pd.DataFrame(rows, columns=columns)


def judge_corpus_size(scores: pd.DataFrame) -> Claim:
    """Does the crossing come earlier with more clips, at the same number of steps?"""
    slopes = [_slope_per_doubling(runs) for _, runs in scores.groupby("seed")]
    slope, censored = mean_interval(slopes), int(scores["stable"].isna().sum())
    verdict = _tell_side(slope, "yes, earlier with more clips", "no, later with more clips")
    numbers = [
        f"{clips} clips: stable from step {_format_mean(runs['stable'], '.0f')}"
        f" ({int(runs['stable'].notna().sum())} of {len(runs)} runs);"
        f" score at the end {_format_mean(runs['score'])}."
        for clips, runs in scores.groupby("clips")
    ]
    numbers.append(
        f"Slope: {_format(slope, '+.0f')} steps per doubling"
        f" ({len(slopes)} seeds, {censored} runs censored)."
    )
    return Claim(
        "Does the crossing come earlier with more clips?",
        "Stable half-way crossing of rung 3's mean score, against the logarithm of the clips"
        " trained with, at the same number of steps; a slope per seed, in steps per doubling."
        " Earlier if its 95 % interval over seeds is below zero. A seed with a censored run gives"
        " no slope.",
        verdict,
        numbers,
    )


def _slope_per_doubling(runs: pd.DataFrame) -> float:
    """Steps by which the crossing moves when the clips double; NaN with a censored run."""
    if runs["stable"].isna().any() or len(runs) < 2:
        return float("nan")
    return float(np.polyfit(np.log2(runs["clips"]), runs["stable"], 1)[0])
