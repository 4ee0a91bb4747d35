"""The demonstration: the main comparison of the papers on the embedded digits, in a few minutes on two cores.

  python -m sparse_lib.experiment.jobs.demo --out=runs/demo

A LeNet5 is pruned to 95%; the lottery ticket and the scratch baselines train from its masks; RigL and the dense network
train beside them. Each run is a process of `train.py`, whose command can be typed by hand. A finished run is not
repeated, and an interrupted one resumes.
"""

import dataclasses
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

from absl import flags, logging

from sparse_lib._utils.tables import text_table
from sparse_lib.experiment.command_line import cli
from sparse_lib.experiment.jobs import places, protocol, stages
from sparse_lib.experiment.jobs.protocol import ROOT
from sparse_lib.experiment.runtime.progress import duration
from sparse_lib.experiment.storage import files

TRAIN = ROOT / protocol.TRAIN

STEPS = 3000
# A quarter of the published 11,719 steps, and pruning over the same part of them (25% to 60%).
SCHEDULE = (f"training.total_steps={STEPS}", "training.log_freq=50", "training.save_freq=500")
PRUNING = ("pruning.begin_step=750", "pruning.end_step=1800", "pruning.frequency=50")
# Two heading lines and the number format of each column.
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
class Mode:
    """One run of the demonstration.

    Attributes:
      name: of its directory and its gin file in configs/.
      title: row label in the table.
      seed: of the run.
      bindings: gin bindings on top of the file and the common schedule.
      from_pruned: whether it takes the masks of the run `prune`.
    """

    name: str
    title: str
    seed: int = 0
    bindings: tuple[str, ...] = ()
    from_pruned: bool = False


# In the order of the table. The runs that start from the pruned network share their data order, which is not that of
# the pruning run: they differ in their initial weights alone.
MODES = (
    Mode("dense", "dense"),
    Mode("prune", "gradual pruning", bindings=PRUNING),
    Mode("lottery", "lottery ticket", seed=1, from_pruned=True),
    Mode("scratch", "scratch, dense init", seed=1, from_pruned=True),
    Mode("scratch_plus", "scratch+, sparsity-aware init", seed=1, from_pruned=True),
    Mode("rigl", "RigL+, ERK, sparsity-aware init", seed=1),
)
# The order of work: first the run that others wait for, last the one that can be missed.
_ORDER = ("prune", "rigl", "lottery", "scratch", "scratch_plus", "dense")


def make_stage(mode: Mode, out: pathlib.Path) -> stages.Stage:
    """Returns the training run of a mode.

    Args:
      mode: what to train.
      out: directory of the demonstration.
    """
    return protocol.make_training(
        out,
        mode.name,
        f"{os.path.relpath(ROOT / 'configs' / mode.name)}.gin",
        mode.bindings,
        shared=SCHEDULE,
        masks_of="prune" if mode.from_pruned else None,
        seed=mode.seed,
        steps=STEPS,
        script=os.path.relpath(TRAIN),
    )


def make_job(out: pathlib.Path, jobs: int, place: places.Place = places.LOCAL) -> stages.Job:
    """Returns the runs as a job, not started.

    Args:
      out: directory of the demonstration.
      jobs: parallel processes; 0 means one per core (count).
      place: where the runs are made.

    Raises:
      RunError: if this is not a source checkout, or the directory cannot be written.
    """
    protocol.require_checkout("The demonstration", TRAIN)
    by_name = {mode.name: mode for mode in MODES}
    runs = [make_stage(by_name[name], out) for name in _ORDER]
    return stages.Job("demo", runs, out / "logs", jobs=jobs, place=place)


def make_row(mode: Mode, out: pathlib.Path) -> dict[str, Any]:
    """Returns the table row of a finished run.

    Args:
      mode: of the run.
      out: directory of the demonstration.

    Returns:
      Value by column; fractions, counts, and steps per second.
    """
    # This imports NumPy, which --help does not need.
    from sparse_lib.experiment.jobs.early_gradient import early_gradient_norm  # noqa: PLC0415

    directory = out / mode.name
    result = files.read_json(directory / files.RESULT, "delete the directory and repeat the command")
    metrics = files.JsonLines(directory / files.METRICS).read()
    return {
        "method": mode.title,
        "test_accuracy": result["test_accuracy"],
        "sparsity": result["sparsity"],
        "active_weights": metrics[-1]["active_weights"],
        "inference_flops": result["inference_flops"],
        "relative_flops": result["inference_flops"] / result["dense_inference_flops"],
        "early_gradient_norm": early_gradient_norm(metrics),
        "steps_per_second": result["steps_per_second"],
    }


def format_table(rows: list[dict[str, Any]]) -> str:
    """Returns the comparison as plain text, one line per row under a heading of three lines.

    Args:
      rows: from `make_row`.
    """
    headers = [[heading[line] for heading in _COLUMNS.values()] for line in (0, 1)]
    cells = [[heading[2].format(row[name]) for name, heading in _COLUMNS.items()] for row in rows]
    return f"{text_table(headers, cells, underline=True)}\n"


def demonstrate(out: pathlib.Path, jobs: int, place: places.Place = places.LOCAL) -> None:
    """Trains missing runs, then writes and prints the table.

    Args:
      out: directory of the demonstration.
      jobs: parallel processes; 0 means one per core (count).
      place: where the runs are made.
    """
    started = time.monotonic()
    job = make_job(out, jobs, place)
    logging.info("demo: %d runs of %s steps on the embedded digits, into %s", len(MODES), f"{STEPS:,}", out)
    job.run()
    rows = [make_row(mode, out) for mode in MODES]
    text = format_table(rows)
    files.write_json(out / "demo.json", {mode.name: row for mode, row in zip(MODES, rows, strict=True)})
    files.write_text(out / "demo.txt", text)
    names = "|".join(mode.name for mode in MODES)
    print(
        f"\n{text}\n"
        f"Gradient norm: of the active weights on held-out images, mean over the first {STEPS // 10} steps.\n"
        f"The runs are in {out}/<{names}>, their commands\n"
        f"and output in {out}/logs, this table in {out}/demo.txt and demo.json. It took "
        f"{duration(time.monotonic() - started)}."
    )


def define_flags() -> None:
    """Defines the flags of the command line."""
    flags.DEFINE_string("out", "runs/demo", "Directory of the runs and of the table.")
    flags.DEFINE_integer("jobs", 0, "Parallel runs; 0 means one per core.", 0)
    defining: dict[type, Callable[..., Any]] = {
        str: flags.DEFINE_string,
        int: flags.DEFINE_integer,
        list: flags.DEFINE_multi_string,
    }
    for flag in places.FLAGS:
        defining[flag.kind](flag.name, flag.default, flag.text)


def main() -> int:
    """Runs the demonstration with the flags of the command line."""
    values = {flag.name: getattr(flags.FLAGS, flag.name) for flag in places.FLAGS}
    place = places.make_place(values)
    return protocol.run_until_interrupted(lambda: demonstrate(pathlib.Path(flags.FLAGS.out), flags.FLAGS.jobs, place))


if __name__ == "__main__":
    define_flags()
    cli.run(main)
