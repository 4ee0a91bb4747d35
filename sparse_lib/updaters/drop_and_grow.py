"""Dropping weights and growing as many elsewhere: the frame of SET, RigL, SNFS and MEST."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import tensorflow as tf

from sparse_lib import schedules, selection
from sparse_lib._utils.errors import InputError
from sparse_lib.structures import Structure
from sparse_lib.updaters.base import Kernel, Update, UpdateContext, Updater, random_uniform
from sparse_lib.updaters.redistribution import redistribute

GrowthInit = Literal["zeros", "random", "initial", "gradient"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DropAndGrow(Updater):
    """Drops n = int(active * drop fraction) weights of each kernel and grows as many elsewhere.

    Kept are the active weights of highest `drop_score`; grown are the n highest `grow_score` among everything that
    is not kept. A weight that was dropped a moment ago may therefore grow again, and then keeps its value and its
    slots (RigL, Algorithm 1, as its authors' code has it); `reinit_regrown` starts it anew.

    Attributes:
      drop_fraction: fraction of the active weights; a number alpha means alpha/2 (1 + cos(pi t / end_step)), 0.3 in
        the RigL paper, section 4; a callable maps the step to a fraction.
      growth_init: value of a new weight: `zeros` (RigL paper, section 3), `random` N(0, std of the active weights),
        `initial` (the value the weight was given at the start), `gradient` (-learning rate * gradient).
      reinit_regrown: whether a weight that is dropped and grown in one update counts as new.
      redistribute: whether what all kernels dropped is shared out again, in proportion to the mean size of the
        `grow_score` of each kernel's active weights (SNFS, section 3), instead of each growing what it dropped.
    """

    drop_fraction: float | Callable[[tf.Tensor], tf.Tensor] = 0.3
    growth_init: GrowthInit = "zeros"
    reinit_regrown: bool = False
    redistribute: bool = False
    replaces_step: bool = True

    def __post_init__(self) -> None:
        """Checks drop fraction and growth init.

        Raises:
          ValueError: for a number as drop fraction without an end step or out of range, or an unknown growth init.
        """
        check_drop_fraction(self)
        if self.growth_init not in get_args(GrowthInit):
            raise InputError(f"growth_init={self.growth_init!r} is not known; use {', '.join(get_args(GrowthInit))}.")

    def check_structures(self, structures: Sequence[Structure]) -> None:
        """Refuses redistribution where a kernel cannot hold one weight more or less."""
        if self.redistribute:
            check_free(structures, f"{type(self).__name__} with redistribute=True", "pass redistribute=False")

    @property
    def state_specs(self) -> tuple[str, ...]:
        """The initial weights, where new weights return to them."""
        return ("initial",) if self.growth_init == "initial" else ()

    def fraction(self, step: tf.Tensor) -> tf.Tensor:
        """Drop fraction at a step, float32 scalar (fraction)."""
        if callable(self.drop_fraction):
            return tf.cast(self.drop_fraction(step), tf.float32)
        return schedules.Cosine(self.drop_fraction, self.end_step)(step)

    def drop_score(self, kernel: Kernel) -> tf.Tensor:
        """Score of the active weights; the lowest are dropped: |w|."""
        return tf.abs(kernel.weight)

    def grow_score(self, kernel: Kernel, seed: tf.Tensor) -> tf.Tensor:
        """Score of the weights that are not kept; the highest grow."""
        raise NotImplementedError

    def update(self, kernels: Sequence[Kernel], context: UpdateContext) -> list[Update]:
        """New masks: the best of the old weights and the best of the rest."""
        fraction = self.fraction(context.step)
        kept, counts, scores = [], [], []
        for index, kernel in enumerate(kernels):
            active = kernel.structure.count(kernel.mask)
            drop = share(active, fraction)
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
        """Gives the kernel its new mask and the new weights their values.

        Args:
          kernel: before the update.
          kept: boolean, part of its mask.
          growth: boolean, disjoint from `kept`.
          context: step, learning rate and seed.
          index: place of the kernel among the sparse ones.

        Returns:
          The kernel on `kept` and `growth`.
        """
        mask = kept | growth
        grown = growth if self.reinit_regrown else growth & ~kernel.mask
        weight = selection.on_mask(mask, kernel.weight)
        value = self._new_values(kernel, context, 2 * index + 1)
        return Update(mask, tf.where(grown, value, weight), grown, kernel.state)

    def _new_values(self, kernel: Kernel, context: UpdateContext, stream: int) -> tf.Tensor:
        if self.growth_init == "zeros":
            return tf.zeros_like(kernel.weight)
        if self.growth_init == "initial":
            return kernel.state["initial"]
        dtype = kernel.weight.dtype
        if self.growth_init == "gradient":
            return -tf.cast(context.learning_rate, dtype) * kernel.gradient
        active = tf.cast(kernel.mask, dtype)
        count = tf.maximum(tf.cast(selection.count_active(kernel.mask), dtype), 1)
        mean = tf.reduce_sum(kernel.weight) / count
        variance = tf.reduce_sum(active * (kernel.weight - mean) ** 2) / count
        noise = tf.math.ndtri(random_uniform(kernel.weight.shape, context.stateless_seed(stream)))
        return tf.sqrt(variance) * tf.cast(noise, dtype)


def check_drop_fraction(updater: Any) -> None:
    """Raises a ValueError for a number as drop fraction that is out of range or has no step to end at."""
    if callable(updater.drop_fraction):
        return
    if updater.end_step is None:
        raise InputError(
            f"{type(updater).__name__} anneals its drop fraction to zero at end_step: give end_step, or a callable "
            "drop_fraction such as schedules.Constant(0.3)."
        )
    schedules.Cosine(updater.drop_fraction, updater.end_step)


def check_free(structures: Sequence[Structure], what: str, remedy: str) -> None:
    """Raises a ValueError if a structure does not let a kernel hold any number of weights."""
    fixed = [structure for structure in structures if not structure.is_free]
    if fixed:
        raise InputError(f"{what} changes how many weights a kernel has, which structure {fixed[0]} fixes: {remedy}.")


def share(count: tf.Tensor, fraction: tf.Tensor) -> tf.Tensor:
    """A fraction of a count, cut to an integer: int(count * fraction), int32 scalar (count).

    In float32, as the reference computes it: the product rounds before it is cut.
    """
    return tf.cast(tf.cast(count, tf.float32) * fraction, tf.int32)
