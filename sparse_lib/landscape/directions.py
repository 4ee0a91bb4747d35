"""Random directions in the space of weights, on the scale of the weights themselves."""

from collections.abc import Sequence
from typing import Literal

import keras
import numpy as np

from sparse_lib._keras import layer_types, tracing
from sparse_lib.landscape.paths import Values

Others = Literal["zero", "scale"]


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
    owners = tracing.variable_owners(model)

    def axes(variable: keras.Variable) -> tuple[int, ...]:
        layer = owners[id(variable)]
        if not layer_types.is_matrix(variable) or isinstance(layer, layer_types.NORMALIZATIONS):
            return ()
        return tuple(axis - len(variable.shape) for axis in layer_types.output_axes(layer, variable))

    return [axes(variable) for variable in model.trainable_variables]


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
