"""Waveforms: read, resample, crop, log-mel; and the rates of samples and frames."""

import functools
import io
import math
import os
import warnings
import zlib
from collections.abc import Generator, Sequence
from contextlib import closing, suppress
from itertools import pairwise
from mmap import ACCESS_COPY, mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

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
OVERSHOOT = 2.0  # lossy codecs and float mixes pass ±1 by less; a higher peak is another scale
_FORMATS = {  # what libsndfile may find in a file of each name
    ".wav": {"WAV", "WAVEX", "RF64"},
    ".flac": {"FLAC"},
    ".ogg": {"OGG"},
    ".opus": {"OGG"},
    ".mp3": {"MP3", "MPEG"},
    ".aiff": {"AIFF"},
    ".aif": {"AIFF"},
}
_READABLE = set[str]().union(*_FORMATS.values())
_RATES = (1_000, 768_000)  # samples per second of any recording
_UNKNOWN_SIZE = 0x7FFFF000  # bytes: what a writer claims, or more, that did not know the length
_PLAIN = (1, 3, 6, 7, 0xFFFE)  # WAV formats in which a sample has a size: PCM, float, A-law, µ-law
_JUNK = 1024  # bytes behind the sound that are overlooked
_ENDLESS = 0x7FFFFFF  # MP3 frames, more than any file has: decode to the end
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_BLOCK = 1 << 16  # samples decoded at a time
_MIXED = "it holds sounds of different rates or channels"
_COPY = "copy it again from its source"
_CONVERT = "convert it to WAV or FLAC"

Fault = TypeVar("Fault", bound="DataFault")
# a sound for libsndfile, and how many samples it should have: 0 if unknown, None as it says itself
Part = tuple[Any, int | None]


class DataFault(ValueError):
    """Data that cannot be used; the message names the place, the fault and the remedy."""

    @classmethod
    def at(cls: type[Fault], where: Path | str, fault: str, remedy: str) -> Fault:
        """The error of one place, as one sentence."""
        return cls(f"{where}: {fault}; {remedy}.")


class AudioError(DataFault):
    """An audio file that cannot be used as a clip."""


class DataWarning(UserWarning):
    """Data that is not used quite as it stands: cropped, turned down or left out."""


def measure_seconds(path: Path | str, at_most: float = float("inf")) -> float:
    """The length of a file, decoded to its end whatever its header says. Raises AudioError.

    Decoding stops beyond `at_most` seconds, so that a ten-hour file costs little; what is returned
    is then more than `at_most`.
    """
    samples, rate = 0, RATE
    with closing(_decode(Path(path))) as blocks:
        for block, rate in blocks:
            samples += len(block)
            if samples > at_most * rate:
                break
    return samples / rate


def read_audio(path: Path | str, seconds: float = WHISPER_SECONDS) -> Float[np.ndarray, "sample"]:
    """Read a file's first `seconds` as one channel of float32 in −1 … 1 at `RATE`.

    Channels are averaged. A longer file is cropped, with a DataWarning. Overshoot up to a peak of 2
    is turned down to 1, with a DataWarning where a file holds such numbers itself (float WAV).

    Raises AudioError for a file that is missing, empty, silent, not finite, on another scale, cut
    off, mislabelled or not audio at all.
    """
    path, found, samples, rate = Path(path), [], 0, RATE
    with closing(_decode(path)) as blocks:
        for block, rate in blocks:
            found.append(block)
            samples += len(block)
            if samples > (seconds + 1 / FRAMES_PER_SECOND) * rate:
                fault = f"Of clips longer than {seconds:g} s the first {seconds:g} s are heard."
                warnings.warn(fault, DataWarning, stacklevel=2)
                break
    channels = np.concatenate(found)[: math.ceil(min(seconds * rate, samples))]
    _check_samples(path, channels)
    wave = channels.mean(axis=1)
    if np.abs(wave).max() <= SILENCE:
        fault = "its channels cancel each other to silence"
        raise AudioError.at(path, fault, "keep one channel only")
    if rate != RATE:
        wave = cast(np.ndarray, soxr.resample(wave, rate, RATE))
    if not len(wave):
        fault = f"{samples} samples at {rate} a second are less than one at {RATE}"
        raise AudioError.at(path, fault, "remove the clip or record it again")
    return cast(np.ndarray, wave / max(np.float32(1), np.abs(wave).max()))


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


