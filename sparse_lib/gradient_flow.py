"""Gradient flow: norms on and off the mask, the loss decrease they predict, distances."""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from sparse_lib import selection
from sparse_lib._utils.errors import InputError
from sparse_lib.objective import Objective


class Norms(NamedTuple):
    """L2 norms of a list of tensors, split by masks; float64.

    Attributes:
      total: norm over all active entries, scalar.
      per_tensor: norm over the active entries of each tensor, shape [tensors].
      off_total: norm over all inactive entries, scalar.
      off_per_tensor: norm over the inactive entries of each tensor, shape [tensors].
    """

    total: tf.Tensor
    per_tensor: tf.Tensor
    off_total: tf.Tensor
    off_per_tensor: tf.Tensor


class Decrease(NamedTuple):
    """Loss decrease of one step of gradient descent on the active weights; scalars.

    Attributes:
      predicted: to first order, learning_rate * ||g . m||^2.
      real: L(params) - L(params - learning_rate * g . m).
    """

    predicted: tf.Tensor
    real: tf.Tensor


class Distances(NamedTuple):
    """How far a list of tensors is from a reference; float64.

    Attributes:
      l2: ||params - reference||, scalar.
      l2_per_tensor: the same for each tensor, shape [tensors].
      cosine: 1 - cos(params, reference), over all entries together, scalar in [0, 2].
      cosine_per_tensor: the same for each tensor, shape [tensors].
    """

    l2: tf.Tensor
    l2_per_tensor: tf.Tensor
    cosine: tf.Tensor
    cosine_per_tensor: tf.Tensor


def masked(tensors: Sequence[tf.Tensor], masks: Sequence[tf.Tensor | None]) -> list[tf.Tensor]:
    """Sets what the masks leave out to zero.

    Args:
      tensors: tensors of any shape.
      masks: a boolean tensor of the same shape for each, or None for a dense tensor.

    Returns:
      The masked tensors.

    Raises:
      ValueError: if the lists differ in length.
    """
    _check_aligned(tensors, masks, "mask")
    return [t if m is None else selection.on_mask(m, t) for t, m in zip(tensors, masks, strict=True)]


def norms(gradients: Sequence[tf.Tensor], masks: Sequence[tf.Tensor | None]) -> Norms:
    """Norms of the gradient on and off the mask (Evci et al., arXiv 2010.03533).

    Works for any tensors that are aligned with the masks, weights and momentum included.

    Args:
      gradients: dense gradients, one per variable.
      masks: a boolean tensor for each, or None for a dense variable, all of which is active.

    Returns:
      The norms, accumulated in float64.

    Raises:
      ValueError: if the lists differ in length or are empty.
    """
    _check_aligned(gradients, masks, "mask")
    inverse = [tf.zeros_like(g, tf.bool) if m is None else ~m for g, m in zip(gradients, masks, strict=True)]
    active = tf.stack([_square_sum(t) for t in masked(gradients, masks)])
    inactive = tf.stack([_square_sum(t) for t in masked(gradients, inverse)])
    return Norms(
        total=tf.sqrt(tf.reduce_sum(active)),
        per_tensor=tf.sqrt(active),
        off_total=tf.sqrt(tf.reduce_sum(inactive)),
        off_per_tensor=tf.sqrt(inactive),
    )


def momentum_norms(slots: Sequence[tf.Tensor | None], masks: Sequence[tf.Tensor | None]) -> Norms:
    """Norms of the optimizer's momentum on and off the mask.

    Args:
      slots: the momentum of each variable, or None where the optimizer keeps none (norm 0).
      masks: a boolean tensor for each, or None for a dense variable.

    Returns:
      The norms, with one entry per variable.

    Raises:
      ValueError: if the lists differ in length or are empty.
    """
    _check_aligned(slots, masks, "mask")
    present = [tf.zeros([]) if slot is None else slot for slot in slots]
    aligned = [None if s is None else m for s, m in zip(slots, masks, strict=True)]
    return norms(present, aligned)


