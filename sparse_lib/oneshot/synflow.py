"""The synaptic flow through a network with positive weights, the objective of SynFlow."""

from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import keras
import tensorflow as tf

from sparse_lib import objective
from sparse_lib._keras import precision, tracing
from sparse_lib._utils.errors import InputError
from sparse_lib._utils.sums import sum_in_order
from sparse_lib.oneshot.scores import Batch, Tensors


def synaptic_flow(model: keras.Model, params: Tensors, inputs: Any, *, float64: bool = True) -> tf.Tensor:
    """The sum of a network's outputs with absolute weights and an input of ones (Tanaka et al. 2020).

    R = 1^T f(1; |theta|). All variables have absolute values, also biases and frozen ones, and batch
    norm has mean 0 and variance 1, since its averages could cancel the flow.

    Args:
      model: a built model; it is not changed.
      params: absolute values of its trainable variables.
      inputs: one example of ones.
      float64: whether the layers compute in float64.

    Returns:
      The flow, a scalar; float32 if `float64` is off.
    """
    unit = {}
    for layer in tracing.all_layers(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            unit[id(layer.moving_mean)] = tf.zeros_like
            unit[id(layer.moving_variance)] = tf.ones_like
    rest = [v for v in model.non_trainable_weights if keras.backend.is_float_dtype(v.dtype)]
    fixed = [unit.get(id(v), tf.abs)(tf.convert_to_tensor(v.value)) for v in rest]
    variables = [*model.trainable_variables, *rest]
    with precision.arithmetic(model, "float64") if float64 else nullcontext():
        outputs = objective.call(model, variables, [*params, *fixed], inputs)
    dtype = tf.float64 if float64 else tf.float32
    return sum_in_order([tf.reduce_sum(tf.cast(z, dtype)) for z in tf.nest.flatten(outputs)])


def example_of_ones(model: keras.Model, batches: Iterable[Batch] | None) -> Any:
    """One example of ones in the structure of a model's inputs.

    Args:
      model: a built model.
      batches: pairs of inputs and targets; needed for subclassed models and inputs of unknown size.

    Returns:
      A batch of one, in the structure of the model's inputs.

    Raises:
      ValueError: if neither the model nor a batch determines the shape.
    """
    if tracing.has_fixed_inputs(model):
        return tracing.example(model, 1)
    if batches is None:
        raise InputError(f"Model {model.name!r} does not fix the shape of its inputs: give batches that do.")
    inputs = next(iter(batches))[0]
    return tf.nest.map_structure(lambda t: tf.ones_like(t[:1]), inputs)
