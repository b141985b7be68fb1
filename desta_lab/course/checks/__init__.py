"""One check per exercise, answering in words; each ships the wrong answers that it must catch.

A check is a function of the answer that raises `Wrong` with a sentence, and returns nothing when
all is well. It tests properties on small inputs of its own, never equality with hidden code.
The files are named by the notebook that they belong to.
"""

import dis
import importlib
import itertools
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, wraps
from html import escape
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor


class Wrong(Exception):
    """An answer has a property it must not have; the message names the mistake."""


class _NotAttempted(Exception):
    """The stub was left as it was."""


@dataclass(frozen=True)
class Check:
    """An exercise's check, and the wrong answers that it catches: mistake → answer."""

    name: str
    judge: Callable[[Any], None]
    wrong: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Judgement:
    """What a check says about an answer."""

    name: str
    state: Literal["passed", "wrong", "not attempted"]
    message: str

    def __repr__(self) -> str:
        return f"{_SIGNS[self.state]} {self.name}: {self.message}"

    def _repr_html_(self) -> str:
        style = f"border-left: .4em solid {_COLOURS[self.state]}; padding: .2em .8em"
        text = f"{_SIGNS[self.state]} <b>{escape(self.name)}</b>: {escape(self.message)}"
        return f'<div style="{style}">{text}</div>'


_SIGNS = {"passed": "✓", "wrong": "✗", "not attempted": "…"}
_COLOURS = {"passed": "#009E73", "wrong": "#D55E00", "not attempted": "#7F7F7F"}
_CHECKS: dict[str, Check] = {}


def catches(mistake: str, answer: Any) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Make a function the check of the exercise of its name, which must catch this wrong answer.

    The message that catches the answer contains the words of the mistake.
    """

    def register(judge: Callable[[Any], None]) -> Callable[[Any], None]:
        name = judge.__name__
        check = _CHECKS.setdefault(name, Check(name, judge))
        if check.judge.__module__ != judge.__module__:
            raise ValueError(f"Two checks are called {name}; give one of them another name.")
        check.wrong[mistake] = answer
        return judge

    return register


def expect_shape(got: Any, shape: tuple[int, ...], axes: str) -> None:
    """Refuse a result that has another shape than these axes have."""
    own = tuple(got.shape) if hasattr(got, "shape") else np.shape(got)
    if own != tuple(shape):
        raise Wrong(f"The shape should be {axes} = {tuple(shape)}; yours is {own}.")


def as_tensors(answer: Callable[..., Any]) -> Callable[..., Tensor]:
    """The same answer, which gives a tensor where it gave an array or a list."""
    return lambda *given: torch.as_tensor(answer(*given))


def refuse(got: Any, mistaken: Mapping[str, Any], tolerance: float = 1e-4) -> None:
    """Refuse a result that equals one of some mistaken values: sentence → value."""
    for sentence, value in mistaken.items():
        if same(got, value, tolerance):
            raise Wrong(sentence)


def same(got: Any, value: Any, tolerance: float = 1e-4) -> bool:
    """Whether two results have the same shape and nearly the same numbers."""
    a, b = _numbers(got), _numbers(value)
    return a.shape == b.shape and np.allclose(a, b, rtol=tolerance, atol=tolerance)


def _numbers(value: Any) -> np.ndarray:
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value, dtype=float)


@cache
def load_checks() -> dict[str, Check]:
    """Every check there is, by the name of its exercise."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return _CHECKS


def judge(name: str, answer: Any) -> Judgement:
    """Judge an answer to an exercise; an answer that stops with an error is wrong, and named so.

    Raises:
        ValueError: there is no check of that name.
    """
    known = load_checks()
    if name not in known:
        raise ValueError(f"There is no check {name!r}; there are {', '.join(sorted(known))}.")
    try:
        if answer is None or answer is ...:
            raise _NotAttempted
        changed: list[int] = []
        known[name].judge(_attempted(answer, changed) if callable(answer) else answer)
        if changed:
            raise Wrong("Afterwards what was handed in is changed: work on a copy, not in place.")
    except (_NotAttempted, NotImplementedError):
        return Judgement(name, "not attempted", "Not attempted yet.")
    except Wrong as mistake:
        return Judgement(name, "wrong", str(mistake))
    except Exception as error:
        stopped = f"Your answer stopped with {type(error).__name__}: {error}."
        return Judgement(name, "wrong", f"{stopped} Run it by hand on a small input first.")
    return Judgement(name, "passed", "All properties hold.")


def _attempted(answer: Callable[..., Any], changed: list[int]) -> Callable[..., Any]:
    """The student's function; a stub that returns nothing is not attempted, any other is wrong.

    The call's number joins `changed` if an array or tensor that it was given is another one after.
    """
    calls = itertools.count()

    @wraps(answer)
    def called(*args: Any, **named: Any) -> Any:
        given = [one for one in (*args, *named.values()) if isinstance(one, np.ndarray | Tensor)]
        before = [one.detach().clone() if isinstance(one, Tensor) else one.copy() for one in given]
        result, number = answer(*args, **named), next(calls)
        if result is ... or (result is None and _is_stub(answer)):
            raise _NotAttempted
        if result is None:
            raise Wrong("Your function returns nothing: the `return` is missing, or not reached.")
        if not all(_is_unchanged(*pair) for pair in zip(given, before, strict=True)):
            changed.append(number)
        return result

    return called


def _is_unchanged(now: Any, before: Any) -> bool:
    if isinstance(now, np.ndarray):
        return now.shape == before.shape and now.tobytes() == before.tobytes()
    return now.shape == before.shape and bool(((now == before) | (before != before)).all())


_OF_A_STUB = {"RESUME", "NOP", "POP_TOP", "RETURN_VALUE"}


def _is_stub(answer: Callable[..., Any]) -> bool:
    """Whether a function does nothing at all."""
    if not hasattr(answer, "__code__"):
        return False
    names = (one.opname for one in dis.get_instructions(answer))
    return all(name in _OF_A_STUB or name.endswith("_CONST") for name in names)
