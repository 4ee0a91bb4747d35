"""Block-diagonal operators of Kronecker products and diagonals, with inverses."""

import abc
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Self

import numpy as np
from scipy.sparse.linalg import LinearOperator

from sparse_lib._utils.errors import InputError
from sparse_lib.curvature.inverse import solve
from sparse_lib.curvature.subspace import Subspace

# Relative residual of inverse products, which take no pass over the data: far below the error of the approximation.
_TOLERANCE = 1e-10


class Block(abc.ABC):
    """A symmetric positive semidefinite matrix on some coordinates.

    Attributes:
      places: coordinates of the block in the operator, [m].
    """

    def __init__(self, places: np.ndarray) -> None:
        """Keeps the coordinates."""
        self.places = places

    @abc.abstractmethod
    def product(self, vectors: np.ndarray) -> np.ndarray:
        """Multiplies vectors [m, k] by the block."""

    @abc.abstractmethod
    def inverse_product(self, vectors: np.ndarray, damping: float) -> np.ndarray:
        """Multiplies vectors [m, k] by the inverse of the block + damping I."""

    @abc.abstractmethod
    def diagonal(self) -> np.ndarray:
        """The diagonal, [m]."""


class DiagonalBlock(Block):
    """A diagonal matrix."""

    def __init__(self, places: np.ndarray, values: np.ndarray) -> None:
        """Keeps the diagonal, [m]."""
        super().__init__(places)
        self._values = values

    def product(self, vectors: np.ndarray) -> np.ndarray:
        """Multiplies vectors by the diagonal."""
        return self._values[:, None] * vectors

    def inverse_product(self, vectors: np.ndarray, damping: float) -> np.ndarray:
        """Divides vectors by the damped diagonal."""
        return vectors / (self._values[:, None] + damping)

    def diagonal(self) -> np.ndarray:
        """The diagonal."""
        return self._values


class KroneckerBlock(Block):
    """The principal submatrix of A x B at some entries of the matrices V that it multiplies: V -> A V B.

    Attributes:
      left: A, symmetric, [rows, rows].
      right: B, symmetric, [columns, columns].
    """

    def __init__(self, places: np.ndarray, left: np.ndarray, right: np.ndarray, entries: np.ndarray) -> None:
        """Keeps the factors.

        Args:
          places: coordinates of the block in the operator, [m].
          left: A.
          right: B.
          entries: flat indices in V of the coordinates, [m].
        """
        super().__init__(places)
        self.left, self.right = left, right
        self._entries = entries
        self._is_whole = len(entries) == len(left) * len(right)

    def product(self, vectors: np.ndarray) -> np.ndarray:
        """Multiplies from both sides, with zeros at all other entries."""
        return self._gather(self.left @ self._scatter(vectors) @ self.right)

    def diagonal(self) -> np.ndarray:
        """Products of the diagonals of the factors."""
        return np.outer(np.diag(self.left), np.diag(self.right)).ravel()[self._entries]

    def inverse_product(self, vectors: np.ndarray, damping: float) -> np.ndarray:
        """In closed form; by conjugate gradients, preconditioned by it, where entries are missing.

        (A x B + d I)^-1 V = Q_A ((Q_A^T V Q_B) / (lambda_A lambda_B^T + d)) Q_B^T
        """
        if self._is_whole:
            return self._closed_inverse(vectors, damping)
        matrix = _operator(self.product, len(self.places))
        closed = _operator(lambda v: self._closed_inverse(v, damping), len(self.places))
        return solve(matrix, vectors, damping=damping, tolerance=_TOLERANCE, preconditioner=closed).x

    def _closed_inverse(self, vectors: np.ndarray, damping: float) -> np.ndarray:
        (left_values, left), (right_values, right) = self._eigenpairs
        inner = left.T @ self._scatter(vectors) @ right
        return self._gather(left @ (inner / (np.outer(left_values, right_values) + damping)) @ right.T)

    @cached_property
    def _eigenpairs(self) -> list[tuple[np.ndarray, np.ndarray]]:
        pairs = [np.linalg.eigh(factor) for factor in (self.left, self.right)]
        # Rounding makes eigenvalues of zero slightly negative.
        return [(np.maximum(values, 0.0), vectors) for values, vectors in pairs]

    def _scatter(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors [m, k] as matrices V, [k, rows, columns]."""
        whole = np.zeros((vectors.shape[1], len(self.left) * len(self.right)))
        whole[:, self._entries] = vectors.T
        return whole.reshape(-1, len(self.left), len(self.right))

    def _gather(self, matrices: np.ndarray) -> np.ndarray:
        return matrices.reshape(len(matrices), -1)[:, self._entries].T


def _operator(multiply: Callable[[np.ndarray], np.ndarray], size: int) -> LinearOperator:
    return LinearOperator(
        (size, size),
        lambda v: multiply(v.reshape(-1, 1))[:, 0],
        matmat=multiply,
        dtype=np.float64,
    )


class BlockOperator(LinearOperator):
    """A block-diagonal matrix [n, n] on the coordinates of a subspace.

    Attributes:
      subspace: the n coordinates.
      blocks: by name; together they hold every coordinate once.
    """

    def __init__(self, subspace: Subspace, blocks: Mapping[str, Block]) -> None:
        """Keeps the blocks."""
        super().__init__(np.float64, (subspace.size, subspace.size))
        self.subspace, self.blocks = subspace, blocks

    def inverse(self, damping: float) -> LinearOperator:
        """(G + damping I)^-1, exact, without further passes over the data.

        Whole Kronecker blocks are inverted by the eigendecompositions of their factors. Where masks leave entries out,
        the inverse of the remaining block is no Kronecker product: its products come from conjugate gradients, to a
        relative residual of 1e-10.

        Args:
          damping: added to the diagonal; positive.

        Returns:
          An operator of the same shape.

        Raises:
          ValueError: if the damping is not positive.
        """
        if not 0 < damping < np.inf:
            raise InputError(f"The damping must be positive, since the matrix may be singular; got {damping}.")
        return _Inverse(self.blocks, damping, self.shape[0])

    def diagonal(self) -> np.ndarray:
        """The exact diagonal, float64 [n]; its sum is the trace."""
        diagonal = np.empty(self.shape[0])
        for block in self.blocks.values():
            diagonal[block.places] = block.diagonal()
        return diagonal

    def _matvec(self, vector: np.ndarray) -> np.ndarray:
        return self._matmat(vector.reshape(-1, 1))[:, 0]

    def _matmat(self, matrix: np.ndarray) -> np.ndarray:
        products = np.empty_like(matrix, np.float64)
        for block in self.blocks.values():
            products[block.places] = block.product(np.asarray(matrix[block.places], np.float64))
        return products

    def _adjoint(self) -> Self:
        return self

    _transpose = _adjoint


class _Inverse(LinearOperator):
    """Inverse of damped blocks."""

    def __init__(self, blocks: Mapping[str, Block], damping: float, size: int) -> None:
        super().__init__(np.float64, (size, size))
        self._blocks, self._damping = blocks, damping

    def _matvec(self, vector: np.ndarray) -> np.ndarray:
        return self._matmat(vector.reshape(-1, 1))[:, 0]

    def _matmat(self, matrix: np.ndarray) -> np.ndarray:
        products = np.empty_like(matrix, np.float64)
        for block in self._blocks.values():
            part = np.asarray(matrix[block.places], np.float64)
            products[block.places] = block.inverse_product(part, self._damping)
        return products

    def _adjoint(self) -> Self:
        return self

    _transpose = _adjoint
