"""Arrays cached on disk: computed once, verified by checksum whenever they are read."""

import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from sparse_lib._utils.atomic import atomic_path

_LOG = logging.getLogger(__name__)

Arrays = Mapping[str, np.ndarray]


def cache_directory(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Finds the cache directory.

    Args:
      cache_dir: takes precedence; without it the environment variable `SPARSE_LIB_CACHE` counts, then
        `$XDG_CACHE_HOME/sparse_lib`, then `~/.cache/sparse_lib`.

    Returns:
      The directory, which may not exist.
    """
    chosen = cache_dir or os.environ.get("SPARSE_LIB_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sparse_lib"


def cached_arrays(path: Path, make: Callable[[], Arrays]) -> Arrays:
    """Reads arrays from a cache file, or computes and stores them.

    The SHA-256 of the `.npz` file is stored beside it, in the format of `sha256sum`. A file that does not match it
    (damaged, truncated, or without a checksum) is computed again. If the cache cannot be written, a warning is
    logged and the run goes on.

    Args:
      path: the `.npz` file.
      make: computes the arrays, by name.

    Returns:
      The arrays, by name.
    """
    if path.exists():
        if _is_intact(path):
            with np.load(path, allow_pickle=False) as stored:
                return {key: stored[key] for key in stored.files}
        _LOG.warning("%s does not match its checksum: making it again.", path)
    arrays = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            np.savez(temporary, **arrays)  # type: ignore[arg-type]
        with atomic_path(_sum_path(path)) as temporary:
            temporary.write_bytes(_sum_line(path))
    except OSError as error:
        _LOG.warning("Cannot keep %s (%s): set data.cache_dir to a place with room.", path, error)
    return arrays


def _sum_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _sum_line(path: Path) -> bytes:
    with path.open("rb") as file:
        return f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}\n".encode()


def _is_intact(path: Path) -> bool:
    try:
        return _sum_path(path).read_bytes() == _sum_line(path)
    except OSError:
        return False
