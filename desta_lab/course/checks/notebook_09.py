"""Checks of notebook 09: a rule for JSON, the forgetting rate, a nudged weight, a low-rank path."""

import ast
import copy
import json
from collections.abc import Callable

import torch
from torch import Tensor, nn

from desta_lab.course.checks import Wrong, catches, expect_shape, refuse, same

_JSON = '{"background": "rain"}'
_FENCED = f"```json\n{_JSON}\n```"


def _readable(answer: str, read: Callable[[str], object]) -> bool:
    try:
        read(answer)
    except (ValueError, SyntaxError):
        return False
    return True


def _bare(answer: str) -> bool:
    return _readable(answer, json.loads)


def _fenced(answer: str) -> bool:
    text = answer.strip().removeprefix("```").removesuffix("```").strip()
    return _bare(text.removeprefix("json"))


def _somewhere(answer: str) -> bool:
    return _bare(answer[max(answer.find("{"), 0) : answer.rfind("}") + 1])


@catches("a code fence is refused", _bare)
@catches("braces are taken for JSON", lambda text: text.strip().strip("`json\n").startswith("{"))
@catches("an unreadable answer raises", lambda text: json.loads(text.strip("`json \n")) is not None)
@catches("JSON somewhere in the answer is enough", _somewhere)
@catches("is Python and no JSON", lambda text: _readable(text, ast.literal_eval) or _fenced(text))
@catches("only objects obey", lambda text: _fenced(text) and "{" in text)
def obeys_json(answer: Callable[[str], bool]) -> None:
    """Whether the whole of an answer is one JSON value, in a code fence or not."""
    try:
        plain = answer("The background sound is rain.")
    except ValueError as error:
        raise Wrong("On plain words an unreadable answer raises; return False.") from error
    if plain:
        raise Wrong("“The background sound is rain.” is no JSON, and you say that it obeys.")
    if not answer(_JSON):
        raise Wrong(f"{_JSON} is JSON, and you say that it does not obey.")
    if answer("{background: rain}"):
        raise Wrong("“{background: rain}” cannot be read: braces are taken for JSON.")
    if answer(f"Sure! Here it is: {_JSON}"):
        raise Wrong("“Sure! Here it is: {…}” obeys: JSON somewhere in the answer is enough?")
    if not all(map(answer, (_FENCED, _FENCED.replace("json", ""), f"\n{_FENCED} "))):
        raise Wrong("JSON between ``` and ``` does not obey: a code fence is refused. Take it off.")
    if not all(map(answer, ("0", "null", "false", "[]", '"rain"', "```\n[1, 2]\n```"))):
        raise Wrong("0, null, [] and “rain” in quotes are JSON values, too: only objects obey?")
    if answer("{'background': 'rain'}"):
        raise Wrong("{'background': 'rain'} is Python and no JSON, and you say that it obeys.")


def share_lost(if_audio: float, if_text: float) -> float:
    """The forgetting rate Δ as a share: 0 is nothing lost, −1 everything."""
    return (if_audio - if_text) / if_text


@catches("divided by the audio rate", lambda if_audio, if_text: (if_audio - if_text) / if_audio)
@catches("the sign is turned", lambda if_audio, if_text: (if_text - if_audio) / if_text)
@catches("a difference, not a rate", lambda if_audio, if_text: if_audio - if_text)
@catches("a gain is 0", lambda if_audio, if_text: min(0.0, (if_audio - if_text) / if_text))
@catches("what is kept, not what is lost", lambda if_audio, if_text: if_audio / if_text)
def forgetting_rate(answer: Callable[[float, float], float]) -> None:
    """The change from text to audio, relative to text."""
    if same(answer(0.6, 0.8), 0.75):
        raise Wrong("From 0.8 to 0.6 you give 0.75: what is kept, not what is lost.")
    got = float(answer(0.4, 0.8))  # half of it is lost
    mistaken = {
        "Δ is −1, everything, where half is lost: divided by the audio rate.": -1.0,
        "Half of 0.8 is lost, and Δ is −0.4: a difference, not a rate.": -0.4,
        "From 0.8 to 0.4 you give +0.5: the sign is turned. A loss is negative.": 0.5,
    }
    refuse(got, mistaken)
    if not same((got, answer(0.9, 0.9)), (-0.5, 0)):
        raise Wrong(f"0.8 to 0.4 is −0.5, equal rates 0; not {got:g} and {answer(0.9, 0.9):g}.")
    if not same(answer(0.9, 0.6), 0.5):
        raise Wrong("From 0.6 to 0.9 is +0.5, and yours says that a gain is 0. Do not clip it.")


