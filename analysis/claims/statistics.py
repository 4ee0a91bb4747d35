"""Means and differences of means with confidence intervals over seeds."""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.95
_NAN = float("nan")


class Interval(NamedTuple):
    """An estimate with its confidence interval.

    Attributes:
      mean: the estimate.
      low: lower end; NaN where there are too few values for an interval.
      high: upper end; NaN as above.
      n: number of independent values (count).
      kind: name of the method, for readers.
    """

    mean: float
    low: float
    high: float
    n: int
    kind: str


def t_interval(values: Sequence[float] | np.ndarray, level: float = LEVEL) -> Interval:
    """Mean of independent values with Student's t-interval.

    mean +- t(n - 1) s / sqrt(n)

    Args:
      values: one per seed; NaN is dropped.
      level: confidence level (fraction).

    Returns:
      The interval; its ends are NaN below two values.
    """
    kept = np.asarray(values, np.float64)
    kept = kept[~np.isnan(kept)]
    n = len(kept)
    ends = _confidence(stats.ttest_1samp, kept, 0.0, level=level) if n > 1 else (_NAN, _NAN)
    return Interval(float(np.mean(kept)) if n else _NAN, *ends, n, "t-interval over seeds")


def paired_difference(first: dict[int, float], second: dict[int, float], level: float = LEVEL) -> Interval:
    """Difference of two methods, first - second, paired by seed.

    Args:
      first: value by seed.
      second: value by seed.
      level: confidence level (fraction).

    Returns:
      Student's interval of the differences per seed; Welch's where fewer than two seeds are common.
    """
    first, second = ({seed: v for seed, v in side.items() if not np.isnan(v)} for side in (first, second))
    seeds = sorted(first.keys() & second.keys())
    if len(seeds) < 2 and min(len(first), len(second)) > 1:
        return welch([*first.values()], [*second.values()], level)
    if not seeds and first and second:
        return t_interval([float(np.mean([*first.values()]) - np.mean([*second.values()]))], level)
    return t_interval([first[seed] - second[seed] for seed in seeds], level)._replace(
        kind="paired t-interval over seeds"
    )


def welch(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray, level: float = LEVEL) -> Interval:
    """Difference of the means of two independent samples, first - second, with Welch's t-interval.

    Args:
      first: at least one value.
      second: at least one value.
      level: confidence level (fraction).

    Returns:
      The interval, with the degrees of freedom of Welch and Satterthwaite; its ends are NaN where a sample has one
      value.
    """
    n = min(len(first), len(second))
    ends = _confidence(stats.ttest_ind, first, second, level=level, equal_var=False) if n > 1 else (_NAN, _NAN)
    return Interval(float(np.mean(first) - np.mean(second)), *ends, n, "Welch's t-interval over seeds")


def pseudo_values(pairs: np.ndarray) -> np.ndarray:
    """Jackknife pseudo-values of the mean of a symmetric measure over all pairs of runs.

    p_i = n mean - (n - 1) m_i, where m_i is the mean over the pairs without run i. Pairs share runs; the p_i may be
    treated as independent: their mean is the mean over all pairs, and its squared standard error,
    var(p) / n = (n - 1) / n sum_i (m_i - mean(m))^2, is the jackknife's (Arvesen 1969).

    Args:
      pairs: measure of runs i and j, [n, n], symmetric; the diagonal is ignored.

    Returns:
      [n] values; below three runs, where no pair can be left out, the mean alone, or nothing.
    """
    n = len(pairs)
    if n < 2:
        return np.zeros(0)
    of_run = np.array([np.sum(np.delete(row, i)) for i, row in enumerate(pairs)])
    total = np.sum(of_run) / 2
    mean = total / (n * (n - 1) / 2)
    if n < 3:
        return np.array([mean])
    without = (total - of_run) / ((n - 1) * (n - 2) / 2)
    return np.asarray(n * mean - (n - 1) * without)


def jackknife(pairs: np.ndarray, level: float = LEVEL) -> Interval:
    """Mean of a symmetric measure over all pairs of runs, with a jackknife interval.

    Args:
      pairs: measure of runs i and j, [n, n], symmetric; the diagonal is ignored.
      level: confidence level (fraction).

    Returns:
      The interval, with n - 1 degrees of freedom; its ends are NaN below three runs.
    """
    return t_interval(pseudo_values(pairs), level)._replace(n=len(pairs), kind="jackknife over seeds")


def _confidence(test: Any, *samples: Any, level: float, **options: Any) -> tuple[float, float]:
    with warnings.catch_warnings():
        # Seeds that agree exactly have an interval of no width, which SciPy warns about.
        warnings.filterwarnings("ignore", message="Precision loss", category=RuntimeWarning)
        low, high = test(*samples, **options).confidence_interval(level)
    return float(low), float(high)
