"""Checks of notebook 02: attention, the mixture of layers, counting, splicing, shuffled time."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from desta_lab.course.checks import Wrong, as_tensors, catches, expect, expect_shape, same
from desta_lab.model.connector import Block


def weigh_frames(q: Tensor, k: Tensor, power: float = 0.5, axis: int = -1) -> Tensor:
    """A query's attention over frames, for every head."""
    return (q @ k.transpose(-1, -2) / q.shape[-1] ** power).softmax(axis)


def attend(q: Tensor, k: Tensor, v: Tensor, power: float = 0.5, axis: int = -1) -> Tensor:
    """Attention in the order of its formula, as a student writes it: the same bits."""
    return weigh_frames(q, k, power, axis) @ v


over_queries = partial(attend, axis=-2)  # its softmax runs over the wrong axis
undivided = partial(attend, power=0.0)  # it lacks the root of the head's width


def swapped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention that compares with the values and averages the keys."""
    return attend(q, v, k)


@catches("The softmax over the queries is taken, not over the frames.", over_queries)
@catches("Weights are too sharp: not divided by the root of the head's width.", undivided)
@catches("Too flat: divided by the width, not by its root.", lambda q, k, v: attend(q, k, v, 1.0))
@catches("Keys and values swapped: compare with the keys, average the values.", swapped)
def cross_attention(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """Every query's weighted average of the values, by how well it fits the keys."""
    answer, draw = as_tensors(answer), torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, n, 16, generator=draw, dtype=torch.float64) for n in (5, 7, 7))
    expect(cross_attention, answer, attend, "", (q, k, v), axes="(…, query, width)")
    alike = answer(q, torch.zeros_like(k), v)  # a query that fits all keys alike
    if not same(alike, v.mean(-2, keepdim=True).expand_as(alike)):
        raise Wrong("A query that fits all keys alike should give the plain mean of the values.")
    fault = "Weigh by the softmax of the inner products over the root of the width."
    expect(cross_attention, answer, attend, fault, (q, k, v))
    try:
        expect(cross_attention, answer, attend, fault, (q[0], k[0], v[0]))
    except (IndexError, RuntimeError, ValueError) as error:
        raise Wrong(
            f"With three axes, not four, it stops: count axes from the end. ({error})"
        ) from None


def mix_logits(read: Tensor, logits: Tensor) -> Tensor:
    """A mixture without a softmax."""
    return torch.einsum("lbqd,ql->bqd", read, logits)


def mix_layers(read: Tensor, logits: Tensor, axis: int = -1) -> Tensor:
    """For each query its own weighted average of the layers."""
    return mix_logits(read, logits.softmax(axis))


mix_over_queries = partial(mix_layers, axis=0)  # its softmax runs over the wrong axis


