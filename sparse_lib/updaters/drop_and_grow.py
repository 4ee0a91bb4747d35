"""Drop and grow: the common part of SET, RigL, SNFS and MEST."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from sparse_lib import schedules, selection
from sparse_lib._utils.errors import InputError
from sparse_lib.structures import Structure
from sparse_lib.updaters.base import Kernel, Update, UpdateContext, Updater
from sparse_lib.updaters.growth_values import GrowthValue
from sparse_lib.updaters.redistribution import redistribute


@dataclasses.dataclass(frozen=True, kw_only=True)
class DropAndGrow(Updater):
    """Drops n = int(active * drop fraction) weights of each kernel and grows as many elsewhere.

    Kept are the active weights of highest `drop_score`; grown are the n highest `grow_score` among everything that
    is not kept. A weight dropped in this update may therefore grow again, and then keeps its value and its slots (RigL,
    Algorithm 1, as in its authors' code); `reinit_regrown` resets it.

    Attributes:
      drop_fraction: fraction of the active weights; a number alpha means alpha/2 (1 + cos(pi t / end_step)), 0.3 in
        the RigL paper, section 4; a callable maps the step to a fraction.
      growth_init: value of a new weight: `zeros` (RigL paper, section 3), `random` N(0, std of the active weights),
        `initial` (the weight's value at the start), `gradient` (-learning rate * gradient), or one of RigL's TF1 code,
        such as `grad_scale_10`; see `GrowthValue`.
      reinit_regrown: whether a weight that is dropped and grown in one update counts as new.
      redistribute: whether growth is redistributed over kernels in proportion to the mean |grow_score| of their active
        weights (SNFS, section 3); else each kernel grows as many weights as it dropped.
    """

    drop_fraction: float | Callable[[tf.Tensor], tf.Tensor] = 0.3
    growth_init: str = "zeros"
    reinit_regrown: bool = False
    redistribute: bool = False
    replaces_step: bool = True

    def __post_init__(self) -> None:
        """Checks drop fraction and growth init.

        Raises:
          ValueError: for a number as drop fraction without an end step or out of range, or an unknown growth init.
        """
        check_drop_fraction(self)
        GrowthValue.parse(self.growth_init)

    def check_structures(self, structures: Sequence[Structure]) -> None:
        """Checks that redistribution may change the number of weights of every kernel.

        Args:
          structures: one per sparse kernel.

        Raises:
          ValueError: if a structure fixes that number.
        """
        if self.redistribute:
            check_free(structures, f"{type(self).__name__} with redistribute=True", "pass redistribute=False")

    @property
    def state_specs(self) -> tuple[str, ...]:
        """The initial weights, where new weights take them."""
        return ("initial",) if GrowthValue.parse(self.growth_init).needs_initial else ()

    def fraction(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the drop fraction at a step, a float32 scalar (fraction)."""
        if callable(self.drop_fraction):
            return tf.cast(self.drop_fraction(step), tf.float32)
        return schedules.Cosine(self.drop_fraction, self.end_step)(step)

    def drop_fraction_at(self, step: int) -> float | None:
        """Returns the scheduled drop fraction, a Python number (fraction)."""
        return float(self.fraction(tf.constant(step, tf.int64)))

    def drop_score(self, kernel: Kernel) -> tf.Tensor:
        """Scores the active weights; the lowest are dropped: |w|."""
        return tf.abs(kernel.weight)

    def grow_score(self, kernel: Kernel, seed: tf.Tensor) -> tf.Tensor:
        """Scores the weights that are not kept; the highest grow."""
        raise NotImplementedError

    def update(self, kernels: Sequence[Kernel], context: UpdateContext) -> list[Update]:
        """Keeps the best active weights of each kernel and grows the best of the rest."""
        fraction = self.fraction(context.step)
        kept, counts, scores = [], [], []
        for index, kernel in enumerate(kernels):
            active = kernel.structure.count(kernel.mask)
            drop = truncated_product(active, fraction)
            kept.append(kernel.structure.keep(self.drop_score(kernel), active - drop, kernel.mask))
            counts.append(drop)
            scores.append(self.grow_score(kernel, context.stateless_seed(2 * index)))
        if self.redistribute:
            counts = redistribute(counts, kernels, kept, scores)
        return [
            self.exchange(kernel, keep, kernel.structure.grow(score, count, keep), context, index)
            for index, (kernel, keep, score, count) in enumerate(zip(kernels, kept, scores, counts, strict=True))
        ]

    def exchange(
        self, kernel: Kernel, kept: tf.Tensor, growth: tf.Tensor, context: UpdateContext, index: int
    ) -> Update:
        """Applies a new mask and initializes the new weights.

        Args:
          kernel: before the update.
          kept: boolean, a subset of its mask.
          growth: boolean, disjoint from `kept`.
          context: step, learning rate and seed.
          index: position of the kernel among the sparse ones.

        Returns:
          The kernel on the union of `kept` and `growth`.
        """
        mask = kept | growth
        grown = growth if self.reinit_regrown else growth & ~kernel.mask
        weight = selection.on_mask(mask, kernel.weight)
        value = GrowthValue.parse(self.growth_init).values(kernel, context, 2 * index + 1)
        return Update(mask, tf.where(grown, value, weight), grown, kernel.state)


def check_drop_fraction(updater: Any) -> None:
    """Checks a drop fraction that is a number: its range, and that there is an end step to anneal to.

    Args:
      updater: with `drop_fraction` and `end_step`.

    Raises:
      ValueError: if the number is out of range or `end_step` is None.
    """
    if callable(updater.drop_fraction):
        return
    if updater.end_step is None:
        raise InputError(
            f"{type(updater).__name__} anneals its drop fraction to zero at end_step: give end_step, or a callable "
            "drop_fraction such as schedules.Constant(0.3)."
        )
    schedules.Cosine(updater.drop_fraction, updater.end_step)


def check_free(structures: Sequence[Structure], what: str, remedy: str) -> None:
    """Checks that structures let a kernel have any number of weights.

    Args:
      structures: one per sparse kernel.
      what: the setting that changes the number, the subject of the error.
      remedy: the end of the error.

    Raises:
      ValueError: if one of them fixes the number.
    """
    fixed = [structure for structure in structures if not structure.is_free]
    if fixed:
        raise InputError(f"{what} changes how many weights a kernel has, which structure {fixed[0]} fixes: {remedy}.")


def truncated_product(count: tf.Tensor, fraction: tf.Tensor) -> tf.Tensor:
    """Returns int(count * fraction), an int32 scalar (count).

    In float32, as in the reference: the product is rounded before it is truncated.
    """
    return tf.cast(tf.cast(count, tf.float32) * fraction, tf.int32)
