"""Checks of notebook 04: which tokens are learned, the soft loss, the learning rate, and pairs that are broken."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from desta_lab.course.checks import Wrong, check
from desta_lab.training.batches import IGNORE
from desta_lab.training.trainer import TrainConfig


def _labels(ids: Sequence[int], first: int, last: int) -> list[int]:
    """Every position that predicts the tokens from `first` up to `last` learns its successor."""
    shifted = [ids[t + 1] if first <= t + 1 <= last else IGNORE for t in range(len(ids) - 1)]
    return [*shifted, IGNORE]


@check(
    wrong={
        "the prompt is trained too": lambda ids, start, truncated: _labels(
            ids, 0, len(ids) - 1 - truncated
        ),
        "unshifted loss": lambda ids, start, truncated: [
            token if start <= t < len(ids) - truncated else IGNORE for t, token in enumerate(ids)
        ],
        "end of turn is trained after a cut-off response": lambda ids, start, truncated: _labels(
            ids, start, len(ids) - 1
        ),
        "end of turn is never trained": lambda ids, start, truncated: _labels(
            ids, start, len(ids) - 2
        ),
        "first token of the response is lost": lambda ids, start, truncated: _labels(
            ids, start + 1, len(ids) - 1 - truncated
        ),
    }
)
def labels_of(answer: Callable[[Sequence[int], int, bool], Any]) -> None:
    """For every position the token that it is trained to predict: the response and a true end of turn."""
    ids, start = [11, 12, 13, 21, 22, 99], 3  # prompt, response, end of turn
    got = [int(label) for label in answer(ids, start, False)]
    if len(got) != len(ids):
        raise Wrong(
            f"There are {len(ids)} positions and {len(got)} labels; give every position one."
        )
    if got[start] == ids[start]:
        raise Wrong(
            f"Position {start} is trained on its own token, which it has read: unshifted loss."
        )
    if any(label in ids[1:start] for label in got):
        raise Wrong(f"Positions before {start - 1} carry labels: the prompt is trained too.")
    if got[start - 1] != ids[start]:
        raise Wrong(
            f"Position {start - 1} should learn token {ids[start]}: the first token of the response is lost."
        )
    if got[-2] != ids[-1]:
        raise Wrong("The whole response ends by itself, but the end of turn is never trained.")
    cut = [int(label) for label in answer(ids, start, True)]
    if ids[-1] in cut:
        raise Wrong(
            "The writer was stopped, yet the end of turn is trained after a cut-off response."
        )
    if got != [IGNORE, IGNORE, 21, 22, 99, IGNORE] or cut != [
        IGNORE,
        IGNORE,
        21,
        22,
        IGNORE,
        IGNORE,
    ]:
        raise Wrong(
            f"[11, 12, 13 | 21, 22, 99] should give −100, −100, 21, 22, 99, −100 and not {got}; cut: {cut}."
        )


def _divergence(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL(p ‖ q) of two tables of log-probabilities, row by row."""
    return (p.exp() * (p - q)).sum(-1)


@check(
    wrong={
        "softmax over the wrong axis": lambda logits, teacher: _divergence(
            teacher, logits.log_softmax(0)
        ).mean(),
        "the two distributions are swapped": lambda logits, teacher: _divergence(
            logits.log_softmax(-1), teacher
        ).mean(),
        "not averaged over the tokens": lambda logits, teacher: _divergence(
            teacher, logits.log_softmax(-1)
        ).sum(),
        "averaged over the vocabulary too": lambda logits, teacher: (
            _divergence(teacher, logits.log_softmax(-1)).mean() / logits.shape[-1]
        ),
        "cross-entropy, not divergence": lambda logits, teacher: (
            -((teacher.exp() * logits.log_softmax(-1)).sum(-1).mean())
        ),
    }
)
def soft_loss(answer: Callable[[torch.Tensor, torch.Tensor], Any]) -> None:
    """Mean over positions of KL(teacher ‖ student), from the student's logits and the teacher's log-probabilities."""
    teacher = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3]]).log()
    same = float(
        answer(teacher + torch.tensor([[3.0], [-1.0]]), teacher)
    )  # a softmax sees no constant
    entropy = float(-(teacher.exp() * teacher).sum(-1).mean())
    if np.isclose(same, entropy, atol=1e-4):
        raise Wrong(
            "A student who agrees with the teacher should have loss 0: this is cross-entropy, not divergence."
        )
    if not np.isclose(same, 0, atol=1e-5):
        raise Wrong(
            f"The student agrees with the teacher and the loss is {same:.3g}: softmax over the wrong axis?"
        )
    sure = torch.tensor([[0.9, 0.1, 1e-9]] * 4).log()
    got, right = (
        float(answer(torch.tensor([[0.5, 0.5, 1e-9]] * 4).log(), sure)),
        0.9 * math.log(1.8) + 0.1 * math.log(0.2),
    )
    if np.isclose(got, 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1), atol=1e-4):
        raise Wrong(
            f"KL(.9, .1 ‖ .5, .5) is {right:.3f}, not {got:.3f}: the two distributions are swapped."
        )
    if np.isclose(got, 4 * right, atol=1e-4):
        raise Wrong(
            f"Four equal positions give four times the loss ({got:.3f}): not averaged over the tokens."
        )
    if np.isclose(got, right / 3, atol=1e-4):
        raise Wrong(
            f"{got:.3f} is {right:.3f} over three, the number of words: averaged over the vocabulary too."
        )
    if not np.isclose(got, right, atol=1e-4):
        raise Wrong(
            f"A teacher of .9 and .1 and a student of .5 and .5 should give {right:.3f}; you give {got:.3f}."
        )


