"""Checks of notebook 08: attention over time, a span, other weights, attribution."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from desta_lab.analysis.evidence import score_profile
from desta_lab.clips import Span
from desta_lab.course.checks import Wrong, catches, expect
from desta_lab.course.checks.notebook_02 import weigh_frames

Weights = dict[str, Tensor]
Scalar = Callable[[Tensor], Tensor]


@catches("Softmax over the wrong axis: the queries.", partial(weigh_frames, axis=-2))
@catches("A query's weights sum to 1: softmax over the heads.", partial(weigh_frames, axis=0))
@catches("Too sharp: not scaled by the root of the head's width.", partial(weigh_frames, power=0.0))
@catches("Too flat: scaled by the width, not by its root.", partial(weigh_frames, power=1.0))
@catches("These are inner products: no softmax yet.", lambda q, k: q @ k.transpose(-1, -2) / 4)
def attention_over_time(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Attention weights of query tokens over frames."""
    draw = torch.Generator().manual_seed(0)
    given = torch.randn(2, 3, 16, generator=draw), torch.randn(2, 5, 16, generator=draw)
    fault = "Softmax over frames of the inner products over the root of the width, here 4."
    axes = "(head, query, frame)"
    expect(attention_over_time, answer, weigh_frames, fault, given, axes=axes)


def _mass(profile: np.ndarray, start: float, end: float, seconds: float) -> float:
    rate, positive = len(profile) / seconds, profile.clip(min=0)
    return float(positive[round(start * rate) : round(end * rate)].sum() / positive.sum())


def _signed_mass(profile: np.ndarray, start: float, end: float, seconds: float) -> float:
    rate = len(profile) / seconds
    return float(profile[round(start * rate) : round(end * rate)].sum() / profile.sum())


def measure_mass(profile: np.ndarray, start: float, end: float, seconds: float) -> float:
    """Share of a profile's positive weight inside a span, minus the span's share of frames."""
    scored = score_profile(profile, [Span("", start, end)], seconds)
    return scored["mass"] - scored["share"]


def _minus_time(profile: np.ndarray, start: float, end: float, seconds: float) -> float:
    return _mass(profile, start, end, seconds) - (end - start) / seconds


@catches("A flat profile scores above 0: the span's share not subtracted.", _mass)
@catches(
    "Second 4 is frame 40 of these 40, not frame 4: frames used as seconds.",
    lambda profile, start, end, seconds: (
        _mass(profile, start, end, float(len(profile))) - (end - start) / seconds
    ),
)
@catches(
    "Weight against is taken off; it counts as 0.",
    lambda one, *span: _signed_mass(one, *span) - (_mass(one, *span) - measure_mass(one, *span)),
)
@catches("Weight against counts as well.", lambda profile, *span: measure_mass(abs(profile), *span))
@catches("This is a sum, not a share.", lambda one, *span: measure_mass(one, *span) * one.sum())
@catches("You subtract the share of time, not of frames.", _minus_time)
def mass_above_share(answer: Callable[[np.ndarray, float, float, float], float]) -> None:
    """Share of a profile's positive weight inside a span, minus the span's share of frames."""
    flat, late = np.ones(40), np.r_[np.zeros(20), np.ones(20)]
    against = np.r_[2 * np.ones(20), -np.ones(20)]
    cases = [(flat, 1.0, 2.0, 4.0), (7 * late, 2.0, 4.0, 4.0), (against, 0.0, 2.0, 4.0)]
    fault = "From {1} s to {2} s of {3} s it is {right}, not {got}"
    expect(mass_above_share, answer, measure_mass, f"{fault}.", *cases)
    cases = [(one, 2.48, 4.52, 10.0) for one in (np.ones(10), *np.eye(10))]
    fault += ": count frames by their middles."
    expect(mass_above_share, answer, measure_mass, fault, *cases)


def _dealt(tensor: Tensor) -> Tensor:
    return tensor.flatten()[torch.randperm(tensor.numel())]


def _each(change: Callable[[Tensor], Tensor]) -> Callable[[Weights], Weights]:
    return lambda weights: {name: change(tensor) for name, tensor in weights.items()}


deal_numbers = _each(lambda x: _dealt(x).view_as(x))  # every tensor's, in random order


