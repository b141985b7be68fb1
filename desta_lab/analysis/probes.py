"""Linear probes: how well each attribute can be read from a site, for unseen speakers."""

import itertools
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from desta_lab.evaluation.statistics import interval_table

FOLDS = 4
DRAWS = 5  # of random labels; their mean is the baseline
# ridge penalties among which leave-one-out inside the training clips chooses
PENALTIES = np.logspace(0, 6, 7)

Labelling = tuple[str, str, int]  # (attribute, kind, number of the draw)
Splits = Sequence[tuple[np.ndarray, np.ndarray]]  # (training rows, test rows)


class ProbeError(ValueError):
    """A probe that would not measure what it claims to; the message says why."""


# ---- splits and labels ----


def speaker_folds(speakers: Sequence[str], strata: Sequence[Any], count: int = FOLDS) -> Splits:
    """Cross-validation folds with no speaker on both sides, and the strata spread evenly.

    Strata of which none is as large as the number of folds cannot be spread and are not.

    Raises:
        ProbeError: there are fewer speakers than folds.
    """
    if (heard := len(set(speakers))) < count:
        raise ProbeError(
            f"{len(speakers)} clips of {heard} speakers are too few for {count} folds without a "
            f"speaker on both sides; give clips of {count} speakers or more."
        )
    if max(Counter(strata).values()) < count:
        strata = [""] * len(speakers)
    folds = StratifiedGroupKFold(count, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        # a class of one speaker cannot be in every fold: the probe's accuracy shows what that costs
        warnings.simplefilter("ignore", UserWarning)
        return list(folds.split(np.zeros(len(speakers)), strata, speakers))


def label_units(labels: np.ndarray, speakers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a label belongs to: a row of each unit, and the unit of every row.

    Units are the speakers, where all clips of a speaker have the same label, and else the clips.
    """
    _, first, speaker = np.unique(speakers, return_index=True, return_inverse=True)
    if (labels == labels[first][speaker]).all():
        return first, speaker
    return np.arange(len(labels)), np.arange(len(labels))


def draw_labels(labels: np.ndarray, speakers: np.ndarray, seed: int) -> np.ndarray:
    """Random labels of the same kind, drawn once for each unit at the frequencies of the true ones.

    Labels that were permuted instead would be a null below chance: what is frequent among the clips
    of training is then rare among the others.
    """
    rows, unit = label_units(labels, speakers)
    return np.random.default_rng(seed).choice(labels[rows], len(rows))[unit]


# ---- probes ----


def fit_probes(
    features: Float[np.ndarray, "clip feature"],
    labels: Mapping[str, Sequence[str]],
    speakers: Sequence[str],
    splits: Splits | None = None,
    *,
    train_clips: int | None = None,
    force: bool = False,
    draws: int = DRAWS,
    seed: int = 0,
) -> pd.DataFrame:
    """Which clips of unseen speakers a linear probe classifies correctly, beside two baselines.

    A ridge classifier on standardised features; its penalty is chosen inside the training clips.
    One row per attribute × kind × clip, with `correct` in 0 … 1. Kinds: `probe`; `random labels`,
    the mean over several draws (probe minus this is the selectivity of Hewitt and Liang, 2019);
    `majority`.

    Args:
        train_clips: how many clips of each fold's training part are used; by default all.
        draws: of random labels.

    Raises:
        ProbeError: a speaker is in training and test of one split (`force=True` measures the leak
            on purpose), or there are fewer speakers than folds.
    """
    who = np.asarray(speakers)
    truth = {name: np.asarray(values) for name, values in labels.items()}
    if splits is None:
        splits = speaker_folds(speakers, _speaker_strata(truth, who))
    if not force:
        _check_speakers(who, splits)
    labellings = {(name, "probe", 0): values for name, values in truth.items()}
    for name, draw in itertools.product(truth, range(draws)):
        labellings[name, "random labels", draw] = draw_labels(truth[name], who, seed + draw)
    correct: dict[Labelling, np.ndarray] = defaultdict(lambda: np.full(len(who), np.nan))
    for train, test in splits:
        if train_clips is not None:
            train = np.random.default_rng(seed).permutation(train)[:train_clips]
        for key, predicted in _predict(features, labellings, train, test).items():
            correct[key][test] = predicted == labellings[key][test]
        for name, values in truth.items():
            classes, counts = np.unique(values[train], return_counts=True)
            correct[name, "majority", 0][test] = classes[counts.argmax()] == values[test]
    tables = []
    for name, values in truth.items():
        chance = max(Counter(values).values()) / len(values)  # of the most frequent value
        about = {"row": np.arange(len(who)), "speaker": who}
        for kind in ("probe", "random labels", "majority"):
            hits = np.mean([hit for key, hit in correct.items() if key[:2] == (name, kind)], axis=0)
            cell = {"attribute": name, "kind": kind, **about}
            tables.append(pd.DataFrame({**cell, "correct": hits, "chance": chance}))
    return pd.concat(tables, ignore_index=True).dropna(subset=["correct"])


def _predict(
    features: np.ndarray,
    labellings: Mapping[Labelling, np.ndarray],
    train: np.ndarray,
    test: np.ndarray,
) -> dict[Labelling, Any]:
    """Predict the test rows' labels by one ridge regression onto all labellings' indicators."""
    classes = {key: np.unique(values[train]) for key, values in labellings.items()}
    indicators = np.hstack(
        [(labellings[key][train][:, None] == names) * 2.0 - 1 for key, names in classes.items()]
    )
    ridge = make_pipeline(StandardScaler(), RidgeCV(PENALTIES, alpha_per_target=True))
    predicted = ridge.fit(features[train], indicators).predict(features[test])
    edges = np.cumsum([len(names) for names in classes.values()])[:-1]
    parts = zip(classes.items(), np.split(predicted, edges, 1), strict=True)
    return {key: names[part.argmax(1)] for (key, names), part in parts}


def _speaker_strata(labels: Mapping[str, np.ndarray], speakers: np.ndarray) -> list[str]:
    """The attributes of every clip that belong to its speaker: folds keep their balance."""
    _, first, speaker = np.unique(speakers, return_index=True, return_inverse=True)
    own = [values for values in labels.values() if (values == values[first][speaker]).all()]
    return ["/".join(row) for row in zip(*own, strict=True)] if own else [""] * len(speakers)


def _check_speakers(speakers: np.ndarray, splits: Splits) -> None:
    for train, test in splits:
        if both := sorted(set(speakers[train]) & set(speakers[test])):
            raise ProbeError(
                f"{len(both)} speakers are in training and test ({', '.join(map(str, both[:3]))} "
                "…): such a probe recognises voices. Use `speaker_folds`, or force=True to show "
                "the leak."
            )


# ---- summaries ----


def summarise_accuracy(
    correct: pd.DataFrame, by: Sequence[str] = ("attribute", "kind")
) -> pd.DataFrame:
    """Accuracy and chance of every group, with the 95 % interval over speakers."""
    chance = correct.groupby(list(by))["chance"].first().reset_index()
    return interval_table(correct, "correct", by, "accuracy").merge(chance, on=list(by))


def learning_curve(
    features: Float[np.ndarray, "clip feature"],
    labels: Mapping[str, Sequence[str]],
    speakers: Sequence[str],
    sizes: Iterable[int],
    kind: str = "probe",
) -> pd.DataFrame:
    """Accuracy of the probe, or of a baseline, against the number of clips it was fitted to."""
    tables = []
    for size in sizes:
        measured = fit_probes(features, labels, speakers, train_clips=size)
        tables.append(summarise_accuracy(measured[measured["kind"] == kind]).assign(clips=size))
    return pd.concat(tables, ignore_index=True)
