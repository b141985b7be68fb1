"""Checks of notebook 10: a grid of runs, a paired difference, a flattering one."""

import builtins
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
from jaxtyping import Float
from scipy import stats

from desta_lab.course.checks import Wrong, catches, expect

Fields = Mapping[str, Sequence[Any]]
Run = dict[str, Any]
Scores = Sequence[float] | Float[np.ndarray, "seed"]  # of one setting, a score a seed


def _runs(fields: Fields) -> list[Run]:
    return [dict(zip(fields, row, strict=True)) for row in itertools.product(*fields.values())]


def _sorted(run: Mapping[str, Any]) -> str:
    return json.dumps(run, sort_keys=True, default=lambda number: number.item())  # of NumPy, too


def _named(runs: Sequence[Run], name: Callable[[Run], str] = _sorted) -> dict[str, Run]:
    return {hashlib.sha256(name(run).encode()).hexdigest()[:12]: run for run in runs}


def _paired_off(fields: Fields) -> dict[str, Run]:
    rows = zip(*fields.values(), strict=False)
    return _named([dict(zip(fields, row, strict=True)) for row in rows])


@contextmanager
def _another_day() -> Iterator[None]:
    """While this lasts, Python's own hash of a text is another one, as on another day."""
    own = builtins.hash

    def other(value: Any) -> int:
        return own(value) if isinstance(value, int | float) else own((value, "another day"))

    with mock.patch.object(builtins, "hash", other):
        yield


def _own_hash(fields: Fields) -> dict[str, Run]:
    return {str(hash(tuple(sorted(run.items())))): run for run in _runs(fields)}


def _by(name: Callable[[Run], str]) -> Callable[[Fields], dict[str, Run]]:
    return lambda fields: _named(_runs(fields), name)


lay_out = _by(_sorted)  # every combination of values under the hash of its settings


@catches(
    "joined without a sign between them",
    _by(lambda run: "".join(f"{k}{run[k]}" for k in sorted(run))),
)
@catches("names of the fields are left out", _by(lambda run: str(sorted(map(str, run.values())))))
@catches("own hash of a text is another one tomorrow", _own_hash)
@catches(
    "objects of hashlib",
    lambda fields: {hashlib.sha256(_sorted(run).encode()): run for run in _runs(fields)},
)
@catches("the seed is left out of the key", _by(lambda run: _sorted({**run, "seed": 0})))
@catches("the order of keys matters", _by(json.dumps))
@catches("values are paired off, not crossed", _paired_off)
@catches("the key is a running number", lambda fields: dict(enumerate(_runs(fields))))
def grid(answer: Callable[[Fields], Mapping[str, Run]]) -> None:
    """Every combination of some fields' values, under a key of the combination alone."""
    fields: dict[str, list[Any]] = {"pool": [1, 2, 4], "anchored": [True, False], "seed": [0, 1]}
    got = answer(fields)
    if not isinstance(got, Mapping):
        raise Wrong(f"Return a dict from key to run; yours is a {type(got).__name__}.")
    if not all(isinstance(run, Mapping) and set(run) == set(fields) for run in got.values()):
        raise Wrong("Each run is a dict from field to value, and every combination occurs once.")
    if any(isinstance(key, tuple | frozenset) for key in got):
        raise Wrong("These keys are the settings themselves, not a hash of them.")
    if any(hasattr(key, "hexdigest") for key in got):
        raise Wrong("These keys are objects of hashlib, each another; take their `.hexdigest()`.")
    if len(got) == 6 and len({run["seed"] for run in got.values()}) == 1:
        raise Wrong("6 of 12 runs are left, of one seed: the seed is left out of the key.")
    if len(got) < 12:
        raise Wrong(f"3 × 2 × 2 are 12 runs, not {len(got)}: values are paired off, not crossed.")
    if sorted(map(_sorted, got.values())) != sorted(map(_sorted, _runs(fields))):
        raise Wrong("Each run is a dict from field to value, and every combination occurs once.")
    keys = {_sorted(run): key for key, run in got.items()}

    def renamed(others: Mapping[Any, Run]) -> bool:
        return any(keys[_sorted(run)] != key for key, run in others.items())

    turned = answer({name: fields[name] for name in reversed(fields)})
    if set(got) == set(turned) and renamed(answer({**fields, "pool": [4]})):
        raise Wrong(
            "With fewer values a run gets another key: the key is a running number, or holds more "
            "than the run's own settings."
        )
    if renamed(turned):
        raise Wrong("Fields in another order give another key: the order of keys matters.")
    if len(answer({"pool": [1, 2], "depth": [1, 2]})) != 4:
        raise Wrong("Runs with exchanged values share a key: the names of the fields are left out.")
    alone = [*answer({"pool": [12]}), *answer({"depth": [12]}), *answer({"pool1": [2]})]
    if alone[0] == alone[1]:
        raise Wrong("Pool 12 and depth 12 share a key: the names of the fields are left out.")
    if alone[0] == alone[2] or len(answer({"pool": [1, 11], "depth": [1, 11]})) < 4:
        raise Wrong("Pool 12 is named like pool1 2: joined without a sign between them.")
    texts = {"target": ["self", "label"]}
    today = set(answer(texts))
    with _another_day():
        tomorrow = set(answer(texts))
    if today != tomorrow:
        raise Wrong("Python's own hash of a text is another one tomorrow; take hashlib's.")


