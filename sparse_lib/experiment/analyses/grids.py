"""Grids of the loss on planes, evaluated row by row; an interrupted evaluation continues at its first missing row."""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from absl import logging

from sparse_lib import landscape
from sparse_lib.experiment.analyses import solutions
from sparse_lib.experiment.analyses.solutions import PointEvaluator, Solution
from sparse_lib.experiment.config.analyses import SurfaceSettings
from sparse_lib.experiment.config.experiment import Experiment
from sparse_lib.experiment.data import SPLITS, Split
from sparse_lib.experiment.runtime.errors import RunError
from sparse_lib.experiment.runtime.progress import Progress
from sparse_lib.experiment.runtime.signals import Stop, graceful_shutdown
from sparse_lib.experiment.runtime.versions import versions
from sparse_lib.experiment.storage import files, resumable, run_directory
from sparse_lib.experiment.training.build import build_evaluation_scope
from sparse_lib.landscape import Plane, Score
from sparse_lib.landscape.evaluation import Evaluate, Scores

# Settings that change the numbers: of every grid, and of one whose batch-norm statistics are estimated again.
_COMMON = ("points", "splits", "examples")
_BATCH_NORM = ("seed", "batch_norm_batches", "batch_size")


class Picture(NamedTuple):
    """A plane in the space of weights and the grid on it to evaluate.

    Attributes:
      name: of the files, `surface`, `plane` or `trajectory`.
      plane: maps coordinates to weights.
      xs: first coordinates of the grid, [columns].
      ys: second coordinates, [rows].
      solutions: checkpoints that define the plane.
      coordinates: of their projections onto the plane, [solutions, 2].
      origin: the solution at (0, 0).
      batch_norm: `keep` or `reestimate`.
      relevant: names of the settings that define the plane and the grid.
      notes: further entries of the summary.
    """

    name: str
    plane: Plane
    xs: np.ndarray
    ys: np.ndarray
    solutions: Sequence[Solution]
    coordinates: np.ndarray
    origin: Solution
    batch_norm: str
    relevant: tuple[str, ...]
    notes: Mapping[str, Any]


def evaluate(
    experiment: Experiment,
    settings: SurfaceSettings,
    model: keras.Model,
    picture: Picture,
    directory: pathlib.Path,
    *,
    overwrite: bool,
) -> dict[str, Any]:
    """Evaluates the missing rows of a grid and writes its summary.

    Args:
      experiment: defines network and data set.
      settings: of the evaluation.
      model: the network; its weights change from point to point.
      picture: the plane and the grid.
      directory: of the results, `<name>.npz` and `<name>.json`; created if missing.
      overwrite: whether to delete a stored picture of the same name.

    Returns:
      Content of the JSON file.

    Raises:
      RunError: if the directory holds a different picture of that name or cannot be written.
      Interrupted: after SIGINT or SIGTERM, once all complete rows are saved.
    """
    summary_path, grid_path = (directory / f"{picture.name}.{ending}" for ending in ("json", "npz"))
    identity = _identify(experiment, settings, picture)
    with run_directory.lock(directory):
        summary = resumable.claim(
            summary_path, identity, overwrite=overwrite, required=("not_finite", "lowest"), beside=[grid_path]
        )
        if not summary:
            with files.translate_os_error(grid_path):
                grid_path.unlink(missing_ok=True)
        if not summary.get("complete"):
            files.write_json(summary_path, {"complete": False, "solutions": _locate(picture), "settings": identity})
            evaluators = _make_evaluators(experiment, settings, model, picture)
            with graceful_shutdown() as stop:
                grid = _evaluate_rows(picture, evaluators.on_plane, grid_path, stop)
            summary = {"complete": True, **_summarize(picture, evaluators, grid), "settings": identity}
            files.write_json(summary_path, summary)
    if summary["not_finite"]:
        logging.warning("The loss is not finite at %d points of %s.", summary["not_finite"], grid_path)
    return summary


def _identify(experiment: Experiment, settings: SurfaceSettings, picture: Picture) -> dict[str, Any]:
    has_statistics = bool(picture.origin.statistics)
    reestimates = has_statistics and picture.batch_norm == "reestimate"
    relevant = {*_COMMON, *picture.relevant, *(_BATCH_NORM if reestimates else ())}
    return resumable.identify(
        settings,
        irrelevant={field.name for field in dataclasses.fields(settings)} - relevant,
        batch_norm=picture.batch_norm if has_statistics else None,
        network=experiment.network.network_name,
        activation=experiment.network.activation,
        data=experiment.dataset.name,
        images={name: len(getattr(experiment.dataset, name)) for name in SPLITS},
        sha256=[solution.sha256 for solution in picture.solutions],
    )


class _Evaluators(NamedTuple):
    """Evaluators of weights on the plane, and of a solution with its own batch-norm statistics."""

    on_plane: Callable[[list[np.ndarray]], Scores]
    plain: Callable[[Solution], Scores]


