"""A text as labelled examples: stretches of bytes, each with the byte that follows."""

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sparse_lib._utils.errors import InputError
from sparse_lib.experiment.data.dataset import Dataset, Split

# Bytes of context. The RigL paper (appendix I) trains on stretches of 512 and predicts after each byte of them; here a
# stretch gives one prediction, which seldom depends on more bytes than these.
CONTEXT = 128
_CODES = 256
LARGEST = 100_000


def load_text(
    name: str, *, validation_size: int | None = None, data_dir: str | os.PathLike[str] | None = None
) -> Dataset:
    """Cuts a text into stretches, each labelled with the byte that follows it.

    The first eight tenths of the text are the training split, the ninth is for validation, the tenth for the test.
    Stretches begin at even distances, and never span two splits.

    Args:
      name: path of the file, relative to `data_dir` where that is given.
      validation_size: stretches for validation (count); None means all of its tenth, at most 10,000.
      data_dir: folder of the file.

    Returns:
      The data set: byte codes as images `[CONTEXT, 1, 1]`, 256 classes; at most 100,000 training examples.

    Raises:
      InputError: if there is no such file, or it is too short.
    """
    path = (Path(data_dir or "") / name).expanduser()
    if not path.is_file():
        raise InputError(f"There is no file '{path}': correct its name or the data_dir.")
    codes = np.frombuffer(path.read_bytes(), np.uint8)
    if len(codes) < 20 * CONTEXT:
        raise InputError(f"The text '{path}' has {len(codes)} bytes: give at least {20 * CONTEXT}.")
    first, second = len(codes) * 8 // 10, len(codes) * 9 // 10
    held = LARGEST // 10
    train = _stretches(codes[:first], LARGEST)
    validation = _stretches(codes[first:second], held if validation_size is None else validation_size)
    return Dataset(name, train, validation, _stretches(codes[second:], held), _CODES)


def _stretches(codes: npt.NDArray[np.uint8], most: int) -> Split:
    possible = len(codes) - CONTEXT
    count = min(possible, most)
    starts = np.arange(count) * possible // max(count, 1)
    seen = codes[starts[:, np.newaxis] + np.arange(CONTEXT)]
    return Split(seen.astype(np.float32).reshape(count, CONTEXT, 1, 1), codes[starts + CONTEXT].astype(np.int32))
