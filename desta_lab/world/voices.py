"""The voices of the spoken world: espeak-ng, called through ctypes, with our own speakers."""

import _ctypes
import ctypes
import functools
import itertools
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import soxr
from jaxtyping import Float

from desta_lab import cache
from desta_lab.audio import RATE

# accent → the language of espeak-ng
ACCENTS = {"American": "en-us", "Scottish": "en-gb-scotland", "Caribbean": "en-029"}
SPEAKERS_PER_GENDER = 32
# what English needs of espeak-ng's data for 127 languages
_ENGLISH_FILES = ("phondata", "phonindex", "phontab", "intonations", "en_dict")
_WORD, _END = 1, 5  # event types of speak_lib.h
_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: samples reach the callback before the call returns
_UTF8 = 1  # espeakCHARS_UTF8
_BUFFER = 1000  # milliseconds of sound a callback receives: few calls into Python
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4  # espeak_PARAMETER
_HEADROOM = 40  # volume, of 100, at which no voice clips


class VoiceError(RuntimeError):
    """espeak-ng could not be loaded, or refused a voice."""


@dataclass(frozen=True)
class Speaker:
    """One synthetic person: a name, a gender, and the lines of an espeak-ng voice variant."""

    name: str
    gender: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Utterance:
    """Speech with the moment of every word, in seconds from its first sample."""

    wave: Float[np.ndarray, "sample"]
    words: tuple[tuple[str, float, float], ...]


@functools.cache
def list_speakers() -> tuple[Speaker, ...]:
    """The 64 speakers, the same in every corpus: female_01 … female_32, male_01 … male_32."""
    genders, numbers = ("female", "male"), range(SPEAKERS_PER_GENDER)
    return tuple(_draw_speaker(gender, number) for gender in genders for number in numbers)


def _draw_speaker(gender: str, number: int) -> Speaker:
    """A vocal tract and a larynx at random: formants, pitch, roughness, breath."""
    rng = np.random.default_rng([gender == "female", number])
    female = gender == "female"
    # Hz, the floor of the intonation; and the scale of all formants: a shorter tract is higher
    pitch = rng.uniform(165, 225) if female else rng.uniform(78, 125)
    tract = rng.uniform(1.10, 1.20) if female else rng.uniform(0.93, 1.02)
    lines = [f"pitch {pitch:.0f} {pitch * rng.uniform(1.3, 1.6):.0f}"]
    for formant in range(9):
        place = 100 * tract * rng.uniform(0.98, 1.02)
        strength = rng.uniform(85, 110)
        width = rng.uniform(105, 135) if female else rng.uniform(90, 110)
        lines.append(f"formant {formant} {place:.0f} {strength:.0f} {width:.0f}")
    breath = rng.integers(0, 5 if female else 3)

    def draw(low: int, high: int) -> str:
        return str(rng.integers(low, high))

    lines += [
        f"roughness {draw(0, 4)}",
        f"flutter {draw(0, 5)}",
        f"breath 0{f' {breath}' * 7}",
        f"consonants {draw(90, 125)} {draw(90, 125)}",
        f"tone 600 {draw(150, 200)} 1500 {draw(110, 150)} 3000 {draw(80, 120)}",
        f"stressAdd 0 0 {draw(-15, 10)} {draw(-15, 10)} 0 0 {draw(-10, 20)} 20",
    ]
    return Speaker(f"{gender}_{number + 1:02d}", gender, tuple(lines))


