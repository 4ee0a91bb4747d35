"""Batch-norm statistics re-estimated from data, for weights that were never trained."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import keras
import numpy as np
import tensorflow as tf

from sparse_lib._keras import tracing
from sparse_lib._utils.errors import InputError


def norm_layers(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """The batch-norm layers of a model that are not frozen.

    Args:
      model: a built model.

    Returns:
      Each layer once, nested ones included.
    """
    layers = tracing.all_layers(model)
    return [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable]


def statistics(model: keras.Model) -> list[keras.Variable]:
    """The moving means and variances of a model's batch-norm layers.

    Args:
      model: a built model.

    Returns:
      Mean and variance of each layer, in the order of `model.non_trainable_variables`; empty without batch norm.
    """
    owned = {id(v) for layer in norm_layers(model) for v in (layer.moving_mean, layer.moving_variance)}
    return [v for v in model.non_trainable_variables if id(v) in owned]


class BatchNormEstimator:
    """Estimates batch-norm statistics at given weights; moves no state of the model.

    mean = (1/n) sum_b mean_b,  variance = (1/n) sum_b variance_b

    over n batches b of equal size, each normalized by its own statistics: the cumulative average of Garipov et al.
    (2018), with the biased variance of Keras. The moving averages of training belong to other weights.
    """

    def __init__(self, model: keras.Model) -> None:
        """Stores the model; tracing happens on the first call.

        Args:
          model: a built model.
        """
        self._model, self._layers, self._statistics = model, norm_layers(model), statistics(model)
        self._of_batch = tf.function(self._batch_statistics, autograph=False, reduce_retracing=True)

    def __call__(self, values: Sequence[np.ndarray | tf.Tensor], batches: Iterable[np.ndarray]) -> list[np.ndarray]:
        """Averages the statistics over batches.

        Args:
          values: of the model's trainable variables.
          batches: inputs, in batches of equal size.

        Returns:
          Mean and variance of each layer, in the order of `statistics`.

        Raises:
          ValueError: if there is no batch.
        """
        tensors = [tf.convert_to_tensor(value) for value in values]
        each = [[v.numpy() for v in self._of_batch(tensors, tf.convert_to_tensor(batch))] for batch in batches]
        if not each:
            raise InputError("Batch-norm statistics are estimated from data: give at least one batch.")
        return [np.mean(part, axis=0, dtype=np.float64).astype(part[0].dtype) for part in zip(*each, strict=True)]

    def _batch_statistics(self, values: list[tf.Tensor], inputs: tf.Tensor) -> list[tf.Tensor]:
        replaced = list(zip(self._model.trainable_variables, values, strict=True))
        with _without_memory(self._layers), keras.StatelessScope(state_mapping=replaced) as scope:
            self._model(inputs, training=True)
        return [tf.convert_to_tensor(scope.get_current_value(v)) for v in self._statistics]


@contextmanager
def _without_memory(layers: Sequence[keras.layers.BatchNormalization]) -> Iterator[None]:
    """Sets momentum to 0, so that the moving statistics after a batch are those of the batch."""
    kept = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum in zip(layers, kept, strict=True):
            layer.momentum = momentum
