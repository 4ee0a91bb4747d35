"""Means with intervals over seeds."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.95


class Interval(NamedTuple):
    """An estimate with its confidence interval.

    Attributes:
      mean: the estimate.
      low: lower end; NaN where too few values give no interval.
      high: upper end; NaN as above.
      n: number of independent values behind it (count).
      kind: how the interval was made, in words.
    """

    mean: float
    low: float
    high: float
    n: int
    kind: str


def t_interval(values: Sequence[float] | np.ndarray, level: float = LEVEL) -> Interval:
    """Mean of independent values with Student's interval.

    mean +- t(n - 1) s / sqrt(n)

    Args:
      values: one a seed; NaN is left out.
      level: of confidence (fraction).

    Returns:
      The interval; its ends are NaN below two values.
    """
    kept = np.asarray(values, np.float64)
    kept = kept[~np.isnan(kept)]
    n = len(kept)
    mean = float(np.mean(kept)) if n else float("nan")
    error = float(np.std(kept, ddof=1)) / n**0.5 if n > 1 else float("nan")
    return _interval(mean, error, n - 1, n, "t-interval over seeds", level)


def paired(first: dict[int, float], second: dict[int, float], level: float = LEVEL) -> Interval:
    """Difference of two methods, first - second, over the seeds that both have.

    Args:
      first: value by seed.
      second: value by seed.
      level: of confidence (fraction).

    Returns:
      Student's interval of the differences of equal seeds; where fewer than two seeds are common, Welch's.
    """
    first, second = ({seed: v for seed, v in side.items() if not np.isnan(v)} for side in (first, second))
    seeds = sorted(first.keys() & second.keys())
    if len(seeds) < 2 and min(len(first), len(second)) > 1:
        return welch(t_interval(list(first.values()), level), t_interval(list(second.values()), level), level)
    if not seeds and first and second:
        return t_interval([float(np.mean([*first.values()]) - np.mean([*second.values()]))], level)
    return t_interval([first[seed] - second[seed] for seed in seeds], level)._replace(
        kind="paired t-interval over seeds"
    )


def welch(first: Interval, second: Interval, level: float = LEVEL) -> Interval:
    """Difference of two independent estimates, first - second, with Welch's interval.

    Args:
      first: with n - 1 degrees of freedom.
      second: with n - 1 degrees of freedom.
      level: that both intervals have (fraction).

    Returns:
      The interval, with the degrees of freedom of Welch and Satterthwaite.
    """
    n = min(first.n, second.n)
    difference = first.mean - second.mean
    if n < 2:
        return _interval(difference, float("nan"), 1, n, "Welch's t-interval over seeds", level)
    squares = [_error(side, level) ** 2 for side in (first, second)]
    total = sum(squares)
    parts = sum(square**2 / (side.n - 1) for square, side in zip(squares, (first, second), strict=True))
    freedom = total**2 / parts if parts else n - 1
    return _interval(difference, total**0.5, freedom, n, "Welch's t-interval over seeds", level)


def jackknife(pairs: np.ndarray, level: float = LEVEL) -> Interval:
    """Mean of a symmetric measure over all pairs of runs, with an interval that knows that pairs share runs.

    Leaving run i out gives the mean m_i of the other pairs. For a mean over pairs of n runs, the variance is estimated
    by (n - 1) / n sum_i (m_i - mean(m))^2 (Arvesen 1969), with n - 1 degrees of freedom.

    Args:
      pairs: measure of runs i and j, [n, n], symmetric; the diagonal is not looked at.
      level: of confidence (fraction).

    Returns:
      The interval; its ends are NaN below three runs, where every pair that remains is needed.
    """
    n = len(pairs)
    kind = "jackknife over seeds"
    if n < 2:
        return Interval(float("nan"), float("nan"), float("nan"), n, kind)
    of_run = np.array([np.sum(np.delete(row, i)) for i, row in enumerate(pairs)])
    total = np.sum(of_run) / 2
    mean = float(total / (n * (n - 1) / 2))
    if n < 3:
        return Interval(mean, float("nan"), float("nan"), n, kind)
    without = (total - of_run) / ((n - 1) * (n - 2) / 2)
    error = float(np.sqrt((n - 1) / n * np.sum((without - np.mean(without)) ** 2)))
    return _interval(mean, error, n - 1, n, kind, level)


def _interval(mean: float, error: float, freedom: float, n: int, kind: str, level: float) -> Interval:
    reach = float(stats.t.ppf((1 + level) / 2, max(freedom, 1))) * error
    return Interval(mean, mean - reach, mean + reach, n, kind)


def _error(interval: Interval, level: float) -> float:
    """The standard error that an interval with n - 1 degrees of freedom was made from."""
    return (interval.high - interval.mean) / float(stats.t.ppf((1 + level) / 2, interval.n - 1))
