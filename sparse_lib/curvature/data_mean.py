"""Means over a whole data set, computed batch by batch on all replicas."""

import functools
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import keras
import tensorflow as tf

from sparse_lib._utils import distribute
from sparse_lib.batches import Batches, count_examples

BatchFunction = Callable[..., Sequence[tf.Tensor]]


class DataMean:
    """Mean over all examples of a function of batches: sum over batches b of n_b / n f(batch b).

    Each batch is one call of a graph, compiled once per shape of batch and arguments. Under a `tf.distribute` strategy
    with several replicas, each replica takes different batches; the mean equals that of one device, even if the
    function depends on the batch as a whole (batch norm in training).
    """

    def __init__(self, function: BatchFunction, model: keras.Model) -> None:
        """Prepares the graph.

        Args:
          function: (*arguments, x, y, index) -> tensors that are means over the examples of the batch; index is the
            position of the batch in the data set.
          model: the model that the function calls; its variables determine the devices.
        """
        variable = model.variables[0].value if model.variables else None
        self._strategy = distribute.owner(variable) or tf.distribute.get_strategy()
        self._function = function
        self._share = tf.function(self._share_of_batch, autograph=False)

    def __call__(self, batches: Batches, *arguments: Any) -> list[tf.Tensor]:
        """Computes the mean over all batches.

        Args:
          batches: the data set.
          *arguments: tensors or nested structures of tensors, the same for all batches.

        Returns:
          The function's mean outputs, in float64.
        """
        shares = (self._share(arguments, x, y, weight, index) for x, y, weight, index in self._rounds(batches))
        return functools.reduce(lambda total, more: [t + m for t, m in zip(total, more, strict=True)], shares)

    def _rounds(self, batches: Batches) -> Iterator[tuple]:
        """Yields batches with weight n_b / n and index, as many at a time as there are replicas."""
        replicas = self._strategy.num_replicas_in_sync
        weighted = (
            (x, y, tf.constant(count_examples(x) / batches.examples, tf.float64), tf.constant(index))
            for index, (x, y) in enumerate(batches)
        )
        while several := list(islice(weighted, replicas)):
            # Idle replicas repeat a batch with weight 0.
            x, y, weight, index = several[0]
            idle = [(x, y, tf.zeros_like(weight), index)] * (replicas - len(several))
            yield distribute.share_out(self._strategy, [*several, *idle])

    def _share_of_batch(self, arguments: tuple, x: Any, y: Any, weight: Any, index: Any) -> list[tf.Tensor]:
        """Contribution to the mean of one batch, or of one batch per replica."""

        def weigh(x: Any, y: Any, weight: tf.Tensor, index: tf.Tensor) -> list[tf.Tensor]:
            values = self._function(*arguments, x, y, index)
            return distribute.sum_over_replicas([weight * tf.cast(value, tf.float64) for value in values])

        with self._strategy.scope():
            found = distribute.per_replica(self._strategy, weigh, x, y, weight, index)
        return [self._strategy.experimental_local_results(value)[0] for value in found]
