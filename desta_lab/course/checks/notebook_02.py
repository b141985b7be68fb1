"""Checks of notebook 02: attention, the mixture of layers, counting, splicing, and shuffling time."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from desta_lab.course.checks import Wrong, check
from desta_lab.model.connector import Block


def _over_queries(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-2) @ v


def _swapped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ v.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ k


@check(
    wrong={
        "softmax over the queries": _over_queries,
        "not divided by the root of the head's width": lambda q, k, v: (
            (q @ k.transpose(-1, -2)).softmax(-1) @ v
        ),
        "divided by the width, not by its root": lambda q, k, v: (
            (q @ k.transpose(-1, -2) / q.shape[-1]).softmax(-1) @ v
        ),
        "keys and values swapped": _swapped,
    }
)
def cross_attention(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """Every query's weighted average of the values, by how well it fits the keys."""
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 16, generator=draw, dtype=torch.float64) for n in (5, 7, 7))
    got = answer(q, k, v)
    if got.shape != q.shape:
        raise Wrong(
            f"Expected (…, query, width), here {tuple(q.shape)}; you give {tuple(got.shape)}."
        )
    flat = answer(q, torch.zeros_like(k), v)  # a query that fits all keys alike
    if torch.allclose(flat, torch.zeros_like(flat)):
        raise Wrong(
            "With all keys zero the result is zero: keys and values swapped. The values are what is averaged."
        )
    same = answer(q, k, torch.ones_like(v))
    if not torch.allclose(same, torch.ones_like(same)):
        raise Wrong(
            f"Where all frames hold 1, an average is 1; yours is {float(same.mean()):.2f} in the mean: softmax over "
            "the queries, or none. The weights of a query must sum to one over the frames."
        )
    if not torch.allclose(flat, v.mean(-2, keepdim=True).expand_as(flat)):
        raise Wrong(
            "A query that fits all keys alike should bring home the plain mean of the values."
        )
    odds = _odds(answer)
    if abs(odds - 3**4) < 1e-6:
        raise Wrong("The weights are too sharp: not divided by the root of the head's width.")
    if abs(odds - 3**0.25) < 1e-6:
        raise Wrong("The weights are too flat: divided by the width, not by its root.")
    if abs(odds - 3) > 1e-6:
        raise Wrong(
            f"One frame should weigh 3 times as much as the other; in yours it weighs {odds:.2f} times."
        )


