"""Mean over the examples of the squared entries of their gradients: diagonals of Gauss-Newton and Fisher matrices."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from sparse_lib.batches import Batches
from sparse_lib.curvature.data_mean import DataMean
from sparse_lib.curvature.linear_layers import LinearLayer, Pass
from sparse_lib.curvature.operators import Tensors, pull_back
from sparse_lib.curvature.output_factors import Factor, at_least_float32, require_tensor
from sparse_lib.objective import Objective


class SquaredGradients:
    """1/n sum_i sum_k (J_i^T u_ik)^2 for each weight, with the Jacobian J_i of the outputs of example i.

    The gradient of a linear layer for one example is the product of what it multiplies and the gradients of its sums,
    which all examples share one backward pass for. Other variables take one backward pass per example.
    """

    def __init__(
        self, objective: Objective, factor: Factor, layers: Sequence[LinearLayer], wanted: Sequence[int]
    ) -> None:
        """Prepares the graph.

        Args:
          objective: the loss.
          factor: the vectors u_ik.
          layers: linear layers of the model.
          wanted: numbers of the trainable variables to compute; all others get zeros.
        """
        self._objective, self._factor = objective, factor
        self._layers = [each for each in layers if {each.kernel, each.bias} & {*wanted}]
        covered = {number for each in self._layers for number in (each.kernel, each.bias)}
        self._others = [number for number in wanted if number not in covered]
        self._mean = DataMean(self._of_batch, objective.model)

    def __call__(self, batches: Batches, params: Tensors) -> list[tf.Tensor]:
        """Computes the mean over a data set.

        Args:
          batches: the data.
          params: trainable values.

        Returns:
          One float64 tensor per trainable variable, of its shape.
        """
        return self._mean(batches, list(params))

    def _of_batch(self, params: Tensors, x: Any, y: tf.Tensor, index: tf.Tensor) -> list[tf.Tensor]:
        seen = Pass(self._objective, params, x, self._layers)
        factor = self._factor(at_least_float32(seen.outputs), y, index)
        squares = {number: tf.zeros_like(value) for number, value in enumerate(params)}
        totals = sum_over_factor(
            factor,
            lambda vectors: [
                _squares(inputs, gradients)
                for inputs, gradients in zip(seen.inputs, seen.gradients(vectors), strict=True)
            ],
            [tf.zeros([each.height, each.columns], factor.dtype) for each in self._layers],
        )
        for each, total in zip(self._layers, totals, strict=True):
            squares |= each.split(total)
        squares |= dict(zip(self._others, self._squares_by_example(params, x, factor), strict=True))
        examples = tf.shape(seen.outputs)[0]
        return [square / tf.cast(examples, square.dtype) for _, square in sorted(squares.items())]

    def _squares_by_example(self, params: Tensors, x: Any, factor: tf.Tensor) -> list[tf.Tensor]:
        """Sums over examples of squared gradients of variables outside of linear layers."""
        if not self._others:
            return []

        def add(total: list[tf.Tensor], example: tf.Tensor) -> list[tf.Tensor]:
            one = keras.tree.map_structure(lambda t: t[example : example + 1], x)
            with tf.GradientTape(watch_accessed_variables=False, persistent=True) as tape:
                tape.watch(params)
                outputs = require_tensor(self._objective.outputs(params, one, training=False))
            sources = [params[number] for number in self._others]
            own = tf.cast(factor[:, example : example + 1], outputs.dtype)
            return sum_over_factor(
                own,
                lambda u: [tf.square(at_least_float32(g)) for g in pull_back(tape, outputs, sources, u)],
                total,
            )

        zeros = [tf.zeros_like(at_least_float32(params[number])) for number in self._others]
        return tf.foldl(add, tf.range(tf.shape(factor)[1]), zeros, parallel_iterations=1)


def sum_over_factor(factor: tf.Tensor, term: Any, start: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Sums a function of the vectors u_k, one backward pass at a time.

    Args:
      factor: the vectors, [k, ...].
      term: from one vector to tensors.
      start: what to add to.

    Returns:
      The sums.
    """
    if not start:
        return []
    return tf.foldl(
        lambda total, vectors: [t + more for t, more in zip(total, term(vectors), strict=True)],
        factor,
        list(start),
        parallel_iterations=1,
    )


def _squares(inputs: tf.Tensor, gradients: tf.Tensor) -> tf.Tensor:
    """Sum over examples of the squares of sum_r a_r g_r^T, [rows, columns]."""
    if inputs.shape[1] == 1:
        return tf.matmul(tf.square(inputs[:, 0]), tf.square(gradients[:, 0]), transpose_a=True)
    # One example at a time, since the gradients of all together would take as many times the memory of the kernel.
    return tf.foldl(
        lambda total, pair: total + tf.square(tf.matmul(pair[0], pair[1], transpose_a=True)),
        (inputs, gradients),
        tf.zeros([inputs.shape[2], gradients.shape[2]], gradients.dtype),
        parallel_iterations=1,
    )
