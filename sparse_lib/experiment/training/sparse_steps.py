"""Training steps between mask updates that compute with the active weights alone."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from sparse_lib.execution import Execution, Plan
from sparse_lib.optimizer import PackedKernels, SparseOptimizer

# From the weights to differentiate by and the masks of their values, None where all are active: loss, number of correct
# examples, and one gradient per weight.
Differentiate = Callable[[Sequence[Any], Sequence[Any]], tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]]
Step = Callable[[Differentiate], tuple[tf.Tensor, tf.Tensor]]


class SparseSteps:
    """Decides which kernels are executed sparsely, and trains vectors of their active weights.

    Attributes:
      execution: of the model.
    """

    def __init__(
        self, variables: Sequence[keras.Variable], optimizer: SparseOptimizer, execution: Execution, batch_size: int
    ) -> None:
        """Decides nothing yet.

        Args:
          variables: the trainable variables of the model.
          optimizer: built on them.
          execution: of the model.
          batch_size: examples per step (count).
        """
        self._variables, self._optimizer = list(variables), optimizer
        self.execution, self._batch_size = execution, batch_size
        self._packed: dict[Plan, PackedKernels] = {}
        self._plan: Plan | None = None

    def plan(self) -> Plan:
        """Returns the kernels to execute sparsely until the masks change."""
        if self._plan is None:
            self._plan = self.execution.plan(self._batch_size)
            if self._plan and self._plan not in self._packed:
                self._packed[self._plan] = self._optimizer.pack(self._plan)
        return self._plan

    def invalidate(self) -> None:
        """Lets the next step decide anew, after a change of the masks."""
        self._plan = None

    def explain(self) -> dict[str, str]:
        """Describes how each kernel is executed at the present density, by name."""
        return {kernel.name: str(kernel) for kernel in self.execution.explain(self._batch_size)}

    @contextmanager
    def steps(self, plan: Plan, *, with_updates: bool) -> Iterator[Step]:
        """Executes the kernels of a plan sparsely; they are up to date at the end of the context.

        Args:
          plan: from `plan`.
          with_updates: whether masks change at every step.

        Yields:
          The function of a step: it differentiates, lets the optimizer step, and returns loss and number of correct
          examples.
        """
        if with_updates:
            yield self._make_updating_step(plan)
        else:
            with self._unpack_at_end(plan) as step:
                yield step

    def _make_updating_step(self, plan: Plan) -> Step:
        def step(differentiate: Differentiate) -> tuple[tf.Tensor, tf.Tensor]:
            with self.execution.scope(plan, self.execution.structures(plan)):
                masks = self._optimizer.masks.aligned(self._variables)
                loss, correct, gradients = differentiate(self._variables, masks)
            self._optimizer.apply(gradients)
            return loss, correct

        return step

    @contextmanager
    def _unpack_at_end(self, plan: Plan) -> Iterator[Step]:
        packed, execution = self._packed[plan], self.execution
        structures = execution.structures(plan)
        packed.pack(structures)
        kernels = [id(execution.masks.kernels[i]) for i in plan]
        vectors = dict(zip(kernels, zip(packed.weights, packed.masks, strict=True), strict=True))
        pairs = zip(self._variables, execution.masks.aligned(self._variables), strict=True)
        weights, masks = zip(*(vectors.get(id(variable), (variable, mask)) for variable, mask in pairs), strict=True)

        def step(differentiate: Differentiate) -> tuple[tf.Tensor, tf.Tensor]:
            with execution.scope(plan, structures, packed.factors):
                loss, correct, gradients = differentiate(weights, masks)
            self._optimizer.train_packed(packed, gradients)
            return loss, correct

        yield step
        packed.unpack(structures)
