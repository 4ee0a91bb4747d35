"""Input pipelines that read images by index and decode them in parallel, ahead of their use."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from sparse_lib._utils.errors import InputError
from sparse_lib.experiment.data.feeding import decoding
from sparse_lib.experiment.data.feeding.preprocessing import Preprocessing

# Decoded batches that are prefetched, and batches whose files are read at the same time.
AHEAD, READ_AT_ONCE = 2, 4
# Images whose files are read at once for an evaluation.
_BLOCK = 64

# Indices of images -> encoded images.
Read = Callable[[npt.NDArray[np.integer]], list[bytes]]


def evaluation_batches(
    read: Read, count: int, at_once: int, size: int, channels: int, preprocessing: Preprocessing
) -> Iterator[npt.NDArray[np.float32]]:
    """Iterates over the images once, in order.

    Args:
      read: reads encoded images by index.
      count: number of images (count).
      at_once: images per batch (count).
      size: height and width that images are resized to (pixels).
      channels: of an image (count).
      preprocessing: of the pixels.

    Yields:
      `[at_once, size, size, channels]`; the last batch may be shorter.

    Raises:
      InputError: if an image cannot be read.
    """
    batches = (
        tf.data.Dataset.range(count)
        .batch(_BLOCK)
        .map(lambda rows: fetch(read, rows), num_parallel_calls=READ_AT_ONCE)
        .unbatch()
        .map(
            lambda encoded: decoding.evaluation_image(encoded, size, channels, preprocessing),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        .batch(at_once)
        .prefetch(AHEAD)
    )
    with raise_input_errors():
        yield from batches.as_numpy_iterator()


def fetch(read: Read, rows: tf.Tensor) -> tf.Tensor:
    """Reads encoded images inside a pipeline.

    Args:
      read: reads encoded images by index.
      rows: indices of images, [n].

    Returns:
      Strings, [n].
    """

    def contents(rows: np.ndarray) -> Any:
        return np.array(read(rows), object)

    return tf.ensure_shape(tf.numpy_function(contents, [rows], tf.string), rows.shape)


@contextmanager
def raise_input_errors() -> Iterator[None]:
    """Replaces an error of TensorFlow by one line about an image that cannot be decoded.

    Yields:
      Nothing.

    Raises:
      InputError: instead of TensorFlow's error.
    """
    try:
        yield
    except tf.errors.OpError as error:
        reason = error.message.strip().partition("\n")[0]
        raise InputError(f"An image on disk cannot be decoded ({reason}): prepare the data set again.") from error
