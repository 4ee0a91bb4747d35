"""Products with the inverse of a damped matrix, by conjugate gradients."""

import functools
from typing import NamedTuple, Self

import numpy as np
from scipy.sparse.linalg import LinearOperator

from sparse_lib._utils.errors import InputError

# The residual that the iteration carries along drifts from the true one in float32; it is computed anew when it seems
# small enough, and the iteration goes on from there at most so often.
_RESTARTS = 5
# Iterations per coordinate after which no further progress is expected.
_ITERATIONS_PER_COORDINATE = 10


class Solution(NamedTuple):
    """Approximate solutions of (A + damping I) x = b.

    Attributes:
      x: of the shape of b.
      residuals: ||b - (A + damping I) x|| / ||b|| of each column, recomputed at the end, [k].
      iterations: products with A, each for all columns that had not converged (count).
      has_converged: whether every residual is within the tolerance.
    """

    x: np.ndarray
    residuals: np.ndarray
    iterations: int
    has_converged: bool


def solve(
    operator: LinearOperator,
    b: np.ndarray,
    *,
    damping: float = 0.0,
    tolerance: float = 1e-5,
    max_iterations: int | None = None,
    preconditioner: LinearOperator | None = None,
) -> Solution:
    """Solves (A + damping I) x = b by preconditioned conjugate gradients (Hestenes & Stiefel 1952).

    Columns of b are solved side by side: curvature operators multiply several vectors in one pass over the data. A
    column stops when ||b - (A + damping I) x|| <= tolerance ||b||. Stopping after few iterations is a regularisation of
    its own (Martens 2010).

    Args:
      operator: A, symmetric, [n, n]; A + damping I must be positive definite.
      b: right-hand sides, [n] or [n, k].
      damping: added to the diagonal.
      tolerance: relative residual at which a column stops (fraction); 1e-5 is scipy's.
      max_iterations: largest number of products (count); None means ten per coordinate.
      preconditioner: approximation of the inverse, symmetric positive definite, such as `KFACOperator.inverse(damping)`
        or the reciprocal of a damped diagonal.

    Returns:
      The solutions with their residuals. If it has not converged, they are the best found.

    Raises:
      ValueError: for a direction of curvature that is not positive, or arguments out of range.

    Examples:
      >>> import numpy as np
      >>> from scipy.sparse.linalg import aslinearoperator
      >>> from sparse_lib import curvature
      >>> operator = aslinearoperator(np.diag([1.0, 2.0, 5.0]))  # or a GaussNewtonOperator
      >>> curvature.solve(operator, np.ones(3), damping=1.0).x.round(6).tolist()
      [0.5, 0.333333, 0.166667]
    """
    size = operator.shape[0]
    limit = _ITERATIONS_PER_COORDINATE * size if max_iterations is None else max_iterations
    if not (0 < tolerance < 1) or limit < 1 or not np.isfinite(damping):
        raise InputError(
            "The tolerance must lie between 0 and 1, max_iterations be at least 1 and the damping finite; "
            f"got {tolerance}, {limit} and {damping}."
        )
    right = np.asarray(b, np.float64).reshape(size, -1)
    if not np.isfinite(right).all():
        raise InputError("The right-hand side has entries that are not finite.")
    norms = np.linalg.norm(right, axis=0)
    norms[norms == 0] = 1.0
    x, residual, done, left = np.zeros_like(right), right.copy(), 0, np.arange(right.shape[1])
    for _ in range(_RESTARTS):
        left = left[np.linalg.norm(residual[:, left], axis=0) > tolerance * norms[left]]
        if not left.size or done >= limit:
            break
        found = _Iteration(operator, damping, preconditioner, residual[:, left], tolerance * norms[left])
        steps, taken = found.run(limit - done)
        x[:, left] += steps
        done += taken
        residual[:, left] = right[:, left] - operator.matmat(x[:, left]) - damping * x[:, left]
    residuals = np.linalg.norm(residual, axis=0) / norms
    return Solution(x.reshape(np.shape(b)), residuals, done, bool((residuals <= tolerance).all()))


