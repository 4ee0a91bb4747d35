"""Operations of one call of a layer, by either counting rule."""

import math
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from sparse_lib._keras import layer_types, tracing
from sparse_lib._keras.tracing import Shape
from sparse_lib._utils.errors import InputError
from sparse_lib.counting.micronet import LayerShape
from sparse_lib.counting.products import Product
from sparse_lib.layers import SparseDense

_WITH_KERNEL = (
    *layer_types.DENSE_OR_CONVOLUTION,
    *layer_types.DEPTHWISE_CONVOLUTIONS,
    *layer_types.SEPARABLE_CONVOLUTIONS,
    *layer_types.TRANSPOSED_CONVOLUTIONS,
    keras.layers.EinsumDense,
    keras.layers.ReversibleEmbedding,
    SparseDense,
)
# Activations per unit and step of a cell: of its gates, and others.
_CELLS = {keras.layers.GRUCell: (2, 1), keras.layers.LSTMCell: (3, 2), keras.layers.SimpleRNNCell: (0, 1)}
_NOT_COUNTED = (None, keras.activations.linear, keras.activations.softmax)


@dataclass(frozen=True)
class KernelUse:
    """One kernel in one call of its layer, by the exact rule (`honest` of `counting.CostModel`).

    An activation layer is a use without weights; a sum of n terms takes n - 1 additions.

    Attributes:
      name: path of the kernel.
      size: number of weights.
      bias: number of bias parameters.
      applications: products per weight and example (count).
      extra_additions: additions per example beyond one per product (count): 0 where a bias starts the sums, else minus
        the number of sums.
      activations: evaluations of an activation per example (count).
      weight_bits: size of a weight (bits).
      other_bits: size beyond weights and biases of `weight_bits` (bits), such as of the scales of int8 kernels.
      stored: number of active weights of a layer that has indices instead of a mask; None for a kernel.
      index_bits: size of these indices (bits).
    """

    name: str
    size: int
    bias: int
    applications: int
    extra_additions: int
    activations: int
    weight_bits: int
    other_bits: int = 0
    stored: int | None = None
    index_bits: int = 0

    def flops(self, nnz: int) -> int:
        """FLOPs of one example.

        Args:
          nnz: number of active weights.

        Returns:
          Multiplications and additions.
        """
        products = self.applications * nnz
        return products + max(products + self.extra_additions, 0) + self.activations

    def bits(self, nnz: int) -> int:
        """Size of weights, bias and mask.

        Args:
          nnz: number of active weights.

        Returns:
          Size (bits), with indices in place of the mask where the layer has these.
        """
        places = self.size if self.stored is None else self.index_bits
        return self.weight_bits * (nnz + self.bias) + self.other_bits + (places if nnz < self.size else 0)


def countable_layers(model: keras.Model) -> list[keras.Layer]:
    """The layers of a model that have a counting rule.

    Args:
      model: a built model.

    Returns:
      Layers with kernels, and activation layers.

    Raises:
      ValueError: if a layer applies its kernel in a loop, an unknown number of times.
    """
    layers = tracing.all_layers(model)
    recurrent = [layer for layer in layers if type(getattr(layer, "cell", None)) in _CELLS]
    # Cells are called inside a loop and counted by their recurrent layer.
    cells = {id(layer.cell) for layer in recurrent}
    countable = []
    for layer in layers:
        if layer in recurrent or isinstance(layer, (*_WITH_KERNEL, *layer_types.ACTIVATION_LAYERS)):
            countable.append(layer)
        elif id(layer) in cells:
            continue
        elif isinstance(layer, keras.layers.RNN):
            raise InputError(
                f"Cannot count layer {layer.name!r} of type {type(layer).__name__}: of recurrent layers only those of "
                "one of Keras' cells have a counting rule."
            )
    return countable


