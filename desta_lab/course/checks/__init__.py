"""One check per exercise, answering in words; each ships the wrong answers that it must catch.

A check is a function of the answer that raises `Wrong` with a sentence, and returns nothing when
all is well. It tries small inputs of its own: an answer must give what a right one gives there, or
have the properties of one, however it is written.
The files are named by the notebook that they belong to.
"""

import copy
import dis
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, wraps
from html import escape
from numbers import Number
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

    judge: Callable[[Any], None]
    wrong: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Judgement:
    """What a check says about an answer."""

    name: str
    state: Literal["passed", "wrong", "not attempted"]
    message: str

    def __repr__(self) -> str:
        return f"{SIGNS[self.state]} {self.name}: {self.message}"

    def _repr_html_(self) -> str:
        style = f"border-left: .4em solid {_COLOURS[self.state]}; padding: .2em .8em"
        text = f"{SIGNS[self.state]} <b>{escape(self.name)}</b>: {escape(self.message)}"
        return f'<div style="{style}">{text}</div>'


SIGNS = {"passed": "✓", "wrong": "✗", "not attempted": "…"}
_COLOURS = {"passed": "#009E73", "wrong": "#D55E00", "not attempted": "#7F7F7F"}
_CHECKS: dict[str, Check] = {}


def catches(mistake: str, answer: Any) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Make a function the check of the exercise of its name, which must catch this wrong answer.

    The message that catches the answer contains the words of the mistake.
    """

    def register(judge: Callable[[Any], None]) -> Callable[[Any], None]:
        check = _CHECKS.setdefault(judge.__name__, Check(judge))
        if check.judge.__module__ != judge.__module__:
            raise ValueError(f"Two checks are called {judge.__name__}; rename one of them.")
        check.wrong[mistake] = answer
        return judge

    return register


def expect_shape(got: Any, shape: tuple[int, ...], axes: str) -> None:
    """Refuse a result that has another shape than these axes have."""
    own = tuple(np.shape(got))
    if own != tuple(shape):
        raise Wrong(f"The shape should be {axes} = {tuple(shape)}; yours is {own}.")


def as_tensors(answer: Callable[..., Any]) -> Callable[..., Tensor]:
    """The same answer, which gives a tensor where it gave an array or a list."""
    return lambda *given: torch.as_tensor(answer(*given))


def expect(
    check: Callable[[Any], None],
    answer: Callable[..., Any],
    right: Callable[..., Any],
    fault: str,
    *cases: tuple[Any, ...],
    axes: str = "",
) -> None:
    """Refuse an answer that does not give what is right, in words of the wrong answer that it is.

    Args:
        check: its wrong answers are tried.
        right: a right answer.
        fault: what to say where no wrong answer gives the same, with {right} and {got} and, as {0},
            what was given first; if it is empty, nothing is refused then.
        cases: what the answers are given.
        axes: names of the axes of the result, if its shape is to be told.
    """
    for given in cases:
        got, wanted = answer(*given), right(*given)
        if axes:
            expect_shape(got, np.shape(wanted), axes)
        if same(got, wanted):
            continue
        if isinstance(got, str) and not isinstance(wanted, str):
            raise Wrong(f"Your function gives the text {got!r}; give a number.")
        if np.ndim(wanted) == 0 and same(_numbers(got).reshape(-1), _numbers(wanted).reshape(1)):
            raise Wrong(
                f"The number is right, but stands in a list, {_shorten(got)}; return it alone."
            )
        for mistake, wrong in _CHECKS[check.__name__].wrong.items():
            if same(got, wrong(*copy.deepcopy(given))):
                raise Wrong(mistake)
        if fault:
            raise Wrong(fault.format(*given, right=_shorten(wanted), got=_shorten(got)))


def expect_number(got: Any) -> float:
    """The one number that an answer gives; whatever else it gives is refused."""
    numbers = _numbers(got)
    if numbers.ndim or numbers.dtype.kind not in "biuf":
        raise Wrong(f"Return one number; yours is {_shorten(got)}.")
    return float(numbers)


def _shorten(result: Any) -> Any:
    try:
        numbers = _numbers(result)  # of float32 the digits that it does not have would show
        return np.round(numbers.astype(float) if numbers.dtype.kind == "f" else numbers, 4).tolist()
    except (TypeError, ValueError):
        return result


def same(got: Any, value: Any, tolerance: float = 1e-4) -> bool:
    """Whether two results have the same shape and nearly the same numbers, or the same integers."""
    a, b = _numbers(got), _numbers(value)
    kinds = {a.dtype.kind, b.dtype.kind}
    if a.shape != b.shape or not kinds <= set("biuf"):
        return False
    tolerance *= "f" in kinds
    return np.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)


def _numbers(value: Any) -> np.ndarray:
    numbers = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)
    exact = numbers.dtype == object and all(isinstance(one, Number) for one in numbers.flat)
    return numbers.astype(float) if exact else numbers  # fractions and decimals are numbers, too


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
        known[name].judge(_watch(answer) if callable(answer) else answer)
    except (_NotAttempted, NotImplementedError):
        return Judgement(name, "not attempted", "Not attempted yet.")
    except Wrong as mistake:
        return Judgement(name, "wrong", str(mistake))
    except Exception as error:
        stopped = f"Your answer stopped with {type(error).__name__}: {str(error).rstrip('.')}."
        return Judgement(name, "wrong", f"{stopped} Run it by hand on a small input first.")
    return Judgement(name, "passed", "All properties hold.")


def _watch(answer: Callable[..., Any]) -> Callable[..., Any]:
    """The student's function; it is wrong if it returns nothing, or changes what it is given."""

    @wraps(answer)
    def called(*args: Any, **named: Any) -> Any:
        kinds = np.ndarray | Tensor | list | dict
        given = [one for one in (*args, *named.values()) if isinstance(one, kinds)]
        before = copy.deepcopy(given)
        result = answer(*args, **named)
        if result is ... or (result is None and _is_stub(answer)):
            raise _NotAttempted
        if not _is_equal(given, before):
            raise Wrong("Afterwards what was handed in is changed: work on a copy, not in place.")
        if result is None:
            raise Wrong(
                "Your function returns None: the `return` is missing, or not reached, or what it "
                "returns is None."
            )
        return result

    return called


def _is_equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and _is_equal([*a.values()], [b[name] for name in a])
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_is_equal, a, b))
    return torch.equal(a, b) if isinstance(a, Tensor) else np.array_equal(a, b)


_OF_A_STUB = {"RESUME", "NOP", "POP_TOP", "RETURN_VALUE"}


def _is_stub(answer: Callable[..., Any]) -> bool:
    """Whether a function does nothing at all."""
    if not hasattr(answer, "__code__"):
        return False
    names = (one.opname for one in dis.get_instructions(answer))
    return all(name in _OF_A_STUB or name.endswith("_CONST") for name in names)
