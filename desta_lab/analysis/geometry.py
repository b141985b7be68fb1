"""Geometry of a site: similarity (debiased CKA), maps (PCA, UMAP), the gap of audio and text."""

import itertools
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy.linalg import orthogonal_procrustes
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness

from desta_lab.analysis.probes import draw_labels
from desta_lab.evaluation.statistics import half_sample_ends, null_ends, rank_p

PERMUTATIONS = 200  # of the clips, for the null
HALF_SAMPLES = 200  # for the interval
LEAST_CLIPS = 4  # of an unbiased HSIC
NEIGHBOURS = 15  # of UMAP and of trustworthiness
NULL_DRAWS = 39  # random directions: the 38th of them is what one more is above in 2 of 40 cases

# ---- similarity ----


def gram_matrix(site: Float[np.ndarray, "clip feature"]) -> Float[np.ndarray, "clip clip"]:
    """Inner products of the centred clips, with an empty diagonal as the unbiased HSIC needs it."""
    centred = site - site.mean(0)
    products = centred @ centred.T
    np.fill_diagonal(products, 0)
    return products


def hsic(  # the names of the paper
    k: Float[np.ndarray, "clip clip"],
    l: Float[np.ndarray, "clip clip"],  # noqa: E741
) -> float:
    """The unbiased HSIC of two Gram matrices with empty diagonals (Song et al., 2012, eq. 5)."""
    n = len(k)
    rows = k.sum(0) @ l.sum(0)
    return float(
        ((k * l).sum() + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 * rows / (n - 2))
        / (n * (n - 3))
    )


def cka(x: Float[np.ndarray, "_ _"], y: Float[np.ndarray, "_ _"]) -> float:
    """Debiased linear CKA of two sites over the same clips: 1 the same shape, about 0 unrelated.

    (The biased estimator gives .88 for independent noise of 128 clips × 896 features.)
    """
    if len(x) != len(y) or len(x) < LEAST_CLIPS:
        raise ValueError(
            f"CKA needs the same four or more clips twice; these are {len(x)} and {len(y)}."
        )
    return _cka_of_grams(gram_matrix(x), gram_matrix(y))


