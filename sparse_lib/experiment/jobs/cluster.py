"""Stages on a Slurm cluster, by submitit: job arrays, time limits, and requeues after which a run resumes."""

import dataclasses
import getpass
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from absl import logging

from sparse_lib.experiment.jobs.places import Place, Process, Task
from sparse_lib.experiment.runtime.errors import RunError
from sparse_lib.experiment.storage import files

# A run may reach its time limit this often; each time it goes on from its last checkpoint (count).
_TIME_LIMITS = 1000
# Interval of asking Slurm what is in its queue (s).
QUEUE_SECONDS = 15.0
# Time that a run gets to save after a signal, less than the warning time before Slurm kills (s).
_SAVE_SECONDS = 60.0
_WARNING_SECONDS = 120
# What a command that was stopped waits for the signal that says why (s).
_REASON_SECONDS = 300.0
# Slurm's default for the length of an array (count).
_LONGEST_ARRAY = 1000


@dataclasses.dataclass
class Command:
    """A command as a function that submitit runs on a node; when Slurm ends it early, it is queued again.

    Attributes:
      words: arguments of the Python interpreter.
      log: file that the output is appended to.
      cwd: working directory; None means that of the submission.
    """

    words: tuple[str, ...]
    log: str
    cwd: str | None = None

    def __post_init__(self) -> None:
        """Starts without a process."""
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Runs the command.

        Returns:
          Its exit status.
        """
        # Slurm sends its warning to all processes of a job; it would end one that does not know the signal, unsaved.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
        try:
            with pathlib.Path(self.log).open("ab") as output:
                self._process = subprocess.Popen(
                    [sys.executable, *self.words],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=self.cwd,
                )
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])
        # The handler of a signal, which waits as well, must not find the process locked by a wait here.
        while (code := self._process.poll()) is None:
            time.sleep(0.2)
        if code in (-signal.SIGTERM, 128 + signal.SIGTERM):
            # Slurm stops a job before it preempts or cancels it; what follows queues it again or ends this process.
            time.sleep(_REASON_SECONDS)
        return code

    def checkpoint(self) -> Any:
        """Lets the command save and end, before Slurm does.

        Returns:
          What submitit queues again.
        """
        from submitit.helpers import DelayedSubmission  # noqa: PLC0415

        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_SAVE_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
        return DelayedSubmission(Command(self.words, self.log, self.cwd))


class SubmittedProcess:
    """A command in the queue of the cluster, or running there."""

    def __init__(self, job: Any, executor: "ClusterExecutor", record: pathlib.Path) -> None:
        """Notes the job's number, by which a later call finds it.

        Args:
          job: of submitit.
          executor: that submitted it.
          record: file of the number.
        """
        self.job, self._executor, self._record = job, executor, record
        self.submitted = time.monotonic()
        self.missed: float | None = None
        self._code: int | None = None
        files.write_json(record, {"job": job.job_id})

    def poll(self) -> int | None:
        """Returns the exit status; None while it waits or runs, 1 if it vanished."""
        if self._code is None and self._executor.is_over(self):
            self._code = 1
            try:
                # Without a result submitit would wait for accounting to say why.
                if self._executor.has_result(self):
                    self._code = int(self.job.result())
                else:
                    self._explain("it left the queue without a result.")
            except Exception as error:  # submitit passes on whatever the job raised
                self._explain(str(error))
            self._record.unlink(missing_ok=True)
        return self._code

    def _explain(self, reason: str) -> None:
        """Appends to the log why there is no exit status."""
        lines = [line for line in (self.job.stderr() or reason).splitlines() if line.strip()]
        last = lines[-1].strip() if lines else reason
        with self._record.with_suffix("").open("a", encoding="utf8") as log:
            log.write(f"error: Slurm job {self.job.job_id}: {last}\n")

    def stop(self) -> None:
        """Cancels the job."""
        self.job.cancel(check=False)
        self._record.unlink(missing_ok=True)


class ClusterExecutor:
    """Submits commands as job arrays, one array for all that are ready at the same time.

    The caller stays alive and submits what depends on others once they are finished: whether a stage is finished is
    read from its files, which holds for runs that an earlier call, or a person, made as well. Slurm's own dependencies
    know exit statuses of jobs alone, and a job that waits for a failed one stays in the queue. If the caller ends,
    what is submitted goes on; the next call finds it by its number.
    """

    poll_seconds = 5.0

    def __init__(
        self, folder: pathlib.Path, place: Place, name: str, slots: int, cwd: pathlib.Path | None = None
    ) -> None:
        """Prepares the submission.

        Args:
          folder: of submitit's files, on a disk that all nodes see.
          place: `where` is slurm, or another cluster of submitit, for tests.
          name: of the jobs in the queue.
          slots: jobs in the queue at once (count).
          cwd: working directory of the commands; None means the current one.

        Raises:
          RunError: if submitit is not installed, or there is no Slurm.
        """
        try:
            import submitit  # noqa: PLC0415
        except ImportError as error:
            raise RunError("--where=slurm needs submitit; install it by: pip install 'sparse-lib[sweep]'") from error
        if place.where == "slurm" and not (shutil.which("sbatch") and shutil.which("srun")):
            raise RunError("There is no Slurm here (no sbatch, no srun); start on a login node, or with --where=local.")
        self.slots, self._cwd, self._name = slots, cwd, name
        self._is_slurm = place.where == "slurm"
        self._folder, self._job_class = folder, submitit.SlurmJob
        self._executor = submitit.AutoExecutor(
            folder.resolve(), cluster=place.where, slurm_max_num_timeout=_TIME_LIMITS
        )
        # Without GPUs --gpus-per-node must be absent, since clusters without any refuse it.
        parameters: dict[str, Any] = {
            "name": name,
            "timeout_min": place.minutes,
            "cpus_per_task": place.cpus or None,
            "gpus_per_node": place.gpus or None,
            "slurm_partition": place.partition or None,
            "slurm_signal_delay_s": _WARNING_SECONDS,
            "slurm_array_parallelism": _LONGEST_ARRAY,
            "slurm_additional_parameters": {"requeue": True, **place.options},
        }
        self._executor.update_parameters(**{name: value for name, value in parameters.items() if value is not None})
        self._listed: set[str] | None = None
        self._listed_at = float("-inf")

    def start(self, tasks: Sequence[Task]) -> list[Process]:
        """Submits commands as arrays; what an earlier call submitted and is in the queue is only watched.

        Args:
          tasks: what to start.

        Returns:
          One process per task.

        Raises:
          RunError: if the cluster refuses them.
        """
        records = {task: task.log.with_name(f"{task.log.name}.job") for task in tasks}
        processes: dict[Task, Process] = {}
        for task, record in records.items():
            if record.exists() and (number := self._find_in_queue(record)):
                watched: Any = self._job_class(self._folder.resolve(), number)
                processes[task] = SubmittedProcess(watched, self, record)
        new = [task for task in tasks if task not in processes]
        for first in range(0, len(new), _LONGEST_ARRAY):
            part = new[first : first + _LONGEST_ARRAY]
            for task, submitted in zip(part, self._submit(part), strict=True):
                processes[task] = SubmittedProcess(submitted, self, records[task])
        return [processes[task] for task in tasks]

    def _submit(self, tasks: Sequence[Task]) -> list[Any]:
        cwd = None if self._cwd is None else str(self._cwd)
        commands = [Command(task.command, str(task.log.resolve()), cwd) for task in tasks]
        try:
            return list(self._executor.submit_array(commands))
        except Exception as error:  # submitit wraps what sbatch says in classes of its own
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            refusal = next((line for line in lines if line.startswith("sbatch: error:")), lines[-1] if lines else "")
            raise RunError(f"The cluster refused the jobs: {refusal.removeprefix('sbatch: error: ')}") from error

    def is_over(self, process: SubmittedProcess) -> bool:
        """Returns whether a job has ended, with or without a result.

        Accounting, which submitit would ask, is absent on small clusters; the queue is not.

        Args:
          process: of this executor.
        """
        if self.has_result(process):
            return True
        listed = self._list_queue() if self._is_slurm else None
        if listed is None or self._listed_at < process.submitted or process.job.job_id in listed:
            process.missed = None
            return False
        # A shared disk may show the result later than the queue shows the end.
        process.missed = process.missed or self._listed_at
        return time.monotonic() - process.missed > QUEUE_SECONDS

    def has_result(self, process: SubmittedProcess) -> bool:
        """Returns whether a job has left its result.

        Args:
          process: of this executor.
        """
        return bool(process.job.paths.result_pickle.exists() if self._is_slurm else process.job.done())

    def _find_in_queue(self, record: pathlib.Path) -> str | None:
        """Returns the number of a job that an earlier call submitted, if it is in the queue still."""
        if not self._is_slurm:
            return None
        number = str(files.read_json(record, "delete it", ["job"])["job"])
        return number if number in (self._list_queue() or ()) else None

    def _list_queue(self) -> set[str] | None:
        """Returns the numbers of the user's jobs in the queue; None if Slurm does not answer."""
        if time.monotonic() - self._listed_at > QUEUE_SECONDS:
            command = ["squeue", f"--user={getpass.getuser()}", "--array", "--noheader", "--format=%i"]
            asked = time.monotonic()
            answer = subprocess.run(command, capture_output=True, text=True, check=False)
            self._listed = set(answer.stdout.split()) if answer.returncode == 0 else None
            self._listed_at = asked
        return self._listed

    def leave(self, processes: Sequence[Process]) -> None:
        """Leaves what is submitted in the queue, and says how to end it.

        Args:
          processes: that have not ended.
        """
        if processes:
            logging.info(
                "%d jobs stay in the queue; the same command watches them again, and this ends them: scancel --name=%s",
                len(processes),
                self._name,
            )
