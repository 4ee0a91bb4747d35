"""The demonstration: on the embedded digits, what the papers compare, in a few minutes on two cores.

  python -m sparse_lib.experiment.demo --out=runs/demo

A LeNet5 is pruned to 95%; from its masks follow the lottery ticket and the scratch baselines; RigL and the dense
network run beside them. Each run is a process of `train.py`, so that what is shown here can be typed by hand. A
finished run is not repeated, and an interrupted one goes on where it stopped.
"""

import dataclasses
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from absl import flags, logging

from sparse_lib.experiment import cli, files
from sparse_lib.experiment.errors import RunError
from sparse_lib.experiment.progress import Progress, duration

ROOT = pathlib.Path(__file__).parents[2]
TRAIN = ROOT / "train.py"

STEPS = 3000
# A quarter of the published 11,719 steps, and pruning over the same part of them (25% to 60%).
SCHEDULE = (f"training.total_steps={STEPS}", "training.log_freq=50", "training.save_freq=500")
PRUNING = ("pruning.begin_step=750", "pruning.end_step=1800", "pruning.frequency=50")
# Between looks at the running processes (seconds).
_POLL = 0.3
# Two lines of a heading, and how a value of the column is written.
_COLUMNS = {
    "method": ("", "method", "{}"),
    "test_accuracy": ("test", "accuracy", "{:.4f}"),
    "sparsity": ("", "sparsity", "{:.4f}"),
    "active_weights": ("active", "weights", "{:,}"),
    "inference_flops": ("inference", "FLOPs", "{:,}"),
    "relative_flops": ("of", "dense", "{:.3f}"),
    "early_gradient_norm": ("gradient", "norm", "{:.4f}"),
    "steps_per_second": ("", "steps/s", "{:.0f}"),
}


@dataclasses.dataclass(frozen=True)
class Stage:
    """One run of the demonstration.

    Attributes:
      name: of its directory and of its gin file in configs/.
      title: what the table calls it.
      seed: of the run.
      bindings: gin bindings on top of the file and the common schedule.
      from_pruned: whether it takes the masks of the stage `prune`.
    """

    name: str
    title: str
    seed: int = 0
    bindings: tuple[str, ...] = ()
    from_pruned: bool = False


# In the order of the table. What starts from the pruned network sees the data in one order, and in another than the
# pruning run did: these runs differ in their initial weights alone.
STAGES = (
    Stage("dense", "dense"),
    Stage("prune", "gradual pruning", bindings=PRUNING),
    Stage("lottery", "lottery ticket", seed=1, from_pruned=True),
    Stage("scratch", "scratch, dense init", seed=1, from_pruned=True),
    Stage("scratch_plus", "scratch+, sparsity-aware init", seed=1, from_pruned=True),
    Stage("rigl", "RigL+, ERK, sparsity-aware init", seed=1),
)
# The order of work: what others wait for comes first, what can be missed comes last.
_ORDER = ("prune", "rigl", "lottery", "scratch", "scratch_plus", "dense")


def command(stage: Stage, out: pathlib.Path) -> list[str]:
    """The command line of a stage, without the interpreter.

    Args:
      stage: what to train.
      out: directory of the demonstration.

    Returns:
      Its words, from `train.py` on.
    """
    bindings = [*SCHEDULE, *stage.bindings]
    if stage.from_pruned:
        bindings += [f"PRUNED_RUN='{out / 'prune'}'", f"PRUNED_START='{out / 'prune' / 'ckpt-0'}'"]
    return [
        os.path.relpath(TRAIN),
        f"--logdir={out / stage.name}",
        f"--seed={stage.seed}",
        f"--gin_config={os.path.relpath(ROOT / 'configs' / stage.name)}.gin",
        *(f"--gin_bindings={binding}" for binding in bindings),
    ]


