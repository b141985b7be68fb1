"""Evidence: how well a profile over time falls on the seconds that hold an attribute."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy.stats import hypergeom

from desta_lab.clips import Clip, Span
from desta_lab.evaluation import conditions
from desta_lab.evaluation.statistics import interval_table
from desta_lab.world.attributes import VOCABULARY

MEASURES = ("pointing", "iou", "mass")
MOST = 0.7  # of a clip that evidence fills; beyond it, nearly every profile falls on it
FRAMES = 1000  # in which that share is counted

# ---- where the evidence is ----


def evidence_spans(clip: Clip, attribute: str) -> list[Span]:
    """The spans of a clip in which an attribute can be heard.

    A sound beside the speech, such as the scene, is heard in its own window; every other attribute
    in all of the speech.

    Raises:
        ValueError: the clip has no such span.
    """
    beside = attribute in VOCABULARY and VOCABULARY[attribute].beside
    kind = attribute if beside else "speech"
    found = [span for span in clip.spans if span.name.split(":")[0] == kind]
    if not found:
        kinds = ", ".join(dict.fromkeys(span.name.split(":")[0] for span in clip.spans))
        raise ValueError(
            f"{clip.id}: no span holds the {attribute} (spans: {kinds or 'none'});"
            " take a corpus with evidence spans."
        )
    return found


def inside_spans(spans: Sequence[Span], frames: int, seconds: float) -> Bool[np.ndarray, "frame"]:
    """Which frames hold evidence: their middle lies in a span, or a span's middle in them."""
    middles = (np.arange(frames) + 0.5) * seconds / frames
    inside = np.zeros(frames, dtype=bool)
    for span in spans:
        inside |= (span.start <= middles) & (middles < span.end)
        inside[min(int((span.start + span.end) / 2 / seconds * frames), frames - 1)] = True
    return inside


def leaves_room(clip: Clip, attribute: str, seconds: float) -> bool:
    """Whether evidence fills at most `MOST` of a clip: only then can a profile miss it."""
    inside = inside_spans(evidence_spans(clip, attribute), FRAMES, seconds)
    return bool(inside.mean() <= MOST)


# ---- one profile ----


def score_profile(
    profile: Float[np.ndarray, "frame"], spans: Sequence[Span], seconds: float
) -> dict[str, float]:
    """How well a profile over `seconds` falls on the evidence; ties are broken in every order.

    pointing: 1 if the highest frame lies in the evidence. iou: overlap over union of the evidence
    with as many highest frames. mass: share of the positive profile that lies inside (NaN where
    nothing is positive). share: the evidence's share of the frames, which is the pointing and the
    mass of a flat profile.
    """
    if not np.isfinite(profile).all():
        count = int((~np.isfinite(profile)).sum())
        raise ValueError(f"{count} of {len(profile)} frames are no numbers; drop the clip.")
    inside, positive = inside_spans(spans, len(profile), seconds), profile.clip(min=0)
    mass = float(positive[inside].sum() / positive.sum()) if positive.any() else float("nan")
    return {
        "pointing": points_at(profile, inside),
        "iou": _expected_iou(profile, inside),
        "mass": mass,
        "share": float(inside.mean()),
    }


def points_at(profile: Float[np.ndarray, "frame"], inside: Bool[np.ndarray, "frame"]) -> float:
    """1 if the highest frame lies in the evidence; of several, the share that does."""
    return float(inside[profile == profile.max()].mean())


def _expected_iou(profile: Float[np.ndarray, "frame"], inside: Bool[np.ndarray, "frame"]) -> float:
    """Overlap over union of the evidence with as many top frames; the mean over orders of ties."""
    count = int(inside.sum())
    threshold = np.sort(profile)[-count]
    above, tied = profile > threshold, profile == threshold
    drawn = count - int(above.sum())
    hits = np.arange(drawn + 1)
    probability = hypergeom(int(tied.sum()), int((tied & inside).sum()), drawn).pmf(hits)
    overlap = int((above & inside).sum()) + hits
    return float(probability @ (overlap / (2 * count - overlap)))


# ---- many profiles ----


def score_profiles(
    profiles: Float[np.ndarray, "clip frame"],
    clips: Sequence[Clip],
    attribute: str,
    seconds: float,
    method: str,
) -> pd.DataFrame:
    """Every profile against its own evidence and two nulls, one row a clip and null.

    `shuffled` scores the same profile against the evidence of another speaker's clip. The scene's
    window and the onset of speech differ from clip to clip, so a habit of looking at the middle
    scores the same on both. `uniform` scores a flat profile.
    """
    partners = conditions.shuffled_partners(clips)
    rows = []
    for profile, clip, partner in zip(profiles, clips, partners, strict=True):
        own = evidence_spans(clip, attribute)
        nulls = {
            "own": (profile, own),
            "shuffled": (profile, evidence_spans(clips[partner], attribute)),
            "uniform": (np.ones(len(profile)), own),
        }
        cell = {"method": method, "attribute": attribute, "clip": clip.id, "speaker": clip.speaker}
        for null, (values, spans) in nulls.items():
            rows.append({**cell, "null": null, **score_profile(values, spans, seconds)})
    return pd.DataFrame(rows)


def summarise_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean and 95 % interval over speakers per method, attribute, null and measure.

    Rows of `own` also have the `gain` over `shuffled`, paired clip by clip, with an interval of its
    own, and the number of `clips`.
    """
    by = ["method", "attribute"]
    tables = []
    for measure in MEASURES:
        wide = scores.pivot(index=[*by, "clip", "speaker"], columns="null", values=measure)
        paired = (wide["own"] - wide["shuffled"]).rename("gain").reset_index()
        gains = interval_table(paired, "gain", by, "gain", "gain_")
        gains = gains.merge(paired.groupby(by).size().rename("clips").reset_index(), on=by)
        means = interval_table(scores, measure, [*by, "null"])
        means.insert(3, "measure", measure)
        tables.append(means.merge(gains.assign(null="own"), on=[*by, "null"], how="left"))
    return pd.concat(tables, ignore_index=True)
