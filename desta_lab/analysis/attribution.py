"""What the answer hangs on: captum asks the audio embeddings one by one, and the waveform window by window."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from captum.attr import (
    FeatureAblation,
    IntegratedGradients,
    InterpretableInput,
    LLMAttribution,
    ShapleyValueSampling,
)
from jaxtyping import Bool, Float, Int
from scipy.stats import spearmanr
from torch import Tensor, nn

from desta_lab import audio
from desta_lab.evaluation import conditions, scoring
from desta_lab.evaluation.tasks import Task
from desta_lab.model import chat
from desta_lab.model.audio_llm import AudioLLM

METHODS = ("integrated_gradients", "ablation", "shapley")
WINDOW = 0.25  # seconds
Scalar = Callable[[Tensor], Tensor]  # a batch of inputs → one number each


# ---- the thing explained ----


def answer_margin(llm: AudioLLM, task: Task, values: Sequence[str]) -> Scalar:
    """Audio embeddings → the log-probability of the right option over the mean of the others.

    `values` has the right value of every clip. The function returned takes those clips, or the whole of them several
    times over, as captum stacks them. It can be differentiated.
    """
    options = list(task.options)
    if strange := sorted(set(values) - set(options)):
        raise ValueError(
            f"{task.name} has no option for {', '.join(strange)}; it has {', '.join(options)}."
        )
    right = nn.functional.one_hot(
        torch.tensor([options.index(value) for value in values]), len(options)
    ).bool()

    def of(spoken: Float[Tensor, "batch query d_llm"]) -> Float[Tensor, "batch"]:
        if len(spoken) % len(right):
            raise ValueError(
                f"{len(spoken)} clips were given, but {len(right)} right values; give each clip its own."
            )
        (scores,) = scoring.score_options(llm, [task], spoken)
        at = right.repeat(len(spoken) // len(right), 1)
        others = scores[~at].unflatten(0, (len(spoken), -1))
        return (scores[at] - others.mean(1)).to(spoken.device)

    return of


def answer_margin_of_audio(llm: AudioLLM, task: Task, values: Sequence[str]) -> Scalar:
    """Waveforms → encoder → connector → `margin`, without a gradient: there is none through the log-mel."""
    of = answer_margin(llm, task, values)

    @torch.no_grad()
    def of_waves(waves: Float[Tensor, "batch sample"]) -> Float[Tensor, "batch"]:
        states = llm.encoder.encode(list(waves.float().cpu().numpy()))
        return of(conditions.embed_clips(llm, states)).to(waves.device)

    return of_waves


@dataclass(frozen=True)
class Case:
    """A scalar of one clip's input, the input, what stands where a part of it is taken away, and the part of every
    number in it (broadcast over the width of a query)."""

    scalar: Scalar
    given: Float[Tensor, "1 *feature"]
    absent: Float[Tensor, "1 *feature"]
    parts: Int[Tensor, "1 *part"]

    @property
    def count(self) -> int:
        """How many parts there are."""
        return int(self.parts.max()) + 1

    @torch.no_grad()
    def of(self, kept: Bool[Tensor, "batch _"], batch: int = 8) -> Float[Tensor, "batch"]:
        """The scalar when only these parts are kept."""
        there = kept.to(self.parts.device).split(batch)
        inputs = (torch.where(some[:, self.parts[0]], self.given, self.absent) for some in there)
        return torch.cat([self.scalar(some).detach().cpu() for some in inputs])


def query_cases(
    llm: AudioLLM, task: Task, values: Sequence[str], spoken: Float[Tensor, "clip query d_llm"]
) -> list[Case]:
    """One case a clip: its parts are the audio embeddings, and silence's stand where one is taken away."""
    absent = conditions.embed_silence(llm)
    parts = torch.arange(spoken.shape[1], device=spoken.device)[None, :, None]
    given = spoken.detach().split(1)
    return [
        Case(answer_margin(llm, task, [v]), one, absent, parts)
        for v, one in zip(values, given, strict=True)
    ]


