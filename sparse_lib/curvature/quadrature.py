"""The spectral density of a matrix by stochastic Lanczos quadrature."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.sparse.linalg import LinearOperator

from sparse_lib._utils.errors import InputError
from sparse_lib.curvature.estimate import Estimate, signs
from sparse_lib.curvature.lanczos import lanczos_many

# Operators of a model take this many vectors at once for half the price; their bases may fill this much memory.
_PROBES_AT_ONCE = 4
_BASIS_BYTES = 2**30
# Kernels reach this many widths beyond the outermost node.
_MARGIN = 5.0


class Probe(NamedTuple):
    """Gauss quadrature of the spectrum as one random vector sees it.

    Attributes:
      nodes: ascending, [steps].
      weights: sum to 1, [steps].
    """

    nodes: np.ndarray
    weights: np.ndarray


class Density(NamedTuple):
    """A smoothed spectral density.

    Attributes:
      grid: where, [points].
      values: share of eigenvalues per unit of lambda, [points].
      errors: standard error of each value, from the scatter of the probes, [points].
      width: standard deviation of the Gaussian kernel, in units of lambda.
    """

    grid: np.ndarray
    values: np.ndarray
    errors: np.ndarray
    width: float


@dataclass(frozen=True, eq=False)
class Quadrature:
    """What probes say of the spectrum of a symmetric matrix A [n, n]: tr f(A) = n E sum_j w_j f(theta_j).

    Attributes:
      size: n (count).
      probes: one quadrature a random vector.
    """

    size: int
    probes: tuple[Probe, ...]

    def trace_of(self, function: Callable[[np.ndarray], np.ndarray]) -> Estimate:
        """Sum of a function over all eigenvalues.

        Args:
          function: maps eigenvalues to numbers, elementwise. Polynomials of a degree below twice the steps are
            integrated exactly for each probe; a jump is resolved as finely as the nodes lie.

        Returns:
          tr f(A): the estimate with its standard error over the probes.
        """
        return Estimate.of([self.size * np.sum(probe.weights * function(probe.nodes)) for probe in self.probes])

    def moment(self, order: int) -> Estimate:
        """Mean power of the eigenvalues, tr A^order / n.

        Args:
          order: the power (count).

        Returns:
          The estimate.
        """
        total = self.trace_of(lambda nodes: nodes**order)
        return Estimate(total.value / self.size, total.error / self.size, total.probes)

    def density(self, grid: np.ndarray | None = None, *, width: float | None = None, points: int = 10_000) -> Density:
        """The density smoothed by a Gaussian kernel.

        phi(lambda) = 1/k sum_i sum_j w_ij N(lambda; theta_ij, width^2)

        Args:
          grid: where to evaluate, [points]; None spans the nodes evenly.
          width: standard deviation of the kernel; None takes width^2 = 1e-5 range, as Ghorbani et al. (2019, arXiv
            1901.10159) do with the range of the nodes where it is above 1, and 1e-5 range^2 below.
          points: length of the grid (count), 10,000 as there.

        Returns:
          Grid, density and its error.
        """
        low, high = min(p.nodes[0] for p in self.probes), max(p.nodes[-1] for p in self.probes)
        if width is None:
            # A spectrum of a single value has no range: its peak must have some width.
            extent = max(high - low, 1e-6 * max(abs(low), abs(high))) or 1.0
            width = float(np.sqrt(1e-5 * extent * min(1.0, extent)))
        if grid is None:
            grid = np.linspace(low - _MARGIN * width, high + _MARGIN * width, points)
        curves = np.stack([_smoothed(probe, grid, width) for probe in self.probes])
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
      steps: lanczos steps, which are products, for each probe (count); 80 as Ghorbani et al. take at least.
      precision: stop when the standard error of the trace is below this share of the sum of |lambda| (fraction),
        which unlike the trace is never zero.
      max_probes: stop after so many probes whatever the error (count).
      seed: seed of the probes; probe i depends on (seed, i).
      done: the first probes of an earlier, interrupted run with the same operator, steps and seed.
      on_probe: called with all probes so far whenever there are new ones, to save them.

    Returns:
      The probes, which answer all questions about the spectrum.

    Raises:
      ValueError: for numbers out of range or products that are not finite.
    """
    if precision <= 0 or min(max_probes, steps) < 1:
        raise InputError(
            f"precision must be positive, max_probes and steps at least 1; got {precision}, {max_probes} and {steps}."
        )
    size = operator.shape[0]
    at_once = int(np.clip(_BASIS_BYTES // (8 * size * min(steps, size)), 1, _PROBES_AT_ONCE))
    found = Quadrature(size, tuple(done))
    while len(found.probes) < max_probes and not _precise(found, precision):
        first = len(found.probes)
        starts = [signs(size, seed, i) for i in range(first, min(first + at_once, max_probes))]
        new = tuple(Probe(*run.quadrature()) for run in lanczos_many(operator, steps, starts, seed))
        found = Quadrature(size, found.probes + new)
        if on_probe is not None:
            on_probe(found.probes)
    return found


def _precise(found: Quadrature, precision: float) -> bool:
    if not found.probes:
        return False
    return found.moment(1).within(precision, found.trace_of(np.abs).value / found.size)


def _smoothed(probe: Probe, grid: np.ndarray, width: float) -> np.ndarray:
    """Sum of Gaussians at the nodes, [points]."""
    distance = (grid[:, None] - probe.nodes) / width
    return np.exp(-0.5 * distance**2) @ probe.weights / (width * np.sqrt(2 * np.pi))
