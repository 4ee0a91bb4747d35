"""Loss and accuracy on paths between two checkpoints: a table of points and a summary of the barriers."""

import csv
import io
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
from sparse_lib._utils.errors import InputError
from sparse_lib.experiment.analyses import curves, solutions
from sparse_lib.experiment.analyses.solutions import PointEvaluator, Solution
from sparse_lib.experiment.config.analyses import InterpolateSettings
from sparse_lib.experiment.config.experiment import Experiment
from sparse_lib.experiment.data import SPLITS, Split
from sparse_lib.experiment.runtime.errors import RunError
from sparse_lib.experiment.runtime.progress import Progress
from sparse_lib.experiment.runtime.signals import Stop, graceful_shutdown
from sparse_lib.experiment.runtime.versions import versions
from sparse_lib.experiment.storage import files, resumable, run_directory
from sparse_lib.experiment.training.build import build_evaluation_scope, build_model
from sparse_lib.landscape import Score, batch_norm
from sparse_lib.landscape.paths import evenly_spaced

_COLUMNS = ("coefficient", "split", "loss", "accuracy")
_LINE = "line"

Points = dict[float, dict[str, Score]]
# Maps a coefficient and the weights there to batch-norm statistics.
Statistics = Callable[[float, Sequence[np.ndarray]], Sequence[np.ndarray]]


class Sides(NamedTuple):
    """The two solutions connected by a path."""

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
    """Evaluates a path between two checkpoints; an interrupted evaluation is continued.

    Args:
      experiment: defines network and data set.
      settings: of the path.
      start: checkpoint at coefficient 0.
      end: checkpoint at coefficient 1.
      directory: of the results; created if missing.
      overwrite: whether to delete a stored interpolation.

    Returns:
      Content of interpolation.json.

    Raises:
      RunError: if a checkpoint is missing or of another network, the directory holds another interpolation or cannot
        be written, or the loss is not finite somewhere on the path; all results are kept.
      Interrupted: after SIGINT or SIGTERM, once everything so far is saved.
    """
    model = build_model(experiment)
    kernels = experiment.network.kernels(model)
    with_masks = settings.masks != "none"
    sides = Sides(*(solutions.read(c, model, kernels, with_masks=with_masks) for c in (start, end)))
    identity = _identify(experiment, settings, sides)
    with run_directory.lock(directory):
        table = directory / files.INTERPOLATION
        summary = resumable.claim(
            directory / files.INTERPOLATION_SUMMARY,
            identity,
            overwrite=overwrite,
            required=("not_finite", "barrier", "ends", "distance"),
            beside=[table, directory / files.INTERPOLATION_CURVE],
        )
        if summary:
            read_table(table)
        else:
            clear(directory)
        if not (summary.get("complete") and table.exists()):
            with graceful_shutdown() as stop:
                summary = _compute(experiment, settings, sides, model, directory, {"settings": identity}, stop)
    if places := summary["not_finite"]:
        raise RunError(
            f"The loss is not finite at {', '.join(map(str, places))} on the path; {directory / files.INTERPOLATION} "
            "holds all points, and barriers that do not meet these."
        )
    return summary


def _identify(experiment: Experiment, settings: InterpolateSettings, sides: Sides) -> dict[str, Any]:
    dataset = experiment.dataset
    facts: dict[str, Any] = {
        "steps": settings.steps or experiment.training.total_steps,
        "network": experiment.network.network_name,
        "activation": experiment.network.activation,
        "data": dataset.name,
        "examples": {name: len(split) for name, split in dataset.reported.items()},
        "start_sha256": sides.start.sha256,
        "end_sha256": sides.end.sha256,
    }
    # Settings of curves do not change a line, nor those of batch norm a network without it.
    of_curves, of_norms = ("optimizer", "learning_rate", "steps"), ("batch_norm", "batch_norm_batches")
    is_line, has_norms = settings.path == _LINE, bool(sides.start.statistics)
    unused = [*(of_curves if is_line else ()), *(() if has_norms else of_norms)]
    unused += ["batch_size", "seed"] if is_line and not has_norms else []
    return resumable.identify(settings, **(facts | dict.fromkeys(unused)))


def clear(directory: pathlib.Path) -> None:
    """Deletes an interpolation, its summary last: without it the other files are somebody else's."""
    with files.translate_os_error(directory):
        (directory / files.INTERPOLATION).unlink(missing_ok=True)
        shutil.rmtree(directory / files.INTERPOLATION_CURVE, ignore_errors=True)
        (directory / files.INTERPOLATION_SUMMARY).unlink(missing_ok=True)


