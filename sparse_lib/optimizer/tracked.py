"""A sparse kernel with its mask, optimizer slots and updater state."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from sparse_lib import selection
from sparse_lib._utils import distribute
from sparse_lib.structures import Structure
from sparse_lib.updaters import Kernel, State, Update, Updater


class TrackedKernel(tf.Module):
    """Variables of a sparse kernel that a step or a mask update changes.

    Attributes:
      kernel: the Keras variable.
      mask: boolean variable, the active weights.
      explored: boolean variable, the weights that were ever active.
      slots: the inner optimizer's slots of the kernel.
      average: the one of them that averages the kernel (EMA), or None.
      state: the entries of `Updater.state_specs`, by name.
      growth: running sum of gradients, a Keras variable; None where growth is not averaged.
      position: index of the kernel among the trainable variables.
      structure: of the mask.
      initial: values of the kernel before anything was masked.
      title: name of the kernel, such as `conv1/kernel`.
    """

    def __init__(
        self,
        kernel: keras.Variable,
        mask: tf.Variable,
        explored: tf.Variable,
        slots: list[keras.Variable],
        average: Any,
        state: dict[str, keras.Variable],
        growth: Any,
        position: int,
        structure: Structure,
        initial: np.ndarray,
        title: str = "",
    ) -> None:
        super().__init__()
        self.kernel, self.mask, self.explored = kernel, mask, explored
        self.slots, self.average, self.state, self.growth = slots, average, state, growth
        self.position, self.structure = position, structure
        self.initial, self.title = initial, title
        self._starts = [initial_value(slot) for slot in slots]
        if average is not None:
            # Keras lets an average start at zero and overwrites it at the first step, which this kernel may not take.
            average.assign(kernel.numpy())

    def state_values(self) -> State:
        """Returns the state of the updater as tensors."""
        return {name: tf.convert_to_tensor(variable.value) for name, variable in self.state.items()}

    def as_kernel(self, gradient: tf.Tensor, hessian_gradient: tf.Tensor | None) -> Kernel:
        """Returns the input of an updater at a mask update.

        Args:
          gradient: dense gradient for growth.
          hessian_gradient: Hessian times masked gradient, or None.

        Returns:
          The kernel as tensors.
        """
        mask, weight = tf.convert_to_tensor(self.mask), tf.convert_to_tensor(self.kernel.value)
        dense = tf.convert_to_tensor(gradient)
        return Kernel(mask, weight, dense, self.state_values(), hessian_gradient, self.structure, self.title)

    def training_gradient(self, updater: Updater, gradient: tf.Tensor) -> tf.Tensor:
        """Returns the gradient for the inner optimizer.

        Args:
          updater: decides which weights train.
          gradient: dense gradient.

        Returns:
          Tensor of the kernel's shape.
        """
        mask, theta = tf.convert_to_tensor(self.mask), tf.convert_to_tensor(self.kernel.value)
        return updater.training_gradient(gradient, mask, theta, self.state_values())

    def count_active(self) -> tf.Tensor:
        """Returns the number of active weights, an integer scalar (count)."""
        return tf.math.count_nonzero(tf.convert_to_tensor(self.mask), dtype=tf.int32)

    def trained_mask(self) -> tf.Tensor:
        """Returns the weights that train, boolean: the active ones, and those of the reserve."""
        mask = tf.convert_to_tensor(self.mask)
        if "reserve" not in self.state:
            return mask
        # Until masks are selected first, the reserve holds weights that do not train, but may decay.
        return mask | (self.state["backward"].value > 0) | (self.state["reserve"].value != 0)

    def join_reserve(self, strategy: tf.distribute.Strategy) -> None:
        """Adds the reserve to the kernel, from cross-replica context."""
        distribute.update(strategy, self.kernel.value, lambda k, reserve: k + reserve, self.state["reserve"].value)

    def split_reserve(self, strategy: tf.distribute.Strategy) -> None:
        """Stores the kernel off its mask as the reserve, from cross-replica context."""

        def off_mask(_: tf.Variable, theta: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
            return selection.on_mask(~mask, theta)

        distribute.update(strategy, self.state["reserve"].value, off_mask, self.kernel.value, self.mask)

    def project(self, strategy: tf.distribute.Strategy) -> None:
        """Zeroes the inactive weights and their averages, from cross-replica context."""
        for variable in [self.kernel] if self.average is None else [self.kernel, self.average]:
            distribute.update(strategy, variable.value, lambda v, mask: selection.on_mask(mask, v), self.mask)

    def mask_state(self) -> list[tf.Variable]:
        """Returns the variables that belong to the weights of a moment: the mask and the state of the updater."""
        return [self.mask, *(variable.value for variable in self.state.values())]

    def restore(self, values: Sequence[np.ndarray]) -> None:
        """Restores `mask_state`, and resets the slots of weights that were not active before and after.

        Args:
          values: one array per variable.
        """
        was_active = stays = self.mask.numpy() & values[0]
        for variable, value in zip(self.mask_state(), values, strict=True):
            variable.assign(value)
        self.explored.assign(self.explored.numpy() | values[0])
        if "backward" in self.state:
            stays = stays | (self.state["backward"].numpy() > 0)
        for slot, start in zip(self.slots, self._starts, strict=True):
            slot.assign(np.where(stays, slot.numpy(), start))
        if self.average is not None:
            own = np.where(values[0], self.kernel.numpy(), 0)
            self.average.assign(np.where(was_active, self.average.numpy(), own))

    def restart(self) -> None:
        """Gives exploration, average and state of the updater the values that they have in a new optimizer."""
        mask = self.mask.numpy()
        self.explored.assign(mask)
        if self.average is not None:
            self.average.assign(self.kernel.numpy())
        for spec, variable in self.state.items():
            start = state_initializer(spec, self.initial, mask)
            variable.assign(keras.initializers.get(start)(variable.shape, variable.dtype))
        if self.growth is not None:
            self.growth.assign(tf.zeros_like(self.growth.value))

    def variables_to_assign(self) -> list[tf.Variable]:
        """Returns the variables that a mask update assigns."""
        return [self.mask, self.explored, *(v.value for v in [self.kernel, *self.slots, *self.state.values()])]

    def values_after(self, update: Update) -> list[tf.Tensor]:
        """Computes new values of `variables_to_assign`; slots are reset where a weight was dropped or grown.

        Args:
          update: from the updater.

        Returns:
          One tensor per variable.
        """
        explored = tf.convert_to_tensor(self.explored) | update.mask
        stays = update.mask & ~update.grown
        if "backward" in self.state:
            stays |= update.state["backward"] > 0
        slots = [
            tf.where(stays, slot.value, tf.cast(start, slot.dtype))
            for slot, start in zip(self.slots, self._starts, strict=True)
        ]
        if self.average is not None:
            # Averages are of active weights alone, and start at the value, as Keras' do.
            was_active = tf.convert_to_tensor(self.mask) & update.mask & ~update.grown
            average = tf.where(was_active, self.average.value, tf.cast(update.weight, self.average.dtype))
            slots = [average if slot is self.average else value for slot, value in zip(self.slots, slots, strict=True)]
        return [update.mask, explored, update.weight, *slots, *(update.state[name] for name in self.state)]


def initial_value(slot: keras.Variable) -> float:
    """Returns the initial value of a slot, not 0 for Adagrad; 0 where it starts as a copy of the weights.

    Args:
      slot: of an optimizer that has just been built.
    """
    values = np.ravel(slot.numpy())
    return float(values[0]) if values.size and np.all(values == values[0]) else 0.0


def state_initializer(spec: str, initial: np.ndarray, mask: np.ndarray) -> Any:
    """Makes the initializer of an entry of an updater's state.

    Args:
      spec: from `Updater.state_specs`.
      initial: the kernel before anything was masked.
      mask: boolean, of the kernel's shape.

    Returns:
      A Keras initializer.
    """
    if spec == "initial":
        return lambda shape, dtype: tf.cast(initial, dtype)
    if spec == "reserve":
        return lambda shape, dtype: tf.cast(np.where(mask, 0, initial), dtype)
    return "zeros"


def build_slots(
    inner: keras.optimizers.Optimizer, variables: list[keras.Variable]
) -> dict[str, list[keras.Variable | None]]:
    """Builds an optimizer.

    Args:
      inner: a Keras optimizer, not yet built.
      variables: the trainable variables.

    Returns:
      For each name of a slot, one slot or None per variable.
    """
    positions = {id(v): i for i, v in enumerate(variables)}
    slots: dict[str, list[keras.Variable | None]] = {}
    add = inner.add_variable_from_reference

    def add_and_record(reference_variable: Any, name: str = "slot", **kwargs: Any) -> keras.Variable:
        slot = add(reference_variable, name=name, **kwargs)
        slots.setdefault(name, [None] * len(variables))[positions[id(reference_variable)]] = slot
        return slot

    inner.add_variable_from_reference = add_and_record
    inner.build(variables)
    del inner.add_variable_from_reference
    return slots
