"""Intermediate results of a long computation, stored so that a later process can continue it."""

import hashlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterable

import numpy as np

from sparse_lib._utils.atomic import atomic_path
from sparse_lib._utils.damage import DAMAGE

_RECORD = "computation.json"
_NAME = re.compile(r"part-(\d+)\.npz")


class Parts:
    """Numbered parts of one computation; each file is complete or absent.

    A directory belongs to one computation; the parts of a different one are deleted, as are those that cannot be read,
    so that they are computed again.
    """

    def __init__(self, path: str | os.PathLike[str] | None, fingerprint: str = "") -> None:
        """Opens the directory, and creates it if it does not exist.

        Args:
          path: the directory; None stores nothing.
          fingerprint: identifies the computation; parts stored under another fingerprint are deleted.

        Raises:
          OSError: if the directory cannot be written.
        """
        self._path = None if path is None else pathlib.Path(path)
        if self._path is None:
            return
        if self._path.exists() and not self._path.is_dir():
            self._path.unlink()
        self._path.mkdir(parents=True, exist_ok=True)
        record = self._path / _RECORD
        if _read_record(record) == {"fingerprint": fingerprint}:
            for number in self.numbers():
                if not self._is_readable(number):
                    self.drop(number)
        else:
            for number in self.numbers():
                self.drop(number)
            if record.is_dir():
                shutil.rmtree(record)
            with atomic_path(record) as temporary:
                temporary.write_text(json.dumps({"fingerprint": fingerprint}), encoding="utf8")

    def numbers(self) -> list[int]:
        """Lists the numbers of the stored parts, ascending."""
        if self._path is None:
            return []
        return sorted(int(match[1]) for file in self._path.iterdir() if (match := _NAME.fullmatch(file.name)))

    def _is_readable(self, number: int) -> bool:
        try:
            return bool(self.get(number))
        except DAMAGE:
            return False

    def get(self, number: int) -> dict[str, np.ndarray]:
        """Reads the arrays of a stored part, by name."""
        with np.load(self._file(number)) as arrays:
            return dict(arrays)

    def put(self, number: int, **arrays: np.ndarray | float) -> None:
        """Stores a part.

        Args:
          number: of the part.
          **arrays: its arrays and numbers, by name.

        Raises:
          OSError: if it cannot be written.
        """
        if self._path is not None:
            with atomic_path(self._file(number)) as temporary:
                np.savez(temporary, **arrays)  # type: ignore[arg-type]

    def drop(self, number: int) -> None:
        """Deletes a part."""
        if self._path is not None:
            file = self._file(number)
            shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)

    def _file(self, number: int) -> pathlib.Path:
        assert self._path is not None
        return self._path / f"part-{number}.npz"


def _read_record(path: pathlib.Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf8"))
    except (OSError, ValueError, RecursionError):
        return None


def fingerprint(words: Iterable[object], arrays: Iterable[np.ndarray]) -> str:
    """Computes a checksum of everything that a result depends on.

    Args:
      words: settings, distinguished by their text.
      arrays: values, distinguished by every bit and by their types and shapes.

    Returns:
      A hexadecimal number.
    """
    checksum = hashlib.blake2b(digest_size=20)
    checksum.update(repr([str(word) for word in words]).encode())
    for array in arrays:
        checksum.update(f"{array.dtype} {array.shape}".encode())
        checksum.update(np.ascontiguousarray(array).tobytes())
    return checksum.hexdigest()
