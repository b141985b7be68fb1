"""Does a profile over time lie on the seconds that hold the evidence? One score for attention and for attribution."""

import functools
from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy.stats import hypergeom

from desta_lab.clips import Clip, Span
from desta_lab.evaluation import conditions, statistics
from desta_lab.world import sentences

MEASURES = ("pointing", "iou", "mass")


def evidence_spans(clip: Clip, attribute: str) -> list[Span]:
    """The spans of a clip in which an attribute can be heard.

    The scene is heard in its own window; the topic in the words that no other topic uses, or in all of the speech where
    it has none; every other attribute is in the voice, as long as it speaks. Raises ValueError where no span tells.
    """
    if attribute == "scene":
        found = [span for span in clip.spans if span.name.startswith("scene:")]
    else:
        telling = (
            _telling(clip.attributes.get("topic", "")) if attribute == "topic" else frozenset()
        )
        words = [span for span in clip.spans if span.name.removeprefix("word:") in telling]
        found = words or [span for span in clip.spans if span.name == "speech"]
    if not found:
        have = ", ".join(dict.fromkeys(span.name.split(":")[0] for span in clip.spans)) or "none"
        raise ValueError(
            f"{clip.id}: no span holds the {attribute} (spans: {have}); take a corpus with evidence spans."
        )
    return found


@functools.cache
def _telling(topic: str) -> frozenset[str]:
    """The words that the grammar of the spoken world uses for this topic and for no other."""
    used = {
        name: {word for part in parts.values() for phrase in part for word in phrase.split()}
        for name, parts in sentences.PHRASES.items()
    }
    anywhere = {
        word for phrase in (*sentences.SUBJECTS, *sentences.LINKS) for word in phrase.split()
    }
    return frozenset(
        used.get(topic, set()).difference(anywhere, *(used[name] for name in used if name != topic))
    )


def inside_spans(spans: Sequence[Span], frames: int, seconds: float) -> Bool[np.ndarray, "frame"]:
    """Which frames hold evidence: those whose middle lies in a span, and the one in which a span's own middle lies."""
    middles = (np.arange(frames) + 0.5) * seconds / frames
    within = np.zeros(frames, dtype=bool)
    for span in spans:
        within |= (span.start <= middles) & (middles < span.end)
        within[min(int((span.start + span.end) / 2 / seconds * frames), frames - 1)] = True
    return within


def score_profile(
    profile: Float[np.ndarray, "frame"], spans: Sequence[Span], seconds: float
) -> dict[str, float]:
    """How well a profile over `seconds` falls on the evidence; equal values count as drawn in any order.

    pointing: 1 if the highest frame lies in the evidence. iou: overlap over union of the evidence with as many highest
    frames. mass: share of the positive profile inside (NaN where nothing is positive). share: the evidence's share of
    the frames, which is the pointing and the mass of a flat profile.
    """
    if not np.isfinite(profile).all():
        raise ValueError(
            f"{int((~np.isfinite(profile)).sum())} of {len(profile)} frames are no numbers; drop the clip."
        )
    within, positive = inside_spans(spans, len(profile), seconds), profile.clip(min=0)
    return {
        "pointing": float(within[profile == profile.max()].mean()),
        "iou": _iou(profile, within),
        "mass": float(positive[within].sum() / positive.sum()) if positive.any() else float("nan"),
        "share": float(within.mean()),
    }


def _iou(profile: Float[np.ndarray, "frame"], within: Bool[np.ndarray, "frame"]) -> float:
    """Expected overlap over union of the evidence with as many top frames, over every order of equal values."""
    count = int(within.sum())
    threshold = np.sort(profile)[-count]
    sure, tied = profile > threshold, profile == threshold
    drawn = count - int(sure.sum())
    hits = np.arange(drawn + 1)
    chance = hypergeom(int(tied.sum()), int((tied & within).sum()), drawn).pmf(hits)
    both = int((sure & within).sum()) + hits
    return float(chance @ (both / (2 * count - both)))


def profile_scores(
    profiles: Float[np.ndarray, "clip frame"],
    clips: Sequence[Clip],
    attribute: str,
    seconds: float,
    method: str,
    seed: int = 0,
) -> pd.DataFrame:
    """Every profile against its own evidence and two nulls, one row a clip and null.

    `shuffled` scores the same profile against the evidence of another speaker's clip: the scene's window and the onset
    of the speech are drawn anew for every clip, so a habit of looking at the middle scores the same on both. `uniform`
    scores a flat profile.
    """
    rows = []
    for profile, clip, other in zip(
        profiles, clips, conditions.shuffled_partners(clips, seed), strict=True
    ):
        own, theirs = evidence_spans(clip, attribute), evidence_spans(clips[other], attribute)
        against = {
            "own": (profile, own),
            "shuffled": (profile, theirs),
            "uniform": (np.ones(len(profile)), own),
        }
        for null, (some, spans) in against.items():
            cell = {
                "method": method,
                "attribute": attribute,
                "clip": clip.id,
                "speaker": clip.speaker,
                "null": null,
            }
            rows.append(cell | score_profile(some, spans, seconds))
    return pd.DataFrame(rows)


def summarise_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean and 95 % interval over speakers per method, attribute, null and measure.

    Rows of `own` also have the `gain` over `shuffled`, paired clip by clip, with an interval of its own.
    """
    by, rows = ["method", "attribute"], []
    for measure in MEASURES:
        wide = (
            scores.set_index([*by, "clip", "speaker", "null"])[measure]
            .unstack("null")
            .reset_index()
        )
        gains = statistics.bootstrap_intervals(
            wide.assign(gain=wide["own"] - wide["shuffled"]), "gain", by
        )
        for (*cell, null), value in statistics.bootstrap_intervals(
            scores, measure, [*by, "null"]
        ).items():
            gain = gains[tuple(cell)] if null == "own" else (float("nan"),) * 3
            rows.append((*cell, null, measure, *value, *gain))
    names = [*by, "null", "measure", "value", "low", "high", "gain", "gain_low", "gain_high"]
    return pd.DataFrame(rows, columns=names)
