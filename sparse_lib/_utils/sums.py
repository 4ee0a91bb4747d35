"""Sums of tensors in one order."""

from collections.abc import Sequence

import tensorflow as tf


def sum_in_order(terms: Sequence[tf.Tensor]) -> tf.Tensor:
    """Sum of tensors of one shape, equal to the last bit in every execution of a graph.

    `tf.add_n` begins with a term whose buffer no other op still reads, so that its order depends on timing; graph
    optimisation turns chains of additions into it.

    Args:
      terms: one or more tensors of one shape and dtype.
    """
    return tf.reduce_sum(tf.stack(terms), axis=0)
