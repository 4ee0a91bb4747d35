"""Losses of any form as one loss per example, and which examples are classified correctly."""

from collections.abc import Callable
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from sparse_lib._utils.errors import InputError

LossFunction: TypeAlias = Callable[[Any, Any], tf.Tensor]
Loss: TypeAlias = LossFunction | keras.losses.Loss

_LOSSES = keras.losses
# Losses of two classes at one output, or of several labels at several.
_BINARY = (_LOSSES.BinaryCrossentropy, _LOSSES.BinaryFocalCrossentropy)
_BINARY_FUNCTIONS = (_LOSSES.binary_crossentropy, _LOSSES.binary_focal_crossentropy)
_HINGES = (_LOSSES.Hinge, _LOSSES.SquaredHinge, _LOSSES.hinge, _LOSSES.squared_hinge)
_REGRESSIONS = (
    *(_LOSSES.MeanSquaredError, _LOSSES.MeanAbsoluteError, _LOSSES.Huber, _LOSSES.LogCosh),
    *(_LOSSES.mean_squared_error, _LOSSES.mean_absolute_error, _LOSSES.huber, _LOSSES.log_cosh),
)


def check_loss(loss: Any) -> None:
    """Checks that a loss is a Keras loss or a function.

    Args:
      loss: of a user.

    Raises:
      InputError: for a name, a class, or anything else that cannot be called.
    """
    if isinstance(loss, type):
        raise InputError(f"The loss is the class {loss.__name__}: give an instance, {loss.__name__}().")
    if not callable(loss):
        raise InputError(
            f"The loss is {loss!r}: give a Keras loss such as keras.losses.MeanSquaredError(), or a function (y_true, "
            "outputs) -> one loss per example."
        )


def losses_per_example(loss: Loss, y: Any, outputs: Any) -> tf.Tensor:
    """Loss of each example.

    Losses per token or pixel are averaged over the example as Keras does in training: tokens that the model masks do
    not count, and the others count more, by the share of unmasked tokens in the batch.

    Args:
      loss: a Keras loss, whose reduction is replaced by the mean, or a function.
      y: targets of n examples.
      outputs: of a model, for n examples.

    Returns:
      Losses, [n].

    Raises:
      InputError: if the losses are not one per example or per entry of the outputs.
    """
    losses = tf.convert_to_tensor(_call_keras(loss, y, outputs) if isinstance(loss, _LOSSES.Loss) else loss(y, outputs))
    rank = losses.shape.rank
    is_prefix = not tf.is_tensor(outputs) or losses.shape.is_compatible_with(outputs.shape[:rank])
    if not rank or not is_prefix:
        raise InputError(
            f"The loss function returned shape {losses.shape} for outputs of shape "
            f"{keras.tree.map_structure(lambda z: tuple(z.shape), outputs)}, one value per example is needed: do not "
            "reduce over the batch."
        )
    return mean_per_example(losses, outputs)


def mean_per_example(values: tf.Tensor, outputs: Any) -> tf.Tensor:
    """Averages values over the tokens of each example, as Keras averages losses in training.

    Args:
      values: of each example or token, [n, ...].
      outputs: of the model, from which the values were computed.

    Returns:
      One value per example, [n].
    """
    if values.shape.rank == 1:
        return values
    mask = getattr(outputs, "_keras_mask", None)
    if mask is not None and mask.shape.rank == values.shape.rank:
        weights = tf.cast(mask, values.dtype)
        values = values * tf.math.divide_no_nan(weights, tf.reduce_mean(weights))
    return tf.reduce_mean(values, list(range(1, values.shape.rank)))


def keep_mask(outputs: Any, changed: tf.Tensor) -> tf.Tensor:
    """Passes the mask of a model's outputs on to a tensor computed from them.

    Args:
      outputs: one output of a model.
      changed: a tensor of the same shape; it is changed in place.

    Returns:
      The tensor.
    """
    mask = getattr(outputs, "_keras_mask", None)
    if mask is not None:
        changed._keras_mask = mask
    return changed


def is_right(loss: Loss | None, model: keras.Model, y: Any, outputs: Any) -> tf.Tensor:
    """Whether each example is classified correctly.

    Several outputs are scores of classes, and the largest counts. One output is the score of the second of two classes:
    a probability above 0.5 or a logit above 0, by the loss or the activation. Several outputs under a binary loss are
    several labels.

    Args:
      loss: of the model; None for cross-entropy of logits.
      model: a classifier.
      y: targets: class indices, one-hot rows, or labels 0 or -1 and 1 of two classes.
      outputs: of the model, [n, classes], [n, 1], [n], or with axes for tokens, [n, ..., classes].

    Returns:
      Booleans [n]; for several tokens or labels per example the share that is right, and NaN for one output with other
      labels than those of two classes.

    Raises:
      InputError: for several outputs in a structure.
    """
    if not tf.is_tensor(outputs):
        raise InputError("The model returns several tensors, so it has no accuracy: take a model of one output.")
    classes = outputs.shape[-1] if outputs.shape.rank > 1 else 1
    has_rows = classes > 1 and y.shape.rank == outputs.shape.rank and y.shape[-1] == classes
    if classes == 1 or (has_rows and _is_binary(loss)):
        scores, targets = outputs, tf.reshape(y, tf.shape(outputs))
        if outputs.shape.rank > 1 and classes == 1:
            scores, targets = (keep_mask(outputs, tf.squeeze(each, -1)) for each in (scores, targets))
        right = (scores > tf.cast(_threshold(loss, model), scores.dtype)) == (tf.cast(targets, tf.float32) > 0.5)
        is_label = tf.reduce_any([tf.equal(tf.cast(targets, tf.float32), label) for label in (-1.0, 0.0, 1.0)], axis=0)
        return mean_per_example(tf.where(is_label, tf.cast(right, tf.float32), float("nan")), scores)
    labels = tf.argmax(y, -1, tf.int32) if has_rows else tf.cast(tf.reshape(y, tf.shape(outputs)[:-1]), tf.int32)
    right = tf.argmax(outputs, -1, tf.int32) == labels
    return right if right.shape.rank == 1 else mean_per_example(tf.cast(right, tf.float32), outputs)


def _call_keras(loss: keras.losses.Loss, y: Any, outputs: Any) -> Any:
    """The losses before reduction, in the dtype of the loss, or float64 if the model computes in it."""
    # Keras casts targets and outputs to the loss's dtype in `__call__`, float32, which would round float64.
    is_double = any(z.dtype == tf.float64 for z in keras.tree.flatten(outputs))
    dtype = tf.float64 if is_double else loss.dtype
    y, outputs = keras.tree.map_structure(lambda t: tf.cast(t, dtype), (y, outputs))
    return loss.call(y, outputs)


def _is_binary(loss: Any) -> bool:
    return isinstance(loss, _BINARY) or loss in _BINARY_FUNCTIONS


def _threshold(loss: Any, model: keras.Model) -> float:
    """The score above which an example is of the second class."""
    if isinstance(loss, _BINARY):
        return 0.0 if loss.from_logits else 0.5
    if loss in _BINARY_FUNCTIONS:
        return 0.5
    if loss in _HINGES or type(loss) in _HINGES:
        return 0.0
    if loss in _REGRESSIONS or type(loss) in _REGRESSIONS:
        return 0.5
    layers = getattr(model, "layers", [])
    activation = getattr(layers[-1], "activation", None) if layers else None
    return 0.5 if activation in (keras.activations.sigmoid, keras.activations.hard_sigmoid) else 0.0
