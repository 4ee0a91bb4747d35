"""Extreme eigenvalues and their eigenvectors."""

import functools
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, aslinearoperator, eigsh

from sparse_lib._utils.errors import InputError
from sparse_lib.curvature.lanczos import Lanczos, lanczos, random_start
from sparse_lib.curvature.operators import Counted, shifted

Which = Literal["largest", "smallest", "magnitude"]
# Eigenvalues, and eigenvectors as columns.
_Pairs = tuple[np.ndarray, np.ndarray]

# Below this a dense decomposition takes fewer products than iterations do.
_DENSE = 64
_CHECK_STEPS = 40
# Limits of the basis in vectors and bytes; pairs that have not converged by then continue with restarts.
BASIS, BASIS_BYTES = 300, 2**30

# Position of a value on each side, larger further out.
_OUT: dict[Which, Callable[[np.ndarray], np.ndarray]] = {
    "largest": lambda values: values,
    "smallest": lambda values: -values,
    "magnitude": np.abs,
}


class Eigenpairs(NamedTuple):
    """Some eigenpairs of a symmetric matrix.

    Attributes:
      values: the outermost first, [k].
      vectors: unit eigenvectors as columns, [n, k].
      residuals: ||A v - lambda v|| of each pair, [k]; some eigenvalue lies within this distance of lambda.
      products: matrix-vector products used (count); `both_ends` gives the total of both ends.
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
    """The k outermost eigenvalues and their eigenvectors, by Lanczos iteration.

    Full re-orthogonalisation until convergence takes far fewer products than short restarts. If the basis would exceed
    1 GB or 300 vectors, implicit restarts (ARPACK's eigsh) continue from it. A single start vector finds one copy of a
    repeated eigenvalue, so the deflated matrix is searched for further copies.

    Args:
      operator: symmetric, [n, n]; small ones are decomposed densely.
      k: number of eigenvalues (count).
      which: `largest` or `smallest` in value, or largest in `magnitude`.
      tolerance: target residual, relative to the matrix norm (fraction). The error of an eigenvalue is at most the
        residual, and at most its square over the gap to the next eigenvalue; float32 products limit it to about 1e-6.
      max_iterations: largest number of restarts (count).
      seed: seed of the start vector.

    Returns:
      Eigenvalues, eigenvectors and their true residuals.

    Raises:
      ValueError: for k or `which` out of range, products that are not finite, or no convergence.

    Examples:
      >>> import numpy as np
      >>> from scipy.sparse.linalg import aslinearoperator
      >>> from sparse_lib import curvature
      >>> operator = aslinearoperator(np.diag([1.0, 2.0, 5.0]))  # or a HessianOperator
      >>> curvature.extreme(operator, k=2).values.round(6).tolist()
      [5.0, 2.0]
    """
    if which not in get_args(Which):
        raise InputError(f"which must be one of {', '.join(get_args(Which))}; got {which!r}.")
    (found,) = _find(operator, k, (which,), _Search(tolerance, max_iterations, seed))
    return found


def both_ends(
    operator: LinearOperator, k: int = 1, *, tolerance: float = 1e-5, max_iterations: int = 300, seed: int = 0
) -> tuple[Eigenpairs, Eigenpairs]:
    """The k largest and the k smallest eigenvalues from one Krylov space, for the products of one end.

    Args:
      operator: symmetric, [n, n].
      k: number of eigenvalues of each end (count).
      tolerance: as for `extreme`.
      max_iterations: as for `extreme`.
      seed: seed of the start vector.

    Returns:
      The largest, as from `extreme`, and the smallest.

    Raises:
      ValueError: as `extreme` does.
    """
    largest, smallest = _find(operator, k, ("largest", "smallest"), _Search(tolerance, max_iterations, seed))
    return largest, smallest


class _Search(NamedTuple):
    tolerance: float
    max_iterations: int
    seed: int


def _find(operator: LinearOperator, k: int, sides: Sequence[Which], search: _Search) -> list[Eigenpairs]:
    size = operator.shape[0]
    if not 1 <= k <= size:
        raise InputError(f"k must be 1 to {size}; got {k}.")
    counted = Counted(operator)
    if size <= max(_DENSE, 2 * k * len(sides) + 1):
        pairs = [_decompose(counted)] * len(sides)
    else:
        pairs = _iterate(counted, k, sides, search)
    found = []
    for side, (candidates, columns) in zip(sides, pairs, strict=True):
        order = _outermost(side, candidates, k)
        values, vectors = candidates[order], columns[:, order]
        found.append((values, vectors, np.linalg.norm(counted.matmat(vectors) - vectors * values, axis=0)))
    return [Eigenpairs(*parts, counted.products) for parts in found]


def _outermost(side: Which, values: np.ndarray, k: int) -> np.ndarray:
    # Opposite tie-breaking, so that the two ends share no vector.
    places = np.arange(len(values))
    return np.lexsort((-places if side == "largest" else places, -_OUT[side](values)))[:k]


def _decompose(operator: LinearOperator) -> _Pairs:
    matrix = operator.matmat(np.eye(operator.shape[0]))
    if not np.isfinite(matrix).all():
        raise InputError("A product with the matrix is not finite: check the loss at these weights first.")
    return np.linalg.eigh((matrix + matrix.T) / 2)


def _iterate(operator: LinearOperator, k: int, sides: Sequence[Which], search: _Search) -> list[_Pairs]:
    """Finds the k outermost pairs of each side, including repeated eigenvalues, by deflation.

    found:  lambda_1 ------ lambda_2                      (k = 2, one copy each)
    rest:   A - V diag(lambda - away) V^T                 found pairs move to `away`, inside the spectrum
            lambda_1 ------ lambda_2 ------- ...          second copies stay where they are

    A short Lanczos run on the rest looks for an eigenvalue further out than the innermost pair found. If there is one,
    it replaces that pair, and the search repeats.
    """
    size = operator.shape[0]
    pairs, low, high = _run_lanczos(operator, k, sides, random_start(size, search.seed), search)
    norm = max(abs(low), abs(high))
    # A single start finds further copies of a repeated eigenvalue through rounding errors only, or not at all.
    for attempt in range(1, size):
        worst = [_OUT[side](values).min() for side, (values, _) in zip(sides, pairs, strict=True)]
        # Inside the spectrum, where no side searches.
        away = {"largest": low, "smallest": high, "magnitude": 0.0}[sides[0]]
        away = away if len(sides) == 1 else (worst[0] - worst[1]) / 2
        known = np.concatenate([values for values, _ in pairs])
        basis = np.concatenate([vectors for _, vectors in pairs], axis=1)
        rest = operator - aslinearoperator(basis * (known - away)) @ aslinearoperator(basis.T)
        left = lanczos(rest, _CHECK_STEPS, start=random_start(size, search.seed, attempt))
        seen = left.bounds()[0]
        missed = [
            place for place, side in enumerate(sides) if _OUT[side](seen).max() > worst[place] + search.tolerance * norm
        ]
        if not missed:
            break
        side, (values, vectors) = sides[missed[0]], pairs[missed[0]]
        start = left.ritz(functools.partial(_outermost, side, k=1)).vectors[:, 0]
        ((value, vector),), _, _ = _run_lanczos(rest, 1, (side,), start, search)
        keep = _outermost(side, values, k - 1)
        pairs[missed[0]] = np.append(values[keep], value), np.column_stack([vectors[:, keep], vector])
    return pairs


def _run_lanczos(
    operator: LinearOperator, k: int, sides: Sequence[Which], start: np.ndarray, search: _Search
) -> tuple[list[_Pairs], float, float]:
    """Outermost k pairs of each side in the Krylov space of a start, and the lowest and highest Ritz values."""
    size = operator.shape[0]

    def has_converged(space: Lanczos) -> bool:
        values, residuals = space.bounds()
        wanted = np.concatenate([_outermost(side, values, k) for side in sides])
        bound = search.tolerance * np.abs(values).max()
        return len(values) >= k * len(sides) and bool((residuals[wanted] <= bound).all())

    fewest = 2 * k * len(sides) + 1
    length = min(size, max(fewest, min(BASIS, BASIS_BYTES // (8 * size))))
    space = lanczos(operator, length, start=start, enough=has_converged)
    found = [space.ritz(functools.partial(_outermost, side, k=k)) for side in sides]
    pairs = [(ritz.values, ritz.vectors) for ritz in found]
    low, *_, high = space.bounds()[0]
    if not has_converged(space):
        norm = max(abs(low), abs(high)) + space.residual
        pairs = [
            _restart(operator, k, side, vectors.sum(1), norm, length, search)
            for side, (_, vectors) in zip(sides, pairs, strict=True)
        ]
    return pairs, low, high


def _restart(
    operator: LinearOperator, k: int, side: Which, start: np.ndarray, norm: float, length: int, search: _Search
) -> _Pairs:
    # ARPACK's tolerance is relative to each eigenvalue, and never met by an eigenvalue 0 such as the smallest of a
    # semidefinite matrix. The shift makes it relative to the norm.
    shift = {"largest": norm, "smallest": -norm, "magnitude": 0.0}[side]
    counted = Counted(shifted(operator, shift))
    try:
        values, vectors = eigsh(
            counted, k, which="LM", v0=start, ncv=length, tol=search.tolerance, maxiter=search.max_iterations
        )
    except ArpackNoConvergence as error:
        raise InputError(
            f"Only {len(error.eigenvalues)} of {k} eigenpairs converged in {length + counted.products} products: "
            "raise tolerance or max_iterations, or reduce k."
        ) from error
    return values - shift, vectors
