"""Checks of notebook 00: seconds, samples, frames, and a score that chance cannot buy."""

from collections.abc import Callable

import numpy as np

from desta_lab.audio import FRAMES_PER_SECOND, RATE
from desta_lab.course.checks import catches, expect


def start_of_frame(frame: int) -> float:
    """The second at which an encoder frame starts."""
    return frame / FRAMES_PER_SECOND


@catches(
    "These are spectrogram frames, of which there are 100 a second.", lambda frame: frame / 100
)
@catches("Seconds turned into frames: divide, do not multiply.", lambda seconds: seconds * 50)
@catches("These are samples, of which there are 16000 a second.", lambda frame: frame / 16000)
def seconds_of_frame(answer: Callable[[int], float]) -> None:
    """The start of an encoder frame in seconds."""
    for frame, start in ((100, 2.0), (0, 0.0), (25, 0.5), (99, 1.98)):
        got = answer(frame)
        fault = f"Frame {frame} starts at {start:g} s, not at {got:g}"
        expect(
            seconds_of_frame, got, start, (frame,), f"{fault}: round to no whole seconds or tenths."
        )


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
@catches(
    "The rest was silenced, not the span meant.",
    lambda wave, *span: wave - silence_span(wave, *span),
)
@catches(
    "Samples are missing: cut out, not silenced.",
    lambda wave, start, end: np.delete(wave, np.arange(int(start * RATE), int(end * RATE))),
)
def silenced(answer: Callable[[np.ndarray, float, float], np.ndarray]) -> None:
    """A clip with the seconds from start to end set to zero, and nothing else."""
    wave = np.full(3 * RATE, 0.5, dtype=np.float32)
    for start, end in ((1.0, 2.0), (0.5, 1.25)):
        given = (wave, start, end)
        fault = f"From {start} s to {end} s samples should be zero, and the others as they were"
        expect(
            silenced,
            answer(*given),
            silence_span(*given),
            given,
            f"{fault}: a time may be no whole seconds.",
        )


def correct_for_chance(accuracy: float, options: int) -> float:
    """Accuracy on a scale where 0 is guessing and 1 is perfect."""
    return (accuracy - 1 / options) / (1 - 1 / options)


@catches("Half right of two options scores 0.5: not corrected for chance.", lambda right, n: right)
@catches(
    "All right scores less than 1: chance is subtracted but the scale is not stretched.",
    lambda right, n: right - 1 / n,
)
@catches("A guesser scores 1, not 0: divided by chance.", lambda right, n: right * n)
def above_chance(answer: Callable[[float, int], float]) -> None:
    """Accuracy on a scale where 0 is guessing and 1 is perfect."""
    options = (3, 2, 4)
    cases = {
        "Guessing should score 0 and all right 1, however many options there are.": [
            (right, n) for n in options for right in (1 / n, 1.0)
        ],
        "Half way from guessing to all right should score 0.5: your scale is not straight.": [
            ((1 + 1 / n) / 2, n) for n in options
        ],
        "Who answers worse than guessing should score below 0, on the same scale.": [
            (0.25, 2),
            (0.0, 3),
        ],
    }
    for sentence, points in cases.items():
        for given in points:
            expect(above_chance, answer(*given), correct_for_chance(*given), given, sentence)
