"""What a long computation has found so far, in a directory, for a process that takes it up again."""

import hashlib
import json
import os
import pathlib
from collections.abc import Iterable

import numpy as np

_RECORD = "computation.json"


class Parts:
    """Numbered parts of one computation; each file is whole or not there.

    A directory belongs to one computation. Parts of another one are removed, not continued.
    """

    def __init__(self, path: str | os.PathLike[str] | None, fingerprint: str = "") -> None:
        """Opens the directory, and makes it if need be.

        Args:
          path: the directory; None keeps nothing.
          fingerprint: says what is computed: the parts of a computation of another fingerprint are no use.

        Raises:
          OSError: if the directory cannot be written.
        """
        self._path = None if path is None else pathlib.Path(path)
        if self._path is None:
            return
        self._path.mkdir(parents=True, exist_ok=True)
        record = self._path / _RECORD
        if not record.exists() or json.loads(record.read_text(encoding="utf8")) != {"fingerprint": fingerprint}:
            for number in self.numbers():
                self.drop(number)
            temporary = record.with_suffix(".tmp")
            temporary.write_text(json.dumps({"fingerprint": fingerprint}), encoding="utf8")
            os.replace(temporary, record)

    def numbers(self) -> list[int]:
        """Numbers of the parts that are there, ascending."""
        return [] if self._path is None else sorted(int(file.stem[5:]) for file in self._path.glob("part-*.npz"))

    def get(self, number: int) -> dict[str, np.ndarray]:
        """The arrays of a part that is there, by name."""
        with np.load(self._file(number)) as arrays:
            return dict(arrays)

    def put(self, number: int, **arrays: np.ndarray | float) -> None:
        """Writes a part.

        Args:
          number: of the part.
          **arrays: what it consists of.

        Raises:
          OSError: if it cannot be written.
        """
        if self._path is None:
            return
        temporary = self._path / f"{number}.tmp"
        with temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self._file(number))

    def drop(self, number: int) -> None:
        """Removes a part."""
        if self._path is not None:
            self._file(number).unlink(missing_ok=True)

    def _file(self, number: int) -> pathlib.Path:
        assert self._path is not None
        return self._path / f"part-{number}.npz"


def fingerprint(words: Iterable[object], arrays: Iterable[np.ndarray]) -> str:
    """A checksum of everything that a result depends on.

    Args:
      words: whatever is told apart by its text.
      arrays: values, told apart by every bit, by their types and shapes.

    Returns:
      A hexadecimal number.
    """
    checksum = hashlib.blake2b(digest_size=20)
    checksum.update(repr([str(word) for word in words]).encode())
    for array in arrays:
        checksum.update(f"{array.dtype} {array.shape}".encode())
        checksum.update(np.ascontiguousarray(array).tobytes())
    return checksum.hexdigest()
