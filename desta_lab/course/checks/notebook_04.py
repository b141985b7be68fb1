"""Checks of notebook 04: labels, the soft loss, the learning rate, broken pairs."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from desta_lab.course.checks import Wrong, catches, expect
from desta_lab.training.batches import IGNORE
from desta_lab.training.trainer import TrainConfig


def _labels(ids: Sequence[int], first: int, last: int) -> list[int]:
    """Every position that predicts the tokens from `first` up to `last` learns its successor."""
    shifted = [ids[t + 1] if first <= t + 1 <= last else IGNORE for t in range(len(ids) - 1)]
    return [*shifted, IGNORE]


def _shifted(late: int = 0, cut: bool | None = None) -> Callable[..., list[int]]:
    """An answer that begins late, and always or never leaves the last token out."""

    def answer(ids: Sequence[int], start: int, truncated: bool) -> list[int]:
        return _labels(ids, start + late, len(ids) - 1 - (truncated if cut is None else cut))

    return answer


label_response = _shifted()  # the tokens of the response are learned, and a true end of turn


def _unshifted(ids: Sequence[int], start: int, cut: bool) -> list[int]:
    return [token if start <= t < len(ids) - cut else IGNORE for t, token in enumerate(ids)]


@catches("Positions before the response carry labels: the prompt is trained too.", _shifted(-2))
@catches("Positions learn their own token, which they have read: unshifted loss.", _unshifted)
@catches("Stopped, yet the end of turn is trained after a cut-off response.", _shifted(cut=False))
@catches("The response ends by itself, but the end of turn is never trained.", _shifted(cut=True))
@catches("No position learns it: the first token of the response is lost.", _shifted(1))
def labels_of(answer: Callable[[Sequence[int], int, bool], Any]) -> None:
    """For every position the token that it learns: of the response, and a true end of turn."""
    ids = [11, 12, 13, 21, 22, 99]  # prompt, response, end of turn
    fault = "Wanted {right} for {0}; you give {got}."
    expect(labels_of, answer, label_response, fault, (ids, 3, False), (ids, 3, True))
    twice = [11, 99, -1, -1, 12, 99, 21, 12, 21, 99]  # tokens of the response stand before it too
    fault = "A response from {1} on in {0} wants {right}; you give {got}. Go by `start` and by "
    fault += "places: one token may stand at several."
    expect(labels_of, answer, label_response, fault, (twice, 6, False), (twice, 6, True))


def _divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p ‖ q) of two tables of log-probabilities, row by row."""
    return (p.exp() * (p - q)).sum(-1)


def _kl(logits: Tensor, teacher: Tensor, axis: int = -1) -> Tensor:
    return _divergence(teacher, logits.log_softmax(axis))


def mean_divergence(logits: Tensor, teacher: Tensor) -> Tensor:
    """Mean over positions of KL(teacher ‖ student), from logits and the teacher's logarithms."""
    return _kl(logits, teacher).mean()


@catches("Softmax over the wrong axis, the positions.", lambda x, p: _kl(x, p, 0).mean())
@catches(
    "It grows with the student's own confidence: the two distributions are swapped.",
    lambda logits, teacher: _divergence(logits.log_softmax(-1), teacher).mean(),
)
@catches("A sum, not averaged over the tokens.", lambda x, teacher: _kl(x, teacher).sum())
@catches("It is averaged over the vocabulary too.", lambda x, p: _kl(x, p).mean() / x.shape[-1])
@catches(
    "Who agrees should lose 0: this is cross-entropy, not divergence.",
    lambda logits, teacher: -(teacher.exp() * logits.log_softmax(-1)).sum(-1).mean(),
)
@catches(
    "This is no number: the teacher comes as logarithms; is another logarithm taken of them?",
    lambda x, p: (p * (p.log() - x.log_softmax(-1))).sum(-1).mean(),
)
@catches(
    "You weigh by the teacher's logarithms; weigh by its probabilities, teacher.exp().",
    lambda logits, teacher: (teacher * (teacher - logits.log_softmax(-1))).sum(-1).mean(),
)
@catches(
    "The student's logits are taken for log-probabilities: log_softmax makes them such.",
    lambda logits, teacher: _divergence(teacher, logits).mean(),
)
@catches("The sign is turned: no divergence is below 0.", lambda x, p: -_kl(x, p).mean())
@catches("carries no gradient", lambda logits, teacher: _kl(logits, teacher).mean().detach())
def soft_loss(answer: Callable[[Tensor, Tensor], Any]) -> None:
    """Mean over positions of KL(teacher ‖ student), from logits and the teacher's logarithms."""
    teacher = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3]]).log()
    sure, torn = (torch.tensor([[a, b, 1e-9]] * 4).log() for a, b in ((0.9, 0.1), (0.5, 0.5)))
    cases = [
        (teacher + torch.tensor([[3.0], [-1.0]]), teacher),  # a softmax sees no constant
        (torn, sure),
        (torch.cat([torn[:1], sure[:3]]), sure),
    ]
    fault = "The mean over positions is {right}, not {got}; who agrees with the teacher loses 0."
    expect(soft_loss, answer, mean_divergence, fault, *cases)
    if not getattr(answer(torn.requires_grad_(), sure), "requires_grad", False):
        raise Wrong("The loss carries no gradient, so nothing could be learned: stay in torch.")


