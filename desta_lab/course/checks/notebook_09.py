"""Checks of notebook 09: a rule for JSON, the forgetting rate, a nudged weight, a low-rank path."""

import ast
import copy
import json
from collections.abc import Callable

import torch
from torch import Tensor, nn

from desta_lab.course.checks import Wrong, catches, expect, expect_shape

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
@catches("`strip` takes off letters", lambda text: _bare(text.strip("`json \n")))
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
    values = ("0", "false", "[]", '"rain"', "```\n[1, 2]\n```")
    refused = [value for value in values if not answer(value)]
    if refused == [*values[:3]]:
        raise Wrong("0, false and [] are JSON values: return True, not the value that was read.")
    if refused:
        raise Wrong("0, null, [] and “rain” in quotes are JSON values, too: only objects obey?")
    if not answer("null"):
        raise Wrong(
            "null is a JSON value, too. `strip` takes off letters, here the n, where "
            "`removeprefix` takes off a word."
        )
    if answer("{'background': 'rain'}"):
        raise Wrong("{'background': 'rain'} is Python and no JSON, and you say that it obeys.")


def share_lost(if_audio: float, if_text: float) -> float:
    """The forgetting rate Δ as a share: 0 is nothing lost, −1 everything."""
    return (if_audio - if_text) / if_text


@catches("Divided by the audio rate, not by text.", lambda audio, text: (audio - text) / audio)
@catches("The two rates are exchanged.", lambda audio, text: (text - audio) / audio)
@catches("This is in per cent; give a share.", lambda audio, text: 100 * (audio - text) / text)
@catches("The sign is turned: a loss is negative.", lambda audio, text: (text - audio) / text)
@catches("This is a difference, not a rate.", lambda audio, text: audio - text)
@catches("A gain is 0: do not clip it.", lambda audio, text: min(0.0, (audio - text) / text))
@catches("You give what is kept, not what is lost.", lambda audio, text: audio / text)
def forgetting_rate(answer: Callable[[float, float], float]) -> None:
    """The change from text to audio, relative to text."""
    fault = "From {1} to {0} Δ is {right}; you give {got}."
    expect(forgetting_rate, answer, share_lost, fault, (0.6, 0.8), (0.9, 0.9), (0.9, 0.6))
    fault = "From {1} to {0} Δ is {right}; you give {got}: do not round."
    expect(forgetting_rate, answer, share_lost, fault, (0.7, 0.9))


@torch.no_grad()
def _changed(module: nn.Module, change: Callable[[Tensor], object]) -> nn.Module:
    change(next(module.parameters()).view(-1))
    return module


def _copied(change: Callable[[Tensor], object]) -> Callable[[nn.Module], nn.Module]:
    return lambda module: _changed(copy.deepcopy(module), change)


nudge = _copied(lambda weights: weights[0].add_(1))  # of the copy the first number alone


@catches("the module itself was changed", lambda module: _changed(module, lambda x: x[0].add_(1)))
@catches("the change is rounded away", _copied(lambda weights: weights[0].add_(1e-6)))
@catches("more than one number was changed", _copied(lambda weights: weights.add_(1)))
def nudged(answer: Callable[[nn.Module], nn.Module]) -> None:
    """A copy of a module that differs from it in one number."""
    module = nn.Linear(3, 2).to(torch.bfloat16)
    for parameter in module.parameters():
        nn.init.ones_(parameter)  # one and a millionth is one in bfloat16
    other = answer(module)
    if not isinstance(other, nn.Module):
        raise Wrong(f"Return a module, the copy; yours is a {type(other).__name__}.")
    if any((parameter != 1).any() for parameter in module.parameters()):
        raise Wrong("After your call the module itself was changed; work on a copy.")
    pairs = zip(module.state_dict().values(), other.state_dict().values(), strict=True)
    both = list(pairs)
    if any(a.dtype != b.dtype for a, b in both):
        raise Wrong(f"The copy holds {both[0][1].dtype}: in every number it is another module.")
    changed = sum(int((a != b).sum()) for a, b in both)
    if changed == 0:
        raise Wrong("The copy is equal: nothing was added, or the change is rounded away. Add 1.")
    if changed > 1:
        raise Wrong(f"{changed} numbers differ: more than one number was changed.")


def add_detour(x: Tensor, W: Tensor, A: Tensor, B: Tensor, alpha: float) -> Tensor:
    """What a layer with a low-rank detour gives."""
    return x @ W.T + alpha / len(A) * (x @ A.T @ B.T)


@catches(
    "Not scaled: multiply by alpha / r.",
    lambda x, W, A, B, _: add_detour(x, W, A, B, float(len(A))),
)
@catches(
    "Scaled by alpha alone, not by alpha / r.",
    lambda x, W, A, B, r: add_detour(x, W, A, B, r * len(A)),
)
@catches("The frozen path is missing.", lambda x, W, *detour: add_detour(x, 0 * W, *detour))
@catches("A and B are swapped: A first.", lambda x, W, A, B, r: x @ W.T + r / len(A) * (x @ B @ A))
@catches("W was scaled too.", lambda x, W, A, B, r: add_detour(x, r / len(A) * W, A, B, r))
def lora_forward(answer: Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]) -> None:
    """What a layer with a low-rank detour gives."""
    draw, shapes = torch.Generator().manual_seed(0), ((3, 6), (6, 6), (2, 6), (6, 2))
    x, W, A, B = (torch.randn(*shape, generator=draw) for shape in shapes)
    fault = "This is not what W gives plus the scaled detour; look at every shape."
    cases = [(x, W, A, up, 9.0) for up in (B, torch.zeros_like(B))]  # with zeros, W alone
    expect(lora_forward, answer, add_detour, fault, *cases)
    expect_shape(answer(x, W[:4], A, B[:4], 9.0), (3, 4), "(row, width out)")
