"""Every bootstrap and every interval of the package: over speakers, over items, over seeds."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy import stats

RESAMPLES = 1000
PERCENTILES = (2.5, 97.5)  # the ends of a 95 % interval

Interval = tuple[float, float, float]  # value, lower end, upper end
DRAWN = ("random direction", "random directions", "random heads")  # kinds whose ends hold the draws


class SeedsError(ValueError):
    """Tables of several seeds that cannot be pooled; the message says why."""


def format_interval(interval: Sequence[float], form: str = ".2f", alone: str = "") -> str:
    """`0.50 [0.40, 0.60]`; a value without an interval is followed by `alone`, NaN is `none`.

    In a form with signs -0.00 says on which side of 0 a number is; without signs it is 0.00.
    """
    if np.isnan(interval[0]):
        return "none"
    form = form if form.startswith("+") else form.replace(".", "z.")
    value, low, high = (format(number, form) for number in interval)
    return f"{value}{alone}" if np.isnan(interval[1]) else f"{value} [{low}, {high}]"


def correct_for_chance(accuracy: Any, chance: Any) -> Any:
    """Accuracies on a scale where 0 is a guess and 1 is perfect."""
    return (accuracy - chance) / (1 - chance)


# ---- resampling ----


def resample_rows(
    count: int, seed: int = 0, resamples: int = RESAMPLES
) -> Int[np.ndarray, "resample row"]:
    """Draw `count` of `count` rows with replacement, again and again."""
    return np.random.default_rng(seed).integers(count, size=(resamples, count))


@cache
def resample_weights(count: int, seed: int = 0) -> Int[np.ndarray, "draw unit"]:
    """How often each unit is drawn in each resample; the first row is the data, each unit once."""
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    weights = np.vstack([np.ones((1, count), dtype=drawn.dtype), drawn])
    weights.flags.writeable = False  # everybody is given the same ones
    return weights


def interval_ends(draws: Float[np.ndarray, "draw"]) -> tuple[float, float]:
    """Both ends of the 95 % interval of some draws; draws that are NaN do not count."""
    if np.isnan(draws).all():
        return float("nan"), float("nan")
    low, high = np.nanpercentile(draws, PERCENTILES)
    return float(low), float(high)


def null_ends(draws: Float[np.ndarray, "draw"]) -> tuple[float, float]:
    """Both ends of the range of a null: another draw of it lies beyond either in 2.5 % of cases.

    Fewer than 39 draws cannot tell so much: the ends are then the least and the largest of n, and
    another draw lies beyond either in 1 of n + 1 cases, 4.8 % of 20.
    """
    low, high = np.percentile(draws, PERCENTILES, method="weibull")
    return float(low), float(high)


def percentile_interval(draws: Float[np.ndarray, "draw"]) -> Interval:
    """The first draw, the data's own value, and the 95 % interval of the resamples after it."""
    return (float(draws[0]), *interval_ends(draws[1:]))


def bootstrap_interval(
    statistic: Callable[[Int[np.ndarray, "*resample row"]], Any], count: int
) -> Interval:
    """A statistic of `count` rows with its 95 % interval over resampled rows.

    `statistic` takes row numbers along the last axis and returns a number for each resample.
    """
    low, high = interval_ends(statistic(resample_rows(count)))
    return float(statistic(np.arange(count))), low, high


def half_sample_ends(value: float, halves: Sequence[float]) -> tuple[float, float]:
    """Both ends of the 95 % interval of a statistic, from its values on random halves of the rows.

    Halves are drawn without replacement (Politis and Romano, 1994), for statistics, such as CKA,
    that copies of a row would mislead. They scatter about the value of all rows as much as that
    does about the truth: of a mean over n rows the variance is σ²/(n/2) · (1 - 1/2) = σ²/n.
    """
    low, high = np.nanpercentile(halves, PERCENTILES)
    centre = np.nanmean(halves)
    return float(value + low - centre), float(value + high - centre)


# ---- over speakers ----


