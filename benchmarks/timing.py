"""Timing that holds on a noisy machine: contestants in turn, the median, ratios pair by pair."""

import statistics
import time
from collections.abc import Callable, Mapping


def rates(contestants: Mapping[str, Callable[[], int]], rounds: int = 5) -> dict[str, list[float]]:
    """Runs every contestant in every round, after one round that is not counted.

    Args:
      contestants: name -> a function that works and returns how many units it did (steps).
      rounds: counted rounds.

    Returns:
      Units a second of each contestant, one a round.
    """
    measured: dict[str, list[float]] = {name: [] for name in contestants}
    for counted in [False] + [True] * rounds:
        for name, work in contestants.items():
            started = time.perf_counter()
            units = work()
            if counted:
                measured[name].append(units / (time.perf_counter() - started))
    return measured


def ratio(measured: Mapping[str, list[float]], one: str, other: str) -> float:
    """Median over the rounds of rate(one) / rate(other)."""
    return statistics.median(a / b for a, b in zip(measured[one], measured[other], strict=True))


def report(title: str, measured: Mapping[str, list[float]], unit: str = "steps/s") -> None:
    """Prints the median rate of each contestant."""
    print(f"\n{title}")
    for name, values in measured.items():
        print(f"  {name:<46} {statistics.median(values):>9.1f} {unit}  ({min(values):.1f} to {max(values):.1f})")
