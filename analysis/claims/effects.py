"""Effects that claims are about, with confidence intervals: contrasts of methods, means, rank correlations."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from analysis.claims import statistics
from analysis.claims.quantities import Evidence, Quantity, by_cell, name_failures, select_plain
from analysis.claims.statistics import Cells, Interval
from analysis.records import methods
from analysis.similarity import function

Status = Literal["supported", "not supported", "undecided", "not enough data"]
SUPPORTED: Status = "supported"
NOT_SUPPORTED: Status = "not supported"
UNDECIDED: Status = "undecided"
NOT_ENOUGH: Status = "not enough data"
Unit = Literal["points", "times", "nats", "gradient norm", "count", "eigenvalue", "rank correlation"]
# Lower bound of quantities in ratios (nats, nats per unit of weight, or units of weights).
_NEXT_TO_NOTHING = 1e-12
_RESAMPLES = 2000
# Runs with the same numbers are one run: such an interval says nothing about others.
_IDENTICAL = "runs that differ: all of these have the same numbers (identical runs)"


class Measured(NamedTuple):
    """A measured effect.

    Attributes:
      interval: estimate and confidence interval, in the unit; fractions for `points`.
      unit: `points` are percentage points, `times` is a ratio.
      sides: the methods compared, with means and the number of runs that have not trained, as text.
      missing: data needed for an interval; empty if there is one.
    """

    interval: Interval
    unit: Unit
    sides: str
    missing: str = ""


# Takes the `Evidence` of a case, or the table of a study of tickets.
Measure = Callable[[Any], Measured]
NOTHING = Interval(float("nan"), float("nan"), float("nan"), 0, "")


@dataclasses.dataclass(frozen=True)
class Contrast:
    """A quantity of one method relative to that of another, over pruned networks and seeds.

    Attributes:
      quantity: one number per run.
      pairs: methods to compare, first - second or first / second, by preference; both need runs.
      unit: `times` for the ratio, any other for the difference.
    """

    quantity: Quantity
    pairs: Sequence[tuple[str, str]]
    unit: Unit

    def __call__(self, evidence: Evidence) -> Measured:
        """Measures difference or ratio, paired by pruned network and seed if these are common."""
        # Early training begins after the first mask update of the two.
        frames = [(pair, self.quantity(evidence.of_methods(pair))) for pair in self.pairs]
        known = [(pair, *(by_cell(evidence, frame, side) for side in pair), frame) for pair, frame in frames]
        complete = [item for item in known if item[1] and item[2]]
        if not complete:
            wanted = " and ".join(map(methods.label, self.pairs[0]))
            return Measured(NOTHING, self.unit, "", f"runs of {wanted} with this measurement")
        # Two seeds rather than one come before the order of preference.
        pair, first, second, frame = max(complete, key=lambda c: min(len(c[1]), len(c[2]), 2))
        sides = ", ".join(
            _format_side(method, values, self.unit) + name_failures(evidence, select_plain(frame, method)["run"])
            for method, values in zip(pair, (first, second), strict=True)
        )
        if self.unit == "times":
            found = statistics.crossed_difference(_logarithms(first), _logarithms(second))
            found = found._replace(mean=math.exp(found.mean), low=_exp(found.low), high=_exp(found.high))
        else:
            found = statistics.crossed_difference(first, second)
        return _conclude(found, self.unit, sides, "" if found.n > 1 else "a second seed")


@dataclasses.dataclass(frozen=True)
class Single:
    """Mean of a quantity of one method, over pruned networks and seeds.

    Attributes:
      quantity: one number per run.
      choices: methods by preference; the first with runs is taken.
      unit: of the quantity.
    """

    quantity: Quantity
    choices: Sequence[str]
    unit: Unit

    def __call__(self, evidence: Evidence) -> Measured:
        """Measures the mean."""
        frame = self.quantity(evidence)
        known = [(method, values) for method in self.choices if (values := by_cell(evidence, frame, method))]
        if not known:
            return Measured(NOTHING, self.unit, "", f"runs of {methods.label(self.choices[0])} with this measurement")
        method, values = max(known, key=lambda item: min(len(item[1]), 2))
        found = statistics.crossed_interval(values)
        sides = methods.label(method) + name_failures(evidence, select_plain(frame, method)["run"])
        return _conclude(found, self.unit, sides, "" if found.n > 1 else "a second seed")


@dataclasses.dataclass(frozen=True)
class PairContrast:
    """A measure of pairs of runs within one method relative to that within another.

    Attributes:
      measure: column of `tables.within_methods`.
      first: method whose runs share masks.
      second: method whose runs are independent.
      unit: of the measure.
    """

    measure: str
    first: str
    second: str
    unit: Unit

    def __call__(self, evidence: Evidence) -> Measured:
        """Measures the difference of the means over pairs, with a jackknife interval, as pairs share runs."""
        frame = evidence.pairs[evidence.pairs["label"] == evidence.pairs["method"].map(methods.label)]
        first = frame[(frame["method"] == self.first) & frame["same_masks"].astype(bool)]
        second = frame[(frame["method"] == self.second) & ~frame["same_masks"].astype(bool)]
        if first.empty or second.empty:
            wanted = f"three runs of {methods.label(self.first)} from one pruned network, and three pruned networks"
            return Measured(NOTHING, self.unit, "", wanted)
        matrices = [self._matrix_of_largest_family(pairs) for pairs in (first, second)]
        one, other = map(statistics.pseudo_values, matrices)
        sides = ", ".join(
            f"{methods.label(name)} {format_effect(float(np.mean(values)), self.unit, sign=False)}"
            + name_failures(evidence, [*pairs["first"], *pairs["second"]])
            for name, values, pairs in ((self.first, one, first), (self.second, other, second))
        )
        n = min(map(len, matrices))
        found = statistics.welch(one, other)._replace(n=n, kind="jackknife over runs, Welch")
        return _conclude(found, self.unit, sides, "" if n > 2 else "a third run of each")

    def _matrix_of_largest_family(self, pairs: pd.DataFrame) -> np.ndarray:
        largest = max(_families(pairs), key=len)
        return function.matrix(pairs, self.measure, sorted(largest))


@dataclasses.dataclass(frozen=True)
class RankCorrelation:
    """Spearman's correlation of two quantities over the means of sparse methods.

    Attributes:
      first: one number per run.
      second: one number per run.
      fewest: least number of methods (count).
    """

    first: Quantity
    second: Quantity
    fewest: int = 4

    def __call__(self, evidence: Evidence) -> Measured:
        """Measures the correlation, with an interval from resampling the seeds of each method."""
        x, y = (quantity(evidence) for quantity in (self.first, self.second))
        both = x.merge(y, on=["run", "method", "label"], suffixes=("_x", "_y")).dropna(subset=["value_x", "value_y"])
        sparse = both[~both["method"].map(methods.base_of).isin([*methods.DENSE, *methods.PRUNING])]
        groups = [own[["value_x", "value_y"]].to_numpy().T for _, own in sparse.groupby("label")]
        if len(groups) < self.fewest:
            return Measured(NOTHING, "rank correlation", "", f"at least {self.fewest} sparse methods")
        sides = f"{len(groups)} methods{name_failures(evidence, sparse['run'])}"
        n = min(group.shape[1] for group in groups)
        rho = float(_spearman_of_means(*groups))
        if n < 2:
            missing = "a second seed of every method"
            return Measured(NOTHING._replace(mean=rho, n=1), "rank correlation", sides, missing)
        if math.isnan(rho):
            return Measured(NOTHING._replace(n=n), "rank correlation", sides, _IDENTICAL)
        rng = np.random.default_rng([0, len(groups)])
        # `stats.bootstrap` would warn of draws in which a side is constant, and return no interval.
        picked = [rng.integers(group.shape[1], size=(_RESAMPLES, group.shape[1])) for group in groups]
        drawn = _spearman_of_means(*(group[:, own] for group, own in zip(groups, picked, strict=True)))
        tail = 50 * (1 - statistics.LEVEL)
        low, high = np.nanpercentile(drawn, [tail, 100 - tail])
        found = Interval(rho, float(low), float(high), n, "bootstrap over seeds within methods")
        return Measured(found, "rank correlation", sides)


def decide(measured: Measured, low: float, high: float) -> Status:
    """Compares an interval with the range in which a claim holds.

    Args:
      measured: effect with its interval.
      low: lower end of the range, in the unit of the effect.
      high: upper end of the range.

    Returns:
      Supported if the interval lies in the range, not supported if it lies outside, undecided if it crosses a border,
      not enough data if there is no interval.
    """
    interval = measured.interval
    if math.isnan(interval.low) or math.isnan(interval.high):
        return NOT_ENOUGH
    if low < interval.low and interval.high < high:
        return SUPPORTED
    if interval.high <= low or interval.low >= high:
        return NOT_SUPPORTED
    return UNDECIDED


def format_effect(value: float, unit: Unit, *, sign: bool = True) -> str:
    """Formats a value with its unit.

    Args:
      value: in the unit; a fraction for `points`.
      unit: of the value.
      sign: whether the value is a difference, whose sign is always shown.

    Returns:
      Text; empty for NaN.
    """
    if math.isnan(value):
        return ""
    plus = "+" if sign else ""
    if unit == "points":
        return f"{100 * value:{plus}.2f} points" if sign else f"{100 * value:.2f}%"
    if unit == "times":
        return f"{value:.3g} times" if sign else f"{value:.3g}"
    return f"{value:{plus}.3g}{' nats' if unit == 'nats' else ''}"


def _conclude(found: Interval, unit: Unit, sides: str, missing: str) -> Measured:
    """Returns an effect; an interval of no width is no evidence."""
    is_point = found.high - found.low <= 1e-9 * abs(found.mean) + _NEXT_TO_NOTHING
    return Measured(found, unit, sides, missing or (_IDENTICAL if is_point else ""))


def _format_side(method: str, values: Cells, unit: Unit) -> str:
    return f"{methods.label(method)} {format_effect(float(np.mean(list(values.values()))), unit, sign=False)}"


def _logarithms(values: Cells) -> dict[tuple[str, int], float]:
    return {cell: math.log(max(value, _NEXT_TO_NOTHING)) for cell, value in values.items()}


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))


def _families(pairs: pd.DataFrame) -> list[set[str]]:
    """Groups runs that are connected by pairs."""
    families: list[set[str]] = []
    for first, second in zip(pairs["first"], pairs["second"], strict=True):
        touching = [family for family in families if first in family or second in family]
        families = [family for family in families if family not in touching]
        families.append({first, second}.union(*touching))
    return families


def _spearman_of_means(*groups: np.ndarray) -> np.ndarray:
    """Rank correlation of the means of groups of pairs, [2, ..., seeds] each; NaN where one side is constant.

    `stats.spearmanr` takes one set of pairs at a time.
    """
    means = np.stack([group.mean(axis=-1) for group in groups])
    ranks = stats.rankdata(means, axis=0)
    x, y = np.moveaxis(ranks - ranks.mean(0), 1, 0)
    sizes = np.sqrt(np.sum(x**2, axis=0) * np.sum(y**2, axis=0))
    return np.divide(np.sum(x * y, axis=0), sizes, out=np.full(sizes.shape, np.nan), where=sizes > 0)
