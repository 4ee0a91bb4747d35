"""Matrix-free curvature matrices of a model on a data set, as scipy linear operators."""

import abc
import copy
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Self

import numpy as np
import tensorflow as tf
from scipy.sparse import eye_array
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from sparse_lib._utils.errors import InputError
from sparse_lib.curvature.batches import Batches
from sparse_lib.curvature.data_mean import DataMean
from sparse_lib.curvature.subspace import Subspace
from sparse_lib.objective import Objective

Tensors = Sequence[tf.Tensor]
LinearMap = Callable[[Tensors], list[tf.Tensor]]

# Products that share one graph share the forward pass and the gradient: four of them cost about 0.6 times as much each
# as one alone (LeNet5, WRN-22-2), for about twice the memory. Eight gain nothing more, and a loop over vectors inside
# the graph or vectorised products are slower than products one by one.
VECTORS_AT_ONCE = 4


class CurvatureOperator(LinearOperator, abc.ABC):
    """A symmetric matrix [n, n] that is the mean over a data set's examples, known by its products with vectors.

    Vectors are float64, products are computed in the model's precision and averaged over batches in float64. All of
    scipy applies: sums, multiples and products of operators, `eigsh`, `cg`. Each product is one pass over the data.

    Attributes:
      objective: the loss.
      subspace: what the n coordinates are.
    """

    def __init__(
        self,
        objective: Objective,
        params: Tensors,
        batches: Batches,
        subspace: Subspace,
        *,
        training: bool = False,
    ) -> None:
        """Prepares the graph; nothing is computed yet.

        Args:
          objective: the loss.
          params: where curvature is taken: trainable values, as from `objective.params()`.
          batches: the data set that it is averaged over.
          subspace: coordinates, of which there are n; what is not in it stays constant.
          training: whether layers behave as in training; batch norm then normalises over each batch.

        Raises:
          ValueError: if the parameters are not those that the subspace is of.
        """
        super().__init__(np.float64, (subspace.size, subspace.size))
        self.objective = objective
        self.subspace = subspace
        self._params = _fitting(params, subspace)
        self._batches = batches
        self._training = training
        self._mean = DataMean(self._products, objective.model)

    @abc.abstractmethod
    def _linear_map(self, params: Tensors, x: tf.Tensor, y: tf.Tensor, index: tf.Tensor) -> LinearMap:
        """Records what all products on a batch share.

        Args:
          params: trainable values.
          x: inputs of the batch.
          y: its targets.
          index: its place in the data set.

        Returns:
          Maps one tensor per parameter to the product, again one tensor per parameter; any number of times.
        """

    def at(
        self, params: Tensors | None = None, *, batches: Batches | None = None, subspace: Subspace | None = None
    ) -> Self:
        """The same kind of operator elsewhere, with the graph that is compiled already.

        Args:
          params: other trainable values.
          batches: another data set.
          subspace: other coordinates.

        Returns:
          A new operator; what is None stays.

        Raises:
          ValueError: if the parameters are not those that the subspace is of.
        """
        other = copy.copy(self)
        other.subspace = self.subspace if subspace is None else subspace
        other._params = _fitting(self._params if params is None else params, other.subspace)
        other._batches = self._batches if batches is None else batches
        other.shape = (other.subspace.size, other.subspace.size)
        return other

    def _matvec(self, vector: np.ndarray) -> np.ndarray:
        return self._matmat(vector.reshape(-1, 1))[:, 0]

    def _matmat(self, matrix: np.ndarray) -> np.ndarray:
        products = np.empty_like(matrix, np.float64)
        # Whole blocks, then one by one: a graph for every other number of vectors would have to be compiled first.
        columns = matrix.shape[1]
        whole = columns - columns % VECTORS_AT_ONCE
        starts = [*range(0, whole, VECTORS_AT_ONCE), *range(whole, columns)]
        for start, stop in pairwise([*starts, columns]):
            products[:, start:stop] = self._product(matrix[:, start:stop].T).T
        return products

    def _adjoint(self) -> Self:
        return self

    _transpose = _adjoint

    def _product(self, vectors: np.ndarray) -> np.ndarray:
        tensors = self.subspace.scatter(np.asarray(vectors, np.float64))
        cast = [tf.cast(tensor, p.dtype) for tensor, p in zip(tensors, self._params, strict=True)]
        return self.subspace.gather(self._mean(self._batches, self._params, cast)).numpy()

    def _products(self, params: Tensors, vectors: Tensors, x: tf.Tensor, y: tf.Tensor, index: tf.Tensor) -> Tensors:
        product = self._linear_map(params, x, y, index)
        products = [product(one) for one in zip(*map(tf.unstack, vectors), strict=True)]
        return [tf.stack(parts) for parts in zip(*products, strict=True)]


