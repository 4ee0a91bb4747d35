"""Loss and accuracy on a grid in a plane."""

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from sparse_lib._utils.errors import InputError
from sparse_lib.landscape.evaluation import Evaluate, Scores
from sparse_lib.landscape.plane import Plane

Axis = Sequence[float] | np.ndarray


class Surface(NamedTuple):
    """Loss and accuracy on a grid.

    Attributes:
      xs: first coordinates, [columns].
      ys: second coordinates, [rows].
      loss: by split, [rows, columns], in the units of the loss.
      accuracy: by split, [rows, columns] (fraction).
    """

    xs: np.ndarray
    ys: np.ndarray
    loss: dict[str, np.ndarray]
    accuracy: dict[str, np.ndarray]


def axis_around_zero(radius: float, points: int) -> np.ndarray:
    """Evenly spaced coordinates from -radius to radius with exactly 0 in the middle.

    Args:
      radius: largest coordinate; 1 in Li et al. 2018, where a step of 1 is as long as the weights.
      points: odd number of points, so that 0 is among them (count).

    Returns:
      Ascending coordinates, [points].

    Raises:
      ValueError: for an even number, fewer than three, or a radius that is not positive.
    """
    if points < 3 or points % 2 == 0 or not radius > 0:
        raise InputError(f"A grid around 0 needs an odd number of points from 3 and a radius; got {points}, {radius}.")
    half = points // 2
    return radius * np.arange(-half, half + 1) / half


def axis_over(coordinates: Axis, margin: float, points: int) -> np.ndarray:
    """Evenly spaced coordinates that cover given points.

    Args:
      coordinates: of the points to cover.
      margin: extension beyond both ends, as a share of the extent of the points (fraction).
      points: number of coordinates, at least two (count).

    Returns:
      Ascending coordinates, [points].

    Raises:
      ValueError: for fewer than two points, or if all coordinates are equal.
    """
    low, high = float(np.min(coordinates)), float(np.max(coordinates))
    if points < 2 or not low < high:
        raise InputError(f"An axis needs at least 2 points and an extent; got {points} from {low} to {high}.")
    beyond = margin * (high - low)
    return np.linspace(low - beyond, high + beyond, points)


def evaluate_rows(
    plane: Plane, xs: Axis, ys: Axis, evaluate: Evaluate, done: Collection[int] = ()
) -> Iterator[tuple[int, list[Scores]]]:
    """Evaluates a grid lazily, so that each row can be saved before the next one is computed.

    Args:
      plane: from two coordinates to weights.
      xs: first coordinates, [columns].
      ys: second coordinates, [rows].
      evaluate: from weights to scores by split, such as a `ModelEvaluator`.
      done: indices of rows to skip.

    Yields:
      The index of a row and its scores, one per column.
    """
    for row, b in enumerate(ys):
        if row not in done:
            yield row, [evaluate(plane(float(a), float(b))) for a in xs]


def assembled(xs: Axis, ys: Axis, rows: Sequence[Sequence[Scores]]) -> Surface:
    """Assembles the rows of a grid.

    Args:
      xs: first coordinates, [columns].
      ys: second coordinates, [rows].
      rows: scores by split, `[rows][columns]`.

    Returns:
      The surface.
    """
    splits = list(rows[0][0])
    loss = {split: np.array([[scores[split].loss for scores in row] for row in rows]) for split in splits}
    accuracy = {split: np.array([[scores[split].accuracy for scores in row] for row in rows]) for split in splits}
    return Surface(np.asarray(xs), np.asarray(ys), loss, accuracy)


def evaluate_surface(plane: Plane, xs: Axis, ys: Axis, evaluate: Evaluate) -> Surface:
    """Evaluates a whole grid; see `evaluate_rows` for one row at a time.

    Args:
      plane: from two coordinates to weights.
      xs: first coordinates.
      ys: second coordinates.
      evaluate: from weights to scores by split.

    Returns:
      The surface.
    """
    return assembled(xs, ys, [scores for _, scores in evaluate_rows(plane, xs, ys, evaluate)])
