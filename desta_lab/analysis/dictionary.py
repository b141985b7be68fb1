"""Sparse autoencoders: a dictionary of features, of which a few make up each vector at a site.

x − mean ─► encoder ─► the few largest features ─► decoder, a direction a feature ─► x − mean

As in arXiv 2602.22253 on audio encoders; with the TopK of Gao et al. (2024, arXiv 2406.04093).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy.stats import rankdata
from torch import Tensor, nn

from desta_lab.analysis.probes import label_units
from desta_lab.evaluation import scoring
from desta_lab.evaluation.tasks import Task
from desta_lab.model import chat
from desta_lab.model.audio_llm import AudioLLM
from desta_lab.model.sites import Edit, apply_edits

FEATURES, ACTIVE = 256, 8  # in a dictionary, and of these in each vector
STEPS, VECTORS = 600, 512  # of training, and vectors in a step
SHUFFLES = 1000  # of labels
LEVEL = 0.05  # chance that any feature of a site seems pure under random labels

# ---- the autoencoder ----


class SparseAutoencoder(nn.Module):
    """A TopK autoencoder of the vectors at a site, in units of their spread.

    Args:
        mean: of the vectors of each slot; what a slot always holds is no feature.
        spread: the root mean squared length of a vector from its mean.
        directions: with which each feature begins, in the decoder as in the encoder.
        active: features that make up a vector.
    """

    mean: Tensor
    spread: Tensor

    def __init__(
        self,
        mean: Float[Tensor, "query d"],
        spread: Float[Tensor, ""],
        directions: Float[Tensor, "feature d"],
        active: int,
    ) -> None:
        super().__init__()
        self.active = active
        self.register_buffer("mean", mean.clone())
        self.register_buffer("spread", spread.clone())
        self.decoder = nn.Parameter(nn.functional.normalize(directions, dim=-1))
        self.encoder = nn.Parameter(self.decoder.detach().clone())
        self.bias = nn.Parameter(torch.zeros(len(directions)))

    def encode(self, vectors: Float[Tensor, "clip query d"]) -> Float[Tensor, "clip query feature"]:
        """How much of each feature is in each vector: 0 but for the few largest."""
        return self._keep_largest((vectors - self.mean) / self.spread)

    def forward(self, vectors: Float[Tensor, "clip query d"]) -> Float[Tensor, "clip query d"]:
        """The vectors as their features make them up."""
        return self.encode(vectors) @ self.decoder * self.spread + self.mean

    def _keep_largest(self, centred: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch feature"]:
        features = (centred @ self.encoder.T + self.bias).relu()
        top = features.topk(self.active, dim=-1)
        return torch.zeros_like(features).scatter(-1, top.indices, top.values)


def train_dictionary(
    vectors: Float[Tensor, "clip query d"],
    features: int = FEATURES,
    active: int = ACTIVE,
    steps: int = STEPS,
    seed: int = 0,
) -> SparseAutoencoder:
    """Train a sparse autoencoder on the vectors of some clips; the same for the same seed.

    Features begin as vectors drawn at random, and the squared error alone is minimised.
    """
    vectors = vectors.float().cpu()
    dice = torch.Generator().manual_seed(seed)
    mean = vectors.mean(0)
    spread = (vectors - mean).square().sum(-1).mean().sqrt().clamp_min(1e-12)
    rows = ((vectors - mean) / spread).flatten(0, 1)
    first = rows[torch.randint(len(rows), (features,), generator=dice)]
    jitter = torch.randn(first.shape, generator=dice) / first.shape[1] ** 0.5
    model = SparseAutoencoder(mean, spread, first + 0.1 * jitter, active)
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.02, steps)
    with torch.enable_grad():
        for _ in range(steps):
            some = rows[torch.randint(len(rows), (VECTORS,), generator=dice)]
            error = (model._keep_largest(some) @ model.decoder - some).square().sum(-1).mean()
            optimiser.zero_grad()
            error.backward()
            optimiser.step()
            schedule.step()
            with torch.no_grad():  # a feature's size is in its activation alone
                model.decoder.copy_(nn.functional.normalize(model.decoder, dim=-1))
    return model.eval().requires_grad_(False)


def explained_variance(
    dictionary: SparseAutoencoder, vectors: Float[Tensor, "clip query d"]
) -> float:
    """The share of what varies between clips that the features hold; below 0 if they mislead."""
    given = vectors.float().cpu()
    missed = (dictionary(given) - given).square().sum()
    return float(1 - missed / (given - dictionary.mean).square().sum())


# ---- what a feature stands for ----


def measure_purity(
    activations: Float[np.ndarray, "clip feature"],
    labels: Mapping[str, Sequence[str]],
    speakers: Sequence[str],
    shuffles: int = SHUFFLES,
    seed: int = 0,
) -> pd.DataFrame:
    """How well each feature tells a value of each attribute from the others: AUC, and its null.

    The null is what the purest of all features stays below when the labels are shuffled, those that
    belong to the speaker among speakers. It holds for all attributes at once: with labels that mean
    nothing, one site in twenty has any feature above it.

    Returns:
        One row per feature and attribute: `value`, `purity` (0.5: at random, 1: always), `null`.
    """
    ranks, rng = rankdata(activations, axis=0), np.random.default_rng(seed)
    tables = []
    for attribute, own in labels.items():
        values, which = np.unique(np.asarray(own), return_inverse=True)
        rows, unit = label_units(which, np.asarray(speakers))
        shuffled = [rng.permutation(which[rows])[unit] for _ in range(shuffles)]
        areas = _tell_values(ranks, np.stack([which, *shuffled]))
        purity, highest = areas[:, 0], areas[:, 1:].max((0, 2))
        cell = {"feature": range(ranks.shape[1]), "attribute": attribute}
        best = {"value": values[purity.argmax(1)], "purity": purity.max(1)}
        null = float(np.quantile(highest, 1 - LEVEL / len(labels)))
        tables.append(pd.DataFrame({**cell, **best, "null": null}))
    return pd.concat(tables, ignore_index=True)


def _tell_values(
    ranks: Float[np.ndarray, "clip feature"], which: Int[np.ndarray, "draw clip"]
) -> Float[np.ndarray, "feature draw value"]:
    """AUC of each feature for each value: how often it is larger where the value is."""
    has = np.eye(which.max() + 1)[which]
    count = has.sum(1)
    others = np.maximum(which.shape[1] - count, 1)
    above = np.tensordot(ranks, has, (0, 1)) - count * (count + 1) / 2
    return np.asarray(above / (np.maximum(count, 1) * others))


# ---- does the answer use it? ----


@torch.no_grad()
def score_edited(
    llm: AudioLLM,
    tasks: Sequence[Task],
    audio_embeddings: Float[Tensor, "clip query d_llm"],
    layer: int,
    edit: Edit,
    transcripts: Sequence[str] | None = None,
    batch: int = 16,
) -> list[Float[Tensor, "clip _"]]:
    """Scores of every option when what leaves a layer of the backbone at the slots is edited."""
    parts = []
    for first in range(0, len(audio_embeddings), batch):
        some = audio_embeddings[first : first + batch]
        words = None if transcripts is None else transcripts[first : first + batch]
        ids, _ = llm.backbone.pad_left(scoring.build_trunks(llm, tasks, len(some), words))
        clips, slots = (ids == chat.SLOT).nonzero().unflatten(0, (len(some), -1)).unbind(-1)

        def at_slots(flow: Tensor, at: tuple[Tensor, Tensor] = (clips, slots)) -> Tensor:
            return flow.index_put(at, edit(flow[at]))

        with apply_edits(llm, {f"backbone.{layer}": at_slots}):
            parts.append(scoring.score_options(llm, tasks, some, len(some), words))
    return [torch.cat(scores) for scores in zip(*parts, strict=True)]


def slot_states(
    llm: AudioLLM,
    tasks: Sequence[Task],
    audio_embeddings: Float[Tensor, "clip query d_llm"],
    layer: int,
    *how: Any,
) -> Float[Tensor, "clip query d_llm"]:
    """The stream behind a layer at the audio slots, which no question reaches."""
    states: list[Tensor] = []

    def keep(flow: Tensor) -> Tensor:
        states.append(flow.float().cpu())
        return flow

    score_edited(llm, tasks, audio_embeddings, layer, keep, *how)
    return torch.cat(states)


def draw_directions(
    dictionary: SparseAutoencoder, vectors: Float[Tensor, "clip query d"], count: int
) -> Float[Tensor, "direction d"]:
    """Random directions of length 1, drawn with the covariance of the vectors at the site.

    A direction in which nothing ever varies would be too easy a null.
    """
    centred = (vectors.float().cpu() - dictionary.mean).flatten(0, 1)
    dice = torch.Generator().manual_seed(0)
    mixes = torch.randn(count, len(centred), generator=dice) @ centred
    return nn.functional.normalize(mixes, dim=-1)
