"""Timing that holds on a noisy machine: contestants in turn, the median, ratios pair by pair."""

import contextlib
import functools
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection


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


@contextlib.contextmanager
def apart(build: Callable[[str], Callable[[], int]], names: Sequence[str]) -> Iterator[dict[str, Callable[[], int]]]:
    """Contestants for `rates` in processes of their own, where no other library's idle threads are in their way.

    Args:
      build: makes what a contestant does in a round from its name; a function of a module, or a partial one.
      names: of the contestants.

    Yields:
      Name -> a function that has the contestant work and returns how many units it did.
    """
    context = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        contestants = {}
        for name in names:
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(build, name, theirs))
            process.start()
            # In reverse order: the closed pipe ends the process, which is then waited for.
            stack.callback(process.join)
            stack.callback(ours.close)
            theirs.close()
            contestants[name] = functools.partial(_ask, ours)
        yield contestants


def _serve(build: Callable[[str], Callable[[], int]], name: str, pipe: Connection) -> None:
    work = build(name)
    with contextlib.suppress(EOFError):
        while True:
            pipe.recv()
            pipe.send(work())


def _ask(pipe: Connection) -> int:
    pipe.send(None)
    return pipe.recv()


def ratio(measured: Mapping[str, list[float]], one: str, other: str) -> float:
    """Median over the rounds of rate(one) / rate(other)."""
    return statistics.median(a / b for a, b in zip(measured[one], measured[other], strict=True))


def report(title: str, measured: Mapping[str, list[float]], unit: str = "steps/s") -> None:
    """Prints the median rate of each contestant."""
    print(f"\n{title}")
    for name, values in measured.items():
        print(f"  {name:<46} {statistics.median(values):>9.1f} {unit}  ({min(values):.1f} to {max(values):.1f})")
