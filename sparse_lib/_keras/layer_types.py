"""Classification of Keras layers and activations, and the axes of their kernels."""

from typing import Any

import keras

_layers = keras.layers


def _of_ranks(kind: str) -> tuple[type[keras.Layer], ...]:
    return tuple(getattr(_layers, f"{kind}{rank}D") for rank in (1, 2, 3))


# Layers with a kernel [window..., inputs, outputs], each output a sum over all inputs.
CONVOLUTIONS = _of_ranks("Conv")
DENSE_OR_CONVOLUTION = (_layers.Dense, *CONVOLUTIONS)
# Kernels of other shapes.
DEPTHWISE_CONVOLUTIONS = (_layers.DepthwiseConv1D, _layers.DepthwiseConv2D)
SEPARABLE_CONVOLUTIONS = (_layers.SeparableConv1D, _layers.SeparableConv2D)
TRANSPOSED_CONVOLUTIONS = (_layers.Conv1DTranspose, _layers.Conv2DTranspose, _layers.Conv3DTranspose)

NORMALIZATIONS = (
    _layers.BatchNormalization,
    _layers.GroupNormalization,
    _layers.LayerNormalization,
    _layers.RMSNormalization,
)

# Normalizations whose statistics do not depend on the order of the channels.
PERMUTATION_EQUIVARIANT_NORMALIZATIONS = (_layers.BatchNormalization, _layers.LayerNormalization)

# The same function of every entry.
ELEMENTWISE_LAYERS = (_layers.ELU, _layers.LeakyReLU, _layers.ReLU)
RECTIFIER_LAYERS = (*ELEMENTWISE_LAYERS, _layers.PReLU)
ACTIVATION_LAYERS = (*RECTIFIER_LAYERS, _layers.Activation)
_PIECEWISE_LINEAR_LAYERS = (_layers.LeakyReLU, _layers.ReLU)

# Layers that return their input at inference.
IDENTITIES = (
    _layers.ActivityRegularization,
    _layers.AlphaDropout,
    _layers.Dropout,
    _layers.GaussianDropout,
    _layers.GaussianNoise,
    _layers.Identity,
    *_of_ranks("SpatialDropout"),
)
POOLINGS = (
    *_of_ranks("AveragePooling"),
    *_of_ranks("GlobalAveragePooling"),
    *_of_ranks("GlobalMaxPooling"),
    *_of_ranks("MaxPooling"),
)
PADDINGS = _of_ranks("ZeroPadding")
# Layers without weights in which each output channel depends on the input channel of the same index alone, and a
# constant channel stays the same constant.
CONSTANT_PRESERVING = (*IDENTITIES, *POOLINGS, *_of_ranks("Cropping"), *_of_ranks("UpSampling"))
# Layers that commute with every permutation of the channels.
PERMUTATION_EQUIVARIANT = (
    *CONSTANT_PRESERVING,
    *ELEMENTWISE_LAYERS,
    *PADDINGS,
    _layers.Activation,
    _layers.Flatten,
    _layers.Softmax,
)

RECTIFIERS = frozenset(
    {
        "celu",
        "elu",
        "gelu",
        "hard_silu",
        "leaky_relu",
        "mish",
        "relu",
        "relu6",
        "selu",
        "silu",
    }
)
_ELEMENTWISE = frozenset(
    getattr(keras.activations, name)
    for name in (
        *RECTIFIERS,
        *("linear", "tanh", "hard_tanh", "sigmoid", "hard_sigmoid", "softplus", "softsign", "exponential"),
    )
)
_PIECEWISE_LINEAR = (keras.activations.leaky_relu, keras.activations.relu, keras.activations.relu6)
# By name, since the operation behind `x + y` has no public class.
_MERGE_OPERATIONS = ("Add", "Subtract", "Multiply", "Maximum", "Minimum")
MERGES = (*_MERGE_OPERATIONS, "Average")


