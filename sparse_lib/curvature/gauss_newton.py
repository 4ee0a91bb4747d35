"""Matrix-free Gauss-Newton and Fisher matrices: J^T M J with the Jacobian J of the model's outputs."""

import abc
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from sparse_lib._utils.errors import InputError
from sparse_lib.batches import Batches
from sparse_lib.curvature import output_factors
from sparse_lib.curvature.linear_layers import linear_layers
from sparse_lib.curvature.operators import CurvatureOperator, LinearMap, Tensors, pull_back
from sparse_lib.curvature.output_factors import Factor, Labels
from sparse_lib.curvature.squared_gradients import SquaredGradients
from sparse_lib.curvature.subspace import Subspace
from sparse_lib.objective import Objective

OutputMap = Callable[[tf.Tensor], tf.Tensor]


class OutputCurvatureOperator(CurvatureOperator):
    """Base class of 1/n sum_i J_i^T M_i J_i, with the Jacobian J_i of example i's outputs and a matrix M_i."""

    @abc.abstractmethod
    def _output_map(self, outputs: tf.Tensor, y: tf.Tensor, index: tf.Tensor) -> OutputMap:
        """The map u -> M u for all examples of a batch, on tensors of the outputs' shape."""

    @abc.abstractmethod
    def _factor(self) -> Factor:
        """Vectors u_ik with M_i = sum_k u_ik u_ik^T."""

    def diagonal(self) -> np.ndarray:
        """The exact diagonal, 1/n sum_i sum_k (J_i^T u_ik)^2, from gradients of single examples.

        One pass over the data, in which as many gradients are computed as the outputs of an example have entries (one
        with labels of the data, `samples` with sampled ones). Dense, convolutional and einsum layers take a few matrix
        products each; all other variables, such as those of batch norm, one gradient per example.

        Returns:
          Float64 [n].

        Raises:
          ValueError: in training mode, in which examples have no gradients of their own.
        """
        if self._training:
            raise InputError("The exact diagonal needs training=False: in training mode examples are not independent.")
        layers = linear_layers(self.objective, self._params, next(iter(self._batches))[0])
        wanted = [number for number, index in enumerate(self.subspace.indices) if len(index)]
        squares = SquaredGradients(self.objective, self._factor(), layers, wanted)
        return self.subspace.gather(squares(self._batches, self._params)).numpy()

    def _linear_map(self, params: Tensors, x: tf.Tensor, y: tf.Tensor, index: tf.Tensor) -> LinearMap:
        with tf.GradientTape(watch_accessed_variables=False, persistent=True) as outer:
            with tf.GradientTape(watch_accessed_variables=False, persistent=True) as inner:
                inner.watch(params)
                outputs = output_factors.require_tensor(self.objective.outputs(params, x, training=self._training))
            # J^T w is linear in w, so its derivative J can be taken at any w.
            weights = tf.zeros_like(outputs)
            outer.watch(weights)
            pullback = pull_back(inner, outputs, params, weights)
        output_map = self._output_map(output_factors.at_least_float32(outputs), y, index)
        examples = tf.shape(outputs)[0]

        def product(vectors: Tensors) -> list[tf.Tensor]:
            (pushed,) = pull_back(outer, pullback, [weights], vectors)
            weighted = tf.cast(output_map(output_factors.at_least_float32(pushed)), outputs.dtype)
            return [p / tf.cast(examples, p.dtype) for p in pull_back(inner, outputs, params, weighted)]

        return product


class GaussNewtonOperator(OutputCurvatureOperator):
    """The generalised Gauss-Newton matrix (Schraudolph 2002), matrix-free.

    G = 1/n sum_i J_i^T H_i J_i,  H_i = d^2 L_i / d outputs_i^2

    It is positive semidefinite for losses that are convex in the outputs, such as cross-entropy and squared error.
    """

    def _output_map(self, outputs: tf.Tensor, y: tf.Tensor, index: tf.Tensor) -> OutputMap:
        del index
        return output_factors.output_hessian(self.objective, outputs, y)

    def _factor(self) -> Factor:
        return output_factors.gauss_newton_factor(self.objective)


class FisherOperator(OutputCurvatureOperator):
    """The Fisher information matrix, matrix-free.

    F = 1/n sum_i E_y[g_i(y) g_i(y)^T],  g_i(y) the gradient of example i's loss with label y

    The expectation is over the model's labels y ~ softmax(outputs), exactly or by sampling; or over the labels of the
    data, which gives the empirical Fisher matrix (Kunstner et al. 2019). For cross-entropy, the exact expectation gives
    the Gauss-Newton matrix.
    """

    def __init__(
        self,
        objective: Objective,
        params: Tensors,
        batches: Batches,
        subspace: Subspace,
        *,
        labels: Labels = "model",
        samples: int = 1,
        seed: int = 0,
        training: bool = False,
    ) -> None:
        """Prepares the graph.

        Args:
          objective: the loss; unless labels are those of the data, a cross-entropy of softmax(outputs), [n, classes].
          params: trainable values at which the matrix is taken.
          batches: the data set.
          subspace: coordinates of the matrix.
          labels: `model` sums over all classes, `sampled` draws labels, `data` takes the given labels.
          samples: number of labels drawn per example (count).
          seed: random seed; the draws of a batch depend on (seed, index of the batch).
          training: whether layers run in training mode.

        Raises:
          ValueError: for unknown labels, no samples, or a loss that is not the likelihood of the model's labels.
        """
        output_factors.check_labels(labels, samples)
        super().__init__(objective, params, batches, subspace, training=training)
        self._labels = labels
        self._samples = samples
        self._seed = seed
        if labels != "data":
            data = next(iter(batches))
            outputs = output_factors.first_outputs(objective, self._params, data, training)
            output_factors.check_likelihood(objective, outputs, data[1])

    def _factor(self) -> Factor:
        return output_factors.fisher_factor(self.objective, self._labels, self._samples, self._seed)

    def _output_map(self, outputs: tf.Tensor, y: tf.Tensor, index: tf.Tensor) -> OutputMap:
        if self._labels == "model":
            return lambda vector: output_factors.sum_over_classes(
                self.objective,
                outputs,
                y,
                lambda probability, score: probability * _apply_outer_product(score, vector),
            )
        if self._labels == "data":
            scores = output_factors.output_gradient(self.objective, outputs, y)[None]
        else:
            labels = output_factors.draw(outputs, index, self._samples, self._seed)
            scores = output_factors.sampled_scores(self.objective, outputs, y, labels)
        return lambda vector: tf.reduce_mean(_apply_outer_product(scores, vector), axis=0)


def _apply_outer_product(scores: tf.Tensor, vector: tf.Tensor) -> tf.Tensor:
    """(s s^T) v of each example; several scores per example lie along a leading axis."""
    within_example = list(range(1 - vector.shape.rank, 0))
    return scores * tf.reduce_sum(scores * vector, axis=within_example, keepdims=True)
