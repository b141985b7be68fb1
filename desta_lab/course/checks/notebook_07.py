"""Checks of notebook 07: a map by hand, clusters of noise, similarity without bias, the gap."""

from collections.abc import Callable

import numpy as np

from desta_lab.analysis import geometry
from desta_lab.course.checks import Wrong, catches, expect, expect_shape, same


def _axes(site: np.ndarray) -> np.ndarray:
    """The directions in which centred rows differ, from most to least."""
    return np.linalg.svd(site - site.mean(0), full_matrices=False)[2]


def project_clips(site: np.ndarray, first: slice = slice(0, 2)) -> np.ndarray:
    """The clips on the directions in which they differ most, by default on two."""
    flat: np.ndarray = (site - site.mean(0)) @ _axes(site)[first].T
    return flat


@catches("not centred", lambda site: site @ np.linalg.svd(site, full_matrices=False)[2][:2].T)
@catches("rows and columns swapped", lambda site: _axes(site)[:2].T)
@catches("in which the clips differ least", lambda site: project_clips(site, slice(-2, None)))
@catches("in the wrong order", lambda site: project_clips(site)[:, ::-1])
@catches("only the sizes are kept", lambda site: np.abs(project_clips(site)))
def principal_map(answer: Callable[[np.ndarray], np.ndarray]) -> None:
    """The clips on the two directions in which they differ most."""
    draw = np.random.default_rng(7)
    site = draw.normal(size=(40, 12)) * np.linspace(6, 1, 12) + 30
    got = np.asarray(answer(site.copy()))
    if got.shape == (12, 2):
        raise Wrong("There are 12 points for 12 features, not 40: rows and columns swapped.")
    expect_shape(got, (40, 2), "(clip, 2)")
    if (got >= 0).all():
        raise Wrong("No point lies left of or below the middle: only the sizes are kept.")
    if np.abs(got.mean(0)).max() > 1e-3:
        raise Wrong(f"The middle of the map lies at {got.mean(0).round(1)}, not at 0: not centred.")
    variances = np.linalg.eigvalsh(np.cov(site.T))  # from least to most
    if same(np.sort(got.var(0, ddof=1)), variances[:2]):
        raise Wrong("These are the directions in which the clips differ least; take the first two.")
    if same(got.var(0, ddof=1), variances[-2:]):
        raise Wrong("The columns stand in the wrong order: the strongest direction comes first.")
    if not same(got.var(0, ddof=1), variances[:-3:-1]):
        raise Wrong("The columns should have the two largest variances of all directions.")


