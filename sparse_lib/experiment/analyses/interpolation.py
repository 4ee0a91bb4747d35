"""Paths between two checkpoints: settings and checkpoints in, a table of losses and a summary of barriers out."""

import csv
import dataclasses
import io
import json
import math
import os
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from absl import logging

from sparse_lib import landscape
from sparse_lib.experiment.analyses import curves, solutions
from sparse_lib.experiment.analyses.solutions import PointEvaluator, Solution
from sparse_lib.experiment.config.analyses import InterpolateSettings
from sparse_lib.experiment.data import Split
from sparse_lib.experiment.runtime.errors import RunError
from sparse_lib.experiment.runtime.progress import Progress
from sparse_lib.experiment.runtime.signals import Stop, when_asked
from sparse_lib.experiment.storage import files, run_directory
from sparse_lib.experiment.training.run import Experiment, versions
from sparse_lib.landscape import Score, batch_norm
from sparse_lib.landscape.paths import evenly_spaced

_COLUMNS = ("coefficient", "split", "loss", "accuracy")
_LINE = "line"

Points = dict[float, dict[str, Score]]
# From a coefficient and the weights there to batch-norm statistics.
Statistics = Callable[[float, Sequence[np.ndarray]], Sequence[np.ndarray]]


class Sides(NamedTuple):
    """The two solutions that a path connects."""

    start: Solution
    end: Solution


