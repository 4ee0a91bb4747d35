"""A resumable job: processes that depend on one another and run in parallel; a finished one is not repeated."""

import dataclasses
import pathlib
import shlex
import time
from collections.abc import Callable, Iterable, Sequence

from sparse_lib.experiment.jobs.cluster import ClusterExecutor
from sparse_lib.experiment.jobs.places import LOCAL, Executor, LocalExecutor, Place, Process, Task, count_cores
from sparse_lib.experiment.runtime.errors import RunError
from sparse_lib.experiment.runtime.progress import Progress
from sparse_lib.experiment.storage import files

# Interval of polling processes on this machine (s).
POLL_SECONDS = 0.3
# Stages of a job that may be in the queue of a cluster at once (count).
QUEUED = 1000


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
        self,
        title: str,
        stages: Sequence[Stage],
        logs: pathlib.Path,
        *,
        jobs: int = 0,
        cwd: pathlib.Path | None = None,
        place: Place = LOCAL,
    ) -> None:
        """Creates the directory of the logs.

        Args:
          title: name of the job in the progress line, and in the queue of a cluster.
          stages: in starting order; a stage comes after those that it waits for.
          logs: directory of `<stage>.log`.
          jobs: stages at once; on this machine they share the cores evenly. 0 means one per core here, and all that are
            ready on a cluster (count).
          cwd: working directory of the processes; None means the current one.
          place: where the stages run.

        Raises:
          RunError: if the directory cannot be written, a stage waits for one that is not before it, or there is no
            such place.
        """
        self._title, self._logs = title, logs
        self._stages: dict[str, Stage] = {}
        self._waiting: list[Stage] = []
        self._running: dict[str, Process] = {}
        self._finished: set[str] = set()
        self._dropped: set[str] = set()
        # The work of an interrupted stage counts before it resumes.
        self._done: dict[str, float] = {}
        _check_order(stages, ())
        with files.translate_os_error(logs):
            logs.mkdir(parents=True, exist_ok=True)
        self._executor = _make_executor(title, logs, place, jobs, len(stages), cwd)
        self._initial = list(stages)

    def log_path(self, stage: Stage) -> pathlib.Path:
        """Returns the file of a stage's output."""
        return self._logs / f"{stage.name.replace('/', '_')}.log"

    def is_finished(self, stage: Stage) -> bool:
        """Returns whether the stage is finished, by the same command."""
        return stage.is_finished() and self._has_log_of(stage)

    def has_finished(self, name: str) -> bool:
        """Returns whether a stage of this job is finished.

        Args:
          name: of the stage.
        """
        return name in self._finished

    @property
    def slots(self) -> int:
        """Stages that may be under way at once (count)."""
        return self._executor.slots

    @property
    def idle(self) -> int:
        """Stages that could start at once if there were more (count)."""
        return max(0, self._executor.slots - len(self._running) - len(self._waiting))

    def add(self, stages: Iterable[Stage]) -> None:
        """Adds stages, also while the job runs; one that the job has is left out.

        Args:
          stages: in starting order.

        Raises:
          RunError: if the log of a stage is that of another command, or it waits for one that is not before it.
        """
        new = [stage for stage in stages if stage.name not in self._stages]
        _check_order(new, self._stages)
        for stage in new:
            if self.log_path(stage).exists() and not self._has_log_of(stage):
                raise RunError(
                    f"{self.log_path(stage)} belongs to another command: choose another --out for other settings, or "
                    "delete it."
                )
        self._stages.update({stage.name: stage for stage in new})
        for stage in new:
            if self._is_up_to_date(stage):
                self._finished.add(stage.name)
            else:
                self._waiting.append(stage)
                self._done[stage.name] = _clip_work_done(stage)

    def drop(self, names: Iterable[str]) -> None:
        """Gives up stages that are not finished; those that run save and stop, and resume if they are added again.

        Args:
          names: of stages that no other stage waits for.
        """
        for name in names:
            if name in self._stages and name not in self._finished:
                self._waiting = [stage for stage in self._waiting if stage.name != name]
                if name in self._running:
                    self._running.pop(name).stop()
                self._dropped.add(name)

    def run(self, watch: Callable[[], None] = lambda: None, work: float = 0.0) -> None:
        """Runs unfinished stages, and repeats those that wait for a stage that has run since.

        Args:
          watch: called before the first stage starts and whenever the job looks after its processes; may `add` and
            `drop` stages.
          work: that is expected in total, if `watch` will add stages.

        Raises:
          RunError: if a stage fails, after the others on this machine have saved and stopped; or if the log of a stage
            is that of another command.
        """
        self.add(self._initial)
        watch()
        if not self._waiting:
            return
        progress = Progress(self._title, max(work, self._sum_work()), self._sum_work_done(), unit=None)
        try:
            while self._waiting or self._running:
                self._start_ready()
                time.sleep(self._executor.poll_seconds)
                self._collect(progress)
                watch()
                note = ", ".join([f"{self._count_done()} done", *self._running])
                progress.update(min(self._sum_work_done(), max(work, self._sum_work())), note)
        finally:
            self._executor.leave(list(self._running.values()))

    def _start_ready(self) -> None:
        ready = [stage for stage in self._waiting if self._finished.issuperset(stage.after)]
        ready = ready[: self._executor.slots - len(self._running)]
        for stage in ready:
            if not self.log_path(stage).exists():
                files.write_text(self.log_path(stage), self._headline(stage))
        processes = (
            self._executor.start([Task(stage.command, self.log_path(stage)) for stage in ready]) if ready else []
        )
        for stage, process in zip(ready, processes, strict=True):
            self._waiting.remove(stage)
            self._running[stage.name] = process

    def _collect(self, progress: Progress) -> None:
        """Takes up what has ended."""
        for name, process in list(self._running.items()):
            stage, code = self._stages[name], process.poll()
            self._done[name] = _clip_work_done(stage)
            if code is None:
                continue
            del self._running[name]
            if code or not self.is_finished(stage):
                progress.close()
                raise RunError(self._describe_failure(stage, code))
            self._finished.add(name)
            progress.say(f"{self._title}: {name} is done, {self._count_done()}")

    def _count_done(self) -> str:
        return f"{len(self._finished)} of {len(self._stages) - len(self._dropped)} stages"

    def _is_up_to_date(self, stage: Stage) -> bool:
        """Returns whether a stage finished later than all that it waits for."""
        if not self._finished.issuperset(stage.after) or not self.is_finished(stage):
            return False
        end = self.log_path(stage).stat().st_mtime
        return all(self.log_path(self._stages[name]).stat().st_mtime <= end for name in stage.after)

    def _has_log_of(self, stage: Stage) -> bool:
        log = self.log_path(stage)
        if not log.exists():
            return False
        with log.open(encoding="utf8", errors="replace") as lines:
            return lines.readline() == self._headline(stage)

    def _headline(self, stage: Stage) -> str:
        return f"$ python {shlex.join(stage.command)}\n"

    def _sum_work(self) -> float:
        return sum(stage.work for stage in self._stages.values())

    def _sum_work_done(self) -> float:
        over = self._finished | self._dropped
        return sum(stage.work if name in over else self._done[name] for name, stage in self._stages.items())

    def _describe_failure(self, stage: Stage, code: int) -> str:
        log = self.log_path(stage)
        lines = log.read_text(encoding="utf8", errors="replace").split("\n")[1:]
        last = next((line for line in reversed(lines) if line.strip()), f"exit status {code}, without output.")
        return f"The stage '{stage.name}' failed, see {log}: {last.removeprefix('error: ')}"


def _check_order(stages: Sequence[Stage], earlier: Iterable[str]) -> None:
    known = set(earlier)
    for stage in stages:
        if missing := set(stage.after) - known:
            raise RunError(f"The stage {stage.name} waits for {', '.join(sorted(missing))}: no stage before it.")
        known.add(stage.name)


def _make_executor(
    title: str, logs: pathlib.Path, place: Place, jobs: int, stages: int, cwd: pathlib.Path | None
) -> Executor:
    if place.where == "local":
        slots = jobs or count_cores()
        # Fewer stages than cores get more threads each; a job without stages expects some.
        return LocalExecutor(min(slots, stages) if stages else slots, cwd, POLL_SECONDS)
    return ClusterExecutor(logs / "slurm", place, title, jobs or QUEUED, cwd)


def _clip_work_done(stage: Stage) -> float:
    # A running stage is never at 100%.
    return 0.0 if stage.work_done is None else min(stage.work_done(), 0.999 * stage.work)


def read_last_step(directory: pathlib.Path) -> int:
    """Returns the last log step of a run, 0 before the first (step)."""
    metrics = files.JsonLines(directory / files.METRICS).read()
    return metrics[-1]["step"] if metrics else 0
