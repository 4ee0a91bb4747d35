"""Files that appear whole or not at all."""

import contextlib
import os
import pathlib
from collections.abc import Iterator

# How the name of a file begins that is being written, or was when a process was killed.
TEMPORARY = ".tmp-"


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Gives a temporary path to write to, which takes its name once it is complete.

    Args:
      path: where the file goes.

    Yields:
      A path in the same directory, with the same ending.
    """
    target = pathlib.Path(path)
    temporary = target.with_name(f"{TEMPORARY}{os.getpid()}-{target.name}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
