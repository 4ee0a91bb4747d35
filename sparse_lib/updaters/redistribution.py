"""Redistribution of growth over kernels (SNFS)."""

from collections.abc import Sequence

import tensorflow as tf

from sparse_lib import selection
from sparse_lib._utils.sums import sum_in_order
from sparse_lib.updaters.base import Kernel


def redistribute(
    dropped: Sequence[tf.Tensor],
    kernels: Sequence[Kernel],
    kept: Sequence[tf.Tensor],
    scores: Sequence[tf.Tensor],
) -> list[tf.Tensor]:
    """Distributes growth over kernels in proportion to the mean |score| of their active weights.

    Args:
      dropped: units that each kernel dropped, int32 scalars (count).
      kernels: before the update.
      kept: boolean masks of the weights that stay.
      scores: of the kernels' shapes.

    Returns:
      int32 scalars with the same total (count).
    """
    shares, capacities = [], []
    for kernel, keep, score in zip(kernels, kept, scores, strict=True):
        mask, structure = kernel.mask, kernel.structure
        total = tf.reduce_sum(selection.on_mask(mask, tf.abs(score)))
        count = tf.maximum(selection.count_active(mask), 1)
        shares.append(tf.cast(total, tf.float64) / tf.cast(count, tf.float64))
        capacities.append(structure.size(keep.shape) - structure.count(keep))
    return share_out(sum_in_order(dropped), shares, capacities)


def share_out(total: tf.Tensor, shares: Sequence[tf.Tensor], capacities: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Splits a total in proportion to shares, each part within its capacity.

    The excess over a capacity is split over the other parts, and units left by rounding go to the largest fractional
    parts, the first of equals.

    Args:
      total: at most the sum of the capacities, integer scalar (count).
      shares: non-negative float scalars; all zero means equal shares.
      capacities: integer scalars (count).

    Returns:
      int32 scalars that add up to `total` (count).
    """
    share = tf.maximum(tf.cast(tf.stack(list(shares)), tf.float64), 1e-30)
    capacity = tf.cast(tf.stack(list(capacities)), tf.float64)
    total = tf.cast(total, tf.float64)
    zeros = tf.zeros_like(capacity)
    full, wanted = zeros > 0, capacity
    # Each round fills at least one more part or changes nothing, so one round per kernel is enough.
    for _ in range(len(shares)):
        free = tf.where(full, zeros, share)
        left = total - tf.reduce_sum(tf.where(full, capacity, zeros))
        wanted = tf.where(full, capacity, left * free / tf.maximum(tf.reduce_sum(free), 1e-30))
        full |= wanted >= capacity
    whole = tf.minimum(tf.floor(wanted), capacity)
    missing = tf.cast(tf.round(total - tf.reduce_sum(whole)), tf.int32)
    extra = selection.top_k_mask(wanted - whole, missing, whole < capacity)
    return tf.unstack(tf.cast(whole, tf.int32) + tf.cast(extra, tf.int32))
