"""Static masks whose weakest weights start again."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import tensorflow as tf

from sparse_lib._utils.errors import InputError
from sparse_lib.updaters.base import Kernel, Update, UpdateContext, WeightGradient
from sparse_lib.updaters.drop_and_grow import DropAndGrow, truncated_product
from sparse_lib.updaters.growth_values import GrowthValue


@dataclasses.dataclass(frozen=True, kw_only=True)
class StaticReinit(DropAndGrow):
    """Masks stay, and the n = int(active * drop fraction) smallest weights of each kernel start again.

    The `static` of RigL's TF1 code (Evci et al. 2020): drop and grow in which only the weights that were dropped just
    now may grow, a control for how much of a method's effect is due to new values alone. They take the value of
    `growth_init`, and their optimizer slots are reset.

    Examples:
      >>> import tensorflow as tf
      >>> from sparse_lib import schedules
      >>> from sparse_lib.updaters import Kernel, StaticReinit, UpdateContext
      >>> mask, weight = tf.constant([True, True, False]), tf.constant([3.0, 0.1, 0.0])
      >>> kernel = Kernel(mask, weight, gradient=tf.zeros(3), state={})
      >>> now = UpdateContext(step=tf.constant(0), learning_rate=tf.constant(0.1), seed=0)
      >>> (update,) = StaticReinit(drop_fraction=schedules.Constant(0.5)).update([kernel], now)
      >>> update.mask.numpy().tolist(), update.weight.numpy().tolist()
      ([True, True, False], [3.0, 0.0, 0.0])
    """

    label: ClassVar[str] = "Static, reinitialized"
    weight_gradient: ClassVar[WeightGradient] = "sparse"

    def __post_init__(self) -> None:
        """Checks that no weight is asked to move.

        Raises:
          ValueError: as in `DropAndGrow`, and for `redistribute`.
        """
        super().__post_init__()
        if self.redistribute:
            raise InputError("StaticReinit moves no weight to another kernel: leave redistribute out.")

    def update(self, kernels: Sequence[Kernel], context: UpdateContext) -> list[Update]:
        """Reinitializes the smallest active weights of each kernel."""
        rule, fraction, updates = GrowthValue.parse(self.growth_init), self.fraction(context.step), []
        for index, kernel in enumerate(kernels):
            active = kernel.structure.count(kernel.mask)
            drop = truncated_product(active, fraction)
            again = kernel.mask & ~kernel.structure.keep(self.drop_score(kernel), active - drop, kernel.mask)
            weight = tf.where(again, rule.values(kernel, context, 2 * index + 1), kernel.weight)
            updates.append(Update(kernel.mask, weight, again, kernel.state))
        return updates
