"""Checks of notebook 00: seconds, samples, frames, and a score that chance cannot buy."""

from collections.abc import Callable

import numpy as np

from desta_lab import audio
from desta_lab.course.checks import Wrong, check


@check(
    wrong={
        "spectrogram frames, of which there are 100 a second": lambda frame: frame / 100,
        "seconds turned into frames": lambda seconds: seconds * 50,
        "samples, of which there are 16000 a second": lambda frame: frame / 16000,
    }
)
def seconds_of_frame(answer: Callable[[int], float]) -> None:
    """The start of an encoder frame in seconds."""
    got = answer(100)
    if np.isclose(got, 1.0):
        raise Wrong(
            "Frame 100 starts at 2 s, not 1 s: these are spectrogram frames, of which there are 100 a second."
        )
    if got > 100:
        raise Wrong(f"Frame 100 starts at 2 s, not {got:g} s: this is seconds turned into frames.")
    if np.isclose(got, 100 / audio.RATE):
        raise Wrong(
            "Frame 100 starts at 2 s: you divided by samples, of which there are 16000 a second."
        )
    if not (np.isclose(got, 2.0) and np.isclose(answer(0), 0.0)):
        raise Wrong(
            f"Frame 100 starts at 2 s and frame 0 at 0 s; you give {got:g} s and {answer(0):g} s."
        )


def _in_place(wave: np.ndarray, start: float, end: float) -> np.ndarray:
    wave[int(start * audio.RATE) : int(end * audio.RATE)] = 0
    return wave


@check(
    wrong={
        "seconds used as sample numbers": lambda wave, start, end: np.concatenate(
            [wave[: int(start)], np.zeros(int(end) - int(start)), wave[int(end) :]]
        ),
        "the clip itself was changed": _in_place,
        "the rest was silenced": lambda wave, start, end: np.where(
            (np.arange(len(wave)) >= start * audio.RATE)
            & (np.arange(len(wave)) < end * audio.RATE),
            wave,
            0,
        ),
        "cut out, not silenced": lambda wave, start, end: np.delete(
            wave, np.arange(int(start * audio.RATE), int(end * audio.RATE))
        ),
    }
)
def silenced(answer: Callable[[np.ndarray, float, float], np.ndarray]) -> None:
    """A clip with the seconds from start to end set to zero, and nothing else."""
    wave = np.full(3 * audio.RATE, 0.5, dtype=np.float32)
    got = np.asarray(answer(wave, 1.0, 2.0))
    if not (wave == 0.5).all():
        raise Wrong("Afterwards the clip itself was changed; work on a copy.")
    if len(got) != len(wave):
        raise Wrong(
            f"{len(got)} samples are left of {len(wave)}: the second was cut out, not silenced."
        )
    zero = np.flatnonzero(got == 0)
    if len(zero) == 1:
        raise Wrong(
            "One sample is zero: seconds used as sample numbers. There are audio.RATE samples in a second."
        )
    if len(zero) == 2 * audio.RATE:
        raise Wrong(
            "Two seconds of three are zero: the rest was silenced, and the second that was meant is left."
        )
    if len(zero) != audio.RATE or zero[0] != audio.RATE:
        raise Wrong(f"Samples {audio.RATE} to {2 * audio.RATE} should be zero, and no others.")


@check(
    wrong={
        "not corrected for chance": lambda accuracy, options: accuracy,
        "chance is subtracted but the scale is not stretched": lambda accuracy, options: (
            accuracy - 1 / options
        ),
        "divided by chance": lambda accuracy, options: accuracy / (1 / options),
    }
)
def above_chance(answer: Callable[[float, int], float]) -> None:
    """Accuracy on a scale where 0 is guessing and 1 is perfect."""
    if np.isclose(answer(0.5, 2), 0.5):
        raise Wrong("Half right of two options scores 0.5: not corrected for chance.")
    if np.isclose(answer(0.5, 2), 1.0):
        raise Wrong("A guesser scores 1: divided by chance. Guessing should score 0.")
    if np.isclose(answer(1.0, 4), 0.75):
        raise Wrong(
            "All right of four options scores 0.75: chance is subtracted but the scale is not stretched."
        )
    if not all(
        np.isclose(answer(1 / n, n), 0) and np.isclose(answer(1.0, n), 1) for n in (2, 3, 4)
    ):
        raise Wrong("Guessing should score 0 and all right 1, however many options there are.")
