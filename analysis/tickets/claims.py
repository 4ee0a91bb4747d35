"""Claims of the lottery-ticket paper (Frankle & Carbin 2019, arXiv 1803.03635), as statistical tests over seeds."""

import dataclasses
import math
from collections.abc import Sequence

import pandas as pd

from analysis.claims import statistics
from analysis.claims.effects import NOTHING, Measured, Unit, format_effect
from analysis.claims.paper import Claim
from analysis.records.methods import FAILURES
from analysis.tickets.branches import TICKET, label_branch

# Weights remaining at which the paper's tickets of LeNet 300-100 are at least as accurate as the dense network, section
# 2 (fractions); the levels nearest to them count.
RANGE = (0.036, 0.513)
_DENSE = "dense"
_PART = "Winning tickets"
# Accuracy that a ticket may lose to be no worse (fraction).
_MARGIN = 0.005


@dataclasses.dataclass(frozen=True)
class LevelContrast:
    """A quantity of tickets relative to that of a branch or of the dense network, the mean over levels, paired by seed.

    Attributes:
      column: of the table of runs.
      first: `ticket`, a branch or `dense`.
      second: the other side; the effect is first - second, or their ratio.
      unit: `times` for the ratio of the means over levels, any other for the difference.
    """

    column: str
    first: str
    second: str
    unit: Unit

    def __call__(self, runs: pd.DataFrame) -> Measured:
        """Measures the contrast at the levels of `RANGE` that both sides have."""
        sides = [self._select(runs, name) for name in (self.first, self.second)]
        levels = sorted(set.intersection(*(set(side["level"]) for side in sides)))
        if not levels:
            wanted = f"levels with {100 * RANGE[0]:.1f}% to {100 * RANGE[1]:.1f}% of the weights"
            return Measured(NOTHING, self.unit, "", f"{wanted}, of {_label(self.first)} and {_label(self.second)}")
        first, second = (_mean_by_seed(side[side["level"].isin(levels)], self.column) for side in sides)
        text = ", ".join(
            f"{_label(name)} {format_effect(sum(by.values()) / max(len(by), 1), self.unit, sign=False)}"
            f"{_name_failures(side[side['level'].isin(levels)])}"
            for name, by, side in zip((self.first, self.second), (first, second), sides, strict=True)
        )
        found = _compare(first, second, self.unit)
        missing = "a second seed" if found.n < 2 else "" if found.low < found.high else "seeds that differ"
        return Measured(found, self.unit, f"{text}; levels {levels[0]} to {levels[-1]}", missing)

    def _select(self, runs: pd.DataFrame, name: str) -> pd.DataFrame:
        is_in_range = runs["weights_remaining"].between(RANGE[0] * 0.98, RANGE[1] * 1.02) & (runs["level"] > 0)
        if name != _DENSE:
            return runs[is_in_range & (runs["branch"] == name)].dropna(subset=self.column)
        # The dense network of a seed is the other side at every level.
        dense = runs[(runs["level"] == 0) & (runs["branch"] == TICKET)].dropna(subset=self.column)
        levels = runs.loc[is_in_range, ["level"]].drop_duplicates()
        return dense.drop(columns="level").merge(levels, how="cross")


def _compare(first: dict[int, float], second: dict[int, float], unit: Unit) -> statistics.Interval:
    if unit != "times":
        return statistics.paired_difference(first, second)
    # A run whose loss only rises is at its best before the first step.
    logs = [{seed: math.log(max(value, 1.0)) for seed, value in side.items()} for side in (first, second)]
    found = statistics.paired_difference(logs[0], logs[1])
    return found._replace(mean=math.exp(found.mean), low=math.exp(found.low), high=math.exp(found.high))


def _mean_by_seed(rows: pd.DataFrame, column: str) -> dict[int, float]:
    return {int(seed): float(value) for seed, value in rows.groupby("seed")[column].mean().items()}


def _name_failures(rows: pd.DataFrame) -> str:
    """Names in brackets how many runs have not trained; empty if none."""
    own = rows.drop_duplicates("run")["outcome"].tolist() if "outcome" in rows else []
    counts = [f"{own.count(outcome)} of {len(own)} {text}" for outcome, text in FAILURES.items() if outcome in own]
    return f" ({', '.join(counts)})" if counts else ""


def _label(name: str) -> str:
    return "dense" if name == _DENSE else label_branch(name)


CLAIMS: Sequence[Claim] = (
    Claim(
        name="tickets_match_dense",
        part=_PART,
        statement="Tickets with 51% to 3.6% of the weights are no worse than the dense network at the step of their "
        "lowest validation loss: less than half a point.",
        paper="LeNet 300-100, MNIST: up to 0.3 points better, at 13.5% of the weights, and as good at 3.6%",
        measure=LevelContrast("best_test_accuracy", TICKET, _DENSE, "points"),
        low=-_MARGIN,
    ),
    Claim(
        name="tickets_learn_faster",
        part=_PART,
        statement="They reach it earlier than the dense network.",
        paper="LeNet 300-100, MNIST: 38% earlier at 21% of the weights, as late at 3.6%",
        measure=LevelContrast("best_step", TICKET, _DENSE, "times"),
        high=1.0,
    ),
    Claim(
        name="reinitialised_worse",
        part=_PART,
        statement="Reinitialised at random, they are less accurate.",
        paper="LeNet 300-100, MNIST: half a point at 21% of the weights",
        measure=LevelContrast("best_test_accuracy", "reinit", TICKET, "points"),
        high=0.0,
    ),
    Claim(
        name="reinitialised_later",
        part=_PART,
        statement="Reinitialised at random, they reach their lowest validation loss later.",
        paper="LeNet 300-100, MNIST: 2.51 times as late at 21% of the weights",
        measure=LevelContrast("best_step", "reinit", TICKET, "times"),
        low=1.0,
    ),
    Claim(
        name="shuffled_worse",
        part=_PART,
        statement="With their masks shuffled within the layers, they are less accurate.",
        paper="Frankle et al. (2021, arXiv 2009.08576): masks of magnitude pruning after training lose accuracy",
        measure=LevelContrast("best_test_accuracy", "shuffle", TICKET, "points"),
        high=0.0,
    ),
)
