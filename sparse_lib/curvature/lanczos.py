"""Lanczos iteration with full re-orthogonalisation."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import eigh_tridiagonal
from scipy.sparse.linalg import LinearOperator

from sparse_lib._utils.errors import InputError

# A remainder below this share of the matrix norm is rounding error.
_BREAKDOWN = 100 * np.finfo(np.float64).eps
# Steps between calls of the stopping criterion.
_CHECK_EVERY = 10

Iteration = Generator[np.ndarray, np.ndarray, "Lanczos"]


class Ritz(NamedTuple):
    """Approximate eigenpairs.

    Attributes:
      values: ascending, [m].
      residuals: ||A x - theta x|| of each pair, [m]; some eigenvalue lies within this distance of theta.
      vectors: unit vectors as columns, [n, m].
    """

    values: np.ndarray
    residuals: np.ndarray
    vectors: np.ndarray


@dataclass(frozen=True, eq=False)
class Lanczos:
    """A Q = Q T + residual q_next e_m^T, with T tridiagonal and the columns of Q orthonormal.

    Attributes:
      diagonal: diagonal of T, [m].
      off_diagonal: off-diagonal of T, [m - 1]; 0 where the Krylov space was exhausted and a new direction was drawn.
      residual: norm of the part of the last product outside the basis.
      basis: Q^T, basis vectors as rows, [m, n].
    """

    diagonal: np.ndarray
    off_diagonal: np.ndarray
    residual: float
    basis: np.ndarray

    def quadrature(self) -> tuple[np.ndarray, np.ndarray]:
        """Gauss quadrature of the spectral measure of the start vector (Golub & Welsch 1969).

        Returns:
          Nodes (Ritz values, ascending) and weights (squared first components of the eigenvectors of T, which sum to
          1); both [m].
        """
        values, vectors = eigh_tridiagonal(self.diagonal, self.off_diagonal)
        return values, vectors[0] ** 2

    def ritz(self, chosen: Callable[[np.ndarray], Any] = lambda _: slice(None)) -> Ritz:
        """Approximate eigenpairs of A with their residuals.

        Args:
          chosen: function from all Ritz values, ascending, to the indices of those to return; all by default.

        Returns:
          The chosen Ritz pairs.
        """
        values, vectors = eigh_tridiagonal(self.diagonal, self.off_diagonal)
        indices = chosen(values)
        vectors = vectors[:, indices]
        return Ritz(values[indices], np.abs(self.residual * vectors[-1]), self.basis.T @ vectors)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """All Ritz values, ascending, and their residuals, without vectors; both [m]."""
        values, vectors = eigh_tridiagonal(self.diagonal, self.off_diagonal)
        return values, np.abs(self.residual * vectors[-1])


def lanczos(
    operator: LinearOperator,
    steps: int,
    *,
    start: np.ndarray | None = None,
    seed: int = 0,
    enough: Callable[[Lanczos], bool] | None = None,
) -> Lanczos:
    """Lanczos iteration with full re-orthogonalisation, in float64.

    Without re-orthogonalisation Ritz values repeat once the first has converged (Paige 1972). If the Krylov space is
    exhausted, the iteration continues with a random direction orthogonal to it, so n steps always give the whole
    spectrum.

    Args:
      operator: symmetric, [n, n].
      steps: largest number of products (count), at most n.
      start: start vector, [n], not zero; None draws a Gaussian vector.
      seed: seed of the random vectors.
      enough: stopping criterion, called with the decomposition every ten steps; True ends the iteration.

    Returns:
      The tridiagonal matrix and the basis.

    Raises:
      ValueError: for no steps, a zero start, or products that are not finite.
    """
    start = random_start(operator.shape[0], seed) if start is None else start
    (result,) = _run_together(operator, steps, [start], seed, enough)
    return result


def lanczos_many(operator: LinearOperator, steps: int, starts: Sequence[np.ndarray], seed: int = 0) -> list[Lanczos]:
    """Independent Lanczos iterations from several start vectors, with batched products.

    Args:
      operator: symmetric, [n, n].
      steps: largest number of products per iteration (count).
      starts: start vectors, each [n].
      seed: seed of the random directions that replace an exhausted Krylov space.

    Returns:
      One result per start vector; memory is starts x steps x n x 8 bytes.

    Raises:
      ValueError: for no steps, a zero start, or products that are not finite.
    """
    return _run_together(operator, steps, starts, seed, None)


def random_start(size: int, *seed: int) -> np.ndarray:
    """Draws a standard Gaussian vector.

    Args:
      size: length n (count).
      *seed: random seed, followed by indices of the vector.

    Returns:
      Vector [n], a function of the seed.
    """
    return np.random.default_rng(seed).normal(size=size)


def _run_together(
    operator: LinearOperator,
    steps: int,
    starts: Sequence[np.ndarray],
    seed: int,
    enough: Callable[[Lanczos], bool] | None,
) -> list[Lanczos]:
    if steps < 1:
        raise InputError(f"Lanczos needs at least one step, got {steps}.")
    runs = [_iterate(np.asarray(start, np.float64), steps, [seed, i], enough) for i, start in enumerate(starts)]
    vectors = [next(run) for run in runs]
    results: list[Lanczos] = []
    # All runs have the same number of steps, so they end in the same round.
    while not results:
        products = operator.matmat(np.stack(vectors, axis=1)).T
        if not np.isfinite(products).all():
            raise InputError("A product with the matrix is not finite: check the loss at these weights first.")
        vectors = []
        for run, product in zip(runs, products, strict=True):
            try:
                vectors.append(run.send(product))
            except StopIteration as end:
                results.append(end.value)
    return results


def _iterate(start: np.ndarray, steps: int, seed: Sequence[int], enough: Callable[[Lanczos], bool] | None) -> Iteration:
    """Yields basis vectors, receives their products with the matrix, and returns the decomposition."""
    size = len(start)
    steps = min(steps, size)
    length = np.linalg.norm(start)
    if not 0 < length < np.inf:
        raise InputError(f"Lanczos cannot start from a vector of length {length:g}.")
    basis = np.empty((steps, size))
    diagonal, off_diagonal = np.zeros(steps), np.zeros(steps)
    basis[0] = start / length
    for i in range(steps):
        product = yield basis[i]
        diagonal[i] = basis[i] @ product
        rest = _orthogonalize(product, basis[: i + 1])
        off_diagonal[i] = np.linalg.norm(rest)
        scale = max(np.abs(diagonal[: i + 1]).max(), off_diagonal[: i + 1].max())
        exhausted = i + 1 == size or off_diagonal[i] <= _BREAKDOWN * scale
        if exhausted:
            off_diagonal[i] = 0.0
        if enough is not None and (i + 1) % _CHECK_EVERY == 0:
            so_far = Lanczos(diagonal[: i + 1], off_diagonal[:i], float(off_diagonal[i]), basis[: i + 1])
            if enough(so_far):
                return so_far
        if i + 1 < steps:
            if exhausted:
                rest = _orthogonalize(random_start(size, *seed, i + 1), basis[: i + 1])
            basis[i + 1] = rest / np.linalg.norm(rest)
    return Lanczos(diagonal, off_diagonal[:-1], float(off_diagonal[-1]), basis)


def _orthogonalize(vector: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Projects a vector off a basis; twice is enough (Giraud et al. 2005)."""
    for _ in range(2):
        vector = vector - basis.T @ (basis @ vector)
    return vector