class HessianOperator(CurvatureOperator):
    """H = 1/n sum_i d^2 L_i / dw^2 on the subspace, by reverse over reverse products (Pearlmutter 1994)."""

    def _linear_map(self, params: Tensors, x: tf.Tensor, y: tf.Tensor, index: tf.Tensor) -> LinearMap:
        del index
        with tf.GradientTape(watch_accessed_variables=False, persistent=True) as tape:
            tape.watch(params)
            gradient = self.objective.gradient(params, x, y, training=self._training)
        return lambda vectors: pull_back(tape, gradient, params, vectors)


def pull_back(tape: tf.GradientTape, target: tf.Tensor | Tensors, sources: Tensors, weights: object) -> list[tf.Tensor]:
    """Gradient of <target, weights>, dense, with zeros for what the target does not depend on.

    Args:
      tape: has recorded the target.
      target: tensors.
      sources: watched tensors.
      weights: tensors of the target's shapes, held constant.

    Returns:
      One tensor a source, of its shape.
    """
    zero = tf.UnconnectedGradients.ZERO
    gradient = tape.gradient(target, sources, output_gradients=weights, unconnected_gradients=zero)
    return [tf.convert_to_tensor(g) for g in gradient]


def _fitting(params: Tensors, subspace: Subspace) -> list[tf.Tensor]:
    tensors = [tf.convert_to_tensor(p) for p in params]
    if [tuple(t.shape) for t in tensors] != list(subspace.shapes):
        raise InputError(
            f"The subspace is of {len(subspace.shapes)} variables of other shapes than the {len(tensors)} parameters: "
            "take it from the objective's model."
        )
    return tensors


def restricted(operator: LinearOperator, coordinates: np.ndarray) -> LinearOperator:
    """A sub-block of any operator.

    For a model's own blocks `operator.at(subspace=operator.subspace.only("conv1"))` needs no embedding.

    Args:
      operator: symmetric, [n, n].
      coordinates: which rows and columns, integers of shape [m].

    Returns:
      The operator P^T A P of shape [m, m].
    """
    n, m = operator.shape[0], len(coordinates)

    def embed(block: np.ndarray) -> np.ndarray:
        whole = np.zeros((n, *block.shape[1:]))
        whole[coordinates] = block
        return whole

    embedding = LinearOperator(
        (n, m), embed, lambda v: v[coordinates], embed, np.float64, lambda block: block[coordinates]
    )
    return embedding.T @ operator @ embedding


def shifted(operator: LinearOperator, shift: float) -> LinearOperator:
    """A + shift I.

    Args:
      operator: A, of shape [n, n].
      shift: what is added to every eigenvalue.

    Returns:
      An operator of shape [n, n].
    """
    return operator + aslinearoperator(shift * eye_array(operator.shape[0]))


class Counted(LinearOperator):
    """An operator that says how many products it has made, for progress and for cost.

    Attributes:
      products: matrix-vector products so far (count).
    """

    def __init__(self, operator: LinearOperator, notify: Callable[[int], None] | None = None) -> None:
        """Wraps an operator.

        Args:
          operator: any, [m, n].
          notify: called with `products` after every call.
        """
        super().__init__(operator.dtype, operator.shape)
        self.products = 0
        self._operator = operator
        self._notify = notify

    def _matvec(self, vector: np.ndarray) -> np.ndarray:
        return self._matmat(vector.reshape(-1, 1))[:, 0]

    def _matmat(self, matrix: np.ndarray) -> np.ndarray:
        result = self._operator.matmat(matrix)
        self.products += matrix.shape[1]
        if self._notify is not None:
            self._notify(self.products)
        return result
