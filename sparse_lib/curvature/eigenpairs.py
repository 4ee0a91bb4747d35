"""Extreme eigenvalues and their eigenvectors."""

from typing import Literal, NamedTuple, get_args

import numpy as np
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, aslinearoperator, eigsh

from sparse_lib.curvature.lanczos import lanczos, random_start
from sparse_lib.curvature.operators import Counted, shifted

Which = Literal["largest", "smallest", "magnitude"]

# Below this a dense decomposition takes fewer products than iterations do.
_DENSE = 64
_NORM_STEPS = 8
_CHECK_STEPS = 40


class Eigenpairs(NamedTuple):
    """Some eigenvalues of a symmetric matrix.

    Attributes:
        values: The outermost first, [k].
        vectors: Unit eigenvectors as columns, [n, k].
        residuals: ||A v - lambda v|| of each, [k]: an eigenvalue lies within this distance of lambda.
        products: Matrix-vector products that it took (count).
    """

    values: np.ndarray
    vectors: np.ndarray
    residuals: np.ndarray
    products: int


def extreme(
    operator: LinearOperator,
    k: int = 1,
    which: Which = "largest",
    *,
    tolerance: float = 1e-5,
    max_iterations: int = 300,
    seed: int = 0,
) -> Eigenpairs:
    """The k outermost eigenvalues and their eigenvectors, by implicitly restarted Lanczos (ARPACK).

    Args:
        operator: Symmetric, [n, n]; for few dimensions it is decomposed whole.
        k: How many (count).
        which: `largest` or `smallest` in value, or largest in `magnitude`.
        tolerance: Residual that is asked for, relative to the matrix's norm (fraction). An eigenvalue's error is at
            most that, and its square over the gap to the next eigenvalue; products in float32 cannot give below 1e-6.
        max_iterations: Restarts before giving up (count).
        seed: Seed of the start vector.

    Returns:
        Eigenvalues, eigenvectors and their true residuals.

    Raises:
        ValueError: For k or `which` out of range, products that are not finite, or no convergence.
    """
    size = operator.shape[0]
    if not 1 <= k <= size or which not in get_args(Which):
        raise ValueError(f"k must be 1 to {size} and which one of {', '.join(get_args(Which))}; got {k} and {which!r}.")
    counted = Counted(operator)
    if size <= max(_DENSE, 2 * k + 1):
        values, vectors = _dense(counted)
    else:
        values, vectors = _iterated(counted, k, which, tolerance, max_iterations, seed)
    keys = {"largest": -values, "smallest": values, "magnitude": -np.abs(values)}[which]
    order = np.argsort(keys, kind="stable")[:k]
    values, vectors = values[order], vectors[:, order]
    residuals = np.linalg.norm(counted.matmat(vectors) - vectors * values, axis=0)
    return Eigenpairs(values, vectors, residuals, counted.products)


def _dense(operator: LinearOperator) -> tuple[np.ndarray, np.ndarray]:
    matrix = operator.matmat(np.eye(operator.shape[0]))
    if not np.isfinite(matrix).all():
        raise ValueError("A product with the matrix is not finite: check the loss at these weights first.")
    return np.linalg.eigh((matrix + matrix.T) / 2)


def _iterated(
    operator: LinearOperator, k: int, which: Which, tolerance: float, max_iterations: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    size = operator.shape[0]
    start = random_start(size, seed)
    first = lanczos(operator, _NORM_STEPS, start=start)
    norm = np.abs(first.quadrature()[0]).max() + first.residual
    if norm == 0:
        return np.zeros(k), np.eye(size, k)
    # ARPACK's tolerance is relative to each eigenvalue and never met at one that is zero, as the smallest of a
    # semidefinite matrix is. Shifted away from zero it is relative to the norm.
    shift = {"largest": norm, "smallest": -norm, "magnitude": 0.0}[which]
    matrix = shifted(operator, shift)

    def outermost(matrix: LinearOperator, k: int, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        try:
            return eigsh(matrix, k, which="LM", v0=start, tol=tolerance, maxiter=max_iterations)
        except ArpackNoConvergence as error:
            raise ValueError(
                f"Only {len(error.eigenvalues)} of {k} eigenpairs converged in {operator.products} products: raise "
                "tolerance or max_iterations, or ask for fewer."
            ) from error

    values, vectors = outermost(matrix, k, start)
    # From one start the copies of a repeated eigenvalue are found by rounding error only, or not at all: look whether
    # what is left has any eigenvalue further out.
    for attempt in range(1, size):
        rest = matrix - aslinearoperator(vectors * values) @ aslinearoperator(vectors.T)
        found = lanczos(rest, _CHECK_STEPS, start=random_start(size, seed, attempt)).ritz()
        best = np.argmax(np.abs(found.values))
        if np.abs(found.values[best]) <= np.abs(values).min() + tolerance * norm:
            break
        value, vector = outermost(rest, 1, found.vectors[:, best])
        keep = np.argsort(-np.abs(values))[: k - 1]
        values, vectors = np.append(values[keep], value), np.column_stack([vectors[:, keep], vector])
    return values - shift, vectors
