"""Attribution: what each audio embedding, or each window of sound, adds to the right answer."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from captum.attr import FeatureAblation, IntegratedGradients, ShapleyValueSampling
from jaxtyping import Bool, Float, Int
from scipy.integrate import trapezoid
from scipy.stats import spearmanr
from torch import Tensor, nn

from desta_lab import audio
from desta_lab.evaluation import conditions, scoring
from desta_lab.evaluation.tasks import Task
from desta_lab.model.audio_llm import AudioLLM

METHODS = ("integrated_gradients", "ablation", "shapley")
WINDOW = 0.25  # seconds
Scalar = Callable[[Tensor], Tensor]  # a batch of inputs → one number each

# ---- what is explained ----


def answer_margin(
    llm: AudioLLM, task: Task, values: Sequence[str], transcripts: Sequence[str] | None = None
) -> Scalar:
    """The margin of the right option over the others' mean, as a function of audio embeddings.

    In log-probability. `values` holds the right value of every clip, and `transcripts` the words
    that stand behind its audio embeddings. The function takes those clips, or all of them several
    times over, as captum stacks them. It can be differentiated.

    Raises:
        ValueError: a value is none of the task's options.
    """
    options = list(task.options)
    if strange := sorted(set(values) - set(options)):
        raise ValueError(
            f"{task.name} has no option for {', '.join(strange)}; it has {', '.join(options)}."
        )
    is_right = torch.tensor([[option == value for option in options] for value in values])

    def margin(embeddings: Float[Tensor, "batch query d_llm"]) -> Float[Tensor, "batch"]:
        count = len(embeddings)
        if count % len(values):
            raise ValueError(
                f"{count} clips were given, but {len(values)} right values; give each clip its own."
            )
        times = count // len(values)
        words = None if transcripts is None else [*transcripts] * times
        (scores,) = scoring.score_options(llm, [task], embeddings, transcripts=words)
        mask = is_right.repeat(times, 1)
        others = scores[~mask].unflatten(0, (count, -1))
        return (scores[mask] - others.mean(1)).to(embeddings.device)

    return margin


def answer_margin_of_audio(
    llm: AudioLLM, task: Task, values: Sequence[str], transcripts: Sequence[str] | None = None
) -> Scalar:
    """The same margin as a function of waveforms, without a gradient.

    Raises (when it is called):
        ValueError: the waveforms want a gradient.
    """
    margin = answer_margin(llm, task, values, transcripts)

    @torch.no_grad()
    def margin_of_audio(waves: Float[Tensor, "batch sample"]) -> Float[Tensor, "batch"]:
        if waves.requires_grad:
            raise ValueError("The log-mel has no gradient here; take ablation or shapley.")
        states = llm.encoder.encode(list(waves.float().cpu().numpy()))
        return margin(conditions.embed_clips(llm, states)).to(waves.device)

    return margin_of_audio


@dataclass(frozen=True)
class Case:
    """A scalar of one clip's input, whose parts can be taken away.

    Args:
        scalar: the number that is explained, as a function of a batch of inputs.
        input: the clip's.
        baseline: what stands where a part is taken away.
        parts: the part that every number of the input belongs to, from 0.
    """

    scalar: Scalar
    input: Float[Tensor, "1 *feature"]
    baseline: Float[Tensor, "1 *feature"]
    parts: Int[Tensor, "1 *part"]

    @property
    def part_count(self) -> int:
        """How many parts there are."""
        return int(self.parts.max()) + 1

    @torch.no_grad()
    def evaluate(self, kept: Bool[Tensor, "batch _"], batch: int = 8) -> Float[Tensor, "batch"]:
        """The scalar when only some parts are kept: True for each part that is."""
        values = []
        for some in kept.to(self.parts.device).split(batch):
            inputs = torch.where(some[:, self.parts[0]], self.input, self.baseline)
            values.append(self.scalar(inputs).detach().cpu())
        return torch.cat(values)


def query_cases(
    llm: AudioLLM,
    task: Task,
    values: Sequence[str],
    audio_embeddings: Float[Tensor, "clip query d_llm"],
    transcripts: Sequence[str] | None = None,
) -> list[Case]:
    """One case a clip: the parts are its audio embeddings, those of silence are the baseline.

    A clip's transcript stays where audio is taken away.
    """
    silence = conditions.embed_silence(llm)
    parts = torch.arange(audio_embeddings.shape[1], device=audio_embeddings.device)[None, :, None]
    margins = _margins(answer_margin, llm, task, values, transcripts)
    clips = zip(margins, audio_embeddings.detach().split(1), strict=True)
    return [Case(margin, clip, silence, parts) for margin, clip in clips]


def window_cases(
    llm: AudioLLM,
    task: Task,
    values: Sequence[str],
    waves: Sequence[Float[np.ndarray, "_"]],
    window: float = WINDOW,
    transcripts: Sequence[str] | None = None,
) -> list[Case]:
    """One case a clip: its parts are windows of the waveform, and zeros are the baseline.

    A clip's transcript stays where audio is taken away.
    """
    fitted = [audio.crop_or_pad(wave, llm.encoder.seconds) for wave in waves]
    inputs = torch.from_numpy(np.stack(fitted)).float()
    parts = torch.arange(inputs.shape[1])[None] // round(window * audio.RATE)
    margins = _margins(answer_margin_of_audio, llm, task, values, transcripts)
    clips = zip(margins, inputs.split(1), strict=True)
    return [Case(margin, wave, torch.zeros_like(wave), parts) for margin, wave in clips]


def _margins(
    margin: Callable[..., Scalar],
    llm: AudioLLM,
    task: Task,
    values: Sequence[str],
    transcripts: Sequence[str] | None,
) -> list[Scalar]:
    """The margin of every clip by itself."""
    words = [None if transcripts is None else [text] for text in transcripts or values]
    pairs = zip(values, words, strict=True)
    return [margin(llm, task, [value], some) for value, some in pairs]


# ---- attribution ----


@dataclass(frozen=True)
class Attribution:
    """What every part adds to the scalar.

    `delta` is captum's convergence delta: the sum of the parts minus the scalar's way from the
    baseline to the input. It is near 0 for integrated gradients with enough steps and 0 for Shapley
    values; for ablation it measures how far parts work together or replace each other.
    """

    values: Float[Tensor, "clip part"]
    delta: Float[Tensor, "clip"]


def attribute(method: str, cases: Sequence[Case], *, batch: int = 8, **how: Any) -> Attribution:
    """Attribute every case's scalar to its parts, and measure what they miss of it.

    Args and errors as of `attribute_parts`.
    """
    values = attribute_parts(method, cases, batch=batch, **how)
    ways = []
    for case in cases:
        none, all_parts = case.evaluate(torch.tensor([[False], [True]]).expand(2, case.part_count))
        ways.append(all_parts - none)
    return Attribution(values, (values.double().sum(1) - torch.stack(ways)).float())


def attribute_parts(
    method: str,
    cases: Sequence[Case],
    *,
    steps: int = 32,
    samples: int = 16,
    batch: int = 8,
    seed: int = 0,
) -> Float[Tensor, "clip part"]:
    """What every part of every case adds to its scalar: the `values` of `attribute` alone.

    Args:
        steps: points on the way from baseline to input (integrated gradients).
        samples: orders in which the parts are restored, drawn with `seed` (Shapley values).
        batch: inputs in one forward.

    Raises:
        ValueError: there is no such method.
    """
    if method not in METHODS:
        raise ValueError(f"There is no method {method!r}; take one of {', '.join(METHODS)}.")
    if method == "integrated_gradients":
        return torch.stack([_integrate(case, steps, batch) for case in cases]).float()
    found = [_switch_parts(method, case, samples, batch, [seed, i]) for i, case in enumerate(cases)]
    return torch.stack(found).float()


def _integrate(case: Case, steps: int, batch: int) -> Float[Tensor, "part"]:
    """Integrated gradients, those of all numbers of a part added up."""
    spread = IntegratedGradients(case.scalar).attribute(
        case.input, case.baseline, n_steps=steps, internal_batch_size=batch
    )
    part = case.parts.expand_as(case.input).flatten().cpu()
    sums = torch.zeros(case.part_count, dtype=torch.float64)
    return sums.index_add_(0, part, spread.detach().double().cpu().flatten())


def _switch_parts(
    method: str, case: Case, samples: int, batch: int, seed: Sequence[int]
) -> Float[Tensor, "part"]:
    """Ablation or Shapley values: captum switches a number for each part, 1 where it is kept."""
    switches = torch.ones(1, case.part_count, dtype=case.input.dtype)
    how: dict[str, Any] = {"baselines": 0, "perturbations_per_eval": batch}

    def scalar(kept: Tensor) -> Tensor:
        return case.evaluate(kept > 0, batch)

    if method == "ablation":
        return FeatureAblation(scalar).attribute(switches, **how)[0]
    sampler, rng = ShapleyValueSampling(scalar), np.random.default_rng(seed)
    # captum's own orders are drawn from torch's global generator
    sampler.permutation_generator = lambda parts, count: (
        rng.permutation(parts).tolist() for _ in range(count)
    )
    return sampler.attribute(switches, n_samples=samples, **how)[0]


def queries_to_frames(
    per_query: Float[Tensor, "clip query"], query_to_frame: Float[Tensor, "clip query frame"]
) -> Float[Tensor, "clip frame"]:
    """Distribute each query's value over the frames that it attends to."""
    shares = query_to_frame / query_to_frame.sum(-1, keepdim=True)
    return torch.einsum("cq,cqf->cf", per_query, shares.to(per_query))


