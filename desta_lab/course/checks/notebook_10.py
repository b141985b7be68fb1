"""Checks of notebook 10: a grid of runs, a paired difference, a flattering one, and a split by speaker."""

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from desta_lab.course.checks import Wrong, check


def _runs(fields: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [
        dict(zip(fields, values, strict=True)) for values in itertools.product(*fields.values())
    ]


def _named(
    rows: Sequence[Mapping[str, Any]], name: Callable[[Mapping[str, Any]], str]
) -> dict[str, dict[str, Any]]:
    return {hashlib.sha256(name(row).encode()).hexdigest()[:12]: dict(row) for row in rows}


def _sorted(row: Mapping[str, Any]) -> str:
    return json.dumps(row, sort_keys=True)


@check(
    wrong={
        "the seed is left out of the key": lambda fields: _named(
            _runs(fields), lambda row: _sorted({k: v for k, v in row.items() if k != "seed"})
        ),
        "the order of keys matters": lambda fields: _named(_runs(fields), json.dumps),
        "values are paired off, not crossed": lambda fields: _named(
            [
                dict(zip(fields, values, strict=False))
                for values in zip(*fields.values(), strict=False)
            ],
            _sorted,
        ),
        "the key is a running number": lambda fields: {
            str(i): row for i, row in enumerate(_runs(fields))
        },
    }
)
def grid(answer: Callable[[Mapping[str, Sequence[Any]]], Mapping[str, Mapping[str, Any]]]) -> None:
    """Every combination of the values of some fields, under a key that depends on the combination alone."""
    fields: dict[str, list[Any]] = {"pool": [1, 2, 4], "anchored": [True, False], "seed": [0, 1]}
    got = answer(fields)
    seeds = [row["seed"] for row in got.values()]
    if len(got) == 6 and len(set(seeds)) == 1:
        raise Wrong(
            "6 runs of 12 are left, all of one seed: the seed is left out of the key, and one overwrites another."
        )
    if len(got) < 12:
        raise Wrong(
            f"3 × 2 × 2 settings are 12 runs, not {len(got)}: values are paired off, not crossed."
        )
    if sorted(map(_sorted, got.values())) != sorted(map(_sorted, _runs(fields))):
        raise Wrong(
            "Each run should be a dict from field to value, and every combination should occur once."
        )
    turned = answer({name: fields[name] for name in reversed(fields)})
    fewer = answer({**fields, "pool": [4]})
    known = {_sorted(row): key for key, row in got.items()}
    if set(got) == set(turned) and any(known[_sorted(row)] != key for key, row in fewer.items()):
        raise Wrong(
            "With fewer values the same run gets another key: the key is a running number. Hash the settings."
        )
    if any(known[_sorted(row)] != key for key, row in turned.items()):
        raise Wrong(
            "The same run has another key when the fields come in another order: the order of keys matters."
        )


def _interval(differences: np.ndarray, error: float, reach: float) -> tuple[float, float, float]:
    middle = float(np.mean(differences))
    return middle, middle - reach * error, middle + reach * error


def _paired(ours: Any, theirs: Any) -> tuple[float, float, float]:
    d = np.subtract(ours, theirs)
    return _interval(d, float(stats.sem(d)), float(stats.t.ppf(0.975, len(d) - 1)))


def _unpaired(ours: Any, theirs: Any) -> tuple[float, float, float]:
    error = float(np.sqrt(stats.sem(ours) ** 2 + stats.sem(theirs) ** 2))
    return _interval(np.subtract(ours, theirs), error, float(stats.t.ppf(0.975, 2 * len(ours) - 2)))


def _deviation(ours: Any, theirs: Any) -> tuple[float, float, float]:
    d = np.subtract(ours, theirs)
    return _interval(d, float(np.std(d, ddof=1)), float(stats.t.ppf(0.975, len(d) - 1)))


def _normal(ours: Any, theirs: Any) -> tuple[float, float, float]:
    d = np.subtract(ours, theirs)
    return _interval(d, float(stats.sem(d)), 1.96)


@check(
    wrong={
        "unpaired": _unpaired,
        "the standard deviation for the standard error": _deviation,
        "1.96 for a handful of seeds": _normal,
        "the best seed was picked": lambda ours, theirs: (
            max(ours) - max(theirs),
            *_paired(ours, theirs)[1:],
        ),
    }
)
def paired_difference(answer: Callable[[Any, Any], Sequence[float]]) -> None:
    """Mean difference of two settings over seeds, with its 95 % interval."""
    theirs = np.array([0.30, 0.55, 0.42, 0.71])  # the seeds differ much more than the settings do
    ours = theirs + np.array([0.10, 0.06, 0.12, 0.08])
    right = _paired(ours, theirs)
    got = tuple(map(float, answer(ours, theirs)))
    if len(got) != 3:
        raise Wrong(
            f"Three numbers are asked for, the mean and both ends of its interval; you give {len(got)}."
        )
    if not np.isclose(got[0], right[0]):
        raise Wrong(
            f"The mean difference is {right[0]:.3f}, not {got[0]:.3f}: the best seed was picked, or a sign turned."
        )
    if np.allclose(got, _deviation(ours, theirs)):
        raise Wrong(
            "Twice too wide for four seeds: the standard deviation for the standard error. Divide by √4."
        )
    if np.allclose(got, _normal(ours, theirs), atol=1e-4):
        raise Wrong(
            "Too narrow: 1.96 for a handful of seeds. With n seeds take Student's t with n − 1 degrees of freedom."
        )
    if got[2] - got[1] > 2 * (right[2] - right[1]):
        raise Wrong(
            "So wide that nothing could be seen: unpaired. Take the difference seed by seed first."
        )
    if not np.allclose(got, right, atol=1e-4):
        raise Wrong(
            f"The interval should be [{right[1]:.3f}, {right[2]:.3f}]; yours is [{got[1]:.3f}, {got[2]:.3f}]."
        )


@check(
    wrong={
        "this is the honest difference": lambda ours, theirs: np.mean(ours) - np.mean(theirs),
        "it flatters the other setting": lambda ours, theirs: np.min(ours) - np.max(theirs),
        "it only picks one side": lambda ours, theirs: np.max(ours) - np.mean(theirs),
    }
)
def flattering(answer: Callable[[Sequence[float], Sequence[float]], float]) -> None:
    """The largest difference in our favour that choosing among seeds can make."""
    ours, theirs = [0.2, 0.5, 0.35], [0.3, 0.6, 0.4]
    got = float(answer(ours, theirs))
    for said, mistake in (
        (np.mean(ours) - np.mean(theirs), "Nothing was chosen: this is the honest difference."),
        (
            np.min(ours) - np.max(theirs),
            "Your worst against their best: it flatters the other setting.",
        ),
        (
            np.max(ours) - np.mean(theirs),
            "Your best against their mean: it only picks one side. More can be had.",
        ),
    ):
        if np.isclose(got, said):
            raise Wrong(mistake)
    if not np.isclose(got, 0.2):
        raise Wrong(f"From these seeds a difference of +0.2 can be made; you make {got:+.2f}.")


def _by_row(speakers: Sequence[str], share: float) -> tuple[list[int], list[int]]:
    cut = round(share * len(speakers))
    return list(range(cut)), list(range(cut, len(speakers)))


def _by_speaker(speakers: Sequence[str], share: float, least: int) -> tuple[list[int], list[int]]:
    people = sorted(set(speakers))
    first = set(people[: max(least, min(len(people) - least, round(share * len(people))))])
    return [i for i, s in enumerate(speakers) if s in first], [
        i for i, s in enumerate(speakers) if s not in first
    ]


def _one_each(speakers: Sequence[str], share: float) -> tuple[list[int], list[int]]:
    first, second = _by_speaker(speakers, share, 1)
    seen = {speakers[i]: i for i in reversed(range(len(speakers)))}
    return [i for i in first if i in seen.values()], [i for i in second if i in seen.values()]


@check(
    wrong={
        "speaker overlap": _by_row,
        "an empty split": lambda speakers, share: _by_speaker(speakers, share, 0),
        "a recording is lost": _one_each,
    }
)
def split_recordings(answer: Callable[[Sequence[str], float], Sequence[Sequence[int]]]) -> None:
    """Rows of recordings in two splits that share no speaker."""
    said = ["ann", "bob", "ann", "cem", "bob", "dia", "ann", "eva", "dia", "bob"]
    for speakers, share in (
        (said, 0.5),
        (said, 0.8),
        (["ann", "bob", "ann"], 0.1),
        (["ann", "bob", "ann"], 0.9),
    ):
        first, second = (list(rows) for rows in answer(speakers, share))
        both = {speakers[i] for i in first} & {speakers[i] for i in second}
        if both:
            raise Wrong(
                f"{', '.join(sorted(both))} can be heard in both splits: speaker overlap. Deal out speakers, not rows."
            )
        if not (first and second):
            raise Wrong(
                f"Of {len(set(speakers))} speakers with share {share:g} you make an empty split; leave each side one."
            )
        if sorted([*first, *second]) != list(range(len(speakers))):
            raise Wrong("Every row belongs to one split, and here a recording is lost or doubled.")
