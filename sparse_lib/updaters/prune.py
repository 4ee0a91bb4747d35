"""Gradual magnitude pruning."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeAlias

import tensorflow as tf

from sparse_lib import distributions
from sparse_lib._utils.did_you_mean import closest_names
from sparse_lib._utils.errors import InputError
from sparse_lib.structures import Structure, select_globally
from sparse_lib.updaters.base import Kernel, Update, UpdateContext, Updater, WeightGradient, shrink

Target: TypeAlias = Callable[[tf.Tensor], tf.Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prune(Updater):
    """Gradual magnitude pruning (Zhu & Gupta 2017): keep the largest |w|, follow a target sparsity.

    kept = round(size * (1 - s(t))), at least 1 per kernel

    Pruned weights never grow again. The update follows the optimizer step, as in the method's published code; that
    code keeps more weights where magnitudes tie, here the count is exact.

    Attributes:
      sparsity: maps a step to the target sparsity (fraction). A mapping has one such function, or a number, per kernel,
        by name or pattern of kernels or layers, where the last match wins and kernels without a match stay as they are.
      scope: `layer` prunes every kernel to the target (the paper, section 3), `global` ranks the weights of all
        kernels together, to one target.

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

    sparsity: Target | Mapping[str, Target | float]
    scope: Literal["layer", "global"] = "layer"

    def __post_init__(self) -> None:
        """Checks the scope.

        Raises:
          ValueError: for an unknown scope, or a sparsity per kernel that is out of range or in global scope.
        """
        if self.scope not in ("layer", "global"):
            raise InputError(f"scope={self.scope!r} is not known; use layer or global.")
        if not isinstance(self.sparsity, Mapping):
            return
        if self.scope == "global":
            raise InputError("A global ranking has one target for all kernels: give one schedule, or scope='layer'.")
        for name, target in self.sparsity.items():
            if not callable(target):
                distributions.check_sparsity(f"The sparsity of {name!r}", target)

    @property
    def changes_density(self) -> bool:
        """True: sparsity rises to its target."""
        return True

    def check_structures(self, structures: Sequence[Structure]) -> None:
        """Checks that every structure can have the final sparsity."""
        if self.end_step is None:
            return
        end = tf.constant(self.end_step, tf.int64)
        targets = self.sparsity.values() if isinstance(self.sparsity, Mapping) else [self.sparsity]
        for structure in structures:
            if structure.fixed_sparsity is not None:
                for target in targets:
                    structure.check_sparsity(float(target(end) if callable(target) else target))

    def check_names(self, names: Sequence[str]) -> None:
        """Checks that every name or pattern of `sparsity` fits a kernel."""
        if isinstance(self.sparsity, Mapping):
            unknown = sorted(set(distributions.custom_by_kernel(names, self.sparsity)) - set(names))
            if unknown:
                raise InputError(f"sparsity= names {unknown}; the kernels are {closest_names(unknown[0], names)}.")

    def _target(self, name: str, step: tf.Tensor) -> tf.Tensor:
        """The target sparsity of a kernel, float32; 0, which removes nothing, without one."""
        target: Any = self.sparsity
        if isinstance(target, Mapping):
            target = distributions.custom_by_kernel([name], target).get(name, 0.0)
        return tf.cast(target(step) if callable(target) else target, tf.float32)

    def update(self, kernels: Sequence[Kernel], context: UpdateContext) -> list[Update]:
        """Keeps the largest active magnitudes."""

        def count_kept(size: int, name: str = "") -> tf.Tensor:
            # In float32, as in the reference: 10 weights at sparsity 0.35 keep round(6.5) = 6.
            density = 1.0 - self._target(name, context.step)
            return tf.maximum(tf.cast(tf.round(tf.cast(size, tf.float32) * density), tf.int32), 1)

        scores = [tf.abs(kernel.weight) for kernel in kernels]
        active = [kernel.mask for kernel in kernels]
        structures = [kernel.structure for kernel in kernels]
        sizes = [kernel.structure.size(kernel.weight.shape) for kernel in kernels]
        if self.scope == "global":
            masks = select_globally(structures, scores, count_kept(sum(sizes)), active)
        else:
            masks = [
                kernel.structure.select(score, count_kept(size, kernel.name), kernel.mask)
                for kernel, score, size in zip(kernels, scores, sizes, strict=True)
            ]
        return [shrink(kernel, mask) for kernel, mask in zip(kernels, masks, strict=True)]
