"""Matrix-free curvature matrices of a model on a data set, as scipy linear operators."""

import abc
import copy
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Self

import numpy as np
import tensorflow as tf
from scipy.sparse import eye_array
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from sparse_lib._utils.errors import InputError
from sparse_lib.batches import Batches
from sparse_lib.curvature.data_mean import DataMean
from sparse_lib.curvature.subspace import Subspace
from sparse_lib.objective import Objective

Tensors = Sequence[tf.Tensor]
LinearMap = Callable[[Tensors], list[tf.Tensor]]

# Products in one graph share the forward pass and the gradient: four cost about 0.6 times as much each as one alone
# (LeNet5, WRN-22-2), for about twice the memory. Eight are not faster; a loop over vectors inside the graph and
# vectorised products are slower than single products.
VECTORS_AT_ONCE = 4


class CurvatureOperator(LinearOperator, abc.ABC):
    """Base class of symmetric matrices [n, n] that are means over the examples of a data set, as scipy operators.

    Vectors are float64; products are computed in the model's precision and averaged over batches in float64. SciPy's
    operator algebra and solvers (`eigsh`, `cg`) apply. Each product is one pass over the data.

    Attributes:
      objective: the loss.
      subspace: the n coordinates.
    """

    def __init__(
        self,
        objective: Objective,
        params: Tensors,
        batches: Any,
        subspace: Subspace,
        *,
        training: bool = False,
    ) -> None:
        """Prepares the graph; nothing is computed yet.

        Args:
          objective: the loss.
          params: trainable values at which the matrix is taken, as from `objective.params()`.
          batches: the data set, in any form that `Batches.of` takes.
          subspace: coordinates of the matrix; all other weights are constants.
          training: whether layers run in training mode; batch norm then uses the statistics of each batch.

        Raises:
          ValueError: if the shapes of the parameters are not those of the subspace.
        """
        super().__init__(np.float64, (subspace.size, subspace.size))
        self.objective = objective
        self.subspace = subspace
        self._params = check_shapes(params, subspace)
        self._batches = Batches.of(batches)
        self._training = training
        self._mean = DataMean(self._products, objective.model)

    @abc.abstractmethod
    def _linear_map(self, params: Tensors, x: tf.Tensor, y: tf.Tensor, index: tf.Tensor) -> LinearMap:
        """Records the computation shared by all products on a batch.

        Args:
          params: trainable values.
          x: inputs of the batch.
          y: targets of the batch.
          index: index of the batch in the data set.

        Returns:
          Function from a vector to its product, both as one tensor per parameter; it can be called repeatedly.
        """

    def at(self, params: Tensors | None = None, *, batches: Any = None, subspace: Subspace | None = None) -> Self:
        """Copies the operator to other weights, data or coordinates, reusing its compiled graph.

        Args:
          params: new trainable values; None keeps the old ones.
          batches: new data set; None keeps the old one.
          subspace: new coordinates; None keeps the old ones.

        Returns:
          A new operator.

        Raises:
          ValueError: if the shapes of the parameters are not those of the subspace.
        """
        other = copy.copy(self)
        other.subspace = self.subspace if subspace is None else subspace
        other._params = check_shapes(self._params if params is None else params, other.subspace)
        other._batches = self._batches if batches is None else Batches.of(batches)
        other.shape = (other.subspace.size, other.subspace.size)
        return other

    def _matvec(self, vector: np.ndarray) -> np.ndarray:
        return self._matmat(vector.reshape(-1, 1))[:, 0]

    def _matmat(self, matrix: np.ndarray) -> np.ndarray:
        products = np.empty_like(matrix, np.float64)
        # Full blocks, then single vectors: any other number of vectors would compile another graph.
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
    """The Hessian of the mean loss on a subspace, matrix-free, by reverse-over-reverse products (Pearlmutter 1994).

    H = 1/n sum_i d^2 L_i / dw^2

    Examples:
      >>> import keras
      >>> import numpy as np
      >>> from sparse_lib import Objective, curvature
      >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
      >>> x, y = np.array([[1.0, 0.0], [0.0, 2.0]], np.float32), np.zeros((2, 1), np.float32)
      >>> objective = Objective(model, keras.losses.mean_squared_error)
      >>> batches, subspace = curvature.Batches.of((x, y), batch_size=1), curvature.Subspace.active(model)
      >>> hessian = curvature.HessianOperator(objective, objective.params(), batches, subspace)
      >>> (hessian @ np.eye(2)).tolist()  # H = x^T x
      [[1.0, 0.0], [0.0, 4.0]]
    """

    def _linear_map(self, params: Tensors, x: tf.Tensor, y: tf.Tensor, index: tf.Tensor) -> LinearMap:
        del index
        with tf.GradientTape(watch_accessed_variables=False, persistent=True) as tape:
            tape.watch(params)
            gradient = self.objective.gradient(params, x, y, training=self._training)
        return lambda vectors: pull_back(tape, gradient, params, vectors)


def pull_back(tape: tf.GradientTape, target: tf.Tensor | Tensors, sources: Tensors, weights: object) -> list[tf.Tensor]:
    """Vector-Jacobian product: the gradient of <target, weights> in the sources, dense.

    Args:
      tape: tape that recorded the target.
      target: tensor or tensors.
      sources: watched tensors.
      weights: constants of the target's shapes; None means ones.

    Returns:
      One tensor per source, of its shape; zero for sources that the target does not depend on.
    """
    zero = tf.UnconnectedGradients.ZERO
    gradient = tape.gradient(target, sources, output_gradients=weights, unconnected_gradients=zero)
    return [tf.convert_to_tensor(g) for g in gradient]


def check_shapes(params: Tensors, subspace: Subspace) -> list[tf.Tensor]:
    """Checks that parameters are those of a subspace.

    Args:
      params: trainable values.
      subspace: coordinates among them.

    Returns:
      The values as tensors.

    Raises:
      InputError: if their shapes differ.
    """
    tensors = [tf.convert_to_tensor(p) for p in params]
    if [tuple(t.shape) for t in tensors] != list(subspace.shapes):
        raise InputError(
            f"The subspace has {len(subspace.shapes)} variables of other shapes than the {len(tensors)} parameters: "
            "take it from the objective's model."
        )
    return tensors


def restricted(operator: LinearOperator, coordinates: np.ndarray) -> LinearOperator:
    """Principal submatrix P^T A P of any operator.

    For the blocks of a curvature operator, `operator.at(subspace=operator.subspace.only("conv1"))` is cheaper.

    Args:
      operator: A, symmetric, [n, n].
      coordinates: indices of the rows and columns, integers [m].

    Returns:
      Operator of shape [m, m].
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
      shift: number added to every eigenvalue.

    Returns:
      An operator of shape [n, n].
    """
    return operator + aslinearoperator(shift * eye_array(operator.shape[0]))


class Counted(LinearOperator):
    """Wraps an operator and counts its products.

    Attributes:
      products: matrix-vector products so far (count).
    """

    def __init__(self, operator: LinearOperator, notify: Callable[[int], None] | None = None) -> None:
        """Wraps an operator.

        Args:
          operator: any operator, [m, n].
          notify: function called with `products` after every call, for progress.
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
