"""Monte Carlo estimates over random probes, with error bars."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

# With 10 probes the error bar is itself accurate to a quarter; with fewer it is no stopping criterion.
LEAST_PROBES = 10


@dataclass(frozen=True)
class Estimate:
    """A mean over independent random probes.

    Attributes:
      value: the mean.
      error: standard error of the mean; about one in three estimates is further off.
      probes: number of probes (count).
    """

    value: float
    error: float
    probes: int

    @classmethod
    def of(cls, samples: Sequence[float] | np.ndarray, offset: float = 0.0) -> Self:
        """Estimates a mean from samples.

        Args:
          samples: one per probe, [probes].
          offset: exactly known part, added to the mean.

        Returns:
          offset + mean, with error std / sqrt(probes); the error of a single probe is infinite.
        """
        samples = np.asarray(samples, np.float64)
        error = np.std(samples, ddof=1) / np.sqrt(len(samples)) if len(samples) > 1 else np.inf
        return cls(float(offset + np.mean(samples)), float(error), len(samples))

    def within(self, precision: float, scale: float | None = None) -> bool:
        """Whether the estimate is precise enough to stop.

        Args:
          precision: target standard error, relative to the scale (fraction).
          scale: scale of the error; None means |value|.

        Returns:
          True if error <= precision * scale; always False for fewer than `LEAST_PROBES` probes.
        """
        return self.probes >= LEAST_PROBES and self.error <= precision * (abs(self.value) if scale is None else scale)


def signs(size: int, seed: int, index: int) -> np.ndarray:
    """Draws a Rademacher probe: each entry is 1 or -1 with equal probability.

    Args:
      size: length n (count).
      seed: random seed.
      index: index of the probe.

    Returns:
      Vector [n], a function of (seed, index).
    """
    return np.random.default_rng([seed, index]).integers(0, 2, size) * 2.0 - 1.0
