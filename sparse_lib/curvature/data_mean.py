"""Means over a whole data set, batch by batch and shared out over replicas."""

import functools
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import keras
import tensorflow as tf

from sparse_lib._utils import distribute
from sparse_lib.curvature.batches import Batches, count

BatchFunction = Callable[..., Sequence[tf.Tensor]]


class DataMean:
    """Mean over all examples of what a function finds on batches: sum over batches b of n_b / n f(batch b).

    Each batch is one call of a graph that is compiled once for each shape of batch and arguments. Where the model
    lives under a tf.distribute strategy with several replicas, each replica takes its own batches: the mean is that
    of one device, also where the function looks at a batch as a whole (batch norm in training).
    """

    def __init__(self, function: BatchFunction, model: keras.Model) -> None:
        """Prepares the graph.

        Args:
          function: takes (*arguments, x, y, index), index the batch's place in the data set, and returns tensors:
            means over the examples of that batch.
          model: the model that the function calls; it says on which devices to work.
        """
        variable = model.variables[0].value if model.variables else None
        self._strategy = distribute.owner(variable) or tf.distribute.get_strategy()
        self._function = function
        self._share = tf.function(self._share_of_batch, autograph=False)

    def __call__(self, batches: Batches, *arguments: Any) -> list[tf.Tensor]:
        """The mean over all batches.

        Args:
          batches: the data set.
          *arguments: tensors or structures of tensors, the same for all batches.

        Returns:
          What the function returns, averaged, in float64.
        """
        shares = (self._share(arguments, x, y, weight, index) for x, y, weight, index in self._rounds(batches))
        return functools.reduce(lambda total, more: [t + m for t, m in zip(total, more, strict=True)], shares)

    def _rounds(self, batches: Batches) -> Iterator[tuple]:
        """Batches with their shares of the data and their places; with replicas as many at a time as there are."""
        replicas = self._strategy.num_replicas_in_sync
        weighted = (
            (x, y, tf.constant(count(x) / batches.examples, tf.float64), tf.constant(index))
            for index, (x, y) in enumerate(batches)
        )
        while several := list(islice(weighted, replicas)):
            # Replicas that are left over repeat a batch, which then counts nothing.
            x, y, weight, index = several[0]
            idle = [(x, y, tf.zeros_like(weight), index)] * (replicas - len(several))
            yield distribute.share_out(self._strategy, [*several, *idle])

    def _share_of_batch(self, arguments: tuple, x: Any, y: Any, weight: Any, index: Any) -> list[tf.Tensor]:
        """What one batch adds to the mean, or one batch on each replica."""

        def weighted(x: Any, y: Any, weight: tf.Tensor, index: tf.Tensor) -> list[tf.Tensor]:
            values = self._function(*arguments, x, y, index)
            return distribute.sum_over_replicas([weight * tf.cast(value, tf.float64) for value in values])

        with self._strategy.scope():
            found = distribute.per_replica(self._strategy, weighted, x, y, weight, index)
        return [self._strategy.experimental_local_results(value)[0] for value in found]
