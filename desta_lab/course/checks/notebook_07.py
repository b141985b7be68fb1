"""Checks of notebook 07: a map by hand, clusters made of noise, similarity without its bias, the gap on a scale."""

from collections.abc import Callable

import numpy as np

from desta_lab.analysis import geometry
from desta_lab.course.checks import Wrong, check

# ---- a map by hand ----


def _projected(site: np.ndarray, centre: bool = True, first: slice = slice(0, 2)) -> np.ndarray:
    centred = site - site.mean(0) if centre else site
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    flat: np.ndarray = centred @ axes[first].T
    return flat


@check(
    wrong={
        "not centred": lambda site: _projected(site, centre=False),
        "rows and columns swapped": lambda site: np.linalg.svd(site - site.mean(0))[2][:2].T,
        "the directions in which the clips differ least": lambda site: _projected(
            site, first=slice(-2, None)
        ),
        "only the sizes are kept": lambda site: np.abs(_projected(site)),
    }
)
def principal_map(answer: Callable[[np.ndarray], np.ndarray]) -> None:
    """The clips on the two directions in which they differ most."""
    draw = np.random.default_rng(7)
    site = draw.normal(size=(40, 12)) * np.linspace(6, 1, 12) + 30
    got = np.asarray(answer(site.copy()))
    if got.shape == (12, 2):
        raise Wrong(
            "There are 12 points for 12 features, not 40 for 40 clips: rows and columns swapped."
        )
    if got.shape != (40, 2):
        raise Wrong(f"40 clips of 12 features make a map of shape (40, 2); yours is {got.shape}.")
    if (got >= 0).all():
        raise Wrong(
            "No point lies left of or below the middle: only the sizes are kept, and the signs are gone."
        )
    if np.abs(got.mean(0)).max() > 1e-6:
        raise Wrong(
            f"The middle of the map lies at {got.mean(0).round(1)}, not at 0: the clips were not centred."
        )
    most = np.linalg.eigvalsh(np.cov(site.T))
    if np.allclose(np.sort(got.var(0, ddof=1)), most[:2]):
        raise Wrong(
            "These are the directions in which the clips differ least; take the first ones, not the last."
        )
    if not np.allclose(got.var(0, ddof=1), most[:-3:-1]):
        raise Wrong(
            "The two columns should have the largest and the second largest variance of all directions."
        )


# ---- clusters made of noise ----


def _wished(noise: np.ndarray, groups: np.ndarray) -> np.ndarray:
    axes: np.ndarray = np.linalg.lstsq(noise, groups - groups.mean(0), rcond=None)[0][:, :2]
    return axes


