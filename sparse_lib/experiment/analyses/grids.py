"""Grids of the loss on planes, evaluated row by row from wherever an earlier process stopped."""

import dataclasses
import json
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
from sparse_lib.experiment.runtime.signals import Stop, when_asked
from sparse_lib.experiment.runtime.versions import versions
from sparse_lib.experiment.storage import files, run_directory
from sparse_lib.landscape import Plane, Score
from sparse_lib.landscape.evaluation import Evaluate, Scores

# Settings that decide the numbers of each kind of picture, beside those that all have.
_COMMON = ("points", "splits", "examples")
_BATCH_NORM = ("seed", "batch_norm_batches", "batch_size")


class Picture(NamedTuple):
    """What is to be drawn.

    Attributes:
      name: of the files, `surface`, `plane` or `trajectory`.
      plane: from coordinates to weights.
      xs: first coordinates of the grid.
      ys: second coordinates.
      solutions: the checkpoints that the plane comes from.
      coordinates: of their projections onto it, [solutions, 2].
      origin: which of them is at (0, 0).
      batch_norm: `keep` or `reestimate`.
      decided_by: names of the settings that the plane and the grid come from.
      notes: what else belongs into the summary.
    """

    name: str
    plane: Plane
    xs: np.ndarray
    ys: np.ndarray
    solutions: Sequence[Solution]
    coordinates: np.ndarray
    origin: Solution
    batch_norm: str
    decided_by: tuple[str, ...]
    notes: Mapping[str, Any]


def draw(
    experiment: Experiment,
    settings: SurfaceSettings,
    model: keras.Model,
    picture: Picture,
    directory: pathlib.Path,
    *,
    overwrite: bool,
) -> dict[str, Any]:
    """Evaluates what is not there yet, and sums up.

    Args:
      experiment: names network and data set.
      settings: of the evaluation.
      model: the network; it is moved from point to point.
      picture: what to draw.
      directory: of the results, `<name>.npz` and `<name>.json`; it is made if need be.
      overwrite: whether to delete a picture of that name that is there.

    Returns:
      What the JSON file holds.

    Raises:
      RunError: if the directory holds another picture of that name or cannot be written.
      Interrupted: after SIGINT or SIGTERM, once all complete rows are saved.
    """
    summary_path, grid_path = (directory / f"{picture.name}.{ending}" for ending in ("json", "npz"))
    identity = _identity(experiment, settings, picture)
    with run_directory.locked(directory):
        summary = _claimed(summary_path, identity, overwrite=overwrite)
        if not summary:
            grid_path.unlink(missing_ok=True)
        if not summary.get("complete"):
            files.write_json(summary_path, {"complete": False, "solutions": _marks(picture), "settings": identity})
            evaluate = _evaluation(experiment, settings, model, picture)
            with when_asked() as stop:
                grid = _evaluated(picture, evaluate.on_plane, grid_path, stop)
            summary = {"complete": True, **_summed_up(picture, evaluate, grid), "settings": identity}
            files.write_json(summary_path, summary)
    if summary["not_finite"]:
        logging.warning("The loss is not finite at %d points of %s.", summary["not_finite"], grid_path)
    return summary


def _identity(experiment: Experiment, settings: SurfaceSettings, picture: Picture) -> dict[str, Any]:
    """Everything that decides the numbers; a directory holds one picture of a name."""
    has_statistics = bool(picture.origin.statistics)
    reestimates = has_statistics and picture.batch_norm == "reestimate"
    names = {*_COMMON, *picture.decided_by, *(_BATCH_NORM if reestimates else ())}
    return {
        **{name: value for name, value in dataclasses.asdict(settings).items() if name in names},
        "splits": list(settings.splits),
        "batch_norm": picture.batch_norm if has_statistics else None,
        "network": experiment.network.network_name,
        "activation": experiment.network.activation,
        "data": experiment.dataset.name,
        "images": {name: len(getattr(experiment.dataset, name)) for name in SPLITS},
        "sha256": [solution.sha256 for solution in picture.solutions],
    }


def _claimed(path: pathlib.Path, identity: Mapping[str, Any], *, overwrite: bool) -> dict[str, Any]:
    """The summary of a picture as far as it has come; empty where there is none, or it is to be overwritten."""
    if overwrite or not path.exists():
        return {}
    there = json.loads(path.read_text(encoding="utf8"))
    old = there["settings"]
    for name, value in identity.items():
        if old.get(name) != value:
            raise RunError(
                f"{path} is another result ({name} is {old.get(name)!r} there and {value!r} here); choose another "
                "--logdir, or --overwrite to start again."
            )
    return dict(there)


