"""Images read by number and decoded in parallel, ahead of their use."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from sparse_lib._utils.errors import InputError
from sparse_lib.experiment.data.feeding import decoding
from sparse_lib.experiment.data.feeding.preprocessing import Preprocessing

# Batches that wait decoded, and batches whose files are read at the same time.
AHEAD, READ_AT_ONCE = 2, 4
# Images whose files are read in one go for an evaluation.
_BLOCK = 64

# Numbers of images to their encoded contents.
Read = Callable[[npt.NDArray[np.integer]], list[bytes]]


def evaluation_batches(
    read: Read, count: int, at_once: int, size: int, channels: int, preprocessing: Preprocessing
) -> Iterator[npt.NDArray[np.float32]]:
    """Goes through images once, in order.

    Args:
      read: gets the encoded images.
      count: of all images.
      at_once: images of a batch.
      size: height and width that they are brought to (pixels).
      channels: of an image (count).
      preprocessing: of the pixels.

    Yields:
      `[at_once, size, size, channels]`; the last batch may be shorter.

    Raises:
      ValueError: if an image cannot be read.
    """
    batches = (
        tf.data.Dataset.range(count)
        .batch(_BLOCK)
        .map(lambda rows: fetched(read, rows), num_parallel_calls=READ_AT_ONCE)
        .unbatch()
        .map(
            lambda encoded: decoding.evaluation_image(encoded, size, channels, preprocessing),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        .batch(at_once)
        .prefetch(AHEAD)
    )
    with told():
        yield from batches.as_numpy_iterator()


def fetched(read: Read, rows: tf.Tensor) -> tf.Tensor:
    """Encoded images inside a pipeline.

    Args:
      read: gets them.
      rows: numbers of images, [n].

    Returns:
      Strings, [n].
    """

    def contents(rows: np.ndarray) -> Any:
        return np.array(read(rows), object)

    return tf.ensure_shape(tf.numpy_function(contents, [rows], tf.string), rows.shape)


@contextmanager
def told() -> Iterator[None]:
    """Tells in one line that an image cannot be read.

    Yields:
      Nothing.

    Raises:
      ValueError: where TensorFlow raises an error of its own.
    """
    try:
        yield
    except tf.errors.OpError as error:
        reason = error.message.strip().partition("\n")[0]
        raise InputError(f"An image on disk cannot be decoded ({reason}): prepare the data set again.") from error
