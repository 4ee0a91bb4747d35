"""Streams training images from disk in the batches of consecutive steps."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from sparse_lib.experiment.data.feeding import decoding, pipeline
from sparse_lib.experiment.data.feeding.batches import batch_indices
from sparse_lib.experiment.data.sources.tfrecords import EncodedImages

# Keeps these draws apart from others of the same seed.
_STREAM = 0x14CE


def image_seeds(seed: int, numbers: tf.Tensor) -> tf.Tensor:
    """Seeds of the augmentation of images.

    Args:
      seed: of the order of the data.
      numbers: positions of the images, counted over all steps of a run, int64 [n].

    Returns:
      int64 [n, 2].
    """
    first = tf.fill(tf.shape(numbers), tf.constant(seed % 2**31 * 2**32 + _STREAM, tf.int64))
    return tf.stack([first, numbers], axis=-1)


class TrainingStream:
    """Batches of consecutive steps; each is a function of (seed, step) alone, wherever the stream begins."""

    def __init__(
        self,
        images: EncodedImages,
        labels: npt.NDArray[np.int32],
        *,
        augmentation: str | None,
        batch_size: int,
        seed: int,
        places: range | None = None,
    ) -> None:
        """Opens no file yet.

        Args:
          images: of the training split.
          labels: int32 `[n]`.
          augmentation: `inception`, or None for the central square.
          batch_size: global batch size (examples).
          seed: of the order of the data and of the augmentation.
          places: consecutive positions of the global batch that this worker reads; None means all.
        """
        self._images, self._labels, self._augmentation = images, labels, augmentation
        self._batch_size, self._seed = batch_size, seed
        self._places = range(batch_size) if places is None else places
        self._next_step: int | None = None
        self._batches: Iterator[tuple[tf.Tensor, tf.Tensor]]

    def batch(self, step: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Reads this worker's share of the batch of a step.

        Args:
          step: counts from 0; the step after the previous call's is prefetched.

        Returns:
          float32 images and int32 labels.

        Raises:
          InputError: if an image cannot be read.
        """
        if step != self._next_step:
            self._batches = iter(self._pipeline(step))
        self._next_step = step + 1
        with pipeline.raise_input_errors():
            return next(self._batches)

    def _pipeline(self, first_step: int) -> tf.data.Dataset:
        images, labels, count = self._images, tf.constant(self._labels), len(self._places)
        kind = (images.size, images.channels, images.preprocessing)

        def rows(step: np.ndarray) -> np.ndarray:
            order = batch_indices(
                seed=self._seed, first_step=int(step), steps=1, batch_size=self._batch_size, n=len(images)
            )
            return order[0][self._places.start : self._places.stop]

        def locate(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            mine = tf.ensure_shape(tf.numpy_function(rows, [step], tf.int32), [count])
            # Position of the image in the run: no other draw has the same number.
            numbers = step * self._batch_size + tf.range(self._places.start, self._places.stop, dtype=tf.int64)
            return mine, tf.gather(labels, mine), image_seeds(self._seed, numbers)

        def decode(encoded: tf.Tensor, label: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            if self._augmentation is None:
                return decoding.evaluation_image(encoded, *kind), label
            return decoding.training_image(encoded, seed, *kind), label

        steps = tf.data.Dataset.range(first_step, np.iinfo(np.int64).max)
        found = steps.map(locate).map(
            lambda mine, *rest: (pipeline.fetch(images.read, mine), *rest), num_parallel_calls=pipeline.READ_AT_ONCE
        )
        return (
            found.unbatch()
            .map(decode, num_parallel_calls=tf.data.AUTOTUNE)
            .batch(count, drop_remainder=True)
            .prefetch(pipeline.AHEAD)
        )
