"""Top-KAST and DNW: weights off the mask train as well."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import tensorflow as tf

from sparse_lib import selection
from sparse_lib._utils.errors import InputError
from sparse_lib.updaters.base import Kernel, State, Update, UpdateContext, Updater, WeightGradient


@dataclasses.dataclass(frozen=True, kw_only=True)
class TopKAST(Updater):
    """Top-KAST (Jayakumar et al. 2020): the forward pass uses the top weights, a larger set trains.

    A = top-D of |theta| per kernel (forward), B = top-(D + extra) of |theta| (backward); theta = kernel + reserve
    g' = g + penalty theta on A, g + penalty theta / D on B without A, 0 elsewhere

    D is the density of the first masks and stays constant. The kernel holds theta on A, the reserve theta on B
    without A; what leaves B is lost. The first step trains the first masks; A and B are selected after it.

    Attributes:
      extra_density: density of B minus that of A (fraction of the kernel).
      penalty: coefficient of the exploration penalty, the L2 form of the paper, section 2.3.

    Examples:
      >>> import keras
      >>> import numpy as np
      >>> import sparse_lib
      >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(10)])
      >>> masks = sparse_lib.sparsify(model, 0.8)
      >>> updater = sparse_lib.TopKAST(extra_density=0.1)
      >>> model.compile(sparse_lib.SparseOptimizer(keras.optimizers.SGD(0.1), masks, updater), "mse")
      >>> _ = model.fit(np.eye(20), np.eye(20)[:, :10], batch_size=2, verbose=0)  # 10 steps
      >>> masks.active(), int(np.count_nonzero(model.layers[0].kernel))  # the forward pass uses the top 40 weights
      ([40], 40)
    """

    label: ClassVar[str] = "Top-KAST"
    weight_gradient: ClassVar[WeightGradient] = "backward_set"

    frequency: int = 1
    begin_step: int | None = 0
    extra_density: float = 0.1
    penalty: float = 1e-4

    def __post_init__(self) -> None:
        """Checks the density.

        Raises:
          ValueError: if `extra_density` is outside [0, 1].
        """
        if not 0 <= self.extra_density <= 1:
            raise InputError(f"extra_density is {self.extra_density}; give a fraction in [0, 1].")

    @property
    def state_specs(self) -> tuple[str, ...]:
        """The weights that train without being used, and ones on B."""
        return ("reserve", "backward")

    @property
    def has_reserve(self) -> bool:
        """True: B without A trains in the reserve."""
        return True

    @property
    def changes_every_step(self) -> bool:
        """Whether A and B are selected anew at every step, as in the paper."""
        return self.frequency == 1

    def training_gradient(self, gradient: tf.Tensor, mask: tf.Tensor, theta: tf.Tensor, state: State) -> tf.Tensor:
        """Returns the gradient on B, with the exploration penalty."""
        return self.partial_gradient(gradient, mask, theta, state, mask.shape.num_elements())

    def partial_gradient(
        self, gradient: tf.Tensor, mask: tf.Tensor, theta: tf.Tensor, state: State, size: int
    ) -> tf.Tensor:
        """Returns `training_gradient` for some of the weights of a kernel, all active ones among them.

        Args:
          gradient: of these weights.
          mask: boolean, which of them are active.
          theta: the trained weights.
          state: of them.
          size: weights of the kernel (count).

        Returns:
          Tensor of the shape of `gradient`.
        """
        active = tf.maximum(selection.count_active(mask), 1)
        density = tf.cast(active / size, theta.dtype)
        decay = self.penalty * tf.where(mask, theta, theta / density)
        trained = mask | (state["backward"] > 0)
        return selection.on_mask(trained, gradient + decay)

    def update(self, kernels: Sequence[Kernel], context: UpdateContext) -> list[Update]:
        """Selects A and B by magnitude."""
        del context
        updates = []
        for kernel in kernels:
            theta = kernel.weight + kernel.state["reserve"]
            score = tf.abs(theta)
            structure = kernel.structure
            active = structure.count(kernel.mask)
            extra = int(self.extra_density * structure.size(theta.shape))
            forward = structure.select(score, active)
            backward = structure.select(score, active + extra)
            state = {
                "reserve": selection.on_mask(backward & ~forward, theta),
                "backward": tf.cast(backward, theta.dtype),
            }
            weight = selection.on_mask(forward, theta)
            updates.append(Update(forward, weight, tf.zeros_like(forward), state))
        return updates


@dataclasses.dataclass(frozen=True, kw_only=True)
class DNW(TopKAST):
    """Discovering neural wirings (Wortsman et al. 2019): all weights train, the largest are used.

    Straight-through: the gradient by the masked kernel moves every weight; the mask is the top-|theta| of each step.
    """

    weight_gradient: ClassVar[WeightGradient] = "dense"

    extra_density: float = 1.0
    penalty: float = 0.0

    def training_gradient(self, gradient: tf.Tensor, mask: tf.Tensor, theta: tf.Tensor, state: State) -> tf.Tensor:
        """Returns the dense gradient."""
        del mask, theta, state
        return gradient
