"""Instability to the noise of SGD: copies of a run with other data orders, and the barrier between them."""

import csv
import dataclasses
import io
import itertools
import pathlib
import re
import shutil
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from sparse_lib.experiment.analyses import interpolation
from sparse_lib.experiment.config.analyses import InstabilitySettings, InterpolateSettings
from sparse_lib.experiment.config.experiment import Experiment
from sparse_lib.experiment.runtime.errors import RunError
from sparse_lib.experiment.runtime.progress import Progress
from sparse_lib.experiment.runtime.versions import versions
from sparse_lib.experiment.storage import checkpoints, files, run_directory
from sparse_lib.experiment.training import run

# Copies are stable where the error rises by less than 2% on the line between them (Frankle et al. 2020, section 3.2).
STABLE = 0.02
_DATA_SEED = re.compile(r"^training\.data_seed = .*$", re.MULTILINE)


class Comparison(NamedTuple):
    """A row of the table: the line between two copies, on one split.

    Attributes:
      step: that the copies go on from (step).
      first_seed: of the data order of one copy.
      second_seed: of the other.
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
    config: str,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Trains copies of a run from some of its checkpoints to the end, and measures the barriers between them.

    Every copy is an ordinary run in `step-<k>/data-seed-<s>`, every line an ordinary interpolation in
    `step-<k>/seeds-<s>-<t>`; what is finished of them stays as it is.

    Args:
      experiment: of the run that is copied.
      settings: from which checkpoints, how many copies.
      line: how masks and batch norm are treated on the line; its extent comes from the settings.
      parent: directory of the run that is copied.
      directory: of copies and results, instability.csv and instability.json.
      config: complete configuration of the experiment as text.
      overwrite: whether to delete the copies and results of these steps that are there.

    Returns:
      What instability.json holds.

    Raises:
      RunError: if a checkpoint is missing, a copy fails, or the loss is not finite on a line.
      Interrupted: after SIGINT or SIGTERM, once everything so far is saved.
    """
    steps, seeds = _chosen(parent, settings), settings.data_seeds
    line = dataclasses.replace(line, i_start=0.0, i_end=1.0, n_interpolation=settings.points, path="line")
    if overwrite:
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
                _train(experiment, parent, step, seed, copies[step, seed], config)
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
                rows += _comparisons(step, one, other, summary)
            result = _write(directory, rows, settings, parent)
    finally:
        progress.close()
    return result


def fork(parent: pathlib.Path, step: int, child: pathlib.Path, config: str) -> None:
    """Makes a run directory that goes on from a checkpoint of another run; one that is there stays as it is.

    Weights, masks, slots, counters and records up to the step are those of the parent, so that a child of the same
    configuration continues it bit by bit.

    Args:
      parent: directory of the run.
      step: of its checkpoint (step).
      child: directory to make.
      config: complete configuration of the child as text.

    Raises:
      RunError: if the parent has no such checkpoint, the child cannot be written or is a run of another configuration.
    """
    needed = [checkpoints.find(parent / f"ckpt-{number}") for number in sorted({0, step})]
    with run_directory.lock(child):
        run_directory.check_claim(child, config, overwrite=False)
        if any(number >= step for number in checkpoints.list_steps(child)):
            return
        files.write_text(child / files.OPERATIVE_CONFIG, config)
        for name in (files.METRICS, files.MASK_UPDATES):
            if (parent / name).exists():
                # What lies behind the step is dropped when the child starts.
                files.write_text(child / name, (parent / name).read_text(encoding="utf8"))
        # The checkpoint of the step comes last and its index at the very end: with it the child is complete.
        for prefix in needed:
            for file in sorted(parent.glob(f"{pathlib.Path(prefix).name}.*")):
                with files.atomic_path(child / file.name) as temporary:
                    shutil.copyfile(file, temporary)


def with_data_seed(config: str, seed: int) -> str:
    """A configuration with another data order.

    Args:
      config: complete, as gin writes it.
      seed: for training.data_seed.

    Returns:
      The same text but for that line.

    Raises:
      RunError: if it has no such line.
    """
    changed, count = _DATA_SEED.subn(f"training.data_seed = {seed}", config)
    if count != 1:
        raise RunError("The configuration of the run says nothing of training.data_seed; it is not complete.")
    return changed


def _chosen(parent: pathlib.Path, settings: InstabilitySettings) -> list[int]:
    there = checkpoints.list_steps(parent) if parent.is_dir() else []
    if not there:
        raise RunError(f"{parent} has no checkpoints; give the directory of a run.")
    for step in settings.steps or ():
        checkpoints.find(parent / f"ckpt-{step}")
    return sorted(set(settings.steps or there))


def _clear(directory: pathlib.Path, steps: Iterable[int]) -> None:
    for step in steps:
        for copy in sorted((directory / f"step-{step}").glob("*")):
            run_directory.clear(copy)
            interpolation.clear(copy)
    for name in (files.INSTABILITY, files.INSTABILITY_SUMMARY):
        (directory / name).unlink(missing_ok=True)


def _train(experiment: Experiment, parent: pathlib.Path, step: int, seed: int, copy: pathlib.Path, config: str) -> None:
    """Trains a copy to the end, from its checkpoint or from where it stands."""
    config = with_data_seed(config, seed)
    fork(parent, step, copy, config)
    training = dataclasses.replace(experiment.training, data_seed=seed)
    run.train(dataclasses.replace(experiment, training=training), copy, config)


def _comparisons(step: int, one: int, other: int, summary: dict[str, Any]) -> list[Comparison]:
    """The rows of an interpolation, one a split."""
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
    """Writes the table and the summary of all steps so far."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Comparison._fields)
    writer.writerows(rows)
    files.write_text(directory / files.INSTABILITY, text.getvalue())
    steps, splits = sorted({row.step for row in rows}), list(dict.fromkeys(row.split for row in rows))
    measured = [_of_step(step, split, rows) for step in steps for split in splits]
    result = {
        "run": str(parent),
        "data_seeds": list(settings.data_seeds),
        "points": settings.points,
        "stable_below": STABLE,
        "stable_from": {split: find_stable_step([m for m in measured if m["split"] == split]) for split in splits},
        "instability": measured,
        "versions": versions(),
    }
    files.write_json(directory / files.INSTABILITY_SUMMARY, result)
    return result


def _of_step(step: int, split: str, rows: Sequence[Comparison]) -> dict[str, Any]:
    """Mean and standard deviation over all pairs of copies."""
    pairs = [row for row in rows if (row.step, row.split) == (step, split)]
    values: dict[str, Any] = {"step": step, "split": split, "pairs": len(pairs)}
    for name in ("error_barrier", "error_above_line", "loss_barrier", "loss_above_line", "distance"):
        of_pairs = [getattr(row, name) for row in pairs]
        values |= {name: float(np.mean(of_pairs)), f"{name}_std": float(np.std(of_pairs))}
    return {**values, "is_stable": values["error_barrier"] < STABLE}


def find_stable_step(measured: Sequence[dict[str, Any]]) -> int | None:
    """The first step from which on copies are stable at every step that was looked at; None if there is none."""
    stable = None
    for at in reversed(measured):
        if not at["is_stable"]:
            break
        stable = at["step"]
    return stable