def _in_one_order(weights: Weights) -> Weights:
    order = torch.randperm(max(tensor.numel() for tensor in weights.values()))
    return {
        name: tensor.flatten()[order[order < tensor.numel()]].view_as(tensor)
        for name, tensor in weights.items()
    }


@catches("one order for all tensors", _in_one_order)
@catches("new numbers, not the old ones in another order", _each(torch.randn_like))
@catches("only whole rows change places", _each(lambda rows: rows.flip(0)))
@catches("nothing was moved", _each(torch.clone))
@catches("work on a copy, not in place", _each(lambda x: x.copy_(_dealt(x).view_as(x))))
@catches("the shape is lost", _each(_dealt))
def scrambled(answer: Callable[[Weights], Weights]) -> None:
    """Weights with every tensor's numbers in random order."""
    weights = {"proj": torch.arange(60.0).view(6, 10)}
    weights |= {name: torch.arange(40.0) for name in ("bias", "scale")}
    got = answer(weights)
    if not isinstance(got, dict):
        raise Wrong(f"Return a dictionary; yours is a {type(got).__name__}.")
    if set(got) != set(weights):
        raise Wrong(f"Each of {', '.join(weights)} needs a tensor; you have {', '.join(got)}.")
    for name, tensor in weights.items():
        if not isinstance(got[name], Tensor):
            raise Wrong(f"{name} is a {type(got[name]).__name__} now; give a tensor.")
        if got[name].shape != tensor.shape:
            raise Wrong(f"{name} is {tuple(got[name].shape)} now: the shape is lost.")
        turned = tensor.flatten().flip(0).view_as(tensor)
        if tensor.dim() > 1 and torch.equal(got[name].to(tensor), turned):
            raise Wrong(f"{name} stands in reverse, which is no random order.")
        if not torch.equal(got[name].to(tensor).flatten().sort().values, tensor.flatten()):
            raise Wrong(f"{name} holds new numbers, not the old ones in another order.")
        if torch.equal(got[name], tensor):
            raise Wrong(f"{name} is what it was: nothing was moved.")
    proj = got["proj"].to(weights["proj"])
    if torch.equal(proj - proj[:, :1], torch.arange(10.0).expand_as(proj)):
        raise Wrong("Rows of proj are whole: only whole rows change places. Deal every number.")
    if torch.equal(proj.sort(dim=1).values.sort(dim=0).values, weights["proj"]):
        raise Wrong("Numbers of proj stay in their rows. Deal all numbers of a tensor at once.")
    if torch.equal(got["proj"].sort(dim=0).values, weights["proj"]):
        raise Wrong("Numbers of proj stay in their columns. Deal all numbers of a tensor at once.")
    if torch.equal(got["bias"], got["scale"]):
        raise Wrong("bias and scale are dealt alike: one order for all tensors. Draw one for each.")


def _gradients(
    times: Callable[[Tensor, Tensor], Tensor] = torch.sub,
    reduce: Callable[[Tensor, int], Tensor] = torch.mean,
    from_zero: bool = False,
    end_only: bool = False,
) -> Callable[[Scalar, Tensor, Tensor, int], Tensor]:
    """An answer that averages gradients along the way from absent to given, with one fault."""

    def answer(scalar: Scalar, given: Tensor, absent: Tensor, steps: int) -> Tensor:
        shares = torch.ones(1) if end_only else (torch.arange(steps) + 0.5) / steps
        start = torch.zeros_like(absent) if from_zero else absent
        points = start + shares.view(-1, *[1] * (given.dim() - 1)) * (given - start)
        points.requires_grad_()
        (slopes,) = torch.autograd.grad(scalar(points).sum(), points)
        return reduce(slopes, 0) * times(given, absent)[0]

    return answer


collect_slopes = _gradients()


_TWO_AXES = "A feature may have two axes (query, width): give `shares` as many axes as `given` has."


def _in_one_column(scalar: Scalar, given: Tensor, absent: Tensor, steps: int) -> Tensor:
    """Gradients at points that only features of one axis have."""
    shares = (torch.arange(steps) + 0.5)[:, None] / steps
    points = (absent + shares * (given - absent)).requires_grad_()
    (slopes,) = torch.autograd.grad(scalar(points).sum(), points)
    return slopes.mean(0) * (given - absent)[0]


