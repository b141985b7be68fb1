"""Checks of notebook 05: scores without the prior, intervals over people, the step, the jump."""

from collections.abc import Callable
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor

from desta_lab.course.checks import Wrong, catches, expect, same
from desta_lab.evaluation.scoring import balanced_mean
from desta_lab.evaluation.verdict import crossing_steps
from desta_lab.experiments import emergence_claims

Scores = Callable[[Tensor, Tensor, Tensor], Tensor]


def _prior(scores: Tensor, held_out: Tensor, truth: Tensor) -> Tensor:
    return balanced_mean(held_out, [str(value) for value in truth.tolist()])


def _minus(other: Scores) -> Scores:
    return lambda scores, held_out, truth: scores - other(scores, held_out, truth)


# scores of options without what the model says of any clip; every value weighs the same
take_out_prior = _minus(_prior)


def _own(scores: Tensor, held_out: Tensor, truth: Tensor) -> Tensor:
    return scores.mean(0)


def _true(scores: Tensor, held_out: Tensor, truth: Tensor) -> Tensor:
    return torch.stack([held_out[truth == i, i].mean() for i in range(scores.shape[1])])


@catches("This is uncalibrated ranking: the prior is still in it.", lambda scores, *given: scores)
@catches("Calibrated with the test clips' own scores, which grade themselves.", _minus(_own))
@catches("The prior is added instead of subtracted.", _minus(lambda s, h, t: -_prior(s, h, t)))
@catches("The mean is over options, not over clips.", _minus(lambda s, h, t: s.mean(1)[:, None]))
@catches(
    "Every clip weighs the same here. Four of the six have one value, and so set the prior: "
    "take the mean over the clips of each value, then the mean of these.",
    _minus(lambda scores, held_out, truth: held_out.mean(0)),
)
@catches("You took an option's score where it is true alone, not for all values.", _minus(_true))
@catches(
    "You averaged probabilities; take the mean of their logarithms, as they come.",
    _minus(lambda scores, held_out, truth: _prior(scores, held_out.exp(), truth).log()),
)
@catches(
    "You divide by the prior; in log-probabilities, to divide is to subtract.",
    lambda scores, held_out, truth: scores / _prior(scores, held_out, truth),
)
@catches(
    "You took the sum over the values; take the mean.",
    _minus(lambda s, h, truth: len(truth.unique()) * _prior(s, h, truth)),
)
@catches("You took the softmax of the prior.", _minus(lambda *given: _prior(*given).softmax(0)))
def calibrated(answer: Scores) -> None:
    """Scores of options without what the model says of any clip."""
    scores = torch.tensor([[-1.0, -2.0, -6.0], [-2.0, -1.5, -3.0]])
    held_out = torch.tensor(
        [[-1.0, -1, -9], [-1, -1, -5], [-1, -4, -5], [-1, -2, -5], [0, -5, -5], [-2, -2, -8.5]]
    )
    given = (scores, held_out, torch.tensor([0, 0, 0, 0, 1, 2]))
    expect(calibrated, answer, take_out_prior, "", given, axes="(clip, option)")
    got, right = torch.as_tensor(answer(*given)).float(), take_out_prior(*given)
    if not same(got - got[:, :1], right - right[:, :1]):  # a constant per clip may be added
        raise Wrong(
            "A clip that scores as held-out clips do should have no favourite option left; take "
            "means, not medians, and every value in `truth` as often as any other."
        )


Draw = Callable[[np.random.Generator, list[np.ndarray]], np.ndarray]


