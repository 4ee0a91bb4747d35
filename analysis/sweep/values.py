"""Values of settings as people type them: lists for a grid, ranges for a search."""

import ast
import re
from collections.abc import Iterator
from typing import NamedTuple

from sparse_lib.experiment.runtime.errors import SettingError

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)?")
_WORD = re.compile(r"[A-Za-z_][\w.+-]*")
_OPENING, _CLOSING = "([{", ")]}"


class Dimension(NamedTuple):
    """A setting and its values.

    Attributes:
      name: of the setting or macro, such as `SPARSITY`.
      values: as gin literals.
    """

    name: str
    values: tuple[str, ...]


class Range(NamedTuple):
    """A setting and the range, or the choices, that a search draws from.

    Attributes:
      name: of the setting or macro.
      low: least value; None for choices.
      high: greatest value; None for choices.
      is_log: whether the logarithm is searched evenly.
      is_integer: whether values are integers.
      choices: as gin literals, instead of a range.
    """

    name: str
    low: float | None = None
    high: float | None = None
    is_log: bool = False
    is_integer: bool = False
    choices: tuple[str, ...] = ()


def parse_dimension(text: str) -> Dimension:
    """Reads NAME=VALUE,VALUE,...

    Args:
      text: of the command line. Commas in brackets or quotes belong to a value, and a bare word is a text.

    Returns:
      The dimension.

    Raises:
      SettingError: if it is no such thing, or a value is there twice.

    >>> parse_dimension("lenet5.hidden_sizes=(6,16,120,84),(3,8,60,42)").values
    ('(6, 16, 120, 84)', '(3, 8, 60, 42)')
    >>> parse_dimension("masks.distribution=erk,uniform").values
    ("'erk'", "'uniform'")
    """
    name, values = _split_name(text, "over")
    found = tuple(parse_value(value, f"--over {text}") for value in split_values(values, f"--over {text}"))
    for value in found:
        if found.count(value) > 1:
            raise SettingError(f"--over {text} has {value} twice; leave one of them out.")
    return Dimension(name, found)


def parse_range(text: str) -> Range:
    """Reads NAME=LOW:HIGH, NAME=LOW:HIGH:log or NAME=VALUE,VALUE,...

    Args:
      text: of the command line; two integers mean integers.

    Returns:
      The range, or the choices.

    Raises:
      SettingError: if it is no such thing.

    >>> parse_range("mask_updater.init_drop_fraction=0.1:0.6")
    Range(name='mask_updater.init_drop_fraction', low=0.1, high=0.6, is_log=False, is_integer=False, choices=())
    """
    name, values = _split_name(text, "tune")
    parts = values.split(":")
    if len(parts) == 1 or values.lstrip()[:1] in ("'", '"', "{"):
        choices = parse_dimension(text).values
        if len(choices) < 2:
            raise SettingError(f"--tune {text} has one choice; write NAME=LOW:HIGH, or several with commas.")
        return Range(name, choices=choices)
    is_log = parts[2:] == ["log"]
    try:
        low, high = (ast.literal_eval(part.strip()) for part in parts[:2])
        is_number = all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high))
    except (ValueError, SyntaxError):
        is_number = False
    if not is_number or (len(parts) > 2 and not is_log):
        raise SettingError(f"--tune {text} is no range of numbers; write NAME=LOW:HIGH or NAME=LOW:HIGH:log.")
    if low >= high or (is_log and low <= 0):
        least = "above 0 and " if is_log else ""
        raise SettingError(f"--tune {text} is an empty range; the first number must be {least}below the second.")
    return Range(name, low, high, is_log, isinstance(low, int) and isinstance(high, int))


def parse_seeds(text: str) -> tuple[int, ...]:
    """Reads a number of seeds, or the first and the last.

    Args:
      text: of the command line.

    Returns:
      The seeds.

    Raises:
      SettingError: if it is neither.

    >>> parse_seeds("3"), parse_seeds("5-6")
    ((0, 1, 2), (5, 6))
    """
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)", text.strip())
    first, last = (int(found[1] or 0), int(found[2]) - (found[1] is None)) if found else (0, -1)
    if last < first:
        raise SettingError(f"--seeds={text} is no number of seeds; write 5 for the seeds 0 to 4, or FIRST-LAST.")
    return tuple(range(first, last + 1))


def _split_name(text: str, flag: str) -> tuple[str, str]:
    name, equals, values = text.partition("=")
    if not equals or not _NAME.fullmatch(name.strip()) or not values.strip():
        wanted = "VALUE,VALUE" if flag == "over" else "LOW:HIGH"
        raise SettingError(f"--{flag} {text} is not NAME={wanted} with a setting or a macro, such as SPARSITY.")
    return name.strip(), values


def split_values(text: str, where: str) -> Iterator[str]:
    """Splits a text at the commas that are outside of brackets and quotes.

    Args:
      text: to split.
      where: of the error message.

    Yields:
      The parts.

    Raises:
      SettingError: if a bracket or a quote is not closed.
    """
    part, open_brackets, quote = "", "", ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in _OPENING:
            open_brackets += letter
        elif letter in _CLOSING:
            if not open_brackets or _OPENING.index(open_brackets[-1]) != _CLOSING.index(letter):
                raise SettingError(f"{where}: the bracket {letter} closes nothing.")
            open_brackets = open_brackets[:-1]
        elif letter == "," and not open_brackets:
            yield part
            part = ""
            continue
        part += letter
    if quote or open_brackets:
        raise SettingError(f"{where}: {quote or open_brackets[-1]} is not closed.")
    yield part


def parse_value(text: str, where: str) -> str:
    """Reads a value.

    Args:
      text: a Python literal, a macro such as %SPARSITY, or a bare word, which is a text.
      where: of the error message.

    Returns:
      The value as a gin literal, in one form for equal values.

    Raises:
      SettingError: if it is none of these.

    >>> parse_value("0.90", ""), parse_value("erk", ""), parse_value("None", "")
    ('0.9', "'erk'", 'None')
    """
    text = text.strip()
    try:
        return repr(ast.literal_eval(text))
    except (ValueError, SyntaxError):
        if _WORD.fullmatch(text):
            return repr(text)
        if text.startswith("%") and _NAME.fullmatch(text[1:]):
            return text
    raise SettingError(
        f"{where}: {text or 'an empty value'} is no value; write a Python literal, such as 0.9 or 'erk'."
    )
