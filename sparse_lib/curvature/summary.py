"""Summary statistics of spectra, and quantities that relate them to training."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from sparse_lib._utils.errors import InputError
from sparse_lib.curvature.eigenpairs import Eigenpairs
from sparse_lib.curvature.quadrature import Quadrature

# Measured: float32 Hessians of MLPs and convolutional networks were off by up to 1.2 eps lambda_max in spectral norm.
_FLOAT_ERROR = 10.0
# Fields whose difference is meaningful.
_COMPARED = ("lambda_max", "lambda_min", "negative", "negative_mass", "trace")


@dataclass(frozen=True)
class Summary:
    """Summary statistics of the spectrum of a symmetric matrix.

    Attributes:
      parameters: number of eigenvalues n (count).
      lambda_max: largest eigenvalue.
      lambda_min: smallest eigenvalue.
      tolerance: eigenvalues within this distance of zero count as zero.
      negative: number of eigenvalues below -tolerance (count; not an integer if estimated).
      negative_mass: sum of |lambda| over lambda < -tolerance, divided by the sum of |lambda| (fraction).
      condition: largest over smallest |lambda| above the tolerance; None if estimated or undefined.
      trace: sum of the eigenvalues.
      effective_rank: exp of the entropy of |lambda| / sum |lambda| (Roy & Vetterli 2007): n for a multiple of the
        identity, 1 for rank one, 0 for the zero matrix.
      errors: standard error by field name, or a bound for lambda_max and lambda_min; empty if exact.
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
    """Fields of a summary that are sums over the spectrum."""

    negative: float
    negative_mass: float
    trace: float
    effective_rank: float


def float_tolerance(norm: float, dtype: str = "float32") -> float:
    """Magnitude below which an eigenvalue may be rounding error, 10 eps norm.

    Args:
      norm: largest |lambda|.
      dtype: dtype in which the matrix or its products were computed.

    Returns:
      The tolerance, about ten times the errors measured for Hessians of small networks.
    """
    return _FLOAT_ERROR * float(np.finfo(dtype).eps) * norm


def summarize(eigenvalues: np.ndarray, *, tolerance: float | None = None, dtype: str = "float64") -> Summary:
    """Summarizes a complete spectrum.

    Args:
      eigenvalues: all eigenvalues, in any order, [n].
      tolerance: magnitude that counts as zero, such as the known error of the matrix, at least the rounding error;
        None means the rounding error.
      dtype: dtype in which the matrix was computed.

    Returns:
      The summary, without errors.

    Raises:
      ValueError: if the spectrum is empty or not finite.
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
    """Summarizes a spectrum estimated by its extreme eigenvalues and a quadrature.

    Args:
      largest: the largest eigenvalues, as from `extreme`.
      smallest: the smallest eigenvalues.
      spectrum: quadrature of at least two probes.
      tolerance: as for `summarize`. Quadrature spreads eigenvalues close to zero over nodes around it, so the number of
        negative ones is resolved to the spacing of the nodes.
      dtype: dtype in which the products were computed.

    Returns:
      The summary, with jackknife errors over probes; those of lambda_max and lambda_min are their residuals.

    Raises:
      ValueError: if there are fewer than two probes.
    """
    count = len(spectrum.probes)
    if count < 2:
        raise InputError(f"Error bars need at least two probes, got {count}.")
    ends = largest.values[0], smallest.values[0]
    tolerance = max(tolerance or 0.0, float_tolerance(max(map(abs, ends)), dtype))

    def moments_of(probes: list[int]) -> _Moments:
        nodes = np.concatenate([spectrum.probes[i].nodes for i in probes])
        weights = np.concatenate([spectrum.probes[i].weights for i in probes])
        return _moments(nodes, weights * spectrum.size / len(probes), tolerance)

    left_out = np.array([moments_of([i for i in range(count) if i != j]) for j in range(count)])
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
        **moments_of(list(range(count)))._asdict(),
    )


def change(before: Summary, after: Summary) -> dict[str, float]:
    """Change of a spectrum on the same data, for example by a mask update.

    Args:
      before: summary before the change.
      after: summary after the change.

    Returns:
      after - before of lambda_max, lambda_min, negative, negative_mass and trace, by name.
    """
    return {name: getattr(after, name) - getattr(before, name) for name in _COMPARED}


def stability_limit(learning_rate: float, momentum: float = 0.0, *, nesterov: bool = False) -> float:
    """Sharpness above which gradient descent diverges on a quadratic (Cohen et al. 2021, arXiv 2103.00065).

    2 (1 + momentum) / learning_rate, with Nesterov momentum divided by 1 + 2 momentum

    Args:
      learning_rate: step size.
      momentum: momentum as in Keras' SGD, in [0, 1).
      nesterov: whether the momentum is Nesterov's.

    Returns:
      The limit; at the edge of stability, lambda_max stays near it.

    Raises:
      ValueError: for a learning rate that is not positive or a momentum out of range.

    Examples:
      >>> from sparse_lib import curvature
      >>> curvature.stability_limit(0.1), round(curvature.stability_limit(0.1, momentum=0.9), 6)
      (20.0, 38.0)
    """
    if not learning_rate > 0 or not 0 <= momentum < 1:
        raise InputError(f"Needs a positive learning rate and a momentum in [0, 1); got {learning_rate}, {momentum}.")
    limit = 2 * (1 + momentum) / learning_rate
    return limit / (1 + 2 * momentum) if nesterov else limit


def overlap(gradient: np.ndarray, eigenvectors: np.ndarray) -> float:
    """Share of the squared gradient norm in an eigenspace (Gur-Ari et al. 2018, arXiv 1812.04754).

    ||V^T g||^2 / ||g||^2

    Args:
      gradient: g, [n].
      eigenvectors: V, orthonormal columns, [n, k].

    Returns:
      A fraction; k / n in expectation for a random gradient, NaN for a zero gradient.
    """
    gradient = np.asarray(gradient, np.float64)
    square = gradient @ gradient
    return float(np.sum((eigenvectors.T @ gradient) ** 2) / square) if square > 0 else float("nan")


def _moments(values: np.ndarray, counts: np.ndarray, tolerance: float) -> _Moments:
    """Sums over a spectrum of values with multiplicities `counts`."""
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
