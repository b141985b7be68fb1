"""Whispers have no pitch, women speak higher than men, and no clip depends on the last."""

import tempfile
import threading

import numpy as np
import pytest

from desta_lab import audio
from desta_lab.world.attributes import ATTRIBUTES
from desta_lab.world.voices import (
    Synthesiser,
    VoiceError,
    get_synthesiser,
    list_speakers,
    whisper_filter,
)
from tests import faults


def periodicity(wave) -> float:
    """The highest autocorrelation between 60 and 400 Hz, averaged over the louder 40 ms frames."""
    frames = wave[: len(wave) // 640 * 640].reshape(-1, 640)
    frames = frames[frames.std(1) > np.median(frames.std(1))]
    frames = frames - frames.mean(1, keepdims=True)
    power = np.abs(np.fft.rfft(frames, 2048)) ** 2
    correlation = np.fft.irfft(power)
    return float((correlation[:, 40:267].max(1) / correlation[:, 0]).mean())


def test_a_whisper_has_no_pitch_and_speech_has_one():
    for speaker in ("female_01", "male_01"):
        said = (
            get_synthesiser()
            .speak("My brother cooked the largest turkey for dinner.", speaker, "American")
            .wave
        )
        whispered = whisper_filter(said, np.random.default_rng(0))
        assert periodicity(said) > 0.6
        assert periodicity(whispered) < 0.4
        assert len(whispered) == len(said)


def test_a_whisper_keeps_the_shape_of_the_tract():
    """Band by band, the power of a vowel and its whisper rise and fall together."""
    said = get_synthesiser().speak("Arthur won.", "male_02", "American").wave
    whispered = whisper_filter(said, np.random.default_rng(0))
    bands = [
        np.log(np.abs(np.fft.rfft(wave)) ** 2 + 1e-9)[: len(wave) // 4 // 24 * 24]
        .reshape(24, -1)
        .mean(1)
        for wave in (np.diff(said), whispered)
    ]
    assert np.corrcoef(*bands)[0, 1] > 0.8


def test_women_speak_higher_than_men():
    def pitch(name):
        wave = get_synthesiser().speak("Our neighbour won.", name, "American").wave
        frames = wave[: len(wave) // 640 * 640].reshape(-1, 640)
        frames = frames[frames.std(1) > np.median(frames.std(1))]
        correlation = np.fft.irfft(np.abs(np.fft.rfft(frames, 2048)) ** 2)
        return float(np.median(audio.RATE / (40 + correlation[:, 40:267].argmax(1))))

    pitches = {speaker.name: pitch(speaker.name) for speaker in list_speakers()[::8]}
    women = [value for name, value in pitches.items() if name.startswith("female")]
    men = [value for name, value in pitches.items() if name.startswith("male")]
    assert min(women) > max(men)


def test_accents_pronounce_the_same_words_differently():
    waves = [
        get_synthesiser().speak("Her brother won.", "male_01", accent).wave
        for accent in ATTRIBUTES["accent"]
    ]
    assert len({wave.tobytes() for wave in waves}) == 3


def test_what_was_spoken_before_changes_nothing():
    first = get_synthesiser().speak("The mayor won.", "male_03", "Scottish").wave
    get_synthesiser().speak("A quiet stranger lost the race.", "female_03", "Caribbean")
    np.testing.assert_array_equal(
        get_synthesiser().speak("The mayor won.", "male_03", "Scottish").wave, first
    )


def test_threads_may_share_the_synthesiser():
    jobs = [("The mayor won.", f"male_{number:02d}", "American") for number in range(1, 9)]
    alone = [get_synthesiser().speak(*job).wave for job in jobs]
    together = {}
    threads = [
        threading.Thread(
            target=lambda j=job: together.update({j: get_synthesiser().speak(*j).wave})
        )
        for job in jobs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((together[job] == wave).all() for job, wave in zip(jobs, alone, strict=True))


def test_a_temporary_folder_on_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with faults.room_for(2000), pytest.raises(OSError, match=f"^{tmp_path}.* free some space"):
        Synthesiser()


def test_an_unknown_speaker_is_refused():
    with pytest.raises(VoiceError, match="female_01"):
        get_synthesiser().speak("Hello.", "robot", "American")
