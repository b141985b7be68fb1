"""The shape of a site: similarity (debiased CKA), maps (PCA, UMAP) and the gap between hearing and reading."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.linalg import orthogonal_procrustes
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness

from desta_lab.evaluation.statistics import half_sample_ends

PERMUTATIONS = 200  # of the clips, for the null
DRAWS = 200  # half-samples, for the interval
NEIGHBOURS = 15  # of UMAP and of trustworthiness

# ---- similarity ----


def gram_matrix(site: Float[np.ndarray, "clip feature"]) -> Float[np.ndarray, "clip clip"]:
    """Inner products of the centred clips with an empty diagonal, as the unbiased HSIC wants them."""
    centred = site - site.mean(0)
    products = centred @ centred.T
    np.fill_diagonal(products, 0)
    return products


def hsic(k: Float[np.ndarray, "clip clip"], l: Float[np.ndarray, "clip clip"]) -> float:  # noqa: E741 (their names)
    """The unbiased estimator of Song et al. (2012), equation 5, of two Gram matrices with empty diagonals."""
    n = len(k)
    rows = k.sum(0) @ l.sum(0)
    return float(
        ((k * l).sum() + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 * rows / (n - 2))
        / (n * (n - 3))
    )


def _cka(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741
    scale = hsic(k, k) * hsic(l, l)
    return hsic(k, l) / scale**0.5 if scale > 0 else float("nan")


def cka(x: Float[np.ndarray, "_ _"], y: Float[np.ndarray, "_ _"]) -> float:
    """Debiased linear CKA of two sites over the same clips: 1 the same shape, about 0 nothing in common.

    (The usual, biased one gives .88 for independent noise of 128 clips × 896 features.)
    """
    if len(x) != len(y) or len(x) < 4:
        raise ValueError(
            f"CKA needs the same clips twice, four or more; these are {len(x)} and {len(y)}."
        )
    return _cka(gram_matrix(x), gram_matrix(y))


def compare_with_null(
    x: Float[np.ndarray, "clip _"], y: Float[np.ndarray, "clip _"], seed: int = 0
) -> dict[str, float]:
    """CKA with its 95 % interval, the 95th percentile of its permutation null, and the p of that test.

    The interval comes from half-samples without replacement (Politis and Romano, 1994), shrunk to the full size: a
    bootstrap lays copies of a clip side by side, and those look similar to anything.
    """
    k, l, rng = gram_matrix(x), gram_matrix(y), np.random.default_rng(seed)  # noqa: E741
    value, n = _cka(k, l), len(k)
    null = []
    for _ in range(PERMUTATIONS):
        order = rng.permutation(n)
        null.append(_cka(k, l[np.ix_(order, order)]))
    halves = []
    for _ in range(DRAWS):
        some = np.ix_(*[rng.permutation(n)[: n // 2]] * 2)
        halves.append(_cka(k[some], l[some]))
    low, high = half_sample_ends(value, halves)
    return {
        "cka": value,
        "low": low,
        "high": high,
        "null": float(np.nanpercentile(null, 95)),
        "p": float((1 + np.sum(np.array(null) >= value)) / (1 + PERMUTATIONS)),
    }


def similarity_table(
    sites: Mapping[str, Float[np.ndarray, "clip _"]], seed: int = 0
) -> pd.DataFrame:
    """CKA of every pair of sites (or of one site at several steps), one row a pair, each pair once."""
    names = list(sites)
    return pd.DataFrame(
        [
            {"a": a, "b": b, **compare_with_null(sites[a], sites[b], seed)}
            for i, a in enumerate(names)
            for b in names[i + 1 :]
        ]
    )


# ---- maps ----


def map_clips(
    frames: Mapping[int, Float[np.ndarray, "clip feature"]],
    method: str = "pca",
    seeds: Sequence[int] = (0,),
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two-dimensional maps of one site along the ladder: points (step, method, seed, row, x, y) and trust.

    PCA has the axes of the last step throughout. UMAP starts each step from where the last one ended and is turned
    onto it (orthogonal Procrustes), so that a film of the maps shows movement and not re-drawing; several seeds show
    what is only drawing. Trustworthiness: 1 if neighbours on the map are neighbours in truth.
    """
    points, trust = [], []
    for seed in seeds if method == "umap" else seeds[:1]:
        before: np.ndarray | None = None
        axes = PCA(2, random_state=0).fit(frames[max(frames)])
        for step in sorted(frames, reverse=True):
            site = frames[step]
            flat = axes.transform(site) if method == "pca" else _umap(site, before, seed)
            before = flat
            near = min(NEIGHBOURS, len(site) // 2 - 1)
            trust.append(
                {
                    "step": step,
                    "method": method,
                    "seed": seed,
                    "trustworthiness": float(trustworthiness(site, flat, n_neighbors=near)),
                }
            )
            points.append(
                pd.DataFrame(
                    {
                        "step": step,
                        "method": method,
                        "seed": seed,
                        "row": range(len(site)),
                        "x": flat[:, 0],
                        "y": flat[:, 1],
                    }
                )
            )
    return pd.concat(points[::-1], ignore_index=True), pd.DataFrame(trust[::-1])


def _umap(site: np.ndarray, before: np.ndarray | None, seed: int) -> np.ndarray:
    """One UMAP, one thread (two would not give the same map twice), turned onto the map before it."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numba and umap speak of themselves
        from umap import UMAP

        start = "spectral" if before is None else before.astype(np.float32)
        near = min(NEIGHBOURS, len(site) - 1)
        flat = UMAP(n_neighbors=near, init=start, random_state=seed, n_jobs=1).fit_transform(site)
    return flat if before is None else align_map(flat, before)


def align_map(
    flat: Float[np.ndarray, "clip 2"], onto: Float[np.ndarray, "clip 2"]
) -> Float[np.ndarray, "clip 2"]:
    """Move and turn (or mirror) a map onto another of the same clips, without stretching it."""
    turn, _ = orthogonal_procrustes(flat - flat.mean(0), onto - onto.mean(0))
    moved: np.ndarray = (flat - flat.mean(0)) @ turn + onto.mean(0)
    return moved


# ---- the gap between hearing and reading ----


def modality_gap(
    spoken: Float[np.ndarray, "clip query d_llm"],
    written: Float[np.ndarray, "clip d_llm"],
    partners: Sequence[int],
    token_norm: float,
) -> dict[str, np.ndarray]:
    """Per clip: norm of its audio embeddings in token norms, and cosine of their mean to the mean embedding of its own
    description and of another speaker's clip (`partners`), the control."""
    middle = spoken.mean(1)
    return {
        "norm ratio": np.linalg.norm(spoken, axis=-1).mean(1) / token_norm,
        "cosine to its own text": _cosine(middle, written),
        "cosine, other clip's text": _cosine(middle, written[list(partners)]),
    }


def nearest_words(
    spoken: Float[np.ndarray, "clip query d_llm"],
    vocabulary: Float[np.ndarray, "token d_llm"],
    born: Sequence[int] = (),
    top: int = 3,
) -> pd.DataFrame:
    """The vocabulary entries that the audio embeddings of each query lie nearest to (cosine), and in how many clips.

    `born` has the token that each query began as: most queries stay nearest to it, so it is passed over.
    """
    unit = vocabulary / np.linalg.norm(vocabulary, axis=1, keepdims=True).clip(1e-9)
    rows = []
    for query, embeddings in enumerate(spoken.transpose(1, 0, 2)):
        near = embeddings @ unit.T
        if len(born):
            near[:, born[query]] = -np.inf
        ids, counts = np.unique(near.argmax(1), return_counts=True)
        order = counts.argsort(kind="stable")[::-1][:top]
        rows += [
            {"query": query, "token": int(ids[i]), "share": counts[i] / len(near)} for i in order
        ]
    return pd.DataFrame(rows)


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    cosine: np.ndarray = (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
    return cosine
