"""Scenes are heard where and as loud as they should be, and sound like their names."""

import numpy as np
import pytest

from desta_lab.audio import RATE
from desta_lab.world import scenes


def spectrum(wave) -> tuple[np.ndarray, np.ndarray]:
    power = np.abs(np.fft.rfft(wave)) ** 2
    return np.fft.rfftfreq(len(wave), 1 / RATE), power / power.sum()


@pytest.mark.parametrize("value", scenes.SCENES)
def test_a_scene_is_its_seed(value):
    one, same, other = (
        scenes.render_scene(value, 2.0, np.random.default_rng(seed)) for seed in (0, 0, 1)
    )
    assert len(one) == 2 * RATE
    assert np.isfinite(one).all()
    np.testing.assert_array_equal(one, same)
    assert np.abs(np.corrcoef(one, other)[0, 1]) < 0.5


def test_rain_is_broadband_and_the_others_are_tonal():
    flatness = {}
    for value in scenes.SCENES:
        waves = [scenes.render_scene(value, 2.0, np.random.default_rng(seed)) for seed in range(5)]
        frames = np.concatenate([wave.reshape(-1, 800) for wave in waves]) * np.hanning(800)
        frames = frames[frames.std(1) > 1e-3]
        power = np.abs(np.fft.rfft(frames)) ** 2 + 1e-12
        flatness[value] = float(np.mean(np.exp(np.log(power).mean(1)) / power.mean(1)))
    assert all(flatness["rain"] > 5 * flatness[value] for value in ("siren", "birds", "music"))


def test_birds_sing_between_two_and_six_kilohertz():
    for seed in range(5):
        frequency, power = spectrum(scenes.render_scene("birds", 2.0, np.random.default_rng(seed)))
        assert power[(frequency > 1800) & (frequency < 6500)].sum() > 0.9


def test_a_siren_moves_between_two_pitches():
    for seed in range(5):
        wave = scenes.render_scene("siren", 3.0, np.random.default_rng(seed))
        frames = wave.reshape(-1, 800) * np.hanning(800)
        peaks = np.abs(np.fft.rfft(frames, 4000))[:, 100:400].argmax(1) * 4 + 400
        assert peaks.min() < 800
        assert peaks.max() > 1.15 * peaks.min()


@pytest.mark.parametrize("level", [-60.0, -20.0, -3.0])
def test_levels_are_set_to_the_decibel(level):
    wave = np.random.default_rng(0).standard_normal(1000)
    assert abs(scenes.measure_level(scenes.set_level(wave, level)) - level) < 1e-3


def test_loudness_knows_full_scale_and_silence():
    assert scenes.measure_level(np.ones(10)) == 0
    assert scenes.measure_level(np.zeros(10)) == -200


def test_a_mix_leaves_the_speech_alone_outside_the_window():
    rng = np.random.default_rng(0)
    speech, scene = rng.standard_normal(4 * RATE), rng.standard_normal(2 * RATE)
    mixed = scenes.mix_scene(speech, scene, 10.0, (1.0, 3.0))
    added = mixed - speech.astype(np.float32)
    assert not added[:RATE].any()
    assert not added[3 * RATE :].any()
    assert (
        abs(
            scenes.measure_level(added[round(1.5 * RATE) : round(2.5 * RATE)])
            - scenes.measure_level(speech)
            + 10
        )
        < 0.3
    )
    assert np.abs(added[RATE : RATE + 10]).max() < 1e-3, "the scene fades in"


@pytest.mark.parametrize("window", [(-0.1, 1.0), (0.5, 0.5), (0.5, 1.5)])
def test_a_window_outside_the_speech_is_refused(window):
    with pytest.raises(ValueError, match="choose it inside"):
        scenes.mix_scene(np.ones(RATE), np.ones(2 * RATE), 10.0, window)


def test_a_scene_shorter_than_its_window_is_refused():
    with pytest.raises(ValueError, match="render a longer one"):
        scenes.mix_scene(np.ones(2 * RATE), np.ones(RATE), 10.0, (0.0, 1.5))
