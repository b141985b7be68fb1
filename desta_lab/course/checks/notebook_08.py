"""Checks of notebook 08: attention over time, weight on a span, dealt weights, integrated gradients, deletion."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from desta_lab.course.checks import Wrong, check

# ---- where it looks ----


def _weights(over: int = -1, scale: float | None = None) -> Callable[[Tensor, Tensor], Tensor]:
    def of(q: Tensor, k: Tensor) -> Tensor:
        return (q @ k.transpose(-1, -2) / (scale or q.shape[-1] ** 0.5)).softmax(over)

    return of


@check(
    wrong={
        "softmax over the wrong axis": _weights(over=-2),
        "softmax over the heads": _weights(over=0),
        "not scaled": _weights(scale=1.0),
        "scaled by the width, not by its root": lambda q, k: (
            q @ k.transpose(-1, -2) / q.shape[-1]
        ).softmax(-1),
        "no softmax yet": lambda q, k: q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5,
    }
)
def attention_over_time(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Attention weights of query tokens over frames."""
    draw = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 3, 16, generator=draw), torch.randn(2, 5, 16, generator=draw)
    got = answer(q, k)
    if got.shape != (2, 3, 5):
        raise Wrong(
            f"2 heads, 3 query tokens, 5 frames: the shape should be (2, 3, 5); yours is {tuple(got.shape)}."
        )
    if (got < 0).any():
        raise Wrong("A weight is negative: no softmax yet.")
    for axis, name in ((1, "softmax over the wrong axis"), (0, "softmax over the heads")):
        if torch.allclose(got.sum(axis), torch.ones(())) and not torch.allclose(
            got.sum(-1), torch.ones(())
        ):
            raise Wrong(
                f"What one query token gives to all frames should sum to 1; {name}: here axis {axis} sums to 1."
            )
    ratio = float((got[0, 0, 0] / got[0, 0, 1]).log() / (q[0, 0] @ (k[0, 0] - k[0, 1])))
    if np.isclose(ratio, 1, rtol=1e-3):
        raise Wrong(
            "The weights are too sharp: not scaled. Divide by the root of the width of a head."
        )
    if np.isclose(ratio, 1 / 16, rtol=1e-3):
        raise Wrong("The weights are too flat: scaled by the width, not by its root.")
    if not (np.isclose(ratio, 1 / 4, rtol=1e-3) and torch.allclose(got.sum(-1), torch.ones(()))):
        raise Wrong(
            "Softmax over frames of the inner products over the root of the head's width (16 here, so 4)."
        )


def _mass(profile: np.ndarray, start: float, end: float, seconds: float) -> float:
    rate, positive = len(profile) / seconds, profile.clip(min=0)
    return float(positive[round(start * rate) : round(end * rate)].sum() / positive.sum())


@check(
    wrong={
        "share of time not subtracted": _mass,
        "frames used as seconds": lambda profile, start, end, seconds: (
            profile[int(start) : int(end)].clip(min=0).sum() / profile.clip(min=0).sum()
            - (end - start) / seconds
        ),
        "weight against counts as well": lambda profile, start, end, seconds: (
            _mass(np.abs(profile), start, end, seconds) - (end - start) / seconds
        ),
        "a sum, not a share": lambda profile, start, end, seconds: (
            _mass(profile, start, end, seconds) * profile.clip(min=0).sum()
            - (end - start) / seconds
        ),
    }
)
def mass_above_share(answer: Callable[[np.ndarray, float, float, float], float]) -> None:
    """Share of a profile's positive weight inside a span, minus the share of time that the span has."""
    flat, late = np.ones(40), np.r_[np.zeros(20), np.ones(20)]
    got = float(answer(flat, 1.0, 2.0, 4.0))
    if np.isclose(got, 0.25):
        raise Wrong(
            "A flat profile scores 0.25 on a quarter of the time: the share of time not subtracted."
        )
    if got < 0 and np.isclose(answer(flat, 0.0, 4.0, 4.0), 4 / 40 - 1):
        raise Wrong("Second 4 is frame 40 of these 40, not frame 4: frames used as seconds.")
    if not np.isclose(answer(7 * late, 2.0, 4.0, 4.0), answer(late, 2.0, 4.0, 4.0)):
        raise Wrong("Seven times the profile gives another number: a sum, not a share.")
    against = np.r_[np.ones(20), -np.ones(20)]
    if not np.isclose(answer(against, 0.0, 2.0, 4.0), 0.5):
        raise Wrong(
            "All that speaks for the answer lies in the first half, and scores less: weight against counts as well."
        )
    if not (np.isclose(got, 0) and np.isclose(answer(late, 2.0, 4.0, 4.0), 0.5)):
        raise Wrong(
            "A flat profile should score 0, and one that lies whole in half of the time 0.5."
        )


