"""Where the stages of a job run: as processes beside each other, or on a cluster."""

import argparse
import dataclasses
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from sparse_lib.experiment.runtime.errors import SettingError

WHERE = ("local", "slurm")


class Task(NamedTuple):
    """A command to start.

    Attributes:
      command: arguments of the Python interpreter.
      log: file that the output is appended to; it exists.
    """

    command: tuple[str, ...]
    log: pathlib.Path


class Process(Protocol):
    """A started command."""

    def poll(self) -> int | None:
        """Returns the exit status; None while it waits or runs."""

    def stop(self) -> None:
        """Asks it to save and end, and returns once it is over or cancelled."""


class Executor(Protocol):
    """Starts commands somewhere.

    Attributes:
      slots: commands that may be under way at once (count).
      poll_seconds: interval of asking what has ended (s).
    """

    slots: int
    poll_seconds: float

    def start(self, tasks: Sequence[Task]) -> list[Process]:
        """Starts commands together.

        Args:
          tasks: what to start, at most as many as there are free slots.

        Returns:
          One process per task.
        """

    def leave(self, processes: Sequence[Process]) -> None:
        """Says goodbye to what is still under way when the job ends early.

        Args:
          processes: that have not ended.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """Where to run, and what each stage may have there.

    Attributes:
      where: one of `WHERE`.
      partition: of the cluster; empty for its default.
      gpus: of each stage (count).
      cpus: cores of each stage; 0 for the default of the cluster (count).
      minutes: time limit of each stage, after which it is requeued and resumes (min).
      options: other options of sbatch by name, such as `account`.
    """

    where: str = "local"
    partition: str = ""
    gpus: int = 0
    cpus: int = 0
    minutes: int = 60
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)


LOCAL = Place()


class Flag(NamedTuple):
    """A flag of command lines that take a place.

    Attributes:
      name: without dashes.
      kind: `str`, `int` or `list`, for a flag that may be repeated.
      default: its value if it is not given.
      text: of --help.
    """

    name: str
    kind: type
    default: Any
    text: str


FLAGS = (
    Flag("where", str, "local", "local: side by side on this machine; slurm: on the cluster"),
    Flag("partition", str, "", "partition of the cluster"),
    Flag("gpus", int, 0, "GPUs of each stage on the cluster"),
    Flag("cpus", int, 0, "cores of each stage on the cluster; its default if not given"),
    Flag(
        "time", str, "1:00:00", "time limit of a stage on the cluster, H:MM:SS, D-H:MM:SS or minutes; it then resumes"
    ),
    Flag("slurm", list, [], "another option of sbatch as NAME=VALUE, such as account=abc; may be repeated"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --where and its companions to a command line.

    Args:
      parser: of the command line.
    """
    group = parser.add_argument_group("where the runs are made")
    for flag in FLAGS:
        if flag.kind is list:
            group.add_argument(f"--{flag.name}", action="append", default=[], metavar="NAME=VALUE", help=flag.text)
        else:
            choices = WHERE if flag.name == "where" else None
            group.add_argument(f"--{flag.name}", type=flag.kind, default=flag.default, choices=choices, help=flag.text)


def make_place(values: Mapping[str, Any]) -> Place:
    """Reads the values of `FLAGS`.

    Args:
      values: by name of the flag.

    Returns:
      The place.

    Raises:
      SettingError: for a value that a flag cannot have, or one of the cluster without --where=slurm.
    """
    if values["where"] not in WHERE:
        raise SettingError(f"--where={values['where']} is none of {', '.join(WHERE)}.")
    if values["where"] == "local":
        for flag in FLAGS:
            if flag.name != "where" and values[flag.name] != flag.default:
                raise SettingError(f"--{flag.name} is for --where=slurm; leave it out, or add that.")
        return LOCAL
    options = {}
    for text in values["slurm"]:
        name, equals, value = text.partition("=")
        if not equals or not re.fullmatch(r"[a-z][a-z-]*", name):
            raise SettingError(f"--slurm={text} is not NAME=VALUE with an option of sbatch, such as account=abc.")
        options[name] = value
    for name in ("gpus", "cpus"):
        if values[name] < 0:
            raise SettingError(f"--{name}={values[name]} must be at least 0.")
    return Place(
        where=values["where"],
        partition=values["partition"],
        gpus=values["gpus"],
        cpus=values["cpus"],
        minutes=parse_minutes(values["time"]),
        options=options,
    )


def parse_minutes(text: str) -> int:
    """Reads a time limit.

    Args:
      text: minutes, H:MM:SS or D-H:MM:SS.

    Returns:
      The limit, rounded up (min).

    Raises:
      SettingError: if it is none of these, or zero.

    Example:
      >>> from sparse_lib.experiment.jobs.places import parse_minutes
      >>> [parse_minutes(text) for text in ("90", "1:30:00", "2-0:00:01")]
      [90, 90, 2881]
    """
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)", text)
    if found:
        days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
        total = 60 * (24 * days + hours) + minutes + (seconds > 0)
    else:
        total = int(text) if re.fullmatch(r"\d+", text) else 0
    if not total:
        raise SettingError(f"--time={text} is no time limit; write H:MM:SS, D-H:MM:SS or minutes.")
    return total


def count_cores() -> int:
    """Returns the number of cores available to this process."""
    return len(os.sched_getaffinity(0))


class LocalProcess:
    """A process on this machine."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        """Holds the process.

        Args:
          process: that runs.
        """
        self._process = process

    def poll(self) -> int | None:
        """Returns the exit status; None while it runs."""
        return self._process.poll()

    def ask_to_stop(self) -> None:
        """Asks it to save and end."""
        self._process.terminate()

    def stop(self) -> None:
        """Asks it to save and end, and waits for that."""
        self.ask_to_stop()
        self._process.wait()


class LocalExecutor:
    """Processes side by side, which share the cores evenly.

    Two processes of one thread each train more steps per second than one process of two threads.
    """

    def __init__(self, slots: int, cwd: pathlib.Path | None = None, poll_seconds: float = 0.3) -> None:
        """Shares the cores.

        Args:
          slots: processes at once (count).
          cwd: working directory of the processes; None means the current one.
          poll_seconds: interval of asking what has ended (s).
        """
        self.slots, self._cwd, self.poll_seconds = max(1, slots), cwd, poll_seconds
        threads = str(max(1, count_cores() // self.slots))
        self._environment = {
            "TF_NUM_INTRAOP_THREADS": threads,
            "TF_NUM_INTEROP_THREADS": threads,
            "OMP_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",
            **os.environ,
        }

    def start(self, tasks: Sequence[Task]) -> list[Process]:
        """Starts commands.

        Args:
          tasks: what to start.

        Returns:
          One process per task.
        """
        started: list[Process] = []
        for task in tasks:
            with task.log.open("ab") as output:
                process = subprocess.Popen(
                    [sys.executable, *task.command],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=self._environment,
                    cwd=self._cwd,
                )
            started.append(LocalProcess(process))
        return started

    def leave(self, processes: Sequence[Process]) -> None:
        """Stops processes, all at the same time.

        Args:
          processes: that have not ended.
        """
        for process in processes:
            if isinstance(process, LocalProcess):
                process.ask_to_stop()
        for process in processes:
            process.stop()