@catches("Gradient at the end point only: walk the whole way.", _gradients(end_only=True))
@catches("The baseline left out of the difference.", _gradients(times=lambda given, absent: given))
@catches("The sign is turned: x − x₀.", _gradients(times=lambda given, absent: absent - given))
@catches(
    "These are the slopes alone: multiply them by x − x₀.",
    _gradients(times=lambda given, absent: torch.ones_like(given)),
)
@catches("Twice the steps give twice: not averaged over steps.", _gradients(reduce=torch.sum))
@catches("The sum is another: the way begins at zero.", _gradients(from_zero=True))
@catches(
    "Divided by the steps twice: take the gradient of the sum of the scalars, not of their mean.",
    _gradients(reduce=lambda slopes, axis: slopes.mean(axis) / len(slopes)),
)
@catches(_TWO_AXES, _in_one_column)
def integrated_gradients(answer: Callable[[Scalar, Tensor, Tensor, int], Tensor]) -> None:
    """What every part adds to a scalar, along the straight way from absent to given."""
    given, absent = torch.tensor([[3.0, 1.0, -1.0]]), torch.tensor([[1.0, 1.0, 2.0]])

    def scalar(x: Tensor) -> Tensor:
        return x[:, 0] ** 2 * x[:, 2] + 5 * x[:, 1]

    def plain(*case: Any) -> Tensor:
        got = answer(*case)
        if isinstance(got, tuple):
            raise Wrong("This is a tuple; return the tensor that stands in it.")
        parts = torch.as_tensor(got).detach()
        return parts[0] if parts.shape == case[1].shape else parts  # (1, *feature) will do

    fault = "Average the gradients in the middle of each part of the way; with one, half way."
    cases = [(scalar, given, absent, steps) for steps in (64, 1)]
    expect(integrated_gradients, plain, collect_slopes, fault, *cases, axes="(feature)")
    # As in the notebook, where the features are (query, width): here two queries of width 3.
    wide = [torch.stack([x, 2 * x], 1) for x in (given, absent)]
    case = (lambda x: scalar(x[:, 0]) - scalar(x[:, 1]), *wide, 2)
    try:
        expect(integrated_gradients, plain, collect_slopes, fault, case, axes="(query, width)")
    except (IndexError, RuntimeError, ValueError) as error:
        raise Wrong(f"{_TWO_AXES} Yours stops. ({error})") from None


def delete_parts(of: Scalar, worth: Tensor, descending: bool = True) -> Tensor:
    """The scalar while parts are taken away, by default the most important first."""
    rank = worth.argsort(descending=descending).argsort()
    return of(rank >= torch.arange(len(worth) + 1)[:, None])


def _sum_of_kept(worth: Tensor, kept: Any) -> Tensor:
    if not isinstance(kept, Tensor) or kept.dim() != 2:
        raise Wrong("`of` takes a tensor of booleans (batch, part), and no other: give it that.")
    return kept.float() @ worth


def _one_at_a_time(of: Scalar, worth: Tensor) -> Tensor:
    alone = ~torch.eye(len(worth)).bool()[worth.argsort(descending=True)]
    return torch.cat([of(torch.ones(1, len(worth)).bool()), of(alone)])


@catches("It falls late: the least important first.", partial(delete_parts, descending=False))
@catches("It is put back instead of taken away.", lambda of, w: delete_parts(of, w, False).flip(0))
@catches("Five parts, six points: the untouched clip is missing.", lambda *o: delete_parts(*o)[1:])
@catches("At the end four of five parts are left: only one part at a time.", _one_at_a_time)
@catches(
    "Ranks and positions mixed up: argsort says which part comes next, not when a part does.",
    lambda of, worth: of(worth.argsort(descending=True) >= torch.arange(len(worth) + 1)[:, None]),
)
@catches("What speaks against goes last, however it weighs.", lambda o, w: delete_parts(o, w.abs()))
def deletion_curve(answer: Callable[[Scalar, Tensor], Any]) -> None:
    """The scalar while the parts are taken away, the most important first."""
    cases = []
    for second in (8.0, -8.0):
        worth = torch.tensor([0.1, second, 2.0, 4.0, 1.0])
        cases.append((partial(_sum_of_kept, worth), worth))
    expect(deletion_curve, answer, delete_parts, "The curve is {right}, and yours {got}.", *cases)
