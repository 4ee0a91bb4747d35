"""Names in the lines of errors: all of a few, the likest of many."""

import difflib
from collections.abc import Iterable

_SHOWN = 8


def likest(asked: str, names: Iterable[str]) -> str:
    """Lists the names that could have been meant.

    Args:
      asked: what fits none of them.
      names: that there are.

    Returns:
      All names, or of more than 8 those most like the asked one and how many others there are.
    """
    names = list(names)
    if len(names) <= _SHOWN:
        return ", ".join(names)
    shown = difflib.get_close_matches(asked, names, n=_SHOWN, cutoff=0)
    return f"{', '.join(shown)} and {len(names) - len(shown)} others"
