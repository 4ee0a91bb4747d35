"""A job of many processes: stages that wait for one another, side by side, never repeated, taken up again."""

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

# Between looks at the running processes (seconds).
POLL_SECONDS = 0.3


@dataclasses.dataclass(frozen=True)
class Stage:
    """One process.

    Attributes:
      name: of the stage and of its log.
      command: what Python runs: a script or `-m` and a module, and arguments.
      finished: whether it has run to its end, as its files say.
      after: names of the stages that must have finished before.
      work: how much there is to do, in a measure that all stages of a job share.
      done: how much of it is done so far, of a stage that runs or was interrupted; None says nothing on the way.
    """

    name: str
    command: tuple[str, ...]
    finished: Callable[[], bool]
    after: tuple[str, ...] = ()
    work: float = 1.0
    done: Callable[[], float] | None = None


class Job:
    """Stages with their logs; the first line of a log is the command."""

    def __init__(
        self, title: str, stages: Sequence[Stage], logs: pathlib.Path, *, jobs: int = 0, cwd: pathlib.Path | None = None
    ) -> None:
        """Makes the directory of the logs.

        Args:
          title: what is being done.
          stages: in the order in which they start where they may; those that others wait for come before them.
          logs: directory of `<stage>.log`.
          jobs: processes at a time, which share the cores evenly; 0 means one a core (count).
          cwd: where the processes run; None means here.

        Raises:
          RunError: if the directory cannot be written, or a stage waits for one that does not come before it.
        """
        self._title, self._stages, self._logs, self._cwd = title, list(stages), logs, cwd
        self._jobs = min(jobs or cores(), len(stages))
        earlier: set[str] = set()
        for stage in stages:
            if missing := set(stage.after) - earlier:
                raise RunError(f"The stage {stage.name} waits for {', '.join(sorted(missing))}: no stage before it.")
            earlier.add(stage.name)
        threads = str(max(1, cores() // max(1, self._jobs)))
        # Two processes of one thread each train more steps a second than one process of two threads.
        self._environment = {
            "TF_NUM_INTRAOP_THREADS": threads,
            "TF_NUM_INTEROP_THREADS": threads,
            "OMP_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",
            **os.environ,
        }
        with files.writing(logs):
            logs.mkdir(parents=True, exist_ok=True)

    def log(self, stage: Stage) -> pathlib.Path:
        """Where the output of a stage goes."""
        return self._logs / f"{stage.name.replace('/', '_')}.log"

    def finished(self, stage: Stage) -> bool:
        """Whether this very command has run to its end."""
        return stage.finished() and self._is_log_of(stage)

    def run(self) -> None:
        """Runs what is not finished, and again what waits for a stage that has run since.

        Raises:
          RunError: if a stage fails, once the others have saved and stopped; or if one lies there that had another
            command.
        """
        for stage in self._stages:
            if self.log(stage).exists() and not self._is_log_of(stage):
                raise RunError(
                    f"{self.log(stage)} is of another command: choose another --out for other settings, or delete it."
                )
        finished = self._up_to_date()
        waiting = [stage for stage in self._stages if stage.name not in finished]
        if not waiting:
            return
        # What an interrupted stage has done stays as it is until it goes on.
        done = {stage.name: _done(stage) for stage in waiting}
        whole = sum(stage.work for stage in self._stages)
        progress = Progress(self._title, whole, self._work_done(finished, done), unit=None)
        with _stopped_at_the_end() as running:
            while waiting or running:
                ready = [stage for stage in waiting if finished.issuperset(stage.after)]
                for stage in ready[: self._jobs - len(running)]:
                    waiting.remove(stage)
                    running[stage] = self._start(stage)
                time.sleep(POLL_SECONDS)
                for stage, process in list(running.items()):
                    done[stage.name] = _done(stage)
                    if process.poll() is None:
                        continue
                    del running[stage]
                    if process.returncode or not self.finished(stage):
                        progress.close()
                        raise RunError(self._failure(stage, process.returncode))
                    finished.add(stage.name)
                names = ", ".join(stage.name for stage in running)
                left = f"{len(self._stages) - len(finished)} of {len(self._stages)} stages left: {names}"
                progress.update(self._work_done(finished, done), left)

    def _up_to_date(self) -> set[str]:
        """Names of the stages that have finished, and later than all that they wait for."""
        ends: dict[str, float] = {}
        for stage in self._stages:
            if ends.keys() >= set(stage.after) and self.finished(stage):
                end = self.log(stage).stat().st_mtime
                if all(ends[name] <= end for name in stage.after):
                    ends[stage.name] = end
        return set(ends)

    def _is_log_of(self, stage: Stage) -> bool:
        log = self.log(stage)
        if not log.exists():
            return False
        with log.open(encoding="utf8", errors="replace") as lines:
            return lines.readline() == self._headline(stage)

    def _headline(self, stage: Stage) -> str:
        return f"$ python {shlex.join(stage.command)}\n"

    def _work_done(self, finished: Set[str], done: Mapping[str, float]) -> float:
        return sum(stage.work if stage.name in finished else done[stage.name] for stage in self._stages)

    def _start(self, stage: Stage) -> "subprocess.Popen[bytes]":
        log = self.log(stage)
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

    def _failure(self, stage: Stage, code: int) -> str:
        log = self.log(stage)
        lines = log.read_text(encoding="utf8", errors="replace").split("\n")[1:]
        last = next((line for line in reversed(lines) if line.strip()), f"exit status {code}, without a word.")
        return f"The stage '{stage.name}' failed, see {log}: {last.removeprefix('error: ')}"


def _done(stage: Stage) -> float:
    # A stage that does its last bit is still at work.
    return 0.0 if stage.done is None else min(stage.done(), 0.999 * stage.work)


@contextmanager
def _stopped_at_the_end() -> Iterator[dict[Stage, "subprocess.Popen[bytes]"]]:
    """Gives a register of processes; those that still run when the context is left, save and stop."""
    running: dict[Stage, subprocess.Popen[bytes]] = {}
    try:
        yield running
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()


def cores() -> int:
    """Cores that this process may use (count)."""
    return len(os.sched_getaffinity(0))


def last_step(directory: pathlib.Path) -> int:
    """How far a run is, by its last log line (step)."""
    metrics = files.JsonLines(directory / files.METRICS).read()
    return metrics[-1]["step"] if metrics else 0