def window_cases(
    llm: AudioLLM,
    task: Task,
    values: Sequence[str],
    waves: Sequence[Float[np.ndarray, "_"]],
    window: float = WINDOW,
) -> list[Case]:
    """One case a clip: its parts are windows of the waveform, and zeros stand where one is taken away."""
    fitted = torch.from_numpy(
        np.stack([audio.crop_or_pad(wave, llm.encoder.seconds) for wave in waves])
    ).float()
    parts = torch.arange(fitted.shape[1])[None] // round(window * audio.RATE)
    return [
        Case(answer_margin_of_audio(llm, task, [v]), one, torch.zeros_like(one), parts)
        for v, one in zip(values, fitted.split(1), strict=True)
    ]


# ---- attribution ----


@dataclass(frozen=True)
class Attribution:
    """What every part adds, and what the parts together miss of the scalar's way from nothing to all of the input.

    `delta` is captum's convergence delta, for every method: near 0 for integrated gradients with enough steps, 0 for
    Shapley values, and for ablation a measure of how far the parts work together or stand in for each other.
    """

    values: Float[Tensor, "clip part"]
    delta: Float[Tensor, "clip"]


def attribute(
    method: str,
    cases: Sequence[Case],
    *,
    steps: int = 32,
    samples: int = 16,
    batch: int = 8,
    seed: int = 0,
) -> Attribution:
    """Attribution of every case's scalar to its parts.

    Args:
        steps: points on the way from absent to given (integrated gradients).
        samples: orders in which the parts are restored, drawn with `seed` (Shapley sampling).
        batch: inputs in one forward.
    """
    if method not in METHODS:
        raise ValueError(f"There is no method {method!r}; take one of {', '.join(METHODS)}.")
    values, deltas = [], []
    for number, case in enumerate(cases):
        spread = (
            _captum(method, case, steps, samples, batch, [seed, number]).detach().double().cpu()
        )
        at = case.parts.expand_as(case.given).flatten().cpu()
        sums = torch.zeros(case.count, dtype=torch.float64).index_add(0, at, spread.flatten())
        # captum gives each number of a part the whole part's value, but its own share under integrated gradients
        values.append(sums if method == "integrated_gradients" else sums / at.bincount())
        nothing, everything = case.of(torch.tensor([[False], [True]]).expand(2, case.count))
        deltas.append(values[-1].sum() - (everything - nothing))
    return Attribution(torch.stack(values).float(), torch.stack(deltas).float())


def _captum(
    method: str, case: Case, steps: int, samples: int, batch: int, seed: Sequence[int]
) -> Tensor:
    if method == "integrated_gradients":
        path = {"n_steps": steps, "internal_batch_size": batch}
        return IntegratedGradients(case.scalar).attribute(case.given, case.absent, **path)
    how: dict[str, Any] = {"feature_mask": case.parts, "perturbations_per_eval": batch}
    if method == "ablation":
        return FeatureAblation(case.scalar).attribute(case.given, case.absent, **how)
    sampler, rng = ShapleyValueSampling(case.scalar), np.random.default_rng(seed)

    def orders(
        parts: int, count: int
    ) -> Iterable[list[int]]:  # captum's own draws from torch's global generator
        return (rng.permutation(parts).tolist() for _ in range(count))

    sampler.permutation_generator = orders
    return sampler.attribute(case.given, case.absent, n_samples=samples, **how)


def attribute_queries(
    method: str,
    llm: AudioLLM,
    task: Task,
    values: Sequence[str],
    spoken: Float[Tensor, "clip query d_llm"],
    **how: Any,
) -> Attribution:
    """What every audio embedding adds to the margin of the right option, against the embeddings of silence."""
    return attribute(method, query_cases(llm, task, values, spoken), **how)


