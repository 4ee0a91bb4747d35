"""Matrix-free Gauss-Newton and Fisher matrices: J^T M J with the Jacobian J of the model's outputs."""

import abc
from collections.abc import Callable
from typing import Literal, get_args

import tensorflow as tf

from sparse_lib._utils.errors import InputError
from sparse_lib.batches import Batches
from sparse_lib.curvature.operators import CurvatureOperator, LinearMap, Tensors, pull_back
from sparse_lib.curvature.subspace import Subspace
from sparse_lib.objective import Objective

Labels = Literal["model", "sampled", "data"]
OutputMap = Callable[[tf.Tensor], tf.Tensor]

# The scores of a likelihood have mean zero; float errors per class are far below this.
_SCORE_TOLERANCE = 1e-3


class OutputCurvatureOperator(CurvatureOperator):
    """Base class of 1/n sum_i J_i^T M_i J_i, with the Jacobian J_i of example i's outputs and a matrix M_i."""

    @abc.abstractmethod
    def _output_map(self, outputs: tf.Tensor, y: tf.Tensor, index: tf.Tensor) -> OutputMap:
        """The map u -> M u for all examples of a batch, on tensors of the outputs' shape."""

    def _linear_map(self, params: Tensors, x: tf.Tensor, y: tf.Tensor, index: tf.Tensor) -> LinearMap:
        with tf.GradientTape(watch_accessed_variables=False, persistent=True) as outer:
            with tf.GradientTape(watch_accessed_variables=False, persistent=True) as inner:
                inner.watch(params)
                outputs = _require_tensor(self.objective.outputs(params, x, training=self._training))
            # J^T w is linear in w, so its derivative J can be taken at any w.
            weights = tf.zeros_like(outputs)
            outer.watch(weights)
            pullback = pull_back(inner, outputs, params, weights)
        output_map = self._output_map(_at_least_float32(outputs), y, index)
        examples = tf.shape(outputs)[0]

        def product(vectors: Tensors) -> list[tf.Tensor]:
            (pushed,) = pull_back(outer, pullback, [weights], vectors)
            weighted = tf.cast(output_map(_at_least_float32(pushed)), outputs.dtype)
            return [p / tf.cast(examples, p.dtype) for p in pull_back(inner, outputs, params, weighted)]

        return product


class GaussNewtonOperator(OutputCurvatureOperator):
    """The generalised Gauss-Newton matrix (Schraudolph 2002), matrix-free.

    G = 1/n sum_i J_i^T H_i J_i,  H_i = d^2 L_i / d outputs_i^2

    It is positive semidefinite for losses that are convex in the outputs, such as cross-entropy and squared error.
    """

    def _output_map(self, outputs: tf.Tensor, y: tf.Tensor, index: tf.Tensor) -> OutputMap:
        del index
        with tf.GradientTape(watch_accessed_variables=False, persistent=True) as tape:
            tape.watch(outputs)
            gradient = _output_gradient(self.objective, outputs, y)
        return lambda vector: pull_back(tape, gradient, [outputs], vector)[0]


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
        if labels not in get_args(Labels) or samples < 1:
            raise InputError(
                f"labels must be one of {', '.join(get_args(Labels))} and samples at least 1; "
                f"got {labels!r} and {samples}."
            )
        super().__init__(objective, params, batches, subspace, training=training)
        self._labels = labels
        self._samples = samples
        self._seed = seed
        if labels != "data":
            self._check_likelihood()

    def _check_likelihood(self) -> None:
        x, y = next(iter(self._batches))
        outputs = _at_least_float32(_require_tensor(self.objective.outputs(self._params, x, training=self._training)))
        if outputs.shape.rank != 2:
            raise InputError(f"Labels of the model need outputs of shape [n, classes]; got {outputs.shape}.")
        mean = self._sum_over_classes(outputs, y, lambda probability, score: probability * score)
        if not float(tf.reduce_max(tf.abs(mean))) < _SCORE_TOLERANCE:
            raise InputError(
                "The loss is not the cross-entropy of softmax(outputs), so the model's labels do not follow from "
                "it: use labels='data', or GaussNewtonOperator."
            )

    def _output_map(self, outputs: tf.Tensor, y: tf.Tensor, index: tf.Tensor) -> OutputMap:
        if self._labels == "model":
            return lambda vector: self._sum_over_classes(
                outputs, y, lambda probability, score: probability * _apply_outer_product(score, vector)
            )
        if self._labels == "data":
            scores = _output_gradient(self.objective, outputs, y)[None]
        else:
            labels = self._draw(outputs, index)
            scores = tf.map_fn(lambda own: self._score(outputs, y, own), labels, fn_output_signature=outputs.dtype)
        return lambda vector: tf.reduce_mean(_apply_outer_product(scores, vector), axis=0)

    def _draw(self, outputs: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        """Samples labels of the model by the Gumbel-max trick, [samples, n]."""
        shape = tf.concat([[self._samples], tf.shape(outputs)], axis=0)
        uniform = tf.random.stateless_uniform(shape, tf.stack([self._seed, index]), minval=1e-30, alg="philox")
        return tf.argmax(outputs - tf.cast(tf.math.log(-tf.math.log(uniform)), outputs.dtype), axis=-1)

    def _score(self, outputs: tf.Tensor, y: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Gradient of each example's loss in its outputs, with the given class indices as labels."""
        return _output_gradient(self.objective, outputs, _encode_labels(labels, outputs, y))

    def _sum_over_classes(
        self, outputs: tf.Tensor, y: tf.Tensor, term: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    ) -> tf.Tensor:
        """Sum over classes c of term(p_c [n, 1], gradient of the loss with label c [n, classes])."""
        probabilities = tf.nn.softmax(outputs)

        def add(total: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
            score = self._score(outputs, y, tf.fill(tf.shape(outputs)[:1], label))
            return total + term(tf.gather(probabilities, label, axis=-1)[:, None], score)

        # One class at a time: 1,000 classes at once would take 1,000 times the memory of the outputs.
        return tf.foldl(add, tf.range(outputs.shape[-1]), tf.zeros_like(outputs), parallel_iterations=1)


def _require_tensor(outputs: tf.Tensor) -> tf.Tensor:
    if not tf.is_tensor(outputs):
        raise InputError("The model returns several outputs; Gauss-Newton and Fisher matrices need a single tensor.")
    return outputs


def _at_least_float32(outputs: tf.Tensor) -> tf.Tensor:
    """Casts half-precision outputs to float32, in which losses are computed."""
    return outputs if outputs.dtype == tf.float64 else tf.cast(outputs, tf.float32)


def _output_gradient(objective: Objective, outputs: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Gradient of each example's loss in its outputs."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(outputs)
        losses = objective.losses_of(outputs, y)
    return pull_back(tape, losses, [outputs], None)[0]


def _apply_outer_product(scores: tf.Tensor, vector: tf.Tensor) -> tf.Tensor:
    """(s s^T) v of each example; several scores per example lie along a leading axis."""
    within_example = list(range(1 - vector.shape.rank, 0))
    return scores * tf.reduce_sum(scores * vector, axis=within_example, keepdims=True)


def _encode_labels(labels: tf.Tensor, outputs: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Encodes class indices [n] like the labels of the data: indices [n] or [n, 1], or one-hot rows."""
    if y.shape.rank == 2 and y.shape[-1] == outputs.shape[-1]:
        return tf.one_hot(labels, outputs.shape[-1], dtype=y.dtype)
    return tf.reshape(tf.cast(labels, y.dtype), tf.shape(y))
