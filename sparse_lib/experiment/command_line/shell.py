"""Command lines as people type them."""

import shlex
from collections.abc import Sequence


def join_words(words: Sequence[str]) -> str:
    """Joins words to a command line for a shell; a text of gin, in single quotes, is put in double quotes.

    Args:
      words: program and arguments.
    """
    return " ".join(map(_quote, words))


def _quote(word: str) -> str:
    name, equals, value = word.partition("=")
    if word.startswith("--") and equals and "'" in value and not set(value) & set('"$`\\!'):
        return f'{name}="{value}"'
    return shlex.quote(word)
