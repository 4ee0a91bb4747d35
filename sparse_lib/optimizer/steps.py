"""Optimizer steps and mask updates, in cross-replica context."""

from typing import Any

import keras
import tensorflow as tf

from sparse_lib._keras.optimizers import batch_counter
from sparse_lib._utils import distribute
from sparse_lib.masks import Masks
from sparse_lib.optimizer.growth import Growth, GrowthSource
from sparse_lib.optimizer.tracked import TrackedKernel
from sparse_lib.updaters import State, UpdateContext, Updater


class Steps:
    """Training steps and mask updates in cross-replica context.

    Gradients are a list with one per-replica value, or None, per trainable variable; they are equal on all replicas.
    """

    def __init__(
        self,
        inner: keras.optimizers.Optimizer,
        variables: list[keras.Variable],
        masks: Masks,
        updater: Updater,
        tracked: list[TrackedKernel],
        growth: GrowthSource,
        seed: int,
    ) -> None:
        self._inner, self._variables = inner, variables
        self._masks, self._updater, self._tracked = masks, updater, tracked
        self._growth, self._seed = growth, seed

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

        tf.cond(schedule.is_update_step(self._count()), update, train)

    def train(self, strategy: tf.distribute.Strategy, grads: list[Any]) -> None:
        """Masks gradients, lets the inner optimizer step, and sets masked weights to zero.

        Args:
          strategy: the current one.
          grads: summed over replicas.
        """
        self._accumulate(strategy, grads)

        def step(gradients: list[Any]) -> None:
            masked = list(gradients)
            for tracked in self._tracked:
                masked[tracked.position] = tracked.training_gradient(self._updater, gradients[tracked.position])
            self._inner.apply(masked, self._variables)

        if self._updater.has_reserve:
            for tracked in self._tracked:
                tracked.join_reserve(strategy)
        distribute.per_replica(strategy, step, grads)
        if self._updater.has_reserve:
            for tracked in self._tracked:
                tracked.split_reserve(strategy)
        self._masks.project()

    def update(self, strategy: tf.distribute.Strategy, grads: list[Any]) -> None:
        """Changes masks, weights, slots and state; counts as a step if it replaces one.

        Args:
          strategy: the current one.
          grads: of the same step, summed over replicas.
        """
        replaces_step = self._updater.replaces_step
        if replaces_step:
            self._accumulate(strategy, grads)
        # After an optimizer step the count has advanced already.
        step = self._count() if replaces_step else self._count() - 1

        def transition(gradients: list[Any]) -> list[list[tf.Tensor]]:
            context = UpdateContext(step, tf.convert_to_tensor(self._inner.learning_rate), self._seed)
            growth = self._growth_at(gradients, step)
            products = growth.hessian_gradients or [None] * len(self._tracked)
            parts = zip(self._tracked, growth.gradients, products, strict=True)
            updates = self._updater.update([t.as_kernel(gradient, product) for t, gradient, product in parts], context)
            return [t.values_after(update) for t, update in zip(self._tracked, updates, strict=True)]

        for tracked, values in zip(self._tracked, distribute.per_replica(strategy, transition, grads), strict=True):
            for variable, value in zip(tracked.variables_to_assign(), values, strict=True):
                distribute.assign(strategy, variable, value)
        if replaces_step:
            distribute.assign(strategy, batch_counter(self._inner).value, step + 1)

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
            return [self._updater.accumulate(t.state_values(), gradients[t.position]) for t in self._tracked]

        def sums(gradients: list[Any]) -> list[tf.Tensor]:
            step = self._count()
            return [self._growth.running_sum(t.growth.value, gradients[t.position], step) for t in self._tracked]

        if self._updater.state_specs:
            for tracked, state in zip(self._tracked, distribute.per_replica(strategy, states, grads), strict=True):
                for name, value in state.items():
                    distribute.assign(strategy, tracked.state[name].value, value)
        if self._growth.batches > 1:
            for tracked, total in zip(self._tracked, distribute.per_replica(strategy, sums, grads), strict=True):
                distribute.assign(strategy, tracked.growth.value, total)
