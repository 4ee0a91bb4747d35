"""Gradient flow: norms of the gradient on and off the masks."""

from typing import Any, NamedTuple

import keras
import tensorflow as tf

from sparse_lib import gradient_flow as flow
from sparse_lib.masks import Masks
from sparse_lib.measure.problem import Loss, Problem
from sparse_lib.objective import Objective


class GradientFlow(NamedTuple):
    """Norms of the gradient of the mean loss.

    Attributes:
      loss: mean over the examples.
      norm: L2 norm over active weights and dense variables.
      norm_off_mask: L2 norm over inactive weights, by which RigL grows.
      effective: mean over sparse kernels of the root mean square of their active gradient (Tessera et al. 2021); None
        without masks of trainable kernels.
      norm_by_variable: `norm` of each trainable variable, by path.
    """

    loss: float
    norm: float
    norm_off_mask: float
    effective: float | None
    norm_by_variable: dict[str, float]


def gradient_flow(
    model: keras.Model, data: Any, *, masks: Masks | None = None, loss: Loss = None, batch_size: int = 1000
) -> GradientFlow:
    """Gradient norms on and off the masks.

    ||grad L * m||_2, with L the mean loss over all data, without regularisation (Evci et al. 2022, section 3)

    Args:
      model: a built model.
      data: examples, see `sparse_lib.measure`.
      masks: of the sparse kernels, see `sparse_lib.measure`.
      loss: see `sparse_lib.measure`.
      batch_size: examples per pass (count).

    Returns:
      Norms, in total and by variable.

    Examples:
      >>> import keras
      >>> import numpy as np
      >>> from sparse_lib import measure
      >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
      >>> x, y = np.array([[1.0, 0.0], [0.0, 2.0]], np.float32), np.array([[1.0], [0.0]], np.float32)
      >>> model.set_weights([np.zeros((2, 1))])
      >>> found = measure.gradient_flow(model, (x, y), loss=keras.losses.MeanSquaredError())
      >>> round(found.loss, 6), round(found.norm, 6)
      (0.5, 1.0)
    """
    return measure_flow(Problem(model, data, masks, loss, batch_size))


class GradientFlowMeter:
    """Measures gradient flow again and again on the same examples, in a training loop of one's own.

    The examples are read once and the graph is compiled once; a call takes a forward and a backward pass.

    Examples:
      >>> import keras
      >>> import numpy as np
      >>> import sparse_lib
      >>> from sparse_lib import measure
      >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
      >>> x, y = np.array([[1.0, 0.0], [0.0, 2.0]], np.float32), np.array([[1.0], [0.0]], np.float32)
      >>> meter = measure.GradientFlowMeter(model, (x, y), loss=keras.losses.MeanSquaredError())
      >>> for weight in (0.0, 0.5, 1.0):
      ...     model.set_weights([np.array([[weight], [0.0]])])
      ...     print(round(meter().norm, 6))
      1.0
      0.5
      0.0
    """

    def __init__(
        self, model: keras.Model, data: Any, *, masks: Masks | None = None, loss: Loss = None, batch_size: int = 1000
    ) -> None:
        """Reads the examples.

        Args:
          model: a built model.
          data: examples, see `sparse_lib.measure`.
          masks: of the sparse kernels, see `sparse_lib.measure`.
          loss: see `sparse_lib.measure`.
          batch_size: examples per pass (count).
        """
        self._problem = Problem(model, data, masks, loss, batch_size)

    def __call__(self) -> GradientFlow:
        """Measures the weights and masks of this moment.

        Returns:
          As from `gradient_flow`.
        """
        return measure_flow(self._problem)


def measure_flow(problem: Problem) -> GradientFlow:
    """Measures a model, with the graph of earlier calls.

    Args:
      problem: the model with its data.

    Returns:
      As from `gradient_flow`.
    """
    value, *gradient = problem.mean("gradient", _differentiate)(problem.batches, problem.objective.params())
    variables, masks = problem.model.trainable_variables, problem.masks
    aligned = masks.aligned(variables) if masks is not None else [None] * len(variables)
    norms = flow.norms(gradient, aligned)
    # Kernels with LoRA, or frozen ones, have no gradient.
    is_any = any(mask is not None for mask in aligned)
    return GradientFlow(
        loss=float(value),
        norm=float(norms.total),
        norm_off_mask=float(norms.off_total),
        effective=float(flow.effective_gradient_flow(gradient, aligned)) if is_any else None,
        norm_by_variable={v.path: float(norm) for v, norm in zip(variables, norms.per_tensor, strict=True)},
    )


def _differentiate(objective: Objective, params: list[tf.Tensor], x: Any, y: Any, index: tf.Tensor) -> list[tf.Tensor]:
    """Loss and gradient of a batch."""
    del index
    value, gradient = objective.loss_and_gradient(params, x, y)
    return [value, *gradient]
