"""Settings: their bounds, which stand with the field, and which of them enter a hash."""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

MOST = 10**9  # of what is counted: more would not end, or fill the memory with its plan


@dataclass(frozen=True)
class Bound:
    """What a setting must be, in words, and whether a value is so."""

    words: str
    holds: Callable[[Any], bool]


def whole_number(low: int, high: int = MOST) -> Bound:
    """The bound of a whole number between two others, both allowed."""

    def holds(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

    return Bound(f"a whole number from {low} to {high}", holds)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, which a float can hold."""
    most = sys.float_info.max  # a whole number may be larger, and none of it can be computed
    return isinstance(value, int | float) and -most <= value <= most


Count = Annotated[int, whole_number(1)]
CountOrZero = Annotated[int, whole_number(0)]
Positive = Annotated[float, Bound("a number above 0", lambda v: is_number(v) and v > 0)]
Share = Annotated[float, Bound("a number from 0 to below 1", lambda v: is_number(v) and 0 <= v < 1)]


def check_bounds(settings: Any) -> None:
    """Check every field of a dataclass against the bound in its type; None stands for no value.

    Raises:
        ValueError: names the field, its value and its bound.
    """
    hints = get_type_hints(type(settings), include_extras=True)
    for one in fields(settings):
        check_value(one.name, getattr(settings, one.name), hints[one.name])


def check_value(name: str, value: Any, hint: Any) -> None:
    """Check a value, or each of several, against the bounds in a type; None stands for no value.

    Raises:
        ValueError: names the setting, its value and its bound.
    """
    for kind in _kinds(hint):
        listed = get_origin(kind) is tuple and isinstance(value, tuple)
        if listed and not _takes(kind, len(value)):
            raise ValueError(f"{name} are {len(get_args(kind))} values, not {value!r}.")
    several = value.values() if isinstance(value, Mapping) else value
    for bound in find_bounds(hint):
        for one in several if isinstance(value, tuple | Mapping) else (value,):
            if one is not None and not bound.holds(one):
                raise ValueError(f"{name} is {bound.words}, not {one!r}.")


def convert_value(name: str, value: Any, hint: Any) -> Any:
    """A value as a command line or a file gives it, in the type of its setting.

    A whole number serves as a number, and a list as a tuple.

    Raises:
        ValueError: names the setting, what it takes and the value.
    """
    kinds = _kinds(hint)
    if value is None and type(None) in kinds:
        return None
    listed = [kind for kind in kinds if get_origin(kind) is tuple]
    if listed:
        return _convert_list(name, value, listed[0], or_null=type(None) in kinds)
    if float in kinds and int not in kinds and type(value) is int and abs(value) < MOST:
        value = float(value)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        words = " | ".join(kind.__name__ for kind in kinds).replace("NoneType", "None")
        raise ValueError(f"{name} takes {words}, not {value!r}.")
    return value


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The types of a union, or the one that a hint is."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _takes(hint: Any, count: int) -> bool:
    """Whether the type of a tuple takes so many values."""
    return Ellipsis in get_args(hint) or len(get_args(hint)) == count


def _convert_list(name: str, value: Any, hint: Any, or_null: bool) -> tuple[Any, ...]:
    """A list of numbers as a tuple of the type's; a single number is a list of one."""
    kind = get_args(hint)[0]
    items = list(value) if isinstance(value, list | tuple) else [value]
    whole = [kind is float and type(one) is int and is_number(one) for one in items]
    numbers = [float(one) if is_whole else one for one, is_whole in zip(items, whole, strict=True)]
    if not _takes(hint, len(numbers)) or not all(type(one) is kind for one in numbers):
        example = "[0,3]" if kind is int else "[0.9,0.98]"
        null = ", or null" if or_null else ""
        raise ValueError(f"{name} takes a list such as {example}{null}, not {items!r}.")
    return tuple(numbers)


def find_bounds(hint: Any) -> Iterator[Bound]:
    """Every bound in a type, also those of the parts of a tuple, a dict or a union."""
    yield from getattr(hint, "__metadata__", ())
    for part in get_args(hint):
        if not isinstance(part, Bound):
            yield from find_bounds(part)


# ---- settings in a hash ----


def option(default: Any, *, of_models: bool = False) -> Any:
    """A field of settings that enters a hash only where it is not its default.

    So results that are older than the field are still found. One of the models in a preset also
    stands in a connector file, is compared when the file is loaded, and is put back when it is
    opened; a connector's shape stands there whole.
    """
    return field(default=default, metadata={"option": True, "of_models": of_models})


def hashed_fields(settings: Any) -> dict[str, Any]:
    """The fields of a dataclass for a hash, and those of a dataclass in it, without unused options.

    An option is unused where it has its default.
    """
    unused = unused_options(settings)
    values = {one.name: getattr(settings, one.name) for one in fields(settings)}
    return {
        name: hashed_fields(value) if is_dataclass(value) else value
        for name, value in values.items()
        if name not in unused
    }


def unused_options(settings: Any) -> set[str]:
    """The options of a dataclass that have their default, and, dotted, of a dataclass in it."""
    names = set()
    for one in fields(settings):
        value = getattr(settings, one.name)
        if "option" in one.metadata and value == one.default:
            names.add(one.name)
        elif is_dataclass(value):
            names |= {f"{one.name}.{inner}" for inner in unused_options(value)}
    return names
