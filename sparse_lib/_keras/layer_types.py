"""Which axes of a layer's kernel are outputs, which are inputs, and which are summed over."""

import keras

_TRANSPOSED = (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose)

_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)


def input_axes(layer: keras.Layer, variable: keras.Variable) -> tuple[int, ...]:
    """The axes of a kernel that count inputs; the places of a window are neither inputs nor outputs.

    Args:
      layer: the layer that owns the variable.
      variable: its kernel.

    Returns:
      Axes from 0, in their order; the last but one for layers that nothing is known of.
    """
    rank = len(variable.shape)
    if isinstance(layer, keras.layers.EinsumDense):
        outputs = output_axes(layer, variable)
        return tuple(axis for axis in range(rank) if axis not in outputs)
    return (rank - 1,) if isinstance(layer, _TRANSPOSED) else (max(rank - 2, 0),)


def output_axes(layer: keras.Layer, variable: keras.Variable) -> tuple[int, ...]:
    """The axes of a kernel that count outputs; products are summed over the others.

    Args:
      layer: the layer that owns the variable.
      variable: its kernel.

    Returns:
      Axes from 0, in their order; the last one for layers that nothing is known of.
    """
    rank = len(variable.shape)
    if isinstance(layer, _TRANSPOSED):
        return (rank - 2,)
    if variable.name == "depthwise_kernel" or isinstance(layer, _DEPTHWISE):
        return (rank - 2, rank - 1)
    if isinstance(layer, keras.layers.EinsumDense):
        operands, result = layer.equation.replace(" ", "").split("->")
        labels = operands.split(",")[1]
        return tuple(axis for axis, label in enumerate(labels) if label in result)
    return (rank - 1,)
