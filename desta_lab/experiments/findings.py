"""What a study's table shows, by rule: differences over seeds, a curve, sentences and a figure."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import optimize

from desta_lab.evaluation.statistics import (
    Interval,
    format_interval,
    interval_ends,
    mean_interval,
    resample_rows,
)
from desta_lab.experiments.studies import Study
from desta_lab.views import study_figures

RESAMPLES = 200  # of seeds, for a curve
MIN_SEEDS, MIN_AMOUNTS = 3, 4  # of a curve
MAX_TOP_WIDTH, MAX_HALF_RATIO = 0.2, 3.0  # widest intervals of a curve that is determined
LEVEL = 0.9  # share of its top that a curve that levels off has at the largest amount


class Difference(NamedTuple):
    """An arm's score minus the baseline's, paired over seeds, with a 95 % t-interval."""

    arm: str
    mean: float
    low: float
    high: float
    seeds: int

    @property
    def shown(self) -> bool:
        """Whether the interval excludes 0; that of one seed is unknown and excludes nothing."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        near = min(abs(self.low), abs(self.high)) < 0.005  # digits that tell the side of 0
        return format_interval(self[1:4], "+.3f" if near else "+.2f", " (one seed)")


def scores_by_arm(
    table: pd.DataFrame, rung: int = 3, condition: str = "audio", height: str = "score"
) -> pd.DataFrame:
    """Scores of a rung under a condition: one column an arm, one row a seed.

    `height` is `score`, with options ranked, or `said`, in the backbone's own words.
    """
    chosen = (table["rung"] == rung) & (table["condition"] == condition)
    rows = table[chosen & (table["attribute"] == "all")]
    arms = list(dict.fromkeys(table["arm"]))
    return rows.pivot(index="seed", columns="arm", values=height).reindex(columns=arms)


def compare_arms(
    study: Study, table: pd.DataFrame, height: str = "score", rung: int = 3
) -> list[Difference]:
    """Each arm on a rung beside the baseline, over the seeds that both have."""
    scores, baseline = scores_by_arm(table, rung, height=height), study.baseline_arm
    if baseline not in scores:
        return []
    gaps = {arm: (scores[arm] - scores[baseline]).dropna() for arm in scores if arm != baseline}
    return [Difference(arm, *mean_interval(gap), len(gap)) for arm, gap in gaps.items() if len(gap)]


def compare_all(study: Study, table: pd.DataFrame) -> dict[str, list[Difference]]:
    """What a study compares, in words → each arm beside the baseline.

    In the LLM's own words rung 2, too: there an output format is asked for, which may be lost.
    """
    compared = {"Rung 3": compare_arms(study, table)}
    if "said" in table:
        compared["Rung 3 in the LLM's own words"] = compare_arms(study, table, "said")
        what = "Rung 2, the right answer in an output format, in the LLM's own words"
        compared[what] = compare_arms(study, table, "said", 2)
    return compared


# ---- a saturating curve ----


class Curve(NamedTuple):
    """score = top / (1 + (half / n) ** slope), with 95 % intervals over seeds."""

    top: Interval
    half: Interval  # the amount that gives half of the top
    slope: Interval
    last: float  # the largest amount that was measured

    @property
    def levels_off(self) -> bool:
        """Whether the points come near the top; if not, the top is a guess."""
        return float(self.score_at(np.array([self.last]))[0]) >= LEVEL * self.top[0]

    @property
    def is_determined(self) -> bool:
        """Whether the points level off and the seeds agree on top and half."""
        narrow = self.top[2] - self.top[1] <= MAX_TOP_WIDTH
        return narrow and self.half[2] <= MAX_HALF_RATIO * self.half[1] and self.levels_off

    def score_at(self, amount: np.ndarray) -> np.ndarray:
        """The curve's score at some amounts."""
        return _saturate(np.log(amount), self.top[0], np.log(self.half[0]), self.slope[0])


def _saturate(log_n: Any, top: float, log_half: float, slope: float) -> Any:
    return top / (1 + np.exp(slope * (log_half - log_n)))


def fit_curve(table: pd.DataFrame) -> Curve | None:
    """A saturating curve through rung 3's means over seeds, or None if there are too few points.

    Its intervals are of a bootstrap over seeds, which few seeds make too narrow.
    """
    scores = scores_by_arm(table).dropna()
    amounts = table.drop_duplicates("arm").set_index("arm")["at"]
    x = amounts.reindex(scores.columns).to_numpy(float)
    y = scores.to_numpy()
    if len(y) < MIN_SEEDS or len(set(x)) < MIN_AMOUNTS:
        return None
    rows = np.sort(resample_rows(len(y), resamples=RESAMPLES), axis=1)
    unique, which = np.unique(rows, axis=0, return_inverse=True)
    fits = np.array([_fit_means(x, y[row].mean(axis=0)) for row in unique])[which.reshape(-1)]
    value = _fit_means(x, y.mean(axis=0))
    if np.isnan(fits).any(axis=1).mean() > 0.05 or np.isnan(value).any():
        return None
    top, half, slope = (
        (float(one), *interval_ends(draws)) for one, draws in zip(value, fits.T, strict=True)
    )
    return Curve(top, half, slope, float(x.max()))


