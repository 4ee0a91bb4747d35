"""Robust timing on a noisy machine: contestants take turns, medians, and ratios per round."""

import contextlib
import functools
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection


def measure_rates(contestants: Mapping[str, Callable[[], int]], rounds: int = 5) -> dict[str, list[float]]:
    """Measures the rates of contestants that take turns, after one uncounted round.

    Args:
      contestants: function by name, which works and returns the number of units done (steps).
      rounds: counted rounds.

    Returns:
      Units per second in each round, by contestant.
    """
    measured: dict[str, list[float]] = {name: [] for name in contestants}
    for counted in [False] + [True] * rounds:
        for name, work in contestants.items():
            started = time.perf_counter()
            units = work()
            if counted:
                measured[name].append(units / (time.perf_counter() - started))
    return measured


@contextlib.contextmanager
def start_processes(
    build: Callable[[str], Callable[[], int]], names: Sequence[str]
) -> Iterator[dict[str, Callable[[], int]]]:
    """Starts a process per contestant, so that idle threads of other libraries do not disturb it.

    Args:
      build: returns the work of a contestant by name; a function of a module, or a partial one, to be pickled.
      names: contestants.

    Yields:
      Contestants for `measure_rates`.
    """
    context = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        contestants = {}
        for name in names:
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(build, name, theirs))
            process.start()
            # Called in reverse order: closing the pipe ends the process, which is joined then.
            stack.callback(process.join)
            stack.callback(ours.close)
            theirs.close()
            contestants[name] = functools.partial(_request, ours)
        yield contestants


def _serve(build: Callable[[str], Callable[[], int]], name: str, pipe: Connection) -> None:
    work = build(name)
    with contextlib.suppress(EOFError):
        while True:
            pipe.recv()
            pipe.send(work())


def _request(pipe: Connection) -> int:
    pipe.send(None)
    return pipe.recv()


def median_ratio(measured: Mapping[str, list[float]], one: str, other: str) -> float:
    """Returns the median over rounds of rate(one) / rate(other)."""
    return statistics.median(a / b for a, b in zip(measured[one], measured[other], strict=True))


def print_rates(title: str, measured: Mapping[str, list[float]], unit: str = "steps/s") -> None:
    """Prints the median rate of each contestant."""
    print(f"\n{title}")
    for name, values in measured.items():
        print(f"  {name:<46} {statistics.median(values):>9.1f} {unit}  ({min(values):.1f} to {max(values):.1f})")
