"""Gradual magnitude pruning."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import tensorflow as tf

from sparse_lib._utils.errors import InputError
from sparse_lib.structures import Structure, select_globally
from sparse_lib.updaters.base import Kernel, Update, UpdateContext, Updater, WeightGradient, shrink


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prune(Updater):
    """Gradual magnitude pruning (Zhu & Gupta 2017): keep the largest |w|, follow a target sparsity.

    kept = round(size * (1 - s(t))), at least 1 per kernel

    Pruned weights never grow again. The update follows the optimizer step, as in the method's published code; that
    code keeps more weights where magnitudes tie, here the count is exact.

    Attributes:
      sparsity: maps a step to the target sparsity (fraction).
      scope: `layer` prunes every kernel to the target (the paper, section 3), `global` ranks the weights of all
        kernels together.

    Examples:
      >>> import keras
      >>> import numpy as np
      >>> import sparse_lib
      >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(10)])
      >>> masks = sparse_lib.sparsify(model, 0.0)
      >>> target = sparse_lib.PolynomialSparsity(initial=0.0, final=0.8, begin=0, end=8)
      >>> updater = sparse_lib.Prune(sparsity=target, frequency=2, end_step=8)
      >>> model.compile(sparse_lib.SparseOptimizer(keras.optimizers.SGD(0.1), masks, updater), "mse")
      >>> _ = model.fit(np.eye(20), np.eye(20)[:, :10], batch_size=2, verbose=0)  # 10 steps
      >>> round(masks.sparsity(), 2)
      0.8
    """

    label: ClassVar[str] = "Pruning"
    weight_gradient: ClassVar[WeightGradient] = "sparse"

    sparsity: Callable[[tf.Tensor], tf.Tensor]
    scope: Literal["layer", "global"] = "layer"

    def __post_init__(self) -> None:
        """Checks the scope.

        Raises:
          ValueError: for an unknown scope.
        """
        if self.scope not in ("layer", "global"):
            raise InputError(f"scope={self.scope!r} is not known; use layer or global.")

    def check_structures(self, structures: Sequence[Structure]) -> None:
        """Checks that every structure can have the final sparsity."""
        for structure in structures:
            if structure.fixed_sparsity is not None and self.end_step is not None:
                structure.check_sparsity(float(self.sparsity(tf.constant(self.end_step, tf.int64))))

    def update(self, kernels: Sequence[Kernel], context: UpdateContext) -> list[Update]:
        """Keeps the largest active magnitudes."""
        # In float32, as in the reference: 10 weights at sparsity 0.35 keep round(6.5) = 6.
        density = 1.0 - tf.cast(self.sparsity(context.step), tf.float32)

        def count_kept(size: int) -> tf.Tensor:
            return tf.maximum(tf.cast(tf.round(tf.cast(size, tf.float32) * density), tf.int32), 1)

        scores = [tf.abs(kernel.weight) for kernel in kernels]
        active = [kernel.mask for kernel in kernels]
        structures = [kernel.structure for kernel in kernels]
        sizes = [kernel.structure.size(kernel.weight.shape) for kernel in kernels]
        if self.scope == "global":
            masks = select_globally(structures, scores, count_kept(sum(sizes)), active)
        else:
            masks = [
                structure.select(score, count_kept(size), mask)
                for structure, score, size, mask in zip(structures, scores, sizes, active, strict=True)
            ]
        return [shrink(kernel, mask) for kernel, mask in zip(kernels, masks, strict=True)]
