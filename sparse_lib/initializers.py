"""Sparsity-aware initialisation: the variance of a sparse kernel follows from its mask.

A dense initialisation counts connections that the mask removes, so the signal fades from layer to layer. Unit scaling
uses the fan of each unit under the mask; layer scaling divides dense values by the root of the layer's density. All
functions are pure: equal seeds give equal values.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import tensorflow as tf

from sparse_lib import selection
from sparse_lib._utils.errors import InputError

# Standard deviation of a standard normal truncated at two standard deviations.
_TRUNCATED_STDDEV = 0.87962566103423978

_FANS = ("fanin", "fanout", "fanavg")
_SHAPES = ("normal", "uniform")

Seed: TypeAlias = int | Sequence[int] | tf.Tensor


def unit_scaled(
    mask: Any,
    *,
    method: str = "fanavg_uniform",
    scale: float = 1.0,
    seed: Seed,
    inputs: Sequence[int] = (-2,),
    outputs: Sequence[int] = (-1,),
) -> tf.Tensor:
    """Draws a kernel whose variance is set per connection, by the fan of its units under the mask.

    Var(w_io) = scale / max(1, fan_io)

    The fan of the connection from input unit i to output unit o is the number of active connections into o (fan-in),
    out of i (fan-out), or their mean. Normal values are not truncated. `fanin_normal` with scale 2 is the
    initialisation of the gradient-flow paper (Evci et al. 2022, arXiv 2010.03533, section 3.1); the default is Glorot's
    with sparse fans.

    Args:
      mask: boolean, of the kernel's shape, rank 1 or higher.
      method: `fanin`, `fanout` or `fanavg`, followed by `_normal` or `_uniform`.
      scale: numerator of the variance, positive.
      seed: one integer, or two as for `tf.random.stateless_uniform`.
      inputs: axes that index input units; the default fits dense and convolutional kernels.
      outputs: axes that index output units; `structures.input_axes` and `structures.output_axes` give both for
        other layers.

    Returns:
      A float32 tensor of the mask's shape, exactly 0 off the mask.

    Raises:
      ValueError: if the method or the scale is not valid, or the mask is a scalar.

    Examples:
      >>> import numpy as np
      >>> from sparse_lib import initializers
      >>> mask = np.ones((100, 1000), bool)
      >>> mask[10:, :500] = False  # the first 500 outputs have fan-in 10, the others 100
      >>> kernel = initializers.unit_scaled(mask, method="fanin_normal", scale=2.0, seed=0).numpy()
      >>> round(float(kernel[:10, :500].std()), 2), round(float(kernel[:, 500:].std()), 2)  # sqrt(2 / fan-in)
      (0.45, 0.14)
    """
    mask = _validate_mask(mask)
    fan_kind, distribution = _parse_method(method, scale)
    fan = tf.maximum(_fan(mask, fan_kind, inputs, outputs), 1.0)
    stddev = tf.sqrt(scale / fan)
    return selection.on_mask(mask, stddev * _draw(mask.shape, distribution, seed))


def layer_scaled(
    mask: Any,
    *,
    method: str = "fanavg_uniform",
    scale: float = 1.0,
    seed: Seed,
    inputs: Sequence[int] = (-2,),
    outputs: Sequence[int] = (-1,),
) -> tf.Tensor:
    """Draws a masked dense kernel, scaled by the root of one over the layer's density.

    Var(w) = scale / dense_fan / (nnz / size)

    Proposed by Liu et al. (2019, arXiv 1810.05270); this is the variant compared in the gradient-flow paper (Evci et
    al. 2022, arXiv 2010.03533, section 3.1). The dense values are those of Keras' VarianceScaling: fans include the
    receptive field, and normal values are truncated at two standard deviations.

    Args:
      mask: boolean, of the kernel's shape, rank 1 or higher.
      method: `fanin`, `fanout` or `fanavg`, followed by `_normal` or `_uniform`.
      scale: numerator of the variance, positive.
      seed: one integer, or two as for `tf.random.stateless_uniform`.
      inputs: axes that index input units, as for `unit_scaled`.
      outputs: axes that index output units.

    Returns:
      A float32 tensor of the mask's shape, exactly 0 off the mask.

    Raises:
      ValueError: if the method or the scale is not valid, or the mask is a scalar.
    """
    mask = _validate_mask(mask)
    fan_kind, distribution = _parse_method(method, scale)
    # Every unit of a dense kernel has the same fan.
    dense_fan = tf.reduce_max(_fan(tf.ones_like(mask), fan_kind, inputs, outputs))
    nnz = tf.cast(tf.math.count_nonzero(mask), tf.float32)
    density = tf.maximum(nnz, 1.0) / max(mask.shape.num_elements(), 1)
    stddev = tf.sqrt(scale / dense_fan / density)
    distribution = "truncated_normal" if distribution == "normal" else distribution
    return selection.on_mask(mask, stddev * _draw(mask.shape, distribution, seed))


def add_noise(values: tf.Tensor, stddev: float, *, seed: Seed, mask: tf.Tensor | None = None) -> tf.Tensor:
    """Adds Gaussian noise to a tensor.

    Args:
      values: floating-point tensor.
      stddev: standard deviation of the noise, in units of the values, not negative.
      seed: one integer, or two as for `tf.random.stateless_normal`.
      mask: boolean, of the tensor's shape; the result is exactly 0 off the mask. None adds noise everywhere.

    Returns:
      Noisy values, of the same shape and dtype.

    Raises:
      ValueError: if the standard deviation is negative.
    """
    if not stddev >= 0:
        raise InputError(f"The noise has standard deviation {stddev}; give 0 or more.")
    values = tf.convert_to_tensor(values)
    noise = tf.cast(_draw(values.shape, "normal", seed), values.dtype)
    noisy = values + tf.cast(stddev, values.dtype) * noise
    return noisy if mask is None else selection.on_mask(tf.cast(mask, tf.bool), noisy)


def seed_pair(seed: Seed) -> tf.Tensor:
    """Converts a seed to the pair that `tf.random.stateless_*` takes.

    Args:
      seed: one integer, or two.

    Returns:
      int64 tensor [2]: the two integers, or the one integer and 0.
    """
    pair = tf.cast(seed, tf.int64)
    return pair if pair.shape.rank else tf.stack([pair, tf.zeros_like(pair)])


def _validate_mask(mask: Any) -> tf.Tensor:
    mask = tf.cast(mask, tf.bool)
    if mask.shape.rank == 0:
        raise InputError("The mask is a scalar; give the mask of a kernel.")
    return mask


def _parse_method(method: str, scale: float) -> tuple[str, str]:
    fan_kind, _, distribution = method.partition("_")
    if fan_kind not in _FANS or distribution not in _SHAPES:
        known = [f"{fan}_{shape}" for fan in _FANS for shape in _SHAPES]
        raise InputError(f"Unknown initialisation {method!r}; use one of {known}.")
    if not scale > 0:
        raise InputError(f"The initialisation has scale {scale}; give a positive number.")
    return fan_kind, distribution


def _fan(mask: tf.Tensor, kind: str, inputs: Sequence[int], outputs: Sequence[int]) -> tf.Tensor:
    """Active connections per unit, float32, broadcastable against the kernel."""
    rank = mask.shape.rank

    def count(units: Sequence[int]) -> tf.Tensor:
        # As in Keras, the length of a vector is both its fan-in and its fan-out.
        kept = {axis % rank for axis in units} if rank > 1 else set()
        axes = [axis for axis in range(rank) if axis not in kept]
        return tf.cast(tf.math.count_nonzero(mask, axis=axes, keepdims=True), tf.float32)

    if kind == "fanavg":
        return (count(outputs) + count(inputs)) / 2.0
    return count(outputs if kind == "fanin" else inputs)


def _draw(shape: tf.TensorShape, distribution: str, seed: Seed) -> tf.Tensor:
    """Draws independent values of mean 0 and variance 1, float32."""
    pair = seed_pair(seed)
    if distribution == "normal":
        return tf.random.stateless_normal(shape, pair, alg="philox")
    if distribution == "truncated_normal":
        return tf.random.stateless_truncated_normal(shape, pair, stddev=1 / _TRUNCATED_STDDEV, alg="philox")
    limit = 3.0**0.5
    return tf.random.stateless_uniform(shape, pair, -limit, limit, alg="philox")
