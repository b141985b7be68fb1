"""Checks of notebook 05: scores without the prior, intervals over people, a step that lasts, and a metric that lies."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from desta_lab.course.checks import Wrong, check

_UNCALIBRATED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "uncalibrated ranking": lambda scores, held_out: scores,
    "calibrated with the test clips' own scores": lambda scores, held_out: scores - scores.mean(0),
    "the prior is added instead of subtracted": lambda scores, held_out: scores + held_out.mean(0),
    "the mean is over the options": lambda scores, held_out: scores - scores.mean(1, keepdim=True),
    "the softmax of the prior, a probability": lambda scores, held_out: (
        scores - held_out.mean(0).softmax(0)
    ),
}


@check(wrong=_UNCALIBRATED)
def calibrated(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Scores of options without what the model says of any clip."""
    scores = torch.tensor([[-1.0, -2.0, -6.0], [-2.0, -1.5, -3.0]])
    held_out = torch.tensor(
        [[-1.0, -2.0, -7.0], [-1.0, -3.0, -6.0], [-1.0, -1.0, -5.0], [-1.0, -2.0, -6.0]]
    )
    got = torch.as_tensor(answer(scores.clone(), held_out.clone()))
    if got.shape != scores.shape:
        raise Wrong(
            f"Calibrated scores are {tuple(scores.shape)}, [clip, option]; yours are {tuple(got.shape)}."
        )
    sentences = (
        "This is uncalibrated ranking: the prior is still in it.",
        "These are calibrated with the test clips' own scores: what you grade must not grade itself.",
        "The prior is added instead of subtracted: the favourite option gains even more.",
        "The mean is over the options, which changes no ranking; take it over the held-out clips.",
        "You subtract the softmax of the prior, a probability; log-probabilities are subtracted as they are.",
    )
    for mistaken, sentence in zip(_UNCALIBRATED.values(), sentences, strict=True):
        if torch.allclose(got.float(), mistaken(scores, held_out), atol=1e-5):
            raise Wrong(sentence)
    margins = got.float()[:, 1:] - got.float()[:, :1]  # a constant per clip may be added
    if not torch.allclose(margins, torch.tensor([[0.0, 0.0], [1.5, 4.0]]), atol=1e-4):
        raise Wrong(
            "A clip that scores just as the held-out clips do on average must have no favourite option left."
        )