def bootstrap_means(
    table: pd.DataFrame, measure: str, by: Sequence[str]
) -> dict[tuple, Float[np.ndarray, "draw"]]:
    """Mean of a measure in every group of `by` and every resample of speakers.

    The first mean is that of the data. All groups see the same resamples, so differences between
    groups are paired.
    """
    known = table.dropna(subset=[measure])
    if known.empty:
        return {}
    cells = known.groupby([*by, "speaker"])[measure].agg(["sum", "count"])
    sums = cells["sum"].unstack("speaker").fillna(0)
    counts = cells["count"].unstack("speaker").fillna(0)
    weights = resample_weights(sums.shape[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (sums.to_numpy() @ weights.T) / (counts.to_numpy() @ weights.T)
    keys = [key if isinstance(key, tuple) else (key,) for key in sums.index]
    return dict(zip(keys, means, strict=True))


def bootstrap_intervals(
    table: pd.DataFrame, measure: str, by: Sequence[str]
) -> dict[tuple, Interval]:
    """Mean of a measure with its 95 % interval over speakers, for every group of `by`."""
    means = bootstrap_means(table, measure, by)
    return {group: percentile_interval(draws) for group, draws in means.items()}


def interval_table(
    table: pd.DataFrame, measure: str, by: Sequence[str], value: str = "value", prefix: str = ""
) -> pd.DataFrame:
    """`bootstrap_intervals` as a table: the columns of `by`, the mean as `value`, `low`, `high`.

    `prefix` stands before the names of both ends.
    """
    intervals = bootstrap_intervals(table, measure, by)
    rows = [(*group, *interval) for group, interval in intervals.items()]
    return pd.DataFrame(rows, columns=[*by, value, f"{prefix}low", f"{prefix}high"])


# ---- over seeds: Student's t, because a bootstrap of a few seeds promises too much ----


def t_half_width(sem: Any, count: Any) -> Any:
    """Half the width of the 95 % t-interval of a mean with this standard error over `count` values.

    Takes numbers, arrays or series; NaN for a single value.
    """
    return sem * stats.t.ppf(PERCENTILES[1] / 100, count - 1)


def mean_interval(values: Sequence[float] | Float[np.ndarray, "value"] | pd.Series) -> Interval:
    """Mean of the values that are no NaN, with its 95 % t-interval; one value has NaN as ends."""
    known = pd.Series(values, dtype=float).dropna()
    mean, width = known.mean(), t_half_width(known.sem(), len(known))
    return float(mean), float(mean - width), float(mean + width)


def add_mean_interval(
    table: pd.DataFrame, by: Sequence[str], measure: str = "score", count: str = "seeds"
) -> pd.DataFrame:
    """Add to every row the mean of its group with the 95 % t-interval: `mean`, `low`, `high`.

    The number of values in the group stands under the name `count`.
    """
    groups = table.groupby(list(by), dropna=False)[measure]
    number, mean = groups.transform("count"), groups.transform("mean")
    width = t_half_width(groups.transform("sem"), number)
    return table.assign(mean=mean, low=mean - width, high=mean + width, **{count: number})


def pool_seeds(tables: Mapping[int, pd.DataFrame], rows: Sequence[str]) -> pd.DataFrame:
    """One table over several training seeds: the mean of every number, with 95 % t-intervals.

    `low` and `high` become the interval of the column before them, `x_low` and `x_high` that of
    `x`. What is random keeps the mean of its draws' ends. `p` is the largest, so that it is below
    .05 where every seed's is. Texts that differ stand side by side. One seed's table stays as it
    is.

    Args:
        tables: seed → its table.
        rows: the columns that tell the rows of one seed apart.

    Raises:
        SeedsError: two seeds have other rows.
    """
    (seed, first), *others = tables.items()
    by = list(rows)
    for other, table in others:
        _check_rows(first[by], table[by], (seed, other))
    if not others:
        return first
    long = pd.concat(tables.values(), ignore_index=True)
    groups, numbers = long.groupby(by, sort=False), first.select_dtypes("number")
    how: dict[str, Any] = {name: "mean" if name in numbers else _join_texts for name in first}
    how |= dict.fromkeys(first.select_dtypes("bool"), "mean") | {"p": "max"}
    pooled = groups.agg({name: how[name] for name in first if name not in by}).reset_index()
    drawn = pooled["kind"].isin(DRAWN) if "kind" in pooled else pd.Series(False, pooled.index)
    names = list(first)
    for low in [name for name in names if name.endswith("low")]:
        measure = names[names.index("low") - 1] if low == "low" else low.removesuffix("_low")
        if measure not in numbers or measure == "random":
            continue
        ends = add_mean_interval(long, by, measure).drop_duplicates(by).reset_index()
        for end in ("low", "high"):
            name = low.replace("low", end)
            pooled[name] = pooled[name].where(drawn, ends[end])
    return pooled[names]


def _check_rows(first: pd.DataFrame, other: pd.DataFrame, seeds: tuple[int, int]) -> None:
    there, here = (set(table.itertuples(index=False, name=None)) for table in (first, other))
    if odd := sorted(there ^ here, key=str):
        raise SeedsError(
            f"The tables of seeds {seeds[0]} and {seeds[1]} cannot be pooled: one alone has the "
            f"row {', '.join(map(str, odd[0]))}; look into both with the same clips and sizes."
        )


def _join_texts(texts: pd.Series) -> str:
    return " / ".join(dict.fromkeys(map(str, texts)))


# ---- tests ----


def rank_p(value: float, draws: Sequence[float] | Float[np.ndarray, "draw"]) -> float:
    """One-sided p-value of a value among draws of its null: the share that is as large.

    The value counts as one of them, so that p is never 0, and below .05 with 20 draws or more. That
    of a value that is NaN is NaN.
    """
    if np.isnan(value):
        return float("nan")
    return float((1 + (np.asarray(draws) >= value - 1e-12).sum()) / (1 + len(draws)))


# ---- tests of many cells at once ----


def sign_flip_p(
    differences: Float[np.ndarray, "pair cell"], flips: int = RESAMPLES
) -> Float[np.ndarray, "cell"]:
    """p-values of "no difference" for many cells of the same pairs, corrected for their number.

    Under the null a pair's differences may as well have the other sign. Each cell's |t| is held
    against the largest |t| of all cells when whole pairs flip their signs (Westfall and Young,
    1993, max-T), so that the chance of any false cell is at most p. One pair alone shows nothing: p
    is 1.
    """
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(flips, len(differences)))
    signs[0] = 1
    mean = signs @ differences / len(differences)
    variance = (differences**2).mean(0) - mean**2
    return _max_t_p(mean, variance / max(len(differences) - 1, 1))


def group_difference_p(
    values: Float[np.ndarray, "pair cell"], marked: Bool[np.ndarray, "pair"], draws: int = RESAMPLES
) -> Float[np.ndarray, "cell"]:
    """p-values of "the marked pairs are as the others" for many cells, corrected for their number.

    As in `sign_flip_p`, with the marks dealt anew among the pairs. NaN where all are marked, or
    none is.
    """
    if marked.all() or not marked.any():
        return np.full(values.shape[1], np.nan)
    rng = np.random.default_rng(0)
    marks = np.array([marked, *(rng.permutation(marked) for _ in range(draws - 1))], dtype=float)

    def moments(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        count = weights.sum(1, keepdims=True)
        mean = weights @ values / count
        return mean, (weights @ values**2 / count - mean**2) / np.maximum(count - 1, 1)

    (mean, variance), (other, of_other) = moments(marks), moments(1 - marks)
    return _max_t_p(mean - other, variance + of_other)


def _max_t_p(
    effects: Float[np.ndarray, "draw cell"], variances: Float[np.ndarray, "draw cell"]
) -> Float[np.ndarray, "cell"]:
    """p-values of the first draw's |t| among the largest |t| of all draws."""
    t = np.abs(effects) / np.sqrt(np.maximum(variances, 1e-24))
    t[np.abs(effects) < 1e-12] = 0  # a cell in which nothing ever moves
    return (t.max(1)[:, None] >= t[0] - 1e-9).mean(0)
