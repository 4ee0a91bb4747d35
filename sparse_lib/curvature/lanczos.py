"""Lanczos iterations that keep their basis orthogonal."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import eigh_tridiagonal
from scipy.sparse.linalg import LinearOperator

from sparse_lib._utils.errors import InputError

# A direction that is this much shorter than the matrix is long is rounding error.
_BREAKDOWN = 100 * np.finfo(np.float64).eps
# Steps between questions whether it is enough.
_LOOK = 10

Iteration = Generator[np.ndarray, np.ndarray, "Lanczos"]


class Ritz(NamedTuple):
    """Approximate eigenpairs.

    Attributes:
      values: ascending, [m].
      residuals: ||A x - theta x|| of each, [m]: some eigenvalue lies within this distance.
      vectors: unit vectors as columns, [n, m].
    """

    values: np.ndarray
    residuals: np.ndarray
    vectors: np.ndarray


@dataclass(frozen=True, eq=False)
class Lanczos:
    """A Q = Q T + residual q_next e_m^T, with T tridiagonal and the columns of Q orthonormal.

    Attributes:
      diagonal: of T, [m].
      off_diagonal: of T, [m - 1]; zero where the Krylov space was used up and a new direction was drawn.
      residual: length of what the last product leaves outside of the basis; 0 if nothing.
      basis: Q^T, one basis vector a row, [m, n].
    """

    diagonal: np.ndarray
    off_diagonal: np.ndarray
    residual: float
    basis: np.ndarray

    def quadrature(self) -> tuple[np.ndarray, np.ndarray]:
        """Gauss quadrature of the spectrum that the start vector sees (Golub & Welsch 1969).

        Returns:
          Nodes, the Ritz values in ascending order, and weights, the squared first components of the eigenvectors of
          T, which sum to 1; both [m].
        """
        values, vectors = eigh_tridiagonal(self.diagonal, self.off_diagonal)
        return values, vectors[0] ** 2

    def ritz(self, chosen: Callable[[np.ndarray], Any] = lambda _: slice(None)) -> Ritz:
        """Approximate eigenpairs of A with their errors.

        Args:
          chosen: maps all Ritz values, ascending, to the places of those that are wanted.

        Returns:
          The wanted ones.
        """
        values, vectors = eigh_tridiagonal(self.diagonal, self.off_diagonal)
        places = chosen(values)
        vectors = vectors[:, places]
        return Ritz(values[places], np.abs(self.residual * vectors[-1]), self.basis.T @ vectors)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """All Ritz values, ascending, and their residuals, without the vectors; both [m]."""
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

    Without it Ritz values repeat once the first has converged (Paige 1972). When the Krylov space is used up, the
    iteration goes on with a new direction orthogonal to it, so that n steps always give the whole spectrum.

    Args:
      operator: symmetric, [n, n].
      steps: products to make at most (count); never more than n are made.
      start: where to start, [n], of any length but 0; None draws a Gaussian vector.
      seed: seed of the vectors that are drawn.
      enough: asked every ten steps with what there is; True ends the iteration.

    Returns:
      The tridiagonal matrix and the basis.

    Raises:
      ValueError: for no steps, a zero start, or products that are not finite.
    """
    start = random_start(operator.shape[0], seed) if start is None else start
    (result,) = _together(operator, steps, [start], seed, enough)
    return result


def lanczos_many(operator: LinearOperator, steps: int, starts: Sequence[np.ndarray], seed: int = 0) -> list[Lanczos]:
    """Independent Lanczos iterations from several starts, whose products are taken together.

    Args:
      operator: symmetric, [n, n].
      steps: products to make at most of each (count).
      starts: vectors [n].
      seed: seed of directions that are drawn when a Krylov space is used up.

    Returns:
      One result a start; memory is starts x steps x n x 8 bytes.

    Raises:
      ValueError: for no steps, a zero start, or products that are not finite.
    """
    return _together(operator, steps, starts, seed, None)


def random_start(size: int, *seed: int) -> np.ndarray:
    """A Gaussian vector that is a function of its seed.

    Args:
      size: its length n (count).
      *seed: a seed, and integers that tell one vector of it from the next.

    Returns:
      Shape [n].
    """
    return np.random.default_rng(seed).normal(size=size)


def _together(
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
    # All runs have equally many steps, so they end in the same round.
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
    """Yields vectors, is sent the matrix times each, and returns what it has learned."""
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
        rest = _orthogonal(product, basis[: i + 1])
        off_diagonal[i] = np.linalg.norm(rest)
        scale = max(np.abs(diagonal[: i + 1]).max(), off_diagonal[: i + 1].max())
        used_up = i + 1 == size or off_diagonal[i] <= _BREAKDOWN * scale
        if used_up:
            off_diagonal[i] = 0.0
        if enough is not None and (i + 1) % _LOOK == 0:
            so_far = Lanczos(diagonal[: i + 1], off_diagonal[:i], float(off_diagonal[i]), basis[: i + 1])
            if enough(so_far):
                return so_far
        if i + 1 < steps:
            if used_up:
                rest = _orthogonal(random_start(size, *seed, i + 1), basis[: i + 1])
            basis[i + 1] = rest / np.linalg.norm(rest)
    return Lanczos(diagonal, off_diagonal[:-1], float(off_diagonal[-1]), basis)


def _orthogonal(vector: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """The part of a vector that is orthogonal to a basis; twice is enough (Giraud et al. 2005)."""
    for _ in range(2):
        vector = vector - basis.T @ (basis @ vector)
    return vector