def exact_uses(layer: keras.Layer, inputs: Shape, outputs: Shape) -> list[tuple[object, KernelUse]]:
    """Counts the operations of one call of a layer, by the exact rule.

    Args:
      layer: one of `countable_layers`.
      inputs: shape of its input for a batch of one.
      outputs: shape of its output for a batch of one.

    Returns:
      Pairs of a kernel variable, or an activation layer, and its use.
    """
    if type(getattr(layer, "cell", None)) in _CELLS:
        return _recurrent_uses(layer.cell, steps=inputs[1])
    if isinstance(layer, keras.layers.ReversibleEmbedding):
        return _embedding_uses(layer, inputs, outputs)
    elements = math.prod(outputs)
    activations = elements if _is_counted(getattr(layer, "activation", None)) else 0
    if isinstance(layer, layer_types.ACTIVATION_LAYERS):
        is_counted = activations or type(layer) is not keras.layers.Activation
        return [(layer, KernelUse(layer.path or layer.name, 0, 0, 0, 0, elements, 0))] if is_counted else []
    return _kernel_uses(layer, inputs, outputs, activations)


def _kernel_uses(layer: keras.Layer, inputs: Shape, outputs: Shape, activations: int) -> list[tuple[object, KernelUse]]:
    """The uses of the kernels of a layer whose products form the outputs."""
    elements = math.prod(outputs)
    if isinstance(layer, SparseDense):
        return [(layer.values, _indexed_use(layer, inputs, elements, activations))]
    applications = _applications(layer, inputs, outputs)
    if isinstance(layer, layer_types.SEPARABLE_CONVOLUTIONS):
        middle = applications * math.prod(layer.depthwise_kernel.shape[-2:])
        return [
            _use(layer.depthwise_kernel, None, applications, middle),
            _use(layer.pointwise_kernel, layer.bias, applications, elements, activations),
        ]
    kernel = layer_types.kernel(layer)
    if layer.quantization_mode is None:
        return [_use(kernel, layer.bias, applications, elements, activations)]
    return [(kernel, _quantized_use(layer, kernel, inputs, applications, elements, activations))]


def _indexed_use(layer: SparseDense, inputs: Shape, sums: int, activations: int) -> KernelUse:
    """The use of active weights that are stored with their indices."""
    biases = 0 if layer.bias is None else layer.units
    indices = sum(_bits(v) * math.prod(v.shape) for v in (layer.columns, layer.row_pointers))
    return KernelUse(
        layer.values.path,
        math.prod(layer.kernel_shape),
        biases,
        math.prod(inputs[:-1]),
        0 if biases else -sums,
        activations,
        _bits(layer.values),
        stored=int(layer.values.shape[0]),
        index_bits=indices,
    )


def _quantized_use(
    layer: keras.Layer, kernel: keras.Variable, inputs: Shape, applications: int, sums: int, activations: int
) -> KernelUse:
    """The use of a quantized kernel; two int4 weights share a byte."""
    is_int4 = layer.quantization_mode == "int4"
    if layer.quantization_mode not in ("int8", "int4", "float8") or (
        is_int4 and not isinstance(layer, keras.layers.Dense)
    ):
        raise InputError(
            f"Cannot count layer {layer.name!r}: {type(layer).__name__} quantized as {layer.quantization_mode} has no "
            "counting rule; count the model before it is quantized."
        )
    size = inputs[-1] * layer.units if is_int4 else math.prod(kernel.shape)
    bits = 4 if is_int4 else _bits(kernel)
    biases = 0 if layer.bias is None else math.prod(layer.bias.shape)
    others = [v for v in layer.weights if v.name.startswith("kernel_")]
    extra_bits = sum(_bits(v) * math.prod(v.shape) for v in others) + biases * (32 - bits)
    return KernelUse(kernel.path, size, biases, applications, 0 if biases else -sums, activations, bits, extra_bits)


def product_use(product: Product) -> tuple[object, KernelUse]:
    """The use of a weight in a product outside of the layers with a rule.

    Args:
      product: with known applications.

    Returns:
      The variable and its use, without bias.
    """
    return _use(product.variables[0], None, product.applications or 0, product.sums)


def _is_counted(function: object) -> bool:
    """Whether an activation is counted here; an activation that is a layer is counted by its own call."""
    return function not in _NOT_COUNTED and not isinstance(function, keras.Layer)


def _use(
    kernel: keras.Variable, bias: keras.Variable | None, applications: int, sums: int, activations: int = 0
) -> tuple[object, KernelUse]:
    """The use of one kernel whose products form `sums` sums, each with a bias if there is one."""
    size, biases = (0 if v is None else int(math.prod(v.shape)) for v in (kernel, bias))
    extra = 0 if biases else -sums
    return kernel, KernelUse(kernel.path, size, biases, applications, extra, activations, _bits(kernel))


