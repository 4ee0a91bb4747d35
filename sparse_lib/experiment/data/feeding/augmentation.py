"""Augmentation of training images in memory, inside the compiled step."""

import numpy as np
import numpy.typing as npt
import tensorflow as tf

# Pixels around an image of CIFAR (He et al. 2016, section 4.2).
PAD = 4

# Keeps these draws apart from others of the same seed.
_STREAM = 0xC40F


def crop_flip_draws(seed: int, step: int, count: int, pad: int = PAD) -> npt.NDArray[np.int32]:
    """Draws where the images of a step are cropped, and which are mirrored.

    Drawn outside the compiled step, since XLA and TensorFlow draw different numbers from one seed.

    Args:
      seed: of the order of the data.
      step: counts from 0.
      count: number of images (count).
      pad: as for `crop_flip`.

    Returns:
      `[count, 3]`: first row and column in the padded image, each uniform in 0 to 2 pad, and 0 or 1.
    """
    kinds = (2 * pad + 1, 2 * pad + 1, 2)
    return np.random.default_rng([seed, _STREAM, step]).integers(0, kinds, (count, 3), np.int32)


def crop_flip(images: tf.Tensor, draws: tf.Tensor, pad: int = PAD) -> tf.Tensor:
    """Pads by reflection, crops the original size at random places, and mirrors half of the images.

    The reflection repeats the outermost pixel, as google-research/rigl pads CIFAR, so that normalising before or after
    gives the same.

    Args:
      images: `[n, height, width, channels]`, of any type.
      draws: from `crop_flip_draws`, `[n, 3]`.
      pad: pixels added on each side; less than height and width.

    Returns:
      Images of the same shape and type.
    """
    height, width = images.shape[1:3]
    rows = draws[:, :1] - pad + tf.range(height)
    across = tf.range(width)
    columns = draws[:, 1:2] - pad + tf.where(draws[:, 2:] == 1, width - 1 - across, across)
    cut = tf.gather(images, _reflect(rows, height), axis=1, batch_dims=1)
    return tf.gather(cut, _reflect(columns, width), axis=2, batch_dims=1)


def _reflect(places: tf.Tensor, size: int) -> tf.Tensor:
    """Reflects indices beyond either end, the end itself repeated."""
    inside = tf.where(places < 0, -1 - places, places)
    return tf.where(inside >= size, 2 * size - 1 - inside, inside)
