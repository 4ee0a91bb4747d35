"""The dense form of networks that are small enough to have one."""

import keras
import numpy as np

from sparse_lib import Masks
from sparse_lib.layers import SparseDense


def sparse_model(dtype="float64"):
    """Returns a small network of sparse layers."""
    layers = [
        SparseDense(20, 0.25, activation="relu", seed=1, dtype=dtype, name="first"),
        SparseDense(15, 0.3, activation="relu", seed=2, dtype=dtype, name="second"),
        keras.layers.Dense(4, kernel_initializer=keras.initializers.GlorotUniform(3), dtype=dtype, name="last"),
    ]
    return keras.Sequential([keras.Input((12,), dtype=dtype), *layers])


def kernel_of(layer):
    """Returns the dense kernel of a sparse layer, and its mask."""
    kernel, mask = np.zeros(layer.kernel_shape), np.zeros(layer.kernel_shape, bool)
    kernel.flat[layer.positions()], mask.flat[layer.positions()] = layer.values.numpy(), True
    return kernel, mask


def dense_model(model, dtype="float64"):
    """Returns a network of dense layers that computes the same, and its masks."""
    layers = [keras.layers.Dense(layer.units, activation=layer.activation, dtype=dtype) for layer in model.layers]
    dense = keras.Sequential([keras.Input((12,), dtype=dtype), *layers])
    kernels = []
    for layer, other in zip(model.layers, layers, strict=True):
        if isinstance(layer, SparseDense):
            kernel, mask = kernel_of(layer)
            kernels.append((other.kernel, mask))
            other.set_weights([kernel, layer.bias.numpy()])
        else:
            other.set_weights(layer.get_weights())
    return dense, Masks(*zip(*kernels, strict=True))


def examples(count=40):
    """Returns inputs and labels."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, 12)).astype(np.float32), rng.integers(4, size=count)
