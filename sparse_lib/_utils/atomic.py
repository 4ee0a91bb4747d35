"""Files that appear whole or not at all."""

import contextlib
import os
import pathlib
from collections.abc import Iterator

# Prefix of a file that is being written, or was when its process was killed.
TEMPORARY = ".tmp-"


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Provides a temporary path, and renames the file written there once it is complete and on the disk.

    Args:
      path: final path of the file.

    Yields:
      The temporary path, in the same directory and with the same suffix.

    Raises:
      OSError: if the file cannot be written; one that had the final path is unchanged.
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