@check(
    wrong={
        "the groups were never looked at": lambda noise, groups: (
            np.linalg.svd(noise - noise.mean(0))[2][:2].T
        ),
        "solved the wrong way round": lambda noise, groups: np.linalg.lstsq(
            groups, noise, rcond=None
        )[0].T[:, :2],
        "points of the map, not axes": lambda noise, groups: noise @ _wished(noise, groups),
    }
)
def wishful_axes(answer: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
    """Two directions in which pure noise falls into the groups one wishes for."""
    draw = np.random.default_rng(3)
    noise, groups = draw.normal(size=(60, 400)), np.eye(3)[np.arange(60) % 3]
    got = np.asarray(answer(noise.copy(), groups.copy()))
    if got.shape == (60, 2):
        raise Wrong("These are points of the map, not axes: return two directions, (feature, 2).")
    if got.shape != (400, 2):
        raise Wrong(
            f"Two directions among 400 features have the shape (400, 2); yours is {got.shape}."
        )
    apart = _apart(noise @ got, groups)
    if apart < 1:
        raise Wrong(f"Group means lie {apart:.1f} spreads apart: the groups were never looked at.")
    if apart < 10:
        raise Wrong(
            f"Group means lie {apart:.1f} spreads apart, and 400 features for 60 clips can do better: was it solved "
            "the wrong way round? The noise times the axes should give the groups."
        )


def _apart(flat: np.ndarray, groups: np.ndarray) -> float:
    """Distance of the nearest two group means, in spreads within the groups."""
    means = (groups.T @ flat) / groups.sum(0)[:, None]
    within = np.sqrt(((flat - groups @ means) ** 2).sum(1).mean()) + 1e-9
    pairs = [np.linalg.norm(a - b) for i, a in enumerate(means) for b in means[i + 1 :]]
    return float(min(pairs) / within)


# ---- similarity without its bias ----


def _full(site: np.ndarray) -> np.ndarray:
    centred = site - site.mean(0)
    products: np.ndarray = centred @ centred.T
    return products


def _biased(
    x: np.ndarray, y: np.ndarray, products: Callable[[np.ndarray], np.ndarray] = _full
) -> float:
    k, l = products(x), products(y)  # noqa: E741 (their names)
    return float((k * l).sum() / np.sqrt((k * k).sum() * (l * l).sum()))


def _only_emptied(x: np.ndarray, y: np.ndarray) -> float:
    return _biased(x, y, geometry.gram_matrix)


@check(
    wrong={
        "biased CKA": _biased,
        "only the diagonal was emptied": _only_emptied,
        "not divided by what each has alone": lambda x, y: geometry.hsic(
            geometry.gram_matrix(x), geometry.gram_matrix(y)
        ),
        "square root left out": lambda x, y: (
            geometry.hsic(geometry.gram_matrix(x), geometry.gram_matrix(y))
            / (
                geometry.hsic(geometry.gram_matrix(x), geometry.gram_matrix(x))
                * geometry.hsic(geometry.gram_matrix(y), geometry.gram_matrix(y))
            )
        ),
    }
)
def debiased_cka(answer: Callable[[np.ndarray, np.ndarray], float]) -> None:
    """Linear CKA that says about 0 of independent noise."""
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(2, 24, 480))
    same, told = float(answer(x, 3 * x + 5)), float(answer(x, y))
    if same > 2:
        raise Wrong(
            f"The same cloud, three times as large, scores {same:.3g}: not divided by what each has alone."
        )
    if np.isclose(told, _biased(x, y)):
        raise Wrong(
            f"Independent noise scores {told:.2f}: this is the biased CKA. Empty the diagonals."
        )
    if np.isclose(told, _only_emptied(x, y)):
        raise Wrong(
            f"Independent noise scores {told:.2f}: only the diagonal was emptied; let hsic do the sums."
        )
    if same < 0.9:
        raise Wrong(
            f"The same cloud, three times as large, scores {same:.3g}, not 1: was the square root left out?"
        )
    if not np.isclose(told, geometry.cka(x, y)):
        raise Wrong(
            f"Independent noise scores {told:.3f} and should score {geometry.cka(x, y):.3f}."
        )


# ---- the gap on a scale ----


def _spread(cloud: np.ndarray) -> float:
    return float(np.sqrt(((cloud - cloud.mean(0)) ** 2).sum(1).mean()))


def _both(a: np.ndarray, b: np.ndarray) -> float:
    """The root of the mean of the two mean squared distances to the own middle."""
    return float(np.sqrt((_spread(a) ** 2 + _spread(b) ** 2) / 2))


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a.mean(0) - b.mean(0)))


@check(
    wrong={
        "no common scale": _distance,
        "the spread of one side only": lambda a, b: _distance(a, b) / _spread(b),
        "the gap itself counted as spread": lambda a, b: (
            _distance(a, b) / _spread(np.vstack([a, b]))
        ),
        "not the means but every pair": lambda a, b: float(
            np.linalg.norm(a[:, None] - b[None], axis=-1).mean() / _both(a, b)
        ),
    }
)
def gap_in_spreads(answer: Callable[[np.ndarray, np.ndarray], float]) -> None:
    """The distance between the means of two clouds, in units of their spread."""
    draw = np.random.default_rng(1)
    a, b = draw.normal(size=(2, 50, 8))
    a, b = a - a.mean(0), 3 * (b - b.mean(0))
    step = np.eye(8)[0]
    near, far = float(answer(a, b + 10 * step)), float(answer(a, b + 20 * step))
    if not np.isclose(near, answer(7 * a, 7 * (b + 10 * step))):
        raise Wrong(
            "Both clouds seven times as large give another number: there is no common scale in it."
        )
    if answer(a, b) > 0.5:
        raise Wrong(
            f"Two clouds around one middle are {answer(a, b):.1f} apart: not the means but every pair."
        )
    if not np.isclose(near, answer(b + 10 * step, a)):
        raise Wrong("Seen from the other side the gap is another: the spread of one side only.")
    if not np.isclose(far, 2 * near):
        raise Wrong(
            f"Twice as far is {far / near:.2f} times the number: the gap itself counted as spread."
        )
    if not np.isclose(near, 10 / _both(a, b)):
        raise Wrong(
            "Divide by one spread: the root of the mean of the two mean squared distances to the own middle."
        )
