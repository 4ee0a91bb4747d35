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
    """Sparse evolutionary training (Mocanu et al. 2018) on RigL's schedule: drop by magnitude, grow at random."""

    weight_gradient: ClassVar[WeightGradient] = "sparse"

    def grow_score(self, kernel: Kernel, seed: tf.Tensor) -> tf.Tensor:
        """Uniform noise."""
        return random_uniform(kernel.weight.shape, seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RigL(DropAndGrow):
    """RigL (Evci et al. 2020): drop by magnitude, grow where the dense gradient is largest."""

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
