"""MEST: dropping by weight and gradient, random growth, and a soft memory bound."""

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from sparse_lib._utils.errors import InputError
from sparse_lib.structures import Structure
from sparse_lib.updaters.base import Kernel, Update, UpdateContext
from sparse_lib.updaters.drop_and_grow import check_free, truncated_product
from sparse_lib.updaters.rigl import SET


@dataclasses.dataclass(frozen=True, kw_only=True)
class MEST(SET):
    """MEST (Yuan et al. 2021): drop by |w| + lambda |g|, grow at random, on top of the optimizer step.

    With the soft memory bound (elastic mutation and shrink, "EM&S") the grown weights come on top of the budget
    until the next update, which drops as many as the last one grew; the last update before `end_step` only drops.
    Without it the number of weights is constant. Gradients of active weights suffice.

    Attributes:
      gradient_weight: lambda; 1 in the authors' code.
      soft_bound: whether the grown weights come on top of the budget until the next update.

    Examples:
      >>> import keras
      >>> import numpy as np
      >>> import sparse_lib
      >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(10)])
      >>> masks = sparse_lib.sparsify(model, 0.8)
      >>> updater = sparse_lib.MEST(frequency=2, end_step=8)
      >>> model.compile(sparse_lib.SparseOptimizer(keras.optimizers.SGD(0.1), masks, updater), "mse")
      >>> _ = model.fit(np.eye(20), np.eye(20)[:, :10], batch_size=2, verbose=0)  # 10 steps
      >>> round(masks.sparsity(), 2), masks.exploration_rate()[0] > 0.2  # more weights were active than are now
      (0.8, True)
    """

    gradient_weight: float = 1.0
    soft_bound: bool = False
    replaces_step: bool = False

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
          ValueError: as in `DropAndGrow`, and for redistribution with the soft bound.
        """
        super().__post_init__()
        if self.soft_bound and self.redistribute:
            raise InputError("MEST keeps each kernel's budget with soft_bound; leave redistribute out.")

    def check_structures(self, structures: Sequence[Structure]) -> None:
        """Checks that the soft bound may add weights to every kernel."""
        super().check_structures(structures)
        if self.soft_bound:
            check_free(structures, "MEST with soft_bound=True", "pass soft_bound=False")

    @property
    def state_specs(self) -> tuple[str, ...]:
        """`extra`: ones at as many weights as are active on top of the budget."""
        return (*super().state_specs, "extra") if self.soft_bound else super().state_specs

    def drop_score(self, kernel: Kernel) -> tf.Tensor:
        """|w| + lambda |g|."""
        return tf.abs(kernel.weight) + self.gradient_weight * tf.abs(kernel.gradient)

    def update(self, kernels: Sequence[Kernel], context: UpdateContext) -> list[Update]:
        """Drops and grows; with the soft bound, first drops to the budget, then grows on top of it."""
        if not self.soft_bound:
            return super().update(kernels, context)
        fraction = self.fraction(context.step)
        if self.end_step is not None:
            is_last = context.step + self.frequency > self.end_step
            fraction = tf.where(is_last, tf.zeros_like(fraction), fraction)
        updates = []
        for index, kernel in enumerate(kernels):
            structure = kernel.structure
            budget = structure.count(kernel.mask) - structure.count(kernel.state["extra"] > 0)
            kept = structure.keep(self.drop_score(kernel), budget, kernel.mask)
            score = self.grow_score(kernel, context.stateless_seed(2 * index))
            growth = structure.grow(score, truncated_product(budget, fraction), kept)
            update = self.exchange(kernel, kept, growth, context, index)
            marks = tf.cast(growth, kernel.weight.dtype)
            updates.append(update._replace(state={**kernel.state, "extra": marks}))
        return updates
