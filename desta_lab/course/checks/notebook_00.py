"""Checks of notebook 00: seconds, samples, frames, and a score that chance cannot buy."""

from collections.abc import Callable

import numpy as np

from desta_lab.audio import FRAMES_PER_SECOND, RATE
from desta_lab.course.checks import Wrong, catches, refuse, same


def start_of_frame(frame: int) -> float:
    """The second at which an encoder frame starts."""
    return frame / FRAMES_PER_SECOND


@catches("spectrogram frames, of which there are 100 a second", lambda frame: frame / 100)
@catches("seconds turned into frames", lambda seconds: seconds * 50)
@catches("samples, of which there are 16000 a second", lambda frame: frame / 16000)
def seconds_of_frame(answer: Callable[[int], float]) -> None:
    """The start of an encoder frame in seconds."""
    mistaken = {
        "spectrogram frames, of which there are 100 a second": 1.0,
        "seconds turned into frames": 5000.0,
        "samples, of which there are 16000 a second": 100 / RATE,
    }
    got = answer(100)
    refuse(got, {f"Frame 100 starts at 2 s: these are {name}.": x for name, x in mistaken.items()})
    if not (same(got, 2.0) and same(answer(0), 0.0)):
        raise Wrong(f"Frame 100 starts at 2 s and frame 0 at 0 s; you give {got:g}, {answer(0):g}.")
    if not same((answer(25), answer(99)), (0.5, 1.98)):
        raise Wrong(
            f"Frames 25 and 99 start at 0.5 s and 1.98 s; you give {answer(25):g} and "
            f"{answer(99):g}: do not round to whole seconds or tenths."
        )


def _in_place(wave: np.ndarray, start: float, end: float) -> np.ndarray:
    wave[int(start * RATE) : int(end * RATE)] = 0
    return wave


def silence_span(wave: np.ndarray, start: float, end: float) -> np.ndarray:
    """A copy of a clip with the seconds from start to end set to zero."""
    return _in_place(wave.copy(), start, end)


def _as_sample_numbers(wave: np.ndarray, start: float, end: float) -> np.ndarray:
    return _in_place(wave.copy(), start / RATE, end / RATE)


def _the_rest(wave: np.ndarray, start: float, end: float) -> np.ndarray:
    return wave - _in_place(wave.copy(), start, end)


def _cut_out(wave: np.ndarray, start: float, end: float) -> np.ndarray:
    return np.delete(wave, np.arange(int(start * RATE), int(end * RATE)))


@catches("seconds used as sample numbers", _as_sample_numbers)
@catches("the clip itself was changed", _in_place)
@catches("the rest was silenced", _the_rest)
@catches("cut out, not silenced", _cut_out)
def silenced(answer: Callable[[np.ndarray, float, float], np.ndarray]) -> None:
    """A clip with the seconds from start to end set to zero, and nothing else."""
    wave = np.full(3 * RATE, 0.5, dtype=np.float32)
    got = np.asarray(answer(wave, 1.0, 2.0))
    if not (wave == 0.5).all():
        raise Wrong("Afterwards the clip itself was changed; work on a copy.")
    if len(got) != len(wave):
        raise Wrong(f"{len(got)} of {len(wave)} samples are left: cut out, not silenced.")
    zero = np.flatnonzero(got == 0)
    if len(zero) == 1:
        raise Wrong("One sample is zero: seconds used as sample numbers. A second has audio.RATE.")
    if len(zero) == 2 * RATE:
        raise Wrong("Two seconds of three are zero: the rest was silenced, not the second meant.")
    if len(zero) != RATE or zero[0] != RATE:
        raise Wrong(f"Samples {RATE} to {2 * RATE} should be zero, and no others.")
    got, right = np.asarray(answer(wave, 0.5, 1.25)), wave.copy()
    right[RATE // 2 : RATE * 5 // 4] = 0
    if (np.delete(got, np.flatnonzero(got == 0)) != 0.5).any():
        raise Wrong("Samples outside the span changed; only those inside become zero.")
    if not same(got, right):
        raise Wrong("From 0.5 s to 1.25 s, other samples are zero: a time may be no whole seconds.")


def correct_for_chance(accuracy: float, options: int) -> float:
    """Accuracy on a scale where 0 is guessing and 1 is perfect."""
    return (accuracy - 1 / options) / (1 - 1 / options)


@catches("not corrected for chance", lambda accuracy, options: accuracy)
@catches("chance is subtracted but the scale is not stretched", lambda right, n: right - 1 / n)
@catches("divided by chance", lambda accuracy, options: accuracy * options)
def above_chance(answer: Callable[[float, int], float]) -> None:
    """Accuracy on a scale where 0 is guessing and 1 is perfect."""
    half = {
        "Half right of two options scores 0.5: not corrected for chance.": 0.5,
        "A guesser scores 1: divided by chance. Guessing should score 0.": 1.0,
    }
    refuse(answer(0.5, 2), half)
    if same(answer(1.0, 4), 0.75):
        raise Wrong("All right scores 0.75: chance is subtracted but the scale is not stretched.")
    if not all(same((answer(1 / n, n), answer(1.0, n)), (0, 1)) for n in (2, 3, 4)):
        raise Wrong("Guessing should score 0 and all right 1, however many options there are.")
    half_way = [answer((1 + 1 / n) / 2, n) for n in (2, 3, 4)]
    if not same(half_way, [0.5] * 3):
        raise Wrong(
            f"Half way from guessing to all right you give {half_way[0]:.2f}: not straight."
        )
    if not same((answer(0.25, 2), answer(0.0, 3)), (-0.5, -0.5)):
        raise Wrong("Who answers worse than guessing should score below 0, on the same scale.")
