"""Optimizer steps and mask updates, in cross-replica context."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from sparse_lib._keras.optimizers import batch_counter, restrict_averages, scale_rates
from sparse_lib._utils import distribute
from sparse_lib.optimizer.growth import Growth, GrowthSource
from sparse_lib.optimizer.packed import PackedKernels
from sparse_lib.optimizer.supar import rate_factor
from sparse_lib.optimizer.tracked import TrackedKernel
from sparse_lib.updaters import State, UpdateContext, Updater


class Steps:
    """Training steps and mask updates in cross-replica context.

    Gradients are a list with one per-replica value, or None, per trainable variable; they are equal on all replicas.
    What has no gradient does not change: weights, slots, mask and state. Nothing changes before the gradients are
    there: Keras finds the end of data of unknown length by a step without a batch, in which the graph runs all that
    does not depend on one.
    """

    def __init__(
        self,
        inner: keras.optimizers.Optimizer,
        variables: list[keras.Variable],
        updater: Updater,
        tracked: list[TrackedKernel],
        growth: GrowthSource,
        seed: int,
        multipliers: list[float] | None = None,
    ) -> None:
        self._inner, self._variables = inner, variables
        self._updater, self._tracked = updater, tracked
        self._growth, self._seed = growth, seed
        self._multipliers = dict(zip(tracked, multipliers, strict=True)) if multipliers else {}

    def apply(self, strategy: tf.distribute.Strategy, grads: list[Any]) -> None:
        """Takes an optimizer step, a mask update, or both, by the schedule of the updater.

        Args:
          strategy: the current one.
          grads: summed over replicas.
        """
        schedule, replaces_step = self._updater.schedule, self._updater.replaces_step
        if schedule.never:
            self.train(strategy, grads)
            return

        def copy_gradients() -> list[Any]:
            # A branch that returns a gradient unchanged mixes the graphs of the replicas' custom gradients.
            same = lambda gs: [None if g is None else tf.identity(g) for g in gs]  # noqa: E731
            return distribute.per_replica(strategy, same, grads)

        def train() -> tf.Tensor:
            self.train(strategy, copy_gradients())
            return tf.zeros([], tf.int32)

        def update() -> tf.Tensor:
            inside = copy_gradients()
            if not replaces_step:
                self.train(strategy, inside)
            self.update(strategy, inside)
            return tf.zeros([], tf.int32)

        with _after(strategy, grads):
            tf.cond(schedule.is_update_step(self._count()), update, train)

    def train(self, strategy: tf.distribute.Strategy, grads: list[Any]) -> None:
        """Masks gradients, lets the inner optimizer step, and sets masked weights to zero.

        Args:
          strategy: the current one.
          grads: summed over replicas.
        """
        moving = [tracked for tracked in self._tracked if grads[tracked.position] is not None]
        resting = {tracked.position for tracked in self._tracked if grads[tracked.position] is None}

        def step(gradients: list[Any]) -> None:
            masked = list(gradients)
            for tracked in moving:
                masked[tracked.position] = tracked.training_gradient(self._updater, gradients[tracked.position])
            pairs = [(g, v) for g, v in zip(masked, self._variables, strict=True) if g is not None]
            self._inner.apply([g for g, _ in pairs], [v for _, v in pairs])

        with _after(strategy, grads):
            self._accumulate(strategy, grads)
            if self._updater.has_reserve:
                for tracked in moving:
                    tracked.join_reserve(strategy)
            # The inner optimizer averages (EMA) variables without gradients, too.
            averaged = [i for i in range(len(self._variables)) if i not in resting]
            rates = {t.position: self._rate_factor(t, t.count_active()) for t in moving if self._multipliers}
            with restrict_averages(self._inner, averaged), scale_rates(self._inner, rates):
                self._per_replica(strategy, step, grads)
            for tracked in moving:
                if self._updater.has_reserve:
                    tracked.split_reserve(strategy)
                tracked.project(strategy)

    def train_packed(self, packed: PackedKernels, grads: list[Any]) -> None:
        """Lets the inner optimizer step where some kernels and their slots are packed, on one replica.

        Args:
          packed: of the kernels whose gradients are vectors.
          grads: of all variables.
        """
        strategy = tf.distribute.get_strategy()
        present = [i for i, g in enumerate(grads) if g is not None]
        dense = [t for t in self._tracked if grads[t.position] is not None and t not in packed.tracked]
        with _after(strategy, grads), packed.in_place(), restrict_averages(self._inner, present):
            for tracked in dense if self._updater.has_reserve else ():
                tracked.join_reserve(strategy)
            masked = packed.training_gradients(self._updater, grads)
            masked |= {t.position: t.training_gradient(self._updater, grads[t.position]) for t in dense}
            counts = [*zip(packed.tracked, packed.count_active(), strict=True), *((t, t.count_active()) for t in dense)]
            rates = {t.position: self._rate_factor(t, count) for t, count in counts if self._multipliers}
            with scale_rates(self._inner, rates):
                self._inner.apply([masked.get(i, grads[i]) for i in present], [self._variables[i] for i in present])
            packed.project()
            for tracked in dense:
                if self._updater.has_reserve:
                    tracked.split_reserve(strategy)
                tracked.project(strategy)

    def update(self, strategy: tf.distribute.Strategy, grads: list[Any]) -> None:
        """Changes masks, weights, slots and state; counts as a step if it replaces one.

        Args:
          strategy: the current one.
          grads: of the same step, summed over replicas.
        """
        with _after(strategy, grads):
            self._update(strategy, grads)

    def _update(self, strategy: tf.distribute.Strategy, grads: list[Any]) -> None:
        replaces_step = self._updater.replaces_step
        if replaces_step:
            self._accumulate(strategy, grads)
        # After an optimizer step the count has advanced already.
        step = self._count() if replaces_step else self._count() - 1

        def transition(gradients: list[Any]) -> list[list[tf.Tensor] | None]:
            growth = self._growth_at(gradients, step)
            products = growth.hessian_gradients or [None] * len(self._tracked)
            parts = list(zip(self._tracked, growth.gradients, products, strict=True))
            chosen = [
                index
                for index, (tracked, score, product) in enumerate(parts)
                if gradients[tracked.position] is not None
                and score is not None
                and (product is not None or not self._updater.needs_hessian)
            ]
            kernels = [tracked.as_kernel(score, product) for tracked, score, product in (parts[i] for i in chosen)]
            left_out = frozenset(range(len(parts))) - frozenset(chosen)
            rate = tf.convert_to_tensor(self._inner.learning_rate)
            context = UpdateContext(step, rate, self._seed, left_out)
            updates = dict(zip(chosen, self._updater.update(kernels, context) if kernels else [], strict=True))
            return [t.values_after(updates[i]) if i in updates else None for i, t in enumerate(self._tracked)]

        for tracked, values in zip(self._tracked, self._per_replica(strategy, transition, grads), strict=True):
            if values is not None:
                for variable, value in zip(tracked.variables_to_assign(), values, strict=True):
                    distribute.assign(strategy, variable, value)
        if replaces_step:
            distribute.assign(strategy, batch_counter(self._inner).value, step + 1)

    def _per_replica(self, strategy: tf.distribute.Strategy, function: Callable[..., Any], grads: list[Any]) -> Any:
        """Calls a function of the gradients on every replica, after the gradients of that replica."""

        def call(gradients: list[Any]) -> Any:
            # Threads of replicas do not inherit control dependencies.
            with tf.control_dependencies([g for g in gradients if g is not None]):
                return function(gradients)

        return distribute.per_replica(strategy, call, grads)

    def _rate_factor(self, tracked: TrackedKernel, active: tf.Tensor) -> tf.Tensor:
        return rate_factor(self._multipliers[tracked], active, tracked.mask.shape.num_elements())

    def _count(self) -> tf.Tensor:
        return tf.convert_to_tensor(batch_counter(self._inner).value)

    def _growth_at(self, gradients: list[Any], step: tf.Tensor) -> Growth:
        if self._growth.function is not None:
            return self._growth.function()
        if self._growth.batches > 1:
            return Growth([self._growth.mean(t.growth.value, step) for t in self._tracked])
        return Growth([gradients[t.position] for t in self._tracked])

    def _accumulate(self, strategy: tf.distribute.Strategy, grads: list[Any]) -> None:
        """Updates the state of the updater and the sums of growth gradients at a step."""

        def states(gradients: list[Any]) -> list[State]:
            parts = [(t, gradients[t.position]) for t in self._tracked]
            return [{} if g is None else self._updater.accumulate(t.state_values(), g) for t, g in parts]

        def sums(gradients: list[Any]) -> list[tf.Tensor]:
            step = self._count()
            parts = [(t.growth.value, gradients[t.position]) for t in self._tracked]
            # A batch without a gradient adds nothing to the sum, which restarts all the same.
            filled = [(total, tf.zeros_like(total) if g is None else g) for total, g in parts]
            return [self._growth.running_sum(total, g, step) for total, g in filled]

        if self._updater.state_specs:
            for tracked, state in zip(self._tracked, self._per_replica(strategy, states, grads), strict=True):
                for name, value in state.items():
                    distribute.assign(strategy, tracked.state[name].value, value)
        if self._growth.batches > 1:
            for tracked, total in zip(self._tracked, self._per_replica(strategy, sums, grads), strict=True):
                distribute.assign(strategy, tracked.growth.value, total)


def _after(strategy: tf.distribute.Strategy, grads: list[Any]) -> Any:
    """Makes all operations inside the context wait for all gradients of all replicas; for graphs only."""
    present = [g for grad in grads if grad is not None for g in strategy.experimental_local_results(grad)]
    return tf.control_dependencies(present)
