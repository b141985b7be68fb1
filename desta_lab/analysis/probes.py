"""Linear probes: what can be read off a site by someone who has never heard these speakers, and by chance."""

import warnings
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
DRAWS = 5  # shufflings of the labels whose mean is the random-label baseline
STRENGTHS = np.logspace(
    0, 6, 7
)  # ridge penalties the probe chooses from, by leave-one-out inside its training clips

Splits = Sequence[tuple[np.ndarray, np.ndarray]]  # (training rows, test rows)


class ProbeError(ValueError):
    """A probe that would measure something else than it says; the message names it."""


def speaker_folds(
    speakers: Sequence[str], strata: Sequence[Any], count: int = FOLDS, seed: int = 0
) -> Splits:
    """Cross-validation folds in which every speaker is on one side only, with the strata spread evenly."""
    made = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    with (
        warnings.catch_warnings()
    ):  # a class of one speaker cannot be in every fold: the probe will say what it costs
        warnings.simplefilter("ignore", UserWarning)
        return list(made.split(np.zeros(len(speakers)), strata, speakers))


def shuffle_labels(labels: np.ndarray, speakers: np.ndarray, seed: int) -> np.ndarray:
    """Random labels of the same kind: exchanged between speakers where they belong to the speaker, else clips."""
    rng = np.random.default_rng(seed)
    names, first, inverse = np.unique(speakers, return_index=True, return_inverse=True)
    if (labels == labels[first][inverse]).all():
        return labels[first][rng.permutation(len(names))][inverse]
    return rng.permutation(labels)


def fit_probes(
    features: Float[np.ndarray, "clip feature"],
    labels: Mapping[str, Sequence[str]],
    speakers: Sequence[str],
    splits: Splits | None = None,
    *,
    train_clips: int | None = None,
    force: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """Which clips of unseen speakers a linear probe gets right, per attribute, beside two baselines.

    A ridge classifier (convex; its penalty is chosen inside the training clips) on standardised features. Rows:
    attribute × kind × clip, with `correct` in 0 … 1; kind is `probe`, `random labels` (mean of several shufflings;
    probe minus this is the selectivity of Hewitt and Liang, 2019) or `majority`.

    Raises:
        ProbeError: a speaker is in training and test of one split (`force=True` measures the leak on purpose).
    """
    who = np.asarray(speakers)
    truth = {name: np.asarray(values) for name, values in labels.items()}
    splits = splits or speaker_folds(
        speakers, ["/".join(row) for row in zip(*_of_speakers(truth, who), strict=True)]
    )
    if not force:
        _check(who, splits)
    asked = {(name, "probe", 0): values for name, values in truth.items()}
    asked |= {
        (n, "random labels", d): shuffle_labels(v, who, seed + d)
        for n, v in truth.items()
        for d in range(DRAWS)
    }
    right = {key: np.full(len(who), np.nan) for key in asked}
    majority = {name: np.full(len(who), np.nan) for name in truth}
    for train, test in splits:
        if train_clips is not None:
            train = np.random.default_rng(seed).permutation(train)[:train_clips]
        for key, guess in _fit(features, asked, train, test).items():
            right[key][test] = guess == asked[key][test]
        for name, values in truth.items():
            kinds, counts = np.unique(values[train], return_counts=True)
            majority[name][test] = values[test] == kinds[counts.argmax()]
    rows = []
    for name in truth:
        random = np.mean([right[name, "random labels", d] for d in range(DRAWS)], axis=0)
        scored = {
            "probe": right[name, "probe", 0],
            "random labels": random,
            "majority": majority[name],
        }
        for kind, correct in scored.items():
            rows.append(
                pd.DataFrame(
                    {
                        "attribute": name,
                        "kind": kind,
                        "row": np.arange(len(who)),
                        "speaker": who,
                        "correct": correct,
                        "chance": 1 / len(set(truth[name])),
                    }
                )
            )
    return pd.concat(rows, ignore_index=True).dropna(subset=["correct"])


def summarise_accuracy(
    correct: pd.DataFrame, by: Sequence[str] = ("attribute", "kind")
) -> pd.DataFrame:
    """Accuracy with its 95 % interval (bootstrap over speakers) of every group."""
    chance = correct.groupby(list(by))["chance"].first().reset_index()
    return interval_table(correct, "correct", by, "accuracy").merge(chance, on=list(by))


def learning_curve(
    features: Float[np.ndarray, "clip feature"],
    labels: Mapping[str, Sequence[str]],
    speakers: Sequence[str],
    sizes: Iterable[int],
    seed: int = 0,
) -> pd.DataFrame:
    """Accuracy of the probe by how many clips it was fitted to."""
    tables = []
    for size in sizes:
        measured = fit_probes(features, labels, speakers, train_clips=size, seed=seed)
        tables.append(summarise_accuracy(measured[measured["kind"] == "probe"]).assign(clips=size))
    return pd.concat(tables, ignore_index=True)


def _fit(
    features: np.ndarray, asked: Mapping[Any, np.ndarray], train: np.ndarray, test: np.ndarray
) -> dict[Any, Any]:
    """The guesses for every labelling, from one ridge regression onto all their indicators at once."""
    kinds = {key: np.unique(values[train]) for key, values in asked.items()}
    indicators = np.hstack(
        [(asked[key][train][:, None] == kind) * 2.0 - 1 for key, kind in kinds.items()]
    )
    ridge = make_pipeline(StandardScaler(), RidgeCV(STRENGTHS, alpha_per_target=True))
    said = ridge.fit(features[train], indicators).predict(features[test])
    edges = np.cumsum([len(kind) for kind in kinds.values()])[:-1]
    return {
        key: kind[part.argmax(1)]
        for (key, kind), part in zip(kinds.items(), np.split(said, edges, 1), strict=True)
    }


def _of_speakers(labels: Mapping[str, np.ndarray], speakers: np.ndarray) -> list[np.ndarray]:
    """The attributes that belong to the speaker: folds keep their balance."""
    _, first, inverse = np.unique(speakers, return_index=True, return_inverse=True)
    own = [values for values in labels.values() if (values == values[first][inverse]).all()]
    return own or [np.full(len(speakers), "")]


def _check(speakers: np.ndarray, splits: Splits) -> None:
    for train, test in splits:
        both = sorted(set(speakers[train]) & set(speakers[test]))
        if both:
            raise ProbeError(
                f"{len(both)} speakers are in training and test ({', '.join(map(str, both[:3]))} …): such a probe "
                "recognises voices. Use `folds`, or force=True to show the leak."
            )
