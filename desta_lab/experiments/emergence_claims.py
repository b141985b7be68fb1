"""When, how suddenly and how much together things rise along the ladder, over several runs: tables → claims.

A run is one seed: its own world, its own newborn connector, its own order of examples. Intervals over runs are
t-intervals of one number a run; intervals within a run resample its speakers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from desta_lab.evaluation.statistics import (
    bootstrap_means,
    interval_ends,
    mean_interval,
    percentile_interval,
)
from desta_lab.evaluation.verdict import crossing_steps

HALF = 0.5  # of the way from chance to perfect: where an answer counts as there
RUNG = 16  # steps between two checkpoints of the ladder where it is even
DRAWS = 2000  # of a null
METRICS = {"calibrated": "accuracy", "margin": "log-probability margin"}
RUN = ["run", "clips", "seed"]


@dataclass(frozen=True)
class Claim:
    """A question, the rule that was set for its answer, what the rule says of these tables, and the numbers."""

    question: str
    rule: str
    verdict: str
    numbers: list[str]


def said(values: tuple[float, float, float], form: str = ".2f") -> str:
    """A number with its interval, as every sentence here writes it; of one run there is none, of no run no number."""
    middle, low, high = (
        format(value, form.replace(".", "z.")) for value in values
    )  # z: no minus before a zero
    if np.isnan(values[0]):
        return "none"
    return f"{middle} (one run)" if np.isnan(values[1]) else f"{middle} [{low}, {high}]"


# ---- clips → curves ----


def curves(answers: pd.DataFrame, able: Sequence[str]) -> pd.DataFrame:
    """One run's answers per step × condition × task: `score` (0 chance, 1 perfect) and `margin` (nats); `lead` is how far
    audio is above both controls, by the lower end of the 95 % interval over speakers of the paired difference."""
    by = ["step", "condition", "task"]
    right, margins = (
        bootstrap_means(answers, "calibrated", by),
        answers.groupby(by)["margin"].mean(),
    )
    known = answers.groupby("task")[["rung", "attribute", "chance"]].first()
    rows = []
    for (step, condition, task), drawn in right.items():
        chance = known.loc[task, "chance"]
        lead = (
            [drawn - right[step, control, task] for control in ("shuffled", "silence")]
            if condition == "audio"
            else []
        )
        rows.append(
            {
                "step": step,
                "condition": condition,
                "task": task,
                "rung": known.loc[task, "rung"],
                "attribute": known.loc[task, "attribute"],
                "counted": task in able,
                "score": float((drawn[0] - chance) / (1 - chance)),
                "margin": float(margins[step, condition, task]),
                "lead": min((percentile_interval(gap)[1] for gap in lead), default=float("nan")),
            }
        )
    return pd.DataFrame(rows)


def probed(told: pd.DataFrame) -> pd.DataFrame:
    """One run's probes per step × attribute: `score` and that of `random` labels, above chance; `lead` is the lower end
    of the 95 % interval over speakers of their paired difference."""
    values = bootstrap_means(told, "correct", ["step", "attribute", "kind"])
    chances = told.groupby("attribute")["chance"].first()
    rows = []
    for step, attribute in dict.fromkeys(key[:2] for key in values):
        chance = chances[attribute]
        ours, random = (values[step, attribute, kind] for kind in ("probe", "random labels"))
        rows.append(
            {
                "step": step,
                "attribute": attribute,
                "score": float((ours[0] - chance) / (1 - chance)),
                "random": float((random[0] - chance) / (1 - chance)),
                "lead": percentile_interval(ours - random)[1],
            }
        )
    return pd.DataFrame(rows)


# ---- how suddenly ----


def jump_share(curve: Float[np.ndarray, "draw step"]) -> Float[np.ndarray, "draw"]:
    """The largest rise between neighbouring checkpoints, as a share of the whole: 1 is a step, whatever the unit."""
    with np.errstate(divide="ignore", invalid="ignore"):  # what did not rise has no share
        return np.diff(curve).max(-1) / (curve[:, -1] - curve[:, 0])


def steady(
    curve: Float[np.ndarray, "draw step"], steps: Sequence[int]
) -> Float[np.ndarray, "draw step"]:
    """The same whole rise, spread evenly over the steps of training, with the noise of these draws; the first row of
    `curve` is the data."""
    return (
        curve
        - curve[0]
        + curve[0, 0]
        + (curve[0, -1] - curve[0, 0]) * np.asarray(steps) / steps[-1]
    )


def jumps(answers: pd.DataFrame) -> pd.DataFrame:
    """Jump share per task and metric of one run's audio condition, beside the median of a steady rise as noisy as it is."""
    heard = answers[answers["condition"] == "audio"]
    steps, rows = sorted(heard["step"].unique().tolist()), []
    for measure, metric in METRICS.items():
        values = bootstrap_means(heard, measure, ["task", "step"])
        for task in dict.fromkeys(task for task, _ in values):
            curve = np.stack([values[task, step] for step in steps], axis=-1)
            at, calm = int(np.diff(curve[0]).argmax()), jump_share(steady(curve, steps)[1:])
            rows.append(
                {
                    "task": task,
                    "metric": metric,
                    "rise": curve[0, -1] - curve[0, 0],
                    "share": float(jump_share(curve[:1])[0]),
                    "steady": float(np.median(calm)),
                    "before": steps[at],
                    "step": steps[at + 1],
                }
            )
    return pd.DataFrame(rows)