def _interval(draw: Draw) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Percentiles of a thousand means, each of clips drawn in some way from those by speaker."""

    def answer(correct: np.ndarray, speakers: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng(0)
        groups = [correct[speakers == name] for name in np.unique(speakers)]
        return np.percentile([draw(rng, groups).mean() for _ in range(1000)], [2.5, 97.5])

    return answer


def _standard_error(correct: np.ndarray, speakers: np.ndarray) -> tuple[float, float]:
    means = np.array([correct[speakers == name].mean() for name in np.unique(speakers)])
    reach = means.std() / len(means) ** 0.5
    return float(means.mean() - reach), float(means.mean() + reach)


@catches(
    "clips resampled, not speakers",
    _interval(lambda rng, groups: rng.choice(np.concatenate(groups), sum(map(len, groups)))),
)
@catches(
    "speakers drawn without replacement",
    _interval(
        lambda rng, groups: np.concatenate([groups[i] for i in rng.permutation(len(groups))])
    ),
)
@catches(
    "the spread of single speakers, not of the mean",
    _interval(lambda rng, groups: groups[rng.integers(len(groups))]),
)
@catches("one standard error, not 95 %", _standard_error)
def speaker_interval(answer: Callable[[np.ndarray, np.ndarray], tuple[float, float]]) -> None:
    """A 95 % interval of a mean over clips, by resampling speakers."""
    speakers = np.repeat([f"voice {i}" for i in range(16)], 30)
    correct = np.repeat(np.arange(16) % 2.0, 30)  # a voice is always understood, or never
    ends = [*answer(correct, speakers)]
    if len(ends) != 2:
        raise Wrong(f"Return two numbers, the ends of the interval; you give {len(ends)}.")
    low, high = map(float, ends)
    width = high - low
    if width < -1e-6:
        raise Wrong("The ends stand the wrong way round: the lower one comes first.")
    if high < 0.4 or low > 0.6:
        raise Wrong(
            f"Half is right, and you say {low:.2f} to {high:.2f}: `np.percentile` takes per cent, "
            "as 2.5, and `np.quantile` shares, as 0.025."
        )
    if width < 1e-6:
        raise Wrong("The interval has no width: speakers drawn without replacement stay the same.")
    if width < 0.16:
        raise Wrong(f"Only {width:.2f} wide for 16 voices: clips resampled, not speakers.")
    if width < 0.36:
        raise Wrong(f"{width:.2f} wide, half of what is right: one standard error, not 95 %.")
    if width > 0.8:
        raise Wrong(f"{width:.2f} wide: the spread of single speakers, not of the mean over all.")
    if not (low < 0.5 < high and width < 0.6):
        raise Wrong(f"0.25 on either side of 0.5 is right; yours is {low:.2f} to {high:.2f}.")
    _compare_ends(answer)


_UNLIKE = {  # what is wrong → the percentiles, and how often a speaker counts
    "": ((2.5, 97.5), "as drawn"),
    "A speaker weighs as often as it was drawn; you count it once.": ((2.5, 97.5), "once"),
    "The interval is too narrow: these are percentiles 5 and 95.": ((5, 95), "as drawn"),
    "Take the mean of all clips drawn, not of the speakers' means.": ((2.5, 97.5), "by its mean"),
}


@cache
def _draw_corpora() -> list[tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]]:
    """Thirty corpora of unequal speakers: correct, speakers, and the mean in 20 000 draws."""
    rng, corpora = np.random.default_rng(1), []
    for _ in range(30):
        count = int(rng.integers(8, 17))
        sizes = rng.permutation(np.arange(1, count + 1))
        names = rng.permutation([f"voice {i:02}" for i in range(count)])
        correct = (rng.random(sizes.sum()) < np.repeat(sizes / (count + 1), sizes)).astype(float)
        right = np.add.reduceat(correct, np.cumsum(sizes) - sizes)
        times = rng.multinomial(count, np.ones(count) / count, 20_000)
        once = times.clip(max=1)
        means = {
            "as drawn": (times @ right) / (times @ sizes),
            "once": (once @ right) / (once @ sizes),
            "by its mean": times @ (right / sizes) / count,
        }
        corpora.append((correct, np.repeat(names, sizes), means))
    return corpora


def _compare_ends(answer: Callable[[np.ndarray, np.ndarray], tuple[float, float]]) -> None:
    """Refuse ends that lie off those of many draws, over all corpora.

    A thousand draws place an end within .09 standard errors, two hundred within .20.
    """
    off: dict[str, list[np.ndarray]] = {name: [] for name in _UNLIKE}
    for correct, speakers, means in _draw_corpora():
        got = np.array([float(end) for end in answer(correct, speakers)])
        for name, (ends, how) in _UNLIKE.items():
            off[name].append((got - np.percentile(means[how], ends)) / means[how].std())
    error = {name: float(np.sqrt(np.mean(np.square(rows)))) for name, rows in off.items()}
    nearest = min(error, key=lambda name: error[name])
    if error[nearest] > 0.133:
        raise Wrong("The ends lie off: fewer draws than a thousand, or a tail that is not 2.5 %.")
    if nearest:
        raise Wrong(nearest)


def crossing_above(
    steps: np.ndarray, score: np.ndarray, control: np.ndarray, threshold: float
) -> float:
    """The first step from which on a score stays at a threshold and above a control, or NaN."""
    return crossing_steps(steps.astype(float).tolist(), (score >= threshold) & (score > control))[1]


def _crossed(
    lasting: bool = True, controlled: bool = True, index: bool = False, never: float = np.nan
) -> Callable[..., float]:
    """An answer that may forget that a curve falls back, its control, or what a step is."""

    def answer(
        steps: np.ndarray, score: np.ndarray, control: np.ndarray, threshold: float
    ) -> float:
        good = (score >= threshold) & ((score > control) | (not controlled))
        good = np.array([good[i:].all() for i in range(len(good))]) if lasting else good
        first = int(good.argmax())
        return float(first if index else steps[first]) if good.any() else never

    return answer


@catches("You return the checkpoint's number, not its step.", _crossed(index=True))
@catches("It falls back later: first touch, not the stable step.", _crossed(lasting=False))
@catches("The control stands above: it ignores the control.", _crossed(controlled=False))
@catches("A curve that never gets there must give nan.", _crossed(never=16.0))
def crossing(answer: Callable[[np.ndarray, np.ndarray, np.ndarray, float], float]) -> None:
    """The first step from which on a curve stays above a threshold and its control."""
    steps, few = np.array([0, 1, 2, 4, 8, 16]), np.array([0, 1, 2, 4])
    score, tied = np.array([0.1, 0.6, 0.2, 0.7, 0.8, 0.9]), np.array([0.0, 0.5, 0.75, 0.75])
    compare = partial(expect, crossing, answer, crossing_above)
    fault = "{1} at {0} stays above 0.5 from step 4 on; you say {got}."
    compare(fault, (steps, score, 0 * score, 0.5))
    fault = "With a control above the curve at step 4 alone, it has risen from step 8 on."
    compare(fault, (steps, score, np.array([0.0, 0.0, 0.0, 0.75, 0.1, 0.0]), 0.5))
    compare("No score reaches 0.95, so there is no step: nan.", (steps, score, 0 * score, 0.95))
    fault = "A score exactly at the threshold is at least the threshold: it counts."
    compare(fault, (few, tied, 0 * tied, 0.5))
    fault = "Compare the score with the control and the threshold, not their difference."
    compare(fault, (few, tied, np.array([0.0, 0.25, 0.5, 0.5]), 0.5))
    fault = "At step 2 the control is as high as the score, which is not above it then."
    compare(fault, (few, tied, np.array([0.0, 0.75, 0.75, 0.5]), 0.5))


Shares = Callable[[np.ndarray], np.ndarray]


def _shared(rise: Shares, whole: Shares) -> Shares:
    """An answer that divides one number of every curve by another."""
    return lambda curves: rise(curves) / whole(curves)


def _largest(curves: np.ndarray) -> np.ndarray:
    return np.diff(curves).max(-1)


def _risen(curves: np.ndarray) -> np.ndarray:
    return curves[:, -1] - curves[:, 0]


@catches("Curve 3: a fall is no rise.", _shared(lambda c: np.abs(np.diff(c)).max(-1), _risen))
@catches("Curves begin above 0: divided by the last value.", _shared(_largest, lambda c: c[:, -1]))
@catches("Divided by the range from lowest to highest.", _shared(_largest, lambda c: np.ptp(c, -1)))
@catches("You took the largest rise of all draws.", _shared(lambda c: np.diff(c).max(), _risen))
@catches("This is the largest rise itself, not divided by the whole rise.", _largest)
@catches("This is the mean rise; take the largest.", _shared(lambda c: np.diff(c).mean(-1), _risen))
def jump_share(answer: Shares) -> None:
    """The largest rise between two neighbouring checkpoints, as a share of the whole rise."""
    curves = np.array([[1.0, 2, 4, 5], [3, 2.5, 7, 5], [2, 6, 0.5, 4]])
    fault = "The shares are {right}, not {got}: [1, 2, 4, 5] rises by 4, and by 2 at most."
    expect(jump_share, answer, emergence_claims.jump_share, fault, (curves,), axes="(curve)")


def rise_steadily(seen: np.ndarray, drawn: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """The noise of every draw on a straight line with the ends of the measured curve."""
    return emergence_claims.steady_rise(np.vstack([seen, drawn]), steps.tolist())[1:]


def _even_in(places: np.ndarray, seen: np.ndarray) -> np.ndarray:
    return seen[0] + (seen[-1] - seen[0]) * places / places[-1]


@catches(
    "Your line is even from checkpoint to checkpoint. The last gap is half of all steps, so "
    "it takes half of the rise.",
    lambda seen, drawn, steps: drawn - seen + _even_in(np.arange(len(steps)), seen),
)
@catches("Every draw is a line: the noise is gone.", lambda seen, d, t: 0 * d + _even_in(t, seen))
@catches("Your line begins at 0.", lambda seen, *of: rise_steadily(seen, *of) - seen[0])
@catches("The measured curve is still in it.", lambda seen, drawn, t: drawn + _even_in(t, seen))
@catches("These are the draws themselves.", lambda seen, drawn, steps: drawn)
@catches(
    "Lines between the ends of each draw have no noise in between; one line is for all.",
    lambda seen, drawn, steps: np.stack([_even_in(steps, curve) for curve in drawn]),
)
def steady_rise(answer: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]) -> None:
    """A steady rise with the ends of a measured curve and the noise of every draw."""
    steps, seen = np.array([0, 1, 4, 8]), np.array([1.0, 4, 5, 8])
    noise = np.array([[0.5, -0.25, 0, 1], [-1, 0.75, 0.5, -0.5], [0.25, 0, -0.75, 0.5]])
    fault = "Every draw is the line with its own noise: {right}. Yours are {got}."
    given = (seen, seen + noise, steps)
    expect(steady_rise, answer, rise_steadily, fault, given, axes="(draw, checkpoint)")
