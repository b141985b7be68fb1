"""A profile is scored by the seconds that hold the evidence, against nulls that know nothing of the
clip.
"""

import numpy as np
import pandas as pd
import pytest

from desta_lab.analysis import evidence
from desta_lab.clips import Clip, Span

SECONDS, FRAMES = 4.0, 200


def clip(number: int = 0, **spans: tuple[float, float]) -> Clip:
    """A clip of speaker number // 4 with a scene from 1 to 2 s, speech from 0.5 to 3 s and two
    words in it.
    """
    places = {
        "scene:rain": (1.0, 2.0),
        "speech": (0.5, 3.0),
        "word:the": (0.5, 0.7),
        "word:carrots": (0.7, 1.2),
    }
    listed = tuple(Span(name, *place) for name, place in (places | spans).items())
    return Clip(
        f"c{number}", f"{number}.wav", SECONDS, "", f"s{number // 4}", {"scene": "rain"}, listed
    )


def on(*spans: Span) -> np.ndarray:
    """A profile that is 1 on these spans."""
    return evidence.inside_spans(spans, FRAMES, SECONDS).astype(float)


def names(some: Clip, attribute: str) -> list[str]:
    return [span.name for span in evidence.evidence_spans(some, attribute)]


# ---- where the evidence is ----


def test_the_scene_is_heard_in_its_window_and_the_voice_in_the_speech():
    assert names(clip(), "scene") == ["scene:rain"]
    assert all(
        names(clip(), attribute) == ["speech"]
        for attribute in ("gender", "accent", "rate", "loudness", "manner")
    )


def test_another_sound_beside_the_speech_is_heard_in_its_own_window(monkeypatch):
    monkeypatch.setitem(evidence.VOCABULARY, "door", evidence.VOCABULARY["scene"])
    spans = (Span("speech", 0.0, 1.0), Span("door:open", 2.0, 3.0))
    assert names(Clip("c", "c.wav", SECONDS, "", "s", {}, spans), "door") == ["door:open"]


def test_a_clip_without_the_evidence_is_refused_in_words():
    bare = Clip("c", "c.wav", SECONDS, "", "s", {}, (Span("speech", 0.0, 1.0),))
    with pytest.raises(ValueError, match=r"c: no span holds the scene \(spans: speech\); take"):
        evidence.evidence_spans(bare, "scene")


def test_a_span_shorter_than_a_frame_still_has_its_frame():
    assert evidence.inside_spans([Span("word:a", 1.02, 1.08)], 16, SECONDS).nonzero()[
        0
    ].tolist() == [4]
    assert evidence.inside_spans([Span("word:a", 3.99, 4.0)], 16, SECONDS).nonzero()[
        0
    ].tolist() == [15]


# ---- one profile ----


def test_a_profile_on_the_evidence_scores_one_and_one_beside_it_nothing():
    scene = Span("scene:rain", 1.0, 2.0)
    best, worst = (
        evidence.score_profile(profile, [scene], SECONDS) for profile in (on(scene), 1 - on(scene))
    )
    assert best == {"pointing": 1.0, "iou": 1.0, "mass": 1.0, "share": 0.25}
    assert worst == {"pointing": 0.0, "iou": 0.0, "mass": 0.0, "share": 0.25}


def test_half_the_evidence_scores_in_between():
    half = on(Span("scene:rain", 1.5, 2.5)) + np.linspace(0.2, 0.1, FRAMES)
    found = evidence.score_profile(half, [Span("scene:rain", 1.0, 2.0)], SECONDS)
    assert found["iou"] == pytest.approx(1 / 3)
    assert found["pointing"] == 1.0 and 0.25 < found["mass"] < 0.6


def test_what_speaks_against_the_answer_has_no_mass():
    scene = Span("scene:rain", 1.0, 2.0)
    assert evidence.score_profile(2 * on(scene) - 1, [scene], SECONDS)["mass"] == 1.0
    assert np.isnan(evidence.score_profile(-on(scene), [scene], SECONDS)["mass"])


