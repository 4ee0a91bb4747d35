"""Kernels with masks as updaters see them, and the moment of an update."""

import numpy as np
import tensorflow as tf

from sparse_lib import updaters

CONTEXT = updaters.UpdateContext(tf.constant(4, tf.int64), tf.constant(0.1), seed=0)


def kernel(mask, weight, gradient=None, **state) -> updaters.Kernel:
    mask = tf.constant(mask, tf.bool) if np.asarray(mask).dtype == bool else tf.constant(mask, tf.float32) > 0
    weight = tf.where(mask, tf.constant(weight, tf.float32), 0.0)
    gradient = tf.zeros_like(weight) if gradient is None else tf.constant(gradient, tf.float32)
    return updaters.Kernel(mask, weight, gradient, {k: tf.constant(v, tf.float32) for k, v in state.items()})
