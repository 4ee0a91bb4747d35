"""The state that a new optimizer has, for one that is used again."""

from collections.abc import Sequence

import keras

from sparse_lib._keras.optimizers import batch_counter, state_variables
from sparse_lib.optimizer.tracked import TrackedKernel, initial_value


class FreshState:
    """Initial values of an optimizer's variables, recorded when they are created.

    Every slot starts as a constant, which is all that is kept of it.
    """

    def __init__(self, inner: keras.optimizers.Optimizer) -> None:
        """Records the values.

        Args:
          inner: an optimizer that has just been built.
        """
        self._inner = inner
        self._starts = [(variable, initial_value(variable)) for variable in state_variables(inner)]

    def start_of(self, slot: keras.Variable) -> float:
        """Returns the initial value of a slot.

        Args:
          slot: of the optimizer.
        """
        return next(start for variable, start in self._starts if variable is slot)

    def restore(self, kernels: Sequence[TrackedKernel], step: int) -> None:
        """Gives all variables their initial values; the learning rate stays.

        Args:
          kernels: the sparse ones, whose averages and state follow from weights and masks.
          step: the step count afterwards (step).
        """
        for variable, start in self._starts:
            variable.assign(keras.ops.full(variable.shape, start, variable.dtype))
        batch_counter(self._inner).assign(step)
        for kernel in kernels:
            kernel.restart()
