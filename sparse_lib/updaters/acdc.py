"""AC/DC: phases of training with all weights alternate with phases under a mask."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import tensorflow as tf

from sparse_lib._utils.errors import InputError
from sparse_lib.structures import Structure
from sparse_lib.updaters.base import Kernel, Update, UpdateContext, Updater, WeightGradient
from sparse_lib.updaters.prune import Prune


@dataclasses.dataclass(frozen=True, kw_only=True)
class ACDC(Updater):
    """AC/DC (Peste et al. 2021): alternating compressed and decompressed training.

    compressed: top-k of |w|, over all kernels together, fixed for a phase;  decompressed: all weights train

    All weights train before `begin_step`. Phases of `frequency` steps follow, the first compressed. The last one, from
    the last update up to `end_step` to the end of the run, is compressed; the one before it is decompressed, and twice
    as long where the phases between are odd in number. With `begin_step`, `frequency` and `end_step` of 10, 5 and 85
    epochs this is the schedule of the paper's ImageNet runs of 100 epochs, with 10, 20 and 170 that of its authors'
    CIFAR-10 runs of 200. Weights come back as zeros, and the optimizer slots of a kernel start anew when it is
    decompressed, as the momentum does in the paper.

    Attributes:
      sparsity: maps a step to the sparsity of a compressed phase (fraction).
      scope: `global` ranks the weights of all kernels together, as in the authors' code; `layer` prunes every kernel to
        the same sparsity, its `uniform` variant.

    Examples:
      >>> import keras
      >>> import numpy as np
      >>> import sparse_lib
      >>> from sparse_lib import schedules
      >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(10)])
      >>> masks = sparse_lib.sparsify(model, 0.0)
      >>> updater = sparse_lib.ACDC(sparsity=schedules.Constant(0.8), begin_step=2, frequency=2, end_step=6)
      >>> model.compile(sparse_lib.SparseOptimizer(keras.optimizers.SGD(0.1), masks, updater), "mse")
      >>> active = []
      >>> record = keras.callbacks.LambdaCallback(on_train_batch_end=lambda *_, **__: active.extend(masks.active()))
      >>> _ = model.fit(np.eye(20), np.eye(20)[:, :10], batch_size=2, verbose=0, callbacks=[record])  # 10 steps
      >>> active
      [200, 200, 40, 40, 200, 200, 40, 40, 40, 40]
    """

    label: ClassVar[str] = "AC/DC"
    weight_gradient: ClassVar[WeightGradient] = "sparse"

    sparsity: Callable[[Any], tf.Tensor]
    scope: Literal["layer", "global"] = "global"

    def __post_init__(self) -> None:
        """Checks the scope and the phases.

        Raises:
          ValueError: for an unknown scope, or without `end_step`.
        """
        Prune(sparsity=self.sparsity, scope=self.scope)
        if self.end_step is None:
            raise InputError("AC/DC ends with a compressed phase: give the step at which it begins as end_step.")

    @property
    def changes_density(self) -> bool:
        """True: phases alternate between two densities."""
        return True

    def check_structures(self, structures: Sequence[Structure]) -> None:
        """Checks that every structure can have the sparsity of the last phase."""
        Prune(sparsity=self.sparsity, end_step=self.end_step, scope=self.scope).check_structures(structures)

    def is_compressed(self, step: Any) -> tf.Tensor:
        """Whether the phase that begins at a step is compressed.

        Args:
          step: of a mask update (step).

        Returns:
          Boolean scalar.
        """
        assert self.end_step is not None
        phase = (tf.cast(step, tf.int64) - self.schedule.begin) // self.frequency
        last = (self.end_step - self.schedule.begin) // self.frequency
        return (phase >= last) | ((phase % 2 == 0) & (phase < last - 1))

    def update(self, kernels: Sequence[Kernel], context: UpdateContext) -> list[Update]:
        """Selects the largest magnitudes, or makes all weights active."""
        is_compressed = self.is_compressed(context.step)
        # A mask of all weights stays as it is where a decompressed phase goes on.
        pruned = Prune(sparsity=self.sparsity, scope=self.scope).update(kernels, context)
        updates = []
        for kernel, update in zip(kernels, pruned, strict=True):
            opens = ~is_compressed & ~tf.reduce_all(kernel.mask)
            mask = update.mask | ~is_compressed
            weight = tf.where(is_compressed, update.weight, kernel.weight)
            updates.append(Update(mask, weight, tf.broadcast_to(opens, mask.shape), kernel.state))
        return updates