def mirage(found: pd.DataFrame, curves: pd.DataFrame) -> Claim:
    """Does accuracy jump where the log-probability margin moves smoothly?"""
    tasks = risen(curves)
    wide = found[found["task"].isin(tasks)].pivot(
        index=["seed", "task"], columns="metric", values=["share", "steady"]
    )
    beyond = wide["share"] - wide["steady"]
    runs = {name: column.groupby("seed").mean() for name, column in beyond.items()}
    accuracy, margin = METRICS.values()
    gap = mean_interval((runs[accuracy] - runs[margin]).tolist())
    plain = mean_interval(
        (wide["share"][accuracy] - wide["share"][margin]).groupby("seed").mean().tolist()
    )
    more = (
        "the margin jumps, too"
        if mean_interval(runs[margin].tolist())[1] > 0
        else "whether the margin jumps is open"
    )
    verdict = (
        f"no mirage shown: {more}; the jump share of accuracy is larger by at most {plain[2]:.2f}"
    )
    if min(gap[1], plain[1]) > 0:
        verdict = "accuracy jumps more than the margin does: a part of the jump is the metric"
    if max(gap[2], plain[2]) < 0:
        verdict = "the margin jumps more than accuracy does: no mirage"
    shares = {
        m: mean_interval(wide["share"][m].groupby("seed").mean().tolist())
        for m in (accuracy, margin)
    }
    calm = {
        m: mean_interval(wide["steady"][m].groupby("seed").mean().tolist())[0]
        for m in (accuracy, margin)
    }
    return Claim(
        "Does accuracy jump while log-probability moves smoothly?",
        "Jump share: the largest rise between two checkpoints over the whole rise, per task; mean over the tasks that "
        "rise in every seed. Accuracy jumps more if the 95 % interval over seeds of accuracy minus margin is above "
        "zero, as it stands and after the share of a steady rise with the same noise is taken from each. (Taken alone, "
        "the latter takes too much from the noisier metric: a maximum hides noise where it is high already.) "
        "The margin jumps if its share is beyond that of the steady rise.",
        verdict,
        [
            *(
                f"{m[0].upper()}{m[1:]}: jump share {said(shares[m])}; a steady rise with its noise {calm[m]:.2f}; "
                f"beyond that {said(mean_interval(runs[m].tolist()), '+.2f')}."
                for m in (accuracy, margin)
            ),
            f"Accuracy minus margin: {said(gap, '+.2f')} beyond noise, {said(plain, '+.2f')} as it stands "
            f"({wide.index.get_level_values('seed').nunique()} seeds, {len(tasks)} tasks).",
        ],
    )


def risen(curves: pd.DataFrame) -> list[str]:
    """Tasks never trained (rung 2 and up) that the text oracle can do and that end above both controls, in every run
    of self-generated targets."""
    last = whole(curves)
    last = last[(last["step"] == last["step"].max()) & (last["rung"] >= 2)]
    up = (last["counted"] & (last["lead"] > 0)).groupby(last["task"]).all()
    return [str(task) for task in up.index[up]]


def whole(curves: pd.DataFrame) -> pd.DataFrame:
    """The audio condition of the runs with self-generated targets and all clips."""
    own = curves[(curves["run"] == "self") & (curves["condition"] == "audio")]
    return own[own["clips"] == own["clips"].max()]


# ---- when ----


