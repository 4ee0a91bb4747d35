"""Base of all settings: frozen dataclasses whose values are checked before any work starts."""

import dataclasses
import numbers
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from sparse_lib.experiment.runtime.errors import SettingError

_NOUNS: dict[Any, str] = {
    bool: "True or False",
    int: "an integer",
    float: "a number",
    str: "a text in quotes",
    types.NoneType: "None",
}


class Settings:
    """Base of the settings under one gin name: every value must have the annotated type of its field.

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
        """Checks the types.

        Raises:
          SettingError: names the first setting of a wrong type, and the valid values.
        """
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(typing.cast(Any, self)):
            value, hint = getattr(self, field.name), hints[field.name]
            self.require(_fits(value, hint), field.name, f"must be {_describe(hint)}")

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
            raise SettingError(f"{self.config_name}.{field}={getattr(self, field)!r} {demand}.")


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value in arguments
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, argument) for argument in arguments)
    if origin is Sequence:
        return isinstance(value, list | tuple) and all(_fits(item, arguments[0]) for item in value)
    if origin is Mapping:
        return isinstance(value, dict) and all(
            _fits(key, arguments[0]) and _fits(item, arguments[1]) for key, item in value.items()
        )
    # In Python, True is an integer.
    if isinstance(value, bool) or hint is bool:
        return isinstance(value, bool) and hint is bool
    return isinstance(value, {int: numbers.Integral, float: numbers.Real}.get(hint, hint))


def _describe(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " or ".join(repr(argument) for argument in arguments)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_describe(argument) for argument in arguments)
    if origin is Sequence:
        return f"a list in which each is {_describe(arguments[0])}"
    if origin is Mapping:
        return f"a dict in which each value is {_describe(arguments[1])}"
    return _NOUNS[hint]
