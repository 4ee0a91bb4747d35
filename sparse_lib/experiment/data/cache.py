"""Arrays on disk under a checksum: made once, verified at every reading."""

import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

_LOG = logging.getLogger(__name__)

Arrays = Mapping[str, np.ndarray]


def cache_directory(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Where made arrays are kept.

    Args:
      cache_dir: wins where given; then the environment's `SPARSE_LIB_CACHE`, then
        `$XDG_CACHE_HOME/sparse_lib`, then `~/.cache/sparse_lib`.

    Returns:
      The directory, which may not exist yet.
    """
    chosen = cache_dir or os.environ.get("SPARSE_LIB_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sparse_lib"


def cached_arrays(path: Path, make: Callable[[], Arrays]) -> Arrays:
    """Reads arrays from `path`, or makes and keeps them there.

    Beside the `.npz` lies its SHA-256 in the format of `sha256sum`. A file that does not match
    (damaged, cut off, or without a checksum) is made again. A cache that cannot be written costs
    a warning, never the run.

    Args:
      path: the `.npz` file.
      make: makes the arrays by name.

    Returns:
      The arrays by name.
    """
    if path.exists():
        if _is_intact(path):
            with np.load(path, allow_pickle=False) as stored:
                return {key: stored[key] for key in stored.files}
        _LOG.warning("%s does not match its checksum: making it again.", path)
    arrays = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, lambda part: np.savez(part, **arrays))  # type: ignore[arg-type]
        _replace(_sum_path(path), lambda part: part.write(_sum_line(path)))
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


def _replace(path: Path, write: Callable[[BinaryIO], object]) -> None:
    # A process that is killed here leaves a stray part file and never half a cache.
    part_path = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part_path.open("wb") as part:
            write(part)
            part.flush()
            os.fsync(part.fileno())
        os.replace(part_path, path)
    finally:
        part_path.unlink(missing_ok=True)