def _cka_of_grams(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741
    scale = hsic(k, k) * hsic(l, l)
    return hsic(k, l) / scale**0.5 if scale > 0 else float("nan")


def compare_with_null(
    x: Float[np.ndarray, "clip _"], y: Float[np.ndarray, "clip _"]
) -> dict[str, float]:
    """CKA with its 95 % interval, the 95th percentile of its permutation null, and the test's p.

    The interval comes from half-samples without replacement (`statistics.half_sample_ends`): a
    bootstrap puts copies of a clip side by side, and copies look similar to anything. All are NaN
    where all clips are alike at a site, which has no shape then.

    Raises:
        ValueError: there are fewer than eight clips.
    """
    if len(x) < 2 * LEAST_CLIPS:
        raise ValueError(
            f"CKA with its interval needs {2 * LEAST_CLIPS} clips or more, not {len(x)}."
        )
    k, l = gram_matrix(x), gram_matrix(y)  # noqa: E741
    rng = np.random.default_rng(0)
    value, clips = _cka_of_grams(k, l), len(k)
    if np.isnan(value):
        return dict.fromkeys(("cka", "low", "high", "null", "p"), value)
    orders = [rng.permutation(clips) for _ in range(PERMUTATIONS)]
    null = [_cka_of_grams(k, l[np.ix_(order, order)]) for order in orders]
    halves = [rng.permutation(clips)[: clips // 2] for _ in range(HALF_SAMPLES)]
    halved = [_cka_of_grams(k[np.ix_(half, half)], l[np.ix_(half, half)]) for half in halves]
    low, high = half_sample_ends(value, halved)
    found = {"cka": value, "low": low, "high": high, "null": float(np.nanpercentile(null, 95))}
    return found | {"p": rank_p(value, null)}


def similarity_table(sites: Mapping[str, Float[np.ndarray, "clip _"]]) -> pd.DataFrame:
    """CKA of every pair of sites, or of one site at several steps; one row a pair.

    `scaled` is the CKA after every feature got variance 1. Where it is far above `cka`, one of the
    sites has a few features of such size that they alone decide its shape; `a_largest` and
    `b_largest` are the largest feature's share of the variance.
    """
    variances = {name: site.var(0).clip(1e-24) for name, site in sites.items()}
    largest = {name: float(each.max() / each.sum()) for name, each in variances.items()}
    scaled = {name: site / np.sqrt(variances[name]) for name, site in sites.items()}
    rows = []
    for a, b in itertools.combinations(sites, 2):
        found = compare_with_null(sites[a], sites[b]) | {"scaled": cka(scaled[a], scaled[b])}
        rows.append({"a": a, "b": b, **found, "a_largest": largest[a], "b_largest": largest[b]})
    return pd.DataFrame(rows)


# ---- maps ----


def map_clips(
    sites: Mapping[int, Float[np.ndarray, "clip feature"]],
    method: str = "pca",
    seeds: Sequence[int] = (0,),
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two-dimensional maps of one site by step, and how far each map can be trusted.

    Points have the columns step, method, seed, row, x, y. PCA has the axes of the last step
    throughout. UMAP begins each step at the map of the step after it and is turned onto that, so
    that a film of the maps shows movement; several seeds show what is chance. Trustworthiness is 1
    if neighbours on the map are neighbours in the site; `explained` is the share of the site's
    variance that two principal components hold (NaN for UMAP).
    """
    points, trust = [], []
    for seed in seeds if method == "umap" else seeds[:1]:
        later: np.ndarray | None = None
        axes = PCA(2, random_state=0).fit(sites[max(sites)])
        for step in sorted(sites, reverse=True):
            site = sites[step]
            places = axes.transform(site) if method == "pca" else _fit_umap(site, later, seed)
            later = places
            cell = {"step": step, "method": method, "seed": seed}
            near = min(NEIGHBOURS, len(site) // 2 - 1)
            score = float(trustworthiness(site, places, n_neighbors=near))
            held = places.var(0).sum() / site.var(0).sum() if method == "pca" else np.nan
            trust.append({**cell, "trustworthiness": score, "explained": float(held)})
            rows = {"row": range(len(site)), "x": places[:, 0], "y": places[:, 1]}
            points.append(pd.DataFrame({**cell, **rows}))
    return pd.concat(points[::-1], ignore_index=True), pd.DataFrame(trust[::-1])


def _fit_umap(site: np.ndarray, onto: np.ndarray | None, seed: int) -> np.ndarray:
    """One UMAP, turned onto another map; in one thread, as several give other maps each time.

    Numba, which it runs on, gives torch as many threads as it has itself; torch keeps its own.
    """
    threads = torch.get_num_threads()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numba and umap warn about their own code
        from umap import UMAP

        start = "spectral" if onto is None else onto.astype(np.float32)
        near = min(NEIGHBOURS, len(site) - 1)
        umap = UMAP(n_neighbors=near, init=start, random_state=seed, n_jobs=1)
        places = umap.fit_transform(site)
    torch.set_num_threads(threads)
    return places if onto is None else align_map(places, onto)


def align_map(
    places: Float[np.ndarray, "clip 2"], onto: Float[np.ndarray, "clip 2"]
) -> Float[np.ndarray, "clip 2"]:
    """Move and turn (or mirror) a map onto another of the same clips, without stretching it."""
    rotation, _ = orthogonal_procrustes(places - places.mean(0), onto - onto.mean(0))
    return np.asarray((places - places.mean(0)) @ rotation + onto.mean(0))


def neighbour_purity(
    places: Float[np.ndarray, "clip feature"],
    labels: Sequence[str],
    speakers: Sequence[str],
    draws: int = PERMUTATIONS,
) -> dict[str, float]:
    """How often the clips nearest to a clip share its label, beside random labels.

    Neighbours are of other speakers, so that a voice is not compared with itself.

    Returns:
        `purity`, and `null_low` and `null_high`, which hold 95 of 100 draws of random labels of
        the same kind (`probes.draw_labels`).
    """
    values, who = (np.unique(names, return_inverse=True)[1] for names in (labels, speakers))
    squares = (places**2).sum(1)
    distance = squares[:, None] + squares - 2 * places @ places.T
    distance[who[:, None] == who] = np.inf
    count = min(NEIGHBOURS, int(np.isfinite(distance).sum(1).min()))
    if not count:
        raise ValueError("All clips are of one speaker, and neighbours are of others; add voices.")
    near = distance.argsort(1)[:, :count]

    def alike(given: np.ndarray) -> float:
        return float((given[near] == given[:, None]).mean())

    null = [alike(draw_labels(values, who, draw)) for draw in range(draws)]
    low, high = null_ends(np.array(null))
    return {"purity": alike(values), "null_low": low, "null_high": high}


# ---- the gap between audio and text ----


def modality_gap(
    audio_embeddings: Float[np.ndarray, "clip query d_llm"],
    text_embeddings: Float[np.ndarray, "clip d_llm"],
    partners: Sequence[int],
    token_norm: float,
) -> dict[str, np.ndarray]:
    """How far each clip's audio embeddings lie from the token embeddings of its description.

    Per clip: their norm in token norms, the cosine of their mean to the own text, and, as a
    control, the cosine to the text of another speaker's clip (`partners`).
    """
    mean = audio_embeddings.mean(1)
    return {
        "norm ratio": np.linalg.norm(audio_embeddings, axis=-1).mean(1) / token_norm,
        "cosine to its own text": _cosine(mean, text_embeddings),
        "cosine, other clip's text": _cosine(mean, text_embeddings[list(partners)]),
    }


def nearest_words(
    audio_embeddings: Float[np.ndarray, "clip query d_llm"],
    vocabulary: Float[np.ndarray, "token d_llm"],
    initial: Sequence[int] = (),
    top: int = 3,
) -> pd.DataFrame:
    """The tokens nearest to each query's audio embeddings, by their mean cosine over the clips.

    Args:
        initial: the token that each query was initialised with, if there was one.

    Returns:
        One row per query × rank: query, token, cosine, share of the clips whose nearest token it
        is; null, the cosine that the nearest token of an embedding whose numbers are in random
        order stays below in 19 of 20 cases; and initial_cosine, to the token it began as (NaN
        without one).
    """
    dice = np.random.default_rng(0)
    unit = vocabulary / np.linalg.norm(vocabulary, axis=1, keepdims=True).clip(1e-9)
    rows = []
    for query, embeddings in enumerate(audio_embeddings.transpose(1, 0, 2)):
        directions = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True).clip(1e-9)
        nearest = (directions @ unit.T).argmax(1)
        mean = directions.mean(0)
        cosines = unit @ mean
        drawn = np.stack([dice.permutation(mean) for _ in range(NULL_DRAWS)])
        # "weibull" counts the draws' own chance; the usual percentile of 40 lets 7 in 100 pass
        null = float(np.percentile((drawn @ unit.T).max(1), 95, method="weibull"))
        began = float(cosines[initial[query]]) if len(initial) else np.nan
        for token in cosines.argsort()[::-1][:top]:
            share, cosine = float((nearest == token).mean()), float(cosines[token])
            cell = {"query": query, "token": int(token), "cosine": cosine, "share": share}
            rows.append({**cell, "null": null, "initial_cosine": began})
    return pd.DataFrame(rows)


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.asarray((a * b).sum(-1) / norms)
