"""Corrections to TensorFlow and Keras: second derivatives, and seeds that nothing uses."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import keras
import numpy as np
import tensorflow as tf

_TF_MOMENTS, _TF_MAX_POOL = tf.nn.moments, tf.nn.max_pool
_open_contexts: list[None] = []


@contextmanager
def exact_derivatives() -> Iterator[None]:
    """Makes second derivatives through normalization and max-pooling layers correct inside the context.

    `tf.nn.moments`, which Keras' LayerNormalization, GroupNormalization and (in training) BatchNormalization use,
    stops the gradient at the mean inside the variance. First derivatives are unaffected, since that term is zero;
    second derivatives lose it and come out wrong.

    The second derivative of `tf.nn.max_pool` overwrites its input where input and output have the same shape.

    Yields:
      Nothing.
    """
    tf.nn.moments, tf.nn.max_pool = _moments, _max_pool
    _open_contexts.append(None)
    try:
        yield
    finally:
        # Contexts may be nested, or interleave where replicas run in threads: the last one out restores TensorFlow's
        # functions.
        _open_contexts.pop()
        if not _open_contexts:
            tf.nn.moments, tf.nn.max_pool = _TF_MOMENTS, _TF_MAX_POOL


def _moments(
    x: tf.Tensor,
    axes: Sequence[int],
    shift: object = None,
    keepdims: bool = False,
    name: str | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and variance as from `tf.nn.moments`, differentiable any number of times."""
    del shift, name
    x = tf.convert_to_tensor(x)
    wide = tf.cast(x, tf.float32) if x.dtype == tf.float16 else x
    mean = tf.reduce_mean(wide, axes, keepdims=True)
    variance = tf.reduce_mean(tf.math.squared_difference(wide, mean), axes, keepdims=keepdims)
    mean = mean if keepdims else tf.squeeze(mean, axes)
    return tf.cast(mean, x.dtype), tf.cast(variance, x.dtype)


def _max_pool(
    input: tf.Tensor,  # noqa: A002  (TensorFlow's name)
    ksize: int | Sequence[int],
    strides: int | Sequence[int],
    padding: str | Sequence[Sequence[int]],
    data_format: str | None = None,
    name: str | None = None,
) -> tf.Tensor:
    """Same values as `tf.nn.max_pool`, by an operation whose output never has the shape of its input."""
    sizes, windows, steps = input.shape[1:-1], *(np.broadcast_to(n, len(input.shape) - 2) for n in (ksize, strides))
    is_same_shape = None not in sizes and all(-(-n // step) == n for n, step in zip(sizes, steps, strict=True))
    if is_same_shape and np.all(windows == 1):
        return tf.identity(input, name)
    if is_same_shape and padding == "SAME":
        around = [(window - 1) // 2 for window in windows]
        padded = [(0, 0), *((n, window - 1 - n) for n, window in zip(around, windows, strict=True)), (0, 0)]
        wide = tf.pad(input, padded, constant_values=input.dtype.min)
        return _TF_MAX_POOL(wide, ksize, strides, "VALID", data_format, name)
    return _TF_MAX_POOL(input, ksize, strides, padding, data_format, name)


def remove_dropout_seed(cell: keras.layers.Layer) -> None:
    """Removes the seed of a recurrent cell's dropout from its variables.

    Args:
      cell: a cell without dropout, not yet built.
    """
    cell._tracker.untrack(cell.seed_generator)