# ---- how a file is read ----


def _check_samples(path: Path, channels: Float[np.ndarray, "sample channel"]) -> None:
    finite = np.isfinite(channels).all(axis=1)
    if not finite.all():
        fault = f"sample {int(finite.argmin())} is not a finite number"
        raise AudioError.at(path, fault, "export the file again, as 16-bit integers")
    peak = float(np.abs(channels).max())
    if peak <= SILENCE:
        fault = f"silent, its peak is {peak:.1e} of 1"
        raise AudioError.at(path, fault, "remove the clip or record it again")
    if peak > OVERSHOOT:
        fault = f"its peak is {peak:g} where full scale is 1"
        raise AudioError.at(path, fault, "divide it by its full scale, or export 16-bit integers")
    if peak > 1 and path.suffix.lower() in (".wav", ".aiff", ".aif"):
        fault = "Recordings that pass ±1 are turned down to it."
        warnings.warn(fault, DataWarning, stacklevel=3)


def _decode(path: Path) -> Generator[tuple[Float[np.ndarray, "sample channel"], int], None, None]:
    """Yield blocks of samples, each with its rate, to the end of the data. Raises AudioError."""
    if not os.path.isfile(path):  # false, too, for what can be no path
        fault = "no plain file" if os.path.lexists(path) else "no such file"
        raise AudioError.at(path, fault, "check the path, or build the corpus again")
    if path.stat().st_size == 0:
        raise AudioError.at(path, "the file has 0 bytes", _COPY)
    samples, shapes = 0, set()
    with path.open("rb") as file, _Memory(file.fileno(), 0, access=ACCESS_COPY) as content:
        for part, claimed in _correct_lengths(path, content):
            with _open(path, part) as sound:
                rate, read = sound.samplerate, 0
                if claimed is None:
                    claimed = sound.frames
                    with suppress(soundfile.LibsndfileError):  # GSM in WAV cannot
                        sound.seek(0)  # as soundfile.read does: it moves the last bits of an MP3
                shapes.add((rate, sound.channels))
                if len(shapes) > 1:
                    raise AudioError.at(path, _MIXED, _CONVERT)
                while len(block := _read_block(path, sound)):
                    read += len(block)
                    yield block, rate
            if read < claimed:
                fault = f"truncated, {read / rate:.2f} of {claimed / rate:.2f} s"
                raise AudioError.at(path, fault, _COPY)
            samples += read
    if not samples:
        raise AudioError.at(path, "0 samples", "remove the clip or record it again")


class _Memory(mmap):
    """A file in memory that may be corrected there, and where seeking behind the end is allowed."""

    def seek(self, place: int, whence: int = 0) -> None:
        place += (0, self.tell(), len(self))[whence]
        super().seek(min(max(0, place), len(self)))


class _Stream(soundfile.SoundFile):
    """A sound that is read once, from front to back, until there is no more."""

    def seekable(self) -> bool:
        return False


def _open(path: Path, content: Any) -> _Stream:
    try:  # as bytes without a name: by a name such as .vox libsndfile would hear any bytes
        sound = _Stream(content)
    except soundfile.LibsndfileError as error:
        fault = f"not readable as audio ({error.error_string})"
        raise AudioError.at(path, fault, _CONVERT) from error
    if not _RATES[0] <= sound.samplerate <= _RATES[1]:
        fault = f"its header says {sound.samplerate} samples a second"
        raise AudioError.at(path, fault, f"it is {_RATES[0]} to {_RATES[1]}; {_CONVERT}")
    if sound.format not in _READABLE:
        raise AudioError.at(path, f"{sound.format} may be cut off unseen", _CONVERT)
    if sound.format not in _FORMATS.get(path.suffix.lower(), (sound.format,)):
        fault = f"named {path.suffix} but the content is {sound.format}"
        raise AudioError.at(path, fault, "rename or convert it")
    return sound


def _read_block(path: Path, sound: _Stream) -> Float[np.ndarray, "sample channel"]:
    try:
        return cast(np.ndarray, sound.read(_BLOCK, dtype="float32", always_2d=True))
    except soundfile.LibsndfileError as error:
        raise AudioError.at(path, f"damaged ({error.error_string})", _COPY) from error


# ---- lengths in headers, corrected in memory: the data decides ----


