"""Training images on the device: batches are gathered, augmented and normalised inside the compiled step."""

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from sparse_lib.experiment.data.dataset import Split
from sparse_lib.experiment.data.feeding import augmentation as variations
from sparse_lib.experiment.data.feeding.pixels import Pixels


class Resident:
    """The images of a training split as tensors."""

    def __init__(self, split: Split, *, augmentation: str | None, seed: int) -> None:
        """Copies the images to the device, bytes as bytes.

        Args:
          split: the training split, in memory.
          augmentation: `crop_flip` or None.
          seed: of the augmentation.
        """
        pixels = split.images if isinstance(split.images, Pixels) else None
        self._images = tf.constant(split.images if pixels is None else pixels.values)
        self._labels = tf.constant(split.labels)
        self._per_image = pixels is not None and pixels.per_image
        self._normalisation = None if pixels is None else (tf.constant(pixels.offset), tf.constant(pixels.scale))
        self._augmentation, self._seed = augmentation, seed

    def orders(self, rows: npt.NDArray[np.int32], first_step: int) -> npt.NDArray[np.int32]:
        """Indices and augmentation of the images of consecutive steps.

        Args:
          rows: indices of the images of the global batches, `[steps, batch]`.
          first_step: counts from 0.

        Returns:
          `[steps, batch, 1]`, or `[steps, batch, 4]` with the crop and flip of each image.
        """
        if self._augmentation is None:
            return rows[..., np.newaxis]
        steps = range(first_step, first_step + len(rows))
        draws = [variations.crop_flip_draws(self._seed, step, rows.shape[1]) for step in steps]
        return np.concatenate([rows[..., np.newaxis], np.stack(draws)], axis=-1)

    def batch(self, orders: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Images of one step, or of one replica's share of it.

        Args:
          orders: of that step, from `orders`, `[n, 1 or 4]`.

        Returns:
          float32 images and int32 labels.
        """
        rows = orders[:, 0]
        images, labels = tf.gather(self._images, rows), tf.gather(self._labels, rows)
        if self._augmentation is not None:
            images = variations.crop_flip(images, orders[:, 1:])
        if self._normalisation is None:
            return images, labels
        offset, scale = self._normalisation
        if self._per_image:
            offset, scale = tf.gather(offset, rows), tf.gather(scale, rows)
        return (tf.cast(images, tf.float32) - offset) / scale, labels
