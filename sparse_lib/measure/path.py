"""The path between two solutions."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from sparse_lib import landscape
from sparse_lib._utils.errors import InputError
from sparse_lib.measure.problem import Loss, Problem
from sparse_lib.objective import Objective


class Path(NamedTuple):
    """Loss and accuracy on the line between two solutions.

    Attributes:
      coefficients: positions on the line, 0 at the start and 1 at the end, [points].
      losses: mean over the examples, [points].
      accuracies: share of correct predictions (fraction), [points].
      loss_barrier: barrier of the losses.
      error_barrier: barrier of 1 - accuracy.
    """

    coefficients: list[float]
    losses: list[float]
    accuracies: list[float]
    loss_barrier: landscape.Barrier
    error_barrier: landscape.Barrier


def interpolation(
    model: keras.Model,
    start: Sequence[Any],
    end: Sequence[Any],
    data: Any,
    *,
    loss: Loss = None,
    points: int = 29,
    first: float = -0.2,
    last: float = 1.2,
    batch_size: int = 1000,
) -> Path:
    """Loss and accuracy on the line (1 - a) start + a end, and their barriers.

    Batch-norm statistics are those of the model. `sparse_lib.landscape` also has curves, masks along the path and
    re-estimated statistics.

    Args:
      model: a built classifier with one score per class, or one score for two classes; per token, too.
      start: values of the trainable variables at a = 0, such as `[v.numpy() for v in model.trainable_variables]`.
      end: values of the trainable variables at a = 1.
      data: examples with integer labels, see `sparse_lib.measure`.
      loss: see `sparse_lib.measure`.
      points: size of the even grid, to which 0 and 1 are added (count); 29 as in the gradient-flow paper.
      first: smallest a; -0.2 as there.
      last: largest a; 1.2 as there.
      batch_size: examples per pass (count).

    Returns:
      The path.

    Raises:
      ValueError: if the number or the shapes of the values are not those of the trainable variables.

    Examples:
      >>> import keras
      >>> import numpy as np
      >>> from sparse_lib import measure
      >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, use_bias=False)])
      >>> x, y = np.eye(2, dtype=np.float32), np.array([0, 1])
      >>> path = measure.interpolation(model, [x], [-x], (x, y), points=3)  # from the kernel x to -x
      >>> list(zip(path.coefficients, path.accuracies))
      [(-0.2, 1.0), (0.0, 1.0), (0.5, 0.5), (1.0, 0.0), (1.2, 0.0)]
    """
    problem, variables = Problem(model, data, None, loss, batch_size), model.trainable_variables
    if len(start) != len(variables):
        raise InputError(
            f"Got {len(start)} values for {len(variables)} trainable variables: give one for each, in the order of "
            "model.trainable_variables."
        )

    score = problem.mean("score", _score)
    line = landscape.linear_path([np.asarray(v) for v in start], [np.asarray(v) for v in end])
    grid = landscape.coefficients(first, last, points)
    scores = np.array([[float(v) for v in score(problem.batches, [tf.constant(p) for p in line(a)])] for a in grid])
    losses, accuracies = scores.T
    barriers = landscape.barrier(grid, losses), landscape.barrier(grid, 1 - accuracies)
    return Path(list(grid), losses.tolist(), accuracies.tolist(), *barriers)


def _score(objective: Objective, params: list[tf.Tensor], x: Any, y: Any, index: tf.Tensor) -> list[tf.Tensor]:
    """Loss and accuracy of a batch."""
    del index
    found = landscape.evaluate_batch(objective, x, y, objective.model.trainable_variables, params)
    return [tf.reduce_mean(found.losses), tf.reduce_mean(tf.cast(found.is_right, tf.float64))]
