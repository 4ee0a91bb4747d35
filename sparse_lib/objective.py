"""The loss of a Keras model as a pure function of its parameters, with derivatives."""

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from sparse_lib._keras import graph_cache
from sparse_lib._keras.losses import Loss, check_loss, losses_per_example
from sparse_lib._keras.patches import exact_derivatives
from sparse_lib._utils.errors import InputError
from sparse_lib.batches import BATCH_SIZE, Batches, count_examples

# Makes a context in which a model is called.
Scope = Callable[[], AbstractContextManager[Any]]


def cross_entropy(y_true: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Cross-entropy of integer labels, per example or token, in at least float32.

    loss_i = -log softmax(logits_i)[y_i]

    Args:
      y_true: class indices, integers of shape [n, ...] or [n, ..., 1].
      logits: unnormalized scores of shape [n, ..., classes], at least two classes.

    Returns:
      Losses in nats, shape [n, ...]; float64 logits give float64, all others float32.

    Raises:
      ValueError: for a single logit, whose cross-entropy is always 0, or one-hot labels.
    """
    logits, y_true = tf.convert_to_tensor(logits), tf.convert_to_tensor(y_true)
    if logits.shape.rank == 1 or logits.shape[-1] == 1:
        raise InputError(
            "Cross-entropy over classes needs at least two outputs: give loss=keras.losses.BinaryCrossentropy("
            "from_logits=True), or the loss that the model was trained with."
        )
    if y_true.shape.rank == logits.shape.rank and y_true.shape[-1] == logits.shape[-1]:
        raise InputError(
            "The default loss takes class indices, and these targets have one entry per class: give loss="
            "keras.losses.CategoricalCrossentropy(from_logits=True), or the loss that the model was trained with."
        )
    if logits.dtype != tf.float64:
        logits = tf.cast(logits, tf.float32)
    labels = tf.reshape(tf.cast(y_true, tf.int64), tf.shape(logits)[:-1])
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)


def call(
    model: keras.Model,
    variables: Sequence[keras.Variable],
    values: Sequence[tf.Tensor],
    inputs: tf.Tensor,
    *,
    training: bool = False,
    scope: Scope = contextlib.nullcontext,
) -> tf.Tensor:
    """Calls a model with given values in place of some variables, and changes no state.

    Writes of the call (batch-norm averages, seeds, metrics) are discarded; all other variables are read at call time.
    The result can be differentiated twice, also through normalization and max-pooling layers.

    Args:
      model: a built model.
      variables: the variables to replace.
      values: one tensor per variable, of its shape.
      inputs: the model's inputs, a tensor or a structure of tensors.
      training: whether layers behave as in training.
      scope: makes a context for the call, in which the values are in place.

    Returns:
      The model's outputs.
    """
    # The model is called as a layer, not through `stateless_call`: only `__call__` passes `training` through subclassed
    # models whose `call` does not take it.
    replaced = list(zip(variables, values, strict=True))
    with exact_derivatives(), keras.StatelessScope(state_mapping=replaced), scope():
        return model(inputs, training=training)


@dataclass(frozen=True)
class Objective:
    """The loss L(params; x, y) of a model; no method changes the model's state.

    Parameters are lists of tensors in the order of `model.trainable_variables`. Everything else
    (batch-norm statistics, seeds) is read from the model at call time, so with `training=True`
    repeated calls use the same dropout noise until training moves the seeds. Works in eager
    mode, `tf.function`, XLA and inside a replica context.

    Attributes:
      model: a built model, functional, sequential or subclassed.
      loss: a Keras loss, of any reduction, or a function (y_true, outputs) -> one loss per example, [n], or per token,
        [n, ...], which are averaged as in training; `cross_entropy` if None. Regularization is not included unless it
        is part of this function.
      scope: makes a context for each call of the model, such as `Execution.at_masks`, in which derivatives in inactive
        weights are zero.

    Examples:
      >>> import keras
      >>> import tensorflow as tf
      >>> from sparse_lib.objective import Objective
      >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
      >>> model.set_weights([tf.constant([[3.0]])])
      >>> objective = Objective(model, loss=lambda y, outputs: (outputs[:, 0] - y) ** 2)
      >>> x, y = tf.constant([[1.0], [2.0]]), tf.constant([1.0, 0.0])
      >>> float(objective.mean_loss(objective.params(), x, y))  # the mean of 2^2 and 6^2
      20.0
      >>> (product,) = objective.hvp(objective.params(), x, y, [tf.ones((1, 1))])
      >>> product.numpy().tolist()  # the second derivative, 2 mean(x^2)
      [[5.0]]
    """

    model: keras.Model
    loss: Loss | None = None
    scope: Scope = contextlib.nullcontext

    def __post_init__(self) -> None:
        """Checks the model and the loss.

        Raises:
          ValueError: if the model has no variables yet, or the loss is a class or a name.
        """
        if not isinstance(self.model, keras.Layer):
            raise InputError(f"Objective takes a Keras model first and a loss second, got {self.model!r} first.")
        if self.loss is not None:
            check_loss(self.loss)
        if not self.model.built:
            raise InputError(
                f"Model {self.model.name!r} is not built: call it on a batch once before passing it to Objective."
            )

    def params(self) -> list[tf.Tensor]:
        """Current trainable values.

        Returns:
          One tensor per variable, in the order of `model.trainable_variables`.
        """
        return [tf.convert_to_tensor(v) for v in self.model.trainable_variables]

    def outputs(self, params: Sequence[tf.Tensor], x: tf.Tensor, *, training: bool = False) -> tf.Tensor:
        """The model's outputs at given parameters.

        Args:
          params: trainable values, as from `params`.
          x: inputs with n examples.
          training: whether layers behave as in training (batch statistics, dropout).

        Returns:
          The outputs, in the structure of the model.

        Raises:
          ValueError: if the number of parameters differs from that of the model.
        """
        variables = self.model.trainable_variables
        if len(params) != len(variables):
            raise InputError(
                f"Got {len(params)} parameter tensors for {len(variables)} trainable variables: "
                "pass one for each, in the order of model.trainable_variables."
            )
        return call(self.model, variables, params, x, training=training, scope=self.scope)

    def losses(self, params: Sequence[tf.Tensor], x: tf.Tensor, y: tf.Tensor, *, training: bool = False) -> tf.Tensor:
        """Loss of each example.

        Args:
          params: trainable values, as from `params`.
          x: inputs with n examples.
          y: targets with n examples.
          training: whether layers behave as in training.

        Returns:
          Losses of shape [n].

        Raises:
          ValueError: if the loss function does not return one value per example.
        """
        return self.losses_of(self.outputs(params, x, training=training), y)

    def losses_of(self, outputs: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """Loss of each example from given outputs.

        Args:
          outputs: model outputs of n examples.
          y: targets of n examples.

        Returns:
          Losses of shape [n].

        Raises:
          ValueError: if the loss function does not return one value per example or token.
        """
        return losses_per_example(self.loss or cross_entropy, y, outputs)

    def mean_loss(
        self, params: Sequence[tf.Tensor], x: tf.Tensor, y: tf.Tensor, *, training: bool = False
    ) -> tf.Tensor:
        """Mean loss over the batch.

        Args:
          params: trainable values, as from `params`.
          x: inputs with n examples.
          y: targets with n examples.
          training: whether layers behave as in training.

        Returns:
          A scalar.
        """
        return tf.reduce_mean(self.losses(params, x, y, training=training))

    def loss_and_gradient(
        self, params: Sequence[tf.Tensor], x: tf.Tensor, y: tf.Tensor, *, training: bool = False
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Mean loss and its gradient, dense: no mask is applied.

        Args:
          params: trainable values, as from `params`.
          x: inputs with n examples.
          y: targets with n examples.
          training: whether layers behave as in training.

        Returns:
          The scalar loss, and one gradient per parameter of its shape; zeros where the loss does
          not depend on the parameter.
        """
        params = [tf.convert_to_tensor(p) for p in params]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(params)
            loss = self.mean_loss(params, x, y, training=training)
        return loss, _dense_gradient(tape, loss, params)

    def loss_and_gradient_over(
        self, data: Any, params: Sequence[tf.Tensor] | None = None, *, batch_size: int = BATCH_SIZE
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Mean loss over a whole data set and its gradient, dense, in inference mode.

        Args:
          data: examples in any form that `sparse_lib.batches.Batches.of` takes: a tuple (x, y) of arrays, a
            `tf.data.Dataset` of batches, or other batches.
          params: trainable values; None takes those of the model.
          batch_size: examples per pass (count), which bounds the memory and does not change the result.

        Returns:
          The scalar loss, and one gradient per parameter of its shape, in float64.

        Examples:
          >>> import keras
          >>> import numpy as np
          >>> from sparse_lib import Objective
          >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
          >>> model.set_weights([np.array([[3.0]])])
          >>> objective = Objective(model, keras.losses.MeanSquaredError())
          >>> loss, (gradient,) = objective.loss_and_gradient_over((np.array([[1.0], [2.0]]), np.array([[1.0], [0.0]])))
          >>> float(loss), gradient.numpy().tolist()  # the mean of 2^2 and 6^2, and of 2 * 2 * 1 and 2 * 6 * 2
          (20.0, [[14.0]])
        """
        batches = Batches.of(data, batch_size)
        values = self.params() if params is None else [tf.convert_to_tensor(p) for p in params]
        differentiate = graph_cache.keep(
            self.model, "objective", self.loss, lambda: tf.function(self.loss_and_gradient, reduce_retracing=True)
        )
        total = [tf.zeros([], tf.float64), *(tf.zeros(value.shape, tf.float64) for value in values)]
        for x, y in batches:
            loss, gradient = differentiate(values, x, y)
            share = tf.constant(count_examples(x) / batches.examples, tf.float64)
            total = [t + share * tf.cast(part, tf.float64) for t, part in zip(total, [loss, *gradient], strict=True)]
        return total[0], total[1:]

    def gradient(
        self, params: Sequence[tf.Tensor], x: tf.Tensor, y: tf.Tensor, *, training: bool = False
    ) -> list[tf.Tensor]:
        """Gradient of the mean loss.

        Args:
          params: trainable values, as from `params`.
          x: inputs with n examples.
          y: targets with n examples.
          training: whether layers behave as in training.

        Returns:
          One dense gradient per parameter.
        """
        return self.loss_and_gradient(params, x, y, training=training)[1]

    def hvp(
        self,
        params: Sequence[tf.Tensor],
        x: tf.Tensor,
        y: tf.Tensor,
        vectors: Sequence[tf.Tensor],
        *,
        training: bool = False,
    ) -> list[tf.Tensor]:
        """Hessian-vector product of the mean loss, reverse over reverse.

        `H v = d/dparams <g(params), v>`, with g the gradient and v held fixed (Pearlmutter 1994).

        Args:
          params: trainable values, as from `params`.
          x: inputs with n examples.
          y: targets with n examples.
          vectors: one tensor per parameter, of its shape.
          training: whether layers behave as in training.

        Returns:
          One product per parameter, of its shape.

        Raises:
          ValueError: if the number of vectors differs from the number of parameters.

        Examples:
          >>> import keras
          >>> import numpy as np
          >>> from sparse_lib import Objective
          >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
          >>> objective = Objective(model, keras.losses.mean_squared_error)
          >>> x, y = np.float32([[1, 2]]), np.zeros((1, 1), np.float32)  # L(w) = (w_1 + 2 w_2)^2
          >>> objective.hvp(objective.params(), x, y, [np.float32([[1], [0]])])[0].numpy().tolist()
          [[2.0], [4.0]]
        """
        if len(vectors) != len(params):
            raise InputError(f"Got {len(vectors)} vectors for {len(params)} parameters: pass one for each.")
        params = [tf.convert_to_tensor(p) for p in params]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(params)
            gradient = self.gradient(params, x, y, training=training)
        return _dense_gradient(tape, gradient, params, vectors)


def _dense_gradient(
    tape: tf.GradientTape,
    target: tf.Tensor | Sequence[tf.Tensor],
    params: Sequence[tf.Tensor],
    weights: Sequence[tf.Tensor] | None = None,
) -> list[tf.Tensor]:
    """Gradient of <target, weights>, with zeros for no dependence and no IndexedSlices."""
    gradient = tape.gradient(
        target,
        params,
        output_gradients=weights,
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    return [tf.convert_to_tensor(g) for g in gradient]
