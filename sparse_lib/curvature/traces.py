"""Trace and Frobenius norm of a matrix-free operator."""

from typing import NamedTuple

import numpy as np
from scipy.sparse.linalg import LinearOperator

from sparse_lib._utils.errors import InputError
from sparse_lib.curvature.estimate import Estimate, signs

# Curvature operators multiply this many vectors at once at about 0.6 times the price each.
_PROBES_AT_ONCE = 4
# Keeps the random vectors of the sketch apart from the probes of the same seed.
_SKETCH_KEY = 1 << 32


class Traces(NamedTuple):
    """Estimates of two traces of a symmetric matrix A from the same probes.

    Attributes:
      trace: tr A.
      squared_frobenius: ||A||_F^2 = tr A^2.
    """

    trace: Estimate
    squared_frobenius: Estimate


def traces(
    operator: LinearOperator,
    *,
    sketch: int = 0,
    precision: float = 0.05,
    max_probes: int = 100,
    seed: int = 0,
) -> Traces:
    """Trace and squared Frobenius norm, by Hutchinson's estimator or Hutch++.

    tr A = tr Q^T A Q + E g^T P A P g,  ||A||_F^2 = ||A Q||_F^2 + E ||A P g||^2,  P = I - Q Q^T

    with random signs g. Without a sketch Q is empty (Hutchinson 1990). Otherwise Q is an orthonormal basis of A times
    `sketch` random vectors (Hutch++: Meyer et al. 2021, arXiv 2010.09649), so that the contribution of a few large
    eigenvalues is exact and only the rest is estimated. The cost is 2 sketch + probes products.

    Args:
      operator: A, symmetric, [n, n].
      sketch: columns of Q (count); Hutch++ in the paper uses as many as probes.
      precision: target standard error of both estimates, relative to their values (fraction).
      max_probes: largest number of probes (count).
      seed: seed of the probes; probe i depends on (seed, i).

    Returns:
      Both estimates.

    Raises:
      ValueError: for arguments out of range.

    Examples:
      >>> import numpy as np
      >>> from scipy.sparse.linalg import aslinearoperator
      >>> from sparse_lib import curvature
      >>> operator = aslinearoperator(np.diag([1.0, 2.0, 5.0]))  # or a HessianOperator
      >>> found = curvature.traces(operator)
      >>> round(found.trace.value, 6), round(found.squared_frobenius.value, 6)
      (8.0, 30.0)
    """
    if precision <= 0 or max_probes < 2 or sketch < 0:
        raise InputError(
            "precision must be positive, max_probes at least 2 and sketch not negative; "
            f"got {precision}, {max_probes} and {sketch}."
        )
    size = operator.shape[0]
    basis, image = find_range(operator, min(sketch, size), seed)
    exact = np.sum(basis * image), np.sum(image**2)
    samples: list[tuple[float, float]] = []
    while True:
        probes = range(len(samples), min(len(samples) + _PROBES_AT_ONCE, max_probes))
        vectors = np.stack([signs(size, seed, i) for i in probes], axis=1)
        vectors -= basis @ (basis.T @ vectors)
        products = operator.matmat(vectors)
        samples += zip(np.sum(vectors * products, axis=0), np.sum(products**2, axis=0), strict=True)
        found = Traces(*map(Estimate.of, np.transpose(samples), exact))
        if len(samples) == max_probes or all(estimate.within(precision) for estimate in found):
            return found


def find_range(operator: LinearOperator, columns: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal basis Q of the matrix times random vectors, and the matrix times Q; both [n, columns]."""
    size = operator.shape[0]
    if not columns:
        return np.zeros((size, 0)), np.zeros((size, 0))
    random = np.stack([signs(size, seed, _SKETCH_KEY + i) for i in range(columns)], axis=1)
    basis, _ = np.linalg.qr(operator.matmat(random))
    return basis, operator.matmat(basis)
