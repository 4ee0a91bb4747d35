"""The demonstration: on the embedded digits, what the papers compare, in a few minutes on two cores.

  python -m sparse_lib.experiment.jobs.demo --out=runs/demo

A LeNet5 is pruned to 95%; from its masks follow the lottery ticket and the scratch baselines; RigL and the dense
network run beside them. Each run is a process of `train.py`, so that what is shown here can be typed by hand. A
finished run is not repeated, and an interrupted one goes on where it stopped.
"""

import dataclasses
import functools
import json
import os
import pathlib
import signal
import time
from typing import Any

from absl import flags, logging

from sparse_lib._utils.tables import text_table
from sparse_lib.experiment.command_line import cli
from sparse_lib.experiment.jobs import stages
from sparse_lib.experiment.runtime import signals
from sparse_lib.experiment.runtime.errors import RunError
from sparse_lib.experiment.runtime.progress import duration
from sparse_lib.experiment.storage import files

ROOT = pathlib.Path(__file__).parents[3]
TRAIN = ROOT / "train.py"

STEPS = 3000
# A quarter of the published 11,719 steps, and pruning over the same part of them (25% to 60%).
SCHEDULE = (f"training.total_steps={STEPS}", "training.log_freq=50", "training.save_freq=500")
PRUNING = ("pruning.begin_step=750", "pruning.end_step=1800", "pruning.frequency=50")
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


def job(out: pathlib.Path, jobs: int) -> stages.Job:
    """The stages as processes.

    Args:
      out: directory of the demonstration.
      jobs: processes at a time; 0 means one a core (count).

    Returns:
      The job, not started.

    Raises:
      RunError: if this is no checkout, or the directory cannot be written.
    """
    if not TRAIN.is_file():
        raise RunError(
            f"The demonstration trains with train.py and configs/ of a checkout, and {ROOT} is none: clone the "
            "repository and run `make demo` there."
        )
    by_name = {stage.name: stage for stage in STAGES}
    processes = [
        stages.Stage(
            name,
            tuple(command(by_name[name], out)),
            (out / name / files.RESULT).exists,
            after=("prune",) if by_name[name].from_pruned else (),
            work=STEPS,
            done=functools.partial(stages.last_step, out / name),
        )
        for name in _ORDER
    ]
    return stages.Job("demo", processes, out / "logs", jobs=jobs)


def row(stage: Stage, out: pathlib.Path) -> dict[str, Any]:
    """What the table says of a finished stage.

    Args:
      stage: finished.
      out: directory of the demonstration.

    Returns:
      Name to value; fractions, counts, and steps per second.
    """
    # It brings TensorFlow, which --help does without.
    from sparse_lib.experiment.training.run import early_gradient_norm  # noqa: PLC0415

    directory = out / stage.name
    result = json.loads((directory / files.RESULT).read_text(encoding="utf8"))
    metrics = files.JsonLines(directory / files.METRICS).read()
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


def table(rows: list[dict[str, Any]]) -> str:
    """The comparison as plain text.

    Args:
      rows: from `row`.

    Returns:
      One line a row, under a heading of three.
    """
    headers = [[heading[line] for heading in _COLUMNS.values()] for line in (0, 1)]
    cells = [[heading[2].format(row[name]) for name, heading in _COLUMNS.items()] for row in rows]
    return f"{text_table(headers, cells, underline=True)}\n"


def demonstrate(out: pathlib.Path, jobs: int) -> None:
    """Trains what is missing, then writes and prints the table.

    Args:
      out: directory of the demonstration.
      jobs: processes at a time; 0 means one a core (count).
    """
    started = time.monotonic()
    work = job(out, jobs)
    logging.info("demo: %d runs of %s steps on the embedded digits, into %s", len(STAGES), f"{STEPS:,}", out)
    work.run()
    rows = [row(stage, out) for stage in STAGES]
    text = table(rows)
    files.write_json(out / "demo.json", {stage.name: row for stage, row in zip(STAGES, rows, strict=True)})
    files.write_text(out / "demo.txt", text)
    names = "|".join(stage.name for stage in STAGES)
    print(
        f"\n{text}\n"
        f"Gradient norm: of the active weights on held-out images, mean over the first {STEPS // 10} steps.\n"
        f"The runs lie in {out}/<{names}>, their commands\n"
        f"and output in {out}/logs, this table in {out}/demo.txt and demo.json. It took "
        f"{duration(time.monotonic() - started)}."
    )


def main() -> int:
    """Runs the demonstration that the flags describe."""
    signals.interrupt()
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
