"""The demonstration: the main comparison of the papers on 5,000 images of MNIST, in a few minutes on two cores.

  python -m sparse_lib.experiment.jobs.demo --out=runs/demo

A LeNet5 is pruned to 95%; the lottery ticket and the scratch baselines train from its masks; RigL and the dense network
train beside them. RigL from the same masks and the dense initialisation separates what the method does from what the
initialisation does. Each run is a process of `train.py`, whose command can be typed by hand. A finished run is not
repeated, and an interrupted one resumes.
"""

import dataclasses
import os
import pathlib
import textwrap
import time
from collections.abc import Callable, Mapping
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
SHARED = ("data.name='mnist_5k'", f"training.total_steps={STEPS}", "training.log_freq=50", "training.save_freq=500")
PRUNING = ("pruning.begin_step=750", "pruning.end_step=1800", "pruning.frequency=50")
# Two heading lines and the number format of each column.
_COLUMNS = {
    "method": ("", "method", "{}"),
    "test_accuracy": ("test", "accuracy", "{:.4f}"),
    "plateau": ("leaves", "plateau", "{}"),
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
      bindings: gin bindings on top of the file and the shared ones.
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
    Mode("rigl_from_prune", "RigL, dense init", seed=1, from_pruned=True),
    Mode("rigl", "RigL+, ERK, sparsity-aware init", seed=1),
)
# The order of work: first the run that others wait for, last the one that can be missed.
_ORDER = ("prune", "rigl", "lottery", "scratch", "scratch_plus", "rigl_from_prune", "dense")


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
        shared=SHARED,
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


def find_first_update(out: pathlib.Path) -> int:
    """Finds the first mask update of the methods that move their masks, before which nothing tells them apart.

    Args:
      out: directory of the demonstration.

    Returns:
      The latest of them (step).
    """
    from sparse_lib.experiment.jobs import early_gradient  # noqa: PLC0415  (as below)

    updates = [files.JsonLines(out / mode.name / files.MASK_UPDATES).read() for mode in MODES]
    return max(map(early_gradient.find_first_update, updates))


def make_row(mode: Mode, out: pathlib.Path, first_update: int = 0) -> dict[str, Any]:
    """Returns the table row of a finished run.

    Args:
      mode: of the run.
      out: directory of the demonstration.
      first_update: from `find_first_update` (step).

    Returns:
      Value by column, and the outcome; fractions, counts, and steps per second.
    """
    # This imports NumPy, which --help does not need.
    from sparse_lib.experiment.jobs.early_gradient import early_gradient_norm  # noqa: PLC0415

    directory = out / mode.name
    result = files.read_json(directory / files.RESULT, "delete the directory and repeat the command")
    metrics = files.JsonLines(directory / files.METRICS).read()
    left = result["left_plateau_at"]
    return {
        "method": mode.title,
        "outcome": result["outcome"],
        "test_accuracy": result["test_accuracy"],
        "plateau": "never" if left is None else f"{left:,}",
        "sparsity": result["sparsity"],
        "active_weights": metrics[-1]["active_weights"],
        "inference_flops": result["inference_flops"],
        "relative_flops": result["inference_flops"] / result["dense_inference_flops"],
        "early_gradient_norm": early_gradient_norm(metrics, first_update),
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


def explain(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Says what makes the pruned masks train, the initialisation or RigL, from runs that differ in one of them.

    Args:
      rows: from `make_row`, by the name of the mode.

    Returns:
      One paragraph.
    """
    names = {
        "scratch": "From the dense initialisation, the masks of the pruned network, left alone,",
        "scratch_plus": "With the sparsity-aware initialisation, and nothing else changed, they",
        "rigl_from_prune": "With RigL, and nothing else changed, they",
    }
    trains = {name: rows[name]["outcome"] == "trained" for name in names}
    parts = [
        f"{text} {'train' if trains[name] else 'do not train'} ({100 * rows[name]['test_accuracy']:.1f}%)."
        for name, text in names.items()
    ]
    base = rows["scratch"]["test_accuracy"]
    gains = [100 * (rows[name]["test_accuracy"] - base) for name in ("scratch_plus", "rigl_from_prune")]
    if trains["scratch"]:
        credit = f"So they need neither to train: the initialisation adds {gains[0]:+.1f} points, RigL {gains[1]:+.1f}."
    else:
        credit = {
            (True, True): "So each of the two is enough.",
            (True, False): "So the initialisation helps and RigL alone does not: RigL+ owes its training to it.",
            (False, True): "So RigL helps and the initialisation alone does not.",
            (False, False): "So neither alone is enough.",
        }[trains["scratch_plus"], trains["rigl_from_prune"]]
    return " ".join([*parts, credit, "One seed each: this illustrates and does not prove."])


def demonstrate(out: pathlib.Path, jobs: int, place: places.Place = places.LOCAL) -> None:
    """Trains missing runs, then writes and prints the table.

    Args:
      out: directory of the demonstration.
      jobs: parallel processes; 0 means one per core (count).
      place: where the runs are made.
    """
    started = time.monotonic()
    job = make_job(out, jobs, place)
    logging.info("demo: %d runs of %s steps on 5,000 images of MNIST, into %s", len(MODES), f"{STEPS:,}", out)
    job.run()
    first_update = find_first_update(out)
    rows = {mode.name: make_row(mode, out, first_update) for mode in MODES}
    told = textwrap.fill(explain(rows), 96, break_on_hyphens=False)
    text = f"{format_table([*rows.values()])}\n{told}\n"
    files.write_json(out / "demo.json", rows)
    files.write_text(out / "demo.txt", text)
    names = "|".join(mode.name for mode in MODES)
    print(
        f"\n{text}\n"
        f"Leaves plateau: first log step with a validation accuracy above 2/9 of the way from chance to 1.\n"
        f"Gradient norm: of the active weights on held-out images, mean over steps {first_update} to "
        f"{first_update + STEPS // 10}.\n"
        f"The runs are in {out}/<{names}>,\n"
        f"their commands and output in {out}/logs, this table in {out}/demo.txt and demo.json. It took "
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