def rate_of_step(step: int, steps: int, lr: float, warmup: int, floor: float) -> float:
    """The rate of one step: linear warm-up to `lr`, then a cosine down to `floor` × `lr`."""
    return TrainConfig(steps, lr=lr, warmup=warmup, floor=floor).learning_rate(step)


def _rate(
    late: int = 1, wait: bool = True, floors: tuple[bool, bool] = (True, True)
) -> Callable[..., float]:
    """An answer whose warm-up counts from `late`, whose cosine may not wait for its end, and whose
    floor may not be added, or not be taken off the height of the cosine.
    """

    def answer(step: int, steps: int, lr: float, warmup: int, floor: float) -> float:
        if step < warmup and late >= 0:
            return lr * (step + late) / warmup
        done = (step - warmup) / (steps - warmup) if wait else step / steps
        added, taken = (floor * wanted for wanted in floors)
        return lr * (added + (1 - taken) * (1 + math.cos(math.pi * done)) / 2)

    return answer


def _cut_off(step: int, steps: int, lr: float, warmup: int, floor: float) -> float:
    rate = _rate(floors=(False, False))(step, steps, lr, warmup, floor)
    return rate if step < warmup else max(floor * lr, rate)


@catches("Step 0 has the whole rate: no warm-up.", _rate(late=-1, wait=False))
@catches("Step 0 has rate 0: the first step is lost. Count from one.", _rate(late=0))
@catches("At the end the rate is 0: the floor is ignored.", _rate(floors=(False, False)))
@catches("It should fall from 2, which is lr: the floor came on top.", _rate(floors=(True, False)))
@catches("the cosine begins before the warm-up has ended", _rate(wait=False))
@catches("The cosine should end at the floor: yours ends at 0 and is cut off there.", _cut_off)
def learning_rate(answer: Callable[[int, int, float, int, float], float]) -> None:
    """The rate of one step: linear warm-up to `lr`, then a cosine down to `floor` × `lr`."""
    cases = [(step, 100, 2.0, 20, 0.1) for step in (0, 100, 20, 7, 19, 60, 99)]
    fault = "Step {0} of {1} has rate {right}; you give {got}."
    expect(learning_rate, answer, rate_of_step, fault, *cases)
    fault = (
        "With lr {2}, {3} steps of warm-up and floor {4}, step {0} of {1} has rate {right}; you "
    )
    fault += "give {got}. Use what is given, no fixed numbers."
    others = [(step, 40, 0.5, 5, 0.3) for step in (0, 3, 5, 23, 39)]
    expect(learning_rate, answer, rate_of_step, fault, *others)


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
    # Men stand at 1, 2, 4 and 10 of 13: whatever the shift, one of them meets another.
    facts = [f"voice {i}" for i in range(13)]
    for i in (1, 2, 4, 10):
        facts[i] = "a man"
    _judge_pairs(answer, facts, least=3)
    # What is drawn may be right by luck, but not in each of these. No description has more than
    # three of sixty rows, so that a shuffle until all are right comes to an end.
    for seed in range(3):
        many = np.random.default_rng(seed).permutation(np.repeat(np.arange(20), 3))
        _judge_pairs(answer, [f"Speaker {i}." for i in many], least=25)


def _judge_pairs(answer: Callable[[list[dict]], list[dict]], facts: list[str], least: int) -> None:
    """Refuse pairs of rows with these descriptions, or fewer different targets than `least`."""
    heard = [
        {"seed_description": fact, "response": f"{i}: {fact}."} for i, fact in enumerate(facts)
    ]
    rows = [{"id": f"clip{i}", "prompt": f"What is {i}?", **one} for i, one in enumerate(heard)]
    got = list(answer(rows))
    if len(got) != len(rows):
        raise Wrong(f"You give {len(got)} examples for {len(rows)}; every clip gets a target.")
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
        more = " and others" * (len(own) > 3)
        raise Wrong(
            f"{', '.join(own[:3])}{more}: some keep their own target, or one of an equal "
            "description."
        )
    if got != [{**o, "id": row["id"]} for o, row in zip(others, rows, strict=True)]:
        raise Wrong("A response came without its description, or prompt: move all but the id.")
    if (spread := len({row["response"] for row in got})) < least:
        raise Wrong(
            f"{len(rows)} clips share {spread} targets: there is nearly one target for every "
            "clip; spread them."
        )