def input_axes(layer: keras.Layer, variable: keras.Variable) -> tuple[int, ...]:
    """The axes of a kernel that index inputs; the axes of a window index neither inputs nor outputs.

    Args:
      layer: the layer that owns the variable.
      variable: its kernel.

    Returns:
      Axes from 0, ascending; the last but one for layers of unknown type.
    """
    rank = len(variable.shape)
    if isinstance(layer, _layers.EinsumDense):
        outputs = output_axes(layer, variable)
        return tuple(axis for axis in range(rank) if axis not in outputs)
    return (rank - 1,) if isinstance(layer, TRANSPOSED_CONVOLUTIONS) else (max(rank - 2, 0),)


def output_axes(layer: keras.Layer, variable: keras.Variable) -> tuple[int, ...]:
    """The axes of a kernel that index outputs; products are summed over the others.

    Args:
      layer: the layer that owns the variable.
      variable: its kernel.

    Returns:
      Axes from 0, ascending; the last one for layers of unknown type.
    """
    rank = len(variable.shape)
    if isinstance(layer, TRANSPOSED_CONVOLUTIONS):
        return (rank - 2,)
    if variable.name == "depthwise_kernel" or isinstance(layer, DEPTHWISE_CONVOLUTIONS):
        return (rank - 2, rank - 1)
    if isinstance(layer, _layers.EinsumDense):
        operands, result = layer.equation.replace(" ", "").split("->")
        labels = operands.split(",")[1]
        return tuple(axis for axis, label in enumerate(labels) if label in result)
    return (rank - 1,)


def kernel(layer: Any) -> Any:
    """The stored kernel of a layer, without the update that LoRA adds to it; None for a layer without one.

    Args:
      layer: any layer.
    """
    if isinstance(getattr(layer, "kernel", None), keras.Variable):
        return layer.kernel
    return next((weight for weight in layer.weights if weight.name == "kernel"), None)


def has_lora(layer: Any) -> bool:
    """Whether LoRA adds a dense matrix to the layer's kernel."""
    return bool(getattr(layer, "lora_enabled", False))


def is_matrix(variable: keras.Variable) -> bool:
    """Whether a variable has two axes or more and is no bias; biases of attention heads have two axes, too."""
    return len(variable.shape) > 1 and not variable.name.endswith("bias")


def is_plain(layer: Any) -> bool:
    """Whether a layer is exactly its textbook map (no quantization, LoRA, renormalization or groups)."""
    changed = any(getattr(layer, name, None) for name in ("quantization_mode", "lora_enabled", "renorm"))
    return not changed and getattr(layer, "groups", 1) == 1


def is_channels_last(layer: Any) -> bool:
    """Whether the channels are the last axis; True for layers without the choice."""
    return getattr(layer, "data_format", None) in (None, "channels_last")


def is_elementwise(activation: Any) -> bool:
    """Whether an activation, a function or a layer, maps every entry by itself."""
    if isinstance(activation, keras.Layer):
        return type(activation) in ELEMENTWISE_LAYERS
    return activation is None or activation in _ELEMENTWISE


def is_linear(activation: Any) -> bool:
    """Whether an activation returns its input."""
    return activation in (None, keras.activations.linear)


def is_piecewise_linear(activation: Any) -> bool:
    """Whether an activation, a function or a layer, is elementwise and piecewise linear."""
    return is_linear(activation) or activation in _PIECEWISE_LINEAR or type(activation) in _PIECEWISE_LINEAR_LAYERS


def is_rectifier(layer: keras.Layer) -> bool:
    """Whether a layer is a rectifier or ends in one of `RECTIFIERS`."""
    name = getattr(getattr(layer, "activation", None), "__name__", None)
    return isinstance(layer, RECTIFIER_LAYERS) or name in RECTIFIERS


def merge_name(operation: Any) -> str | None:
    """The name of a layer or operation that combines tensors entry by entry.

    Args:
      operation: any layer or Keras operation.

    Returns:
      One of `MERGES`, or None.
    """
    kind = type(operation)
    is_operation = kind.__name__ in _MERGE_OPERATIONS and kind.__module__.startswith("keras.src.ops.")
    is_layer = kind.__name__ in MERGES and kind is getattr(_layers, kind.__name__)
    return kind.__name__ if is_layer or is_operation else None