def wish_axes(noise: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Two directions on which noise falls into groups, each at a corner of a polygon."""
    angles = 2 * np.pi * groups.argmax(1) / groups.shape[1]
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    axes: np.ndarray = np.linalg.lstsq(noise, corners, rcond=None)[0]
    return axes


def _wrong_way_round(noise: np.ndarray, groups: np.ndarray) -> np.ndarray:
    axes: np.ndarray = np.linalg.lstsq(groups, noise, rcond=None)[0].T[:, :2]
    return axes


@catches("the groups were never looked at", lambda noise, groups: _axes(noise)[:2].T)
@catches("solved the wrong way round", _wrong_way_round)
@catches(
    "two of four groups fall on one point",
    lambda noise, groups: np.linalg.lstsq(noise, groups - groups.mean(0), rcond=None)[0][:, :2],
)
@catches("points of the map, not axes", lambda noise, groups: noise @ wish_axes(noise, groups))
def wishful_axes(answer: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
    """Two directions in which pure noise falls into the groups one wishes for."""
    draw = np.random.default_rng(3)
    noise, groups = draw.normal(size=(60, 400)), np.eye(3)[np.arange(60) % 3]
    got = np.asarray(answer(noise.copy(), groups.copy()))
    if got.shape == (60, 2):
        raise Wrong("These are points of the map, not axes: return two directions, (feature, 2).")
    expect_shape(got, (400, 2), "(feature, 2)")
    if not np.isfinite(got).all():
        raise Wrong("Some numbers are nan or infinite; is something divided by 0?")
    if abs(np.corrcoef((noise @ got).T)[0, 1]) > 0.999:
        raise Wrong("Both directions are the same: with three groups, a map needs two.")
    apart = _apart(noise @ got, groups)
    if apart < 1:
        raise Wrong(
            f"Two group means lie {apart:.1f} spreads apart, as if the groups were never looked at."
        )
    if apart < 10:
        raise Wrong(f"{apart:.1f} spreads apart, and more can be: solved the wrong way round?")
    four = np.eye(4)[np.arange(60) % 4]
    if _apart(noise @ np.asarray(answer(noise.copy(), four.copy())), four) < 10:
        raise Wrong(
            "Of three groups each has its own place, but two of four groups fall on one point, or "
            "nearly so: choose a point for every group, such as a corner of a polygon."
        )


def _apart(flat: np.ndarray, groups: np.ndarray) -> float:
    """Distance of the nearest two group means, in spreads within the groups."""
    means = (groups.T @ flat) / groups.sum(0)[:, None]
    within = np.sqrt(((flat - groups @ means) ** 2).sum(1).mean()) + 1e-9
    pairs = [np.linalg.norm(a - b) for i, a in enumerate(means) for b in means[i + 1 :]]
    return float(min(pairs) / within)


def _full(site: np.ndarray) -> np.ndarray:
    centred = site - site.mean(0)
    products: np.ndarray = centred @ centred.T
    return products


def _biased(
    x: np.ndarray, y: np.ndarray, products: Callable[[np.ndarray], np.ndarray] = _full
) -> float:
    a, b = products(x), products(y)
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def _hsic(x: np.ndarray, y: np.ndarray) -> float:
    return geometry.hsic(geometry.gram_matrix(x), geometry.gram_matrix(y))


@catches("Independent noise scores high: the biased CKA. Empty the diagonals.", _biased)
@catches(
    "Independent noise scores high: only the diagonal was emptied.",
    lambda x, y: _biased(x, y, geometry.gram_matrix),
)
@catches("A cloud and its triple score no 1: not divided by what each has alone.", _hsic)
@catches("The square root left out.", lambda x, y: _hsic(x, y) / (_hsic(x, x) * _hsic(y, y)))
def debiased_cka(answer: Callable[[np.ndarray, np.ndarray], float]) -> None:
    """Linear CKA that says about 0 of independent noise."""
    x, y = np.random.default_rng(0).normal(size=(2, 24, 480))
    fault = "A cloud and its triple should score 1, and noise about 0: {right}, not {got}."
    expect(debiased_cka, answer, geometry.cka, fault, (x, 3 * x + 5), (x, y))


def measure_spread(cloud: np.ndarray) -> float:
    """The root of the mean squared distance of clips to their mean."""
    return float(np.sqrt(((cloud - cloud.mean(0)) ** 2).sum(1).mean()))


def _both(a: np.ndarray, b: np.ndarray) -> float:
    """The root of the mean of the two mean squared distances to the own middle."""
    return float(np.sqrt((measure_spread(a) ** 2 + measure_spread(b) ** 2) / 2))


def _squares(cloud: np.ndarray, fewer: int) -> float:
    """The sum of squared distances to the mean, divided by as many clips less some."""
    return float(cloud.var(0, ddof=fewer).sum())


def measure_distance(a: np.ndarray, b: np.ndarray) -> float:
    """The distance between the means of two clouds."""
    return float(np.linalg.norm(a.mean(0) - b.mean(0)))


def measure_gap(a: np.ndarray, b: np.ndarray) -> float:
    """The distance between the means of two clouds, in units of their spread."""
    return measure_distance(a, b) / _both(a, b)


@catches("Clouds seven times as large give another number: no common scale.", measure_distance)
@catches(
    "Your s² is divided by n − 1; take the mean over the clips.",
    lambda a, b: measure_distance(a, b) / ((_squares(a, 1) + _squares(b, 1)) / 2) ** 0.5,
)
@catches(
    "Your s² is a mean over features, too: a squared distance is a sum over them.",
    lambda a, b: measure_distance(a, b) / ((a.var() + b.var()) / 2) ** 0.5,
)
@catches("The spread of one side only.", lambda a, b: measure_distance(a, b) / measure_spread(b))
@catches(
    "The gap itself counted.",
    lambda a, b: measure_distance(a, b) / measure_spread(np.vstack([a, b])),
)
@catches(
    "Clouds around one middle should be 0 apart: not the means but every pair.",
    lambda a, b: float(np.linalg.norm(a[:, None] - b[None], axis=-1).mean() / _both(a, b)),
)
def gap_in_spreads(answer: Callable[[np.ndarray, np.ndarray], float]) -> None:
    """The distance between the means of two clouds, in units of their spread."""
    draw, step = np.random.default_rng(1), np.eye(8)[0]
    a, b = draw.normal(size=(50, 8)), draw.normal(size=(30, 8))
    a, b = a - a.mean(0) + 5, 3 * (b - b.mean(0)) + 5  # around one middle, not around 0
    fault = "The gap is {right}, not {got}: the distance of the two means, divided by one spread, "
    fault += "the root of the mean of both mean squared distances."
    cases = [(a, b), (a, b + 10 * step), (b + 20 * step, a), (7 * a, 7 * b + step)]
    expect(gap_in_spreads, answer, measure_gap, fault, *cases)
