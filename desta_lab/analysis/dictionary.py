"""Sparse autoencoders: a dictionary of features, of which a few make up each vector at a site.

x − mean ─► encoder ─► the few largest features ─► decoder, a direction a feature ─► x − mean

As in arXiv 2602.22253 on audio encoders; with the TopK of Gao et al. (2024, arXiv 2406.04093).
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy.stats import rankdata
from torch import Tensor, nn

from desta_lab.analysis.interventions import add, only
from desta_lab.evaluation import scoring
from desta_lab.evaluation.tasks import Task
from desta_lab.model import chat
from desta_lab.model.audio_llm import AudioLLM
from desta_lab.model.sites import apply_edits, record_outputs

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
        active: int = ACTIVE,
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
        return self._keep_largest(self._centre(vectors))

    def forward(self, vectors: Float[Tensor, "clip query d"]) -> Float[Tensor, "clip query d"]:
        """The vectors as their features make them up."""
        return self.encode(vectors) @ self.decoder * self.spread + self.mean

    def _centre(self, vectors: Float[Tensor, "clip query d"]) -> Float[Tensor, "clip query d"]:
        return (vectors - self.mean) / self.spread

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
        purity = _tell_values(ranks, which)
        drawn = [
            _tell_values(ranks, _shuffle(which, np.asarray(speakers), rng)).max()
            for _ in range(shuffles)
        ]
        cell = {"feature": range(ranks.shape[1]), "attribute": attribute}
        best = {"value": values[purity.argmax(1)], "purity": purity.max(1)}
        null = float(np.quantile(drawn, 1 - LEVEL / len(labels)))
        tables.append(pd.DataFrame({**cell, **best, "null": null}))
    return pd.concat(tables, ignore_index=True)


def _tell_values(
    ranks: Float[np.ndarray, "clip feature"], which: Int[np.ndarray, "clip"]
) -> Float[np.ndarray, "feature value"]:
    """AUC of each feature for each value: how often it is larger where the value is."""
    has = np.eye(which.max() + 1)[which]
    count = has.sum(0)
    others = np.maximum(len(which) - count, 1)
    area: np.ndarray = (ranks.T @ has - count * (count + 1) / 2) / (np.maximum(count, 1) * others)
    return area


def _shuffle(
    which: Int[np.ndarray, "clip"], speakers: np.ndarray, rng: np.random.Generator
) -> Int[np.ndarray, "clip"]:
    """Labels dealt anew: among the speakers where they belong to these, else among the clips."""
    _, first, speaker = np.unique(speakers, return_index=True, return_inverse=True)
    if (which == which[first][speaker]).all():
        return np.asarray(rng.permutation(which[first])[speaker])
    return np.asarray(rng.permutation(which))


# ---- does the answer use it? ----


@torch.no_grad()
def slot_states(
    llm: AudioLLM,
    tasks: Sequence[Task],
    audio_embeddings: Float[Tensor, "clip query d_llm"],
    layer: int,
    transcripts: Sequence[str] | None = None,
    batch: int = 16,
) -> Float[Tensor, "clip query d_llm"]:
    """The stream behind a layer of the backbone at the audio slots, which no question reaches."""
    states = []
    module = llm.backbone.model.get_decoder().layers[layer]
    for some, words, slots in _batches(llm, tasks, audio_embeddings, transcripts, batch):
        with record_outputs({"layer": module}) as outputs:
            scoring.score_options(llm, tasks, some, len(some), words)
        flow = outputs["layer"][0]
        states.append(flow[torch.arange(len(some))[:, None], slots].float().cpu())
    return torch.cat(states)


@torch.no_grad()
def score_steered(
    llm: AudioLLM,
    tasks: Sequence[Task],
    audio_embeddings: Float[Tensor, "clip query d_llm"],
    direction: Float[Tensor, "d_llm"],
    layer: int | None = None,
    transcripts: Sequence[str] | None = None,
    batch: int = 16,
) -> list[Float[Tensor, "clip _"]]:
    """Scores of every option when a direction is added at every audio slot.

    Args:
        layer: of the backbone, behind which it is added; by default to the audio embeddings.
    """
    if layer is None:
        moved = audio_embeddings + direction.to(audio_embeddings)
        return list(scoring.score_options(llm, tasks, moved, batch, transcripts))
    parts = []
    for some, words, slots in _batches(llm, tasks, audio_embeddings, transcripts, batch):
        edits = {f"backbone.{layer}": only(add(direction), slots)}
        with apply_edits(llm, edits):
            parts.append(scoring.score_options(llm, tasks, some, len(some), words))
    return [torch.cat(scores) for scores in zip(*parts, strict=True)]


def _batches(
    llm: AudioLLM,
    tasks: Sequence[Task],
    audio_embeddings: Float[Tensor, "clip query d_llm"],
    transcripts: Sequence[str] | None,
    batch: int,
) -> Iterator[tuple[Tensor, Sequence[str] | None, Int[Tensor, "clip query"]]]:
    """Clips in batches, with their transcripts, and where their slots are among the tokens."""
    for first in range(0, len(audio_embeddings), batch):
        some = audio_embeddings[first : first + batch]
        words = None if transcripts is None else transcripts[first : first + batch]
        ids, _ = llm.backbone.pad_left(scoring.build_trunks(llm, tasks, len(some), words))
        yield some, words, (ids == chat.SLOT).nonzero()[:, 1].view(len(some), -1)


def draw_directions(
    dictionary: SparseAutoencoder, vectors: Float[Tensor, "clip query d"], count: int, seed: int = 0
) -> Float[Tensor, "direction d"]:
    """Random directions of length 1, drawn with the covariance of the vectors at the site.

    A direction in which nothing ever varies would be too easy a null.
    """
    centred = (vectors.float().cpu() - dictionary.mean).flatten(0, 1)
    dice = torch.Generator().manual_seed(seed)
    mixes = torch.randn(count, len(centred), generator=dice) @ centred
    return nn.functional.normalize(mixes, dim=-1)
