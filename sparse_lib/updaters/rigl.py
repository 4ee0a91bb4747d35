"""SET, RigL and its variants: one drop score and one grow score each."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar

import tensorflow as tf

from sparse_lib import schedules
from sparse_lib.updaters.base import Kernel, Update, UpdateContext, WeightGradient, random_uniform
from sparse_lib.updaters.drop_and_grow import DropAndGrow


@dataclasses.dataclass(frozen=True, kw_only=True)
class SET(DropAndGrow):
    """Sparse evolutionary training (Mocanu et al. 2018) on RigL's schedule: drop by magnitude, grow at random.

    Examples:
      >>> import keras
      >>> import numpy as np
      >>> import sparse_lib
      >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(10)])
      >>> masks = sparse_lib.sparsify(model, 0.8)
      >>> updater = sparse_lib.SET(frequency=2, end_step=8)
      >>> model.compile(sparse_lib.SparseOptimizer(keras.optimizers.SGD(0.1), masks, updater), "mse")
      >>> _ = model.fit(np.eye(20), np.eye(20)[:, :10], batch_size=2, verbose=0)  # 10 steps
      >>> round(masks.sparsity(), 2), masks.exploration_rate()[0] > 0.2  # more weights were active than are now
      (0.8, True)
    """

    weight_gradient: ClassVar[WeightGradient] = "sparse"

    def grow_score(self, kernel: Kernel, seed: tf.Tensor) -> tf.Tensor:
        """Uniform noise."""
        return random_uniform(kernel.weight.shape, seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RigL(DropAndGrow):
    """RigL (Evci et al. 2020): drop by magnitude, grow where the dense gradient is largest.

    Examples:
      >>> import tensorflow as tf
      >>> from sparse_lib import RigL
      >>> from sparse_lib.updaters import Kernel, UpdateContext
      >>> mask, weight = tf.constant([True, True, False, False]), tf.constant([3.0, 0.1, 0.0, 0.0])
      >>> kernel = Kernel(mask, weight, gradient=tf.constant([0.0, 0.0, 1.0, -2.0]), state={})
      >>> now = UpdateContext(step=tf.constant(0), learning_rate=tf.constant(0.1), seed=0)
      >>> (update,) = RigL(drop_fraction=0.5, end_step=100).update([kernel], now)
      >>> update.mask.numpy().tolist()  # drops the smallest weight, grows the largest gradient
      [True, False, False, True]
    """

    def grow_score(self, kernel: Kernel, seed: tf.Tensor) -> tf.Tensor:
        """|g|."""
        del seed
        return tf.abs(kernel.gradient)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RigLInverted(RigL):
    """The control of the gradient-flow paper: grow where the dense gradient is smallest."""

    label: ClassVar[str] = "RigL inverted"

    def grow_score(self, kernel: Kernel, seed: tf.Tensor) -> tf.Tensor:
        """-|g|."""
        del seed
        return -tf.abs(kernel.gradient)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RigLSNIP(RigL):
    """RigL that drops by SNIP's saliency: |g w| instead of |w|."""

    label: ClassVar[str] = "RigL-SNIP"

    def drop_score(self, kernel: Kernel) -> tf.Tensor:
        """|g w| (Lee et al. 2019)."""
        return tf.abs(kernel.gradient * kernel.weight)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RigLGraSP(RigL):
    """RigL that drops by GraSP's score: the weights whose removal hurts gradient flow least."""

    label: ClassVar[str] = "RigL-GraSP"

    @property
    def needs_hessian(self) -> bool:
        """True, for the score."""
        return True

    def drop_score(self, kernel: Kernel) -> tf.Tensor:
        """Weight times Hg: GraSP removes the highest -w Hg (Wang et al. 2020)."""
        return kernel.weight * kernel.hessian_gradient


@dataclasses.dataclass(frozen=True, kw_only=True)
class RigLAuto(RigL):
    """RigL that finds its own drop fraction: a weight is replaced if some gradient steps would make the new one larger.

    active <- top-n of |w| on the mask and coefficient * learning rate * |g| off it

    Drop fraction and redistribution are ignored.

    Attributes:
      coefficient: gradient steps that a new weight is credited with (count).
    """

    label: ClassVar[str] = "RigL auto"

    drop_fraction: float | Callable[[tf.Tensor], tf.Tensor] = schedules.Constant(0.0)
    coefficient: float = 1.0

    def drop_fraction_at(self, step: int) -> float | None:
        """Returns None: the drop fraction is found, not scheduled."""
        return None

    def update(self, kernels: Sequence[Kernel], context: UpdateContext) -> list[Update]:
        """Selects the largest of the active weights as they are and of the others as they would become."""
        updates = []
        for index, kernel in enumerate(kernels):
            reach = self.coefficient * tf.cast(context.learning_rate, kernel.weight.dtype)
            kept, growth = kernel.structure.exchange(
                tf.abs(kernel.weight),
                reach * tf.abs(kernel.gradient),
                kernel.structure.count(kernel.mask),
                kernel.mask,
            )
            updates.append(self.exchange(kernel, kept, growth, context, index))
        return updates