# ---- faithfulness ----


def deletion_curves(
    cases: Iterable[Case],
    values: Float[Tensor, "clip part"],
    clips: Sequence[str],
    *,
    draws: int = 20,
    points: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """The scalar while parts are taken away or restored (Petsiuk et al., 2018).

    Args:
        draws: random orders of each clip. What is left where a random order took parts away is what
            the reverse order has restored, so both curves come from one pass.
        points: at how many places of the order it is measured; by default after every part.

    Returns:
        One row per clip × curve (deletion, insertion) × order (attribution: highest first; random)
        × draw × share of the parts moved, with the margin.
    """
    rng, tables = np.random.default_rng(seed), []
    for case, value, clip in zip(cases, values, clips, strict=True):
        count = case.part_count
        counts = torch.linspace(0, count, count + 1 if points is None else points).round().int()
        highest = value.argsort(descending=True).argsort()
        chance = torch.from_numpy(np.stack([rng.permutation(count) for _ in range(draws)]))
        restored = torch.cat([highest[None], (count - 1) - highest[None], chance])
        kept = restored[:, None] < counts[:, None]  # way × point × part
        unique, of = kept.flatten(0, 1).unique(dim=0, return_inverse=True)  # the ends are shared
        margins = case.evaluate(unique).double()[of].unflatten(0, kept.shape[:2])
        inserted = torch.cat([margins[:1], margins[2:]])
        deleted = torch.cat([margins[1:2], margins[2:]]).flip(1)
        ways = {"deletion": (deleted, count - counts.flip(0)), "insertion": (inserted, counts)}
        for curve, (drawn, moved) in ways.items():
            for number, margin in enumerate(drawn.numpy()):
                order, draw = ("random", number - 1) if number else ("attribution", 0)
                cell = {"clip": clip, "curve": curve, "order": order, "draw": draw}
                tables.append(
                    pd.DataFrame({**cell, "share": moved.numpy() / count, "margin": margin})
                )
    return pd.concat(tables, ignore_index=True)


def deletion_gain(curves: pd.DataFrame) -> pd.DataFrame:
    """How much lower (deletion) or higher (insertion) the attribution's curve lies than by chance.

    Per clip and curve: `gain`, the mean distance over the shares between its own curve and the mean
    of its random orders (nats; above 0 it is faithful); `beaten`, the share of random orders that
    the attribution beats.
    """
    by = ["clip", "curve", "order", "draw"]
    area = curves.groupby(by, sort=False)[["share", "margin"]].apply(
        lambda way: trapezoid(way["margin"], way["share"])
    )
    rows = []
    for (clip, curve), own in area.groupby(["clip", "curve"], sort=False):
        sign = -1 if curve == "deletion" else 1
        by_order = own.droplevel(["clip", "curve", "draw"])
        above = sign * (by_order["attribution"].item() - by_order.loc[["random"]])
        cell = {"clip": clip, "curve": curve, "gain": above.mean()}
        rows.append({**cell, "beaten": float((above > 0).mean())})
    return pd.DataFrame(rows)


# ---- dependence on the weights ----


@contextmanager
def replace_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside the context, the module has these weights; outside, whatever happened, its own."""
    own = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    try:
        module.load_state_dict(dict(weights))
        yield
    finally:
        module.load_state_dict(own)


def shuffle_weights(module: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """A module's weights with every tensor's numbers in random order: nothing learned remains."""
    generator = torch.Generator().manual_seed(seed)

    def shuffle(tensor: Tensor) -> Tensor:
        order = torch.randperm(tensor.numel(), generator=generator)
        return tensor.flatten()[order.to(tensor.device)].view_as(tensor)

    return {name: shuffle(tensor) for name, tensor in module.state_dict().items()}


def randomisation_correlation(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    explain: Callable[[], Float[Tensor, "clip part"]],
) -> Float[np.ndarray, "clip"]:
    """Spearman correlation, clip by clip, of an attribution with the same one under other weights.

    The sanity check of Adebayo et al. (2018), for shuffled weights or an untrained connector's: an
    attribution whose correlation stays high explains no training. `explain` must embed the clips
    anew at each call.
    """
    own = explain().cpu().numpy()
    with replace_weights(module, weights):
        other = explain().cpu().numpy()
    return np.array([spearmanr(a, b).statistic for a, b in zip(own, other, strict=True)])
