"""Waveforms: read, resample, crop, log-mel; and the rates of samples and frames."""

import functools
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import soundfile
import soxr
from jaxtyping import Float

if TYPE_CHECKING:
    from torch import Tensor

RATE = 16_000  # samples per second, the only rate inside this package
HOP = 160  # samples per mel frame: 10 ms
MEL_FRAMES_PER_SECOND = RATE // HOP  # 100
STRIDE = 2  # mel frames per encoder frame: the second convolution of Whisper's stem
FRAMES_PER_SECOND = MEL_FRAMES_PER_SECOND // STRIDE  # 50 encoder frames
WHISPER_SECONDS = 30.0  # the encoder's position table: 1500 frames / 50
SILENCE = 1e-4  # a peak of −80 dBFS or less counts as silence
_FORMATS = {  # what libsndfile may find in a file of each name
    ".wav": ("WAV", "WAVEX", "RF64"),
    ".flac": ("FLAC",),
    ".ogg": ("OGG",),
    ".opus": ("OGG",),
    ".mp3": ("MP3", "MPEG"),
    ".aiff": ("AIFF",),
    ".aif": ("AIFF",),
}
# RIFF sizes of a writer that did not know the length
_UNKNOWN_SIZES = (0, 0xFFFFFFFF, 0xFFFFFFFF - 8)
_COPY = "copy it again from its source"

Fault = TypeVar("Fault", bound="DataFault")


class DataFault(ValueError):
    """Data that cannot be used; the message names the place, the fault and the remedy."""

    @classmethod
    def at(cls: type[Fault], where: Path | str, fault: str, remedy: str) -> Fault:
        """The error of one place, as one sentence."""
        return cls(f"{where}: {fault}; {remedy}.")


class AudioError(DataFault):
    """An audio file that cannot be used as a clip."""


@dataclass(frozen=True)
class Header:
    """What a file says about itself before a sample is read."""

    rate: int
    seconds: float


def read_header(path: Path | str, max_seconds: float = WHISPER_SECONDS) -> Header:
    """Read the header alone, so that a ten-hour file costs nothing. Raises AudioError."""
    path = Path(path)
    if not path.is_file():
        raise AudioError.at(path, "no such file", "check the path, or build the corpus again")
    if path.stat().st_size == 0:
        raise AudioError.at(path, "the file has 0 bytes", _COPY)
    try:
        info = soundfile.info(str(path))
    except soundfile.LibsndfileError as error:
        fault = f"not readable as audio ({error.error_string})"
        raise AudioError.at(path, fault, "convert it to WAV or FLAC") from error
    if info.format not in _FORMATS.get(path.suffix.lower(), (info.format,)):
        fault = f"named {path.suffix} but the content is {info.format}"
        raise AudioError.at(path, fault, "rename or convert it")
    if info.frames == 0:
        raise AudioError.at(path, "0 samples", "remove the clip or record it again")
    if info.duration > max_seconds:
        fault = f"{info.duration:.1f} s is longer than the limit of {max_seconds:g} s"
        raise AudioError.at(path, fault, "crop it into clips first, or pass a larger max_seconds")
    if (missing := _missing_bytes(path)) > 0:
        raise AudioError.at(path, f"truncated, {missing} bytes are missing", _COPY)
    return Header(info.samplerate, info.duration)


def _missing_bytes(path: Path) -> int:
    """Bytes a RIFF header promises and the file lacks (libsndfile is silent about them)."""
    with path.open("rb") as file:
        start = file.read(8)
    if len(start) < 8 or start[:4] != b"RIFF":
        return 0
    promised = int(struct.unpack("<I", start[4:])[0])
    return 0 if promised in _UNKNOWN_SIZES else promised + 8 - path.stat().st_size


def read_audio(
    path: Path | str, max_seconds: float = WHISPER_SECONDS
) -> Float[np.ndarray, "sample"]:
    """Read a file as one channel of float32 in −1 … 1 at `RATE`; channels are averaged.

    Raises AudioError for a file that is missing, empty, silent, not finite, too long, truncated,
    mislabelled or not audio at all.
    """
    header = read_header(path, max_seconds)
    try:
        samples, _ = soundfile.read(str(path), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise AudioError.at(path, f"damaged ({error.error_string})", _COPY) from error
    if len(samples) < round(header.seconds * header.rate):
        found = f"{len(samples) / header.rate:.2f} of {header.seconds:.2f} s"
        raise AudioError.at(path, f"truncated, {found}", _COPY)
    finite = np.isfinite(samples).all(axis=1)
    if not finite.all():
        fault = f"sample {int(finite.argmin())} is not a finite number"
        raise AudioError.at(path, fault, "export the file again, as 16-bit integers")
    if (peak := np.abs(samples).max()) <= SILENCE:
        fault = f"silent, its peak is {peak:.1e} of 1"
        raise AudioError.at(path, fault, "remove the clip or record it again")
    wave = samples.mean(axis=1)
    if np.abs(wave).max() <= SILENCE:
        raise AudioError.at(
            path, "its channels cancel each other to silence", "keep one channel only"
        )
    return wave if header.rate == RATE else cast(np.ndarray, soxr.resample(wave, header.rate, RATE))


def crop_or_pad(
    wave: Float[np.ndarray, "sample"], seconds: float
) -> Float[np.ndarray, "sample_fit"]:
    """Crop a wave at the end, or pad it with silence, to exactly this many seconds."""
    length = round(seconds * RATE)
    return np.pad(wave[:length], (0, max(0, length - len(wave))))


def log_mel(
    waves: Sequence[Float[np.ndarray, "_"]], seconds: float, mels: int = 80
) -> "Float[Tensor, 'batch mel frame']":
    """Whisper's log-mel spectrogram of waves cropped or padded to `seconds`: 100 frames a second.

    `seconds` is a multiple of 0.02 (one encoder frame) up to 30.
    """
    samples = round(seconds * RATE)
    if samples % (HOP * STRIDE) or not 0 < seconds <= WHISPER_SECONDS:
        fault = f"{seconds} s is no whole number of encoder frames up to 30 s"
        raise AudioError(f"{fault}; take a multiple of 0.02 s.")
    fitted = [crop_or_pad(wave, seconds) for wave in waves]
    options = {"sampling_rate": RATE, "max_length": samples, "truncation": True}
    features = _extractor(mels)(fitted, padding="max_length", return_tensors="pt", **options)
    return cast("Tensor", features.input_features)


@functools.cache
def _extractor(mels: int) -> Any:
    from transformers import WhisperFeatureExtractor  # half a second, only where mels are needed

    return WhisperFeatureExtractor(feature_size=mels, sampling_rate=RATE, hop_length=HOP)
