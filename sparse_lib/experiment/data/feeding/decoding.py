"""Decodes crops of encoded images, resizes and normalises them."""

from collections.abc import Callable

import tensorflow as tf

from sparse_lib.experiment.data.feeding.preprocessing import Preprocessing

# Of the shorter side, as 224 of 256 pixels (Krizhevsky et al. 2012, and the published models since).
CENTRAL = 0.875
# Inception's crop (Szegedy et al. 2015): share of the area, and aspect ratio of the crop. The published code rejects a
# crop of less than a tenth of the image and draws again.
AREA, RATIO, ATTEMPTS = (0.08, 1.0), (3 / 4, 4 / 3), 10
LEAST_COVERED = 0.1

# As in TF1's decoder, and so in all published results; the accurate transform differs by up to 9 grey levels.
_DCT = "INTEGER_FAST"

Choice = Callable[[tf.Tensor], tf.Tensor]


def evaluation_image(encoded: tf.Tensor, size: int, channels: int, preprocessing: Preprocessing) -> tf.Tensor:
    """Decodes the central square of an image.

    Args:
      encoded: JPEG, PNG, BMP or the first frame of a GIF, a scalar string.
      size: height and width of the result (pixels).
      channels: of the result (count).
      preprocessing: of the pixels.

    Returns:
      float32 `[size, size, channels]`.
    """
    return _resize_and_normalise(decode_window(encoded, _central_window, channels), size, channels, preprocessing)


def training_image(
    encoded: tf.Tensor, seed: tf.Tensor, size: int, channels: int, preprocessing: Preprocessing
) -> tf.Tensor:
    """Decodes a random part of an image, mirrored in half of the cases: the Inception crop.

    The part covers 10 to 100% of the area and has an aspect ratio of 3/4 to 4/3; if ten attempts find none, it is the
    central square.

    Args:
      encoded: as for `evaluation_image`.
      seed: of the draws, int64 [2].
      size: height and width of the result (pixels).
      channels: of the result (count).
      preprocessing: of the pixels.

    Returns:
      float32 `[size, size, channels]`.
    """
    box_seed, flip_seed = tf.unstack(tf.random.split(seed, 2, alg="philox"))
    image = _resize_and_normalise(
        decode_window(encoded, lambda shape: inception_window(shape, box_seed), channels), size, channels, preprocessing
    )
    return tf.image.stateless_random_flip_left_right(image, flip_seed)


def decode_window(encoded: tf.Tensor, choose: Choice, channels: int) -> tf.Tensor:
    """Decodes the part [top, left, height, width] that `choose` names for a shape; the rest of a JPEG is skipped."""

    def jpeg() -> tf.Tensor:
        window = choose(tf.io.extract_jpeg_shape(encoded)[:2])
        return tf.io.decode_and_crop_jpeg(encoded, window, channels=channels, dct_method=_DCT)

    def other() -> tf.Tensor:
        image = tf.io.decode_image(encoded, channels=channels, expand_animations=False)
        top, left, height, width = tf.unstack(choose(tf.shape(image)[:2]))
        return image[top : top + height, left : left + width]

    return tf.cond(tf.io.is_jpeg(encoded), jpeg, other)


def _central_window(shape: tf.Tensor) -> tf.Tensor:
    side = tf.cast(CENTRAL * tf.cast(tf.reduce_min(shape), tf.float32), tf.int32)
    top, left = tf.unstack((shape - side + 1) // 2)
    return tf.stack([top, left, side, side])


def inception_window(shape: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Draws the crop [top, left, height, width] of Inception's training; the central square where none fits."""
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.concat([shape, [1]], 0),
        tf.zeros([1, 0, 4]),
        seed,
        min_object_covered=LEAST_COVERED,
        aspect_ratio_range=RATIO,
        area_range=AREA,
        max_attempts=ATTEMPTS,
        use_image_if_no_bounding_boxes=True,
    )
    found = tf.reduce_any(extent[:2] != shape)
    return tf.where(found, tf.concat([begin[:2], extent[:2]], 0), _central_window(shape))


def _resize_and_normalise(image: tf.Tensor, size: int, channels: int, preprocessing: Preprocessing) -> tf.Tensor:
    if preprocessing.legacy_bicubic:
        resized = tf.raw_ops.ResizeBicubic(images=image[None], size=[size, size])[0]
    else:
        resized = tf.image.resize(image, [size, size], antialias=True)
    return normalise(tf.ensure_shape(resized, [size, size, channels]), preprocessing)


def normalise(image: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    """Normalises the pixels of one image.

    Args:
      image: float32 `[height, width, channels]` in grey levels, about 0 to 255.
      preprocessing: mean and standard deviation, or those of the image.

    Returns:
      float32 of the same shape.
    """
    if preprocessing.per_image:
        return tf.image.per_image_standardization(image)
    if preprocessing.reverses_channels:
        image = image[..., ::-1]
    return (image - tf.constant(preprocessing.mean)) / tf.constant(preprocessing.std)