@torch.no_grad()
def _changed(module: nn.Module, change: Callable[[Tensor], object]) -> nn.Module:
    change(next(module.parameters()).view(-1))
    return module


def _copied(change: Callable[[Tensor], object]) -> Callable[[nn.Module], nn.Module]:
    return lambda module: _changed(copy.deepcopy(module), change)


def nudge(module: nn.Module) -> nn.Module:
    """A copy of a module of which the first number is larger by one."""
    return _changed(copy.deepcopy(module), lambda weights: weights[0].add_(1))


@catches("the module itself was changed", lambda module: _changed(module, lambda x: x[0].add_(1)))
@catches("the change is rounded away", _copied(lambda weights: weights[0].add_(1e-6)))
@catches("more than one number was changed", _copied(lambda weights: weights.add_(1)))
def nudged(answer: Callable[[nn.Module], nn.Module]) -> None:
    """A copy of a module that differs from it in one number."""
    module = nn.Linear(3, 2).to(torch.bfloat16)
    for parameter in module.parameters():
        nn.init.ones_(parameter)  # one and a millionth is one in bfloat16
    other = answer(module)
    if any((parameter != 1).any() for parameter in module.parameters()):
        raise Wrong("After your call the module itself was changed; work on a copy.")
    pairs = zip(module.state_dict().values(), other.state_dict().values(), strict=True)
    changed = sum(int((a != b).sum()) for a, b in pairs)
    if changed == 0:
        raise Wrong("The copy is equal: nothing was added, or the change is rounded away. Add 1.")
    if changed > 1:
        raise Wrong(f"{changed} numbers differ: more than one number was changed.")


def add_detour(x: Tensor, W: Tensor, A: Tensor, B: Tensor, alpha: float) -> Tensor:
    """What a layer with a low-rank detour gives."""
    return x @ W.T + alpha / len(A) * (x @ A.T @ B.T)


@catches("not scaled", lambda x, W, A, B, alpha: x @ W.T + x @ A.T @ B.T)
@catches("scaled by alpha alone", lambda x, W, A, B, alpha: x @ W.T + alpha * (x @ A.T @ B.T))
@catches("the frozen path is missing", lambda x, W, A, B, alpha: alpha / len(A) * (x @ A.T @ B.T))
@catches("A and B are swapped", lambda x, W, A, B, alpha: x @ W.T + alpha / len(A) * (x @ B @ A))
@catches("W was scaled too", lambda x, W, A, B, alpha: alpha / len(A) * (x @ W.T + x @ A.T @ B.T))
def lora_forward(answer: Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]) -> None:
    """What a layer with a low-rank detour gives."""
    draw, shapes = torch.Generator().manual_seed(0), ((3, 6), (6, 6), (2, 6), (6, 2))
    x, W, A, B = (torch.randn(*shape, generator=draw) for shape in shapes)
    frozen, detour, alpha = x @ W.T, x @ A.T @ B.T, 9.0  # alpha / r is 4.5
    got = answer(x, W, A, B, alpha)
    mistaken = {
        "The detour is added as it is: not scaled. Multiply it by alpha / r.": frozen + detour,
        "The detour is scaled by alpha alone. Divide by the rank of A.": frozen + alpha * detour,
        "Only the detour comes back: the frozen path is missing. Add x through W.": 4.5 * detour,
        "W was scaled too; only the detour is multiplied by alpha / r.": 4.5 * (frozen + detour),
        "x meets B first: A and B are swapped. A takes x down.": frozen + 4.5 * (x @ B @ A),
    }
    refuse(got, mistaken)
    if not same(got, frozen + 4.5 * detour):
        raise Wrong("This is not what W gives plus the scaled detour; look at every shape.")
    expect_shape(answer(x, W[:4], A, B[:4], alpha), (3, 4), "(row, width out)")
    if not same(answer(x, W, A, torch.zeros_like(B), alpha), frozen):
        raise Wrong("With B of zeros a layer should give what W alone gives.")
