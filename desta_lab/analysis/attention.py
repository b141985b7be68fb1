"""Where it looks: query tokens over time and layers, and the backbone's answer over the audio slots."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from desta_lab.analysis.sites import record_outputs
from desta_lab.evaluation.scoring import tokenize_options
from desta_lab.evaluation.tasks import Task
from desta_lab.model import chat
from desta_lab.model.audio_llm import AudioLLM


@torch.no_grad()
def query_attention(
    connector: Any, states: Float[Tensor, "layer clip _ d_enc"]
) -> Float[Tensor, "clip block tap head query frame"]:
    """Every cross-attention weight of the Q-Former; each row over frames sums to one."""
    where = next(connector.parameters())
    with record_outputs(
        {str(i): block.cross_attention.softmax for i, block in enumerate(connector.blocks)}
    ) as seen:
        connector(states.to(where))
    weights = torch.stack([seen[str(i)][0] for i in range(len(connector.blocks))])
    return (
        weights.unflatten(1, (states.shape[0], states.shape[1]))
        .permute(2, 0, 1, 3, 4, 5)
        .float()
        .cpu()
    )


def query_attention_over_time(
    connector: Any, states: Float[Tensor, "layer clip _ d_enc"]
) -> Float[Tensor, "clip query frame"]:
    """The same in one map: mean over heads and blocks, tapped layers weighed as the mixture weighs them."""
    weights = query_attention(connector, states).mean(dim=(1, 3))
    return torch.einsum("ctqf,qt->cqf", weights, connector.mixture().detach().cpu())


@contextmanager
def eager_attention(llm: AudioLLM) -> Iterator[None]:
    """Inside, the backbone computes its attention in the open: sdpa, the default, returns none and says nothing."""
    model = llm.backbone.model
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@torch.no_grad()
def answer_attention(
    llm: AudioLLM, task: Task, spoken: Float[Tensor, "clip query d_llm"], batch: int = 16
) -> dict[str, Tensor]:
    """Attention from where the answer begins to the audio slots.

    Returns `weights` (clip, layer, head, query), as they are: what is missing to one went to other tokens; and
    `rollout` (clip, query), the product of the layers' mean-over-heads attention with half of it kept in place
    (Abnar and Zuidema, 2020).

    Raises:
        RuntimeError: the backbone returns no attention.
    """
    tokenizer = llm.backbone.tokenizer
    start = chat.build_stream(tokenizer, chat.audio_messages(task.question), llm.queries)
    ids = torch.tensor([[*start.ids, *tokenize_options(tokenizer, task)[0]]])
    slots = (ids[0] == chat.SLOT).nonzero()[:, 0]
    weights, rolled = [], []
    with eager_attention(llm):
        for some in spoken.split(batch):
            out = llm.backbone.model.get_decoder()(
                inputs_embeds=llm.splice(ids.expand(len(some), -1), some).to(llm.backbone.dtype),
                output_attentions=True,
                use_cache=False,
            )
            if not out.attentions:
                raise RuntimeError(
                    "The backbone returned no attention; it may know no eager form: take another."
                )
            weights.append(
                torch.stack([a[:, :, -1, slots] for a in out.attentions], dim=1).float().cpu()
            )
            rolled.append(_rollout(out.attentions)[:, -1, slots].cpu())
    return {"weights": torch.cat(weights), "rollout": torch.cat(rolled)}


def _rollout(attentions: Sequence[Tensor]) -> Float[Tensor, "clip token token"]:
    flow = torch.eye(attentions[0].shape[-1], device=attentions[0].device)[None]
    for layer in attentions:
        mean = layer.float().mean(1)
        flow = (0.5 * mean + 0.5 * torch.eye(mean.shape[-1], device=mean.device)) @ flow
    return flow
