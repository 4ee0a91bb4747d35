"""GraNet: gradual pruning with regrowth at a constant number of parameters."""

import dataclasses
from collections.abc import Callable, Sequence

import tensorflow as tf

from sparse_lib.structures import Structure
from sparse_lib.updaters.base import Kernel, Update, UpdateContext, Updater
from sparse_lib.updaters.drop_and_grow import check_drop_fraction
from sparse_lib.updaters.prune import Prune
from sparse_lib.updaters.rigl import RigL


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraNet(Updater):
    """GraNet (Liu et al. 2021): prune to the target sparsity, then exchange weights at constant sparsity.

    d_t = d_f + (d_i - d_f)(1 - (t - t0)/T)^3, magnitudes ranked over all kernels; then RigL's drop and grow

    Attributes:
      sparsity: maps a step to the target sparsity (fraction).
      drop_fraction: fraction of the remaining weights that regrow elsewhere; 0.5 with a cosine to `end_step` in the
        paper, section 4.

    Examples:
      >>> import keras
      >>> import numpy as np
      >>> import sparse_lib
      >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(10)])
      >>> masks = sparse_lib.sparsify(model, 0.5)
      >>> target = sparse_lib.PolynomialSparsity(initial=0.5, final=0.8, begin=0, end=8)
      >>> updater = sparse_lib.GraNet(sparsity=target, frequency=2, end_step=8)
      >>> model.compile(sparse_lib.SparseOptimizer(keras.optimizers.SGD(0.1), masks, updater), "mse")
      >>> _ = model.fit(np.eye(20), np.eye(20)[:, :10], batch_size=2, verbose=0)  # 10 steps
      >>> round(masks.sparsity(), 2)
      0.8
    """

    sparsity: Callable[[tf.Tensor], tf.Tensor]
    drop_fraction: float | Callable[[tf.Tensor], tf.Tensor] = 0.5

    def __post_init__(self) -> None:
        """Checks the drop fraction.

        Raises:
          ValueError: for a number as drop fraction without an end step or out of range.
        """
        check_drop_fraction(self)

    @property
    def _regrowth(self) -> RigL:
        return RigL(end_step=self.end_step, drop_fraction=self.drop_fraction)

    def drop_fraction_at(self, step: int) -> float | None:
        """Returns the scheduled drop fraction, a Python number (fraction)."""
        return self._regrowth.drop_fraction_at(step)

    @property
    def changes_density(self) -> bool:
        """True: sparsity rises to its target."""
        return True

    def check_structures(self, structures: Sequence[Structure]) -> None:
        """Checks that every structure can have the final sparsity."""
        Prune(sparsity=self.sparsity, end_step=self.end_step, scope="global").check_structures(structures)

    def update(self, kernels: Sequence[Kernel], context: UpdateContext) -> list[Update]:
        """Prunes, then drops and grows."""
        pruned = Prune(sparsity=self.sparsity, scope="global").update(kernels, context)
        remaining = [
            kernel._replace(mask=update.mask, weight=update.weight)
            for kernel, update in zip(kernels, pruned, strict=True)
        ]
        return self._regrowth.update(remaining, context)