def _fit_means(amounts: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Top, half and slope of the curve through some means; NaN if no fit is found."""
    log_n = np.log(amounts)
    start = (np.clip(means.max(), 0.05, 0.99), np.median(log_n), 1.0)
    # a score ends at 1; a half far outside the measured amounts is possible
    bounds = ([0.0, log_n.min() - 5, 0.1], [1.0, log_n.max() + 5, 8.0])
    try:
        fit = optimize.curve_fit(_saturate, log_n, means, start, bounds=bounds, max_nfev=60)[0]
    except RuntimeError:
        return np.full(3, np.nan)
    return np.array([fit[0], np.exp(fit[1]), fit[2]])


# ---- sentences and figure ----


def state_findings(study: Study, table: pd.DataFrame) -> list[str]:
    """What a table shows, by rule, in sentences."""
    if study.state:
        return study.state(study, table)
    compared = compare_all(study, table)
    sentences = [state_differences(study, gaps, what) for what, gaps in compared.items()]
    if study.amount:
        sentences.append(_state_curve(fit_curve(table), study))
    return [sentence for sentence in sentences if sentence]


def state_differences(study: Study, gaps: list[Difference], what: str = "Rung 3") -> str:
    """Which differences to the baseline are shown and which are not."""
    if not gaps:
        return ""
    seeds = sorted({gap.seeds for gap in gaps})
    if seeds == [1]:
        return (
            f"{what} against {study.baseline_arm}, in one seed, which alone shows nothing: "
            f"{_means(gaps)}."
        )
    shown = [f"{gap.arm} {gap}" for gap in gaps if gap.shown]
    rest = [f"{gap.arm} {gap}" for gap in gaps if not gap.shown]
    over = "–".join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))
    return (
        f"{what} against {study.baseline_arm}, over {over} seeds: shown: "
        f"{', '.join(shown) or 'nothing'}; not shown: {', '.join(rest) or 'nothing'}."
    )


def _means(gaps: Iterable[Difference]) -> str:
    return ", ".join(f"{gap.arm} {gap.mean:+.2f}" for gap in gaps)


def _summarise(gaps: Sequence[Difference]) -> str:
    """Which differences are shown; all of them where there is one seed."""
    if all(gap.seeds == 1 for gap in gaps):
        return _means(gaps)
    shown = _means(gap for gap in gaps if gap.shown)
    rest = ", ".join(gap.arm for gap in gaps if not gap.shown)
    return "; ".join([f"shown {shown}"] * bool(shown) + [f"not shown {rest}"] * bool(rest))


def _state_curve(curve: Curve | None, study: Study) -> str:
    if curve is None:
        return (
            "No curve: it takes four amounts, three seeds that have them all, and a fit that "
            "converges."
        )
    forms = zip(curve[:3], (".2f", ".0f", ".1f"), strict=True)
    top, half, slope = (format_interval(interval, form) for interval, form in forms)
    unit = "clips" if study.amount == "train" else study.amount
    if curve.is_determined:
        return (
            f"Saturating curve: top {top}, half of it at {half} {unit}, slope {slope} (95 % over "
            "seeds)."
        )
    reason = "" if curve.levels_off else " (they do not level off)"
    return (
        f"The saturating curve is not determined by these points{reason}: top {top}, half of it "
        f"at {half} {unit} (95 % over seeds)."
    )


def draw_study(study: Study, table: pd.DataFrame) -> Any:
    """The arms' scores, every seed a dot, with every control and the curve."""
    if study.draw:
        return study.draw(study, table)
    seeds = table["seed"].nunique()
    summaries = map(_summarise, compare_all(study, table).values())
    heads = ("", "in its own words: ", "and in a format: ")
    found = "; ".join(map("".join, zip(heads, summaries, strict=False)))
    headline = (
        f"{study.title}, rung 3 against {study.baseline_arm}: "
        f"{found} ({seeds} seed{'s' * (seeds > 1)})"
    )
    curve = fit_curve(table) if study.amount else None
    line = [one[0] for one in curve[:3]] if curve and curve.is_determined else []
    names = {"train": "training clips", "": ""}
    unit = names.get(study.amount, f"training {study.amount}")
    return study_figures.plot_ablation(table, headline, unit, line)
