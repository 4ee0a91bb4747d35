"""The interface of an updater, and the updater that never changes a mask."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import tensorflow as tf

from sparse_lib import selection
from sparse_lib.schedules import UpdateSchedule
from sparse_lib.structures import UNSTRUCTURED, Structure

State = dict[str, tf.Tensor]
# For which weights a training step computes the gradient: the active ones, all, all at mask updates and the active ones
# else, or the set B of Top-KAST, of which the active ones are a part.
WeightGradient = Literal["sparse", "dense", "dense_at_updates", "backward_set"]


class Kernel(NamedTuple):
    """One sparse kernel at a mask update, the input of an updater.

    Attributes:
      mask: boolean, the active weights, of the kernel's shape.
      weight: the kernel, exactly zero off the mask.
      gradient: dense gradient of the loss with respect to the kernel, summed over replicas.
      state: the entries of `Updater.state_specs`, tensors of the kernel's shape.
      hessian_gradient: the Hessian times the masked gradient; None unless `Updater.needs_hessian`.
      structure: which weights may be active together; all selecting goes through it.
      name: of the kernel, such as `conv1/kernel`; empty where it has none.
    """

    mask: tf.Tensor
    weight: tf.Tensor
    gradient: tf.Tensor
    state: State
    hessian_gradient: tf.Tensor | None = None
    structure: Structure = UNSTRUCTURED
    name: str = ""


class Update(NamedTuple):
    """The result of a mask update of one kernel.

    Attributes:
      mask: boolean, the new active weights.
      weight: the new kernel, zero off the new mask.
      grown: boolean, the weights whose optimizer slots are reset.
      state: the new state.
    """

    mask: tf.Tensor
    weight: tf.Tensor
    grown: tf.Tensor
    state: State


class UpdateContext(NamedTuple):
    """Step, learning rate and seed of a mask update.

    Attributes:
      step: integer scalar, the optimizer step (step).
      learning_rate: float scalar, the current one of the inner optimizer.
      seed: seed of the run.
      left_out: indices, among all sparse kernels, of those that have no gradient and take no part.
    """

    step: tf.Tensor
    learning_rate: tf.Tensor
    seed: int
    left_out: frozenset[int] = frozenset()

    def stateless_seed(self, stream: int) -> tf.Tensor:
        """Returns a seed for `tf.random.stateless_*`, a function of run seed, stream and step.

        Args:
          stream: number of the use, another one for every kernel and purpose.

        Returns:
          int64 tensor of shape [2].
        """
        run = tf.constant(self.seed * 1_000_003 + stream, tf.int64)
        return tf.stack([run, tf.cast(self.step, tf.int64)])


def random_uniform(shape: tf.TensorShape, seed: tf.Tensor) -> tf.Tensor:
    """Draws uniform numbers between 0 and 1, a function of the seed alone.

    TensorFlow and XLA draw the same bits but convert them to different floats, so the conversion is done here.

    Args:
      shape: static shape of the result.
      seed: from `UpdateContext.stateless_seed`.

    Returns:
      float32 tensor of 2^24 possible values, neither 0 nor 1 among them.
    """
    bits = tf.random.stateless_uniform(shape, seed, None, None, tf.uint32, alg="philox")
    high = tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.int32)
    return (tf.cast(high, tf.float32) + 0.5) * 2.0**-24


def shrink(kernel: Kernel, mask: tf.Tensor) -> Update:
    """Returns the update that restricts a kernel to a smaller mask.

    Args:
      kernel: before the update.
      mask: boolean, a subset of the kernel's mask.

    Returns:
      The kernel on that mask, without growth.
    """
    weight = selection.on_mask(mask, kernel.weight)
    return Update(mask, weight, tf.zeros_like(mask), kernel.state)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Updater:
    """Base class of all updaters; it never changes a mask itself.

    Attributes:
      label: name of the method in tables and figures; the name of the class unless a class sets it.
      weight_gradient: for which weights a training step computes the gradient, for counting FLOPs (RigL paper, appendix
        H): `sparse`, the active ones; `dense`, all; `dense_at_updates`, all at mask updates and the active ones else;
        `backward_set`, the active ones and `extra_density` more (Top-KAST).
      begin_step: the first mask update (step). None means one interval after the start, so that the first update
        sees a trained gradient; the published code of RigL begins at 0.
      end_step: the last step at which an update may happen (step); None never ends.
      frequency: steps between updates; 100 as in the RigL paper, section 4.
      replaces_step: whether an update takes the place of the optimizer step (RigL, Algorithm 1) or follows it.
    """

    label: ClassVar[str] = "Updater"
    weight_gradient: ClassVar[WeightGradient] = "dense_at_updates"

    begin_step: int | None = None
    end_step: int | None = None
    frequency: int = 100
    replaces_step: bool = False

    def __init_subclass__(cls) -> None:
        """Labels the class by its name, so that a variant is not shown under the label of its base."""
        super().__init_subclass__()
        if "label" not in vars(cls):
            cls.label = cls.__name__

    @property
    def schedule(self) -> UpdateSchedule:
        """The steps at which masks change."""
        begin = self.frequency if self.begin_step is None else self.begin_step
        return UpdateSchedule(begin=begin, end=self.end_step, frequency=self.frequency)

    @property
    def changes_every_step(self) -> bool:
        """Whether every step changes masks at a constant number of active weights per kernel.

        A training loop then keeps no record per mask update and may compile many steps into one call.
        """
        return False

    @property
    def trains_off_mask(self) -> bool:
        """Whether a step without a mask update uses gradients of weights off the mask."""
        return self.has_reserve or any(
            getattr(type(self), name) is not getattr(Updater, name) for name in ("training_gradient", "accumulate")
        )

    @property
    def changes_density(self) -> bool:
        """Whether the number of active weights changes by a schedule."""
        return False

    @property
    def state_specs(self) -> tuple[str, ...]:
        """Names of the float tensors to be kept between steps, each of its kernel's shape.

        They start at zero, but for `initial` (the weights before anything was masked) and `reserve` (the same off
        the mask, zero on it).
        """
        return ()

    @property
    def has_reserve(self) -> bool:
        """Whether weights off the mask train in `state["reserve"]`, where `state["backward"]` is not zero."""
        return False

    @property
    def extra_density(self) -> float:
        """Density of the weights that train off the mask, for counting FLOPs (fraction of the kernel)."""
        return 0.0

    @property
    def needs_hessian(self) -> bool:
        """Whether an update needs the Hessian-gradient product."""
        return False

    def drop_fraction_at(self, step: int) -> float | None:
        """Returns the scheduled drop fraction.

        Args:
          step: of a mask update (step).

        Returns:
          Fraction of the active weights, or None for a method without a schedule of it.
        """
        del step
        return None

    def check_structures(self, structures: Sequence[Structure]) -> None:
        """Checks that the method can keep to the structures of the masks.

        Args:
          structures: one per sparse kernel.

        Raises:
          ValueError: if it cannot keep to one of them.
        """
        del structures

    def check_names(self, names: Sequence[str]) -> None:
        """Checks settings that name kernels.

        Args:
          names: one per sparse kernel.

        Raises:
          ValueError: if there is no such kernel.
        """
        del names

    def accumulate(self, state: State, gradient: tf.Tensor) -> State:
        """Updates the state at an optimizer step.

        Args:
          state: of one kernel.
          gradient: its dense gradient, summed over replicas.

        Returns:
          The new values of the entries that change.
        """
        del state, gradient
        return {}

    def training_gradient(self, gradient: tf.Tensor, mask: tf.Tensor, theta: tf.Tensor, state: State) -> tf.Tensor:
        """Returns the gradient for the inner optimizer: g where the mask is active, 0 elsewhere.

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
        """Computes new masks and weights of all kernels.

        Args:
          kernels: one per sparse kernel that has a gradient.
          context: step, learning rate and seed.

        Returns:
          One `Update` per kernel.
        """
        del context
        return [shrink(kernel, kernel.mask) for kernel in kernels]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Static(Updater):
    """Masks that never change: scratch training, lottery tickets, small dense networks, one-shot pruning.

    Examples:
      >>> import keras
      >>> import numpy as np
      >>> import sparse_lib
      >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(10)])
      >>> masks = sparse_lib.sparsify(model, 0.8)
      >>> before = masks.values()
      >>> updater = sparse_lib.Static()
      >>> model.compile(sparse_lib.SparseOptimizer(keras.optimizers.SGD(0.1), masks, updater), "mse")
      >>> _ = model.fit(np.eye(20), np.eye(20)[:, :10], batch_size=2, verbose=0)  # 10 steps
      >>> bool((masks.values()[0] == before[0]).numpy().all())
      True
    """

    weight_gradient: ClassVar[WeightGradient] = "sparse"

    @property
    def schedule(self) -> UpdateSchedule:
        """A schedule without updates."""
        return UpdateSchedule.no_updates()