def _interval(differences: np.ndarray, error: float, reach: float) -> tuple[float, float, float]:
    middle = float(np.mean(differences))
    return middle, middle - reach * error, middle + reach * error


def compare_seeds(
    ours: Any, theirs: Any, error: Callable[[np.ndarray], Any] = stats.sem, reach: float = 0.0
) -> tuple[float, float, float]:
    """The mean of paired differences with its 95 % interval over seeds, Student's t."""
    d = np.subtract(ours, theirs)
    return _interval(d, float(error(d)), reach or float(stats.t.ppf(0.975, len(d) - 1)))


def _deviation(differences: np.ndarray) -> Any:
    return np.std(differences, ddof=1)


def _unpaired(ours: Any, theirs: Any) -> tuple[float, float, float]:
    error = float(np.sqrt(stats.sem(ours) ** 2 + stats.sem(theirs) ** 2))
    return _interval(np.subtract(ours, theirs), error, float(stats.t.ppf(0.975, 2 * len(ours) - 2)))


@catches("Too wide to see anything: unpaired. Take the difference seed by seed first.", _unpaired)
@catches("The standard deviation for the standard error.", partial(compare_seeds, error=_deviation))
@catches(
    "In s the squares are divided by n − 1 (ddof=1).",
    partial(compare_seeds, error=lambda d: np.std(d) / len(d) ** 0.5),
)
@catches("The difference is turned: ours less theirs.", lambda a, b: compare_seeds(b, a))
@catches("1.96 for a handful of seeds: take Student's t.", partial(compare_seeds, reach=1.96))
@catches("The best seed was picked.", lambda a, b: (max(a) - max(b), *compare_seeds(a, b)[1:]))
@catches("Seeds that do not belong together.", lambda a, b: compare_seeds(np.sort(a), np.sort(b)))
@catches(
    "This is the median of the differences, not their mean.",
    lambda ours, theirs: (
        np.array(compare_seeds(ours, theirs))
        + np.median(np.subtract(ours, theirs))
        - np.mean(np.subtract(ours, theirs))
    ),
)
def paired_difference(answer: Callable[[Any, Any], Sequence[float]]) -> None:
    """Mean difference of two settings over seeds, with its 95 % interval."""
    theirs = np.array([0.30, 0.55, 0.42, 0.71])  # the seeds differ much more than the settings do
    ours = theirs + np.array([0.11, 0.02, 0.16, 0.05])
    if (count := len(answer(ours, theirs))) != 3:
        raise Wrong(f"Give three numbers, the mean and its interval's ends; you give {count}.")
    fault = "It should be {right}; yours is {got}."
    expect(paired_difference, answer, compare_seeds, fault, (ours, theirs))
    fault = "Of six seeds it should be {right}; yours is {got}: t depends on their number."
    more = np.array([0.42, 0.49, 0.61, 0.70, 0.33, 0.58])
    noise = np.array([0.02, -0.03, 0.08, 0.01, 0.05, -0.06])
    expect(paired_difference, answer, compare_seeds, fault, (more + noise, more))


def flatter(ours: Scores, theirs: Scores) -> float:
    """The largest difference in our favour that choosing a seed on each side can make."""
    return float(np.max(ours) - np.min(theirs))


@catches("Nothing was chosen: the honest difference.", lambda a, b: np.mean(a) - np.mean(b))
@catches("It flatters the other setting.", lambda a, b: np.min(a) - np.max(b))
@catches("It only picks one side: best against mean.", lambda a, b: np.max(a) - np.mean(b))
@catches("One seed for both sides: choose one on each.", lambda a, b: np.max(np.subtract(a, b)))
def flattering(answer: Callable[[Scores, Scores], float]) -> None:
    """The largest difference in our favour that choosing among seeds can make."""
    fault = "From these seeds a difference of {right} can be made; you make {got}."
    scores = np.array([0.2, 0.5, 0.35]), np.array([0.3, 0.6, 0.4])  # arrays, as in the notebook
    expect(flattering, answer, flatter, fault, scores)