class _Evaluation(NamedTuple):
    """The ways to evaluate: weights of the plane, and a solution as it is."""

    on_plane: Callable[[list[np.ndarray]], Scores]
    plain: Callable[[Solution], Scores]


def _evaluation(experiment: Experiment, settings: SurfaceSettings, model: keras.Model, picture: Picture) -> _Evaluation:
    dataset, statistics = experiment.dataset, picture.origin.statistics
    if settings.examples is not None:
        parts: dict[str, Any] = {name: _first(getattr(dataset, name), settings.examples) for name in SPLITS}
        dataset = dataclasses.replace(dataset, **parts)
    evaluate = PointEvaluator(model, dataset, settings.splits)

    def plain(solution: Solution) -> Scores:
        return evaluate(solution.values, solution.statistics)

    if not statistics or picture.batch_norm == "keep":
        return _Evaluation(lambda values: evaluate(values, statistics), plain)
    estimate = solutions.reestimation(
        model,
        experiment.dataset.train,
        batches=settings.batch_norm_batches,
        batch_size=settings.batch_size,
        seed=settings.seed,
    )
    return _Evaluation(lambda values: evaluate(values, estimate(values)), plain)


def _first(split: Split, size: int) -> Split:
    return Split(split.images[:size], split.labels[:size])


def _evaluated(picture: Picture, evaluate: Evaluate, path: pathlib.Path, stop: Stop) -> dict[str, Any]:
    """Evaluates the rows of the grid that the file does not hold yet, and adds each to it as it comes."""
    shape = len(picture.ys), len(picture.xs)
    grid: dict[str, Any] = {"xs": picture.xs, "ys": picture.ys, "done": np.zeros(shape[0], bool)}
    if path.exists():
        with np.load(path) as stored:
            grid = dict(stored)
    points = int(grid["done"].sum()) * shape[1]
    progress = Progress(picture.name, shape[0] * shape[1], points, unit="point")

    def noted(values: list[np.ndarray]) -> Scores:
        nonlocal points
        stop.obey(points)
        scores = evaluate(values)
        points += 1
        progress.update(points)
        return scores

    try:
        done = np.flatnonzero(grid["done"]).tolist()
        for row, scores in landscape.evaluate_rows(picture.plane, picture.xs, picture.ys, noted, done):
            for split in scores[0]:
                for index, what in enumerate(Score._fields):
                    values = grid.setdefault(f"{what}_{split}", np.full(shape, np.nan))
                    values[row] = [point[split][index] for point in scores]
            grid["done"][row] = True
            with files.atomic(path) as temporary:
                np.savez(temporary, **grid)
    finally:
        progress.close()
    return grid


def _summed_up(picture: Picture, evaluate: _Evaluation, grid: Mapping[str, Any]) -> dict[str, Any]:
    losses = {name.removeprefix("loss_"): values for name, values in grid.items() if name.startswith("loss_")}
    lowest = {}
    for split, values in losses.items():
        if np.isfinite(values).any():
            row, column = np.unravel_index(np.nanargmin(values), values.shape)
            place = {"x": float(picture.xs[column]), "y": float(picture.ys[row])}
            lowest[split] = {"loss": float(values[row, column]), **place}
    marks = zip(picture.solutions, _marks(picture), strict=True)
    return {
        "batch_norm": picture.batch_norm if picture.origin.statistics else None,
        "solutions": [
            {
                **mark,
                "distance_to_plane": _distance(solution.values, picture.plane(*mark["coordinates"])),
                "plain": _as_dicts(evaluate.plain(solution)),
                "on_plane": _as_dicts(evaluate.on_plane(picture.plane(*mark["coordinates"]))),
            }
            for solution, mark in marks
        ],
        "lowest": lowest,
        "not_finite": sum(int(np.sum(~np.isfinite(values))) for values in losses.values()),
        **picture.notes,
        "versions": versions(),
    }


def _marks(picture: Picture) -> list[dict[str, Any]]:
    """Where the solutions lie."""
    places = zip(picture.solutions, picture.coordinates.tolist(), strict=True)
    return [{"checkpoint": solution.checkpoint, "coordinates": place} for solution, place in places]


def _distance(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> float:
    parts = zip(one, other, strict=True)
    return math.sqrt(sum(float(np.sum(np.subtract(a, b, dtype=np.float64) ** 2)) for a, b in parts))


def _as_dicts(scores: Mapping[str, Score]) -> dict[str, dict[str, float]]:
    return {split: score._asdict() for split, score in scores.items()}
