"""A spectrum in a few numbers, and what they say of training."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from sparse_lib._utils.errors import InputError
from sparse_lib.curvature.eigenpairs import Eigenpairs
from sparse_lib.curvature.quadrature import Quadrature

# Hessians of MLPs and convolutional networks in float32 were off by up to 1.2 eps lambda_max in spectral norm.
_FLOAT_ERROR = 10.0
# Of two summaries, these can be subtracted.
_COMPARED = ("lambda_max", "lambda_min", "negative", "negative_mass", "trace")


@dataclass(frozen=True)
class Summary:
    """What is said of the spectrum of a symmetric matrix.

    Attributes:
      parameters: number of eigenvalues n (count).
      lambda_max: the largest eigenvalue.
      lambda_min: the smallest.
      tolerance: eigenvalues within this distance of zero count as zero.
      negative: how many eigenvalues are below -tolerance (count; a fraction of one where it is estimated).
      negative_mass: their share of all curvature, sum of |lambda < -tolerance| / sum |lambda| (fraction).
      condition: largest over smallest |lambda| above the tolerance; None if estimated, or if there is none.
      trace: sum of the eigenvalues.
      effective_rank: exp of the entropy of |lambda| / sum |lambda| (Roy & Vetterli 2007): n for a multiple of the
        identity, 1 for rank one, 0 for zero.
      errors: by name of a field its standard error, or for lambda_max and lambda_min a bound; empty where exact.
    """

    parameters: int
    lambda_max: float
    lambda_min: float
    tolerance: float
    negative: float
    negative_mass: float
    condition: float | None
    trace: float
    effective_rank: float
    errors: dict[str, float] = field(default_factory=dict)


class _Moments(NamedTuple):
    """The numbers of a summary that are sums over a spectrum."""

    negative: float
    negative_mass: float
    trace: float
    effective_rank: float


def float_tolerance(norm: float, dtype: str = "float32") -> float:
    """Magnitude below which an eigenvalue may be rounding error.

    Args:
      norm: the largest |lambda|.
      dtype: in which the matrix, or its products, were computed.

    Returns:
      10 eps norm: ten times what was measured for Hessians of small networks.
    """
    return _FLOAT_ERROR * float(np.finfo(dtype).eps) * norm


def summarize(eigenvalues: np.ndarray, *, tolerance: float | None = None, dtype: str = "float64") -> Summary:
    """Summary of a whole spectrum.

    Args:
      eigenvalues: all of them, in any order, [n].
      tolerance: what counts as zero, for example the reported error of the matrix; never less than rounding error,
        which is what None takes.
      dtype: in which the matrix was computed.

    Returns:
      The summary, without errors.

    Raises:
      ValueError: if there are no eigenvalues or some are not finite.
    """
    values = np.asarray(eigenvalues, np.float64)
    if values.size == 0 or not np.isfinite(values).all():
        raise InputError("The spectrum is empty or not finite: compute it again from weights with a finite loss.")
    magnitudes = np.abs(values)
    tolerance = max(tolerance or 0.0, float_tolerance(magnitudes.max(), dtype))
    moments = _moments(values, np.ones(len(values)), tolerance)
    nonzero = magnitudes[magnitudes > tolerance]
    return Summary(
        parameters=len(values),
        lambda_max=float(values.max()),
        lambda_min=float(values.min()),
        tolerance=tolerance,
        condition=float(nonzero.max() / nonzero.min()) if nonzero.size else None,
        **moments._asdict(),
    )


def summarize_estimates(
    largest: Eigenpairs,
    smallest: Eigenpairs,
    spectrum: Quadrature,
    *,
    tolerance: float | None = None,
    dtype: str = "float32",
) -> Summary:
    """Summary of a spectrum that is known at its ends and in distribution.

    Args:
      largest: the largest eigenvalue, as from `extreme`, and others if any.
      smallest: the smallest.
      spectrum: quadrature of at least two probes.
      tolerance: as in `summarize`. Quadrature sees eigenvalues that crowd at zero as nodes around it, so how many
        are negative is known only as finely as the nodes lie.
      dtype: in which products were computed.

    Returns:
      The summary, with errors by the jackknife over probes; those of lambda_max and lambda_min are their residuals.

    Raises:
      ValueError: if there are fewer than two probes.
    """
    count = len(spectrum.probes)
    if count < 2:
        raise InputError(f"Error bars need at least two probes, got {count}.")
    ends = largest.values[0], smallest.values[0]
    tolerance = max(tolerance or 0.0, float_tolerance(max(map(abs, ends)), dtype))

    def of(probes: list[int]) -> _Moments:
        nodes = np.concatenate([spectrum.probes[i].nodes for i in probes])
        weights = np.concatenate([spectrum.probes[i].weights for i in probes])
        return _moments(nodes, weights * spectrum.size / len(probes), tolerance)

    left_out = np.array([of([i for i in range(count) if i != j]) for j in range(count)])
    errors = np.sqrt((count - 1) * left_out.var(axis=0))
    return Summary(
        parameters=spectrum.size,
        lambda_max=float(ends[0]),
        lambda_min=float(ends[1]),
        tolerance=tolerance,
        condition=None,
        errors={
            "lambda_max": float(largest.residuals[0]),
            "lambda_min": float(smallest.residuals[0]),
            **dict(zip(_Moments._fields, errors.tolist(), strict=True)),
        },
        **of(list(range(count)))._asdict(),
    )


def change(before: Summary, after: Summary) -> dict[str, float]:
    """What a mask update, or anything else, does to the spectrum on the same data.

    Args:
      before: summary before it.
      after: summary after it.

    Returns:
      after - before of lambda_max, lambda_min, negative, negative_mass and trace.
    """
    return {name: getattr(after, name) - getattr(before, name) for name in _COMPARED}


def stability_limit(learning_rate: float, momentum: float = 0.0, *, nesterov: bool = False) -> float:
    """The sharpness above which gradient descent diverges on a quadratic (Cohen et al. 2021, arXiv 2103.00065).

    2 (1 + momentum) / learning_rate, with Nesterov's momentum divided by 1 + 2 momentum.

    Args:
      learning_rate: step size.
      momentum: of the heavy ball as in Keras' SGD, in [0, 1).
      nesterov: whether the momentum is Nesterov's.

    Returns:
      The limit; training at the edge of stability keeps lambda_max near it.

    Raises:
      ValueError: for a learning rate that is not positive or a momentum out of range.
    """
    if not learning_rate > 0 or not 0 <= momentum < 1:
        raise InputError(f"Needs a positive learning rate and a momentum in [0, 1); got {learning_rate}, {momentum}.")
    limit = 2 * (1 + momentum) / learning_rate
    return limit / (1 + 2 * momentum) if nesterov else limit


def overlap(gradient: np.ndarray, eigenvectors: np.ndarray) -> float:
    """Share of the gradient in an eigenspace (Gur-Ari et al. 2018, arXiv 1812.04754).

    ||V^T g||^2 / ||g||^2

    Args:
      gradient: g, [n].
      eigenvectors: V, orthonormal columns, [n, k].

    Returns:
      A fraction; k / n for a random gradient, NaN for a zero one.
    """
    gradient = np.asarray(gradient, np.float64)
    square = gradient @ gradient
    return float(np.sum((eigenvectors.T @ gradient) ** 2) / square) if square > 0 else float("nan")


def _moments(values: np.ndarray, counts: np.ndarray, tolerance: float) -> _Moments:
    """Sums over a spectrum of values, each as many times as its count says."""
    negative = values < -tolerance
    mass = counts * np.abs(values)
    total = mass.sum()
    # Each of counts[i] eigenvalues has the share mass[i] / counts[i] / total, and x log x is 0 at 0.
    shares = np.abs(values) / total if total > 0 else np.zeros_like(values)
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    return _Moments(
        negative=float(counts[negative].sum()),
        negative_mass=float(mass[negative].sum() / total) if total > 0 else 0.0,
        trace=float(counts @ values),
        effective_rank=float(np.exp(-(counts * shares) @ logs)) if total > 0 else 0.0,
    )
