"""Exact selection of the k highest scores; the only place in the package that ranks weights.

A sort costs O(n log n) and is slow in every backend. Here floats are mapped to integers of the same order, and regula
falsi with the Illinois rule searches the threshold by counting the keys above it: about a dozen passes for real scores,
whatever their number. Columns, which are many and short, are compared pairwise or bisected bit by bit. Integer keys and
counts give the same bits in eager mode, in graphs and under XLA.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

_BITS = {tf.float32: tf.int32, tf.float64: tf.int64}
# Interpolation takes 8 to 20 passes on smooth scores; bisection finishes the search on clustered ones.
_INTERPOLATIONS = 24
# Up to this many rows per column, comparing all pairs is cheaper than bisection.
_MAX_PAIRWISE_ROWS = 16


def count_active(mask: tf.Tensor) -> tf.Tensor:
    """Number of True entries of a boolean tensor, an exact int32 scalar (count)."""
    return tf.reduce_sum(tf.cast(mask, tf.int32))


def on_mask(mask: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """Zeroes the values off a mask: where(mask, values, 0).

    Args:
      mask: boolean.
      values: of the mask's shape.

    Returns:
      Tensor of the mask's shape.
    """
    # A product would turn an infinite gradient off the mask into NaN. The `where` of TF2 broadcasts, which takes up to
    # three times as long on a CPU.
    return tf.compat.v1.where(mask, values, tf.zeros_like(values))


def _ordered_keys(scores: tf.Tensor) -> tf.Tensor:
    """Maps float scores to integers of the same order: -0.0 equals 0.0, NaN is lowest, the dtype's minimum unused."""
    dtype = _BITS[scores.dtype]
    bits = tf.bitcast(scores, dtype)
    keys = tf.where(bits < 0, dtype.min - bits, bits)
    return tf.where(tf.math.is_nan(scores), tf.constant(dtype.min + 1, dtype), keys)


