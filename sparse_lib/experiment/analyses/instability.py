"""Instability to SGD noise: copies of a run with different data orders, and the barriers between them."""

import csv
import dataclasses
import io
import itertools
import pathlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sparse_lib.experiment.analyses import interpolation
from sparse_lib.experiment.config.analyses import InstabilitySettings, InterpolateSettings
from sparse_lib.experiment.config.experiment import Experiment
from sparse_lib.experiment.runtime.errors import RunError
from sparse_lib.experiment.runtime.progress import Progress
from sparse_lib.experiment.runtime.versions import versions
from sparse_lib.experiment.storage import checkpoints, files, resumable, run_directory
from sparse_lib.experiment.training import run
from sparse_lib.experiment.training.build import plan_run

# Copies are stable if the error rises by less than 2% on the line between them (Frankle et al. 2020, section 3.2).
STABLE = 0.02


class Comparison(NamedTuple):
    """A row of the table: the line between two copies, on one split.

    Attributes:
      step: of the checkpoint that the copies start from (step).
      first_seed: data seed of one copy.
      second_seed: data seed of the other.
      split: of the data.
      error_barrier: highest error on the line above the mean of the ends (fraction; Frankle et al. 2020, section 2).
      error_above_line: highest error above the line between the errors of the ends (fraction).
      loss_barrier: highest loss above the mean of the ends (nats).
      loss_above_line: highest loss above the line between the losses of the ends (nats).
      first_error: of one copy (fraction).
      second_error: of the other (fraction).
      first_loss: of one copy (nats).
      second_loss: of the other (nats).
      distance: L2 distance of their weights.
    """

    step: int
    first_seed: int
    second_seed: int
    split: str
    error_barrier: float
    error_above_line: float
    loss_barrier: float
    loss_above_line: float
    first_error: float
    second_error: float
    first_loss: float
    second_loss: float
    distance: float


def instability(
    experiment: Experiment,
    settings: InstabilitySettings,
    *,
    line: InterpolateSettings,
    parent: pathlib.Path,
    directory: pathlib.Path,
    configs: Mapping[int, str],
    overwrite: bool = False,
) -> dict[str, Any]:
    """Trains copies of a run from some of its checkpoints to the end, and measures the barriers between them.

    Each copy is an ordinary run in `step-<k>/data-seed-<s>`, each line an ordinary interpolation in
    `step-<k>/seeds-<s>-<t>`; finished ones are not repeated.

    Args:
      experiment: of the run to copy.
      settings: of checkpoints and copies.
      line: treatment of masks and batch norm on the line; its extent comes from the settings.
      parent: directory of the run to copy.
      directory: of copies and results, instability.csv and instability.json.
      configs: complete configuration of the copies as text, by data seed.
      overwrite: whether to delete stored copies and results of these steps.

    Returns:
      Content of instability.json.

    Raises:
      RunError: if a checkpoint is missing, a copy fails, or the loss is not finite on a line.
      Interrupted: after SIGINT or SIGTERM, once everything so far is saved.
    """
    steps, seeds = _select_steps(parent, settings), settings.data_seeds
    line = dataclasses.replace(line, i_start=0.0, i_end=1.0, n_interpolation=settings.points, path="line")
    summary_path, table_path = directory / files.INSTABILITY_SUMMARY, directory / files.INSTABILITY
    resumable.claim(summary_path, {}, overwrite=True, beside=[table_path])
    if overwrite:
        with files.translate_os_error(directory):
            _clear(directory, steps)
    total = experiment.training.total_steps
    copies = {(step, seed): directory / f"step-{step}" / f"data-seed-{seed}" for step in steps for seed in seeds}
    work = sum(total - step for step, _ in copies)
    done = sum(total - step for (step, _), copy in copies.items() if (copy / files.RESULT).exists())
    progress = Progress("instability (steps of all copies)", work, done)
    rows: list[Comparison] = []
    try:
        for step in steps:
            for seed in seeds:
                is_done = (copies[step, seed] / files.RESULT).exists()
                _train(experiment, parent, step, seed, copies[step, seed], configs[seed])
                if not is_done:
                    done += total - step
                    progress.update(done, f"copies of step {step}")
            for one, other in itertools.combinations(seeds, 2):
                summary = interpolation.interpolate(
                    experiment,
                    line,
                    start=copies[step, one],
                    end=copies[step, other],
                    directory=directory / f"step-{step}" / f"seeds-{one}-{other}",
                )
                rows += _compare(step, one, other, summary)
            result = _write(directory, rows, settings, parent)
    finally:
        progress.close()
    return result


