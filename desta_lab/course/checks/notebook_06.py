"""Checks of notebook 06: who is on which side of a split, what a scale may know, and a direction taken out."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from desta_lab.course.checks import Wrong, check

Folds = list[tuple[np.ndarray, np.ndarray]]
_WHO = np.array([f"voice {i}" for i in (0, 1, 2, 3, 4, 5, 6, 7) for _ in range(3)])[
    np.random.default_rng(1).permutation(24)
]


@check(
    wrong={
        "another print for every clip": lambda speakers, width, rng: rng.normal(
            size=(len(speakers), width)
        ),
        "the same print for everyone": lambda speakers, width, rng: np.tile(
            rng.normal(size=width), (len(speakers), 1)
        ),
        "one row a speaker, not a clip": lambda speakers, width, rng: rng.normal(
            size=(len(np.unique(speakers)), width)
        ),
    }
)
def voiceprint(answer: Callable[..., np.ndarray]) -> None:
    """Noise that tells who speaks, and nothing else."""
    got = np.asarray(answer(_WHO, 200, np.random.default_rng(0)))
    if got.shape == (8, 200):
        raise Wrong(
            "Eight rows for 24 clips: one row a speaker, not a clip. Index it by each clip's speaker."
        )
    if got.shape != (24, 200):
        raise Wrong(f"24 clips and a width of 200 should give (24, 200); you return {got.shape}.")
    if (got == got[0]).all():
        raise Wrong("This is the same print for everyone, so nobody can be told from anybody.")
    own = [got[name == _WHO] for name in np.unique(_WHO)]
    if not all((some == some[0]).all() for some in own):
        raise Wrong(
            "Two clips of one speaker differ: another print for every clip is noise, not a voice."
        )
    if len({some[0].tobytes() for some in own}) < 8:
        raise Wrong("Some speakers share a print; draw one for each.")
    if not 0.8 < got.std() < 1.2:
        raise Wrong(
            f"The numbers should be normal, of standard deviation 1; yours have {got.std():.2f}."
        )


def _by_clip(speakers: np.ndarray, count: int) -> Folds:
    parts = np.array_split(np.random.default_rng(0).permutation(len(speakers)), count)
    return [(np.setdiff1d(np.arange(len(speakers)), part), part) for part in parts]


def _by_speaker(speakers: np.ndarray, count: int) -> Folds:
    tested = [np.isin(speakers, part) for part in np.array_split(np.unique(speakers), count)]
    return [(np.flatnonzero(~test), np.flatnonzero(test)) for test in tested]


@check(
    wrong={
        "speaker overlap": _by_clip,
        "training and test are exchanged": lambda speakers, count: [
            (b, a) for a, b in _by_speaker(speakers, count)
        ],
        "some clips are never tested": lambda speakers, count: (
            _by_speaker(speakers, count)[:1] * count
        ),
        "training clips are thrown away": lambda speakers, count: [
            (train[::3], test) for train, test in _by_speaker(speakers, count)
        ],
    }
)
def folds_by_speaker(answer: Callable[[np.ndarray, int], Folds]) -> None:
    """Folds in which no speaker is on both sides."""
    folds = [(np.asarray(train), np.asarray(test)) for train, test in answer(_WHO, 4)]
    if len(folds) != 4:
        raise Wrong(f"Four folds were asked for; you return {len(folds)}.")
    for train, test in folds:
        both = sorted(set(_WHO[train]) & set(_WHO[test]))
        if both:
            raise Wrong(
                f"Speaker overlap: {', '.join(map(str, both[:2]))} … are in training and in test of one fold."
            )
    if sum(len(test) for _, test in folds) > len(_WHO) and len(folds[0][1]) > len(folds[0][0]):
        raise Wrong(
            "Most speakers are tested and few are trained on: training and test are exchanged."
        )
    if sorted(np.concatenate([test for _, test in folds])) != list(range(len(_WHO))):
        raise Wrong(
            "Every clip should be tested exactly once: some clips are never tested, or tested twice."
        )
    if any(len(train) + len(test) < len(_WHO) for train, test in folds):
        raise Wrong("A fold has clips on neither side: training clips are thrown away.")


def _scaled(
    source: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    def answer(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen = source(train, test)
        return (train - seen.mean(0)) / seen.std(0), (test - seen.mean(0)) / seen.std(0)

    return answer


@check(
    wrong={
        "test clips in the scaler": _scaled(lambda train, test: np.concatenate([train, test])),
        "the test clips are on a scale of their own": lambda train, test: (
            (train - train.mean(0)) / train.std(0),
            (test - test.mean(0)) / test.std(0),
        ),
        "one mean for all features": lambda train, test: (
            (train - train.mean()) / train.std(),
            (test - train.mean()) / train.std(),
        ),
        "every clip is on a scale of its own": lambda train, test: tuple(
            (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True) for x in (train, test)
        ),
    }
)
def standardised(answer: Callable[..., tuple[np.ndarray, np.ndarray]]) -> None:
    """Both sides on one scale, learned from the training clips alone."""
    rng = np.random.default_rng(0)
    train, test = (
        rng.normal([0, 5, -3], [1, 10, 0.1], (40, 3)),
        rng.normal([4, 9, -2], [3, 1, 0.5], (12, 3)),
    )
    other = test + 7
    a, b = (np.asarray(x) for x in answer(train.copy(), test.copy()))
    again = np.asarray(answer(train.copy(), other.copy())[0])
    if a.shape != train.shape or b.shape != test.shape:
        raise Wrong(
            f"Shapes should stay {train.shape} and {test.shape}; yours are {a.shape} and {b.shape}."
        )
    if not np.allclose(a, again):
        raise Wrong(
            "With other test clips the training clips come out different: test clips in the scaler."
        )
    if np.allclose(a.mean(1), 0):
        raise Wrong(
            "Each row has mean 0: every clip is on a scale of its own. Take mean and deviation per feature."
        )
    if not np.allclose(a.mean(0), 0):
        raise Wrong(
            "The features of the training clips do not have mean 0: one mean for all features is not enough."
        )
    if np.allclose(b.mean(0), 0):
        raise Wrong(
            "The test clips have mean 0 too: the test clips are on a scale of their own, so nothing compares."
        )
    if not (np.allclose(a.std(0), 1) and np.allclose(b, (test - train.mean(0)) / train.std(0))):
        raise Wrong(
            "Subtract the training mean and divide by the training standard deviation, on both sides."
        )


@check(
    wrong={
        "more than 32 numbers a clip": lambda embeddings: embeddings.mean(1),
        "other clips mixed in": lambda embeddings: (embeddings - embeddings.mean(0)).mean(1)[
            :, :32
        ],
        "not one row a clip": lambda embeddings: embeddings.mean(0)[:, :32],
    }
)
def less(answer: Callable[[Tensor], Tensor]) -> None:
    """Few numbers of a clip's own embeddings."""
    embeddings = torch.randn(10, 19, 192, generator=torch.Generator().manual_seed(0))
    got = torch.as_tensor(answer(embeddings.clone()))
    if got.dim() != 2 or len(got) != 10:
        raise Wrong(
            f"Ten clips should give (10, at most 32); {tuple(got.shape)} is not one row a clip."
        )
    if got.shape[1] > 32:
        raise Wrong(f"{got.shape[1]} are more than 32 numbers a clip.")
    alone = torch.as_tensor(answer(embeddings[:5].clone()))
    if not torch.allclose(alone, got[:5], atol=1e-5):
        raise Wrong(
            "Without the other clips a clip comes out different: other clips mixed in, so the split leaks."
        )


