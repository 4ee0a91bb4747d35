r"""The part of the Hessian that is not Gauss-Newton, for chains of piecewise linear layers.

Let r be the gradient of the loss with respect to the logits z, held fixed. The residual sum_c r_c d^2 z_c is the
Hessian of <r, z>. Each layer is linear in its own weights, and the layers above do not depend on them, so that

    d<r, z> / dw_m = <d z_m / dw_m, delta_m>,    delta_m = r pulled back to the output of layer m.

For a layer l below m, delta_m is constant and only the input of layer m moves: the block (l, m) takes the tangents of
layer l's coordinates, pushes them up to layer m and multiplies them by delta_m. Blocks of a layer with itself vanish.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from sparse_lib.curvature.exact.linear_maps import Map
from sparse_lib.curvature.exact.weighted_layers import Weights


def blocks(maps: Sequence[Map], cotangents: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Second derivatives of <r, z> between each layer with coordinates and all layers above it.

    Args:
      maps: the chain, from the first layer with coordinates to the logits.
      cotangents: r pulled back to the output of each map, [n, *outputs].

    Returns:
      For each map with coordinates but the last, the rows of its coordinates, [coordinates, coordinates above],
      summed over the batch.
    """
    layers = [(place, m) for place, m in enumerate(maps) if isinstance(m, Weights) and m.coordinates.size]
    last = layers[-1][0]
    rows = []
    for place, layer in layers[:-1]:
        above = list(zip(maps, cotangents, strict=True))[place + 1 : last + 1]
        of_layer = _rows_of_images if layer.has_places else _rows_of_vectors
        rows.append(of_layer(layer, above))
    return rows


def _rows_of_vectors(layer: Weights, above: list[tuple[Map, tf.Tensor]]) -> tf.Tensor:
    """Rows of a layer in which all tangents into one unit are equal up to a factor per example.

    The tangent of a unit is pushed up once, for all its coordinates.
    """
    at = layer.coordinates
    units = np.concatenate([at.outputs, at.bias])
    order = np.argsort(units, kind="stable")
    present, counts = np.unique(units, return_counts=True)
    ends = np.cumsum(counts)
    factors = tf.gather(layer.columns(tf.ones_like(layer.outputs)[tf.newaxis])[:, 0], order)
    width = sum(m.coordinates.size for m, _ in above if isinstance(m, Weights))

    def unit(i: tf.Tensor, rows: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
        left = factors[tf.gather(ends - counts, i) : tf.gather(ends, i)]
        impulse = tf.ones([tf.shape(factors)[1], 1], factors.dtype)
        return i + 1, rows.write(i, _push(left, impulse, tf.gather(present, i), above))

    rows = tf.TensorArray(factors.dtype, len(present), infer_shape=False, element_shape=[None, width])
    _, rows = tf.while_loop(lambda i, _: i < len(present), unit, (0, rows), parallel_iterations=2)
    return tf.ensure_shape(tf.gather(rows.concat(), np.argsort(order)), [at.size, width])


def _rows_of_images(layer: Weights, above: list[tuple[Map, tf.Tensor]]) -> tf.Tensor:
    """Rows of a layer that applies each weight at many positions: the tangent of each coordinate is pushed up."""
    at, dtype = layer.coordinates, layer.outputs.dtype
    one = tf.ones([1, tf.shape(layer.outputs)[0]], dtype)

    def kernel(tap_and_channel: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        tap, channel = tap_and_channel
        return _push(one, layer.tangent(tap), channel, above)[0]

    def bias(channel: tf.Tensor) -> tf.Tensor:
        return _push(one, tf.ones_like(layer.outputs[..., :1]), channel, above)[0]

    parts = []
    if at.taps.size:
        parts.append(tf.map_fn(kernel, (at.taps, at.outputs), fn_output_signature=dtype))
    if at.bias.size:
        parts.append(tf.map_fn(bias, at.bias, fn_output_signature=dtype))
    return tf.concat(parts, axis=0)


def _push(
    left: tf.Tensor, tangents: tf.Tensor, channel: tf.Tensor | None, above: list[tuple[Map, tf.Tensor]]
) -> tf.Tensor:
    """Derivatives with respect to all coordinates above, along a tangent in one channel, [c, coordinates above]."""
    parts = []
    for place, (layer, cotangents) in enumerate(above):
        if isinstance(layer, Weights) and layer.coordinates.size:
            parts.append(layer.mixed_derivatives(left, tangents, cotangents, channel))
        if place + 1 < len(above):
            tangents, channel = layer.push(tangents, channel)
    return tf.concat(parts, axis=1)