def interpolate(
    experiment: Experiment,
    settings: InterpolateSettings,
    *,
    start: str | os.PathLike[str],
    end: str | os.PathLike[str],
    directory: pathlib.Path,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Evaluates a path between two checkpoints, from its start or from where an earlier process stopped.

    Args:
      experiment: names network and data set.
      settings: of the path.
      start: checkpoint at coefficient 0.
      end: checkpoint at coefficient 1.
      directory: of the results; it is made if need be.
      overwrite: whether to delete an interpolation that is there.

    Returns:
      What interpolation.json holds.

    Raises:
      RunError: if a checkpoint is missing or of another network, the directory holds another interpolation or cannot
        be written, or the loss is not finite somewhere on the path; what was computed stays.
      Interrupted: after SIGINT or SIGTERM, once everything so far is saved.
    """
    model = experiment.model()
    kernels = experiment.network.kernels(model)
    masked = settings.masks != "none"
    sides = Sides(*(solutions.read(c, model, kernels, with_masks=masked) for c in (start, end)))
    identity = _identity(experiment, settings, sides)
    with run_directory.locked(directory):
        summary = _claimed(directory, identity, overwrite=overwrite)
        if not summary.get("complete"):
            with when_asked() as stop:
                summary = _computed(experiment, settings, sides, model, directory, {"settings": identity}, stop)
    if places := summary["not_finite"]:
        raise RunError(
            f"The loss is not finite at {', '.join(map(str, places))} on the path; {directory / files.INTERPOLATION} "
            "holds all points, and barriers that do not meet these."
        )
    return summary


def _identity(experiment: Experiment, settings: InterpolateSettings, sides: Sides) -> dict[str, Any]:
    """Everything that decides the result; a directory holds one."""
    dataset = experiment.dataset
    values = {
        **dataclasses.asdict(settings),
        "steps": settings.steps or experiment.training.total_steps,
        "network": experiment.network.network_name,
        "activation": experiment.network.activation,
        "data": dataset.name,
        "examples": {name: len(split) for name, split in dataset.reported.items()},
        "start_sha256": sides.start.sha256,
        "end_sha256": sides.end.sha256,
    }
    # A line is the same whatever is said of curves, and a network without batch norm whatever is said of that.
    of_curves, of_norms = ("optimizer", "learning_rate", "steps"), ("batch_norm", "batch_norm_batches")
    is_line, has_norms = settings.path == _LINE, bool(sides.start.statistics)
    unused = [*(of_curves if is_line else ()), *(() if has_norms else of_norms)]
    unused += ["batch_size", "seed"] if is_line and not has_norms else []
    return {**values, **dict.fromkeys(unused)}


def _claimed(directory: pathlib.Path, identity: dict[str, Any], *, overwrite: bool) -> dict[str, Any]:
    """The summary of this interpolation as far as it has come; empty where it is new."""
    path = directory / files.INTERPOLATION_SUMMARY
    there = json.loads(path.read_text(encoding="utf8")) if path.exists() and not overwrite else {}
    if not there:
        clear(directory)
        return {}
    old = there["settings"]
    different = [name for name, value in identity.items() if old.get(name) != value]
    if different:
        name = different[0]
        raise RunError(
            f"{directory} holds another interpolation ({name} is {old.get(name)!r} there and {identity[name]!r} here); "
            "choose another --logdir, or --overwrite to start again."
        )
    return there


def clear(directory: pathlib.Path) -> None:
    """Deletes an interpolation; its summary goes first, so that the rest counts for nothing if that is all."""
    (directory / files.INTERPOLATION_SUMMARY).unlink(missing_ok=True)
    (directory / files.INTERPOLATION).unlink(missing_ok=True)
    shutil.rmtree(directory / files.INTERPOLATION_CURVE, ignore_errors=True)


def _computed(
    experiment: Experiment,
    settings: InterpolateSettings,
    sides: Sides,
    model: keras.Model,
    directory: pathlib.Path,
    summary: dict[str, Any],
    stop: Stop,
) -> dict[str, Any]:
    """Trains the curve, evaluates the points, and sums up, each as far as it is not there yet."""
    start, end = checkpoints = sides
    if settings.match:
        end, matching = solutions.match_solution(model, start, end, seed=settings.seed)
        sides = Sides(start, end)
        summary |= {"distance_before_matching": matching.distance_before}
    ends = landscape.masked_ends(start.values, end.values, start.masks, end.masks, settings.masks)
    summary = {"complete": False, **_asked(settings, sides, ends), **summary}
    files.write_json(directory / files.INTERPOLATION_SUMMARY, summary)
    line = landscape.linear_path(ends.start, ends.end)
    path = line
    if settings.path != _LINE:
        path = curves.trained(experiment, settings, model, ends, directory / files.INTERPOLATION_CURVE, stop)
    evaluate = PointEvaluator(model, experiment.dataset)
    plain = {name: evaluate(side.values, side.statistics) for name, side in checkpoints._asdict().items()}
    statistics = _statistics(settings, model, experiment.dataset.train, sides)
    grid = landscape.coefficients(settings.i_start, settings.i_end, settings.n_interpolation)
    points = _evaluated(path, grid, evaluate, statistics, directory / files.INTERPOLATION, stop)
    values = {a: [score.loss for score in points[a].values()] for a in grid}
    summary |= {
        "complete": True,
        "ends": {name: {split: s._asdict() for split, s in scores.items()} for name, scores in plain.items()},
        "added_coefficients": sorted(
            {0.0, 1.0} - set(evenly_spaced(settings.i_start, settings.i_end, settings.n_interpolation))
        ),
        "not_finite": [a for a in grid if not all(map(math.isfinite, values[a]))],
        "barrier": _barriers(points),
        "distance": line.length(),
        "length": path.length(),
        "versions": versions(),
    }
    files.write_json(directory / files.INTERPOLATION_SUMMARY, summary)
    return summary


def _asked(settings: InterpolateSettings, sides: Sides, ends: landscape.Ends) -> dict[str, Any]:
    """What is known before anything is computed."""
    removed = {
        name: sum(int(np.sum(a != b)) for a, b in zip(side.values, values, strict=True))
        for name, side, values in (("start", sides.start, ends.start), ("end", sides.end, ends.end))
    }
    for name, count in removed.items():
        if count:
            logging.warning(
                "The masks of interpolate.masks=%r set %d weights of the %s to 0: the path does not reach %s itself.",
                settings.masks,
                count,
                name,
                getattr(sides, name).checkpoint,
            )
    return {
        "start": sides.start.checkpoint,
        "end": sides.end.checkpoint,
        "path": settings.path,
        "masks": settings.masks,
        "removed_weights": removed,
        "batch_norm": settings.batch_norm if sides.start.statistics else None,
    }


def _statistics(settings: InterpolateSettings, model: keras.Model, train: Split, sides: Sides) -> Statistics:
    """Batch-norm statistics along the path."""
    start, end = sides.start.statistics, sides.end.statistics
    if not start or settings.batch_norm == "start":
        return lambda *_: start
    if settings.batch_norm == "end":
        return lambda *_: end
    if settings.batch_norm == "interpolate":
        line = landscape.linear_path(start, end)
        is_variance = [v.path.endswith("variance") for v in batch_norm.statistics(model)]
        # Beyond the ends the line may leave what a variance can be.
        return lambda a, _: [np.maximum(v, 0) if is_v else v for v, is_v in zip(line(a), is_variance, strict=True)]
    estimate = solutions.reestimation(
        model,
        train,
        batches=settings.batch_norm_batches,
        batch_size=settings.batch_size,
        seed=settings.seed,
    )
    return lambda _, values: estimate(values)


def _evaluated(
    path: landscape.Bezier,
    grid: Sequence[float],
    evaluate: PointEvaluator,
    statistics: Statistics,
    table: pathlib.Path,
    stop: Stop,
) -> Points:
    """Evaluates the points that are not in the table yet, and writes each as it comes."""
    points = read_table(table)
    progress = Progress("path", len(grid), len(points), unit="point")
    try:
        for a in grid:
            if a in points:
                continue
            stop.obey(len(points))
            values = path(a)
            points[a] = evaluate(values, statistics(a, values))
            _write_table(table, points)
            progress.update(len(points), f"train loss {points[a]['train'].loss:.4f} at {a:g}")
    finally:
        progress.close()
    return points


def _barriers(points: Points) -> dict[str, Any]:
    """The barrier of loss and error on each split."""
    places = sorted(points)
    found: dict[str, Any] = {}
    for split in points[places[0]]:
        losses = [points[a][split].loss for a in places]
        errors = [1 - points[a][split].accuracy for a in places]
        measured = {"loss": landscape.barrier(places, losses), "error": landscape.barrier(places, errors)}
        found[split] = {
            what: {name: peak._asdict() for name, peak in barrier._asdict().items()}
            for what, barrier in measured.items()
        }
    return found


def read_table(path: pathlib.Path) -> Points:
    """Reads interpolation.csv.

    Args:
      path: of the file; it need not exist.

    Returns:
      Scores by coefficient and split.
    """
    points: Points = {}
    if path.exists():
        for row in csv.DictReader(path.read_text(encoding="utf8").splitlines()):
            scores = points.setdefault(float(row["coefficient"]), {})
            scores[row["split"]] = Score(float(row["loss"]), float(row["accuracy"]))
    return points


def _write_table(path: pathlib.Path, points: Points) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    # Floats are written with all their digits, so that reading them gives the same bits.
    writer.writerows([a, split, *score] for a in sorted(points) for split, score in points[a].items())
    files.write_text(path, text.getvalue())
