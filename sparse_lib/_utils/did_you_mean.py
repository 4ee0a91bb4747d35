"""Suggests valid names in error messages."""

import difflib
from collections.abc import Iterable

_SHOWN = 8


def suggest(unknown: object, names: Iterable[str]) -> str:
    """Formats the name that the user probably meant.

    Args:
      unknown: the value that is not valid.
      names: all valid names.

    Returns:
      ` (did you mean 'NAME'?)`, or an empty text where no name is similar.
    """
    found = difflib.get_close_matches(unknown, list(names), n=1) if isinstance(unknown, str) else []
    return f" (did you mean {found[0]!r}?)" if found else ""


def closest_names(unknown: str, names: Iterable[str]) -> str:
    """Lists the names that the user may have meant.

    Args:
      unknown: the name that is not valid.
      names: all valid names.

    Returns:
      All valid names, or of more than 8 the most similar ones and the number of the others.
    """
    names = list(names)
    if len(names) <= _SHOWN:
        return ", ".join(names)
    shown = difflib.get_close_matches(unknown, names, n=_SHOWN, cutoff=0)
    return f"{', '.join(shown)} and {len(names) - len(shown)} others"
