"""Bounds of settings: they stand with the field, and a value outside them is refused."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Annotated, Any, get_args, get_type_hints


@dataclass(frozen=True)
class Bound:
    """What a setting must be, in words, and whether a value is so."""

    words: str
    holds: Callable[[Any], bool]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


Count = Annotated[int, Bound("a whole number from 1", lambda v: _is_whole(v) and v >= 1)]
CountOrZero = Annotated[int, Bound("a whole number from 0", lambda v: _is_whole(v) and v >= 0)]
Positive = Annotated[float, Bound("a number above 0", lambda v: _is_number(v) and v > 0)]
Share = Annotated[
    float, Bound("a number from 0 to below 1", lambda v: _is_number(v) and 0 <= v < 1)
]


def check_bounds(settings: Any) -> None:
    """Check every field of a dataclass against the bound in its type; None stands for no value.

    Raises:
        ValueError: names the field, its value and its bound.
    """
    hints = get_type_hints(type(settings), include_extras=True)
    for field in fields(settings):
        value, hint = getattr(settings, field.name), hints[field.name]
        for part in (hint, *get_args(hint)):
            for bound in getattr(part, "__metadata__", ()):
                for one in value if isinstance(value, tuple) else (value,):
                    if one is not None and not bound.holds(one):
                        raise ValueError(f"{field.name} is {bound.words}, not {one!r}.")