def crossings(curves: pd.DataFrame, probes: pd.DataFrame) -> pd.DataFrame:
    """First and stable crossing of every run and task, by what is asked for: an accuracy half way to perfect
    (`half way`), one above both controls (`heard`), half of the margin's own rise (`half margin`); and of every
    attribute's probe, above random labels (`readable`)."""
    rows = []
    heard = curves[(curves["condition"] == "audio") & curves["counted"]]
    for (*run, task), curve in heard.sort_values("step").groupby([*RUN, "task"]):
        margin = curve["margin"].to_numpy()
        lines = {
            "half way": curve["score"].to_numpy() >= HALF,
            "heard": curve["lead"].to_numpy() > 0,
            "half margin": margin - margin[0] >= HALF * max(margin[-1] - margin[0], 1e-9),
        }
        for what, above in lines.items():
            first, stable = crossing_steps(curve["step"].astype(float).tolist(), above)
            about = {
                "task": task,
                "rung": curve["rung"].iloc[0],
                "attribute": curve["attribute"].iloc[0],
            }
            rows.append(
                {
                    **dict(zip(RUN, run, strict=True)),
                    **about,
                    "what": what,
                    "first": first,
                    "stable": stable,
                }
            )
    for (*run, attribute), curve in probes.sort_values("step").groupby([*RUN, "attribute"]):
        first, stable = crossing_steps(
            curve["step"].astype(float).tolist(), curve["lead"].to_numpy() > 0
        )
        about = {
            "task": f"probe_{attribute}",
            "rung": -1,
            "attribute": attribute,
            "what": "readable",
        }
        rows.append({**dict(zip(RUN, run, strict=True)), **about, "first": first, "stable": stable})
    return pd.DataFrame(rows)