def _correct_lengths(path: Path, content: _Memory) -> list[Part]:
    """The sounds of a file, with headers that hide nothing. Raises AudioError if it is cut off."""
    start = _id3_size(content, 0) if content[:3] == b"ID3" else 0
    kind = content[start : start + 4]
    if kind in (b"RIFF", b"RIFX", b"RF64", b"FORM"):
        if start:
            raise AudioError.at(path, "an ID3 tag stands before the sound", _CONVERT)
        _correct_chunks(path, content, "big" if kind in (b"RIFX", b"FORM") else "little")
    elif kind == b"OggS":
        return [(io.BytesIO(part), None) for part in _split_ogg(path, content)]
    elif kind == b"fLaC" and len(content) >= start + 26:
        total = slice(start + 21, start + 26)  # the last 36 bits
        claimed = int.from_bytes(content[total], "big") & 0xFFFFFFFFF
        content[total] = bytes([content[start + 21] & 0xF0, 0, 0, 0, 0])
        return [(content, claimed)]
    elif len(kind) == 4 and kind[0] == 0xFF and kind[1] & 0xE6 == 0xE2:
        return [_correct_mp3(path, content, start)]
    return [(content, None)]


def _correct_chunks(path: Path, content: _Memory, order: Literal["little", "big"]) -> None:
    """Give the sound of a WAV or AIFF file the size that it has, where the header knows none."""
    at = 12
    while at + 8 <= len(content):
        name, size = content[at : at + 4], int.from_bytes(content[at + 4 : at + 8], order)
        if name in (b"data", b"SSND"):
            break
        if name == b"fmt ":
            _check_format(path, content[at + 8 : at + 24], order)
        at += 8 + size + size % 2
    else:
        return
    if content[:4] == b"RF64":  # its size stands in the chunk ds64
        size = int.from_bytes(content[28:36], "little")
    begin, there = at + 8, len(content) - at - 8
    unknown = size >= _UNKNOWN_SIZE or (size == 0 and not _are_chunks(content, begin, order))
    if unknown and size != there:
        content[at + 4 : begin] = min(there, 0xFFFFFFFF).to_bytes(4, order)
    elif size > there:
        raise AudioError.at(path, f"truncated, {size - there} bytes are missing", _COPY)
    elif there - size > _JUNK and not _are_chunks(content, begin + size + size % 2, order):
        fault = f"its header says {size} bytes of sound and {there} are there"
        raise AudioError.at(path, fault, _CONVERT)


