"""What a kernel multiplies: the sum of squares of the inputs of each weight, for Wanda."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from sparse_lib import objective
from sparse_lib._keras import layer_types, tracing
from sparse_lib._utils.errors import InputError
from sparse_lib._utils.sums import sum_in_order
from sparse_lib.oneshot.scores import Tensors

_KNOWN = (keras.layers.Dense, keras.layers.EinsumDense, *layer_types.CONVOLUTIONS, *layer_types.TRANSPOSED_CONVOLUTIONS)


class InputSquares:
    """Sums of squares of what the weights of kernels are multiplied by, sum_r x_r^2.

    The places r are examples, positions of a convolution and tokens of a sequence. A weight of a convolution has the
    inputs that its place in the window meets; padding counts as 0. The sums before the activation are linear in the
    kernel, so that these are their derivatives at inputs x^2.
    """

    def __init__(self, model: keras.Model, kernels: Sequence[int]) -> None:
        """Finds the layers.

        Args:
          model: a built model.
          kernels: positions of the kernels in `model.trainable_variables`.

        Raises:
          ValueError: for a kernel of a layer that is neither dense nor a convolution.
        """
        owners = tracing.variable_owners(model)
        self._model, self._kernels = model, [model.trainable_variables[i] for i in kernels]
        self._layers = [owners[id(kernel)] for kernel in self._kernels]
        for layer, kernel in zip(self._layers, self._kernels, strict=True):
            is_known = isinstance(layer, _KNOWN) and not layer_types.has_lora(layer)
            if not is_known or layer.quantization_mode is not None or layer_types.kernel(layer) is not kernel:
                raise InputError(
                    f"Wanda needs the inputs that {kernel.path} multiplies, and {type(layer).__name__} does not show "
                    "them: leave this kernel out, or score by magnitude."
                )

    def __call__(self, params: Tensors, x: Any) -> list[tf.Tensor]:
        """Passes a batch through the model.

        Args:
          params: trainable values.
          x: inputs of the batch.

        Returns:
          One tensor per kernel, of its shape.
        """
        with tracing.watch(self._layers) as calls:
            objective.call(self._model, self._model.trainable_variables, params, x)
        found = []
        for layer, kernel in zip(self._layers, self._kernels, strict=True):
            parts = [_sum_squares(layer, kernel, call.inputs) for call in calls if call.layer is layer]
            found.append(sum_in_order(parts) if parts else tf.zeros(kernel.shape, kernel.dtype))
        return found


def _sum_squares(layer: keras.Layer, kernel: keras.Variable, inputs: tf.Tensor) -> tf.Tensor:
    """Sum of squares of the inputs of each weight in one call of a layer."""
    squares = tf.cast(inputs, kernel.dtype) ** 2
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(kernel.value)
        with tracing.watch_activations([layer]) as sums:
            layer.call(squares)
        total = sum_in_order([tf.reduce_sum(part) for part in sums[id(layer)]])
    return tf.convert_to_tensor(tape.gradient(total, kernel.value))
