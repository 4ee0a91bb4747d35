"""How layers multiply their inputs by a kernel: the product that a sparse one takes the place of."""

import abc
import dataclasses
import math
from typing import Any

import keras
import tensorflow as tf

from sparse_lib._keras.layer_types import is_channels_last, is_plain, kernel
from sparse_lib.execution import products
from sparse_lib.execution.layer_functions import add_bias
from sparse_lib.execution.products import Structure

_DTYPES = ("float32", "float64")


@dataclasses.dataclass(frozen=True)
class LayerProduct(abc.ABC):
    """The product of a layer's inputs with its kernel, linear in both.

    Attributes:
      layer: the layer.
    """

    layer: Any

    @abc.abstractmethod
    def positions(self, inputs: tuple[int | None, ...]) -> int | None:
        """Returns how often one example multiplies each weight (count), or None if that is not known.

        Args:
          inputs: shape of the layer's input, with the batch.
        """

    def find_structure(self, mask: tf.Tensor | tf.Variable) -> Structure:
        """Returns the structure that the products take.

        Args:
          mask: which weights may differ from zero (bool, of the kernel's shape).
        """
        return products.find_structure(mask)

    @abc.abstractmethod
    def multiply(self, inputs: tf.Tensor, values: tf.Tensor, structure: Structure) -> tf.Tensor:
        """Multiplies by the active weights alone.

        Args:
          inputs: of the layer.
          values: the active weights, [nnz].
          structure: of the kernel's mask.

        Returns:
          The layer's output before bias and activation.
        """

    @abc.abstractmethod
    def find_gradient(self, inputs: tf.Tensor, upstream: tf.Tensor, structure: Structure) -> tf.Tensor:
        """Returns the gradient with respect to the active weights, [nnz].

        Args:
          inputs: of the layer.
          upstream: gradient with respect to the result of `multiply`.
          structure: of the kernel's mask.
        """

    @abc.abstractmethod
    def find_dense_gradient(self, inputs: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
        """Returns the gradient with respect to the whole kernel, of its shape.

        Args:
          inputs: of the layer.
          upstream: gradient with respect to the result of `multiply`.
        """


@dataclasses.dataclass(frozen=True)
class MatrixProduct(LayerProduct):
    """The product of `Dense`, or of `EinsumDense` where it is a matrix product.

    Attributes:
      contracted: trailing axes of the input, and leading axes of the kernel, that are summed over (count).
    """

    contracted: int = 1

    def positions(self, inputs: tuple[int | None, ...]) -> int | None:
        """Returns the product of the axes between batch and features."""
        between = inputs[1 : len(inputs) - self.contracted]
        return None if None in between else math.prod(int(n or 1) for n in between)

    def find_structure(self, mask: tf.Tensor | tf.Variable) -> Structure:
        """Returns the structure of the matrix [contracted axes, other axes]."""
        sides = mask.shape[: self.contracted], mask.shape[self.contracted :]
        return products.find_structure(tf.reshape(mask, [side.num_elements() for side in sides]))

    def multiply(self, inputs: tf.Tensor, values: tf.Tensor, structure: Structure) -> tf.Tensor:
        """Multiplies the inputs as rows of a matrix."""
        shape = tuple(kernel(self.layer).shape)
        inner, outer = shape[: self.contracted], shape[self.contracted :]
        outputs = products.matmul(tf.reshape(inputs, [-1, math.prod(inner)]), values, structure)
        leading = tf.shape(inputs)[: inputs.shape.rank - self.contracted]
        shaped = tf.reshape(outputs, tf.concat([leading, outer], 0))
        return tf.ensure_shape(shaped, [*inputs.shape[: inputs.shape.rank - self.contracted], *outer])

    def find_gradient(self, inputs: tf.Tensor, upstream: tf.Tensor, structure: Structure) -> tf.Tensor:
        """Sums the products of rows where weights are active."""
        return products.matmul_values(*self._as_rows(inputs, upstream), structure)

    def find_dense_gradient(self, inputs: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
        """Multiplies the transposed inputs by the upstream gradient."""
        rows, upstream = self._as_rows(inputs, upstream)
        return tf.reshape(tf.matmul(rows, upstream, transpose_a=True), kernel(self.layer).shape)

    def _as_rows(self, inputs: tf.Tensor, upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        shape = tuple(kernel(self.layer).shape)
        inner, outer = math.prod(shape[: self.contracted]), math.prod(shape[self.contracted :])
        return tf.reshape(inputs, [-1, inner]), tf.reshape(upstream, [-1, outer])


@dataclasses.dataclass(frozen=True)
class ConvolutionProduct(LayerProduct):
    """The product of `Conv2D`."""

    def positions(self, inputs: tuple[int | None, ...]) -> int | None:
        """Returns the number of output pixels."""
        if None in inputs[1:3]:
            return None
        return math.prod(self.layer.compute_output_shape((1, *inputs[1:]))[1:3])

    def multiply(self, inputs: tf.Tensor, values: tf.Tensor, structure: Structure) -> tf.Tensor:
        """Convolves the inputs."""
        size = tuple(self.layer.kernel_size)
        return products.conv2d(inputs, values, structure, kernel_size=size, **self._geometry())

    def find_gradient(self, inputs: tf.Tensor, upstream: tf.Tensor, structure: Structure) -> tf.Tensor:
        """Correlates inputs and upstream gradient where weights are active."""
        return products.conv2d_values(
            inputs, upstream, structure, kernel_size=tuple(self.layer.kernel_size), **self._geometry()
        )

    def find_dense_gradient(self, inputs: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
        """Differentiates the dense convolution, which a graph does not compute."""
        weights = tf.zeros(kernel(self.layer).shape, inputs.dtype)
        with tf.GradientTape() as tape:
            tape.watch(weights)
            outputs = self.layer.convolution_op(inputs, weights)
        return tape.gradient(outputs, weights, output_gradients=upstream)

    def _geometry(self) -> dict[str, Any]:
        layer = self.layer
        return {
            "strides": tuple(layer.strides),
            "padding": layer.padding,
            "dilations": tuple(layer.dilation_rate),
        }


def find_product(layer: Any, variable: keras.Variable) -> LayerProduct | str:
    """Finds the product of a layer with its kernel.

    Args:
      layer: any layer.
      variable: a trainable variable of it.

    Returns:
      The product, or the reason why there is none that can be sparse, to follow "dense: ".
    """
    kind = type(layer)
    if kind not in (keras.layers.Dense, keras.layers.EinsumDense, keras.layers.Conv2D) or variable is not kernel(layer):
        return f"no sparse product for {variable.name} of {kind.__name__}"
    if not is_plain(layer) or not is_channels_last(layer):
        return "quantized, or with LoRA, groups or channels first"
    if layer.compute_dtype not in _DTYPES or layer.compute_dtype != variable.dtype:
        return f"computes in {layer.compute_dtype}"
    if kind is keras.layers.Conv2D:
        return ConvolutionProduct(layer)
    contracted = _contracted_axes(layer.equation) if kind is keras.layers.EinsumDense else 1
    return MatrixProduct(layer, contracted) if contracted else f"{layer.equation} is no matrix product"


def _contracted_axes(equation: str) -> int:
    """Returns k if an einsum sums the last k axes of the input and the first k of the kernel, in order; else 0."""
    operands, result = equation.replace(" ", "").split("->")
    inputs, weights = operands.split(",")
    summed = sum(label not in result for label in weights)
    before, outer = inputs[: len(inputs) - summed], weights[summed:]
    is_product = inputs.endswith(weights[:summed]) and result == before + outer and not set(before) & set(weights)
    return summed if is_product else 0


def finish(layer: Any, outputs: tf.Tensor) -> tf.Tensor:
    """Adds the bias of a layer to its product and applies its activation, as the layer does.

    Args:
      layer: with a product.
      outputs: of the product.

    Returns:
      The outputs of the layer.
    """
    if layer.bias is not None:
        is_by_column = len(layer.bias.shape) == 1
        outputs = add_bias(outputs, layer.bias) if is_by_column else keras.ops.add(outputs, layer.bias)
    return outputs if layer.activation is None else layer.activation(outputs)
