"""Diagonal of a matrix-free operator."""

from typing import Literal, NamedTuple, get_args

import numpy as np
import scipy.linalg
from scipy.sparse.linalg import LinearOperator

from sparse_lib._utils.errors import InputError
from sparse_lib.curvature.estimate import LEAST_PROBES, signs
from sparse_lib.curvature.traces import find_range

Probes = Literal["signs", "hadamard"]
# Curvature operators multiply this many vectors at once at about 0.6 times the price each.
_PROBES_AT_ONCE = 4


class Diagonal(NamedTuple):
    """Estimate of the diagonal of a matrix [n, n].

    Attributes:
      values: of the entries, [n].
      errors: their standard errors over random probes, [n]; infinite for fewer than two and for Hadamard vectors.
      probes: number of probes (count).
    """

    values: np.ndarray
    errors: np.ndarray
    probes: int


def diagonal(
    operator: LinearOperator,
    *,
    probes: Probes = "signs",
    sketch: int = 0,
    precision: float = 0.05,
    max_probes: int = 100,
    seed: int = 0,
) -> Diagonal:
    """Diagonal of any symmetric operator, by Hutchinson's estimator or probing with Hadamard vectors.

    diag A ~ (sum_k v_k o A v_k) / (sum_k v_k o v_k)    (Bekas et al. 2007)

    The error of an entry comes from the other entries of its row: with random signs it is their norm / sqrt(probes).
    The columns of a Hadamard matrix leave only the entries at distances that are multiples of their number, a power of
    two, and are exact for matrices of a smaller bandwidth and for as many vectors as rows. A sketch takes the range of
    a few large eigenvalues out beforehand and computes its part of the diagonal exactly (Meyer et al. 2021, Baston &
    Nakatsukasa 2022):

    diag A = diag(Q Q^T A) + diag((I - Q Q^T) A)

    `GaussNewtonOperator`, `FisherOperator` and `KFACOperator` have an exact `diagonal()`.

    Args:
      operator: A, symmetric, [n, n].
      probes: random `signs`, or `hadamard` vectors.
      sketch: columns of Q (count), at two products each.
      precision: target standard error of the diagonal as a vector, relative to its norm (fraction); random signs only.
      max_probes: largest number of probes (count); Hadamard vectors take the power of two below.
      seed: seed of the probes; probe i depends on (seed, i).

    Returns:
      The estimate.

    Raises:
      ValueError: for arguments out of range.

    Examples:
      >>> import numpy as np
      >>> from scipy.sparse.linalg import aslinearoperator
      >>> from sparse_lib import curvature
      >>> operator = aslinearoperator(np.diag([1.0, 2.0, 5.0]))  # or a HessianOperator
      >>> curvature.diagonal(operator).values.round(6).tolist()
      [1.0, 2.0, 5.0]
    """
    if probes not in get_args(Probes) or precision <= 0 or max_probes < 1 or sketch < 0:
        raise InputError(
            f"probes must be one of {', '.join(get_args(Probes))}, precision positive, max_probes at least 1 and "
            f"sketch not negative; got {probes!r}, {precision}, {max_probes} and {sketch}."
        )
    basis, image = find_range(operator, min(sketch, operator.shape[0]), seed)
    exact = np.sum(basis * image, axis=1)
    estimate = _probe_columns(operator, basis, max_probes) if probes == "hadamard" else None
    if estimate is None:
        return _probe_randomly(operator, basis, exact, precision, max_probes, seed)
    values, count = estimate
    return Diagonal(exact + values, np.full(len(values), np.inf), count)


def _probe_randomly(
    operator: LinearOperator, basis: np.ndarray, exact: np.ndarray, precision: float, max_probes: int, seed: int
) -> Diagonal:
    size, count = operator.shape[0], 0
    total, squares = np.zeros(size), np.zeros(size)
    while True:
        more = range(count, min(count + _PROBES_AT_ONCE, max_probes))
        samples = _samples(operator, basis, np.stack([signs(size, seed, i) for i in more], axis=1))
        total += samples.sum(axis=1)
        squares += np.sum(samples**2, axis=1)
        count = more.stop
        mean = total / count
        spread = np.maximum(squares / count - mean**2, 0.0)
        found = Diagonal(exact + mean, np.sqrt(spread / (count - 1)) if count > 1 else np.full(size, np.inf), count)
        is_precise = np.linalg.norm(found.errors) <= precision * np.linalg.norm(found.values)
        if count == max_probes or (count >= LEAST_PROBES and is_precise):
            return found


def _probe_columns(operator: LinearOperator, basis: np.ndarray, most: int) -> tuple[np.ndarray, int]:
    """Mean over Hadamard vectors, repeated along the coordinates, and their number."""
    size = operator.shape[0]
    count = 1 << min(most.bit_length() - 1, (size - 1).bit_length())
    columns = np.tile(scipy.linalg.hadamard(count), (-(-size // count), 1))[:size].astype(np.float64)
    starts = range(0, count, _PROBES_AT_ONCE)
    samples = [_samples(operator, basis, columns[:, start : start + _PROBES_AT_ONCE]).sum(axis=1) for start in starts]
    return np.sum(samples, axis=0) / count, count


def _samples(operator: LinearOperator, basis: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Entrywise products of v and (I - Q Q^T) A v for each column v, whose squares are ones."""
    products = operator.matmat(vectors)
    return vectors * (products - basis @ (basis.T @ products))