def attribute_windows(
    method: str,
    llm: AudioLLM,
    task: Task,
    values: Sequence[str],
    waves: Sequence[Float[np.ndarray, "_"]],
    window: float = WINDOW,
    **how: Any,
) -> Attribution:
    """What every window of the waveform adds to the margin of the right option, against zeros."""
    if method == "integrated_gradients":
        raise ValueError(
            "Waveforms have no gradient here (log-mel, frozen encoder); take ablation or shapley."
        )
    return attribute(method, window_cases(llm, task, values, waves, window), **how)


def queries_to_frames(
    per_query: Float[Tensor, "clip query"], query_to_frame: Float[Tensor, "clip query frame"]
) -> Float[Tensor, "clip frame"]:
    """Carry attribution on, answer → query → frame: each query hands its value to the frames it attends to."""
    shares = query_to_frame / query_to_frame.sum(-1, keepdim=True)
    return torch.einsum("cq,cqf->cf", per_query, shares.to(per_query))


# ---- is it faithful? ----


def deletion_curves(
    cases: Sequence[Case],
    values: Float[Tensor, "clip part"],
    clips: Sequence[str],
    *,
    draws: int = 3,
    seed: int = 0,
    batch: int = 8,
) -> pd.DataFrame:
    """Deletion and insertion curves (Petsiuk et al., 2018): the scalar while parts are taken away or restored.

    Columns: clip, curve (deletion, insertion), order (attribution: highest first; random: the mean of `draws` orders),
    share of the parts moved, margin.
    """
    rng, tables = np.random.default_rng(seed), []
    for case, worth, clip in zip(cases, values, clips, strict=True):
        blind = [torch.from_numpy(rng.permutation(case.count)) for _ in range(draws)]
        for order, ways in {
            "attribution": [worth.argsort(descending=True)],
            "random": blind,
        }.items():
            moved = torch.stack(
                [way.argsort() < torch.arange(case.count + 1)[:, None] for way in ways]
            )
            for curve, kept in {"deletion": ~moved, "insertion": moved}.items():
                mean = case.of(kept.flatten(0, 1), batch).unflatten(0, (len(ways), -1)).mean(0)
                cell = {
                    "clip": clip,
                    "curve": curve,
                    "order": order,
                    "share": np.linspace(0, 1, case.count + 1),
                }
                tables.append(pd.DataFrame(cell | {"margin": mean.double().numpy()}))
    return pd.concat(tables, ignore_index=True)


def curve_areas(drawn: pd.DataFrame) -> pd.DataFrame:
    """The area under every curve: low is good for deletion, high for insertion."""
    groups = drawn.sort_values("share", kind="stable").groupby(["clip", "curve", "order"])
    return pd.DataFrame(
        [
            dict(zip(("clip", "curve", "order"), key, strict=True))
            | {"area": np.trapezoid(g["margin"], g["share"])}
            for key, g in groups
        ]
    )