class _Event(ctypes.Structure):
    _fields_ = [
        ("kind", ctypes.c_int),
        ("identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),  # in characters, from 1
        ("length", ctypes.c_int),
        ("milliseconds", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    ]


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


class Synthesiser:
    """espeak-ng with these speakers; one per process, as the library has global state."""

    def __init__(self) -> None:
        import espeakng_loader

        self._lock = threading.Lock()
        self._folder = tempfile.mkdtemp(prefix="desta-voices-")
        self._finalizer = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        with cache.writing(Path(self._folder)):
            _write_data(Path(espeakng_loader.get_data_path()), Path(self._folder))
        self._path = espeakng_loader.get_library_path()
        self._callback = _Callback(self._receive)

    @contextmanager
    def _load_library(self) -> Iterator[ctypes.CDLL]:
        """The library, loaded anew: it never resets its counters, so order would matter."""
        library = ctypes.CDLL(self._path)
        self._rate = library.espeak_Initialize(_SYNCHRONOUS, _BUFFER, self._folder.encode(), 0)
        if self._rate <= 0:
            fault = f"espeak-ng gave {self._rate} instead of a sample rate"
            raise VoiceError(f"{fault}; reinstall espeakng-loader.")
        library.espeak_SetSynthCallback(self._callback)
        try:
            yield library
        finally:
            library.espeak_Terminate()
            unload = "dlclose" if hasattr(_ctypes, "dlclose") else "FreeLibrary"  # Unix, Windows
            getattr(_ctypes, unload)(library._handle)

    def _receive(self, samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            self._samples.append(np.ctypeslib.as_array(samples, (count,)).copy())
        for event in itertools.takewhile(lambda event: event.kind, events):
            if event.kind in (_WORD, _END):
                moment = event.milliseconds / 1000
                self._events.append((event.kind, event.text_position - 1, moment))
        return 0

    def speak(
        self,
        text: str,
        speaker: str,
        accent: str,
        *,
        words_per_minute: int = 175,
        pitch: int = 50,
        melody: int = 50,
    ) -> Utterance:
        """Speak a text. Pitch and melody (its range) run from 0 to 100 around the speaker's own 50.

        Raises VoiceError if there is no such speaker.
        """
        if speaker not in {known.name for known in list_speakers()}:
            raise VoiceError(f"There is no speaker {speaker!r}; there are female_01 … male_32.")
        voice = f"{ACCENTS[accent]}+{speaker}"
        settings = {_RATE: words_per_minute, _VOLUME: _HEADROOM, _PITCH: pitch, _RANGE: melody}
        with self._lock, self._load_library() as library:
            self._samples: list[np.ndarray] = []
            self._events: list[tuple[int, int, float]] = []
            library.espeak_ng_SetRandSeed(ctypes.c_long(1))
            if library.espeak_SetVoiceByName(voice.encode()) != 0:
                fault = f"espeak-ng refused the voice {voice!r}"
                raise VoiceError(f"{fault}; reinstall espeakng-loader.")
            for parameter, value in settings.items():
                library.espeak_SetParameter(parameter, int(value), 0)
            data = text.encode()
            library.espeak_Synth(data, len(data) + 1, 0, 1, 0, _UTF8, None, None)
            wave = np.concatenate(self._samples).astype(np.float32) / 2**15
            events = list(self._events)
        wave = cast(np.ndarray, soxr.resample(wave, self._rate, RATE))
        return Utterance(wave, _time_words(text, events, len(wave) / RATE))


def _time_words(
    text: str, events: list[tuple[int, int, float]], seconds: float
) -> tuple[tuple[str, float, float], ...]:
    """Events → (word, start, end), every word of the text once.

    A word lasts until the next event, be it a word or the end of a sentence. espeak-ng reports
    some pairs ("for a", "in the") as one word; they share its time by their letters.
    """
    starts = [event for event in events if event[0] == _WORD]
    places = [place for _, place, _ in starts[1:]] + [len(text)]
    moments = sorted({moment for _, _, moment in events} | {seconds})
    words: list[tuple[str, float, float]] = []
    for (_, place, start), next_place in zip(starts, places, strict=True):
        group = [word.strip(".,").lower() for word in text[place:next_place].split()]
        end = next((moment for moment in moments if moment > start), seconds)
        edges = start + (end - start) * np.cumsum([0, *map(len, group)]) / sum(map(len, group))
        words += [(word, float(edges[i]), float(edges[i + 1])) for i, word in enumerate(group)]
    return tuple(words)


def _write_data(source: Path, folder: Path) -> None:
    """A private data folder of espeak-ng: English, and one voice variant for each speaker."""
    for name in _ENGLISH_FILES:
        shutil.copy(source / name, folder / name)
    shutil.copytree(source / "lang" / "gmw", folder / "lang" / "gmw")
    variants = folder / "voices" / "!v"
    variants.mkdir(parents=True)
    for speaker in list_speakers():
        header = ("language variant", f"name {speaker.name}", f"gender {speaker.gender}")
        text = "\n".join(header + speaker.lines) + "\n"
        (variants / speaker.name).write_text(text, encoding="utf-8")


def whisper_filter(
    wave: Float[np.ndarray, "sample"], rng: np.random.Generator
) -> Float[np.ndarray, "sample"]:
    """A whisper: the same vocal tract driven by noise instead of the larynx, so no pitch is left.

    The tract is found by linear prediction, frame by frame.
    """
    hop, size = RATE // 100, RATE // 40  # 10 ms, 25 ms
    order = 18  # one pole pair per kHz and two for the source
    window = np.hanning(size)
    count = max(1, 1 + (len(wave) - size) // hop)
    index = hop * np.arange(count)[:, None] + np.arange(size)
    padded = np.pad(np.diff(wave, prepend=wave[:1]), (0, max(0, int(index.max()) + 1 - len(wave))))
    frames = padded[index] * window
    power = np.abs(np.fft.rfft(frames, 2 * size)) ** 2
    correlation = np.fft.irfft(power)[:, : order + 1]
    # a little white noise keeps every frame solvable
    correlation[:, 0] = correlation[:, 0] * 1.0001 + 1e-9
    lags = np.abs(np.arange(order)[:, None] - np.arange(order))
    poles = np.linalg.solve(correlation[:, lags], correlation[:, 1:, None])[..., 0]
    gain = np.sqrt(np.maximum(correlation[:, 0] - (poles * correlation[:, 1:]).sum(1), 0))
    filters = np.fft.rfft(np.concatenate([np.ones((count, 1)), -poles], axis=1), 2 * size)
    noise = np.fft.rfft(rng.standard_normal(len(padded))[index] * window, 2 * size)
    voiceless = np.fft.irfft(noise * gain[:, None] / filters)
    out = np.zeros(len(padded) + 2 * size)
    for frame, sound in enumerate(voiceless):
        out[hop * frame : hop * frame + 2 * size] += sound
    return out[: len(wave)].astype(np.float32)


@functools.cache
def get_synthesiser() -> Synthesiser:
    """This process's synthesiser, made at the first call (a few milliseconds)."""
    return Synthesiser()
