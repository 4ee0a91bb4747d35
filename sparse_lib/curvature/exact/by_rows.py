"""The exact Hessian row by row, for every model."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from sparse_lib._keras import precision
from sparse_lib._utils.errors import InputError
from sparse_lib.batches import Batches
from sparse_lib.curvature.data_mean import DataMean
from sparse_lib.curvature.operators import pull_back
from sparse_lib.curvature.stored_parts import Parts
from sparse_lib.curvature.subspace import Subspace
from sparse_lib.objective import Objective


def by_rows(
    objective: Objective,
    params: Sequence[tf.Tensor],
    batches: Batches,
    subspace: Subspace,
    *,
    rows_at_once: int,
    parts: Parts,
    progress: Callable[[int, int], None],
    training: bool = False,
) -> np.ndarray:
    """The Hessian of the mean loss over all data, from Hessian-vector products with every coordinate.

    Rows of one block share the forward pass and the gradient. A row differentiates the gradient of its own variable
    alone, which takes about two thirds of the time of a full product.

    Args:
      objective: the loss.
      params: trainable values, in the dtype to compute in.
      batches: the data.
      subspace: the n coordinates.
      rows_at_once: rows per block (count).
      parts: store of finished blocks, by the number of the first row.
      progress: called with the number of finished rows and n.
      training: whether layers behave as in training.

    Returns:
      Float64 [n, n], not symmetrized.

    Raises:
      ValueError: if a row is not finite.
    """
    matrix = np.empty((subspace.size, subspace.size))
    done, there = 0, set(parts.numbers())
    while done in there:
        rows = parts.get(done)["rows"]
        matrix[done : done + len(rows)] = rows
        done += len(rows)
    if done < subspace.size and params[0].dtype == tf.float64:
        _check_float64(objective, params, batches, training)
    progress(done, subspace.size)
    for section in _sections(subspace, rows_at_once):
        mean: DataMean | None = None
        for first in range(max(section.start, done), section.stop, rows_at_once):
            mean = mean or DataMean(_rows_of_batch(objective, subspace, section.places, training), objective.model)
            # Always the same number of places, since another one would trigger a new compilation.
            wanted = tf.range(first, first + rows_at_once)
            count = tf.constant(min(rows_at_once, section.stop - first))
            rows = mean(batches, list(params), wanted, count)[0].numpy()
            if not np.isfinite(rows).all():
                raise InputError(
                    f"The Hessian of {subspace.names[section.places[0]]} is not finite: choose weights from before "
                    "training diverged, or check the data for NaN."
                )
            matrix[first : first + len(rows)] = rows
            parts.put(first, rows=rows)
            progress(first + len(rows), subspace.size)
    return matrix


def _check_float64(objective: Objective, params: Sequence[tf.Tensor], batches: Batches, training: bool) -> None:
    """Checks that the model computes in float64 throughout.

    Raises:
      ValueError: if it fails in float64 or rounds to a shorter type.
    """
    x, y = precision.cast(next(iter(batches)), "float64")
    gradient = tf.function(lambda params, x, y: objective.gradient(params, x, y, training=training), autograph=False)
    try:
        function = gradient.get_concrete_function(list(params), x, y)
    except (TypeError, tf.errors.InvalidArgumentError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"The model or its loss fails in float64: {reason} Pass dtype='float32'.") from error
    precision.check_float64(function)


class _Section(NamedTuple):
    """Rows of consecutive variables that share a compiled graph."""

    places: list[int]
    start: int
    stop: int


def _sections(subspace: Subspace, rows_at_once: int) -> list[_Section]:
    """One section per large variable, and one per run of small ones, which are not worth a graph each."""
    sections: list[_Section] = []
    was_small = False
    for place, part in enumerate(subspace.slices):
        if part.start == part.stop:
            continue
        is_small = part.stop - part.start < rows_at_once
        if is_small and was_small:
            places, start, _ = sections.pop()
            sections.append(_Section([*places, place], start, part.stop))
        else:
            sections.append(_Section([place], part.start, part.stop))
        was_small = is_small
    return sections


def _rows_of_batch(
    objective: Objective, subspace: Subspace, places: list[int], training: bool
) -> Callable[..., list[tf.Tensor]]:
    """Builds the function that computes rows of some variables on a batch."""

    def rows(params: Any, wanted: tf.Tensor, count: tf.Tensor, x: Any, y: Any, index: tf.Tensor) -> list[tf.Tensor]:
        del index
        dtype = params[0].dtype
        with tf.GradientTape(watch_accessed_variables=False, persistent=True) as tape:
            tape.watch(params)
            x, y = precision.cast((x, y), dtype.name)
            gradient = objective.gradient(params, x, y, training=training)

        def row(place: tf.Tensor) -> tf.Tensor:
            unit = subspace.scatter(tf.one_hot(place, subspace.size, dtype=dtype))
            own = [gradient[i] for i in places]
            return subspace.gather(pull_back(tape, own, params, [unit[i] for i in places]))

        return [tf.map_fn(row, wanted[:count], fn_output_signature=tf.TensorSpec([subspace.size], dtype))]

    return rows
