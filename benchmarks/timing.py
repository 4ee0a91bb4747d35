"""Robust timing on a noisy machine: contestants take turns, medians, and ratios per round."""

import contextlib
import functools
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Literal, NamedTuple

# Of the wall, or of the processor: what a process of one thread costs whatever else the machine does.
Clock = Literal["wall", "processor"]
CLOCKS: dict[Clock, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}


class Turn(NamedTuple):
    """What a contestant did in its turn.

    Attributes:
      units: of work done (steps).
      seconds: that they took (s).
    """

    units: int
    seconds: float


# Takes a turn.
Contestant = Callable[[], Turn]


class ContestantError(Exception):
    """A contestant cannot take part any more; the message names it and says why."""


def time_turns(work: Callable[[], int], clock: Clock = "wall") -> Contestant:
    """Returns a contestant that works in this process.

    Args:
      work: works, and returns the number of units done (steps).
      clock: that counts.
    """
    now = CLOCKS[clock]

    def take_turn() -> Turn:
        started = now()
        units = work()
        return Turn(units, now() - started)

    return take_turn


def measure_rates(contestants: Mapping[str, Contestant], rounds: int = 5) -> dict[str, list[float]]:
    """Measures the rates of contestants that take turns, after one uncounted round.

    A contestant that dies is named on standard error with its reason, and left out; the others go on.

    Args:
      contestants: by name.
      rounds: counted rounds.

    Returns:
      Units per second in each round, by contestant.
    """
    measured: dict[str, list[float]] = {name: [] for name in contestants}
    for counted in [False] + [True] * rounds:
        for name in list(measured):
            try:
                turn = contestants[name]()
            except ContestantError as error:
                print(f"  left out: {error}", file=sys.stderr, flush=True)
                del measured[name]
                continue
            if counted:
                measured[name].append(turn.units / turn.seconds)
    return measured


@contextlib.contextmanager
def start_processes(
    build: Callable[[str], Callable[[], int]], names: Sequence[str], clock: Clock = "wall"
) -> Iterator[dict[str, Contestant]]:
    """Starts a process per contestant, so that idle threads of other libraries do not disturb it.

    Args:
      build: returns the work of a contestant by name; a function of a module, or a partial one, to be pickled.
      names: contestants.
      clock: that counts, of each process.

    Yields:
      Contestants for `measure_rates`.
    """
    context = multiprocessing.get_context("spawn")
    # Closing its pipe ends a process. All are closed before the first is waited for.
    with contextlib.ExitStack() as processes, contextlib.ExitStack() as pipes:
        contestants: dict[str, Contestant] = {}
        for name in names:
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(build, name, clock, theirs))
            process.start()
            processes.callback(process.join)
            pipes.callback(ours.close)
            theirs.close()
            contestants[name] = functools.partial(_request, name, ours, process)
        yield contestants


def _serve(
    build: Callable[[str], Callable[[], int]], name: str, clock: Clock, pipe: Connection
) -> None:  # pragma: no cover - in a process of its own
    # The pipe breaks where the other side has gone, such as after Ctrl-C.
    with contextlib.suppress(EOFError, BrokenPipeError):
        try:
            take_turn = time_turns(build(name), clock)
            while True:
                pipe.recv()
                pipe.send(take_turn())
        except EOFError:
            raise
        except Exception as error:
            pipe.send(f"{type(error).__name__}: {error}")


def _request(name: str, pipe: Connection, process: multiprocessing.process.BaseProcess) -> Turn:
    try:
        # A contestant that died while it was built has said why already.
        with contextlib.suppress(BrokenPipeError):
            pipe.send(None)
        answer = pipe.recv()
    except (EOFError, ConnectionResetError):
        process.join()
        raise ContestantError(f"{name} ended with status {process.exitcode}") from None
    if isinstance(answer, str):
        raise ContestantError(f"{name}: {answer}")
    return answer


def median_ratio(measured: Mapping[str, list[float]], one: str, other: str) -> float:
    """Returns the median over rounds of rate(one) / rate(other)."""
    return statistics.median(a / b for a, b in zip(measured[one], measured[other], strict=True))


def median_seconds(rates: Sequence[float]) -> float:
    """Returns the median time of a unit (s) from rates."""
    return 1 / statistics.median(rates)


def print_rates(title: str, measured: Mapping[str, list[float]], unit: str = "steps/s") -> None:
    """Prints the median rate of each contestant."""
    print(f"\n{title}")
    for name, values in measured.items():
        print(f"  {name:<46} {statistics.median(values):>9.1f} {unit}  ({min(values):.1f} to {max(values):.1f})")