def fork(parent: pathlib.Path, step: int, child: pathlib.Path, config: str) -> None:
    """Creates a run directory that continues from a checkpoint of another run; an existing one does not change.

    Weights, masks, slots, counters and records up to the step are those of the parent, so that a child of the same
    configuration continues it bit by bit.

    Args:
      parent: directory of the run.
      step: of its checkpoint (step).
      child: directory to create.
      config: complete configuration of the child as text.

    Raises:
      RunError: if the parent has no such checkpoint, the child cannot be written or is a run of another configuration.
    """
    needed = [checkpoints.find(parent / f"ckpt-{number}") for number in sorted({0, step})]
    with run_directory.lock(child):
        run_directory.check_claim(child, config, overwrite=False)
        if any(number >= step for number in checkpoints.list_steps(child)):
            return
        remedy = "delete it to go on without its records"
        # Records after the step are dropped when the child starts.
        logs = {
            name: files.read_text(parent / name, remedy)
            for name in (files.METRICS, files.MASK_UPDATES)
            if (parent / name).exists()
        }
        files.write_text(child / files.OPERATIVE_CONFIG, config)
        for name, text in logs.items():
            files.write_text(child / name, text)
        # The checkpoint of the step comes last, its index at the very end: with it the child is complete.
        for prefix in needed:
            for file in sorted(parent.glob(f"{pathlib.Path(prefix).name}.*")):
                with files.atomic_path(child / file.name) as temporary:
                    shutil.copyfile(file, temporary)


def _select_steps(parent: pathlib.Path, settings: InstabilitySettings) -> list[int]:
    existing = checkpoints.list_steps(parent) if parent.is_dir() else []
    if not existing:
        raise RunError(f"{parent} has no checkpoints; give the directory of a run.")
    for step in settings.steps or ():
        checkpoints.find(parent / f"ckpt-{step}")
    return sorted(set(settings.steps or existing))


def _clear(directory: pathlib.Path, steps: Iterable[int]) -> None:
    for step in steps:
        for copy in sorted((directory / f"step-{step}").glob("*")):
            run_directory.clear(copy)
            interpolation.clear(copy)
    # The summary last: without it the table would be somebody else's.
    for name in (files.INSTABILITY, files.INSTABILITY_SUMMARY):
        (directory / name).unlink(missing_ok=True)


def _train(experiment: Experiment, parent: pathlib.Path, step: int, seed: int, copy: pathlib.Path, config: str) -> None:
    """Trains a copy to the end, from the checkpoint of its parent or from its own last one."""
    fork(parent, step, copy, config)
    training = dataclasses.replace(experiment.training, data_seed=seed)
    run.train(plan_run(dataclasses.replace(experiment, training=training)), copy, config)


def _compare(step: int, one: int, other: int, summary: dict[str, Any]) -> list[Comparison]:
    """Returns the rows of an interpolation, one per split."""
    rows = []
    for split, barrier in summary["barrier"].items():
        first, second = (summary["ends"][end][split] for end in ("start", "end"))
        rows.append(
            Comparison(
                step=step,
                first_seed=one,
                second_seed=other,
                split=split,
                error_barrier=barrier["error"]["above_mean"]["height"],
                error_above_line=barrier["error"]["above_line"]["height"],
                loss_barrier=barrier["loss"]["above_mean"]["height"],
                loss_above_line=barrier["loss"]["above_line"]["height"],
                first_error=1 - first["accuracy"],
                second_error=1 - second["accuracy"],
                first_loss=first["loss"],
                second_loss=second["loss"],
                distance=summary["distance"],
            )
        )
    return rows


def _write(
    directory: pathlib.Path, rows: Sequence[Comparison], settings: InstabilitySettings, parent: pathlib.Path
) -> dict[str, Any]:
    """Writes table and summary of all steps so far."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Comparison._fields)
    writer.writerows(rows)
    steps, splits = sorted({row.step for row in rows}), list(dict.fromkeys(row.split for row in rows))
    measured = [_average(step, split, rows) for step in steps for split in splits]
    result = {
        "run": str(parent),
        "data_seeds": list(settings.data_seeds),
        "points": settings.points,
        "stable_below": STABLE,
        "stable_from": {split: find_stable_step([m for m in measured if m["split"] == split]) for split in splits},
        "instability": measured,
        "versions": versions(),
    }
    # The table last: without a summary it would be somebody else's.
    files.write_json(directory / files.INSTABILITY_SUMMARY, result)
    files.write_text(directory / files.INSTABILITY, text.getvalue())
    return result


def _average(step: int, split: str, rows: Sequence[Comparison]) -> dict[str, Any]:
    """Computes mean and standard deviation over all pairs of copies."""
    pairs = [row for row in rows if (row.step, row.split) == (step, split)]
    values: dict[str, Any] = {"step": step, "split": split, "pairs": len(pairs)}
    for name in ("error_barrier", "error_above_line", "loss_barrier", "loss_above_line", "distance"):
        of_pairs = [getattr(row, name) for row in pairs]
        values |= {name: float(np.mean(of_pairs)), f"{name}_std": float(np.std(of_pairs))}
    return {**values, "is_stable": values["error_barrier"] < STABLE}


def find_stable_step(measured: Sequence[dict[str, Any]]) -> int | None:
    """Returns the first step from which on copies are stable at every measured step; None if there is none."""
    stable = None
    for at in reversed(measured):
        if not at["is_stable"]:
            break
        stable = at["step"]
    return stable