def _bits(kernel: keras.Variable) -> int:
    return 8 * int(tf.as_dtype(kernel.dtype).size)


def _recurrent_uses(cell: keras.Layer, steps: int) -> list[tuple[object, KernelUse]]:
    """The two kernels of a recurrent cell: products with the state are added to the sums of products with the input.

    Elementwise products of gates have no kernel and are not counted.
    """
    gates, others = _CELLS[type(cell)]
    functions = gates * [getattr(cell, "recurrent_activation", None)] + others * [cell.activation]
    activations = steps * cell.units * sum(map(_is_counted, functions))
    kernel, state = cell.kernel, cell.recurrent_kernel
    sums = state.shape[-1]
    # A GRU that resets its state after the product has a second bias.
    first = 0 if cell.bias is None else sums
    second = sums if first and len(cell.bias.shape) == 2 else 0
    started = 0 if first else -steps * sums
    of_inputs = KernelUse(kernel.path, math.prod(kernel.shape), first, steps, started, 0, _bits(kernel))
    of_state = KernelUse(state.path, math.prod(state.shape), second, steps, steps * second, activations, _bits(state))
    return [(kernel, of_inputs), (state, of_state)]


def _embedding_uses(
    layer: keras.layers.ReversibleEmbedding, inputs: Shape, outputs: Shape
) -> list[tuple[object, KernelUse]]:
    """An embedding as the kernel of logits; lookups take no products."""
    if len(outputs) > len(inputs):
        return []
    kernel = layer.embeddings if layer.tie_weights else layer.reverse_embeddings
    return [_use(kernel, None, math.prod(inputs[:-1]), math.prod(outputs))]


def _applications(layer: keras.Layer, inputs: Shape, outputs: Shape) -> int:
    """Products per weight of a layer in one call (count)."""
    if isinstance(layer, keras.layers.EinsumDense):
        kernel = layer_types.kernel(layer)
        units = [kernel.shape[axis] for axis in layer_types.output_axes(layer, kernel)]
        return math.prod(outputs) // int(math.prod(units))
    if isinstance(layer, keras.layers.Dense):
        return math.prod(inputs[:-1])
    is_transposed = isinstance(layer, layer_types.TRANSPOSED_CONVOLUTIONS)
    return math.prod(_window(layer, inputs if is_transposed else outputs))


def published_uses(layer: keras.Layer, inputs: Shape, outputs: Shape) -> list[tuple[object, LayerShape]]:
    """Describes the kernel of a layer for the published rule.

    Args:
      layer: one of `countable_layers`.
      inputs: shape of its input for a batch of one.
      outputs: shape of its output for a batch of one.

    Returns:
      The kernel variable and its shape; empty for an activation layer.

    Raises:
      ValueError: if the rule is not defined for the layer.
    """
    del outputs
    if isinstance(layer, layer_types.ACTIVATION_LAYERS):
        return []
    kernel: Any = layer_types.kernel(layer)
    if isinstance(layer, keras.layers.Dense) and len(inputs) == 2:
        return [(kernel, LayerShape(kernel.path, tuple(kernel.shape)))]
    is_square = False
    if isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)):
        sides = (_window(layer, inputs), layer.kernel_size, layer.strides)
        is_square = all(len(set(side)) == 1 for side in sides)
    if not is_square or max(layer.dilation_rate) > 1 or getattr(layer, "groups", 1) > 1:
        raise InputError(
            f"Rule 'micronet' cannot count layer {layer.name!r}: it is defined for Dense on "
            "vectors, and square Conv2D and DepthwiseConv2D; use rule 'honest'."
        )
    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    height, stride = _window(layer, inputs)[0], layer.strides[0]
    return [(kernel, LayerShape(kernel.path, tuple(kernel.shape), height, stride, depthwise))]


def _window(layer: keras.Layer, shape: Shape) -> Shape:
    """Spatial part of a shape with the batch dimension."""
    return shape[2:] if layer.data_format == "channels_first" else shape[1:-1]