# ---- other weights ----


def _overwritten(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    for tensor in weights.values():
        tensor.copy_(tensor.flatten()[torch.randperm(tensor.numel())].view_as(tensor))
    return weights


@check(
    wrong={
        "new numbers, not the old ones in another order": lambda weights: {
            name: torch.randn_like(tensor) for name, tensor in weights.items()
        },
        "only whole rows change places": lambda weights: {
            name: tensor[torch.randperm(len(tensor))] for name, tensor in weights.items()
        },
        "nothing was moved": lambda weights: {
            name: tensor.clone() for name, tensor in weights.items()
        },
        "the trained weights were overwritten": _overwritten,
        "the shape is lost": lambda weights: {
            name: tensor.flatten()[torch.randperm(tensor.numel())]
            for name, tensor in weights.items()
        },
    }
)
def scrambled(answer: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Weights with every tensor's numbers in random order."""
    weights = {"proj": torch.arange(60.0).view(6, 10), "bias": torch.arange(40.0)}
    own = {name: tensor.clone() for name, tensor in weights.items()}
    got = answer(weights)
    if any(not torch.equal(weights[name], own[name]) for name in own):
        raise Wrong("Afterwards the trained weights were overwritten; return new tensors.")
    if set(got) != set(own):
        raise Wrong(
            f"There should be a tensor for each of {', '.join(own)}; you have {', '.join(got)}."
        )
    for name, tensor in own.items():
        if got[name].shape != tensor.shape:
            raise Wrong(
                f"{name} had the shape {tuple(tensor.shape)} and has {tuple(got[name].shape)}: the shape is lost."
            )
        if not torch.equal(got[name].flatten().sort().values, tensor.flatten()):
            raise Wrong(
                f"{name} holds new numbers, not the old ones in another order: sizes must stay what they were."
            )
        if torch.equal(got[name], tensor):
            raise Wrong(f"{name} is what it was: nothing was moved.")
    if torch.equal(got["proj"].sort(dim=1).values.sort(dim=0).values, own["proj"]):
        raise Wrong(
            "The rows of proj are still whole: only whole rows change places. Deal every number."
        )


# ---- what the answer hangs on ----

Scalar = Callable[[Tensor], Tensor]


def _path(
    at: Callable[[int], Tensor],
    mean: bool = True,
    times: Callable[[Tensor, Tensor], Tensor] = torch.sub,
    zero: bool = False,
) -> Callable[..., Tensor]:
    def of(scalar: Scalar, given: Tensor, absent: Tensor, steps: int) -> Tensor:
        shares = at(steps).view(-1, *[1] * (given.dim() - 1))
        begin = torch.zeros_like(absent) if zero else absent
        points = (begin + shares * (given - begin)).requires_grad_()
        (slopes,) = torch.autograd.grad(scalar(points).sum(), points)
        return (slopes.mean(0) if mean else slopes.sum(0)) * times(given, absent)[0]

    return of


def _midpoints(steps: int) -> Tensor:
    return (torch.arange(steps) + 0.5) / steps


@check(
    wrong={
        "gradient at the end point only": _path(lambda steps: torch.ones(1)),
        "baseline left out": _path(_midpoints, times=lambda given, absent: given),
        "not averaged over steps": _path(_midpoints, mean=False),
        "the way begins at zero": _path(_midpoints, zero=True),
    }
)
def integrated_gradients(answer: Callable[[Scalar, Tensor, Tensor, int], Tensor]) -> None:
    """What every part adds to a scalar, along the straight way from absent to given."""
    given, absent = torch.tensor([[3.0, 1.0, -1.0]]), torch.tensor([[1.0, 1.0, 2.0]])

    def scalar(x: Tensor) -> Tensor:
        return x[:, 0] ** 2 * x[:, 2] + 5 * x[:, 1]

    got, more = (
        answer(scalar, given.clone(), absent.clone(), steps).detach().reshape(-1)
        for steps in (64, 128)
    )
    if got.shape != (3,):
        raise Wrong(f"Three parts need three numbers; you give {tuple(got.shape)}.")
    if torch.allclose(more, 2 * got, rtol=0.05):
        raise Wrong("Twice the steps give twice the answer: not averaged over steps.")
    if abs(got[1]) > 1e-3:
        raise Wrong(
            "The second part is the same in both and yet gets something: the baseline left out of the difference."
        )
    whole = float((scalar(given) - scalar(absent)).item())
    if np.isclose(float(got[0]), 2 * 3 * -1 * 2, rtol=1e-3):
        raise Wrong(
            f"The parts sum to {got.sum():.1f} and not to {whole:.1f}: this is the gradient at the end point only."
        )
    if not np.isclose(float(got.sum()), whole, rtol=0.02):
        raise Wrong(
            f"The parts sum to {got.sum():.1f}; from absent to given the scalar moves by {whole:.1f}. Perhaps the way "
            "begins at zero, and not at `absent`."
        )


def _taken(of: Scalar, worth: Tensor, descending: bool = True) -> Tensor:
    rank = worth.argsort(descending=descending).argsort()
    return of(rank >= torch.arange(len(worth) + 1)[:, None])


@check(
    wrong={
        "least important first": lambda of, worth: _taken(of, worth, descending=False),
        "put back instead of taken away": lambda of, worth: _taken(
            of, worth, descending=False
        ).flip(0),
        "the untouched clip is missing": lambda of, worth: _taken(of, worth)[1:],
        "only one part at a time": lambda of, worth: torch.cat(
            [
                of(torch.ones(1, len(worth)).bool()),
                of(~torch.eye(len(worth)).bool()[worth.argsort(descending=True)]),
            ]
        ),
        "ranks and positions mixed up": lambda of, worth: of(
            worth.argsort(descending=True) >= torch.arange(len(worth) + 1)[:, None]
        ),
    }
)
def deletion_curve(answer: Callable[[Scalar, Tensor], Any]) -> None:
    """The scalar while the parts are taken away, the most important first."""
    worth = torch.tensor([0.1, 8.0, 2.0, 4.0, 1.0])

    def of(kept: Tensor) -> Tensor:
        return kept.float() @ worth

    got = torch.as_tensor(answer(of, worth)).flatten().float()
    right = _taken(of, worth)
    if len(got) == len(worth):
        raise Wrong(
            "Five parts make six points, from all kept to none: the untouched clip is missing."
        )
    if len(got) != len(right):
        raise Wrong(f"Five parts make six points; you give {len(got)}.")
    if torch.allclose(got, right.flip(0)) or got[0] < got[-1]:
        raise Wrong(
            "The curve begins with nothing and ends with everything: put back instead of taken away."
        )
    if torch.allclose(got, _taken(of, worth, descending=False)):
        raise Wrong("The curve falls late: the least important first.")
    if torch.allclose(got[1:], worth.sum() - worth.sort(descending=True).values):
        raise Wrong(
            "At the end four of five parts are still there: only one part at a time was away."
        )
    if not torch.allclose(got, right):
        raise Wrong(
            f"The second point should lack the part of worth 8: {right[1]:.1f}, not {got[1]:.1f}. Were ranks and "
            "positions mixed up? argsort says who is first; argsort of that says which place each has."
        )
