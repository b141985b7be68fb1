"""A probe finds what was planted, not what was not, and never recognises a voice by accident."""

import numpy as np
import pytest

from desta_lab.analysis import probes

RNG = np.random.default_rng(0)
SPEAKERS = [f"s{i // 8}" for i in range(160)]
LABELS = {
    "scene": [("rain", "siren")[i % 2] for i in range(160)],  # changes within a speaker
    "gender": [("female", "male")[(i // 8) % 2] for i in range(160)],  # belongs to the speaker
    "loudness": list(np.random.default_rng(5).choice(["low", "high"], 160)),
}


def planted(attribute: str, strength: float = 4.0, width: int = 32) -> np.ndarray:
    noise = np.random.default_rng(1).normal(size=(160, width))
    values = sorted(set(LABELS[attribute]))
    noise[:, 3] += strength * np.array([values.index(v) for v in LABELS[attribute]])
    return noise


def accuracy(table, attribute: str, kind: str = "probe") -> float:
    summary = probes.summarise_accuracy(table).set_index(["attribute", "kind"])
    return float(summary.loc[(attribute, kind), "accuracy"])


@pytest.mark.parametrize("attribute", ["scene", "gender"])
def test_a_probe_finds_the_planted_attribute_and_not_the_others(attribute):
    measured = probes.fit_probes(planted(attribute), LABELS, SPEAKERS)
    assert accuracy(measured, attribute) > 0.85
    for other in set(LABELS) - {attribute}:
        assert accuracy(measured, other) < 0.65, other


@pytest.mark.parametrize("kind", ["random labels", "majority"])
def test_both_baselines_stay_near_chance_where_the_signal_is_strong(kind):
    measured = probes.fit_probes(planted("scene", 10.0), LABELS, SPEAKERS)
    assert abs(accuracy(measured, "scene", kind) - 0.5) < 0.12


def test_voices_alone_are_not_read_as_labels():
    """Features that only tell who speaks: with shared speakers the probe 'reads' gender, by speaker
    it cannot.
    """
    voices = {name: np.random.default_rng(int(name[1:])).normal(size=32) for name in set(SPEAKERS)}
    features = np.stack([voices[s] for s in SPEAKERS]) + 0.1 * RNG.normal(size=(160, 32))
    labels = {"gender": LABELS["gender"]}
    honest = probes.fit_probes(features, labels, SPEAKERS)
    mixed = [(np.arange(0, 160, 2), np.arange(1, 160, 2))]
    leaky = probes.fit_probes(features, labels, SPEAKERS, mixed, force=True)
    assert accuracy(leaky, "gender") > 0.95
    assert accuracy(honest, "gender") < 0.75


def test_shared_speakers_are_an_error():
    with pytest.raises(probes.ProbeError, match=r"speakers are in training and test .*force=True"):
        probes.fit_probes(
            planted("scene"), LABELS, SPEAKERS, [(np.arange(0, 160, 2), np.arange(1, 160, 2))]
        )


def test_folds_part_speakers_and_test_every_clip_once():
    splits = probes.speaker_folds(SPEAKERS, LABELS["gender"])
    who = np.array(SPEAKERS)
    assert all(not set(who[a]) & set(who[b]) for a, b in splits)
    assert sorted(np.concatenate([b for _, b in splits])) == list(range(160))


def test_random_labels_of_a_speakers_attribute_stay_the_speakers():
    who = np.array(SPEAKERS)
    random = probes.draw_labels(np.array(LABELS["gender"]), who, seed=3)
    assert all(len(set(random[who == name])) == 1 for name in set(SPEAKERS))
    assert set(random) == set(LABELS["gender"])


def test_a_learning_curve_rises_with_clips():
    curve = probes.learning_curve(
        planted("scene", 2.0, 16), {"scene": LABELS["scene"]}, SPEAKERS, (8, 100)
    )
    few, many = curve.sort_values("clips")["accuracy"]
    assert many > few + 0.03


def test_the_same_call_gives_the_same_table():
    a, b = (probes.fit_probes(planted("scene"), LABELS, SPEAKERS) for _ in range(2))
    assert a.equals(b)


def test_the_null_of_random_labels_is_centred_at_chance():
    """Simulated: of probes on features that hold nothing, as many score above chance as below."""
    scores = []
    for seed in range(30):
        features = np.random.default_rng(seed).normal(size=(160, 24))
        labels = {name: LABELS[name] for name in ("scene", "gender")}
        measured = probes.fit_probes(features, labels, SPEAKERS, seed=100 * seed)
        scores += [accuracy(measured, name, "random labels") for name in labels]
    mean, error = np.mean(scores), np.std(scores) / len(scores) ** 0.5
    assert abs(mean - 0.5) < 3 * error < 0.03


def test_chance_is_the_share_of_the_most_frequent_value():
    labels = {"scene": ["rain"] * 120 + ["siren"] * 40}
    speakers = [f"s{i % 20}" for i in range(160)]
    measured = probes.fit_probes(planted("scene"), labels, speakers)
    assert set(measured["chance"]) == {0.75}
