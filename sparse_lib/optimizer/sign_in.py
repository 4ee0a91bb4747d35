"""Sign-In: SGD on two factors of each kernel, whose weights change their signs more easily."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from sparse_lib._keras.optimizers import variable_index
from sparse_lib._utils.errors import InputError


@keras.saving.register_keras_serializable("sparse_lib")
class SignIn(keras.optimizers.Optimizer):
    """SGD with momentum on factors m and w of every weight, theta = m w, for sparse training from the start.

    v_m <- mu v_m - eta w g,  v_w <- mu v_w - eta m g,  m <- m + v_m,  w <- w + v_w,  g = dL/dtheta

    To first order in eta, theta moves by -eta sqrt(s^2 + 4 theta^2) g with s = m^2 - w^2: at the rate |s| where it
    crosses zero, and faster the larger it is. Steps shrink s, by the factor 1 - (eta g)^2 each without momentum, so
    that s is reset to `scale` now and then; theta stays (Gadhikar et al. 2025, arXiv 2504.12801, with scale 1).

    The model stays as it is. Its kernels hold theta, and a slot holds s - scale, from which m and w follow but for a
    common sign, which changes nothing. So new weights of a mask update, and weights that are loaded or rewound, begin
    with fresh factors. Variables of rank 2 and more have factors, biases and scales are trained by SGD. Clipping and
    weight decay are those of theta.

    Attributes:
      momentum: mu, in [0, 1).
      scale: m^2 - w^2 at the start and after a reset, positive.
      reset_every: interval between resets (step); None never resets.

    Raises:
      ValueError: if a number is out of range.

    Examples:
      >>> import keras
      >>> import sparse_lib
      >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(10)])
      >>> masks = sparse_lib.sparsify(model, 0.9)
      >>> inner = sparse_lib.SignIn(0.1, momentum=0.9, reset_every=500)
      >>> model.compile(sparse_lib.SparseOptimizer(inner, masks), "mse")
    """

    def __init__(
        self,
        learning_rate: Any = 0.01,
        momentum: float = 0.0,
        scale: float = 1.0,
        reset_every: int | None = None,
        name: str = "sign_in",
        **settings: Any,
    ) -> None:
        """Sets the numbers.

        Args:
          learning_rate: eta, a number or a Keras schedule.
          momentum: mu.
          scale: m^2 - w^2 at the start and after a reset.
          reset_every: interval between resets (step); a reset that falls on a mask update which replaces the step
            before is left out.
          name: name of the optimizer.
          settings: of any Keras optimizer, such as `clipnorm`.
        """
        if not 0 <= momentum < 1:
            raise InputError(f"SignIn has momentum={momentum}; give a number of at least 0 and below 1.")
        if not scale > 0:
            raise InputError(f"SignIn has scale={scale}; give a positive number, such as 1.")
        if reset_every is not None and reset_every < 1:
            raise InputError(f"SignIn has reset_every={reset_every}; give a number of steps, or None for no resets.")
        super().__init__(learning_rate=learning_rate, name=name, **settings)
        self.momentum, self.scale, self.reset_every = momentum, scale, reset_every

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates the slots.

        Args:
          variables: the trainable variables.
        """
        if self.built:
            return
        super().build(variables)

        def add(name: str, *, factored: bool, needed: bool = True) -> list[keras.Variable | None]:
            fits = [needed and factored == (len(v.shape) > 1) for v in variables]
            return [
                self.add_variable_from_reference(v, name=name) if own else None
                for v, own in zip(variables, fits, strict=True)
            ]

        moves = self.momentum > 0
        self._offsets = add("scale_offset", factored=True)
        self._velocities = [
            add("velocity_m", factored=True, needed=moves),
            add("velocity_w", factored=True, needed=moves),
            add("momentum", factored=False, needed=moves),
        ]

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Takes a step of one variable.

        Args:
          gradient: of the loss with respect to theta.
          variable: theta.
          learning_rate: eta.
        """
        index = variable_index(self, variable)
        gradient = tf.cast(gradient, variable.dtype)
        rate = tf.cast(learning_rate, variable.dtype)
        *of_factors, velocity = (slots[index] for slots in self._velocities)
        if self._offsets[index] is not None:
            self._step_factors(gradient, variable, rate, self._offsets[index], of_factors)
            return
        change = self._move(velocity, -rate * gradient)
        if velocity is not None:
            self.assign(velocity, change)
        self.assign_add(variable, change)

    def _step_factors(
        self,
        gradient: tf.Tensor,
        variable: Any,
        rate: tf.Tensor,
        offset: keras.Variable,
        velocities: list[keras.Variable | None],
    ) -> None:
        theta, stored = tf.convert_to_tensor(variable), tf.convert_to_tensor(offset.value)
        m, w = split_weights(theta, self.scale + stored)
        change_m = self._move(velocities[0], -rate * w * gradient)
        change_w = self._move(velocities[1], -rate * m * gradient)
        # Differences, so that a weight that does not move keeps its bits.
        self.assign_add(variable, m * change_w + w * change_m + change_m * change_w)
        stored += change_m * (2 * m + change_m) - change_w * (2 * w + change_w)
        if self.reset_every is not None:
            resets = tf.equal((tf.convert_to_tensor(self.iterations.value) + 1) % self.reset_every, 0)
            stored = tf.where(resets, tf.zeros_like(stored), stored)
        self.assign(offset, stored)
        # The common sign is such that m is positive.
        sign = tf.where(m + change_m < 0, -tf.ones_like(m), tf.ones_like(m))
        for velocity, change in zip(velocities, (change_m, change_w), strict=True):
            if velocity is not None:
                self.assign(velocity, sign * change)

    def _move(self, velocity: keras.Variable | None, step: tf.Tensor) -> tf.Tensor:
        return step if velocity is None else self.momentum * tf.convert_to_tensor(velocity.value) + step

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        own = {"momentum": self.momentum, "scale": self.scale, "reset_every": self.reset_every}
        return {**super().get_config(), **own}


def split_weights(theta: tf.Tensor, difference: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Splits weights into factors m >= 0 and w with m w = theta and m^2 - w^2 = difference.

    m^2 = (sqrt(difference^2 + 4 theta^2) + difference) / 2

    Args:
      theta: weights.
      difference: of the squares, of the same shape.

    Returns:
      m and w.
    """
    # The larger one without cancellation, the smaller one by it.
    larger = tf.sqrt((tf.sqrt(difference**2 + 4 * theta**2) + tf.abs(difference)) / 2)
    smaller = tf.math.divide_no_nan(tf.abs(theta), larger)
    m, size = (tf.where(difference >= 0, one, other) for one, other in ((larger, smaller), (smaller, larger)))
    return m, tf.where(theta < 0, -size, size)
