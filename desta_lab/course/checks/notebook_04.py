"""Checks of notebook 04: labels, the soft loss, the learning rate, broken pairs."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from desta_lab.course.checks import Wrong, catches, refuse, same
from desta_lab.training.batches import IGNORE
from desta_lab.training.trainer import TrainConfig


def _labels(ids: Sequence[int], first: int, last: int) -> list[int]:
    """Every position that predicts the tokens from `first` up to `last` learns its successor."""
    shifted = [ids[t + 1] if first <= t + 1 <= last else IGNORE for t in range(len(ids) - 1)]
    return [*shifted, IGNORE]


def label_response(ids: Sequence[int], start: int, truncated: bool) -> list[int]:
    """For every position the token that it learns: of the response, and a true end of turn."""
    return _labels(ids, start, len(ids) - 1 - truncated)


def _unshifted(ids: Sequence[int], start: int, cut: bool) -> list[int]:
    return [token if start <= t < len(ids) - cut else IGNORE for t, token in enumerate(ids)]


@catches("the prompt is trained too", lambda ids, start, cut: _labels(ids, 0, len(ids) - 1 - cut))
@catches("unshifted loss", _unshifted)
@catches(
    "end of turn is trained after a cut-off response",
    lambda ids, start, cut: _labels(ids, start, len(ids) - 1),
)
@catches("end of turn is never trained", lambda ids, start, cut: _labels(ids, start, len(ids) - 2))
@catches(
    "first token of the response is lost",
    lambda ids, start, cut: _labels(ids, start + 1, len(ids) - 1 - cut),
)
def labels_of(answer: Callable[[Sequence[int], int, bool], Any]) -> None:
    """For every position the token that it learns: of the response, and a true end of turn."""
    ids, start = [11, 12, 13, 21, 22, 99], 3  # prompt, response, end of turn
    got = [int(label) for label in answer(ids, start, False)]
    if len(got) != len(ids):
        raise Wrong(f"There are {len(ids)} positions and {len(got)} labels; label every position.")
    if got[start] == ids[start]:
        raise Wrong(f"Position {start} learns its own token, which it has read: unshifted loss.")
    if any(label in ids[1:start] for label in got):
        raise Wrong(f"Positions before {start - 1} carry labels: the prompt is trained too.")
    if got[start - 1] != ids[start]:
        raise Wrong(f"No position learns {ids[start]}: the first token of the response is lost.")
    if got[-2] != ids[-1]:
        raise Wrong("The whole response ends by itself, but the end of turn is never trained.")
    cut = [int(label) for label in answer(ids, start, True)]
    if ids[-1] in cut:
        raise Wrong("Stopped, yet the end of turn is trained after a cut-off response.")
    whole = [IGNORE, IGNORE, 21, 22, 99, IGNORE]
    if got != whole or cut != [*whole[:-2], IGNORE, IGNORE]:
        raise Wrong(f"Wanted {whole}, without 99 if cut off; you give {got} and {cut}.")


def _divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p ‖ q) of two tables of log-probabilities, row by row."""
    return (p.exp() * (p - q)).sum(-1)


def _kl(logits: Tensor, teacher: Tensor, axis: int = -1) -> Tensor:
    return _divergence(teacher, logits.log_softmax(axis))


def mean_divergence(logits: Tensor, teacher: Tensor) -> Tensor:
    """Mean over positions of KL(teacher ‖ student), from logits and the teacher's logarithms."""
    return _kl(logits, teacher).mean()


def _swapped(logits: Tensor, teacher: Tensor) -> Tensor:
    return _divergence(logits.log_softmax(-1), teacher).mean()


def _cross_entropy(logits: Tensor, teacher: Tensor) -> Tensor:
    return -(teacher.exp() * logits.log_softmax(-1)).sum(-1).mean()


@catches("softmax over the wrong axis", lambda logits, teacher: _kl(logits, teacher, 0).mean())
@catches("the two distributions are swapped", _swapped)
@catches("not averaged over the tokens", lambda logits, teacher: _kl(logits, teacher).sum())
@catches(
    "averaged over the vocabulary too", lambda x, teacher: _kl(x, teacher).mean() / x.shape[-1]
)
@catches("cross-entropy, not divergence", _cross_entropy)
@catches("carries no gradient", lambda logits, teacher: _kl(logits, teacher).mean().detach())
def soft_loss(answer: Callable[[Tensor, Tensor], Any]) -> None:
    """Mean over positions of KL(teacher ‖ student), from logits and the teacher's logarithms."""
    teacher = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3]]).log()
    student = teacher + torch.tensor([[3.0], [-1.0]])  # a softmax sees no constant
    agreed = float(answer(student, teacher))
    entropy = float(-(teacher.exp() * teacher).sum(-1).mean())
    refuse(agreed, {"Who agrees should lose 0: this is cross-entropy, not divergence.": entropy})
    if not same(agreed, 0, 1e-5):
        raise Wrong(f"The student agrees and loses {agreed:.3g}: softmax over the wrong axis?")
    sure, torn = (torch.tensor([[a, b, 1e-9]] * 4).log() for a, b in ((0.9, 0.1), (0.5, 0.5)))
    got = float(answer(torn, sure))
    right = 0.9 * math.log(1.8) + 0.1 * math.log(0.2)
    swapped = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    mistaken = {
        f"The loss is {right:.3f}, not {got:.3f}: the two distributions are swapped.": swapped,
        "Four equal positions lose four times as much: not averaged over the tokens.": 4 * right,
        f"A third of {right:.3f}, by three words: averaged over the vocabulary too.": right / 3,
    }
    refuse(got, mistaken)
    if not same(got, right):
        raise Wrong(f"Teacher .9 and .1, student .5 and .5 lose {right:.3f}; you give {got:.3f}.")
    if not same(answer(torch.cat([torn[:1], sure[:3]]), sure), right / 4):
        raise Wrong("One position of four loses something: take the mean over all, no median.")
    if not getattr(answer(torn.requires_grad_(), sure), "requires_grad", False):
        raise Wrong("The loss carries no gradient, so nothing could be learned: stay in torch.")


