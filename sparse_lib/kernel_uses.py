"""What one call of a layer does with its kernels, by either counting rule."""

import math
from dataclasses import dataclass

import keras
import tensorflow as tf

from sparse_lib import layer_calls
from sparse_lib.layer_calls import Shape
from sparse_lib.micronet import LayerShape

_CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
)
_TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)
_SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
_DENSE = (keras.layers.Dense, keras.layers.EinsumDense)
_WITH_KERNEL = (*_CONVOLUTIONS, *_TRANSPOSED, *_SEPARABLE, *_DENSE)
_ACTIVATIONS = (
    keras.layers.Activation,
    keras.layers.ELU,
    keras.layers.LeakyReLU,
    keras.layers.PReLU,
    keras.layers.ReLU,
)
_NOT_COUNTED = (None, keras.activations.linear, keras.activations.softmax)
_REPEATING = (keras.layers.RNN, keras.layers.Bidirectional, keras.layers.TimeDistributed)


@dataclass(frozen=True)
class KernelUse:
    """One kernel in one call of its layer, by the honest rule (`counting.CostModel`).

    An activation layer is a use without weights.

    Attributes:
        name: Path of the kernel.
        size: Number of weights.
        bias: Number of bias parameters.
        applications: How often each weight enters a product, per example.
        outputs: Number of output elements, per example.
        activation: Whether the layer applies one.
        weight_bits: Bits of one weight.
    """

    name: str
    size: int
    bias: int
    applications: int
    outputs: int
    activation: bool
    weight_bits: int

    def flops(self, nnz: int) -> int:
        """FLOPs of one example.

        Args:
            nnz: Number of active weights.

        Returns:
            Multiplications and additions.
        """
        products = self.applications * nnz
        additions = products if self.bias else max(products - self.outputs, 0)
        return products + additions + (self.outputs if self.activation else 0)

    def bits(self, nnz: int) -> int:
        """Size of weights, bias and mask.

        Args:
            nnz: Number of active weights.

        Returns:
            Bits.
        """
        return self.weight_bits * (nnz + self.bias) + (self.size if nnz < self.size else 0)


def countable_layers(model: keras.Model) -> list[keras.Layer]:
    """The layers of a model that have a counting rule.

    Args:
        model: A built model.

    Returns:
        Layers with kernels, and activation layers.

    Raises:
        ValueError: If another layer has a kernel, or calls its kernel an unknown number of times.
    """
    countable = []
    for layer in layer_calls.all_layers(model):
        if isinstance(layer, (*_WITH_KERNEL, *_ACTIVATIONS)):
            countable.append(layer)
        elif isinstance(layer, _REPEATING) or getattr(layer, "kernel", None) is not None:
            raise ValueError(
                f"Cannot count layer {layer.name!r} of type {type(layer).__name__}: only dense and "
                "convolution layers that are called directly have a counting rule."
            )
    return countable


def honest_uses(layer: keras.Layer, inputs: Shape, outputs: Shape) -> list[tuple[object, KernelUse]]:
    """What one call of a layer does with its kernels, or else its activation.

    Args:
        layer: One of `countable_layers`.
        inputs: Shape of its input for a batch of one.
        outputs: Shape of its output for a batch of one.

    Returns:
        For each kernel the variable (for an activation layer, the layer) and its use.
    """
    elements = math.prod(outputs)
    function = getattr(layer, "activation", None)
    # A layer that is given as activation counts by its own call.
    activation = function not in _NOT_COUNTED and not isinstance(function, keras.Layer)
    if isinstance(layer, _ACTIVATIONS):
        is_counted = activation or type(layer) is not keras.layers.Activation
        alone = KernelUse(layer.path, 0, 0, 0, elements, True, 0)
        return [(layer, alone)] if is_counted else []

    def use(kernel: keras.Variable, applications: int, sums: int, last: bool = True) -> tuple[object, KernelUse]:
        bias = getattr(layer, "bias", None) if last else None
        return kernel, KernelUse(
            name=kernel.path,
            size=math.prod(kernel.shape),
            bias=0 if bias is None else math.prod(bias.shape),
            applications=applications,
            outputs=sums,
            activation=activation and last,
            weight_bits=8 * tf.as_dtype(kernel.dtype).size,
        )

    applications = _applications(layer, inputs, outputs)
    if isinstance(layer, _SEPARABLE):
        middle = applications * math.prod(layer.depthwise_kernel.shape[-2:])
        return [
            use(layer.depthwise_kernel, applications, middle, last=False),
            use(layer.pointwise_kernel, applications, elements),
        ]
    return [use(layer.kernel, applications, elements)]


def _applications(layer: keras.Layer, inputs: Shape, outputs: Shape) -> int:
    """How often each weight of a layer enters a product in one call."""
    if isinstance(layer, keras.layers.EinsumDense):
        operands, result = layer.equation.split("->")
        labels = operands.split(",")[1]
        units = [n for label, n in zip(labels, layer.kernel.shape, strict=True) if label in result]
        return math.prod(outputs) // int(math.prod(units))
    if isinstance(layer, keras.layers.Dense):
        return math.prod(inputs[:-1])
    return math.prod(_window(layer, inputs if isinstance(layer, _TRANSPOSED) else outputs))


def published_uses(layer: keras.Layer, inputs: Shape, outputs: Shape) -> list[tuple[object, LayerShape]]:
    """The kernel of a layer as the published rule sees it.

    Args:
        layer: One of `countable_layers`.
        inputs: Shape of its input for a batch of one.
        outputs: Shape of its output for a batch of one.

    Returns:
        The kernel variable and its shape; nothing for an activation layer.

    Raises:
        ValueError: If the rule is not defined for the layer.
    """
    del outputs
    if isinstance(layer, _ACTIVATIONS):
        return []
    kernel = layer.kernel
    if isinstance(layer, keras.layers.Dense) and len(inputs) == 2:
        return [(kernel, LayerShape(kernel.path, tuple(kernel.shape)))]
    is_square = False
    if isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)):
        sides = (_window(layer, inputs), layer.kernel_size, layer.strides)
        is_square = all(len(set(side)) == 1 for side in sides)
    if not is_square or max(layer.dilation_rate) > 1 or getattr(layer, "groups", 1) > 1:
        raise ValueError(
            f"Rule 'micronet' cannot count layer {layer.name!r}: it is defined for Dense on "
            "vectors, and square Conv2D and DepthwiseConv2D; use rule 'honest'."
        )
    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    height, stride = _window(layer, inputs)[0], layer.strides[0]
    return [(kernel, LayerShape(kernel.path, tuple(kernel.shape), height, stride, depthwise))]


def _window(layer: keras.Layer, shape: Shape) -> Shape:
    """Spatial part of the shape of one example, batch included."""
    return shape[2:] if layer.data_format == "channels_first" else shape[1:-1]
