"""Gradients that score growth: of the batch, of several batches, or of the caller."""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from sparse_lib._utils.errors import InputError
from sparse_lib.updaters import Updater


@dataclasses.dataclass(frozen=True)
class Growth:
    """Dense gradients for a mask update from another source than the current batch.

    Attributes:
      gradients: one tensor per sparse kernel, summed over replicas where the caller runs on several.
      hessian_gradients: the Hessian times the masked gradient, one tensor per sparse kernel, or None.
    """

    gradients: list[tf.Tensor]
    hessian_gradients: list[tf.Tensor] | None = None


class GrowthSource:
    """Source of the growth gradients: the current batch, the mean of several batches, or a function of the caller.

    Attributes:
      function: returns `Growth`; None for batches.
      batches: batches up to an update that are averaged (count).
    """

    def __init__(self, growth_gradient: int | Callable[[], Growth], updater: Updater) -> None:
        """Checks the setting of `SparseOptimizer`.

        Args:
          growth_gradient: number of batches (count), or a function that returns `Growth`.
          updater: the updater that grows by the gradients.

        Raises:
          ValueError: if the updater needs Hessian products and there is no function, or if the batches span more than
            the interval between updates.
        """
        self._schedule = updater.schedule
        self.function = growth_gradient if callable(growth_gradient) else None
        self.batches = 1 if callable(growth_gradient) else growth_gradient
        if updater.needs_hessian and self.function is None:
            raise InputError(
                f"{type(updater).__name__} needs Hessian-gradient products: pass a callable growth_gradient that "
                "returns Growth(gradients, hessian_gradients)."
            )
        if not 1 <= self.batches <= self._schedule.frequency:
            raise InputError(
                f"growth_gradient={self.batches} must be between 1 and the update frequency, "
                f"{self._schedule.frequency}."
            )

    def running_sum(self, total: tf.Tensor, gradient: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """Adds a gradient to the running sum, which restarts at the first of the batches up to an update.

        Args:
          total: the sum before this step.
          gradient: of this step.
          step: integer scalar (step).

        Returns:
          The sum with this step.
        """
        age = tf.math.floormod(step - self._schedule.begin - 1, self._schedule.frequency)
        return tf.where(age > self._schedule.frequency - self.batches, total + gradient, gradient)

    def mean(self, total: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """Returns the mean gradient at an update.

        Args:
          total: from `running_sum`.
          step: of the update, integer scalar (step).

        Returns:
          Tensor of the shape of `total`.
        """
        # The first update may come before that many batches.
        count = tf.minimum(tf.cast(step, tf.int32) + 1, self.batches)
        return total / tf.cast(count, total.dtype)
