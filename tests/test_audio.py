"""Audio is read as one channel at one rate, or refused in one sentence that names the file and the
remedy.
"""

import io
import re
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from desta_lab import audio


def tone(seconds: float, rate: int = audio.RATE, hertz: float = 440.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(
        np.float32
    )


def write(path, wave, rate=audio.RATE, **options):
    soundfile.write(str(path), wave, rate, **options)
    return path


def test_a_wave_comes_back_as_it_was_written(tmp_path):
    wave = tone(1.0)
    back = audio.read_audio(write(tmp_path / "a.flac", wave))
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, wave, atol=1 / 2**15)


def test_channels_are_averaged(tmp_path):
    left, right = tone(1.0), tone(1.0, hertz=1000)
    back = audio.read_audio(write(tmp_path / "a.wav", np.stack([left, right], axis=1)))
    np.testing.assert_allclose(back, (left + right) / 2, atol=1 / 2**14)


@pytest.mark.parametrize("rate", [8_000, 22_050, 48_000])
def test_any_rate_is_resampled_and_keeps_its_pitch(tmp_path, rate):
    back = audio.read_audio(write(tmp_path / "a.wav", tone(1.0, rate), rate))
    assert abs(len(back) - audio.RATE) <= 1
    assert np.abs(np.fft.rfft(back, audio.RATE)).argmax() == 440