def _compute(
    experiment: Experiment,
    settings: InterpolateSettings,
    sides: Sides,
    model: keras.Model,
    directory: pathlib.Path,
    summary: dict[str, Any],
    stop: Stop,
) -> dict[str, Any]:
    """Trains the curve, evaluates the points and writes the summary; skips what is stored."""
    start, end = checkpoints = sides
    if settings.match:
        end, matching = solutions.match_units(model, start, end, seed=settings.seed)
        sides = Sides(start, end)
        summary |= {"distance_before_matching": matching.distance_before}
    ends = landscape.masked_ends(start.values, end.values, start.masks, end.masks, settings.masks)
    summary = {"complete": False, **_describe(settings, sides, ends), **summary}
    files.write_json(directory / files.INTERPOLATION_SUMMARY, summary)
    line = landscape.linear_path(ends.start, ends.end)
    path = line
    if settings.path != _LINE:
        path = curves.train(experiment, settings, model, ends, directory / files.INTERPOLATION_CURVE, stop)
    evaluate = PointEvaluator(model, experiment.dataset, build_evaluation_scope(experiment, model))
    plain = {name: evaluate(side.values, side.statistics) for name, side in checkpoints._asdict().items()}
    statistics = _make_statistics(settings, model, experiment.dataset.train, sides)
    grid = landscape.coefficients(settings.i_start, settings.i_end, settings.n_interpolation)
    points = _evaluate_points(path, grid, evaluate, statistics, directory / files.INTERPOLATION, stop)
    values = {a: [score.loss for score in points[a].values()] for a in grid}
    summary |= {
        "complete": True,
        "ends": {name: {split: s._asdict() for split, s in scores.items()} for name, scores in plain.items()},
        "added_coefficients": sorted(
            {0.0, 1.0} - set(evenly_spaced(settings.i_start, settings.i_end, settings.n_interpolation))
        ),
        "not_finite": [a for a in grid if not all(map(math.isfinite, values[a]))],
        "barrier": _measure_barriers(points),
        "distance": line.length(),
        "length": path.length(),
        "versions": versions(),
    }
    files.write_json(directory / files.INTERPOLATION_SUMMARY, summary)
    return summary


def _describe(settings: InterpolateSettings, sides: Sides, ends: landscape.Ends) -> dict[str, Any]:
    """Returns the entries of the summary that are known before any evaluation."""
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


def _make_statistics(settings: InterpolateSettings, model: keras.Model, train: Split, sides: Sides) -> Statistics:
    """Returns the function that gives batch-norm statistics along the path."""
    start, end = sides.start.statistics, sides.end.statistics
    if not start or settings.batch_norm == "start":
        return lambda *_: start
    if settings.batch_norm == "end":
        return lambda *_: end
    if settings.batch_norm == "interpolate":
        line = landscape.linear_path(start, end)
        is_variance = [v.path.endswith("variance") for v in batch_norm.statistics(model)]
        # Beyond the ends of the line a variance may become negative.
        return lambda a, _: [np.maximum(v, 0) if is_v else v for v, is_v in zip(line(a), is_variance, strict=True)]
    estimate = solutions.make_batch_norm_estimator(
        model,
        train,
        batches=settings.batch_norm_batches,
        batch_size=settings.batch_size,
        seed=settings.seed,
    )
    return lambda _, values: estimate(values)


def _evaluate_points(
    path: landscape.Bezier,
    grid: Sequence[float],
    evaluate: PointEvaluator,
    statistics: Statistics,
    table: pathlib.Path,
    stop: Stop,
) -> Points:
    """Evaluates the points missing in the table, and saves after each of them."""
    points = read_table(table)
    progress = Progress("path", len(grid), len(points), unit="point")
    try:
        for a in grid:
            if a in points:
                continue
            stop.raise_if_requested(len(points))
            values = path(a)
            points[a] = evaluate(values, statistics(a, values))
            _write_table(table, points)
            progress.update(len(points), f"train loss {points[a]['train'].loss:.4f} at {a:g}")
    finally:
        progress.close()
    return points


def _measure_barriers(points: Points) -> dict[str, Any]:
    """Measures the barriers of loss and error on each split."""
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

    Raises:
      RunError: if the file cannot be read as such a table.
    """
    points: Points = {}
    if not path.exists():
        return points
    with files.report_damage(path, "delete it, and its points are evaluated again"):
        for row in csv.DictReader(path.read_text(encoding="utf8").splitlines()):
            scores = points.setdefault(float(row["coefficient"]), {})
            scores[row["split"]] = Score(float(row["loss"]), float(row["accuracy"]))
        if not points or any(scores.keys() - set(SPLITS) or not math.isfinite(a) for a, scores in points.items()):
            raise InputError("it is no table of a path")
        if len({frozenset(scores) for scores in points.values()}) > 1:
            raise InputError("some points lack a split")
    return points


def _write_table(path: pathlib.Path, points: Points) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    # Floats are written with all digits, so that reading them gives the same bits.
    writer.writerows([a, split, *score] for a in sorted(points) for split, score in points[a].items())
    files.write_text(path, text.getvalue())
