"""Means and differences of means with confidence intervals over seeds."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.95
# Value of a run by the pruned network whose masks it takes, empty for runs without one, and its seed.
Cells = Mapping[tuple[str, int], float]
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


def crossed_interval(values: Cells, level: float = LEVEL) -> Interval:
    """Mean over pruned networks and seeds, with an interval that counts both.

    For P networks with the same S seeds each, x_ps = m + a_p + b_s + e_ps with three random terms,
    var(mean) = (MS_P + MS_S - MS_E) / (P S), with the mean squares of the two-way analysis of variance and the degrees
    of freedom of Satterthwaite (Brennan 2001, Generalizability Theory, section 3.3). A t-interval over all runs would
    take the runs of one network for independent.

    Args:
      values: of the runs; NaN is dropped.
      level: confidence level (fraction).

    Returns:
      That interval; Student's over the means per network where seeds differ between networks, and Student's over seeds
      where there is one network or one run per network.
    """
    kept = {cell: value for cell, value in values.items() if not np.isnan(value)}
    networks, seeds = sorted({network for network, _ in kept}), sorted({seed for _, seed in kept})
    if len(networks) < 2 or len(kept) == len(networks):
        return t_interval([*kept.values()], level)
    if len(kept) < len(networks) * len(seeds):
        return t_interval([*_mean_by(kept, 0).values()], level)._replace(kind="t-interval over pruned networks")
    table = np.array([[kept[network, seed] for seed in seeds] for network in networks])
    mean, rows, columns = table.mean(), table.mean(1), table.mean(0)
    rest = table - rows[:, None] - columns + mean
    of_rows, of_columns = len(seeds) * rows.var(ddof=1), len(networks) * columns.var(ddof=1)
    of_rest = np.sum(rest**2) / ((len(networks) - 1) * (len(seeds) - 1))
    terms = [(of_rows, len(networks) - 1), (of_columns, len(seeds) - 1)]
    # The estimate may be lower than one source alone, or negative.
    square, freedom = max(terms)
    if of_rows + of_columns - of_rest > square:
        square = of_rows + of_columns - of_rest
        terms.append((of_rest, (len(networks) - 1) * (len(seeds) - 1)))
        freedom = square**2 / sum(own**2 / own_freedom for own, own_freedom in terms)
    reach = stats.t.ppf((1 + level) / 2, freedom) * np.sqrt(square / table.size)
    kind = f"t-interval over {len(networks)} pruned networks x {len(seeds)} seeds"
    return Interval(float(mean), float(mean - reach), float(mean + reach), min(table.shape), kind)


def crossed_difference(first: Cells, second: Cells, level: float = LEVEL) -> Interval:
    """Difference of two methods, first - second, paired by pruned network and seed.

    Args:
      first: values of the runs.
      second: values of the runs.
      level: confidence level (fraction).

    Returns:
      `crossed_interval` of the differences of runs that share network and seed, if networks with several seeds do;
      `paired_difference` by seed where no side has several such networks; Welch's, over networks on such a side,
      otherwise.
    """
    common = {cell: first[cell] - second[cell] for cell in first if cell in second}
    if _has_several(common):
        found = crossed_interval(common, level)
        return found._replace(kind=f"paired {found.kind}")
    if _has_several(first) or _has_several(second):
        one, other = (_mean_by(side, 0 if _has_several(side) else 1) for side in (first, second))
        found = welch([*one.values()], [*other.values()], level)
        return found._replace(kind="Welch's t-interval over pruned networks")
    return paired_difference(_mean_by(first, 1), _mean_by(second, 1), level)


def _has_several(values: Cells) -> bool:
    """Whether there are several pruned networks, and several runs of some."""
    return 1 < len({network for network, _ in values}) < len(values)


def _mean_by(values: Cells, place: int) -> dict[Any, float]:
    """Means by network (place 0) or by seed (place 1)."""
    keys = sorted({cell[place] for cell in values})
    return {key: float(np.mean([value for cell, value in values.items() if cell[place] == key])) for key in keys}


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