def broken_files(folder):
    """Every fault by name: the file and a word its message must hold."""
    whole = write(folder / "whole.wav", tone(1.0)).read_bytes()
    flac = write(folder / "whole.flac", tone(2.0)).read_bytes()
    contents = {
        "empty.wav": (b"", "0 bytes"),
        "text.wav": (b"hello, this is no audio at all", "not readable"),
        "cut.wav": (whole[: len(whole) // 2], "truncated"),
        "cut.flac": (flac[: len(flac) // 2], "again"),
        "wrong_name.wav": (flac, "FLAC"),
    }
    for name, (content, word) in contents.items():
        (folder / name).write_bytes(content)
        yield folder / name, word
    yield folder / "missing.wav", "no such file"
    yield write(folder / "no_samples.wav", np.zeros(0, np.float32)), "0 samples"
    yield write(folder / "silent.wav", np.zeros(1000, np.float32)), "silent"
    hole = tone(1.0)
    hole[7] = np.nan
    yield write(folder / "nan.wav", hole, subtype="FLOAT"), "sample 7"
    yield write(folder / "opposed.wav", np.stack([tone(0.5), -tone(0.5)], axis=1)), "cancel"


def test_every_broken_file_is_refused_with_its_name_and_a_remedy(tmp_path):
    for path, word in broken_files(tmp_path):
        with pytest.raises(audio.AudioError, match=word) as caught:
            audio.read_audio(path)
        assert str(path) in str(caught.value), path.name
        assert "\n" not in str(caught.value)
        assert ";" in str(caught.value), "the remedy follows the semicolon"


def test_a_ten_hour_file_costs_no_more_than_what_is_heard(tmp_path, monkeypatch):
    path = tmp_path / "night.flac"
    with soundfile.SoundFile(str(path), "w", 1000, 1, format="FLAC") as file:
        for _ in range(36):
            file.write(np.full(1_000_000, 99, np.int16))
    monkeypatch.setattr(audio, "_BLOCK", 10_000)
    assert audio.measure_seconds(path, at_most=30.0) == 40.0
    with pytest.warns(audio.DataWarning, match="the first 30 s are heard"):
        assert len(audio.read_audio(path)) == 30 * audio.RATE


def test_a_longer_limit_lets_more_of_a_file_in(tmp_path):
    path = write(tmp_path / "long.wav", tone(31.0))
    assert len(audio.read_audio(path, seconds=40.0)) == 31 * audio.RATE
    assert audio.measure_seconds(path) == 31.0


# ---- a length is counted, never believed ----


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    wave = 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * audio.RATE))
    return wave.astype(np.float32)


def encode(wave, kind, rate=audio.RATE, **options) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format=kind, **options)
    return file.getvalue()


def put(content: bytes, at: int, new: bytes) -> bytes:
    return content[:at] + new + content[at + len(new) :]


def little(number: int) -> bytes:
    return number.to_bytes(4, "little")


def flac_total(content: bytes, samples: int) -> bytes:
    """A FLAC file whose header claims so many samples (36 bits)."""
    high = bytes([content[21] & 0xF0 | samples >> 32])
    return put(content, 21, high + (samples & 0xFFFFFFFF).to_bytes(4, "big"))


WAV = encode(noise(1.0), "WAV", subtype="PCM_16")  # a header of 44 bytes, and 32,000 of sound
ODD = encode(noise(1.0)[:-1], "WAV", subtype="PCM_U8")  # 15,999 bytes of sound, and one of padding
FLAC = encode(noise(1.0), "FLAC")
AIFF = encode(noise(1.0), "AIFF")
OGG, OPUS = encode(noise(1.0), "OGG"), encode(noise(1.0), "OGG", subtype="OPUS")
MP3 = encode(  # a quiet second and a loud one: frames of different sizes
    np.concatenate([0.01 * noise(1.0), noise(1.0)]),
    "MP3",
    bitrate_mode="VARIABLE",
    compression_level=0.3,
)
BARE_MP3 = MP3[MP3.index(MP3[:2], 4) :]  # without its first frame, which holds the count
WRONG_LENGTHS = {
    "wav, RIFF 0": (put(WAV, 4, little(0)), 1.0),
    "wav, RIFF 0x7fffffff": (put(WAV, 4, little(0x7FFFFFFF)), 1.0),
    "wav, RIFF with its own eight bytes": (put(WAV, 4, little(len(WAV))), 1.0),
    "wav, as sox pipes it": (put(put(WAV, 4, little(0x7FFFF024)), 40, little(0x7FFFF000)), 1.0),
    "wav, as ffmpeg pipes it": (put(put(WAV, 4, b"\xff" * 4), 40, b"\xff" * 4), 1.0),
    "wav, all sizes 0": (put(put(WAV, 4, little(0)), 40, little(0)), 1.0),
    "wav, data 0": (put(WAV, 40, little(0)), 1.0),
    "wav, a pad byte that is not there": (ODD[: 44 + 15_999], 1.0),
    "wav, a chunk behind the sound": (WAV + b"LIST" + little(2000) + bytes(2000), 1.0),
    "wav, a little junk behind the sound": (WAV + b"\xff" * 100, 1.0),
    "flac, total unknown": (flac_total(FLAC, 0), 1.0),
    "flac, total too small": (flac_total(FLAC, 100), 1.0),
    "flac, behind a tag": (b"ID3\x04\0\0\0\0\0\x02\0\0" + flac_total(FLAC, 0), 1.0),
    "ogg, chained": (OGG + encode(noise(0.5), "OGG"), 1.5),
    "opus, chained": (OPUS + OPUS, 2.0),
    "mp3, without a count": (BARE_MP3, 2.0),
    "mp3, joined": (MP3 + MP3, 4.0),
    "mp3, joined behind a tag": (MP3 + b"ID3\x04\0\0\0\0\0\x02\0\0" + MP3, 4.0),
}


@pytest.mark.parametrize("fault", WRONG_LENGTHS)
def test_all_that_is_there_is_heard_whatever_the_header_says(tmp_path, fault):
    content, seconds = WRONG_LENGTHS[fault]
    path = tmp_path / f"clip.{fault.split(',')[0]}"
    path.write_bytes(content)
    slack = 0.3 if "mp3" in fault else 0.001  # an MP3 begins and ends with silence of its own
    assert audio.measure_seconds(path) == pytest.approx(seconds, abs=slack)
    wave = audio.read_audio(path)
    assert len(wave) == pytest.approx(seconds * audio.RATE, abs=slack * audio.RATE)
    assert np.abs(wave[-audio.RATE // 2 :]).max() > 0.1, "the end is heard"
    assert path.read_bytes() == content, "the file stays as it is"


CUT_OFF = {
    "wav": WAV[:-2000],
    "wav, float": encode(noise(1.0), "WAV", subtype="FLOAT")[:-2000],
    "wav, big endian": encode(noise(1.0), "WAV", endian="BIG")[:-2000],
    "wav, RF64": encode(noise(1.0), "RF64")[:-2000],
    "wav, a size that is too small": put(WAV, 40, little(1000)),
    "aiff": AIFF[: len(AIFF) * 9 // 10],
    "flac": FLAC[: len(FLAC) * 9 // 10],
    "flac, total too large": flac_total(FLAC, 32_000),
    "ogg": OGG[: len(OGG) * 9 // 10],
    "opus": OPUS[: len(OPUS) * 9 // 10],
    "opus, by one byte": OPUS[:-1],
    "opus, the second part of a chain": OPUS + OPUS[: len(OPUS) * 9 // 10],
    "mp3": MP3[: len(MP3) * 9 // 10],
}


@pytest.mark.parametrize("fault", CUT_OFF)
def test_a_file_that_is_cut_off_is_refused(tmp_path, fault):
    path = tmp_path / f"clip.{fault.split(',')[0]}"
    path.write_bytes(CUT_OFF[fault])
    for read in (audio.measure_seconds, audio.read_audio):
        with pytest.raises(audio.AudioError, match=f"{path.name}: .*; (copy|convert) it"):
            read(path)


def flipped(content: bytes, at: int) -> bytes:
    return put(content, at, bytes([content[at] ^ 255]))


def without_page(content: bytes, number: int) -> bytes:
    *_, begin, end = [m.start() for m in re.finditer(b"OggS", content)][: number + 2]
    return content[:begin] + content[end:]


def tagged(content: bytes) -> bytes:
    return b"ID3\x04\0\0\0\0\0\x0a" + bytes(10) + content


CHANGED = {
    "rate": ("a.wav", lambda: put(encode(noise(1), "WAV"), 24, little(8_000)), "contradict"),
    "no rate": ("a.wav", lambda: encode(noise(1), "WAV", 100), "says 100 samples a second"),
    "channels": ("a.wav", lambda: put(encode(noise(1), "WAV"), 22, b"\2\0"), "contradict"),
    "bits": ("a.wav", lambda: put(encode(noise(1), "WAV"), 34, b"\x08\0"), "contradict"),
    "A-law": ("a.wav", lambda: put(encode(noise(1), "WAV"), 20, b"\6\0"), "contradict"),
    "tag": ("a.wav", lambda: tagged(encode(noise(1), "WAV")), "an ID3 tag stands before"),
    "one sample": ("a.wav", lambda: encode(noise(1)[:1], "WAV", 44_100), "1 samples at 44100"),
    "Ogg byte": ("a.ogg", lambda: flipped(encode(noise(5), "OGG"), 20_000), "damaged, the page"),
    "Ogg page": ("a.ogg", lambda: without_page(encode(noise(5), "OGG"), 4), "a page is missing"),
    "MP3 rates": (
        "a.mp3",
        lambda: encode(noise(1), "MP3") + encode(noise(1), "MP3", 44_100),
        "different rates or channels",
    ),
    "MP3 channels": (
        "a.mp3",
        lambda: encode(noise(1), "MP3") + encode(np.stack([noise(1)] * 2, 1), "MP3"),
        "different rates or channels",
    ),
}


@pytest.mark.parametrize("fault", CHANGED)
def test_a_file_that_contradicts_itself_is_refused(tmp_path, fault):
    name, make, words = CHANGED[fault]
    (tmp_path / name).write_bytes(make())
    with pytest.raises(audio.AudioError, match=f"{name}: .*{words}"):
        audio.read_audio(tmp_path / name)


@pytest.mark.parametrize("tag", [b"TAG" + bytes(125), b"APETAGEX" + bytes(24), tagged(b"")])
def test_a_tag_between_two_sounds_of_an_mp3_hides_none(tmp_path, tag):
    one = encode(noise(1), "MP3")
    (tmp_path / "a.mp3").write_bytes(one + tag + one)
    assert audio.measure_seconds(tmp_path / "a.mp3") == pytest.approx(2, abs=0.2)


def test_gsm_in_a_wav_is_read_and_what_is_no_file_is_said_to_be_none(tmp_path):
    write(tmp_path / "a.wav", tone(1.0), subtype="GSM610")
    assert len(audio.read_audio(tmp_path / "a.wav")) == pytest.approx(audio.RATE, abs=400)
    (tmp_path / "b.wav").mkdir()
    with pytest.raises(audio.AudioError, match=r"b.wav: no plain file; check the path"):
        audio.read_audio(tmp_path / "b.wav")


@pytest.mark.parametrize("ending", ["raw", "vox", "gsm", "au", "pcm", ""])
def test_bytes_without_a_header_are_never_heard(tmp_path, ending):
    path = tmp_path / f"clip.{ending}"
    path.write_bytes(np.random.default_rng(0).bytes(3000))
    with pytest.raises(audio.AudioError, match=r"not readable as audio .*; convert it"):
        audio.read_audio(path)


def test_a_format_that_may_be_cut_off_unseen_is_refused(tmp_path):
    path = write(tmp_path / "clip.caf", tone(1.0))
    with pytest.raises(audio.AudioError, match="CAF may be cut off unseen; convert it"):
        audio.read_audio(path)


@pytest.mark.parametrize("peak", [10_879.0, 1e30, 2.5])
def test_numbers_on_another_scale_are_refused(tmp_path, peak):
    path = write(tmp_path / "clip.wav", tone(1.0) / 0.3 * peak, subtype="FLOAT")
    with pytest.raises(audio.AudioError, match=r"its peak is .* where full scale is 1; "):
        audio.read_audio(path)


def test_a_float_file_beyond_full_scale_is_turned_down_with_a_word(tmp_path):
    path = write(tmp_path / "clip.wav", tone(1.0) * 5, subtype="FLOAT")  # a peak of 1.5
    with pytest.warns(audio.DataWarning, match="turned down"):
        wave = audio.read_audio(path)
    np.testing.assert_allclose(wave, tone(1.0) / 0.3, atol=1e-3)


def test_the_overshoot_of_a_lossy_codec_is_turned_down(tmp_path):
    square = np.sign(tone(1.0))
    path = tmp_path / "clip.mp3"
    path.write_bytes(encode(square, "MP3"))
    assert np.abs(soundfile.read(path)[0]).max() > 1
    assert np.abs(audio.read_audio(path)).max() == 1


KINDS = {"wav": WAV, "flac": FLAC, "ogg": OGG, "opus": OPUS, "mp3": MP3, "aiff": AIFF}


@pytest.mark.parametrize("kind", KINDS)
def test_an_ordinary_file_is_read_to_the_bit_as_soundfile_reads_it(tmp_path, kind):
    path = tmp_path / f"clip.{kind}"
    path.write_bytes(KINDS[kind])
    theirs = soundfile.read(path, dtype="float32")[0]
    np.testing.assert_array_equal(audio.read_audio(path), theirs)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    kind=st.sampled_from(sorted(KINDS)),
    at=st.floats(0, 1, exclude_max=True),
    byte=st.integers(0, 255),
    cut=st.booleans(),
)
def test_a_file_with_any_fault_is_read_or_refused_in_one_sentence(kind, at, byte, cut):
    content = KINDS[kind]
    place = int(at**3 * len(content))  # headers more often than data
    broken = content[:place] if cut else put(content, place, bytes([byte]))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", audio.DataWarning)
        path = Path(folder) / f"clip.{kind}"
        path.write_bytes(broken)
        try:
            wave = audio.read_audio(path)
        except audio.AudioError as error:
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            assert np.abs(wave).max() <= 1


@pytest.mark.parametrize(("length", "seconds"), [(0.5, 1.0), (1.0, 1.0), (2.0, 1.0)])
def test_fit_crops_or_pads_to_the_sample(length, seconds):
    fitted = audio.crop_or_pad(tone(length), seconds)
    assert len(fitted) == seconds * audio.RATE
    kept = round(min(length, seconds) * audio.RATE)
    np.testing.assert_array_equal(fitted[:kept], tone(length)[:kept])
    assert not fitted[kept:].any()


@pytest.mark.parametrize("mels", [80, 128])
def test_log_mel_gives_a_hundred_frames_a_second(mels):
    spectrogram = audio.log_mel([tone(1.0), tone(5.0)], seconds=4.0, mels=mels)
    assert tuple(spectrogram.shape) == (2, mels, 4 * audio.MEL_FRAMES_PER_SECOND)


def test_log_mel_of_the_whole_thirty_seconds_is_whispers_own():
    from transformers import WhisperFeatureExtractor

    wave = tone(3.0)
    theirs = WhisperFeatureExtractor()(
        wave, sampling_rate=audio.RATE, return_tensors="pt"
    ).input_features
    assert (audio.log_mel([wave], 30.0) == theirs).all()


@pytest.mark.parametrize("seconds", [0.0, 0.033, 31.0])
def test_log_mel_refuses_what_is_no_number_of_encoder_frames(seconds):
    with pytest.raises(audio.AudioError, match=r"0\.02"):
        audio.log_mel([tone(1.0)], seconds)