def rate_of_step(step: int, steps: int, lr: float, warmup: int, floor: float) -> float:
    """The rate of one step: linear warm-up to `lr`, then a cosine down to `floor` × `lr`."""
    return TrainConfig(steps, lr=lr, warmup=warmup, floor=floor).learning_rate(step)


def _rate(late: int = 1, wait: bool = True, low: float | None = None) -> Callable[..., float]:
    """An answer whose warm-up counts from `late`, and whose cosine waits for its end."""

    def answer(step: int, steps: int, lr: float, warmup: int, floor: float) -> float:
        if step < warmup and late >= 0:
            return lr * (step + late) / warmup
        done = (step - warmup) / (steps - warmup) if wait else step / steps
        least = floor if low is None else low
        return lr * (least + (1 - least) * (1 + math.cos(math.pi * done)) / 2)

    return answer


@catches("no warm-up", _rate(late=-1, wait=False))
@catches("first step is lost", _rate(late=0))
@catches("floor is ignored", _rate(low=0.0))
@catches("the cosine begins before the warm-up has ended", _rate(wait=False))
def learning_rate(answer: Callable[[int, int, float, int, float], float]) -> None:
    """The rate of one step: linear warm-up to `lr`, then a cosine down to `floor` × `lr`."""
    settings = (100, 2.0, 20, 0.1)  # steps, lr, warmup, floor
    first, top, last = (float(answer(step, *settings)) for step in (0, 20, 100))
    if first == 0:
        raise Wrong("Step 0 has rate 0: the first step is lost. Count from one.")
    if first > 1:
        raise Wrong(f"Step 0 starts with rate {first:g} of 2: no warm-up.")
    if same(last, 0):
        raise Wrong("At the end the rate is 0, not a tenth of lr: the floor is ignored.")
    if top > 2.001:
        raise Wrong(f"After the warm-up the rate is {top:.3f}; it should fall from 2, which is lr.")
    if not same(top, 2.0):
        raise Wrong(f"Rate {top:.3f}, not 2: the cosine begins before the warm-up has ended.")
    for step in (0, 7, 19, 20, 60, 99):
        got = float(answer(step, *settings))
        right = TrainConfig(100, lr=2.0, warmup=20, floor=0.1).learning_rate(step)
        if not same(got, right):
            raise Wrong(f"Step {step} of 100 has rate {right:.4f}; you give {got:.4f}.")


def give_strangers_targets(rows: list[dict]) -> list[dict]:
    """The same clips in the same order, each with the target of another description."""
    draw = np.random.default_rng(0)
    partners = []
    for row in rows:
        strangers = [one for one in rows if one["seed_description"] != row["seed_description"]]
        partners.append(strangers[draw.integers(len(strangers))])
    return _with_targets_of(rows, partners)


def _with_targets_of(rows: list[dict], others: list[dict]) -> list[dict]:
    return [{**other, "id": row["id"]} for row, other in zip(rows, others, strict=True)]


def _nearly_one(rows: list[dict]) -> list[dict]:
    first, second = rows[0], rows[1]
    return _with_targets_of(rows, [second, *[first] * (len(rows) - 1)])


@catches("clips move along with their targets", lambda rows: [*rows[1:], rows[0]])
@catches("some keep their own target", lambda rows: _with_targets_of(rows, rows[::-1]))
@catches("one target for every clip", _nearly_one)
@catches("targets are gone", lambda rows: [{**row, "response": ""} for row in rows])
def mispaired(answer: Callable[[list[dict]], list[dict]]) -> None:
    """The same clips in the same order, each with the target of another description."""
    # Men stand at 1, 2 and 4 of 7: whatever the shift, one of them meets another.
    facts = ["a woman", "a man", "a man", "a boy", "a man", "a bird", "a dog"]
    heard = [
        {"seed_description": fact, "response": f"{i}: {fact}."} for i, fact in enumerate(facts)
    ]
    rows = [{"id": f"clip{i}", "prompt": f"What is {i}?", **one} for i, one in enumerate(heard)]
    given = [dict(row) for row in rows]
    got = list(answer(given))
    if given != rows:
        raise Wrong("Afterwards the rows handed in were changed; return new ones.")
    if [row["id"] for row in got] != [row["id"] for row in rows]:
        raise Wrong("The order of clips changed: clips move along with their targets.")
    known = {row["response"] for row in rows}
    if not {row["response"] for row in got} <= known:
        raise Wrong("The targets are gone: every response should be another clip's, as written.")
    came_from = {row["response"]: row for row in rows}
    others = [came_from[row["response"]] for row in got]
    pairs = zip(others, rows, strict=True)
    own = [row["id"] for o, row in pairs if o["seed_description"] == row["seed_description"]]
    if own:
        raise Wrong(
            f"{', '.join(own)}: some keep their own target, or one of an equal description."
        )
    if got != [{**o, "id": row["id"]} for o, row in zip(others, rows, strict=True)]:
        raise Wrong("A response came without its description, or prompt: move all but the id.")
    if len({row["response"] for row in got}) <= 2:
        raise Wrong("There is nearly one target for every clip; spread them.")
