"""Check that loss and gradient are deterministic, which every curvature measurement requires."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from sparse_lib._utils.errors import InputError
from sparse_lib.batches import Batches
from sparse_lib.curvature.data_mean import DataMean
from sparse_lib.objective import Objective

# Far above the effect of the order of float32 sums, far below that of noise in the data or the layers.
_LOSS_TOLERANCE = 1e-5
_GRADIENT_TOLERANCE = 1e-4


def consistency(
    objective: Objective, params: Sequence[tf.Tensor], batches: Any, *, training: bool = False
) -> tuple[float, list[tf.Tensor]]:
    """Loss and gradient over a data set, verified to be the same in two passes.

    Args:
      objective: the loss.
      params: trainable values, as from `objective.params()`.
      batches: the data set, in any form that `Batches.of` takes.
      training: whether layers run in training mode.

    Returns:
      The mean loss, and its gradient, one float64 tensor per parameter.

    Raises:
      ValueError: if loss or gradient are not finite or differ between the passes; the message names likely causes.
    """

    def differentiate_batch(
        params: Sequence[tf.Tensor], x: tf.Tensor, y: tf.Tensor, index: tf.Tensor
    ) -> list[tf.Tensor]:
        del index
        loss, gradient = objective.loss_and_gradient(params, x, y, training=training)
        # The gradient may be small because those of batches cancel; its rounding error is relative to theirs.
        return [loss, tf.square(tf.linalg.global_norm(gradient)), *gradient]

    batches = Batches.of(batches)
    mean = DataMean(differentiate_batch, objective.model)
    (loss, square, *gradient), (again, _, *other) = (mean(batches, list(params)) for _ in range(2))
    loss, again = float(loss), float(again)
    change = float(tf.linalg.global_norm([a - b for a, b in zip(gradient, other, strict=True)]))
    if not np.isfinite([loss, float(square)]).all():
        raise InputError(
            f"The loss is {loss:g} at these weights and its gradient has norm {np.sqrt(square):g}: choose weights from "
            "before training diverged, or check the data for NaN."
        )
    loss_changes = abs(again - loss) > _LOSS_TOLERANCE * abs(loss)
    if loss_changes or change > _GRADIENT_TOLERANCE * np.sqrt(square):
        reasons = "a shuffled or augmented dataset, or a layer that draws random numbers such as dropout"
        if training:
            reasons += ", or batch norm in training mode on batches that are shuffled (pass training=False)"
        raise InputError(
            f"Two passes over the data differ: loss {loss:.9g} and {again:.9g}, gradients by {change:.3g}. Look for "
            f"{reasons}."
        )
    return loss, gradient
