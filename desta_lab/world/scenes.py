"""Background scenes and levels: four random generators of sound, and a mixer."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy import signal

from desta_lab.audio import RATE

Wave = Float[np.ndarray, "sample"]
_FLOOR = 1e-10  # amplitude below which a level means nothing: −200 dBFS
_FADE = 0.15  # seconds over which a scene comes and goes


def measure_level(wave: Wave) -> float:
    """The root-mean-square level in dBFS: 0 is a full-scale square wave, −200 is silence."""
    return float(20 * np.log10(max(np.sqrt(np.mean(np.square(wave, dtype=np.float64))), _FLOOR)))


def set_level(wave: Wave, level: float) -> Wave:
    """The same wave at a root-mean-square level of `level` dBFS."""
    return (wave * 10 ** ((level - measure_level(wave)) / 20)).astype(np.float32)


def mix_scene(
    speech: Wave, scene: Float[np.ndarray, "longer"], ratio_db: float, window: tuple[float, float]
) -> Wave:
    """Add a scene to speech, `ratio_db` below it, between two moments (seconds), with soft edges.

    The level of speech is measured over the samples that hold any, that of the scene in the window.
    Raises ValueError if the window is not inside the speech, or longer than the scene.
    """
    start, end = (round(moment * RATE) for moment in window)
    if not 0 <= start < end <= len(speech):
        length = f"{len(speech) / RATE:g} s of speech"
        raise ValueError(f"The window {window} s does not fit {length}; choose it inside.")
    if len(scene) < end - start:
        fault = f"{len(scene) / RATE:g} s of scene are shorter than the window {window} s"
        raise ValueError(f"{fault}; render a longer one.")
    fade = min(round(_FADE * RATE), (end - start) // 2)
    envelope = np.ones(end - start)
    envelope[:fade] = np.sin(np.linspace(0, np.pi / 2, fade)) ** 2
    envelope[len(envelope) - fade :] = envelope[:fade][::-1]
    active = speech[np.abs(speech) > 0.01 * np.abs(speech).max()]
    mixed = speech.astype(np.float32).copy()
    mixed[start:end] += set_level(scene[: end - start], measure_level(active) - ratio_db) * envelope
    return mixed


def render_scene(value: str, seconds: float, rng: np.random.Generator) -> Wave:
    """A scene by its name (rain, siren, birds, music) at −20 dBFS."""
    return set_level(SCENES[value](round(seconds * RATE), rng), -20.0)


def make_rain(samples: int, rng: np.random.Generator) -> Wave:
    """A hiss that swells slowly, and some hundred drops a second: clicks through resonances."""
    corner, top = rng.uniform(300, 900), rng.uniform(4500, 7000)  # Hz
    shape = signal.butter(1, [corner, top], "bandpass", fs=RATE, output="sos")
    hiss = signal.sosfilt(shape, rng.standard_normal(samples))
    angle = 2 * np.pi * rng.uniform(0.2, 0.8) * np.arange(samples) / RATE
    swell = 1 + 0.3 * np.sin(angle + rng.uniform(0, 6))
    clicks = np.zeros(samples)
    count = int(samples / RATE * rng.uniform(60, 200))
    strengths = rng.exponential(1.0, count) * rng.choice([-1, 1], count)
    clicks[rng.integers(0, samples, count)] = strengths
    drops = np.zeros(samples)
    for frequency in rng.uniform(1500, 6000, 3):
        drops += signal.lfilter(*signal.iirpeak(frequency, 8, fs=RATE), clicks)
    return hiss / hiss.std() * swell + rng.uniform(0.6, 1.2) * drops / (drops.std() + _FLOOR)


def make_siren(samples: int, rng: np.random.Generator) -> Wave:
    """A tone with harmonics that wails between two pitches, or jumps between them (two-tone)."""
    time = np.arange(samples) / RATE
    low, high = rng.uniform(550, 750), rng.uniform(1050, 1450)  # Hz
    phase = 2 * np.pi * (rng.uniform(0.35, 1.0) * time + rng.uniform())
    if rng.random() < 0.65:
        position = 0.5 - 0.5 * np.cos(phase)
    else:
        high = low * rng.uniform(1.25, 1.4)
        position = 0.5 + 0.5 * np.tanh(20 * np.sin(2 * phase))
    angle = 2 * np.pi * np.cumsum(low * (high / low) ** position) / RATE
    tilt = rng.uniform(1.0, 1.8)
    return np.sum([np.sin(h * angle) / h**tilt for h in range(1, 6)], axis=0)


def make_birds(samples: int, rng: np.random.Generator) -> Wave:
    """Phrases of whistled chirps between 2 and 6 kHz, from one or two birds."""
    wave = np.zeros(samples)
    for _ in range(rng.integers(1, 3)):
        place = rng.uniform(0, 0.15)
        while place < samples / RATE - 0.05:
            base, swing = rng.uniform(2600, 4800), rng.uniform(-1200, 1200)  # Hz
            length, trill = rng.uniform(0.05, 0.16), rng.uniform(0, 60)
            for _ in range(rng.integers(2, 7)):
                _add(wave, place, _chirp(base, swing, length, trill))
                place += length * rng.uniform(1.15, 1.6)
            place += rng.uniform(0.05, 0.35)
    return wave


def _chirp(base: float, swing: float, length: float, trill: float) -> Wave:
    time = np.arange(round(length * RATE)) / RATE
    swung = base + swing * time / length + 150 * np.sin(2 * np.pi * trill * time)
    frequency = np.clip(swung, 2000, 6000)
    angle = 2 * np.pi * np.cumsum(frequency) / RATE
    return np.hanning(len(time)) * (np.sin(angle) + 0.1 * np.sin(2 * angle) * (frequency < 3500))


def make_music(samples: int, rng: np.random.Generator) -> Wave:
    """Broken chords on plucked strings: the notes of one chord in random order, then the next."""
    wave = np.zeros(samples)
    root, beat = rng.uniform(48, 60), rng.uniform(0.12, 0.22)  # MIDI note, seconds
    # I, i, vi, IV, V
    chords = ([0, 4, 7, 12], [0, 3, 7, 12], [-3, 0, 4, 9], [-7, -3, 0, 5], [-5, -1, 2, 7])
    decay, bright = rng.uniform(0.4, 0.9), rng.uniform(0.8, 1.6)
    place, chord = 0.0, chords[rng.integers(0, 2)]
    while place < samples / RATE:
        _add(wave, place, _pluck(root + chord[0] - 12, 2 * decay, bright))
        for note in rng.permutation(chord):
            _add(wave, place, _pluck(root + 12 + note, decay, bright))
            place += beat
        chord = chords[rng.integers(len(chords))]
    return wave


def _pluck(note: float, decay: float, bright: float) -> Wave:
    """Eight harmonics of a string; the higher ones fade sooner."""
    time = np.arange(round(2 * decay * RATE)) / RATE
    pitch = 440 * 2 ** ((note - 69) / 12)
    # the next harmonic is this one times `turn`
    turn = np.exp((2j * np.pi * pitch - 0.4 / decay) * time)
    partial = np.exp((2j * np.pi * pitch - 1 / decay) * time)
    tone = np.zeros(len(time))
    for harmonic in range(1, 9):
        tone += partial.imag / harmonic**bright
        partial *= turn
    return tone * np.minimum(1, time / 0.004) * np.minimum(1, (time[-1] - time) / 0.05)


def _add(wave: Wave, place: float, sound: Float[np.ndarray, "shorter"]) -> None:
    start = round(place * RATE)
    end = min(len(wave), start + len(sound))
    if end > start:
        wave[start:end] += sound[: end - start]


SCENES: dict[str, Callable[[int, np.random.Generator], Wave]] = {
    "rain": make_rain,
    "siren": make_siren,
    "birds": make_birds,
    "music": make_music,
}