def _interval(
    way: Callable[[np.random.Generator, list[np.ndarray]], float],
) -> Callable[..., np.ndarray]:
    """Percentiles of a thousand draws, each made in some way from the clips by speaker."""

    def answer(correct: np.ndarray, speakers: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng(0)
        groups = [correct[speakers == name] for name in np.unique(speakers)]
        return np.percentile([way(rng, groups) for _ in range(1000)], [2.5, 97.5])

    return answer


def _clips(rng: np.random.Generator, groups: list[np.ndarray]) -> float:
    whole = np.concatenate(groups)
    return float(rng.choice(whole, len(whole)).mean())


def _standard_error(correct: np.ndarray, speakers: np.ndarray) -> tuple[float, float]:
    means = np.array([correct[speakers == name].mean() for name in np.unique(speakers)])
    reach = means.std() / len(means) ** 0.5
    return float(means.mean() - reach), float(means.mean() + reach)


@check(
    wrong={
        "clips resampled, not speakers": _interval(_clips),
        "speakers drawn without replacement": _interval(
            lambda rng, groups: float(
                np.concatenate([groups[i] for i in rng.permutation(len(groups))]).mean()
            )
        ),
        "the spread of single speakers, not of the mean": _interval(
            lambda rng, groups: float(groups[rng.integers(len(groups))].mean())
        ),
        "one standard error, not 95 %": _standard_error,
    }
)
def speaker_interval(answer: Callable[[np.ndarray, np.ndarray], tuple[float, float]]) -> None:
    """A 95 % interval of a mean over clips, by resampling speakers."""
    speakers = np.repeat([f"voice {i}" for i in range(16)], 30)
    correct = np.repeat(np.arange(16) % 2.0, 30)  # a voice is always understood, or never
    low, high = (float(end) for end in answer(correct, speakers))
    width = high - low
    if width < 1e-6:
        raise Wrong(
            "The interval has no width: speakers drawn without replacement are always the same speakers."
        )
    if width < 0.16:
        raise Wrong(
            f"Half of 16 voices are always right, and your interval is {width:.2f} wide: clips resampled, "
            "not speakers."
        )
    if width < 0.36:
        raise Wrong(
            f"Your interval is {width:.2f} wide, about half of what it should be: one standard error, not 95 %."
        )
    if width > 0.8:
        raise Wrong(
            f"Your interval is {width:.2f} wide: the spread of single speakers, not of the mean over as many "
            "drawn speakers as there are."
        )
    if not (low < 0.5 < high and width < 0.6):
        raise Wrong(
            f"The mean is 0.5 and about 0.25 on either side is right; yours is {low:.2f} to {high:.2f}."
        )


def _first_touch(
    steps: np.ndarray, score: np.ndarray, control: np.ndarray, threshold: float
) -> float:
    good = (score >= threshold) & (score > control)
    return float(steps[good.argmax()]) if good.any() else float("nan")


def _stable(good: np.ndarray) -> int | None:
    return next((i for i in range(len(good)) if good[i:].all()), None)


def _crossed(without_control: bool = False, index: bool = False) -> Callable[..., float]:
    def answer(
        steps: np.ndarray, score: np.ndarray, control: np.ndarray, threshold: float
    ) -> float:
        i = _stable((score >= threshold) & ((score > control) | without_control))
        return float("nan") if i is None else float(i if index else steps[i])

    return answer


@check(
    wrong={
        "first touch, not the stable step": _first_touch,
        "it ignores the control": _crossed(without_control=True),
        "the checkpoint's number, not its step": _crossed(index=True),
        "a curve that never gets there must give nan": lambda steps, score, control, threshold: (
            np.nan_to_num(_crossed()(steps, score, control, threshold), nan=steps[-1])
        ),
    }
)
def crossing(answer: Callable[[np.ndarray, np.ndarray, np.ndarray, float], float]) -> None:
    """The first step from which on a curve stays above a threshold and its control."""
    steps = np.array([0, 1, 2, 4, 8, 16])
    score = np.array([0.1, 0.6, 0.2, 0.7, 0.8, 0.9])
    low, high = np.zeros(6), np.array([0.0, 0.0, 0.0, 0.75, 0.1, 0.0])
    got = float(answer(steps, score, low, 0.5))
    if got == 1:
        raise Wrong(
            "The curve touches 0.5 at step 1 and falls back: this is the first touch, not the stable step."
        )
    if got == 3:
        raise Wrong(
            "It is there from step 4 on, which is checkpoint 3: you return the checkpoint's number, not its "
            "step."
        )
    if got != 4:
        raise Wrong(
            f"A curve of {score.tolist()} at steps {steps.tolist()} stays above 0.5 from step 4; you say {got}."
        )
    controlled = float(answer(steps, score, high, 0.5))
    if controlled == 4:
        raise Wrong(
            "At step 4 the control stands above the curve, and you still say 4: it ignores the control."
        )
    if controlled != 8:
        raise Wrong("With a control above the curve at step 4 alone, it has risen from step 8 on.")
    if not np.isnan(float(answer(steps, score, low, 0.95))):
        raise Wrong("No score reaches 0.95: a curve that never gets there must give nan.")


@check(
    wrong={
        "as steady as before": lambda p: p,
        "it falls on the way": lambda p: p**6 * (1 - np.exp(-(((p - 0.8) / 0.02) ** 2))),
        "it never gets to 1": lambda p: p**6 / 2,
        "it rises early and then levels off": lambda p: 1 - (1 - p) ** 6,
    }
)
def sudden(answer: Callable[[np.ndarray], np.ndarray]) -> None:
    """A metric of steady progress that looks sudden."""
    p = np.linspace(0, 1, 101)
    got = np.array([float(np.asarray(answer(np.array([x])))[0]) for x in p])
    if not (abs(got[0]) < 1e-6 and abs(got[-1] - 1) < 1e-6):
        raise Wrong(
            f"It goes from {got[0]:.2f} to {got[-1]:.2f}: it never gets to 1, or does not begin at 0."
        )
    if (np.diff(got) < -1e-9).any():
        raise Wrong(
            f"At p = {p[1:][np.diff(got) < 0][0]:.2f} it falls on the way; more right answers must never cost."
        )
    last = 1 - got[90]
    if got[:51].max() > 0.6:
        raise Wrong(
            "Half way it has nearly arrived: it rises early and then levels off. Turn that round."
        )
    if got[:51].max() >= 0.1 or last < 0.4:
        raise Wrong(
            f"It stands at {got[50]:.2f} half way and makes {last:.2f} of its rise in the last tenth: "
            "as steady as before, or nearly."
        )


@check(
    wrong={
        "the rise per checkpoint": lambda steps, values: np.diff(values),
        "divided by the step itself, not by the steps between": lambda steps, values: (
            np.diff(values) / steps[1:]
        ),
        "steps per rise": lambda steps, values: np.diff(steps) / np.diff(values),
    }
)
def per_step(answer: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
    """The rise per training step between neighbouring checkpoints."""
    steps, values = np.array([0, 2, 4, 8]), np.array([0.0, 0.2, 0.6, 1.4])
    got = np.asarray(answer(steps, values), dtype=float)
    if got.shape != (3,):
        raise Wrong(
            f"Four checkpoints have three rises between them; you return the shape {got.shape}."
        )
    if np.allclose(got, np.diff(values)):
        raise Wrong("This is the rise per checkpoint; divide by the steps that lie between them.")
    if np.allclose(got, np.diff(values) / steps[1:]):
        raise Wrong(
            "You have divided by the step itself, not by the steps between it and the one before."
        )
    if np.allclose(got, np.diff(steps) / np.diff(values)):
        raise Wrong("This is steps per rise; turn it over.")
    if not np.allclose(got, [0.1, 0.2, 0.2]):
        raise Wrong(f"From 0 to 0.2 in two steps is 0.1 a step; you say {got[0]:.3g}.")
