"""Audio is read as one channel at one rate, or refused in one sentence that names the file and the
remedy.
"""

import numpy as np
import pytest
import soundfile

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
    yield write(folder / "long.wav", tone(31.0)), "max_seconds"


def test_every_broken_file_is_refused_with_its_name_and_a_remedy(tmp_path):
    for path, word in broken_files(tmp_path):
        with pytest.raises(audio.AudioError, match=word) as caught:
            audio.read_audio(path)
        assert str(path) in str(caught.value), path.name
        assert "\n" not in str(caught.value)
        assert ";" in str(caught.value), "the remedy follows the semicolon"


def test_a_ten_hour_file_is_refused_by_its_header_alone(tmp_path, monkeypatch):
    path = tmp_path / "night.flac"
    with soundfile.SoundFile(
        str(path), "w", 1000, 1, format="FLAC"
    ) as file:  # 36 M samples would be 16 times as many
        for _ in range(36):
            file.write(np.zeros(1_000_000, np.int16))
    monkeypatch.setattr(soundfile, "read", lambda *_, **__: pytest.fail("the samples were loaded"))
    with pytest.raises(audio.AudioError, match=r"36000.0 s is longer than the limit of 30 s"):
        audio.read_audio(path)


def test_a_longer_limit_lets_a_longer_file_in(tmp_path):
    path = write(tmp_path / "long.wav", tone(31.0))
    assert len(audio.read_audio(path, max_seconds=40.0)) == 31 * audio.RATE


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
