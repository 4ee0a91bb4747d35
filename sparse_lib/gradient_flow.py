"""Gradient flow: gradient norms on and off the mask, the loss decrease they predict, and distances in weight space."""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from sparse_lib import selection
from sparse_lib._utils.errors import InputError
from sparse_lib._utils.sums import sum_in_order
from sparse_lib.objective import Objective


class Norms(NamedTuple):
    """L2 norms of a list of tensors on and off their masks, in float64.

    Attributes:
      total: norm of all active entries, scalar.
      per_tensor: norm of the active entries of each tensor, [tensors].
      off_total: norm of all inactive entries, scalar.
      off_per_tensor: norm of the inactive entries of each tensor, [tensors].
    """

    total: tf.Tensor
    per_tensor: tf.Tensor
    off_total: tf.Tensor
    off_per_tensor: tf.Tensor


class Decrease(NamedTuple):
    """Loss decrease of one step of gradient descent on the active weights; scalars.

    Attributes:
      predicted: first-order prediction, learning_rate * ||g . m||^2.
      real: decrease measured, L(params) - L(params - learning_rate * g . m).
    """

    predicted: tf.Tensor
    real: tf.Tensor


class Distances(NamedTuple):
    """Distances between two lists of tensors, in float64.

    Attributes:
      l2: ||params - reference||, scalar.
      l2_per_tensor: ||params - reference|| of each tensor, [tensors].
      cosine: 1 - cos(params, reference) over all entries together, scalar in [0, 2].
      cosine_per_tensor: cosine distance of each tensor, [tensors].
    """

    l2: tf.Tensor
    l2_per_tensor: tf.Tensor
    cosine: tf.Tensor
    cosine_per_tensor: tf.Tensor


def apply_masks(tensors: Sequence[tf.Tensor], masks: Sequence[tf.Tensor | None]) -> list[tf.Tensor]:
    """Zeroes the inactive entries of tensors: where(m, t, 0).

    Args:
      tensors: tensors of any shape.
      masks: one boolean tensor of the same shape per tensor, or None for a dense one.

    Returns:
      The masked tensors.

    Raises:
      ValueError: if the lists differ in length.
    """
    _check_aligned(tensors, masks, "mask")
    return [t if m is None else selection.on_mask(m, t) for t, m in zip(tensors, masks, strict=True)]


def norms(gradients: Sequence[tf.Tensor], masks: Sequence[tf.Tensor | None]) -> Norms:
    """L2 norms of the gradient on and off the mask (Evci et al. 2022, arXiv 2010.03533).

    ||g . m||_2 and ||g . (1 - m)||_2; they apply equally to other tensors, such as weights.

    Args:
      gradients: dense gradients, one per variable.
      masks: one boolean tensor per variable, or None for a dense one, which is active as a whole.

    Returns:
      The norms, accumulated in float64.

    Raises:
      ValueError: if the lists differ in length or are empty.

    Examples:
      >>> import tensorflow as tf
      >>> from sparse_lib import gradient_flow
      >>> found = gradient_flow.norms([tf.constant([3.0, 4.0, 12.0])], [tf.constant([True, True, False])])
      >>> float(found.total), float(found.off_total)
      (5.0, 12.0)
    """
    _check_aligned(gradients, masks, "mask")
    inverse = [tf.zeros_like(g, tf.bool) if m is None else ~m for g, m in zip(gradients, masks, strict=True)]
    active = tf.stack([_square_sum(t) for t in apply_masks(gradients, masks)])
    inactive = tf.stack([_square_sum(t) for t in apply_masks(gradients, inverse)])
    return Norms(
        total=tf.sqrt(tf.reduce_sum(active)),
        per_tensor=tf.sqrt(active),
        off_total=tf.sqrt(tf.reduce_sum(inactive)),
        off_per_tensor=tf.sqrt(inactive),
    )


def momentum_norms(slots: Sequence[tf.Tensor | None], masks: Sequence[tf.Tensor | None]) -> Norms:
    """L2 norms of the optimizer's momentum on and off the mask.

    Args:
      slots: momentum of each variable, or None for a variable without momentum, whose norm is 0.
      masks: one boolean tensor per variable, or None for a dense one.

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
    """Effective gradient flow: mean over layers of the normalised gradient norm (Tessera et al. 2021).

    EGF_p = 1/L sum_l ||g_l . m_l||_p / n_l^(1/p)

    over the L masked tensors, where n_l is the number of active weights of layer l. The summand is the mean of |g|
    (p = 1) or the root mean square of g (p = 2) over the active weights, so all layers count the same whatever their
    width. The paper (arXiv 2102.01670) describes the measure as normalised by the number of active weights and averaged
    over layers.

    Args:
      gradients: dense gradients, one per variable.
      masks: one boolean tensor per variable; variables with None are skipped.
      p: order of the norm, 1 or 2.
      normalize: whether to divide by n_l^(1/p).

    Returns:
      A float64 scalar. A layer without active weights contributes 0 and counts in L.

    Raises:
      ValueError: if p is neither 1 nor 2, the lists differ in length, or no variable has a mask.
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
    """Loss decrease of one masked gradient step, predicted to first order and measured on the same batch.

    Args:
      objective: the loss L.
      params: trainable values, zero off the mask.
      gradients: dense gradients of that loss at `params`.
      masks: one boolean tensor per variable, or None for a dense one.
      learning_rate: step size.
      x: inputs of the batch that the gradients are of.
      y: targets of that batch.

    Returns:
      Predicted and real decrease; their ratio tends to 1 as the learning rate tends to 0.

    Raises:
      ValueError: if the lists differ in length.
    """
    _check_aligned(params, gradients, "gradient")
    active = apply_masks(gradients, masks)
    rate = tf.convert_to_tensor(learning_rate, dtype_hint=tf.float64)
    moved = [p - tf.cast(rate, p.dtype) * tf.cast(g, p.dtype) for p, g in zip(params, active, strict=True)]
    squares = sum_in_order([_square_sum(g) for g in active])
    real = objective.mean_loss(params, x, y) - objective.mean_loss(moved, x, y)
    return Decrease(predicted=tf.cast(rate, tf.float64) * squares, real=real)


def distance(params: Sequence[tf.Tensor], reference: Sequence[tf.Tensor]) -> Distances:
    """Euclidean and cosine distances to a reference such as the initial weights.

    Args:
      params: one tensor per variable.
      reference: tensors of the same shapes.

    Returns:
      The distances, accumulated in float64. The cosine distance to or from a zero vector is undefined and given as 0.

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
    """1 - dot / sqrt(square * other_square), or 0 where undefined."""
    # Two roots, because the product of two small squares may underflow.
    scale = tf.sqrt(square) * tf.sqrt(other_square)
    cosine = tf.where(scale > 0, tf.math.divide_no_nan(dot, scale), tf.ones_like(dot))
    return 1.0 - tf.clip_by_value(cosine, -1.0, 1.0)


def _square_sum(tensor: tf.Tensor) -> tf.Tensor:
    """Sum of squares in float64: float32 squares of small gradients underflow."""
    return tf.reduce_sum(tf.square(tf.cast(tensor, tf.float64)))


def _check_aligned(tensors: Sequence[object], others: Sequence[object], what: str) -> None:
    """Raises for empty lists and lists of different length."""
    if not tensors or len(tensors) != len(others):
        raise InputError(
            f"Got {len(tensors)} tensors and {len(others)} {what} entries: pass one {what} entry "
            "for each of at least one tensor."
        )