def over_seeds(crossings: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """First and stable crossing with intervals over the runs that cross, and how many do: the others are censored."""
    rows = []
    for key, some in crossings.groupby(list(by), sort=False):
        cell: dict[str, float | str] = dict(zip(by, key, strict=True))
        for name in ("first", "stable"):
            cell |= dict(
                zip(
                    (name, f"{name}_low", f"{name}_high"),
                    mean_interval(some[name].tolist()),
                    strict=True,
                )
            )
        rows.append({**cell, "crossed": int(some["stable"].notna().sum()), "runs": len(some)})
    return pd.DataFrame(rows)


def once(crossings: pd.DataFrame) -> Claim:
    """Does what has crossed stay?"""
    own = crossings[(crossings["run"] == "self") & (crossings["clips"] == crossings["clips"].max())]
    half = own[(own["what"] == "half way") & (own["rung"] == 3)]
    never, back = int(half["stable"].isna().sum()), int((half["stable"] > half["first"]).sum())
    wait = mean_interval((half["stable"] - half["first"]).groupby(half["seed"]).mean().tolist())
    steps = over_seeds(half, ["attribute"]).sort_values("stable")
    verdict = "it comes and stays" if wait[2] < RUNG else "whether it stays is not decided"
    if wait[1] > 0:
        verdict = "it comes, goes and comes again"
    return Claim(
        "When does an answer that was never trained arrive, and does it stay?",
        "First crossing: the first checkpoint at which a rung-3 attribute is half way from chance to perfect; stable: "
        "the first from which on it stays there. A run that never stays is censored, counted, and in no mean. "
        "It stays if the 95 % interval over seeds of stable minus first ends below one checkpoint (16 steps); it goes "
        "again if that interval is above zero.",
        verdict,
        [
            *(
                f"{row['attribute']}: first at step {said((row['first'], row['first_low'], row['first_high']), '.0f')}, "
                f"stable from {said((row['stable'], row['stable_low'], row['stable_high']), '.0f')} "
                f"({row['crossed']} of {row['runs']} runs)."
                for _, row in steps.iterrows()
            ),
            f"Stable minus first: {said(wait, '+.0f')} steps; {back} of {len(half)} fell back once or more, {never} "
            "never stayed.",
        ],
    )


# ---- together ----


def apart(steps: Float[np.ndarray, "draw run task"]) -> Float[np.ndarray, "draw"]:
    """Mean distance, in steps, between the crossings of two tasks of one run; a task that does not cross has none."""
    gaps = np.abs(steps[..., :, None] - steps[..., None, :])
    first, second = np.triu_indices(steps.shape[-1], 1)
    return np.nanmean(gaps[..., first, second], axis=(-2, -1))


def exchanged(
    steps: Float[np.ndarray, "run task"], draws: int = DRAWS
) -> Float[np.ndarray, "draw run task"]:
    """Every task's crossings dealt anew to the runs: the tasks keep their own times and lose their common run."""
    rng = np.random.default_rng(0)
    return rng.permuted(np.broadcast_to(steps, (draws, *steps.shape)), axis=1)


def anywhere(
    steps: Float[np.ndarray, "run task"], ladder: Sequence[float], draws: int = DRAWS
) -> Float[np.ndarray, "draw run task"]:
    """Every crossing at a time of its own, evenly anywhere in training, seen at the next checkpoint."""
    times = np.random.default_rng(0).uniform(0, ladder[-1], (draws, *steps.shape))
    seen = np.asarray(ladder, dtype=float)[np.searchsorted(ladder, times)]
    return np.where(np.isnan(steps), np.nan, seen)


def distances(crossings: pd.DataFrame, ladder: Sequence[float]) -> pd.DataFrame:
    """How far apart two tasks of one run cross, and what that would be under both nulls; of tasks about the same
    attribute, and about different ones, apart."""
    wide = crossings.pivot(index="seed", columns="task", values="stable")
    steps = wide.to_numpy()
    attribute = crossings.groupby("task")["attribute"].first()[wide.columns].to_numpy()
    first, second = np.triu_indices(len(attribute), 1)
    gaps, same = np.abs(steps[:, first] - steps[:, second]), attribute[first] == attribute[second]
    rows = [("measured", *mean_interval([float(apart(run[None, None])[0]) for run in steps]))]
    for name, drawn in (
        ("tasks of different runs", exchanged(steps)),
        ("at any time", anywhere(steps, ladder)),
    ):
        null = apart(drawn)
        low, high = interval_ends(null)
        rows.append((name, float(null.mean()), low, high))
    for name, some in (("same attribute", same), ("other attribute", ~same)):
        if some.any():
            rows.append((name, *mean_interval(pd.DataFrame(gaps[:, some]).mean(axis=1).tolist())))
    return pd.DataFrame(rows, columns=["name", "mean", "low", "high"])


def together(found: pd.DataFrame, crossings: pd.DataFrame) -> Claim:
    """Is there a step at which many tasks rise together? From `distances` and the crossings behind them."""
    row = found.set_index("name")
    measured = row.loc["measured", "mean"]
    verdict = "no: they come as if each had a time of its own"
    if measured < row.loc["at any time", "low"]:
        verdict = "yes, in one part of training"
    closer = row.loc["tasks of different runs", "mean"] - measured
    if measured < row.loc["tasks of different runs", "low"]:
        verdict += (
            f"; tasks of one run stand {closer:.0f} steps closer than tasks of different runs"
        )
    else:
        verdict += "; that a run has a moment of its own is not shown"
    told = {
        name: said((one["mean"], one["low"], one["high"]), ".0f") for name, one in row.iterrows()
    }
    crowd = crossings.dropna(subset="stable").groupby(["seed", "stable"]).size()
    crowd /= crossings.dropna(subset="stable").groupby("seed").size()
    numbers = [
        f"Two tasks of one run stand {told['measured']} steps apart ({crossings['seed'].nunique()} seeds, "
        f"{crossings['task'].nunique()} tasks, {int(crossings['stable'].isna().sum())} crossings censored).",
        f"With the tasks taken from different runs: {told['tasks of different runs']}; each at any time: "
        f"{told['at any time']}.",
        f"The checkpoint at which most tasks cross has {said(mean_interval(crowd.groupby('seed').max().tolist()), '.0%')} "
        "of them.",
    ]
    if "same attribute" in told:
        numbers.append(
            f"Tasks about the same attribute stand {told['same attribute']} steps apart, about different ones "
            f"{told['other attribute']}."
        )
    return Claim(
        "Is there a step at which many tasks rise together?",
        "Mean distance between the stable half-way crossings of two tasks of one run. Tasks rise together if it is "
        "below the 95 % range of as many crossings at any time of training; tasks of one run stand closer than those "
        "of different runs if it is below that of the same crossings exchanged between runs, task by task (2,000 draws "
        "each).",
        verdict,
        numbers,
    )


# ---- what comes first ----


def before(crossings: pd.DataFrame) -> Claim:
    """Does the probe rise before the answer?"""
    own = crossings[(crossings["run"] == "self") & (crossings["clips"] == crossings["clips"].max())]
    read = own[own["what"] == "readable"].set_index(["seed", "attribute"])["stable"]
    spoken = own[(own["what"] == "heard") & (own["rung"] == 3)].set_index(["seed", "attribute"])[
        "stable"
    ]
    both = pd.DataFrame({"read": read, "spoken": spoken}).loc[spoken.index]
    lead = mean_interval((both["spoken"] - both["read"]).groupby("seed").mean().tolist())
    born = int((both["read"] == 0).sum())
    verdict = "the answer is up first" if lead[2] < 0 else "not shown"
    if lead[1] > 0:
        verdict = "the probe is up first"
    if 2 * born > len(both):
        verdict = "the probe does not rise: it is up from step 0, before anything is learned"
    names = both.groupby("attribute")
    return Claim(
        "Does the probe rise before the answer?",
        "Per attribute and run, on the same clips of unseen speakers: the first checkpoint from which on the probe on "
        "the audio embeddings stays above random labels, and the first from which on the answer stays above shuffled "
        "audio and silence (lower ends of paired 95 % intervals above zero). The probe is first if the interval over "
        "seeds of the difference is above zero; it does not rise if it is up from step 0 in most pairs.",
        verdict,
        [
            f"The answer follows the probe by {said(lead, '+.0f')} steps (pairs with both: {len(both.dropna())} of "
            f"{len(both)}).",
            f"The probe is stably up from step 0 in {born} of {len(both)} pairs; it never stays up in "
            f"{int(both['read'].isna().sum())}, the answer in {int(both['spoken'].isna().sum())}.",
            *(
                f"{name}: probe from step {said(mean_interval(some['read'].tolist()), '.0f')}, answer from "
                f"{said(mean_interval(some['spoken'].tolist()), '.0f')}."
                for name, some in names
            ),
        ],
    )


# ---- with more data ----


def scaled(curves: pd.DataFrame) -> pd.DataFrame:
    """Stable half-way crossing of rung 3's mean score, and that score at the end, per run with self-generated targets;
    of the seeds that were trained with fewer clips, too."""
    own = curves[(curves["run"] == "self") & (curves["rung"] == 3) & curves["counted"]]
    own = own[own["seed"].isin(own.loc[own["clips"] < own["clips"].max(), "seed"])]
    mean = (
        own.groupby([*RUN, "step", "condition"])["score"].mean().unstack("condition").reset_index()
    )
    rows = []
    for run, curve in mean.groupby(RUN):
        first, stable = crossing_steps(
            curve["step"].astype(float).tolist(), curve["audio"].to_numpy() >= HALF
        )
        last = curve.iloc[-1]
        rows.append(
            {
                **dict(zip(RUN, run, strict=True)),
                "first": first,
                "stable": stable,
                "score": last["audio"],
                "shuffled": last["shuffled"],
                "silence": last["silence"],
                "untrained": curve["audio"].iloc[0],
            }
        )
    return pd.DataFrame(
        rows, columns=[*RUN, "first", "stable", "score", "shuffled", "silence", "untrained"]
    )


def data(found: pd.DataFrame) -> Claim:
    """Do more clips bring the crossing earlier, at the same number of steps?"""
    slopes = []
    for _, some in found.groupby("seed"):
        whole_run = some["stable"].notna().all() and len(some) > 1
        slopes.append(
            float(np.polyfit(np.log2(some["clips"]), some["stable"], 1)[0])
            if whole_run
            else float("nan")
        )
    slope, censored = mean_interval(slopes), int(found["stable"].isna().sum())
    verdict = "not shown"
    if slope[2] < 0:
        verdict = "yes, earlier with more clips"
    if slope[1] > 0:
        verdict = "no, later with more clips"
    cells = found.groupby("clips")
    return Claim(
        "Does the crossing come earlier with more clips?",
        "Stable half-way crossing of rung 3's mean score, against the logarithm of the clips trained with, at the same "
        "number of steps; a slope per seed, in steps per doubling. Earlier if its 95 % interval over seeds is below "
        "zero. A seed with a censored run gives no slope.",
        verdict,
        [
            *(
                f"{clips} clips: stable from step {said(mean_interval(some['stable'].tolist()), '.0f')} "
                f"({int(some['stable'].notna().sum())} of {len(some)} runs); score at the end "
                f"{said(mean_interval(some['score'].tolist()))}."
                for clips, some in cells
            ),
            f"Slope: {said(slope, '+.0f')} steps per doubling ({len(slopes)} seeds, {censored} runs censored).",
        ],
    )