def _threshold(keys: tf.Tensor, k: tf.Tensor, low: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Finds the threshold of the k highest keys.

    The number of keys >= threshold falls from `total` at `low` to 0; regula falsi with the Illinois rule (Dowell &
    Jarratt 1971) finds where it crosses k.

    Args:
      keys: integers, [n].
      k: at most `total`, int32 scalar (count).
      low: a threshold reached by `total` keys.
      total: number of candidates, int32 scalar (count).

    Returns:
      The threshold and the number of keys >= threshold: k, or more if the k-th highest key is tied.
    """
    high = tf.reduce_max(keys) + 1
    # The half keeps both excesses nonzero, so that the interpolation is always defined.
    target = tf.cast(k, tf.float64) - 0.5

    def is_searching(*state: tf.Tensor) -> tf.Tensor:
        _, low, high, reached, *_ = state
        return (reached > k) & (high - low != 1)

    def narrow(*state: tf.Tensor) -> tuple[tf.Tensor, ...]:
        i, low, high, reached, over, under, side = state
        share = tf.where(i < _INTERPOLATIONS, over / (over + under), 0.5)
        left, right = tf.cast(low, tf.float64), tf.cast(high, tf.float64)
        probe = tf.cast(left + (right - left) * share, keys.dtype)
        probe = tf.clip_by_value(probe, low + 1, high - 1)
        count = count_active(keys >= probe)
        excess = tf.cast(count, tf.float64) - target
        enough = excess > 0
        # Illinois rule: an end that stays twice in a row loses half its weight, or the other end would creep.
        over = tf.where(enough, excess, tf.where(side < 0, over / 2, over))
        under = tf.where(enough, tf.where(side > 0, under / 2, under), -excess)
        return (
            i + 1,
            tf.where(enough, probe, low),
            tf.where(enough, high, probe),
            tf.where(enough, count, reached),
            over,
            under,
            tf.where(enough, 1, -1),
        )

    start = (tf.constant(0), low, high, total, tf.cast(total, tf.float64) - target, target, tf.constant(0))
    _, low, _, reached, *_ = tf.while_loop(is_searching, narrow, start)
    return low, reached


def top_k_mask(scores: tf.Tensor, k: int | tf.Tensor, among: tf.Tensor | None = None) -> tf.Tensor:
    """Selects the k highest scores among the candidates; ties go to the lower flat index.

    mask_i = 1 iff i is a candidate and #{j candidate: (s_j, -j) > (s_i, -i)} < k

    Args:
      scores: float tensor of any static shape, [...]. NaN ranks below every number; -0.0 equals 0.0.
      k: number of entries to select (count); all candidates if there are fewer.
      among: boolean tensor of the shape of `scores`, the candidates; None means all.

    Returns:
      Boolean tensor of the shape of `scores` with exactly min(k, candidates) entries True.

    Examples:
      >>> import tensorflow as tf
      >>> from sparse_lib import selection
      >>> selection.top_k_mask(tf.constant([3.0, 1.0, 3.0, 2.0]), 2).numpy().tolist()
      [True, False, True, False]
      >>> selection.top_k_mask(tf.constant([3.0, 1.0, 3.0, 2.0]), 1).numpy().tolist()  # ties go to the lower index
      [True, False, False, False]
    """
    scores = tf.convert_to_tensor(scores)
    flat = tf.reshape(scores if scores.dtype in _BITS else tf.cast(scores, tf.float32), [-1])
    candidates = None if among is None else tf.reshape(among, [-1])
    return tf.reshape(_flat_top_k_mask(flat, tf.cast(k, tf.int32), candidates), scores.shape)


# Traced once per size, however many graphs select from kernels of that size.
@tf.function(autograph=False, experimental_attributes={"_noinline": True})
def _flat_top_k_mask(scores: tf.Tensor, k: tf.Tensor, among: tf.Tensor | None) -> tf.Tensor:
    keys = low = _ordered_keys(scores)
    total = tf.constant(keys.shape.num_elements())
    if among is not None:
        total = count_active(among)
        low = tf.where(among, keys, tf.constant(keys.dtype.max, keys.dtype))
        keys = tf.where(among, keys, tf.constant(keys.dtype.min, keys.dtype))
    k = tf.minimum(k, total)
    threshold, reached = _threshold(keys, k, tf.reduce_min(low), total)

    def break_ties() -> tf.Tensor:
        above, tied = keys > threshold, keys == threshold
        return above | (tied & (tf.cumsum(tf.cast(tied, tf.int32)) <= k - count_active(above)))

    return tf.cond(reached == k, lambda: keys >= threshold, break_ties)


def global_top_k_masks(
    scores: Sequence[tf.Tensor],
    k: int | tf.Tensor,
    among: Sequence[tf.Tensor] | None = None,
) -> list[tf.Tensor]:
    """Selects the k highest scores over several tensors together; ties go to the earlier tensor.

    Args:
      scores: float tensors of any static shapes, one per kernel.
      k: total number of entries to select (count).
      among: boolean candidates, one tensor per kernel; None means all.

    Returns:
      One boolean tensor per kernel, with min(k, candidates) entries True in total.
    """
    flat = tf.concat([tf.reshape(s, [-1]) for s in scores], axis=0)
    flat_among = None if among is None else tf.concat([tf.reshape(a, [-1]) for a in among], axis=0)
    chosen = top_k_mask(flat, k, flat_among)
    parts = tf.split(chosen, [s.shape.num_elements() for s in scores])
    return [tf.reshape(part, s.shape) for part, s in zip(parts, scores, strict=True)]


def top_k_of_columns(scores: tf.Tensor, k: int | tf.Tensor, among: tf.Tensor | None = None) -> tf.Tensor:
    """Selects the k highest scores of each column; ties go to the lower row.

    Args:
      scores: float tensor of static shape, [..., rows, columns]. NaN ranks below every number; -0.0 equals 0.0.
      k: number of entries to select per column (count), broadcastable to [..., 1, columns].
      among: boolean tensor of the shape of `scores`, the candidates; None means all.

    Returns:
      Boolean tensor of the shape of `scores`; all candidates of a column with fewer than k.
    """
    scores = tf.convert_to_tensor(scores)
    floats = scores if scores.dtype in _BITS else tf.cast(scores, tf.float32)
    return _columns_top_k_mask(floats, tf.cast(k, tf.int32), among)


@tf.function(autograph=False, experimental_attributes={"_noinline": True})
def _columns_top_k_mask(scores: tf.Tensor, k: tf.Tensor, among: tf.Tensor | None) -> tf.Tensor:
    keys = _ordered_keys(scores)
    if among is not None:
        keys = tf.where(among, keys, tf.constant(keys.dtype.min, keys.dtype))
    if keys.shape[-2] <= _MAX_PAIRWISE_ROWS:
        chosen = _ranks(keys) < k
        return chosen if among is None else chosen & among
    above, tied, k = _bisect_columns(keys, k)
    return above | (tied & (tf.cumsum(tf.cast(tied, tf.int32), axis=-2) <= k))


def _ranks(keys: tf.Tensor) -> tf.Tensor:
    """Rank of each key in its column, by comparing all pairs; ranks of the dtype's lowest key are not valid."""
    rows = np.arange(keys.shape[-2])[:, None]
    ranks = tf.zeros_like(keys, tf.int32)
    for row in range(keys.shape[-2]):
        # One less makes of "higher" "higher or equal", for the rows below.
        rivals = keys - tf.constant(rows > row, keys.dtype)
        ranks += tf.cast(keys[..., row : row + 1, :] > rivals, tf.int32)
    return ranks


def _bisect_columns(keys: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Keys above the k-th highest of each column, keys equal to it, and how many of the latter belong to the k."""

    def count(marks: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(tf.cast(marks, tf.int32), axis=-2, keepdims=True)

    zero, lowest = tf.zeros([], keys.dtype), tf.constant(keys.dtype.min, keys.dtype)
    k = tf.minimum(k, count(keys > lowest))
    # Bit by bit from the sign: columns are distributed too differently to share an interpolation.
    threshold = tf.where(count(keys >= zero) >= k, zero, lowest)

    def set_bit(bit: tf.Tensor, threshold: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        higher = threshold + bit
        return bit // 2, tf.where(count(keys >= higher) >= k, higher, threshold)

    top = tf.constant(2 ** (8 * keys.dtype.size - 2), keys.dtype)
    _, threshold = tf.while_loop(lambda bit, _: bit > 0, set_bit, (top, threshold))
    above = keys > threshold
    return above, keys == threshold, k - count(above)