def test_a_flat_profile_scores_what_random_frames_score():
    rng, scene = np.random.default_rng(0), [Span("scene:rain", 1.0, 2.5)]
    within = evidence.inside_spans(scene, 32, SECONDS)
    drawn = [rng.permutation(32) < within.sum() for _ in range(4000)]
    flat = evidence.score_profile(np.ones(32), scene, SECONDS)
    assert flat["pointing"] == flat["mass"] == flat["share"] == within.mean()
    assert flat["iou"] == pytest.approx(
        np.mean([(d & within).sum() / (d | within).sum() for d in drawn]), abs=0.01
    )


def test_equal_values_are_drawn_in_any_order():
    mixed = np.array(
        [3.0, 1.0, 1.0, 0.0]
    )  # two frames of evidence: the first is sure, one of two is drawn
    found = evidence.score_profile(mixed, [Span("speech", 0.0, 2.0)], SECONDS)
    assert found["iou"] == pytest.approx((1.0 + 1 / 3) / 2)


def test_a_profile_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="1 of 4 frames are no"):
        evidence.score_profile(
            np.array([0.0, np.nan, 1.0, 2.0]), [Span("speech", 0.0, 2.0)], SECONDS
        )


# ---- many profiles ----


def some_clips(count: int = 48) -> list[Clip]:
    """Scenes that begin anywhere and last 1 to 2 s, as the spoken world draws them."""
    rng = np.random.default_rng(0)
    lengths = rng.uniform(1.0, 2.0, count)
    starts = rng.uniform(0, SECONDS - lengths)
    return [
        clip(i, **{"scene:rain": (float(s), float(s + n))})
        for i, (s, n) in enumerate(zip(starts, lengths, strict=True))
    ]


def profiles(clips: list[Clip]) -> np.ndarray:
    return np.stack([on(*evidence.evidence_spans(one, "scene")) for one in clips])


def test_a_table_has_every_clip_under_every_null():
    clips = some_clips()
    table = evidence.score_profiles(profiles(clips), clips, "scene", SECONDS, "planted")
    assert list(table) == [
        "method",
        "attribute",
        "clip",
        "speaker",
        "null",
        *evidence.MEASURES,
        "share",
    ]
    assert table.groupby("clip")["null"].agg(list).map(tuple).unique().tolist() == [
        ("own", "shuffled", "uniform")
    ]
    means = table.groupby("null")[["pointing", "iou", "mass"]].mean()
    assert (means.loc["own"] == 1.0).all()
    assert (means.loc["shuffled"] < 0.7).all()
    flat = table[table["null"] == "uniform"]
    assert flat["pointing"].to_numpy() == pytest.approx(flat["share"].to_numpy())


def test_knowing_the_clip_is_a_gain_and_a_habit_of_looking_at_the_middle_is_none():
    clips = some_clips()
    middle = np.exp(-((np.linspace(-2, 2, FRAMES)) ** 2))
    for profile, knows in ((profiles(clips), True), (np.tile(middle, (len(clips), 1)), False)):
        found = evidence.summarise_scores(
            evidence.score_profiles(profile, clips, "scene", SECONDS, "m")
        ).set_index(["measure", "null"])
        own = found.loc[("iou", "own")]
        assert (
            own["value"] > found.loc[("iou", "uniform"), "value"] + 0.1
        )  # both beat a flat profile
        assert (own["gain_low"] > 0) == knows
        assert own["gain"] == pytest.approx(own["value"] - found.loc[("iou", "shuffled"), "value"])


def test_a_summary_has_intervals_over_speakers_and_a_gain_for_own_alone():
    clips = some_clips()
    noisy = profiles(clips) + np.random.default_rng(1).normal(0, 1.0, (len(clips), FRAMES))
    noisy[0] = -1.0  # nothing positive: no mass to speak of
    tables = [
        evidence.score_profiles(noisy, clips, "scene", SECONDS, method) for method in ("a", "b")
    ]
    found = evidence.summarise_scores(pd.concat(tables))
    assert list(found)[:4] == ["method", "attribute", "null", "measure"] and len(found) == 2 * 3 * 3
    assert (found["low"] <= found["value"]).all() and (found["value"] <= found["high"]).all()
    assert found["gain"].notna().equals(found["null"] == "own")
    assert np.isfinite(found[["value", "low", "high"]].to_numpy()).all()
