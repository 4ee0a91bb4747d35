"""Max pooling, batch normalization and bias in as few passes over memory as they need.

TensorFlow's max pooling visits one number at a time, and Keras computes batch normalization with a dozen elementwise
operations. Where the products of a network are sparse, these take most of a step. Pooling is bit-identical to
TensorFlow's; normalization and bias agree to rounding, and do not depend on the number of threads.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from sparse_lib.execution import library

_DTYPES = ("float32", "float64")


def max_pool(x: Any, *, pool_size: Sequence[int], strides: Sequence[int], padding: str = "valid") -> tf.Tensor:
    """Returns the maxima of windows of images.

    Args:
      x: images [batch, height, width, channels], float32 or float64.
      pool_size: height and width of a window (pixels).
      strides: vertical and horizontal distance of windows (pixels).
      padding: "valid" or "same".

    Returns:
      y [batch, out height, out width, channels], as of `tf.nn.max_pool`.
    """
    x = tf.convert_to_tensor(x)
    same = padding.lower() == "same"
    y = library.operations().sparse_lib_max_pool(x=x, pool_size=list(pool_size), strides=list(strides), same=same)
    y.set_shape(_pooled_shape(x.shape, pool_size, strides, same))
    return y


def _pooled_shape(shape: tf.TensorShape, pool_size: Sequence[int], strides: Sequence[int], same: bool) -> Any:
    if shape.rank != 4:
        return None
    spans = [0, 0] if same else [size - 1 for size in pool_size]
    sizes = [
        None if length is None else max(0, -(-(length - span) // stride))
        for length, span, stride in zip(shape[1:3], spans, strides, strict=True)
    ]
    return [shape[0], *sizes, shape[3]]


def _scatter_to_maxima(x: tf.Tensor, dy: tf.Tensor, options: dict[str, Any]) -> tf.Tensor:
    """Returns dy where the first maximum of each window of x is, and zero elsewhere; overlapping windows add."""
    dx = library.operations().sparse_lib_max_pool_scatter(x=x, dy=dy, **options)
    dx.set_shape(x.shape)
    return dx


def _gather_from_maxima(x: tf.Tensor, u: tf.Tensor, options: dict[str, Any]) -> tf.Tensor:
    """Returns u where the first maximum of each window of x is."""
    y = library.operations().sparse_lib_max_pool_gather(x=x, u=u, **options)
    y.set_shape(_pooled_shape(x.shape, options["pool_size"], options["strides"], options["same"]))
    return y


def _pool_options(op: tf.Operation) -> dict[str, Any]:
    sizes = {name: list(op.get_attr(name)) for name in ("pool_size", "strides")}
    return {**sizes, "same": bool(op.get_attr("same"))}


@tf.RegisterGradient("SparseLibMaxPool")
def _differentiate_max_pool(op: tf.Operation, dy: tf.Tensor) -> tf.Tensor:
    return _scatter_to_maxima(op.inputs[0], dy, _pool_options(op))


# Where the maxima are is constant almost everywhere; zeros rather than None, as of TensorFlow's operations.
@tf.RegisterGradient("SparseLibMaxPoolScatter")
def _differentiate_scatter(op: tf.Operation, u: tf.Tensor) -> list[tf.Tensor]:
    x = op.inputs[0]
    return [tf.zeros_like(x), _gather_from_maxima(x, u, _pool_options(op))]


@tf.RegisterGradient("SparseLibMaxPoolGather")
def _differentiate_gather(op: tf.Operation, dy: tf.Tensor) -> list[tf.Tensor]:
    x = op.inputs[0]
    return [tf.zeros_like(x), _scatter_to_maxima(x, dy, _pool_options(op))]


class Normalized(NamedTuple):
    """A normalized batch and its moments.

    Attributes:
      y: normalized, of the shape of the input.
      mean: over all axes but the last [C].
      variance: the same, not corrected for the mean's degree of freedom [C].
    """

    y: tf.Tensor
    mean: tf.Tensor
    variance: tf.Tensor


def normalize(x: Any, gamma: Any, beta: Any, epsilon: float) -> Normalized:
    """Normalizes a batch by its own moments.

    y = gamma (x - mean) / sqrt(variance + epsilon) + beta (Ioffe and Szegedy, 2015, algorithm 1).

    Args:
      x: tensor [..., C], float32 or float64.
      gamma: scale of each channel [C].
      beta: shift of each channel [C].
      epsilon: added to the variance.

    Returns:
      y, mean and variance; each can be differentiated, to any order.
    """
    x = tf.convert_to_tensor(x)
    scale, shift, small = (tf.convert_to_tensor(operand, x.dtype) for operand in (gamma, beta, epsilon))
    result = Normalized(*library.operations().sparse_lib_normalize(x=x, gamma=scale, beta=shift, epsilon=small))
    result.y.set_shape(x.shape)
    for moment in (result.mean, result.variance):
        moment.set_shape(x.shape[-1:] if x.shape.rank else [None])
    return result


@tf.RegisterGradient("SparseLibNormalize")
def _differentiate_normalize(op: tf.Operation, dy: tf.Tensor, dmean: tf.Tensor, dvariance: tf.Tensor) -> list[Any]:
    x, gamma, _, epsilon = op.inputs
    _, mean, variance = op.outputs
    dx, dgamma, dbeta = library.operations().sparse_lib_normalize_gradient(
        x=x, dy=dy, mean=mean, variance=variance, gamma=gamma, epsilon=epsilon, dmean=dmean, dvariance=dvariance
    )
    dx.set_shape(x.shape)
    for gradient in (dgamma, dbeta):
        gradient.set_shape(gamma.shape)
    return [dx, dgamma, dbeta, None]


@tf.RegisterGradient("SparseLibNormalizeGradient")
def _differentiate_normalize_gradient(op: tf.Operation, *upstream: tf.Tensor) -> list[tf.Tensor | None]:
    inputs = list(op.inputs)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = _find_normalize_gradient(*inputs)
    return tape.gradient(outputs, inputs, output_gradients=upstream)


def _find_normalize_gradient(
    x: tf.Tensor,
    dy: tf.Tensor,
    mean: tf.Tensor,
    variance: tf.Tensor,
    gamma: tf.Tensor,
    epsilon: tf.Tensor,
    dmean: tf.Tensor,
    dvariance: tf.Tensor,
) -> list[tf.Tensor]:
    """Returns what the operation returns, of operations that TensorFlow can differentiate."""
    axes = list(range(x.shape.rank - 1))
    rows = tf.cast(tf.reduce_prod(tf.shape(x)[:-1]), x.dtype)
    scale, centred = tf.math.rsqrt(variance + epsilon), x - mean
    dbeta = tf.reduce_sum(dy, axes)
    dgamma = scale * tf.reduce_sum(dy * centred, axes)
    slope = (2 * dvariance - gamma * scale**2 * dgamma) / rows
    dx = gamma * scale * dy + slope * centred + (dmean - gamma * scale * dbeta) / rows
    return [dx, dgamma, dbeta]


def add_bias(x: Any, bias: Any) -> tf.Tensor:
    """Returns x + bias.

    Args:
      x: tensor [..., C], float32 or float64.
      bias: a number for each channel [C].

    Returns:
      The sum, of the shape of x.
    """
    x = tf.convert_to_tensor(x)
    y = library.operations().sparse_lib_add_to_rows(x=x, bias=tf.convert_to_tensor(bias, x.dtype))
    y.set_shape(x.shape)
    return y


def sum_rows(x: Any) -> tf.Tensor:
    """Returns the sum over all axes but the last.

    Args:
      x: tensor [..., C], float32 or float64.

    Returns:
      Sums [C].
    """
    x = tf.convert_to_tensor(x)
    sums = library.operations().sparse_lib_sum_rows(x=x)
    sums.set_shape(x.shape[-1:] if x.shape.rank else [None])
    return sums


@tf.RegisterGradient("SparseLibAddToRows")
def _differentiate_add_bias(op: tf.Operation, dy: tf.Tensor) -> list[tf.Tensor]:
    del op
    return [dy, sum_rows(dy)]


@tf.RegisterGradient("SparseLibSumRows")
def _differentiate_sum_rows(op: tf.Operation, upstream: tf.Tensor) -> tf.Tensor:
    return tf.broadcast_to(upstream, tf.shape(op.inputs[0]))


def replace_pooling(layer: keras.Layer) -> Callable[..., tf.Tensor] | None:
    """Makes the function that takes the place of the `call` of a max pooling layer.

    Args:
      layer: any layer.

    Returns:
      Takes what the layer's `call` takes, and returns the same; None where the layer is no `MaxPooling2D`, or has a
      setting that is not covered.
    """
    if type(layer) is not keras.layers.MaxPooling2D or layer.data_format != "channels_last":
        return None
    if layer.compute_dtype not in _DTYPES or 0 in layer.strides:
        return None

    def call(inputs: Any) -> tf.Tensor:
        x = tf.convert_to_tensor(inputs)
        if x.dtype.name not in _DTYPES:
            return type(layer).call(layer, inputs)
        return max_pool(x, pool_size=layer.pool_size, strides=layer.strides, padding=layer.padding)

    return call


def replace_normalization(layer: keras.Layer) -> Callable[..., tf.Tensor] | None:
    """Makes the function that takes the place of the `call` of a batch normalization.

    Args:
      layer: any layer.

    Returns:
      Takes what the layer's `call` takes, and returns the same, moving averages included; None where the layer is no
      built `BatchNormalization`, or has a setting that is not covered.
    """
    if type(layer) is not keras.layers.BatchNormalization or not layer.built or layer.renorm or layer.synchronized:
        return None
    if layer.compute_dtype not in _DTYPES or layer.moving_mean.dtype != layer.compute_dtype:
        return None
    if layer.axis not in (-1, layer.input_spec.ndim - 1):
        return None

    def call(inputs: Any, training: Any = None, mask: Any = None) -> tf.Tensor:
        x = tf.convert_to_tensor(inputs)
        if not training or not layer.trainable or mask is not None or x.dtype.name != layer.compute_dtype:
            return type(layer).call(layer, inputs, training=training, mask=mask)
        channels = [x.shape[-1]]
        gamma = tf.ones(channels, x.dtype) if layer.gamma is None else layer.gamma
        beta = tf.zeros(channels, x.dtype) if layer.beta is None else layer.beta
        y, mean, variance = normalize(x, gamma, beta, layer.epsilon)
        for average, moment in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
            average.assign(average * layer.momentum + moment * (1.0 - layer.momentum))
        return y

    return call


def find_function(layer: keras.Layer) -> Callable[..., tf.Tensor] | None:
    """Finds the function that takes the place of the `call` of a layer without sparse kernels.

    Args:
      layer: any layer.

    Returns:
      Takes what the layer's `call` takes, and returns the same; None where there is none.
    """
    return replace_pooling(layer) or replace_normalization(layer)
