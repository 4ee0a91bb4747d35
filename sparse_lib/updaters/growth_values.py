"""Values of new weights."""

from typing import Literal, NamedTuple, get_args

import tensorflow as tf

from sparse_lib import selection
from sparse_lib._utils.did_you_mean import suggest
from sparse_lib._utils.errors import InputError
from sparse_lib._utils.numbered_names import split_number
from sparse_lib.updaters.base import Kernel, UpdateContext, random_uniform

_Divided = Literal["random_normal", "random_uniform", "initial_dist", "grad_scale", "grad_sign"]
GrowthInit = Literal["zeros", "random", "initial", "gradient", _Divided]


class GrowthValue(NamedTuple):
    """A rule for the values of new weights.

    With m the mask, w the kernel, w0 its initial values before masking, g the growth gradient, eta the learning rate:

    | name | value |
    |---|---|
    | `zeros` | 0 |
    | `random`, `random_normal_K` | N(0, s^2), s the standard deviation of the active weights; divided by K |
    | `random_uniform_K` | U(-a, a) / K, a the mean of abs(w) over the active weights |
    | `initial` | w0, at the place of the new weight |
    | `initial_dist_K` | w0 / K, at random places of the kernel: a permutation of w0 |
    | `gradient` | -eta g |
    | `grad_scale_K` | g / K |
    | `grad_sign_K` | sign(g) / K |

    The names with K are those of RigL's TF1 code (Evci et al. 2020); without a number, K is 1.

    Attributes:
      name: of the rule, without the number.
      divisor: K.
    """

    name: str
    divisor: float = 1.0

    @classmethod
    def parse(cls, text: str) -> "GrowthValue":
        """Reads a rule.

        Args:
          text: name, with or without a number at its end, such as `grad_scale_10`.

        Returns:
          The rule.

        Raises:
          ValueError: for an unknown name, or a number that is 0 or does not belong to the name.
        """
        (name, number), known = split_number(text), get_args(GrowthInit)
        if name not in known:
            raise InputError(f"growth_init={text!r} is not known; use {', '.join(known)}{suggest(text, known)}.")
        if number is not None and name not in get_args(_Divided):
            divided = ", ".join(f"{divided}_{number:g}" for divided in get_args(_Divided))
            raise InputError(f"growth_init={text!r} takes no number; these do: {divided}.")
        if number == 0:
            raise InputError(f"growth_init={text!r} divides by 0; give a positive number, such as {name}_10.")
        return cls(name, 1.0 if number is None else number)

    @property
    def needs_initial(self) -> bool:
        """Whether the rule takes the initial weights."""
        return self.name in ("initial", "initial_dist")

    def values(self, kernel: Kernel, context: UpdateContext, stream: int) -> tf.Tensor:
        """Computes the values that weights of a kernel would have if they were new.

        Args:
          kernel: before the update.
          context: step, learning rate and seed.
          stream: of the random numbers, one per kernel and purpose.

        Returns:
          Tensor of the kernel's shape.
        """
        weight, dtype = kernel.weight, kernel.weight.dtype
        if self.name == "zeros":
            return tf.zeros_like(weight)
        if self.name == "initial":
            return kernel.state["initial"]
        if self.name == "gradient":
            return -tf.cast(context.learning_rate, dtype) * kernel.gradient
        if self.name in ("grad_scale", "grad_sign"):
            gradient = kernel.gradient if self.name == "grad_scale" else tf.sign(kernel.gradient)
            return gradient / tf.cast(self.divisor, gradient.dtype)
        values = self._draw(kernel, random_uniform(weight.shape, context.stateless_seed(stream)))
        return values if self.divisor == 1 else values / tf.cast(self.divisor, dtype)

    def _draw(self, kernel: Kernel, uniform: tf.Tensor) -> tf.Tensor:
        weight, dtype = kernel.weight, kernel.weight.dtype
        if self.name == "initial_dist":
            places = tf.argsort(tf.reshape(uniform, [-1]), stable=True)
            return tf.reshape(tf.gather(tf.reshape(kernel.state["initial"], [-1]), places), weight.shape)
        count = tf.maximum(tf.cast(selection.count_active(kernel.mask), dtype), 1)
        if self.name == "random_uniform":
            return tf.reduce_sum(tf.abs(weight)) / count * tf.cast(2.0 * uniform - 1.0, dtype)
        mean = tf.reduce_sum(weight) / count
        variance = tf.reduce_sum(tf.cast(kernel.mask, dtype) * (weight - mean) ** 2) / count
        return tf.sqrt(variance) * tf.cast(tf.math.ndtri(uniform), dtype)
