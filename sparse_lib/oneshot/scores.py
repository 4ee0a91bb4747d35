"""Saliency scores: one number per weight; the highest are kept.

Pure functions of parameter tensors and batches. The loss with its derivatives is an argument, compiled or not.
Derivatives are averaged over the examples of all batches first: up to rounding, no score depends on how the data are
split.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import tensorflow as tf

from sparse_lib._utils.errors import InputError
from sparse_lib._utils.sums import sum_in_order

Tensors = Sequence[tf.Tensor]
Batch = tuple[Any, Any]


class MeanLoss(Protocol):
    """A mean loss over examples with two derivatives, such as `objective.Objective`."""

    def gradient(self, params: Tensors, x: Any, y: Any) -> list[tf.Tensor]:
        """The gradient of the mean loss over the batch, one tensor per parameter."""

    def hvp(self, params: Tensors, x: Any, y: Any, vectors: Tensors) -> list[tf.Tensor]:
        """The Hessian of the mean loss over the batch times `vectors`, one tensor per parameter."""


def magnitude(params: Tensors, kernels: Sequence[int]) -> list[tf.Tensor]:
    """The absolute weight, |w|.

    Args:
      params: values of all parameters.
      kernels: positions of the kernels among them.

    Returns:
      One tensor per kernel, of its shape.
    """
    return [tf.abs(params[i]) for i in kernels]


def random(params: Tensors, kernels: Sequence[int], seed: int) -> list[tf.Tensor]:
    """Uniform noise in [0, 1).

    Args:
      params: values of all parameters; only shapes matter.
      kernels: positions of the kernels among them.
      seed: the j-th kernel draws from (seed, j).

    Returns:
      One float32 tensor per kernel, of its shape.
    """
    return [
        tf.random.stateless_uniform(params[i].shape, tf.constant([seed, j], tf.int64), alg="philox")
        for j, i in enumerate(kernels)
    ]


def snip(loss: MeanLoss, params: Tensors, kernels: Sequence[int], batches: Sequence[Batch]) -> list[tf.Tensor]:
    """Connection sensitivity (Lee et al. 2019, section 4).

    s_j = |g_j w_j| / sum_i |g_i w_i|, with g the gradient over all examples; g_j w_j is the
    derivative of the loss with respect to a mask entry at 1.

    Args:
      loss: mean loss with gradient and HVP.
      params: values of all parameters.
      kernels: positions of the kernels among them.
      batches: pairs of inputs and targets.

    Returns:
      One tensor per kernel, of its shape; all entries add up to 1, or are all 0.

    Raises:
      ValueError: if there is no batch.
    """
    gradient = mean_gradient(loss, params, batches)
    sensitivities = [tf.abs(gradient[i] * params[i]) for i in kernels]
    total = sum_in_order([tf.reduce_sum(s) for s in sensitivities])
    return [tf.math.divide_no_nan(s, total) for s in sensitivities]


def grasp(loss: MeanLoss, params: Tensors, kernels: Sequence[int], batches: Sequence[Batch]) -> list[tf.Tensor]:
    """Loss of gradient flow on removal of a weight (Wang et al. 2020).

    s = w * (H g), with g and H gradient and Hessian over all examples, both restricted to the
    kernels: half the derivative of g^T g with respect to a mask entry at 1. The paper's score is -s, of which
    it removes the highest; that keeps the highest s.

    Args:
      loss: mean loss with gradient and HVP.
      params: values of all parameters.
      kernels: positions of the kernels among them.
      batches: pairs of inputs and targets, used twice: for g, then for H g.

    Returns:
      One tensor per kernel, of its shape; of either sign.

    Raises:
      ValueError: if there is no batch.
    """
    gradient = mean_gradient(loss, params, batches)
    chosen = set(kernels)
    vectors = [g if i in chosen else tf.zeros_like(g) for i, g in enumerate(gradient)]
    product = _mean(lambda x, y: loss.hvp(params, x, y, vectors), batches)
    return [params[i] * product[i] for i in kernels]


def wanda(
    squares: Callable[[Tensors, Any], list[tf.Tensor]],
    params: Tensors,
    kernels: Sequence[int],
    batches: Sequence[Batch],
) -> list[tf.Tensor]:
    """Weights times the norms of their inputs (Sun et al. 2024, equation 1).

    s = |w| * sqrt(sum_r x_r^2), with the inputs x_r that the weight is multiplied by in all examples and positions

    Args:
      squares: maps parameters and the inputs of a batch to the sums of squares, one tensor per kernel.
      params: values of all parameters.
      kernels: positions of the kernels among them.
      batches: pairs of inputs and targets; the targets do not matter.

    Returns:
      One tensor per kernel, of its shape.

    Raises:
      ValueError: if there is no batch.
    """
    if not batches:
        raise InputError("There are no examples to score weights with: give at least one batch.")
    sums = [sum_in_order(parts) for parts in zip(*(squares(params, x) for x, _ in batches), strict=True)]
    return [tf.abs(params[i]) * tf.sqrt(total) for i, total in zip(kernels, sums, strict=True)]


def synflow(flow: Callable[[Tensors], tf.Tensor], params: Tensors, kernels: Sequence[int]) -> list[tf.Tensor]:
    """Share of the synaptic flow through a weight (Tanaka et al. 2020).

    s = |w| * dR/d|w| / R, with the flow R = flow(|params|). Division by R does
    not change the ranking, and keeps the scores in the range of float32 where R is not.

    Args:
      flow: maps absolute values of all parameters to the flow, a scalar (float64 in deep networks).
      params: values of all parameters.
      kernels: positions of the kernels among them.

    Returns:
      One tensor per kernel, of its shape; in a chain of layers without biases each adds up to 1. All are 0 if the flow
      is 0.
    """
    absolute = [tf.abs(p) for p in params]
    watched = [absolute[i] for i in kernels]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(watched)
        total = flow(absolute)
    shares = tape.gradient(
        total,
        watched,
        output_gradients=tf.math.divide_no_nan(tf.ones_like(total), total),
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    return [tf.abs(w * tf.convert_to_tensor(s)) for w, s in zip(watched, shares, strict=True)]


def mean_gradient(loss: MeanLoss, params: Tensors, batches: Sequence[Batch]) -> list[tf.Tensor]:
    """Gradient of the mean loss over all examples of all batches.

    Args:
      loss: mean loss with gradient and HVP.
      params: values of all parameters.
      batches: pairs of inputs and targets.

    Returns:
      One tensor per parameter, of its shape.

    Raises:
      ValueError: if there is no batch.
    """
    return _mean(lambda x, y: loss.gradient(params, x, y), batches)


def _mean(per_batch: Callable[[Any, Any], list[tf.Tensor]], batches: Sequence[Batch]) -> list[tf.Tensor]:
    """Mean over examples of a quantity that is a mean over the examples of each batch."""
    sums: list[tf.Tensor] = []
    examples = 0
    for x, y in batches:
        count = len(tf.nest.flatten(x)[0])
        parts = [tf.cast(count, part.dtype) * part for part in per_batch(x, y)]
        sums = [a + b for a, b in zip(sums, parts, strict=True)] if sums else parts
        examples += count
    if not examples:
        raise InputError("There are no examples to score weights with: give at least one batch.")
    return [s / tf.cast(examples, s.dtype) for s in sums]
