"""Filter-normalized random directions in weight space."""

from collections.abc import Sequence
from typing import Literal

import keras
import numpy as np

from sparse_lib._keras import layer_types, tracing
from sparse_lib.landscape.paths import Values

Others = Literal["zero", "scale"]


def filter_axes(model: keras.Model) -> list[tuple[int, ...]]:
    """The axes of each trainable variable that index its filters.

    A filter is all weights into one output unit: the last axis indexes them in dense layers and convolutions, the last
    but one in transposed convolutions, both in depthwise ones, and the axes of heads and units in attention.

    Args:
      model: a built model.

    Returns:
      Negative axes for each variable, in the order of `model.trainable_variables`; none for biases and normalization
      weights, which have no filters.
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
    """Scales every filter of a direction to the norm of the same filter of the weights.

    d_f <- d_f ||w_f|| / ||d_f||

    Networks that differ in the scale of their filters alone, which normalization and ReLU leave without effect, then
    have the same surface (Li et al. 2018, section 4). Where all weights of a filter are zero, so is its direction.

    Args:
      direction: one array per variable.
      values: weights, of the same shapes.
      axes: from `filter_axes`.
      others: treatment of variables without filters (biases and normalization weights): `zero` keeps them fixed, as in
        the figures of Li et al., `scale` treats each variable as one filter.

    Returns:
      Float64 arrays of the same shapes.
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
    """Draws a filter-normalized direction from a normal distribution.

    Args:
      model: a built model.
      values: weights at the origin, in the order of `model.trainable_variables`.
      seed: seed of the draw.
      index: number of the direction; directions of one seed are independent, and nearly orthogonal in many dimensions.
      masks: one boolean array per variable, true for weights that may move, or None where all may; without masks the
        direction leads into the space of all weights.
      others: as for `filter_normalized`.

    Returns:
      Float64 arrays of the shapes of the weights; variable i depends on (seed, index, i) alone.
    """
    drawn = [np.random.default_rng([seed, index, i]).normal(size=np.shape(value)) for i, value in enumerate(values)]
    if masks is not None:
        drawn = [d if mask is None else np.where(mask, d, 0.0) for d, mask in zip(drawn, masks, strict=True)]
    return filter_normalized(drawn, values, filter_axes(model), others=others)
