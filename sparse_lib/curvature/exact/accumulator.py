"""Sum of the Hessian of a chain over examples: Gauss-Newton part by symmetric rank-k updates, and residual."""

from collections.abc import Sequence

import numpy as np
import scipy.linalg.blas
import tensorflow as tf

from sparse_lib._keras import precision
from sparse_lib._keras.graph import NoChainError
from sparse_lib.curvature.exact import gauss_newton_part, residual_part
from sparse_lib.curvature.exact.chain import Chain
from sparse_lib.objective import cross_entropy

# Memory for the Jacobians of a piece of a batch, or for the activations of a larger piece (bytes).
WORKSPACE = 2**27
# Largest piece for the residual (count): enough to hide the overhead of the operations in the loops.
_MOST_EXAMPLES = 4096
# Rows of a large matrix per operation (count).
_TILE = 512


class HessianTotal:
    """Sum of the Hessians of examples, on the coordinates of a chain.

    Attributes:
      upper: the sum so far, float64 [n, n], in the order of the chain; only the upper triangle is valid.
    """

    def __init__(self, chain: Chain, params: Sequence[tf.Tensor], x: tf.Tensor, y: tf.Tensor) -> None:
        """Starts at zero and compiles in the dtype of the parameters.

        Args:
          chain: of a model with softmax cross-entropy.
          params: trainable values, in the order of `model.trainable_variables`.
          x: any batch of inputs, for its shape.
          y: any batch of labels, for its shape.

        Raises:
          NoChainError: if a layer cannot be expressed as a map.
          ValueError: if the parameters are float64 and a layer rounds to less.
        """
        self._chain, self._params = chain, list(params)
        self._dtype = params[0].dtype
        size = len(chain.where)
        self.upper = np.zeros((size, size))
        # In float32 a batch is summed in float32 and added to the float64 total; BLAS requires Fortran order.
        self._short = np.zeros((size, size), np.float32, order="F") if self._dtype == tf.float32 else None
        specs = [tf.TensorSpec([None, *t.shape[1:]], t.dtype) for t in (x, y)]
        self._jacobian = tf.function(self._jacobian_of_batch, input_signature=specs[:1], autograph=False)
        self._residual = tf.function(self._residual_of_batch, input_signature=specs, autograph=False)
        try:
            traced = self._residual.get_concrete_function()
        except (TypeError, tf.errors.InvalidArgumentError) as error:
            raise NoChainError(f"a layer fails: {str(error).strip().splitlines()[0]}") from error
        if self._dtype == tf.float64:
            precision.check_float64(traced)
        self._batch = _examples_that_fit(self._dtype, 4 * self._activations)
        self._part = min(_examples_that_fit(self._dtype, self._classes * (4 * self._activations + size)), self._batch)

    def pieces(self, x: tf.Tensor, y: tf.Tensor) -> list[tuple[tf.Tensor, tf.Tensor]]:
        """Splits a batch into pieces whose activations fit into the workspace."""
        return [(x[i : i + self._batch], y[i : i + self._batch]) for i in range(0, x.shape[0], self._batch)]

    def add(self, x: tf.Tensor, y: tf.Tensor) -> None:
        """Adds the Hessians of some examples.

        Args:
          x: inputs, at most as many as one of `pieces` holds.
          y: labels.
        """
        for (start, stop), rows in zip(self._chain.rows[:-1], self._residual(x, y), strict=True):
            self.upper[start:stop, stop:] += rows.numpy()
        into = self.upper.T if self._short is None else self._short
        multiply = scipy.linalg.blas.dsyrk if self._short is None else scipy.linalg.blas.ssyrk
        for i in range(0, x.shape[0], self._part):
            jacobian = self._jacobian(x[i : i + self._part])
            # A view, not a copy. Row-major is the transpose of Fortran order: its lower triangle is our upper one.
            columns = np.asarray(memoryview(jacobian)).T
            keep = 0.0 if i == 0 and self._short is not None else 1.0
            multiply(1.0, columns, beta=keep, c=into, trans=1, lower=1, overwrite_c=1)
        if self._short is not None:
            for start in range(0, len(self.upper), _TILE):
                self.upper[start : start + _TILE, start:] += self._short.T[start : start + _TILE, start:]

    def product(self, vector: np.ndarray) -> np.ndarray:
        """Multiplies the sum so far by a vector of the subspace.

        Args:
          vector: shape [n].

        Returns:
          Shape [n].
        """
        where = self._chain.where
        product = np.empty_like(self.upper[0])
        product[where] = scipy.linalg.blas.dsymv(1.0, self.upper.T, np.asarray(vector, np.float64)[where], lower=1)
        return product

    def matrix(self) -> np.ndarray:
        """Fills the lower triangle in place and returns the matrix in the order of the subspace.

        The accumulator cannot be used afterwards.

        Returns:
          Symmetric, float64 [n, n].
        """
        size, where = len(self.upper), self._chain.where
        for start in range(0, size, _TILE):
            rows = slice(start, start + _TILE)
            square = self.upper[rows, rows]
            self.upper[rows, rows] = np.triu(square) + np.triu(square, 1).T
            self.upper[rows, :start] = self.upper[:start, rows].T
        if np.array_equal(where, np.arange(size)):
            return self.upper
        back = np.argsort(where)
        return self.upper[np.ix_(back, back)]

    def _jacobian_of_batch(self, x: tf.Tensor) -> tf.Tensor:
        """J^T F, [n, (classes - 1) * examples]."""
        maps = self._chain.maps(self._params, x)
        return gauss_newton_part.jacobian(
            maps, gauss_newton_part.pull_through(maps, gauss_newton_part.softmax_factor(maps[-1].outputs))
        )

    def _residual_of_batch(self, x: tf.Tensor, y: tf.Tensor) -> list[tf.Tensor]:
        maps = self._chain.maps(self._params, x)
        logits = maps[-1].outputs
        if logits.shape.rank != 2:
            raise NoChainError("the logits are not one vector an example")
        self._classes = logits.shape[1]
        self._activations = sum(int(np.prod(m.outputs.shape[1:])) for m in maps)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(logits)
            losses = cross_entropy(y, logits)
        cotangents = gauss_newton_part.pull_through(maps, tape.gradient(losses, logits)[tf.newaxis])
        return residual_part.blocks(maps, [c[0] for c in cotangents])


def _examples_that_fit(dtype: tf.DType, elements: int) -> int:
    """Number of examples that fit into the workspace, with `elements` values each (count)."""
    return int(np.clip(WORKSPACE // (dtype.size * elements), 1, _MOST_EXAMPLES))
