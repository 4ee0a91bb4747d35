"""Random directions in the space of weights, on the scale of the weights themselves."""

from collections.abc import Sequence
from typing import Literal

import keras
import numpy as np

from sparse_lib._keras import tracing
from sparse_lib.landscape.paths import Values

Others = Literal["zero", "scale"]
# Kernels whose units do not lie along the last axis.
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
_TRANSPOSED = (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose)


def filter_axes(model: keras.Model) -> list[tuple[int, ...]]:
    """Along which axes of each trainable variable its filters are counted.

    A filter holds the weights into one output unit of a dense layer or one output channel of a convolution: the last
    axis counts them, in transposed convolutions the one before it, in depthwise ones both.

    Args:
      model: a built model.

    Returns:
      Axes for each variable, in the order of `model.trainable_variables`; none for biases and normalisation weights,
      which have one axis at most and no filters.
    """
    layers = tracing.all_layers(model)
    special: dict[int, tuple[int, ...]] = {}
    special |= {id(layer.kernel): (-2, -1) for layer in layers if isinstance(layer, _DEPTHWISE)}
    special |= {id(layer.depthwise_kernel): (-2, -1) for layer in layers if isinstance(layer, _SEPARABLE)}
    special |= {id(layer.kernel): (-2,) for layer in layers if isinstance(layer, _TRANSPOSED)}
    return [special.get(id(v), (-1,)) if len(v.shape) > 1 else () for v in model.trainable_variables]


def filter_normalized(
    direction: Values, values: Values, axes: Sequence[tuple[int, ...]], *, others: Others = "zero"
) -> list[np.ndarray]:
    """Gives every filter of a direction the norm of the same filter of the weights.

    d_f <- d_f ||w_f|| / ||d_f||

    Networks that differ by the scale of their filters alone, which normalisation and ReLU make possible, then have the
    same picture (Li et al. 2018, section 4). A filter of weights that are all zero has the direction zero.

    Args:
      direction: one array a variable.
      values: weights, of the same shapes.
      axes: from `filter_axes`.
      others: what happens to variables without filters, biases and normalisation weights: `zero` leaves them where
        they are, as in the figures of Li et al., `scale` takes each variable as one filter.

    Returns:
      float64 arrays of the same shapes.
    """
    scaled = []
    for part, weights, counted in zip(direction, values, axes, strict=True):
        if not counted and others == "zero":
            scaled.append(np.zeros(part.shape))
            continue
        within = tuple(axis for axis in range(part.ndim) if axis - part.ndim not in counted)
        length, wanted = (
            np.sqrt(np.sum(np.square(a, dtype=np.float64), within, keepdims=True)) for a in (part, weights)
        )
        scaled.append(part * np.divide(wanted, length, out=np.zeros_like(length), where=length > 0))
    return scaled


def random_direction(
    model: keras.Model,
    values: Values,
    *,
    seed: int,
    index: int = 0,
    masks: Sequence[np.ndarray | None] | None = None,
    others: Others = "zero",
) -> list[np.ndarray]:
    """Draws a filter-normalised direction from a normal distribution.

    Args:
      model: a built model.
      values: weights that the direction starts from, in the order of `model.trainable_variables`.
      seed: of the draw.
      index: which direction of that seed; different ones are independent, and nearly orthogonal in many dimensions.
      masks: boolean arrays of the weights that may move, None for a variable of which all may; without them the
        direction leads into the space of all weights.
      others: what biases and normalisation weights do, as for `filter_normalized`.

    Returns:
      float64 arrays of the shapes of the weights; variable i depends on (seed, index, i) alone.
    """
    drawn = [np.random.default_rng([seed, index, i]).normal(size=np.shape(value)) for i, value in enumerate(values)]
    if masks is not None:
        drawn = [d if mask is None else np.where(mask, d, 0.0) for d, mask in zip(drawn, masks, strict=True)]
    return filter_normalized(drawn, values, filter_axes(model), others=others)
