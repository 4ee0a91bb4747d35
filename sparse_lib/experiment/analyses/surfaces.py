"""Loss surfaces: a grid around one solution, on the plane through three, or on the plane of a training trajectory."""

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from sparse_lib import landscape
from sparse_lib.experiment.analyses import grids, solutions
from sparse_lib.experiment.analyses.grids import Picture
from sparse_lib.experiment.analyses.solutions import Solution
from sparse_lib.experiment.config.analyses import SurfaceSettings
from sparse_lib.experiment.config.experiment import Experiment
from sparse_lib.experiment.runtime.errors import RunError, SettingError
from sparse_lib.experiment.storage import checkpoints
from sparse_lib.experiment.training.build import build_model
from sparse_lib.landscape import Plane


def surface(
    experiment: Experiment,
    settings: SurfaceSettings,
    *,
    checkpoint: str | os.PathLike[str],
    directory: pathlib.Path,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Evaluates a grid around a solution, along two random directions with the filter norms of the solution.

    Args:
      experiment: defines network and data set.
      settings: of directions and grid.
      checkpoint: the solution.
      directory: of the results, surface.npz and surface.json; created if missing.
      overwrite: whether to delete a stored surface.

    Returns:
      Content of surface.json.

    Raises:
      SettingError: if the number of points is even.
      RunError: if the checkpoint is missing or of another network, or the directory holds another surface.
      Interrupted: after SIGINT or SIGTERM, once all complete rows are saved.
    """
    settings.require(settings.points % 2 == 1, "points", "must be odd, so that the solution is one of them")
    model, read = _make_reader(experiment, with_masks=settings.space == "active")
    solution = read(checkpoint)
    x, y = (
        landscape.random_direction(
            model,
            solution.values,
            seed=settings.seed,
            index=index,
            masks=solution.masks if settings.space == "active" else None,
            others=settings.others,
        )
        for index in (0, 1)
    )
    axis = landscape.axis_around_zero(settings.radius, settings.points)
    picture = Picture(
        name="surface",
        plane=Plane(solution.values, x, y),
        xs=axis,
        ys=axis,
        solutions=[solution],
        coordinates=np.zeros((1, 2)),
        origin=solution,
        batch_norm=settings.batch_norm or "keep",
        relevant=("radius", "seed", "space", "others"),
        notes={},
    )
    return grids.evaluate(experiment, settings, model, picture, directory, overwrite=overwrite)


def plane(
    experiment: Experiment,
    settings: SurfaceSettings,
    *,
    three: Sequence[str | os.PathLike[str]],
    directory: pathlib.Path,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Evaluates a grid on the plane through three solutions.

    Args:
      experiment: defines network and data set.
      settings: of the grid.
      three: checkpoints; the first is at (0, 0), the second on the first axis, the third above it.
      directory: of the results, plane.npz and plane.json; created if missing.
      overwrite: whether to delete a stored plane.

    Returns:
      Content of plane.json.

    Raises:
      SettingError: if the number of checkpoints is not three.
      RunError: if one is missing or of another network, or the directory holds another plane.
      InputError: if the solutions lie on a line.
      Interrupted: after SIGINT or SIGTERM, once all complete rows are saved.
    """
    if len(three) != 3:
        raise SettingError(f"A plane goes through three solutions; got {len(three)}.")
    model, read = _make_reader(experiment, with_masks=False)
    corners = [read(checkpoint) for checkpoint in three]
    through, coordinates = landscape.plane_through(*(corner.values for corner in corners))
    picture = Picture(
        name="plane",
        plane=through,
        **_make_axes(settings, coordinates),
        solutions=corners,
        coordinates=coordinates,
        origin=corners[0],
        batch_norm=settings.batch_norm or "reestimate",
        relevant=("margin",),
        notes={},
    )
    return grids.evaluate(experiment, settings, model, picture, directory, overwrite=overwrite)


def trajectory(
    experiment: Experiment,
    settings: SurfaceSettings,
    *,
    run: pathlib.Path,
    directory: pathlib.Path,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Projects the checkpoints of a run onto their first two principal components, and evaluates a grid there.

    Args:
      experiment: defines network and data set.
      settings: of checkpoints, space and grid.
      run: directory of the run.
      directory: of the results, trajectory.npz and trajectory.json; created if missing.
      overwrite: whether to delete a stored trajectory.

    Returns:
      Content of trajectory.json.

    Raises:
      RunError: if a checkpoint is missing or of another network, or the directory holds another trajectory.
      InputError: if there are too few different checkpoints to define a plane.
      Interrupted: after SIGINT or SIGTERM, once all complete rows are saved.
    """
    steps = sorted(checkpoints.list_steps(run) if settings.ckpt_ids is None else set(settings.ckpt_ids))
    if not steps:
        raise RunError(f"{run} has no checkpoints; give the directory of a run.")
    model, read = _make_reader(experiment, with_masks=settings.space == "active")
    points = [read(run / f"ckpt-{step}") for step in steps]
    masks = points[-1].masks if settings.space == "active" else None
    components = landscape.principal_plane([point.values for point in points], masks)
    picture = Picture(
        name="trajectory",
        plane=components.plane,
        **_make_axes(settings, components.coordinates),
        solutions=points,
        coordinates=components.coordinates,
        origin=points[-1],
        batch_norm=settings.batch_norm or "reestimate",
        relevant=("margin", "space"),
        notes={"steps": steps, "explained_variance": components.explained.tolist()},
    )
    return grids.evaluate(experiment, settings, model, picture, directory, overwrite=overwrite)


def _make_reader(experiment: Experiment, *, with_masks: bool) -> tuple[keras.Model, Callable[..., Solution]]:
    """Builds a network, and returns it with a function that reads its checkpoints."""
    model = build_model(experiment)
    kernels = experiment.network.kernels(model)
    return model, lambda checkpoint: solutions.read(checkpoint, model, kernels, with_masks=with_masks)


def _make_axes(settings: SurfaceSettings, coordinates: np.ndarray) -> dict[str, np.ndarray]:
    xs, ys = (landscape.axis_over(c, settings.margin, settings.points) for c in coordinates.T)
    return {"xs": xs, "ys": ys}
