"""Checks of notebook 09: a rule for JSON, the forgetting rate, a nudged weight and a low-rank path."""

import copy
import json
from collections.abc import Callable

import torch
from torch import Tensor, nn

from desta_lab.course.checks import Wrong, check

_FENCED = '```json\n{"background": "rain"}\n```'


def _bare(answer: str) -> bool:
    try:
        json.loads(answer)
    except ValueError:
        return False
    return True


@check(
    wrong={
        "a code fence is refused": _bare,
        "braces are taken for JSON": lambda answer: answer.strip().strip("`json\n").startswith("{"),
        "an unreadable answer raises": lambda answer: (
            json.loads(answer.strip("`json \n")) is not None
        ),
        "JSON somewhere in the answer is enough": lambda answer: (
            "{" in answer
            and _bare(answer[answer.index("{") : answer.rindex("}") + 1 if "}" in answer else None])
        ),
    }
)
def obeys_json(answer: Callable[[str], bool]) -> None:
    """Whether the whole of an answer is one JSON value, in a code fence or not."""
    try:
        plain = answer("The background sound is rain.")
    except ValueError as error:
        raise Wrong(
            "On “The background sound is rain.” an unreadable answer raises; return False."
        ) from error
    if plain:
        raise Wrong("“The background sound is rain.” is no JSON, and you say that it obeys.")
    if not answer('{"background": "rain"}'):
        raise Wrong('{"background": "rain"} is JSON, and you say that it does not obey.')
    if answer("{background: rain}"):
        raise Wrong(
            "“{background: rain}” has no quotes and cannot be read: braces are taken for JSON."
        )
    if answer('Sure! Here it is: {"background": "rain"}'):
        raise Wrong(
            "“Sure! Here it is: {…}” obeys for you: JSON somewhere in the answer is enough? The whole must be."
        )
    if not (answer(_FENCED) and answer(_FENCED.replace("json", "")) and answer(f"\n{_FENCED} ")):
        raise Wrong(
            "JSON between ``` and ``` does not obey for you: a code fence is refused. Take it off first."
        )


@check(
    wrong={
        "divided by the audio rate": lambda if_audio, if_text: (if_audio - if_text) / if_audio,
        "the sign is turned": lambda if_audio, if_text: (if_text - if_audio) / if_text,
        "a difference, not a rate": lambda if_audio, if_text: if_audio - if_text,
        "what is kept, not what is lost": lambda if_audio, if_text: if_audio / if_text,
    }
)
def forgetting_rate(answer: Callable[[float, float], float]) -> None:
    """The change from text to audio, relative to text."""
    got = float(answer(0.4, 0.8))  # half of it is lost
    for said, mistake in (
        (-1.0, "Δ is −1, everything, where half is lost: divided by the audio rate."),
        (-0.4, "Half of 0.8 is lost, and Δ is −0.4: a difference, not a rate."),
    ):
        if abs(got - said) < 1e-9:
            raise Wrong(mistake)
    if abs(got - 0.5) < 1e-9:
        kept = abs(float(answer(0.6, 0.8)) - 0.75) < 1e-9
        raise Wrong(
            "From 0.8 to 0.6 you give 0.75: what is kept, not what is lost."
            if kept
            else "From 0.8 to 0.4 you give +0.5: the sign is turned. A loss is negative."
        )
    if abs(got + 0.5) > 1e-9 or abs(float(answer(0.9, 0.9))) > 1e-9:
        raise Wrong(
            f"From 0.8 to 0.4 Δ is −0.5, and between equal rates 0; you give {got:g} and {answer(0.9, 0.9):g}."
        )


def _in_place(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        next(module.parameters()).view(-1)[0] += 1
    return module


def _copied(module: nn.Module, change: Callable[[Tensor], object]) -> nn.Module:
    other = copy.deepcopy(module)
    with torch.no_grad():
        change(next(other.parameters()))
    return other


@check(
    wrong={
        "the module itself was changed": _in_place,
        "the change is rounded away": lambda module: _copied(
            module, lambda weight: weight.view(-1)[0].add_(1e-6)
        ),
        "more than one number was changed": lambda module: _copied(
            module, lambda weight: weight.add_(1)
        ),
    }
)
def nudged(answer: Callable[[nn.Module], nn.Module]) -> None:
    """A copy of a module that differs from it in one number."""
    module = nn.Linear(3, 2).to(torch.bfloat16)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(1.0)  # one and a millionth is one in bfloat16
    other = answer(module)
    if any((parameter != 1).any() for parameter in module.parameters()):
        raise Wrong("After your call the module itself was changed; work on a copy.")
    changed = sum(
        int((a != b).sum())
        for a, b in zip(module.state_dict().values(), other.state_dict().values(), strict=True)
    )
    if changed == 0:
        raise Wrong(
            "Your copy is equal to the module: nothing was added, or the change is rounded away. Add 1."
        )
    if changed > 1:
        raise Wrong(
            f"{changed} numbers differ: more than one number was changed. Write to one place of one tensor."
        )


@check(
    wrong={
        "not scaled": lambda x, W, A, B, alpha: x @ W.T + x @ A.T @ B.T,
        "scaled by alpha alone": lambda x, W, A, B, alpha: x @ W.T + alpha * (x @ A.T @ B.T),
        "the frozen path is missing": lambda x, W, A, B, alpha: alpha / len(A) * (x @ A.T @ B.T),
        "A and B are swapped": lambda x, W, A, B, alpha: x @ W.T + alpha / len(A) * (x @ B @ A),
        "W was scaled too": lambda x, W, A, B, alpha: alpha / len(A) * (x @ W.T + x @ A.T @ B.T),
    }
)
def lora_forward(answer: Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]) -> None:
    """What a layer with a low-rank detour gives."""
    drawn = torch.Generator().manual_seed(0)
    x, W, A, B = (
        torch.randn(*shape, generator=drawn) for shape in ((3, 6), (6, 6), (2, 6), (6, 2))
    )
    straight, detour, alpha = x @ W.T, x @ A.T @ B.T, 8.0  # alpha / r is 4
    got = answer(x, W, A, B, alpha)

    def is_(value: Tensor) -> bool:
        return got.shape == value.shape and torch.allclose(got, value, atol=1e-4)

    if is_(straight + detour):
        raise Wrong("The detour is added as it is: not scaled. Multiply it by alpha / r.")
    if is_(straight + alpha * detour):
        raise Wrong(
            "The detour counts alpha times: scaled by alpha alone. Divide by the rank, the rows of A."
        )
    if is_(4 * detour):
        raise Wrong("Only the detour comes back: the frozen path is missing. Add x through W.")
    if is_(4 * (straight + detour)):
        raise Wrong("W was scaled too; only the detour is multiplied by alpha / r.")
    if is_(straight + 4 * (x @ B @ A)):
        raise Wrong(
            "x goes through B first: A and B are swapped. A takes x down to r numbers, B takes them up."
        )
    if not is_(straight + 4 * detour):
        raise Wrong(
            "For random weights this is not x Wᵀ + alpha / r · x Aᵀ Bᵀ; look at the shapes of each product."
        )
    narrow = answer(x, W[:4], A, B[:4], alpha)
    if narrow.shape != (3, 4) or not torch.allclose(
        answer(x, W, A, torch.zeros_like(B), alpha), straight, atol=1e-5
    ):
        raise Wrong(
            "A layer from 6 to 4 should give rows of 4, and one whose B is zero what W alone gives."
        )