def effective_gradient_flow(
    gradients: Sequence[tf.Tensor],
    masks: Sequence[tf.Tensor | None],
    p: int = 2,
    normalize: bool = True,
) -> tf.Tensor:
    """Effective gradient flow: the layers' active gradients, each layer weighing the same.

    EGF_p = 1/L sum_l ||g_l . m_l||_p / n_l^(1/p)

    over the L masked tensors, n_l the number of active weights of layer l. With this power the
    summand is the mean |g| (p = 1) or the root mean square of g (p = 2) over active weights, so a
    layer does not count more for being wider. Tessera et al. 2021 (arXiv 2102.01670)
    describe the measure as normalised by the active weights and even over layers.

    Args:
      gradients: dense gradients, one per variable.
      masks: a boolean tensor for each; variables with None are left out.
      p: order of the norm, 1 or 2.
      normalize: whether to divide by n_l^(1/p); without it the norms themselves are averaged.

    Returns:
      A float64 scalar. A layer without active weights adds 0 and counts in L.

    Raises:
      ValueError: if p is neither 1 nor 2, the lists differ in length, or there is no mask.
    """
    if p not in (1, 2):
        raise InputError(f"p must be 1 or 2, got {p}.")
    _check_aligned(gradients, masks, "mask")
    pairs = [(g, m) for g, m in zip(gradients, masks, strict=True) if m is not None]
    if not pairs:
        raise InputError("Effective gradient flow needs at least one masked layer, got none.")
    layers = []
    for gradient, mask in pairs:
        active = tf.cast(selection.on_mask(mask, gradient), tf.float64)
        power_sum = tf.reduce_sum(tf.abs(active) ** p)
        if normalize:
            count = tf.math.count_nonzero(mask, dtype=tf.int64)
            power_sum /= tf.cast(tf.maximum(count, 1), tf.float64)
        layers.append(power_sum if p == 1 else tf.sqrt(power_sum))
    return tf.reduce_mean(tf.stack(layers))


def loss_decrease(
    objective: Objective,
    params: Sequence[tf.Tensor],
    gradients: Sequence[tf.Tensor],
    masks: Sequence[tf.Tensor | None],
    learning_rate: float | tf.Tensor,
    x: tf.Tensor,
    y: tf.Tensor,
) -> Decrease:
    """What the gradient promises and what a step along it delivers, on the same batch.

    Args:
      objective: the loss.
      params: weights theta, zero off the mask.
      gradients: dense gradients of that loss at params.
      masks: a boolean tensor for each, or None for a dense variable.
      learning_rate: step size.
      x: inputs of the batch that the gradients come from.
      y: targets of that batch.

    Returns:
      Predicted and real decrease; predicted / real -> 1 as the learning rate goes to 0.

    Raises:
      ValueError: if the lists differ in length.
    """
    _check_aligned(params, gradients, "gradient")
    active = masked(gradients, masks)
    rate = tf.convert_to_tensor(learning_rate, dtype_hint=tf.float64)
    moved = [p - tf.cast(rate, p.dtype) * tf.cast(g, p.dtype) for p, g in zip(params, active, strict=True)]
    squares = tf.add_n([_square_sum(g) for g in active])
    real = objective.mean_loss(params, x, y) - objective.mean_loss(moved, x, y)
    return Decrease(predicted=tf.cast(rate, tf.float64) * squares, real=real)


def distance(params: Sequence[tf.Tensor], reference: Sequence[tf.Tensor]) -> Distances:
    """Euclidean and cosine distance to a reference such as the initial weights.

    Args:
      params: tensors, one per variable.
      reference: tensors of the same shapes.

    Returns:
      The distances, accumulated in float64. Where either side is the zero vector the cosine is
      not defined and its distance is 0.

    Raises:
      ValueError: if the lists differ in length or are empty.
    """
    _check_aligned(params, reference, "reference")
    pairs = [(tf.cast(a, tf.float64), tf.cast(b, tf.float64)) for a, b in zip(params, reference, strict=True)]
    gaps = tf.stack([_square_sum(a - b) for a, b in pairs])
    dots = tf.stack([tf.reduce_sum(a * b) for a, b in pairs])
    squares = tf.stack([_square_sum(a) for a, _ in pairs])
    reference_squares = tf.stack([_square_sum(b) for _, b in pairs])
    return Distances(
        l2=tf.sqrt(tf.reduce_sum(gaps)),
        l2_per_tensor=tf.sqrt(gaps),
        cosine=_cosine_distance(*map(tf.reduce_sum, (dots, squares, reference_squares))),
        cosine_per_tensor=_cosine_distance(dots, squares, reference_squares),
    )


def _cosine_distance(dot: tf.Tensor, square: tf.Tensor, other_square: tf.Tensor) -> tf.Tensor:
    """1 - dot / sqrt(square * other_square), 0 where that is not defined."""
    # The roots are taken one by one: the product of two small squares may underflow.
    scale = tf.sqrt(square) * tf.sqrt(other_square)
    cosine = tf.where(scale > 0, tf.math.divide_no_nan(dot, scale), tf.ones_like(dot))
    return 1.0 - tf.clip_by_value(cosine, -1.0, 1.0)


def _square_sum(tensor: tf.Tensor) -> tf.Tensor:
    """Sum of squares in float64: float32 squares of small gradients underflow."""
    return tf.reduce_sum(tf.square(tf.cast(tensor, tf.float64)))


def _check_aligned(tensors: Sequence[object], others: Sequence[object], what: str) -> None:
    """Refuses empty lists and lists of different length."""
    if not tensors or len(tensors) != len(others):
        raise InputError(
            f"Got {len(tensors)} tensors and {len(others)} {what} entries: pass one {what} entry "
            "for each of at least one tensor."
        )