def _make_evaluators(
    experiment: Experiment, settings: SurfaceSettings, model: keras.Model, picture: Picture
) -> _Evaluators:
    dataset, statistics = experiment.dataset, picture.origin.statistics
    if settings.examples is not None:
        parts: dict[str, Any] = {name: _take_first(getattr(dataset, name), settings.examples) for name in SPLITS}
        dataset = dataclasses.replace(dataset, **parts)
    evaluator = PointEvaluator(model, dataset, build_evaluation_scope(experiment, model), settings.splits)

    def plain(solution: Solution) -> Scores:
        return evaluator(solution.values, solution.statistics)

    if not statistics or picture.batch_norm == "keep":
        return _Evaluators(lambda values: evaluator(values, statistics), plain)
    estimate = solutions.make_batch_norm_estimator(
        model,
        experiment.dataset.train,
        batches=settings.batch_norm_batches,
        batch_size=settings.batch_size,
        seed=settings.seed,
    )
    return _Evaluators(lambda values: evaluator(values, estimate(values)), plain)


def _take_first(split: Split, size: int) -> Split:
    return Split(split.images[:size], split.labels[:size])


def _evaluate_rows(picture: Picture, evaluator: Evaluate, path: pathlib.Path, stop: Stop) -> dict[str, Any]:
    """Evaluates the rows missing in the file, and saves after each row."""
    shape = len(picture.ys), len(picture.xs)
    grid = _read_grid(picture, path)
    points = int(grid["done"].sum()) * shape[1]
    progress = Progress(picture.name, shape[0] * shape[1], points, unit="point")

    def count_and_evaluate(values: list[np.ndarray]) -> Scores:
        nonlocal points
        stop.raise_if_requested(points)
        scores = evaluator(values)
        points += 1
        progress.update(points)
        return scores

    try:
        done = np.flatnonzero(grid["done"]).tolist()
        for row, scores in landscape.evaluate_rows(picture.plane, picture.xs, picture.ys, count_and_evaluate, done):
            for split in scores[0]:
                for index, what in enumerate(Score._fields):
                    values = grid.setdefault(f"{what}_{split}", np.full(shape, np.nan))
                    values[row] = [point[split][index] for point in scores]
            grid["done"][row] = True
            with files.atomic_path(path) as temporary:
                np.savez(temporary, **grid)
    finally:
        progress.close()
    return grid


def _read_grid(picture: Picture, path: pathlib.Path) -> dict[str, Any]:
    """Reads the rows so far; a file that cannot be read is computed again."""
    shape = len(picture.ys), len(picture.xs)
    empty: dict[str, Any] = {"xs": picture.xs, "ys": picture.ys, "done": np.zeros(shape[0], bool)}
    if not path.exists():
        return empty
    try:
        grid = files.read_arrays(path, "it is computed again", empty)
    except RunError as error:
        logging.warning("%s", error)
        return empty
    shapes = {name: (np.shape(empty[name]) if name in empty else shape) for name in grid}
    if any(values.shape != shapes[name] for name, values in grid.items()) or grid["done"].dtype != bool:
        logging.warning("%s holds another grid; it is computed again.", path)
        return empty
    return grid


def _summarize(picture: Picture, evaluators: _Evaluators, grid: Mapping[str, Any]) -> dict[str, Any]:
    losses = {name.removeprefix("loss_"): values for name, values in grid.items() if name.startswith("loss_")}
    lowest = {}
    for split, values in losses.items():
        if np.isfinite(values).any():
            row, column = np.unravel_index(np.nanargmin(values), values.shape)
            place = {"x": float(picture.xs[column]), "y": float(picture.ys[row])}
            lowest[split] = {"loss": float(values[row, column]), **place}
    marks = zip(picture.solutions, _locate(picture), strict=True)
    return {
        "batch_norm": picture.batch_norm if picture.origin.statistics else None,
        "solutions": [
            {
                **mark,
                "distance_to_plane": _distance(solution.values, picture.plane(*mark["coordinates"])),
                "plain": _as_dicts(evaluators.plain(solution)),
                "on_plane": _as_dicts(evaluators.on_plane(picture.plane(*mark["coordinates"]))),
            }
            for solution, mark in marks
        ],
        "lowest": lowest,
        "not_finite": sum(int(np.sum(~np.isfinite(values))) for values in losses.values()),
        **picture.notes,
        "versions": versions(),
    }


def _locate(picture: Picture) -> list[dict[str, Any]]:
    """Lists the solutions with their coordinates."""
    places = zip(picture.solutions, picture.coordinates.tolist(), strict=True)
    return [{"checkpoint": solution.checkpoint, "coordinates": place} for solution, place in places]


def _distance(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> float:
    parts = zip(one, other, strict=True)
    return math.sqrt(sum(float(np.sum(np.subtract(a, b, dtype=np.float64) ** 2)) for a, b in parts))


def _as_dicts(scores: Mapping[str, Score]) -> dict[str, dict[str, float]]:
    return {split: score._asdict() for split, score in scores.items()}