@contextmanager
def with_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, the module has these weights; outside, whatever happened, its own."""
    own = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    try:
        module.load_state_dict(dict(weights))
        yield
    finally:
        module.load_state_dict(own)


def shuffle_weights(module: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """A module's weights, every tensor's numbers in random order: the same sizes, nothing learned."""
    draw = torch.Generator().manual_seed(seed)
    return {
        name: tensor.flatten()[
            torch.randperm(tensor.numel(), generator=draw).to(tensor.device)
        ].view_as(tensor)
        for name, tensor in module.state_dict().items()
    }


def randomisation_correlation(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    explain: Callable[[], Float[Tensor, "clip part"]],
) -> Float[np.ndarray, "clip"]:
    """The sanity check of Adebayo et al. (2018): Spearman correlation, clip by clip, of an attribution with the same
    attribution under other weights (`shuffled`, or an untrained connector's). What stays high explains no training.

    `explain` must hear the clips anew each time it is called, so that it sees the weights of the moment.
    """
    own = explain().cpu().numpy()
    with with_weights(module, weights):
        other = explain().cpu().numpy()
    return np.array([spearmanr(a, b).statistic for a, b in zip(own, other, strict=True)])


# ---- captum's own LLM attribution ----


class AudioInput(InterpretableInput):
    """A conversation whose interpretable features are its audio slots: 1 the clip's embedding, 0 silence's.

    Args:
        ids: the conversation with `chat.SLOT` where audio embeddings go, up to where the answer begins.
        groups: the feature that each query belongs to, from 0; by default every query is its own.
    """

    def __init__(
        self,
        ids: Int[Tensor, "1 token"],
        spoken: Float[Tensor, "query d_llm"],
        silence: Float[Tensor, "query d_llm"],
        groups: Int[Tensor, "query"] | None = None,
    ) -> None:
        self.ids, self.spoken, self.silence = ids, spoken, silence
        self.groups = torch.arange(len(spoken)) if groups is None else groups
        self.n_itp_features = int(self.groups.max()) + 1
        self.values = [f"audio {feature}" for feature in range(self.n_itp_features)]

    @classmethod
    def of(
        cls,
        llm: AudioLLM,
        task: Task,
        spoken: Float[Tensor, "query d_llm"],
        groups: Int[Tensor, "query"] | None = None,
    ) -> "AudioInput":
        """A task asked of a clip, up to the end of its stem: the options are what captum may be given as target."""
        asked = chat.build_stream(
            llm.backbone.tokenizer, chat.audio_messages(task.question), llm.queries
        )
        stem, _ = scoring.tokenize_options(llm.backbone.tokenizer, task)
        return cls(
            torch.tensor([[*asked.ids, *stem]]), spoken, conditions.embed_silence(llm)[0], groups
        )

    def to_tensor(self) -> Float[Tensor, "1 part"]:
        """Every feature is there."""
        return torch.ones(1, self.n_itp_features)

    def to_model_input(
        self, perturbed_tensor: Float[Tensor, "batch part"] | None = None
    ) -> dict[str, Tensor]:
        """Ids and audio embeddings; a feature between 0 and 1 lies on the line from silence to the clip."""
        features = self.to_tensor() if perturbed_tensor is None else perturbed_tensor
        there = features[:, self.groups.to(features.device), None].to(self.spoken)
        spoken = torch.lerp(
            self.silence.expand(len(there), -1, -1), self.spoken.expand(len(there), -1, -1), there
        )
        return {"input_ids": self.ids.expand(len(there), -1), "spoken": spoken}

    def format_attr(
        self, itp_attr: Float[Tensor, "*target part"]
    ) -> Float[Tensor, "*target query"]:
        """Each query with its feature's value."""
        return itp_attr[..., self.groups.to(itp_attr.device)]


class _Speaker(nn.Module):
    """The AudioLLM as captum calls a model: ids with slots and audio embeddings in, an object with logits out."""

    def __init__(self, llm: AudioLLM) -> None:
        super().__init__()
        self.llm, self.device = llm, llm.backbone.device

    def forward(self, input_ids: Tensor, spoken: Tensor, **_: Any) -> SimpleNamespace:
        hidden = self.llm.backbone.hidden_states(self.llm.splice(input_ids, spoken))
        return SimpleNamespace(logits=self.llm.backbone.logits(hidden))


class AudioAttribution(LLMAttribution):
    """captum's LLMAttribution over audio slots: log-probability of a target, whole and token by token.

    `method` is one of captum's perturbation methods (FeatureAblation, ShapleyValueSampling, KernelShap, …).
    """

    SUPPORTED_INPUTS = (AudioInput,)

    def __init__(self, llm: AudioLLM, method: Any = FeatureAblation) -> None:
        super().__init__(method(_Speaker(llm)), llm.backbone.tokenizer)

    def attribute(self, inp: AudioInput, target: Any, **how: Any) -> Any:
        """One forward an evaluation, as in `scoring`, not one a token."""
        return super().attribute(inp, target, **{"forward_in_tokens": False, **how})
