"""The Gauss-Newton part of the Hessian of softmax cross-entropy, J^T H_L J, by classes - 1 backward passes."""

from collections.abc import Sequence

import tensorflow as tf

from sparse_lib.curvature.exact.linear_maps import Map
from sparse_lib.curvature.exact.weighted_layers import Weights


def softmax_factor(logits: tf.Tensor) -> tf.Tensor:
    """Factorizes the Hessian of cross-entropy with respect to the logits.

    H_L = diag(p) - p p^T = F F^T. With s = sqrt(p), H_L = diag(s) (I - s s^T) diag(s); a Householder reflection that
    maps s to an axis gives an orthonormal basis of the complement of s, with one column less than classes.

    Args:
      logits: shape [n, classes].

    Returns:
      The columns of F, [classes - 1, n, classes].
    """
    s = tf.sqrt(tf.nn.softmax(logits))
    identity = tf.eye(logits.shape[1], dtype=logits.dtype)
    mirror = s + identity[0]
    scaled = mirror / (1 + s[:, :1])
    columns = identity[1:, tf.newaxis] - tf.transpose(mirror)[1:, :, tf.newaxis] * scaled
    return columns * s


def pull_through(maps: Sequence[Map], cotangents: tf.Tensor) -> list[tf.Tensor]:
    """Pulls cotangents of the logits back to the output of every map.

    Args:
      maps: the chain, from the first layer with coordinates to the logits.
      cotangents: shape [k, n, classes].

    Returns:
      One tensor per map, [k, n, *outputs].
    """
    all_cotangents = [cotangents]
    for layer in reversed(maps[1:]):
        all_cotangents.append(layer.pull(all_cotangents[-1]))
    return all_cotangents[::-1]


def jacobian(maps: Sequence[Map], cotangents: Sequence[tf.Tensor]) -> tf.Tensor:
    """Derivatives of <cotangents, logits> with respect to all coordinates.

    Args:
      maps: the chain, from the first layer with coordinates to the logits.
      cotangents: as from `pull_through`.

    Returns:
      Shape [coordinates, k * n], the coordinates of the first map first.
    """
    parts = [
        layer.columns(at_output)
        for layer, at_output in zip(maps, cotangents, strict=True)
        if isinstance(layer, Weights) and layer.coordinates.size
    ]
    columns = tf.concat(parts, axis=0)
    return tf.reshape(columns, [columns.shape[0], -1])
