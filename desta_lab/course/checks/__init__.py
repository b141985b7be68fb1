"""One check per exercise, answering in words; each ships the wrong answers that it must catch, by name.

A check is a function of the answer that raises `Wrong` with a sentence, and returns nothing when all is well. It tests
properties on small inputs of its own, never equality with hidden code. The files are named by the notebook's subject.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, wraps
from html import escape
from typing import Any, Literal


class Wrong(Exception):
    """An answer has a property it must not have; the message names the mistake and where to look."""


class _NotAttempted(Exception):
    """The stub was left as it was."""


@dataclass(frozen=True)
class Check:
    """An exercise's check with the wrong answers that it catches: name of the mistake → such an answer."""

    name: str
    judge: Callable[[Any], None]
    wrong: Mapping[str, Any]


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
        return f'<div style="{style}">{_SIGNS[self.state]} <b>{escape(self.name)}</b>: {escape(self.message)}</div>'


_SIGNS = {"passed": "✓", "wrong": "✗", "not attempted": "…"}
_COLOURS = {"passed": "#009E73", "wrong": "#D55E00", "not attempted": "#7F7F7F"}
_CHECKS: dict[str, Check] = {}


def check(*, wrong: Mapping[str, Any]) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Register a function as the check of the exercise that has its name."""

    def register(judge: Callable[[Any], None]) -> Callable[[Any], None]:
        name = judge.__name__
        if name in _CHECKS and _CHECKS[name].judge.__module__ != judge.__module__:
            raise ValueError(f"Two checks are called {name}; give one of them another name.")
        _CHECKS[name] = Check(name, judge, wrong)
        return judge

    return register


@cache
def every() -> dict[str, Check]:
    """Every check there is, by the name of its exercise."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return _CHECKS


def judge(name: str, answer: Any) -> Judgement:
    """What the check of an exercise says about an answer; an answer that breaks is told so, never raised.

    Raises:
        ValueError: there is no check of that name.
    """
    if name not in every():
        raise ValueError(f"There is no check {name!r}; there are {', '.join(sorted(every()))}.")
    try:
        if answer is None or answer is ...:
            raise _NotAttempted
        every()[name].judge(_attempted(answer) if callable(answer) else answer)
    except (_NotAttempted, NotImplementedError):
        return Judgement(name, "not attempted", "Not attempted yet.")
    except Wrong as mistake:
        return Judgement(name, "wrong", str(mistake))
    except Exception as error:
        said = f"Your answer stopped with {type(error).__name__}: {error}. Run it by hand on a small input first."
        return Judgement(name, "wrong", said)
    return Judgement(name, "passed", "All properties hold.")


def _attempted(answer: Callable[..., Any]) -> Callable[..., Any]:
    """The student's function, which counts as not attempted where it returns nothing."""

    @wraps(answer)
    def called(*args: Any, **named: Any) -> Any:
        result = answer(*args, **named)
        if result is None or result is ...:
            raise _NotAttempted
        return result

    return called
