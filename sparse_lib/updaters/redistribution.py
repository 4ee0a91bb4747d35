"""Sharing out over kernels what all of them dropped."""

from collections.abc import Sequence

import tensorflow as tf

from sparse_lib import selection
from sparse_lib.updaters.base import Kernel


def redistribute(
    dropped: Sequence[tf.Tensor],
    kernels: Sequence[Kernel],
    kept: Sequence[tf.Tensor],
    scores: Sequence[tf.Tensor],
) -> list[tf.Tensor]:
    """Number of units that each kernel grows, in proportion to the mean |score| of its active weights.

    Args:
      dropped: how many each kernel dropped, int32 scalars (count).
      kernels: before the update.
      kept: boolean, those of them that stay.
      scores: of the kernels' shapes.

    Returns:
      int32 scalars with the same total (count).
    """
    shares, rooms = [], []
    for kernel, keep, score in zip(kernels, kept, scores, strict=True):
        mask, structure = kernel.mask, kernel.structure
        total = tf.reduce_sum(selection.on_mask(mask, tf.abs(score)))
        count = tf.maximum(selection.count_active(mask), 1)
        shares.append(tf.cast(total, tf.float64) / tf.cast(count, tf.float64))
        rooms.append(structure.size(keep.shape) - structure.count(keep))
    return share_out(tf.add_n(list(dropped)), shares, rooms)


def share_out(total: tf.Tensor, shares: Sequence[tf.Tensor], rooms: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Splits a total in proportion to shares, never above a room; what a full one cannot take goes to the rest.

    Args:
      total: at most the sum of the rooms, integer scalar (count).
      shares: non-negative float scalars; where all are zero, they count as equal.
      rooms: integer scalars (count).

    Returns:
      int32 scalars that add up to `total`; left-over units go to the largest fractional parts, the first of equals.
    """
    share = tf.maximum(tf.cast(tf.stack(list(shares)), tf.float64), 1e-30)
    room = tf.cast(tf.stack(list(rooms)), tf.float64)
    total = tf.cast(total, tf.float64)
    zeros = tf.zeros_like(room)
    full, wanted = zeros > 0, room
    # Each round fills at least one more or changes nothing, so as many rounds as there are kernels settle it.
    for _ in range(len(shares)):
        free = tf.where(full, zeros, share)
        left = total - tf.reduce_sum(tf.where(full, room, zeros))
        wanted = tf.where(full, room, left * free / tf.maximum(tf.reduce_sum(free), 1e-30))
        full |= wanted >= room
    whole = tf.minimum(tf.floor(wanted), room)
    missing = tf.cast(tf.round(total - tf.reduce_sum(whole)), tf.int32)
    extra = selection.top_k_mask(wanted - whole, missing, whole < room)
    return tf.unstack(tf.cast(whole, tf.int32) + tf.cast(extra, tf.int32))