@catches("The softmax over the queries is taken, not over the layers.", mix_over_queries)
@catches("There is no softmax: a query's shares should sum to one.", mix_logits)
@catches("The logits change nothing: a plain mean of the layers.", lambda read, _: read.mean(0))
@catches(
    "No query gets the layer that it wants: one mixture for all queries.",
    lambda read, logits: mix_logits(read, logits.softmax(-1).mean(0).expand_as(logits)),
)
def layer_mixture(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """For each query its own weighted average of the layers."""
    answer, draw = as_tensors(answer), torch.Generator().manual_seed(0)
    read = torch.randn(4, 2, 3, 8, generator=draw, dtype=torch.float64)
    logits = torch.randn(3, 4, generator=draw, dtype=torch.float64)
    compare = partial(expect, layer_mixture, answer, mix_layers)
    compare("", (read, logits), axes="(clip, query, width)")
    # Layer l holds 1 in column l alone, so the shares come back.
    layers = torch.eye(4, dtype=torch.float64)[:, None, None].expand(-1, 2, 3, -1).contiguous()
    shares = answer(layers, logits)[0]
    if (shares < 0).any():
        raise Wrong(f"A query takes {shares.min():.2f} of a layer: no softmax, which is above 0.")
    sums = shares.sum(-1)
    if not same(sums, torch.ones_like(sums), 1e-3):
        raise Wrong(f"The shares of query 0 sum to {sums[0]:.2f}, not to 1: no weighted average.")
    if (shares.max(-1).values > 0.999).all():
        raise Wrong("Every query takes one layer alone, however little the logits differ.")
    sharpness = shares[:, :1].log() - shares[:, 1:].log()
    sharpness = (sharpness / (logits[:, :1] - logits[:, 1:])).flatten()
    if not same(sharpness, torch.ones(9), 1e-3) and same(sharpness, sharpness[0].expand(9), 1e-2):
        how = "sharp" if sharpness[0] > 1 else "flat"
        raise Wrong(f"The shares are too {how}: take the softmax of the logits as they are.")
    compare("Shares are the softmax of a query's logits, and weigh its layers.", (read, logits))
    fewer = (read[:3, :, :2].contiguous(), logits[:2, :3].contiguous())
    try:
        compare("With three layers the mixture is wrong: take them all, and count them.", fewer)
    except (IndexError, RuntimeError, ValueError) as error:
        raise Wrong(f"It stops where there are three layers, not four. ({error})") from None


def _build_block(width: int, ffn: int) -> Block:
    """A published block; its head count changes no size."""
    return Block(width, 2, ffn, post_norm=True, dropout=0.0)


def count_block(width: int, ffn: int) -> int:
    """How many parameters one block has, by building it without memory."""
    with torch.device("meta"):
        return sum(weights.numel() for weights in _build_block(width, ffn).parameters())


@catches("the biases are missing", lambda d, ffn: 8 * d * d + 2 * d * ffn + 6 * d)
@catches("the LayerNorms are missing", lambda d, ffn: 8 * (d * d + d) + 2 * d * ffn + ffn + d)
@catches("only one attention is counted", lambda d, n: 4 * (d * d + d) + 2 * d * n + n + 7 * d)
def block_parameters(answer: Callable[[int, int], int]) -> None:
    """How many parameters one block has."""
    fault = "Width {0}, ffn {1} has {right} parameters, not {got}: count weights, biases and norms."
    expect(block_parameters, answer, count_block, fault, (8, 16), (12, 20))
    if not float(got := answer(8, 16)).is_integer():
        raise Wrong(f"A number of parameters is a whole number; yours is {got}.")


def fill_slots(text: Tensor, slots: Tensor, audio: Tensor) -> Tensor:
    """Token embeddings with audio embeddings in the slots, clip after clip."""
    return text.masked_scatter(slots[..., None], audio.to(text.dtype))


@catches(
    "Slots filled in the wrong order: clip after clip, query after query.",
    lambda text, slots, audio: fill_slots(text, slots, audio.transpose(0, 1)),
)
@catches(
    "The clip stands one token late, and a slot is left empty: off by one slot.",
    lambda text, slots, audio: fill_slots(text, slots.roll(1, dims=1), audio),
)
@catches(
    "Tokens outside the slots changed: text was overwritten.",
    lambda text, slots, audio: torch.cat([audio, text[:, audio.shape[1] :]], dim=1),
)
@catches(
    "work on a copy, not in place",
    lambda text, slots, audio: text.masked_scatter_(slots[..., None], audio),
)
def splice(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """Token embeddings with audio embeddings in the slots, clip after clip."""
    text = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(0))
    audio = torch.arange(24.0).reshape(2, 3, 4) + 100  # no text has such numbers
    slots = torch.zeros(2, 9, dtype=torch.bool)
    slots[0, 2:5] = slots[1, 4:7] = True  # rows are padded on the left: slots stand elsewhere
    fault = "Slots should hold the audio embeddings, vector by vector, and other tokens their own."
    expect(splice, answer, fill_slots, fault, (text, slots, audio), axes="(clip, token, width)")
    several = torch.zeros(
        3, 9, dtype=torch.bool
    )  # two clips in row 0, none in row 1, torn in row 2
    several[0, [0, 1, 2, 5, 6, 7]] = several[2, [1, 3, 4]] = True
    given = (torch.cat([text, text[:1] + 1]), several, torch.cat([audio, audio[:1] + 50]))
    fault = "A row may hold two clips, or none, and text between its slots: go by `slots` alone."
    try:
        expect(splice, answer, fill_slots, fault, given, axes="(row, token, width)")
    except (IndexError, RuntimeError, ValueError, StopIteration) as error:
        raise Wrong(f"{fault} Yours stops. ({error})") from None


def shuffle_groups(states: Tensor, pool: int, seed: int) -> Tensor:
    """Groups of neighbouring frames in a random order, the same in all layers."""
    groups, draw = states.unflatten(2, (-1, pool)), torch.Generator().manual_seed(seed)
    return groups[:, :, torch.randperm(groups.shape[2], generator=draw)].flatten(2, 3)


@catches("neighbours were torn apart", lambda states, pool, seed: shuffle_groups(states, 1, seed))
@catches("frames are missing", lambda states, pool, seed: 0 * states + states[:, :, :1])
@catches(
    "each layer has an order of its own",
    lambda states, pool, seed: torch.cat(
        [shuffle_groups(layer[None], pool, seed + i) for i, layer in enumerate(states)]
    ),
)
@catches("nothing was moved", lambda states, pool, seed: states.clone())
def shuffled_in_time(answer: Callable[[Tensor, int, int], Any]) -> None:
    """Groups of neighbouring frames in a random order, the same in all layers."""
    orders = torch.stack([_group_order(answer, seed) for seed in range(8)])
    moved = orders != torch.arange(12)  # (seed, clip, group)
    if not moved.any():
        raise Wrong("Every frame is where it was: nothing was moved.")
    for clip, some in enumerate(moved.unbind(1)):
        if not some.any():
            raise Wrong(f"Clip {clip} is as it was: shuffle every clip.")
    steps = (orders.roll(-1, 2) - orders) % 12  # from a group to the next
    if (steps == 11).all():
        raise Wrong("The groups stand in reverse: their order is not random.")
    if (steps == 1).all():
        raise Wrong("The groups were only moved along, each follows the one before: not random.")
    if not torch.equal(orders[0], _group_order(answer, 0)):
        raise Wrong("Called twice with one seed, it gives two orders; draw from the seed.")
    if (orders == orders[0]).all():
        raise Wrong("Seeds 0 to 7 give one order; draw it from the seed.")
    if moved.float().mean() < 0.6:  # 11 of 12 are moved in a random order, on average
        few = moved.float().sum(-1).mean()
        raise Wrong(f"Only {few:.0f} of 12 groups change their place: put all in a random order.")
    after = torch.stack([(orders.roll(-1, 2) - orders)[orders == g] % 12 for g in range(12)])
    together = (after == 1).all(1)[:-1]  # groups that the next one follows, whatever the seed
    if together.any():
        first = int(together.nonzero()[0, 0])
        raise Wrong(
            f"Groups {first} and {first + 1} stay together, whatever the seed: a group is `pool` "
            "frames, no more."
        )
    if not moved.any(0).all():
        still = int((~moved.any(0)).nonzero()[0, 1])
        raise Wrong(
            f"Group {still} of 12 stays where it is, whatever the seed: shuffle all groups."
        )


def _group_order(answer: Callable[[Tensor, int, int], Any], seed: int) -> Tensor:
    """Which of twelve groups of four frames stands where in each clip, if groups are whole in every
    layer.
    """
    frame, layer, clip = torch.arange(48.0), torch.arange(3.0), torch.arange(2.0)
    states = (frame + 100 * layer[:, None, None] + 1000 * clip[:, None])[..., None]
    states = states.expand(-1, -1, -1, 5).contiguous()
    got = as_tensors(answer)(states, 4, seed).to(states)
    expect_shape(got, states.shape, "(layer, clip, frame, width)")
    if not torch.equal((got / 1000).long(), (states / 1000).long()):
        raise Wrong("Clips changed their places too; shuffle the groups of every clip alone.")
    if not torch.equal((got / 100).long(), (states / 100).long()):
        raise Wrong("Layers changed their places; shuffle groups of frames, alike in all layers.")
    # which frame stands where, for every layer and clip
    orders = got[..., 0] - 100 * layer[:, None, None] - 1000 * clip[:, None]
    if not torch.equal(orders.sort(-1).values, frame.expand_as(orders)):
        raise Wrong("Some frames are there twice, other frames are missing: do not draw.")
    groups = orders.unflatten(-1, (-1, 4))
    if not torch.equal(groups - groups[..., :1], torch.arange(4.0).expand_as(groups)):
        raise Wrong("Frames that are averaged together stand apart: neighbours were torn apart.")
    if not torch.equal(orders, orders[:1].expand_as(orders)):
        raise Wrong("Layers 0 and 1 are shuffled differently: each layer has an order of its own.")
    return (groups[0, :, :, 0] / 4).long()