def _cosine(done: float) -> float:
    return (1 + math.cos(math.pi * done)) / 2


@check(
    wrong={
        "no warm-up": lambda step, steps, lr, warmup, floor: (
            lr * (floor + (1 - floor) * _cosine(step / steps))
        ),
        "first step is lost": lambda step, steps, lr, warmup, floor: (
            lr * step / warmup
            if step < warmup
            else lr * (floor + (1 - floor) * _cosine((step - warmup) / (steps - warmup)))
        ),
        "floor is ignored": lambda step, steps, lr, warmup, floor: (
            lr * (step + 1) / warmup
            if step < warmup
            else lr * _cosine((step - warmup) / (steps - warmup))
        ),
        "the cosine begins before the warm-up has ended": lambda step, steps, lr, warmup, floor: (
            lr * (step + 1) / warmup
            if step < warmup
            else lr * (floor + (1 - floor) * _cosine(step / steps))
        ),
    }
)
def learning_rate(answer: Callable[[int, int, float, int, float], float]) -> None:
    """The rate of one step: linear warm-up to `lr`, then a cosine down to `floor` × `lr`."""
    how = (100, 2.0, 20, 0.1)  # steps, lr, warmup, floor
    first, top, last = (float(answer(step, *how)) for step in (0, 20, 100))
    if first == 0:
        raise Wrong(
            "Step 0 has rate 0, so nothing is learned in it: the first step is lost. Count from one."
        )
    if first > 1:
        raise Wrong(f"Step 0 starts with rate {first:g} of 2: no warm-up.")
    if np.isclose(last, 0, atol=1e-6):
        raise Wrong("At the end the rate is 0, not a tenth of lr: the floor is ignored.")
    if not np.isclose(top, 2.0):
        raise Wrong(
            f"After the warm-up the rate is {top:.3f}, not 2: the cosine begins before the warm-up has ended."
        )
    for step in (0, 7, 19, 20, 60, 99):
        right = TrainConfig(100, lr=2.0, warmup=20, floor=0.1).learning_rate(step)
        if not np.isclose(float(answer(step, *how)), right):
            raise Wrong(
                f"Step {step} of 100 should have rate {right:.4f}; you give {float(answer(step, *how)):.4f}."
            )


@check(
    wrong={
        "clips move along with their targets": lambda rows: [*rows[1:], rows[0]],
        "some keep their own target": lambda rows: [
            {**other, "id": row["id"]} for row, other in zip(rows, rows[::-1], strict=True)
        ],
        "one target for every clip": lambda rows: [
            {**(rows[0] if row["response"] != rows[0]["response"] else rows[1]), "id": row["id"]}
            for row in rows
        ],
        "targets are gone": lambda rows: [{**row, "response": ""} for row in rows],
    }
)
def mispaired(answer: Callable[[list[dict]], list[dict]]) -> None:
    """The same clips in the same order, each with the target of a clip of another description."""
    facts = ["a woman", "a man", "a girl", "a boy", "a man", "a bird", "a dog"]
    rows = [
        {"id": f"clip{i}", "seed_description": f, "response": f"I hear {f}."}
        for i, f in enumerate(facts)
    ]
    got = list(answer([dict(row) for row in rows]))
    if [row["id"] for row in got] != [row["id"] for row in rows]:
        raise Wrong(
            "The order of the clips changed: where clips move along with their targets, no pair is broken."
        )
    known = {row["response"] for row in rows}
    if any(row["response"] not in known for row in got):
        raise Wrong(
            "The targets are gone: every response should be another clip's, as it was written."
        )
    own = [
        row["id"] for row, was in zip(got, rows, strict=True) if row["response"] == was["response"]
    ]
    if own:
        raise Wrong(
            f"{', '.join(own)}: some keep their own target. Two clips may have the same description, and then the same "
            "target; and the clip in the middle of a list that is turned round keeps its own."
        )
    if len({row["response"] for row in got}) <= 2:
        raise Wrong(
            "There is nearly one target for every clip, so the loss could fall to nothing; spread them."
        )