class Demo:
    """Trains the stages side by side, each in a process of its own, and compares them."""

    def __init__(self, out: pathlib.Path, jobs: int) -> None:
        """Makes the directories.

        Args:
          out: directory of the demonstration.
          jobs: processes at a time; they share the cores evenly (count).

        Raises:
          RunError: if this is no checkout, or the directory cannot be written.
        """
        if not TRAIN.is_file():
            raise RunError(
                f"The demonstration trains with train.py and configs/ of a checkout, and {ROOT} is none: clone the "
                "repository and run `make demo` there."
            )
        self._out, self._logs, self._jobs = out, out / "logs", jobs
        threads = str(max(1, cores() // jobs))
        # Two processes of one thread each train more steps a second than one process of two threads.
        self._environment = {
            "TF_NUM_INTRAOP_THREADS": threads,
            "TF_NUM_INTEROP_THREADS": threads,
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",
            **os.environ,
        }
        with files.writing(f"--out={out}"):
            self._logs.mkdir(parents=True, exist_ok=True)

    def log(self, stage: Stage) -> pathlib.Path:
        """Where the output of a stage goes; its first line is the command."""
        return self._logs / f"{stage.name}.log"

    def finished(self, stage: Stage) -> bool:
        """Whether this very command has run to its end."""
        return (self._out / stage.name / files.RESULT).exists() and self._is_log_of(stage)

    def _is_log_of(self, stage: Stage) -> bool:
        log = self.log(stage)
        return log.exists() and log.read_text(encoding="utf8").startswith(self._headline(stage))

    def _headline(self, stage: Stage) -> str:
        return f"$ python {shlex.join(command(stage, self._out))}\n"

    def train(self) -> None:
        """Runs what is not finished.

        Raises:
          RunError: if a stage fails, once the others have saved and stopped; or if one lies there that had another
            command.
        """
        for stage in STAGES:
            if self.log(stage).exists() and not self._is_log_of(stage):
                raise RunError(
                    f"{self._out} holds a demonstration with other settings; choose another --out, or delete it."
                )
        by_name = {stage.name: stage for stage in STAGES}
        waiting = [by_name[name] for name in _ORDER if not self.finished(by_name[name])]
        if not waiting:
            return
        progress = Progress("demo", STEPS * len(STAGES), sum(self._steps(stage) for stage in STAGES))
        with _stopped_at_the_end() as running:
            while waiting or running:
                for stage in [s for s in waiting if self._may_start(s)][: self._jobs - len(running)]:
                    waiting.remove(stage)
                    running[stage] = self._start(stage)
                time.sleep(_POLL)
                for stage, process in list(running.items()):
                    if process.poll() is None:
                        continue
                    del running[stage]
                    if process.returncode:
                        progress.close()
                        raise RunError(self._failure(stage, process.returncode))
                self._show(progress, list(running))

    def _may_start(self, stage: Stage) -> bool:
        pruned = next(s for s in STAGES if s.name == "prune")
        return not stage.from_pruned or self.finished(pruned)

    def _start(self, stage: Stage) -> subprocess.Popen[bytes]:
        log = self.log(stage)
        if not log.exists():
            log.write_text(self._headline(stage), encoding="utf8")
        with log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, *command(stage, self._out)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
            )

    def _failure(self, stage: Stage, code: int) -> str:
        log = self.log(stage)
        lines = log.read_text(encoding="utf8", errors="replace").split("\n")[1:]
        last = next((line for line in reversed(lines) if line.strip()), f"exit status {code}, without a word.")
        return f"The stage '{stage.name}' failed, see {log}: {last.removeprefix('error: ')}"

    def _metrics(self, stage: Stage) -> list[dict[str, Any]]:
        return files.JsonLines(self._out / stage.name / files.METRICS).read()

    def _steps(self, stage: Stage) -> int:
        """How far a stage is, by its last log line (step)."""
        metrics = self._metrics(stage)
        return metrics[-1]["step"] if metrics else 0

    def _show(self, progress: Progress, running: list[Stage]) -> None:
        names = ", ".join(f"{stage.name} at {self._steps(stage):,}" for stage in running)
        # A stage that measures and saves its last step is still at work.
        waits = sum(self._steps(stage) == STEPS for stage in running)
        progress.update(sum(self._steps(stage) for stage in STAGES) - waits, names)

    def row(self, stage: Stage) -> dict[str, Any]:
        """What the table says of a finished stage.

        Args:
          stage: finished.

        Returns:
          Name to value; fractions, counts, and steps per second.
        """
        # It brings TensorFlow, which --help does without.
        from sparse_lib.experiment.run import early_gradient_norm  # noqa: PLC0415

        result = json.loads((self._out / stage.name / files.RESULT).read_text(encoding="utf8"))
        metrics = self._metrics(stage)
        return {
            "method": stage.title,
            "test_accuracy": result["test_accuracy"],
            "sparsity": result["sparsity"],
            "active_weights": metrics[-1]["active_weights"],
            "inference_flops": result["inference_flops"],
            "relative_flops": result["inference_flops"] / result["dense_inference_flops"],
            "early_gradient_norm": early_gradient_norm(metrics),
            "steps_per_second": result["steps_per_second"],
        }


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


def table(rows: list[dict[str, Any]]) -> str:
    """The comparison as plain text.

    Args:
      rows: from `Demo.row`.

    Returns:
      One line a row, under a heading of three.
    """
    lines = [[heading[line] for heading in _COLUMNS.values()] for line in (0, 1)]
    lines += [[heading[2].format(row[name]) for name, heading in _COLUMNS.items()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(2, ["-" * width for width in widths])
    aligned = [
        [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
        for first, *rest in lines
    ]
    return "".join("  ".join(line).rstrip() + "\n" for line in aligned)


def demonstrate(out: pathlib.Path, jobs: int) -> None:
    """Trains what is missing, then writes and prints the table.

    Args:
      out: directory of the demonstration.
      jobs: processes at a time; 0 means one a core (count).
    """
    started = time.monotonic()
    demo = Demo(out, min(jobs or cores(), len(STAGES)))
    logging.info("demo: %d runs of %s steps on the embedded digits, into %s", len(STAGES), f"{STEPS:,}", out)
    demo.train()
    rows = [demo.row(stage) for stage in STAGES]
    text = table(rows)
    files.write_json(out / "demo.json", {stage.name: row for stage, row in zip(STAGES, rows, strict=True)})
    files.write_text(out / "demo.txt", text)
    names = "|".join(stage.name for stage in STAGES)
    print(
        f"\n{text}\n"
        f"Gradient norm: of the active weights on held-out images, mean over the first {STEPS // 10} steps.\n"
        f"The runs lie in {out}/<{names}>, their commands\n"
        f"and output in {demo.log(STAGES[0]).parent}, this table in {out}/demo.txt and demo.json. It took "
        f"{duration(time.monotonic() - started)}."
    )


def main() -> int:
    """Runs the demonstration that the flags describe."""
    # A stop from outside ends the stages as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        demonstrate(pathlib.Path(flags.FLAGS.out), flags.FLAGS.jobs)
    except KeyboardInterrupt:
        logging.info("Stopped; the same command goes on from there.")
        return 128 + signal.SIGINT
    return 0


if __name__ == "__main__":
    flags.DEFINE_string("out", "runs/demo", "Directory of the runs and of the table.")
    flags.DEFINE_integer("jobs", 0, "Runs at a time; 0 means one a core.", 0)
    cli.run(main)
