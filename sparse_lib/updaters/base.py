"""What every mask update sees and returns, and the method that does nothing."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from sparse_lib import selection
from sparse_lib.schedules import UpdateSchedule
from sparse_lib.structures import UNSTRUCTURED, Structure

State = dict[str, tf.Tensor]


class Kernel(NamedTuple):
    """What an updater sees of one sparse kernel at a mask update.

    Attributes:
      mask: boolean, the active weights, of the kernel's shape.
      weight: the kernel, exactly zero off the mask.
      gradient: dense gradient of the loss by the kernel, summed over replicas.
      state: what `Updater.state_specs` declared, tensors of the kernel's shape.
      hessian_gradient: the Hessian times the masked gradient, only where `Updater.needs_hessian`.
      structure: which weights may be active together; it does all the selecting.
    """

    mask: tf.Tensor
    weight: tf.Tensor
    gradient: tf.Tensor
    state: State
    hessian_gradient: tf.Tensor | None = None
    structure: Structure = UNSTRUCTURED


class Update(NamedTuple):
    """The result of a mask update of one kernel.

    Attributes:
      mask: boolean, the new active weights.
      weight: the new kernel, zero off the new mask.
      grown: boolean, the weights whose optimizer slots start anew.
      state: the new state.
    """

    mask: tf.Tensor
    weight: tf.Tensor
    grown: tf.Tensor
    state: State


class UpdateContext(NamedTuple):
    """When a mask update happens, and with which randomness.

    Attributes:
      step: integer scalar, the optimizer step (step).
      learning_rate: float scalar, the inner optimizer's current one.
      seed: seed of the run.
    """

    step: tf.Tensor
    learning_rate: tf.Tensor
    seed: int

    def stateless_seed(self, stream: int) -> tf.Tensor:
        """A seed for `tf.random.stateless_*`: a function of run seed, stream (kernel, purpose) and step."""
        run = tf.constant(self.seed * 1_000_003 + stream, tf.int64)
        return tf.stack([run, tf.cast(self.step, tf.int64)])


def random_uniform(shape: tf.TensorShape, seed: tf.Tensor) -> tf.Tensor:
    """Uniform numbers between 0 and 1, a function of the seed alone.

    TensorFlow and XLA draw the same bits, yet make other floats of them; so the floats are made here.

    Args:
      shape: static.
      seed: of `UpdateContext.stateless_seed`.

    Returns:
      float32 tensor of 2^24 possible values, neither 0 nor 1 among them.
    """
    bits = tf.random.stateless_uniform(shape, seed, None, None, tf.uint32, alg="philox")
    high = tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.int32)
    return (tf.cast(high, tf.float32) + 0.5) * 2.0**-24


def shrink(kernel: Kernel, mask: tf.Tensor) -> Update:
    """An update that only takes weights away.

    Args:
      kernel: before the update.
      mask: boolean, part of the kernel's mask.

    Returns:
      The kernel on the smaller mask; nothing has grown.
    """
    weight = selection.on_mask(mask, kernel.weight)
    return Update(mask, weight, tf.zeros_like(mask), kernel.state)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Updater:
    """The base of every method; by itself it never changes a mask.

    Attributes:
      begin_step: the first mask update (step). None means one interval after the start, so that the first update
        sees a trained gradient; the published code of RigL begins at 0.
      end_step: the last step at which an update may happen (step); None never ends.
      frequency: steps between updates; 100 as in the RigL paper, section 4.
      replaces_step: whether an update takes the place of the optimizer step (RigL, Algorithm 1) or follows it.
    """

    begin_step: int | None = None
    end_step: int | None = None
    frequency: int = 100
    replaces_step: bool = False

    @property
    def schedule(self) -> UpdateSchedule:
        """When masks change."""
        begin = self.frequency if self.begin_step is None else self.begin_step
        return UpdateSchedule(begin=begin, end=self.end_step, frequency=self.frequency)

    @property
    def state_specs(self) -> tuple[str, ...]:
        """Names of the float tensors of each kernel's shape to be kept between steps.

        They start at zero, but for `initial` (the weights before anything was masked) and `reserve` (the same off
        the mask, zero on it).
        """
        return ()

    @property
    def has_reserve(self) -> bool:
        """Whether weights off the mask train in `state["reserve"]`, where `state["backward"]` is not zero."""
        return False

    @property
    def needs_hessian(self) -> bool:
        """Whether an update needs the Hessian-gradient product."""
        return False

    def check_structures(self, structures: Sequence[Structure]) -> None:
        """Refuses what cannot go together with the method.

        Args:
          structures: of the sparse kernels.

        Raises:
          ValueError: if the method cannot keep to one of them.
        """
        del structures

    def accumulate(self, state: State, gradient: tf.Tensor) -> State:
        """What a step changes of the state, apart from mask updates.

        Args:
          state: of one kernel.
          gradient: its dense gradient, summed over replicas.

        Returns:
          The new values of the entries that change.
        """
        del state, gradient
        return {}

    def training_gradient(self, gradient: tf.Tensor, mask: tf.Tensor, theta: tf.Tensor, state: State) -> tf.Tensor:
        """The gradient that reaches the inner optimizer: g where the mask is active, 0 elsewhere.

        Args:
          gradient: dense gradient of one kernel.
          mask: boolean, its active weights.
          theta: the trained weights: the kernel, plus the reserve where there is one.
          state: of this kernel.

        Returns:
          Tensor of the kernel's shape.
        """
        del theta, state
        return selection.on_mask(mask, gradient)

    def update(self, kernels: Sequence[Kernel], context: UpdateContext) -> list[Update]:
        """New masks and weights of all kernels.

        Args:
          kernels: what is known of each sparse kernel.
          context: step, learning rate and seed.

        Returns:
          One `Update` a kernel.
        """
        del context
        return [shrink(kernel, kernel.mask) for kernel in kernels]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Static(Updater):
    """A mask that stays as it is: scratch, lottery tickets, small dense, one-shot pruning."""

    @property
    def schedule(self) -> UpdateSchedule:
        """Never."""
        return UpdateSchedule.no_updates()
