"""A resumable job: processes that depend on one another and run in parallel; a finished one is not repeated."""

import dataclasses
import os
import pathlib
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager

from sparse_lib.experiment.runtime.errors import RunError
from sparse_lib.experiment.runtime.progress import Progress
from sparse_lib.experiment.storage import files

# Interval of polling the running processes (s).
POLL_SECONDS = 0.3


@dataclasses.dataclass(frozen=True)
class Stage:
    """One process.

    Attributes:
      name: of the stage and its log.
      command: arguments of the Python interpreter: a script, or `-m` and a module, and its arguments.
      is_finished: returns whether the results of the stage are complete.
      after: names of the stages that must finish first.
      work: total work, in a measure that all stages of a job share.
      work_done: returns the work done so far by a running or interrupted stage; None if it is not known.
    """

    name: str
    command: tuple[str, ...]
    is_finished: Callable[[], bool]
    after: tuple[str, ...] = ()
    work: float = 1.0
    work_done: Callable[[], float] | None = None


class Job:
    """Stages and their logs; the first line of a log is the command."""

    def __init__(
        self, title: str, stages: Sequence[Stage], logs: pathlib.Path, *, jobs: int = 0, cwd: pathlib.Path | None = None
    ) -> None:
        """Creates the directory of the logs.

        Args:
          title: name of the job in the progress line.
          stages: in starting order; a stage comes after those that it waits for.
          logs: directory of `<stage>.log`.
          jobs: parallel processes, which share the cores evenly; 0 means one per core (count).
          cwd: working directory of the processes; None means the current one.

        Raises:
          RunError: if the directory cannot be written, or a stage waits for one that is not before it.
        """
        self._title, self._stages, self._logs, self._cwd = title, list(stages), logs, cwd
        self._jobs = min(jobs or count_cores(), len(stages))
        earlier: set[str] = set()
        for stage in stages:
            if missing := set(stage.after) - earlier:
                raise RunError(f"The stage {stage.name} waits for {', '.join(sorted(missing))}: no stage before it.")
            earlier.add(stage.name)
        threads = str(max(1, count_cores() // max(1, self._jobs)))
        # Two processes of one thread each train more steps per second than one process of two threads.
        self._environment = {
            "TF_NUM_INTRAOP_THREADS": threads,
            "TF_NUM_INTEROP_THREADS": threads,
            "OMP_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",
            **os.environ,
        }
        with files.translate_os_error(logs):
            logs.mkdir(parents=True, exist_ok=True)

    def log_path(self, stage: Stage) -> pathlib.Path:
        """Returns the file of a stage's output."""
        return self._logs / f"{stage.name.replace('/', '_')}.log"

    def is_finished(self, stage: Stage) -> bool:
        """Returns whether the stage is finished, by the same command."""
        return stage.is_finished() and self._has_log_of(stage)

    def run(self) -> None:
        """Runs unfinished stages, and repeats those that wait for a stage that has run since.

        Raises:
          RunError: if a stage fails, after the others have saved and stopped; or if the log of a stage is that of
            another command.
        """
        for stage in self._stages:
            if self.log_path(stage).exists() and not self._has_log_of(stage):
                raise RunError(
                    f"{self.log_path(stage)} belongs to another command: choose another --out for other settings, or "
                    "delete it."
                )
        finished = self._find_up_to_date()
        waiting = [stage for stage in self._stages if stage.name not in finished]
        if not waiting:
            return
        # The work of an interrupted stage counts before it resumes.
        done = {stage.name: _clip_work_done(stage) for stage in waiting}
        total = sum(stage.work for stage in self._stages)
        progress = Progress(self._title, total, self._sum_work_done(finished, done), unit=None)
        with _terminate_at_exit() as running:
            while waiting or running:
                ready = [stage for stage in waiting if finished.issuperset(stage.after)]
                for stage in ready[: self._jobs - len(running)]:
                    waiting.remove(stage)
                    running[stage] = self._start(stage)
                time.sleep(POLL_SECONDS)
                for stage, process in list(running.items()):
                    done[stage.name] = _clip_work_done(stage)
                    if process.poll() is None:
                        continue
                    del running[stage]
                    if process.returncode or not self.is_finished(stage):
                        progress.close()
                        raise RunError(self._describe_failure(stage, process.returncode))
                    finished.add(stage.name)
                names = ", ".join(stage.name for stage in running)
                left = f"{len(self._stages) - len(finished)} of {len(self._stages)} stages left: {names}"
                progress.update(self._sum_work_done(finished, done), left)

    def _find_up_to_date(self) -> set[str]:
        """Returns the names of the stages that finished later than all that they wait for."""
        ends: dict[str, float] = {}
        for stage in self._stages:
            if ends.keys() >= set(stage.after) and self.is_finished(stage):
                end = self.log_path(stage).stat().st_mtime
                if all(ends[name] <= end for name in stage.after):
                    ends[stage.name] = end
        return set(ends)

    def _has_log_of(self, stage: Stage) -> bool:
        log = self.log_path(stage)
        if not log.exists():
            return False
        with log.open(encoding="utf8", errors="replace") as lines:
            return lines.readline() == self._headline(stage)

    def _headline(self, stage: Stage) -> str:
        return f"$ python {shlex.join(stage.command)}\n"

    def _sum_work_done(self, finished: Set[str], done: Mapping[str, float]) -> float:
        return sum(stage.work if stage.name in finished else done[stage.name] for stage in self._stages)

    def _start(self, stage: Stage) -> "subprocess.Popen[bytes]":
        log = self.log_path(stage)
        if not log.exists():
            files.write_text(log, self._headline(stage))
        with log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, *stage.command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd=self._cwd,
            )

    def _describe_failure(self, stage: Stage, code: int) -> str:
        log = self.log_path(stage)
        lines = log.read_text(encoding="utf8", errors="replace").split("\n")[1:]
        last = next((line for line in reversed(lines) if line.strip()), f"exit status {code}, without output.")
        return f"The stage '{stage.name}' failed, see {log}: {last.removeprefix('error: ')}"


def _clip_work_done(stage: Stage) -> float:
    # A running stage is never at 100%.
    return 0.0 if stage.work_done is None else min(stage.work_done(), 0.999 * stage.work)


@contextmanager
def _terminate_at_exit() -> Iterator[dict[Stage, "subprocess.Popen[bytes]"]]:
    """Yields a register of processes; those still running at exit are terminated, so that they save and stop."""
    running: dict[Stage, subprocess.Popen[bytes]] = {}
    try:
        yield running
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()


def count_cores() -> int:
    """Returns the number of cores available to this process."""
    return len(os.sched_getaffinity(0))


def read_last_step(directory: pathlib.Path) -> int:
    """Returns the last log step of a run, 0 before the first (step)."""
    metrics = files.JsonLines(directory / files.METRICS).read()
    return metrics[-1]["step"] if metrics else 0