@check(
    wrong={
        "the direction is not of unit length": lambda x, direction, center: (
            x - ((x - center) @ direction)[:, None] * direction
        ),
        "projects onto, instead of out": lambda x, direction, center: (
            center + ((x - center) @ direction)[:, None] * direction / direction.norm() ** 2
        ),
        "removes the mean too": lambda x, direction, center: (
            x - (x @ direction)[:, None] * direction / direction.norm() ** 2
        ),
        "one step for all clips": lambda x, direction, center: x - direction,
    }
)
def erase(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """Clips without what they have along a direction, measured from a center."""
    draw = torch.Generator().manual_seed(0)
    x, direction, center = (torch.randn(*shape, generator=draw) for shape in ((6, 5), (5,), (5,)))
    direction, center = 3 * direction / direction.norm(), center + 2 * direction
    unit = direction / direction.norm()
    got = torch.as_tensor(answer(x.clone(), direction.clone(), center.clone()))
    if got.shape != x.shape:
        raise Wrong(f"Six clips of five numbers stay (6, 5); you return {tuple(got.shape)}.")
    along, across = (got - center) @ unit, got - (got @ unit)[:, None] * unit
    kept = torch.allclose(across, x - (x @ unit)[:, None] * unit, atol=1e-4)
    if kept and along.abs().max() < 1e-4:
        return
    if not kept:
        raise Wrong(
            "What lies across the direction has changed: this projects onto, instead of out."
        )
    if torch.allclose(got @ unit, torch.zeros(6), atol=1e-4):
        raise Wrong(
            "Every clip stands at 0 along the direction, not where the center is: it removes the mean too."
        )
    if torch.allclose(got - x, (got - x)[:1].expand(6, -1), atol=1e-4):
        raise Wrong(
            "All clips move alike: one step for all clips erases nothing. How far does each one stand out?"
        )
    raise Wrong(
        "Something is left along it: the direction is not of unit length, or the sign is wrong."
    )
