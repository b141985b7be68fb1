"""Attention: of the query tokens over time, and of the backbone's answer over the audio slots."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from desta_lab.evaluation.tasks import Task
from desta_lab.model import chat
from desta_lab.model.audio_llm import AudioLLM
from desta_lab.model.backbone import padding_arguments
from desta_lab.model.connector import QFormer
from desta_lab.model.sites import build_streams, eager_attention, record_outputs


def has_query_attention(connector: Any) -> bool:
    """Whether a connector attends to frames, so that its queries can be placed in time."""
    return isinstance(connector, QFormer)


@torch.no_grad()
def query_attention(
    connector: Any, states: Float[Tensor, "layer clip _ d_enc"]
) -> Float[Tensor, "clip block tap head query frame"]:
    """Every cross-attention weight of the Q-Former; each row over frames sums to one.

    Raises:
        ValueError: the connector has none.
    """
    if not has_query_attention(connector):
        raise ValueError(
            f"A {type(connector).__name__} does not attend to frames; take a Q-Former for this."
        )
    taps, clips = states.shape[:2]
    softmax = {str(i): block.cross_attention.softmax for i, block in enumerate(connector.blocks)}
    with record_outputs(softmax) as outputs:
        connector(states.to(next(connector.parameters())))
    weights = torch.stack([flow[0] for flow in outputs.values()])
    return weights.unflatten(1, (taps, clips)).permute(2, 0, 1, 3, 4, 5).float().cpu()


def query_attention_over_time(
    connector: Any, states: Float[Tensor, "layer clip _ d_enc"]
) -> Float[Tensor, "clip query frame"]:
    """Cross-attention over time: mean of heads and blocks, layers weighted by the mixture."""
    weights = query_attention(connector, states).mean(dim=(1, 3))
    return torch.einsum("ctqf,qt->cqf", weights, connector.mixture().detach().cpu())


@dataclass(frozen=True)
class AnswerAttention:
    """Attention from the position where the answer begins to the audio slots.

    Args:
        weights: as they are; what is missing to one went to other tokens.
        rollout: the product of the layers' mean-over-heads attention, with half of it kept in place
            (Abnar and Zuidema, 2020).
    """

    weights: Float[Tensor, "clip layer head query"]
    rollout: Float[Tensor, "clip query"]


@torch.no_grad()
def answer_attention(
    llm: AudioLLM,
    task: Task,
    audio_embeddings: Float[Tensor, "clip query d_llm"],
    batch: int = 16,
    transcripts: Sequence[str] | None = None,
) -> AnswerAttention:
    """Attention of the answer to a task over the audio slots of every clip.

    `transcripts`, one a clip, stand behind the audio embeddings.

    Raises:
        RuntimeError: the backbone returns no attention.
    """
    streams = build_streams(llm, len(audio_embeddings), task.question, transcripts, task.stem)
    decoder, weights, rollout = llm.backbone.model.get_decoder(), [], []
    with eager_attention(llm.backbone.model):
        for first in range(0, len(streams), batch):
            clips = audio_embeddings[first : first + batch]
            ids, mask = llm.backbone.pad_left(streams[first : first + batch])
            slots = (ids == chat.SLOT).nonzero()[:, 1].view(len(clips), -1)
            embeddings = llm.splice(ids, clips).to(llm.backbone.dtype)
            how = {"output_attentions": True, "use_cache": False, **padding_arguments(mask)}
            layers = decoder(inputs_embeds=embeddings, **how).attentions
            if not layers:
                raise RuntimeError(
                    "The backbone returned no attention; it may have no eager form: take another."
                )
            last = torch.stack([layer[:, :, -1] for layer in layers], dim=1)
            weights.append(last.gather(-1, slots[:, None, None].expand(*last.shape[:3], -1)))
            rollout.append(_rollout(layers)[:, -1].gather(-1, slots).cpu())
    return AnswerAttention(torch.cat(weights).float().cpu(), torch.cat(rollout))


def _rollout(layers: Sequence[Tensor]) -> Float[Tensor, "clip token token"]:
    identity = torch.eye(layers[0].shape[-1], device=layers[0].device)
    flow = identity[None]
    for layer in layers:
        flow = (0.5 * layer.float().mean(1) + 0.5 * identity) @ flow
    return flow