def _odds(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> float:
    """How much more the first of two frames weighs whose comparisons, over √16, differ by log 3."""
    q, k, v = (torch.zeros(1, n, 16, dtype=torch.float64) for n in (1, 2, 2))
    q[..., 0], k[:, 0, 0] = 1.0, 4 * torch.log(torch.tensor(3.0, dtype=torch.float64))
    v[:, 0, 0], v[:, 1, 1] = 1.0, 1.0
    out = answer(q, k, v)[0, 0]
    return float(out[0] / out[1])


@check(
    wrong={
        "softmax over the queries": lambda read, logits: torch.einsum(
            "lbqd,ql->bqd", read, logits.softmax(0)
        ),
        "no softmax": lambda read, logits: torch.einsum("lbqd,ql->bqd", read, logits),
        "a plain mean of the layers": lambda read, logits: read.mean(0),
        "one mixture for all queries": lambda read, logits: torch.einsum(
            "lbqd,l->bqd", read, logits.softmax(-1).mean(0)
        ),
    }
)
def layer_mixture(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """For each query its own weighted average of the layers."""
    draw = torch.Generator().manual_seed(0)
    read = torch.randn(4, 2, 3, 8, generator=draw, dtype=torch.float64)
    logits = torch.randn(3, 4, generator=draw, dtype=torch.float64)
    got = answer(read, logits)
    if got.shape != read.shape[1:]:
        raise Wrong(
            f"Expected (clip, query, width), here {tuple(read.shape[1:])}; you give {tuple(got.shape)}."
        )
    even = answer(torch.ones_like(read), logits)
    if torch.allclose(even, logits.sum(-1)[None, :, None].expand_as(even)):
        raise Wrong("Where all layers hold 1, the mixture is the sum of the logits: no softmax.")
    if torch.allclose(even, logits.softmax(0).sum(-1)[None, :, None].expand_as(even)):
        raise Wrong(
            "Where all layers hold 1, the mixture is not 1: softmax over the queries. It runs over the layers."
        )
    if not torch.allclose(even, torch.ones_like(even)):
        raise Wrong(
            "Where all layers hold 1, so must the mixture: the shares of a query sum to one."
        )
    sure = torch.zeros(3, 4, dtype=torch.float64)
    sure[torch.arange(3), torch.tensor([0, 3, 1])] = 50.0  # each query wants another layer
    picked = answer(read, sure)
    if torch.allclose(picked, read.mean(0)):
        raise Wrong("The logits change nothing: a plain mean of the layers.")
    wanted = torch.stack([read[0, :, 0], read[3, :, 1], read[1, :, 2]], dim=1)
    if not torch.allclose(picked, wanted, atol=1e-8):
        raise Wrong(
            "Each query wanted another layer, and none got its own: one mixture for all queries?"
        )


@check(
    wrong={
        "the biases are missing": lambda width, ffn: (
            8 * width * width + 2 * width * ffn + 6 * width
        ),
        "the LayerNorms are missing": lambda width, ffn: (
            8 * (width * width + width) + 2 * width * ffn + ffn + width
        ),
        "only one attention": lambda width, ffn: (
            4 * (width * width + width) + 2 * width * ffn + ffn + 7 * width
        ),
    }
)
def block_parameters(answer: Callable[[int, int], int]) -> None:
    """How many parameters one block has."""
    for width, ffn in ((8, 16), (12, 20)):
        block = Block(width, 2, ffn, post_norm=True, dropout=0.0)
        true, got = sum(p.numel() for p in block.parameters()), answer(width, ffn)
        biases = sum(
            p.numel()
            for name, p in block.named_parameters()
            if name.endswith("bias") and "norm" not in name
        )
        missing = {
            biases: "the biases are missing",
            sum(p.numel() for p in block.norms.parameters()): "the LayerNorms are missing",
            sum(
                p.numel() for p in block.self_attention.parameters()
            ): "only one attention is counted",
        }
        if got != true:
            why = missing.get(true - got, "count linear layers, biases and LayerNorms one by one")
            raise Wrong(
                f"A block of width {width} and ffn {ffn} has {true:,} parameters; you count {got:,}: {why}."
            )


def _by_query(embeddings: Tensor, slots: Tensor, spoken: Tensor) -> Tensor:
    filled = embeddings.clone()
    filled[slots] = spoken.transpose(0, 1).flatten(0, 1)
    return filled


def _late(embeddings: Tensor, slots: Tensor, spoken: Tensor) -> Tensor:
    filled = embeddings.clone()
    filled[slots.roll(1, dims=1)] = spoken.flatten(0, 1)
    return filled


def _in_front(embeddings: Tensor, slots: Tensor, spoken: Tensor) -> Tensor:
    filled = embeddings.clone()
    filled[:, : spoken.shape[1]] = spoken
    return filled


def _in_place(embeddings: Tensor, slots: Tensor, spoken: Tensor) -> Tensor:
    embeddings[slots] = spoken.flatten(0, 1)
    return embeddings


@check(
    wrong={
        "slots filled in the wrong order": _by_query,
        "off by one slot": _late,
        "text was overwritten": _in_front,
        "the embeddings handed in were changed": _in_place,
    }
)
def splice(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """Token embeddings with audio embeddings in the slots, clip after clip."""
    text = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(0))
    spoken = torch.arange(24.0).reshape(2, 3, 4) + 100  # no text has such numbers
    slots = torch.zeros(2, 9, dtype=torch.bool)
    slots[0, 2:5] = slots[1, 4:7] = True  # rows are padded on the left: slots stand elsewhere
    before = text.clone()
    got = answer(text, slots, spoken)
    if not torch.equal(text, before):
        raise Wrong("Afterwards the embeddings handed in were changed; work on a clone.")
    if got.shape != text.shape:
        raise Wrong(
            f"Expected {tuple(text.shape)}, as the embeddings are; you give {tuple(got.shape)}."
        )
    late = slots.roll(1, dims=1)
    if (got[late] >= 100).all() and not (got[slots] >= 100).all():
        raise Wrong("The clip stands one token late, and an empty slot is left: off by one slot.")
    if not torch.equal(got[~slots], before[~slots]):
        raise Wrong(
            f"{int((got != before)[~slots].any(-1).sum())} tokens outside the slots changed: text was overwritten."
        )
    filled, wanted = got[slots], spoken.flatten(0, 1)
    if torch.equal(filled, wanted):
        return
    if torch.equal(filled.sort(0).values, wanted):
        raise Wrong(
            "All vectors are there, with slots filled in the wrong order: clip after clip, query after query."
        )
    raise Wrong("The slots do not hold what was spoken, vector by vector.")


def _torn(states: Tensor, pool: int, seed: int) -> Tensor:
    return states[
        :, :, torch.randperm(states.shape[2], generator=torch.Generator().manual_seed(seed))
    ]


def _drawn(states: Tensor, pool: int, seed: int) -> Tensor:
    groups = states.unflatten(2, (-1, pool))
    some = torch.randint(
        groups.shape[2], (groups.shape[2],), generator=torch.Generator().manual_seed(seed)
    )
    return groups[:, :, some].flatten(2, 3)


def _each_layer(states: Tensor, pool: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    groups = states.unflatten(2, (-1, pool))
    return torch.stack(
        [layer[:, torch.randperm(layer.shape[1], generator=draw)] for layer in groups]
    ).flatten(2, 3)


@check(
    wrong={
        "neighbours were torn apart": _torn,
        "frames are missing": _drawn,
        "each layer has an order of its own": _each_layer,
        "nothing was moved": lambda states, pool, seed: states.clone(),
    }
)
def shuffled_in_time(answer: Callable[[Tensor, int, int], Any]) -> None:
    """Groups of neighbouring frames in a random order, the same in all layers."""
    frame, layer = torch.arange(24.0), torch.arange(3.0)
    states = (frame[None] + 100 * layer[:, None])[:, None, :, None].expand(3, 2, 24, 5)
    got = answer(states, 4, 0)
    if got.shape != states.shape:
        raise Wrong(
            f"Expected {tuple(states.shape)}, as the states are; you give {tuple(got.shape)}."
        )
    orders = got[:, 0, :, 0] - 100 * layer[:, None]  # which frame stands where, for every layer
    if not torch.equal(orders.sort(-1).values, frame.expand(3, -1)):
        raise Wrong(
            "Some frames are there twice and other frames are missing: shuffle, do not draw."
        )
    groups = orders.unflatten(-1, (-1, 4))
    if not torch.equal(groups - groups[..., :1], torch.arange(4.0).expand_as(groups)):
        raise Wrong(
            "Frames that are averaged together no longer stand together: neighbours were torn apart."
        )
    if torch.equal(orders, frame.expand(3, -1)):
        raise Wrong("Every frame is where it was: nothing was moved.")
    if not torch.equal(orders, orders[:1].expand_as(orders)):
        raise Wrong(
            "Layer 0 and layer 1 are shuffled differently: each layer has an order of its own."
        )