def _check_format(path: Path, chunk: bytes, order: Literal["little", "big"]) -> None:
    """Refuse a WAV header whose numbers contradict each other; 0 is a number that is not known."""
    sizes = (slice(0, 2), slice(2, 4), slice(4, 8), slice(8, 12), slice(12, 14), slice(14, 16))
    kind, channels, rate, speed, frame, bits = (int.from_bytes(chunk[s], order) for s in sizes)
    if kind not in _PLAIN:
        return
    stored = 4 if frame == 4 * channels and bits == 24 else -(-bits // 8)  # 24 bits in 32
    known = frame in (0, channels * stored) and speed in (0, rate * channels * stored)
    if not known or (kind in (6, 7) and bits != 8):
        fault = f"its header says {channels} channels of {bits} bits at {rate} samples a second"
        fault += f", and {frame} bytes a sample at {speed} bytes a second"
        raise AudioError.at(path, fault, "these contradict each other; export it again")


def _are_chunks(content: _Memory, at: int, order: Literal["little", "big"]) -> bool:
    """Whether the rest of a file is chunks, each with a name and a size that fits."""
    while at + 8 <= len(content):
        name, size = content[at : at + 4], int.from_bytes(content[at + 4 : at + 8], order)
        if not (name.isascii() and name.decode().isprintable()):
            return False
        at += 8 + size + size % 2
    return at - 1 <= len(content)  # the last pad byte may be missing


def _split_ogg(path: Path, content: _Memory) -> list[bytes]:
    """The chained sounds of an Ogg file: libsndfile hears the first of a file alone.

    Refused are a changed page, which libsndfile would skip, and a page that is missing.
    """
    starts: list[int] = []
    numbers: dict[bytes, int] = {}  # of the last page of each stream
    opened, closed = 0, True  # where pages that begin a sound end, and whether a last page was seen
    at = content.find(b"OggS\x00")
    while at >= 0 and (end := _page_end(content, at)) <= len(content):
        page = content[at:end]
        stream, number = page[14:18], int.from_bytes(page[18:22], "little")
        begins, header = page[5] & 2, not any(page[6:14])
        if _ogg_checksum(page) != page[22:26]:
            raise AudioError.at(path, f"damaged, the page at byte {at} was changed", _COPY)
        if not begins and number > numbers.get(stream, number) + 1:
            raise AudioError.at(path, f"a page is missing before byte {at}", _COPY)
        if header:  # what was saved from a broadcast begins behind its headers with any number
            numbers.pop(stream, None)
        else:
            numbers[stream] = number
        if begins and (at != opened or not starts):  # else another stream of the same sound
            if not closed:
                break
            starts.append(at)
        opened, closed = end if begins else opened, bool(page[5] & 4)
        at = content.find(b"OggS\x00", end)
    if at >= 0 or not closed:
        raise AudioError.at(path, "truncated, its last page is missing", _COPY)
    return [content[begin:stop] for begin, stop in pairwise([*(starts or [0]), len(content)])]


def _ogg_checksum(page: bytes) -> bytes:
    """The CRC of a page (RFC 3533, section 6): that of zlib with all bits the other way round."""
    mirrored = (page[:22] + bytes(4) + page[26:]).translate(_MIRRORED)
    crc = zlib.crc32(mirrored, 0xFFFFFFFF) ^ 0xFFFFFFFF
    return crc.to_bytes(4, "big").translate(_MIRRORED)


def _page_end(content: _Memory, start: int) -> int:
    """Where an Ogg page ends (RFC 3533, section 6)."""
    begin = start + 27
    count = int.from_bytes(content[begin - 1 : begin])
    return begin + count + sum(content[begin : begin + count])


def _correct_mp3(path: Path, content: _Memory, start: int) -> Part:
    """An MP3 file that is decoded to its end.

    libsndfile stops where the first frame says, in a Xing or Info tag; without one it guesses from
    the bit rate at the start. A tag with the true size is believed; others claim too many frames.
    """
    head = bytearray(content[start : start + 4])
    newest, mono = head[1] & 8, head[3] >> 6 == 3  # MPEG 1; one channel
    tag = start + 4 + ((17 if mono else 32) if newest else (9 if mono else 17))
    rate = (44_100, 48_000, 32_000, 0)[head[2] >> 2 & 3]
    if content[tag : tag + 4] in (b"Xing", b"Info"):
        size = int.from_bytes(content[tag + 12 : tag + 16], "big")
        after = content[(place := _skip_tags(content, start + size)) : place + 4]
        flags = int.from_bytes(content[tag + 4 : tag + 8])
        if flags & 3 == 3 and size and len(after) == 4 and after[0] == 0xFF and after[1] >= 0xE2:
            ours, theirs = ((h[1] & 0x18, h[2] & 0x0C, h[3] >> 6 == 3) for h in (head, after))
            if ours != theirs:
                raise AudioError.at(path, _MIXED, _CONVERT)
            content[tag + 8 : tag + 12] = _ENDLESS.to_bytes(4, "big")  # another MP3 follows
            return content, 0
        return content, None
    if not rate:
        return content, None
    head[2] = head[2] & 0x0D | 0xE0  # the highest bit rate, so that the tag has room; no padding
    size = 144 * 320_000 // rate if newest else 72 * 160_000 // (rate // (2 if head[1] & 16 else 4))
    frame = bytes(head).ljust(tag - start, b"\0") + b"Xing" + (1).to_bytes(4, "big")
    frame += _ENDLESS.to_bytes(4, "big")
    return io.BytesIO(frame.ljust(size, b"\0") + content[start:]), 0


def _skip_tags(content: _Memory, at: int) -> int:
    """The place behind the tags that stand at one place of an MP3 file: ID3, ID3v1 and APE."""
    while True:
        if content[at : at + 3] == b"ID3":
            at += _id3_size(content, at)
        elif content[at : at + 3] == b"TAG":
            at += 128
        elif content[at : at + 8] == b"APETAGEX":
            at += 32 + int.from_bytes(content[at + 12 : at + 16], "little")
        else:
            return at


def _id3_size(content: _Memory, at: int) -> int:
    """The bytes of an ID3 tag: ten, and as many as four times seven bits say."""
    size = content[at + 6 : at + 10]
    return 10 + sum((byte & 0x7F) << 7 * (3 - place) for place, byte in enumerate(size))
