"""Spectral density by stochastic Lanczos quadrature."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.sparse.linalg import LinearOperator

from sparse_lib._utils.errors import InputError
from sparse_lib.curvature.estimate import Estimate, signs
from sparse_lib.curvature.lanczos import lanczos_many

# Curvature operators multiply this many vectors at once at about 0.6 times the price each; the bases are limited to
# this much memory.
_PROBES_AT_ONCE = 4
_BASIS_BYTES = 2**30
# The default grid extends this many kernel widths beyond the outermost nodes.
_MARGIN = 5.0


class Probe(NamedTuple):
    """Gauss quadrature of the spectral measure of one random vector.

    Attributes:
      nodes: Ritz values, ascending, [steps].
      weights: quadrature weights, which sum to 1, [steps].
    """

    nodes: np.ndarray
    weights: np.ndarray


class Density(NamedTuple):
    """A smoothed spectral density.

    Attributes:
      grid: values of lambda, [points].
      values: share of eigenvalues per unit of lambda, [points].
      errors: standard error of each value over the probes, [points].
      width: standard deviation of the Gaussian kernel, in units of lambda.
    """

    grid: np.ndarray
    values: np.ndarray
    errors: np.ndarray
    width: float


@dataclass(frozen=True, eq=False)
class Quadrature:
    """Stochastic quadrature of the spectrum of a symmetric matrix A [n, n]: tr f(A) = n E sum_j w_j f(theta_j).

    Attributes:
      size: n (count).
      probes: one quadrature per random vector.
    """

    size: int
    probes: tuple[Probe, ...]

    def trace_of(self, function: Callable[[np.ndarray], np.ndarray]) -> Estimate:
        """Sum of a function over all eigenvalues.

        Args:
          function: f, applied elementwise to eigenvalues. Polynomials of degree below twice the number of steps are
            integrated exactly for each probe; a step function is resolved to the spacing of the nodes.

        Returns:
          tr f(A), with its standard error over the probes.
        """
        return Estimate.of([self.size * np.sum(probe.weights * function(probe.nodes)) for probe in self.probes])

    def moment(self, order: int) -> Estimate:
        """Mean power of the eigenvalues, tr A^order / n.

        Args:
          order: the exponent.

        Returns:
          The moment, with its standard error over the probes.
        """
        total = self.trace_of(lambda nodes: nodes**order)
        return Estimate(total.value / self.size, total.error / self.size, total.probes)

    def density(self, grid: np.ndarray | None = None, *, width: float | None = None, points: int = 10_000) -> Density:
        """Spectral density, smoothed by a Gaussian kernel.

        phi(lambda) = 1/k sum_i sum_j w_ij N(lambda; theta_ij, width^2)

        Args:
          grid: values of lambda, [points]; None means an even grid over the nodes.
          width: standard deviation of the kernel; None takes width^2 = 1e-5 range, as Ghorbani et al. (2019, arXiv
            1901.10159) do with the range of the nodes where it is above 1, and 1e-5 range^2 below.
          points: length of the default grid (count); 10,000 as there.

        Returns:
          Grid, density and its standard error.
        """
        low, high = min(p.nodes[0] for p in self.probes), max(p.nodes[-1] for p in self.probes)
        if width is None:
            # A single eigenvalue has range 0, but its peak needs a width.
            extent = max(high - low, 1e-6 * max(abs(low), abs(high))) or 1.0
            width = float(np.sqrt(1e-5 * extent * min(1.0, extent)))
        if grid is None:
            grid = np.linspace(low - _MARGIN * width, high + _MARGIN * width, points)
        curves = np.stack([_smooth(probe, grid, width) for probe in self.probes])
        count = len(curves)
        errors = curves.std(axis=0, ddof=1) / np.sqrt(count) if count > 1 else np.full(len(grid), np.inf)
        return Density(grid, curves.mean(axis=0), errors, width)


def quadrature(
    operator: LinearOperator,
    *,
    steps: int = 80,
    precision: float = 0.05,
    max_probes: int = 20,
    seed: int = 0,
    done: Sequence[Probe] = (),
    on_probe: Callable[[tuple[Probe, ...]], None] | None = None,
) -> Quadrature:
    """Stochastic Lanczos quadrature with full re-orthogonalisation (Ubaru et al. 2017, Ghorbani et al. 2019).

    Args:
      operator: symmetric, [n, n].
      steps: Lanczos steps, that is products, per probe (count); Ghorbani et al. use at least 80.
      precision: target standard error of the trace, relative to the sum of |lambda| (fraction), which unlike the trace
        is never zero.
      max_probes: largest number of probes (count).
      seed: seed of the probes; probe i depends on (seed, i).
      done: probes of an interrupted run with the same operator, steps and seed.
      on_probe: function called with all probes so far after each new group of probes, for saving them.

    Returns:
      The quadrature, for densities, moments and traces of functions.

    Raises:
      ValueError: for arguments out of range or products that are not finite.

    Examples:
      >>> import numpy as np
      >>> from scipy.sparse.linalg import aslinearoperator
      >>> from sparse_lib import curvature
      >>> operator = aslinearoperator(np.diag([1.0, 2.0, 5.0]))  # or a HessianOperator
      >>> spectrum = curvature.quadrature(operator)
      >>> round(spectrum.moment(2).value, 6)  # (1 + 4 + 25) / 3
      10.0
    """
    if precision <= 0 or min(max_probes, steps) < 1:
        raise InputError(
            f"precision must be positive, max_probes and steps at least 1; got {precision}, {max_probes} and {steps}."
        )
    size = operator.shape[0]
    at_once = int(np.clip(_BASIS_BYTES // (8 * size * min(steps, size)), 1, _PROBES_AT_ONCE))
    found = Quadrature(size, tuple(done))
    while len(found.probes) < max_probes and not _is_precise(found, precision):
        first = len(found.probes)
        starts = [signs(size, seed, i) for i in range(first, min(first + at_once, max_probes))]
        new = tuple(Probe(*run.quadrature()) for run in lanczos_many(operator, steps, starts, seed))
        found = Quadrature(size, found.probes + new)
        if on_probe is not None:
            on_probe(found.probes)
    return found


def _is_precise(found: Quadrature, precision: float) -> bool:
    if not found.probes:
        return False
    return found.moment(1).within(precision, found.trace_of(np.abs).value / found.size)


def _smooth(probe: Probe, grid: np.ndarray, width: float) -> np.ndarray:
    """Weighted sum of Gaussians at the nodes, [points]."""
    distance = (grid[:, None] - probe.nodes) / width
    return np.exp(-0.5 * distance**2) @ probe.weights / (width * np.sqrt(2 * np.pi))
