"""Calls of a layer that multiply by its active weights."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from sparse_lib.execution.layer_products import LayerProduct, finish
from sparse_lib.execution.products import Structure


class Weights(NamedTuple):
    """The weights that a call multiplies by.

    Attributes:
      kernel: the dense kernel, zero off its mask.
      structure: of the weights that train, all that are not zero among them.
      values: reads these weights, [nnz]; None gathers them from the kernel.
      dense_gradients: whether the gradient of the kernel is to be dense, a boolean or a scalar tensor.
      limit: density up to which the call is sparse, decided in the graph; at 1 it always is.
    """

    kernel: keras.Variable
    structure: Structure
    values: Callable[[], tf.Tensor] | None
    dense_gradients: tf.Tensor | bool
    limit: float


def make_call(product: LayerProduct, weights: Weights) -> Callable[..., tf.Tensor]:
    """Makes the function that takes the place of a layer's `call`.

    Args:
      product: of the layer.
      weights: of the layer.

    Returns:
      Takes the inputs of the layer, and returns its outputs.
    """
    kernel, structure, values, dense_gradients, limit = weights
    most = int(limit * kernel.shape.num_elements())

    def call(inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        del training
        inputs = tf.convert_to_tensor(inputs)
        if limit >= 1:
            return multiply(inputs)
        layer = product.layer
        is_sparse = tf.size(structure.index) <= most
        return tf.cond(is_sparse, lambda: multiply(inputs), lambda: type(layer).call(layer, inputs))

    def multiply(inputs: tf.Tensor) -> tf.Tensor:
        if values is not None:
            outputs = product.multiply(inputs, values(), structure)
        elif dense_gradients is False:
            outputs = product.multiply(inputs, gather_active(kernel, structure), structure)
        else:
            fixed = tf.stop_gradient(gather_active(kernel, structure))
            outputs = product.multiply(inputs, fixed, structure)
            outputs = _attach_gradient(product, weights, inputs, outputs)
        return finish(product.layer, outputs)

    return call


def gather_active(kernel: Any, structure: Structure) -> tf.Tensor:
    """Gathers the active weights of a kernel; the gradient is dense, zero off the mask.

    Args:
      kernel: variable or tensor.
      structure: of its mask.

    Returns:
      The active weights in row-major order, [nnz].
    """
    dense = tf.convert_to_tensor(kernel)

    # The gradient of `tf.gather` is an IndexedSlices object, which becomes dense by a slow sum over segments.
    @tf.custom_gradient
    def gather(dense: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        return tf.gather(tf.reshape(dense, [-1]), structure.index), scatter

    @tf.custom_gradient
    def scatter(values: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        return scatter_active(values, structure, dense.shape), gather

    return gather(dense)


def scatter_active(values: tf.Tensor, structure: Structure, shape: tf.TensorShape) -> tf.Tensor:
    """Writes the active weights into a kernel of zeros.

    Args:
      values: of the active weights, [nnz].
      structure: of the mask.
      shape: of the kernel.

    Returns:
      Tensor of that shape.
    """
    return tf.reshape(tf.scatter_nd(structure.index[:, None], values, [shape.num_elements()]), shape)


def _attach_gradient(product: LayerProduct, weights: Weights, inputs: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    """Gives outputs a gradient with respect to the whole kernel where it is to be dense, else to the active weights."""
    kernel, structure, _, dense_gradients, _ = weights

    @tf.custom_gradient
    def identity(outputs: tf.Tensor, dense: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], Any]]:
        def differentiate(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            def find_sparse() -> tf.Tensor:
                found = product.find_gradient(inputs, upstream, structure)
                return scatter_active(found, structure, dense.shape)

            gradient = tf.cond(
                tf.convert_to_tensor(dense_gradients),
                lambda: product.find_dense_gradient(inputs, upstream),
                find_sparse,
            )
            return upstream, gradient

        return tf.identity(outputs), differentiate

    return identity(outputs, tf.convert_to_tensor(kernel))
