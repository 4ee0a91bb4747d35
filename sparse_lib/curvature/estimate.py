"""Numbers that random probes estimate, with their error bars."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

# The error bar of fewer probes is itself too uncertain to stop by: that of 10 is known to a quarter.
LEAST_PROBES = 10


@dataclass(frozen=True)
class Estimate:
    """A mean over independent random probes.

    Attributes:
      value: the estimate.
      error: its standard error, as the probes scatter; about one in three estimates is further off.
      probes: how many probes it is the mean of (count).
    """

    value: float
    error: float
    probes: int

    @classmethod
    def of(cls, samples: Sequence[float] | np.ndarray, offset: float = 0.0) -> Self:
        """The mean of samples.

        Args:
          samples: one a probe, [probes].
          offset: a part that is known exactly.

        Returns:
          offset + mean, with error std / sqrt(probes); the error of a single probe is infinite.
        """
        samples = np.asarray(samples, np.float64)
        error = np.std(samples, ddof=1) / np.sqrt(len(samples)) if len(samples) > 1 else np.inf
        return cls(float(offset + np.mean(samples)), float(error), len(samples))

    def within(self, precision: float, scale: float | None = None) -> bool:
        """Whether the estimate is good enough to stop.

        Args:
          precision: standard error that is asked for, relative to the scale (fraction).
          scale: what the error is compared with; None takes the magnitude of the value.

        Returns:
          False while there are fewer than `LEAST_PROBES`.
        """
        return self.probes >= LEAST_PROBES and self.error <= precision * (abs(self.value) if scale is None else scale)


def signs(size: int, seed: int, index: int) -> np.ndarray:
    """A Rademacher probe: each entry is 1 or -1 with equal probability.

    Args:
      size: length n (count).
      seed: the seed.
      index: which probe.

    Returns:
      Shape [n], a function of (seed, index).
    """
    return np.random.default_rng([seed, index]).integers(0, 2, size) * 2.0 - 1.0
