"""Damage to the bytes of files, drawn from a seed: what crashes, full disks and editors leave behind."""

import random
from collections.abc import Callable, Iterator
from typing import Any

from sparse_lib._utils.errors import InputError
from sparse_lib.experiment.runtime.errors import RunError

_INSERTED = (b"\0", b"{", b"]", b'"', b"1e999", b"NaN", b"null", b"\n", b"-", b"[[", b"\xff")


def error_of(function: Callable[[], Any]) -> str | None:
    """Calls a function; returns the message for the user that it raised, or None. Other exceptions pass."""
    try:
        function()
    except (InputError, RunError) as error:
        return str(error)
    return None


def mutations(content: bytes, *, count: int, seed: int = 0) -> Iterator[bytes]:
    """Yields damaged copies of a file.

    Args:
      content: of the intact file.
      count: copies (count).
      seed: of kinds and places of the damage.

    Yields:
      Bytes; the first ones are empty, binary and of other types.
    """
    fixed = [b"", b"\0", b"\xff\xfe\x00", b"null", b"[]", b"{}", b"3", b'"x"', b"[" * 5000, b"\n\n", content + content]
    yield from fixed[:count]
    draw = random.Random(seed)
    for _ in range(count - len(fixed)):
        data = bytearray(content)
        for _ in range(draw.choice((1, 1, 2, 5))):
            at = draw.randrange(len(data) + 1)
            end = min(len(data), at + draw.randrange(1, 12))
            kind = draw.randrange(5)
            if kind == 0:
                del data[at:]
            elif kind == 1:
                del data[at:end]
            elif kind == 2:
                data[at:end] = bytes(draw.randrange(256) for _ in range(end - at))
            elif kind == 3:
                data[at:at] = draw.choice(_INSERTED)
            else:
                data[at:at] = data[at:end]
        yield bytes(data)