class _Iteration:
    """Conjugate gradients from zero, for several right-hand sides."""

    def __init__(
        self,
        operator: LinearOperator,
        damping: float,
        preconditioner: LinearOperator | None,
        right: np.ndarray,
        targets: np.ndarray,
    ) -> None:
        self._operator, self._damping, self._preconditioner = operator, damping, preconditioner
        self._residual, self._targets = right.copy(), targets

    def run(self, limit: int) -> tuple[np.ndarray, int]:
        """Solutions, and the number of products."""
        residual = self._residual
        x = np.zeros_like(residual)
        z = self._precondition(residual)
        direction, gain = z.copy(), self._squares(residual, z)
        left = np.arange(residual.shape[1])
        for done in range(limit):
            left = left[np.linalg.norm(residual[:, left], axis=0) > self._targets[left]]
            if not left.size:
                return x, done
            p = direction[:, left]
            product = self._operator.matmat(p) + self._damping * p
            curvature = np.sum(p * product, axis=0)
            if not np.all(curvature > 0):
                _refuse(p, curvature, self._damping)
            step = gain[left] / curvature
            x[:, left] += step * p
            residual[:, left] -= step * product
            z = self._precondition(residual[:, left])
            new = self._squares(residual[:, left], z)
            direction[:, left] = z + new / gain[left] * p
            gain[left] = new
        return x, limit

    def _precondition(self, residual: np.ndarray) -> np.ndarray:
        return residual if self._preconditioner is None else self._preconditioner.matmat(residual)

    @staticmethod
    def _squares(residual: np.ndarray, z: np.ndarray) -> np.ndarray:
        squares = np.sum(residual * z, axis=0)
        if not np.all((squares > 0) | ~residual.any(axis=0)):
            raise InputError("The preconditioner is not positive definite: take the inverse of a damped matrix.")
        return squares


def _refuse(directions: np.ndarray, curvature: np.ndarray, damping: float) -> None:
    quotients = curvature / np.sum(directions**2, axis=0)
    if not np.isfinite(quotients).all():
        raise InputError(
            "A product with the matrix is not finite: choose weights from before training diverged, or check the data."
        )
    raise InputError(
        f"The matrix with damping {damping:g} is not positive definite: a direction has curvature {quotients.min():g}. "
        f"Take a damping above {damping - quotients.min():g}, or the Gauss-Newton matrix instead of the Hessian."
    )


class InverseOperator(LinearOperator):
    """(A + damping I)^-1 as an operator; each product is a solution by conjugate gradients.

    Examples:
      >>> import numpy as np
      >>> from scipy.sparse.linalg import aslinearoperator
      >>> from sparse_lib import curvature
      >>> operator = aslinearoperator(np.diag([1.0, 2.0, 5.0]))  # or a GaussNewtonOperator
      >>> inverse = curvature.InverseOperator(operator, damping=1.0)
      >>> (inverse @ np.ones(3)).round(6).tolist()
      [0.5, 0.333333, 0.166667]
    """

    def __init__(
        self,
        operator: LinearOperator,
        *,
        damping: float,
        tolerance: float = 1e-5,
        max_iterations: int | None = None,
        preconditioner: LinearOperator | None = None,
    ) -> None:
        """Takes the options of `solve`.

        Args:
          operator: A, symmetric, [n, n].
          damping: added to the diagonal.
          tolerance: relative residual of the products (fraction).
          max_iterations: largest number of products with A (count); None means ten per coordinate.
          preconditioner: approximation of the inverse.
        """
        super().__init__(np.float64, operator.shape)
        self._solve = functools.partial(
            solve,
            operator,
            damping=damping,
            tolerance=tolerance,
            max_iterations=max_iterations,
            preconditioner=preconditioner,
        )

    def _matvec(self, vector: np.ndarray) -> np.ndarray:
        return self._matmat(vector.reshape(-1, 1))[:, 0]

    def _matmat(self, matrix: np.ndarray) -> np.ndarray:
        solution = self._solve(matrix)
        if not solution.has_converged:
            raise InputError(
                f"After {solution.iterations} products the relative residual is {solution.residuals.max():.2g}: take a "
                "larger damping, tolerance or max_iterations, or a preconditioner; `solve` returns what was found."
            )
        return solution.x

    def _adjoint(self) -> Self:
        return self

    _transpose = _adjoint
