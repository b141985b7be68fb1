"""Checks of notebook 00: seconds, samples, frames, and a score that chance cannot buy."""

from collections.abc import Callable
from functools import partial

import numpy as np

from desta_lab.audio import FRAMES_PER_SECOND, RATE
from desta_lab.course.checks import catches, expect, same


def start_of_frame(frame: int) -> float:
    """The second at which an encoder frame starts."""
    return frame / FRAMES_PER_SECOND


@catches("These are spectrogram frames, of which 100 are a second.", lambda frame: frame / 100)
@catches("Seconds turned into frames: divide, do not multiply.", lambda seconds: seconds * 50)
@catches("These are samples, of which there are 16000 a second.", lambda frame: frame / 16000)
@catches("This is where the frame ends: frame 0 starts at 0 s.", lambda frame: (frame + 1) / 50)
@catches("Cut to whole seconds: frame 25 starts at 0.5 s. Do not round.", lambda frame: frame // 50)
@catches("Rounded to tenths: frame 99 starts at 1.98 s.", lambda frame: round(frame / 50, 1))
def seconds_of_frame(answer: Callable[[int], float]) -> None:
    """The start of an encoder frame in seconds."""
    fault = "Frame {0} starts at {right} s, not at {got}."
    expect(seconds_of_frame, answer, start_of_frame, fault, (100,), (0,), (25,), (99,))


def _in_place(wave: np.ndarray, start: float, end: float) -> np.ndarray:
    wave[int(start * RATE) : int(end * RATE)] = 0
    return wave


def silence_span(wave: np.ndarray, start: float, end: float) -> np.ndarray:
    """A copy of a clip with the seconds from start to end set to zero."""
    return _in_place(wave.copy(), start, end)


@catches(
    "Seconds used as sample numbers. A second has audio.RATE of them.",
    lambda wave, start, end: silence_span(wave, start / RATE, end / RATE),
)
@catches("work on a copy, not in place", _in_place)
@catches("The rest was silenced, not the span.", lambda w, *span: w - silence_span(w, *span))
@catches(
    "This is the span alone: return the whole clip.",
    lambda wave, start, end: 0 * wave[int(start * RATE) : int(end * RATE)],
)
@catches(
    "Samples are missing: cut out, not silenced.",
    lambda wave, start, end: np.delete(wave, np.arange(int(start * RATE), int(end * RATE))),
)
def silenced(answer: Callable[[np.ndarray, float, float], np.ndarray]) -> None:
    """A clip with the seconds from start to end set to zero, and nothing else."""
    wave = np.full(3 * RATE, 0.5, dtype=np.float32)
    fault = "From {1} s to {2} s samples are zero, and no others: a time may be no whole seconds."
    for given in ((wave, 1.0, 2.0), (wave, 0.5, 1.25)):
        _, start, end = given
        to_end = silence_span(wave, start, end + 1.5 / RATE)  # the sample at `end`, too
        if not same(answer(*given), to_end):
            expect(silenced, answer, silence_span, fault, given)


def correct_for_chance(accuracy: float, options: int) -> float:
    """Accuracy on a scale where 0 is guessing and 1 is perfect."""
    return (accuracy - 1 / options) / (1 - 1 / options)


@catches("Half right of two options scores 0.5: not corrected for chance.", lambda right, n: right)
@catches("Chance is subtracted but the scale is not stretched.", lambda right, n: right - 1 / n)
@catches("A guesser scores 1, not 0: divided by chance.", lambda right, n: right * n)
def above_chance(answer: Callable[[float, int], float]) -> None:
    """Accuracy on a scale where 0 is guessing and 1 is perfect."""
    options, compare = (3, 2, 4), partial(expect, above_chance, answer, correct_for_chance)
    fault = "Guessing should score 0 and all right 1, however many options there are."
    compare(fault, *((right, n) for n in options for right in (1 / n, 1.0)))
    fault = "Half way from guessing to all right you give {got}, not 0.5: not straight."
    compare(fault, *(((1 + 1 / n) / 2, n) for n in options))
    fault = "Who answers worse than guessing should score below 0, on the same scale."
    compare(fault, (0.2, 2), (0.0, 3))
    compare("{0} right of {1} options scores {right}, not {got}: do not round.", (0.9, 4), (0.7, 7))
