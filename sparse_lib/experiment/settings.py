"""Base of all settings: frozen dataclasses whose values are checked before any work starts."""

import dataclasses
import numbers
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from sparse_lib._utils.did_you_mean import suggest
from sparse_lib.experiment.runtime.errors import SettingError

_NOUNS: dict[Any, str] = {
    bool: "True or False",
    int: "an integer",
    float: "a number",
    str: "a text in quotes",
    types.NoneType: "None",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Range:
    """Limits of a number, as metadata of an annotation: `Annotated[int, Range(at_least=1)]`.

    Attributes:
      at_least: smallest number; None has no limit, here and below.
      above: number below all valid ones.
      at_most: largest number.
      below: number above all valid ones.
    """

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def admits(self, number: Any) -> bool:
        """Returns whether a number lies within the limits; NaN never does."""
        return (
            (self.at_least is None or number >= self.at_least)
            and (self.above is None or number > self.above)
            and (self.at_most is None or number <= self.at_most)
            and (self.below is None or number < self.below)
        )

    @property
    def demand(self) -> str:
        """Describes the limits, such as `at least 0 and below 1`."""
        limits = {field.name.replace("_", " "): getattr(self, field.name) for field in dataclasses.fields(self)}
        return " and ".join(f"{words} {limit:,}" for words, limit in limits.items() if limit is not None)


# TensorFlow and NumPy take 32-bit integers, and float32 holds up to 3.4e38.
_LIMITS = {
    int: (Range(at_least=-(2**31)), Range(at_most=2**31 - 1)),
    float: (Range(at_least=-1e38), Range(at_most=1e38)),
}

Count = Annotated[int, Range(at_least=1)]
# Beyond these a run would fill any memory, or never end.
BatchSize = Annotated[int, Range(at_least=1, at_most=1_000_000)]
Length = Annotated[int, Range(at_least=1, at_most=1_000_000_000)]
Size = Annotated[int, Range(at_least=1, at_most=1_000_000)]
Step = Annotated[int, Range(at_least=0)]
Seed = Annotated[int, Range(at_least=0)]
Fraction = Annotated[float, Range(at_least=0, at_most=1)]
# Of a sparsity or a momentum, at 1 nothing would be left.
Share = Annotated[float, Range(at_least=0, below=1)]
Positive = Annotated[float, Range(above=0)]
NonNegative = Annotated[float, Range(at_least=0)]


class Settings:
    """Base of the settings under one gin name: a value must have the annotated type of its field and be in its range.

    A subclass is a dataclass that names itself in gin: `class PruningSettings(Settings, name="pruning")`.

    Attributes:
      config_name: the gin name.
    """

    config_name: ClassVar[str]

    def __init_subclass__(cls, name: str | None = None) -> None:
        """Sets the gin name.

        Args:
          name: the gin name; None keeps that of the parent.
        """
        super().__init_subclass__()
        if name is not None:
            cls.config_name = name

    def __post_init__(self) -> None:
        """Checks types and ranges.

        Raises:
          SettingError: names the first setting that is not valid, and the valid values.
        """
        hints = typing.get_type_hints(type(self), include_extras=True)
        for field in dataclasses.fields(typing.cast(Any, self)):
            value = getattr(self, field.name)
            demand = find_demand(value, hints[field.name])
            self.require(demand is None, field.name, f"must be {demand}")

    def require(self, is_met: bool, field: str, demand: str) -> None:
        """Raises unless a condition on a field holds.

        Args:
          is_met: the condition.
          field: name of the field.
          demand: the rest of the error message, such as `must be at least 1`.

        Raises:
          SettingError: if the condition does not hold.
        """
        if not is_met:
            raise SettingError(f"{self.config_name}.{field}={_format(getattr(self, field))} {demand}.")


def _format(value: Any) -> str:
    """Formats a value for a message; Python refuses to print integers of more than 4,300 digits."""
    try:
        text = repr(value)
    except ValueError:
        text = "a number of thousands of digits"
    return text if len(text) <= 200 else f"{text[:200]}..."


def find_demand(value: Any, hint: Any) -> str | None:
    """Describes what a value has to be.

    Args:
      value: to check.
      hint: annotated type: a plain type, a literal, a union, a sequence, a mapping, or one of these with a `Range`.

    Returns:
      The end of a message, such as `at least 1`; None if the value is valid.
    """
    return _FINDERS.get(typing.get_origin(hint), _find_plain_demand)(value, hint)


def _find_union_demand(value: Any, hint: Any) -> str | None:
    demands = {_describe(argument): find_demand(value, argument) for argument in typing.get_args(hint)}
    if None in demands.values():
        return None
    # A value of one of the types is out of the range of that type.
    near = [demand for described, demand in demands.items() if demand != described]
    others = [described for described, demand in demands.items() if demand == described]
    return f"{near[0]}, or {' or '.join(others)}" if near and others else _describe(hint)


def _find_range_demand(value: Any, hint: Any) -> str | None:
    kind, *limits = typing.get_args(hint)
    demand = find_demand(value, kind)
    # The declared range says more than that of the type.
    return demand if demand == _describe(kind) else _demand_range(value, limits) or demand


def _find_choice_demand(value: Any, hint: Any) -> str | None:
    choices = typing.get_args(hint)
    # In Python, True and 1.0 equal 1.
    if any(value == choice and type(value) is type(choice) for choice in choices):
        return None
    return f"{_describe(hint)}{suggest(value, [choice for choice in choices if isinstance(choice, str)])}"


def _find_list_demand(value: Any, hint: Any) -> str | None:
    if not isinstance(value, list | tuple):
        return _describe(hint)
    return _find_item_demand(value, typing.get_args(hint)[0], "a list in which each is")


def _find_dict_demand(value: Any, hint: Any) -> str | None:
    of_keys, of_values = typing.get_args(hint)
    if not isinstance(value, dict) or any(find_demand(key, of_keys) for key in value):
        return _describe(hint)
    return _find_item_demand(list(value.values()), of_values, "a dict in which each value is")


def _find_item_demand(values: Sequence[Any], hint: Any, words: str) -> str | None:
    demands = [demand for value in values if (demand := find_demand(value, hint))]
    return f"{words} {demands[0]}" if demands else None


def _demand_range(value: Any, limits: Sequence[Range]) -> str | None:
    return next((limit.demand for limit in limits if not limit.admits(value)), None)


def _find_plain_demand(value: Any, hint: Any) -> str | None:
    # In Python, True is an integer.
    is_bool = isinstance(value, bool)
    kind = {int: numbers.Integral, float: numbers.Real}.get(hint, hint)
    if not isinstance(value, kind) or (is_bool and hint is not bool):
        return _describe(hint)
    if hint in _LIMITS:
        # NaN lies in no range.
        return _demand_range(value, _LIMITS[hint])
    if hint is str and not _is_writable(value):
        return "a text of characters that a file can hold"
    return None


_FINDERS: dict[Any, Callable[[Any, Any], str | None]] = {
    types.UnionType: _find_union_demand,
    typing.Union: _find_union_demand,
    Annotated: _find_range_demand,
    Literal: _find_choice_demand,
    Sequence: _find_list_demand,
    Mapping: _find_dict_demand,
}


def _is_writable(text: str) -> bool:
    try:
        text.encode("utf8")
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _describe(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _describe(arguments[0])
    if origin is Literal:
        return " or ".join(repr(argument) for argument in arguments)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_describe(argument) for argument in arguments)
    if origin is Sequence:
        return f"a list in which each is {_describe(arguments[0])}"
    if origin is Mapping:
        return f"a dict in which each value is {_describe(arguments[1])}"
    return _NOUNS[hint]
