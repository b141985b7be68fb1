"""Waveforms: read, resample, crop, log-mel; frames ⇄ seconds."""

import functools
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

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
_FORMATS = {
    ".wav": {"WAV", "WAVEX", "RF64"},
    ".flac": {"FLAC"},
    ".ogg": {"OGG"},
    ".opus": {"OGG"},
    ".mp3": {"MP3", "MPEG"},
    ".aiff": {"AIFF"},
    ".aif": {"AIFF"},
}
_STREAMED = {0, 0xFFFFFFFF, 0xFFFFFFFF - 8}  # RIFF sizes of a writer that did not know the length


class AudioError(ValueError):
    """A file that cannot be heard as one clip; the message names it and says what to do."""


@dataclass(frozen=True)
class Header:
    """What a file says about itself before a sample is read."""

    rate: int
    channels: int
    seconds: float
    format: str


def read_header(path: Path | str, max_seconds: float = WHISPER_SECONDS) -> Header:
    """Read the header alone, so that a ten-hour file costs nothing; raises AudioError."""
    path = Path(path)
    if not path.is_file():
        raise AudioError(f"{path}: no such file; check the path, or build the corpus again.")
    if path.stat().st_size == 0:
        raise AudioError(f"{path}: the file has 0 bytes; copy it again from its source.")
    try:
        info = soundfile.info(str(path))
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"{path}: not readable as audio ({error.error_string}); convert it to WAV or FLAC."
        ) from error
    expected = _FORMATS.get(path.suffix.lower())
    if expected is not None and info.format not in expected:
        raise AudioError(
            f"{path}: named {path.suffix} but the content is {info.format}; rename or convert it."
        )
    if info.frames == 0:
        raise AudioError(f"{path}: 0 samples; remove the clip or record it again.")
    if info.duration > max_seconds:
        raise AudioError(
            f"{path}: {info.duration:.1f} s is longer than the limit of {max_seconds:g} s; "
            "crop it into clips first, or pass a larger max_seconds."
        )
    missing = _missing_bytes(path)
    if missing > 0:
        raise AudioError(
            f"{path}: truncated, {missing} bytes are missing; copy it again from its source."
        )
    return Header(info.samplerate, info.channels, info.duration, info.format)


def _missing_bytes(path: Path) -> int:
    """Bytes a RIFF header promises and the file lacks (libsndfile is silent about them)."""
    with path.open("rb") as file:
        start = file.read(8)
    if len(start) < 8 or start[:4] != b"RIFF":
        return 0
    promised = int(struct.unpack("<I", start[4:])[0])
    return 0 if promised in _STREAMED else promised + 8 - path.stat().st_size


def read_audio(
    path: Path | str, rate: int = RATE, max_seconds: float = WHISPER_SECONDS
) -> Float[np.ndarray, "sample"]:
    """Read a file as one channel of float32 in −1 … 1: channels are averaged, any rate is resampled, 8 kHz too.

    Raises AudioError, one sentence with a remedy, for a file that is missing, empty, silent, not finite, too long,
    truncated, mislabelled or not audio at all.
    """
    head = read_header(path, max_seconds)
    try:
        samples, _ = soundfile.read(str(path), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"{path}: damaged ({error.error_string}); copy it again from its source."
        ) from error
    if len(samples) < round(head.seconds * head.rate):
        raise AudioError(
            f"{path}: truncated, {len(samples) / head.rate:.2f} of {head.seconds:.2f} s; copy it again from its source."
        )
    if not np.isfinite(samples).all():
        bad = int((~np.isfinite(samples)).any(axis=1).argmax())
        raise AudioError(
            f"{path}: sample {bad} is not a finite number; export the file again, as 16-bit integers."
        )
    peak = np.abs(samples).max()
    if peak <= SILENCE:
        raise AudioError(
            f"{path}: silent, its peak is {peak:.1e} of 1; remove the clip or record it again."
        )
    wave = samples.mean(axis=1)
    if np.abs(wave).max() <= SILENCE:
        raise AudioError(
            f"{path}: its channels cancel each other to silence; keep one channel only."
        )
    return wave if head.rate == rate else cast(np.ndarray, soxr.resample(wave, head.rate, rate))


def check_audio(
    path: Path | str, seconds: float | None = None, max_seconds: float = WHISPER_SECONDS
) -> None:
    """Hear a file as `read` does and throw it away; with `seconds`, also compare the length a manifest states."""
    actual = len(read_audio(path, max_seconds=max_seconds)) / RATE
    if seconds is not None and abs(actual - seconds) > 1 / FRAMES_PER_SECOND:
        raise AudioError(
            f"{path}: {actual:.2f} s long but the manifest says {seconds:.2f} s; correct one of them."
        )


def crop_or_pad(
    wave: Float[np.ndarray, "sample"], seconds: float
) -> Float[np.ndarray, "sample_fit"]:
    """Crop a wave at the end, or pad it with silence, to exactly this many seconds."""
    length = round(seconds * RATE)
    return np.pad(wave[:length], (0, max(0, length - len(wave))))


def log_mel(
    waves: Sequence[Float[np.ndarray, "_"]], seconds: float, mels: int = 80
) -> "Float[Tensor, 'batch mel frame']":
    """Whisper's log-mel spectrogram of waves cropped or padded to `seconds`, 100 frames a second.

    `seconds` is a multiple of 0.02 (one encoder frame) up to 30; the encoder's position table is cropped with it.
    """
    samples = round(seconds * RATE)
    if samples % (HOP * STRIDE) or not 0 < seconds <= WHISPER_SECONDS:
        raise AudioError(
            f"{seconds} s is no whole number of encoder frames up to 30 s; take a multiple of 0.02 s."
        )
    extractor = _extractor(mels)
    fitted = [crop_or_pad(wave, seconds) for wave in waves]
    options = {
        "sampling_rate": RATE,
        "max_length": samples,
        "truncation": True,
        "return_tensors": "pt",
    }
    return cast("Tensor", extractor(fitted, padding="max_length", **options).input_features)


@functools.cache
def _extractor(mels: int) -> Any:
    from transformers import (
        WhisperFeatureExtractor,  # half a second of import, only where mels are needed
    )

    return WhisperFeatureExtractor(feature_size=mels, sampling_rate=RATE, hop_length=HOP)


def frame_to_seconds(frame: int | float) -> float:
    """The moment at which an encoder frame begins."""
    return frame / FRAMES_PER_SECOND


def seconds_to_frame(seconds: float) -> int:
    """The encoder frame that holds this moment (rounding errors below a microsecond forgiven)."""
    return int(seconds * FRAMES_PER_SECOND + 1e-6)
