"""Planes in weight space: around one solution, or through three."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sparse_lib._utils.errors import InputError
from sparse_lib.landscape.paths import Values

# A triangle whose height is below this share of its side counts as a line.
_FLAT = 1e-6


def inner(one: Values, other: Values) -> float:
    """Inner product of two lists of arrays, in float64."""
    return sum(float(np.vdot(_as_float64(a), _as_float64(b))) for a, b in zip(one, other, strict=True))


@dataclass(frozen=True, eq=False)
class Plane:
    """An affine plane, P(a, b) = origin + a x + b y.

    Attributes:
      origin: weights at (0, 0).
      x: direction of the first coordinate, arrays of the same shapes.
      y: direction of the second coordinate.
    """

    origin: Values
    x: Values
    y: Values

    def __post_init__(self) -> None:
        """Checks the shapes.

        Raises:
          ValueError: if shapes differ.
        """
        shapes = [[np.shape(value) for value in values] for values in (self.origin, self.x, self.y)]
        if not shapes[0] == shapes[1] == shapes[2]:
            raise InputError("A plane needs an origin and two directions, each a list of arrays of the same shapes.")

    def __call__(self, a: float, b: float) -> list[np.ndarray]:
        """The weights at a point of the plane.

        Sums are taken in float64 and rounded once; at (0, 0) the weights equal the origin bit by bit.

        Args:
          a: first coordinate.
          b: second coordinate.

        Returns:
          Arrays of the shapes and types of the origin.
        """
        parts = zip(self.origin, self.x, self.y, strict=True)
        return [
            (np.float64(o) + a * np.float64(x) + b * np.float64(y)).astype(np.asarray(o).dtype) for o, x, y in parts
        ]

    def coordinates(self, values: Values) -> tuple[float, float]:
        """Coordinates of the orthogonal projection onto the plane.

        Args:
          values: arrays of the shapes of the origin.

        Returns:
          Coordinates of the nearest point of the plane.
        """
        offset = _difference(values, self.origin)
        gram = [[inner(self.x, self.x), inner(self.x, self.y)], [inner(self.y, self.x), inner(self.y, self.y)]]
        a, b = np.linalg.solve(gram, [inner(self.x, offset), inner(self.y, offset)])
        return float(a), float(b)


class Triangle(NamedTuple):
    """A plane through three solutions.

    Attributes:
      plane: with orthonormal directions, so that distances in it are L2 distances of weights.
      coordinates: positions of the three solutions, [3, 2].
    """

    plane: Plane
    coordinates: np.ndarray


def plane_through(first: Values, second: Values, third: Values) -> Triangle:
    """The plane through three solutions, in the coordinates of Garipov et al. (2018, figure 2 and appendix A.2).

    `u = second - first,   v = (third - first) - <third - first, u> u / <u, u>,   x = u / ||u||,   y = v / ||v||`

    Args:
      first: weights at the origin.
      second: weights on the first axis, at (||u||, 0).
      third: weights above the axis, at `(<third - first, x>, ||v||)`.

    Returns:
      The plane and the coordinates of the three solutions.

    Raises:
      ValueError: if the three lie on a line.
    """
    u, w = _difference(second, first), _difference(third, first)
    width, length = np.sqrt(inner(u, u)), np.sqrt(inner(w, w))
    x = [part / width for part in u] if width else u
    along = inner(w, x)
    v = [b - along * a for a, b in zip(x, w, strict=True)]
    height = np.sqrt(inner(v, v))
    if not width or height <= _FLAT * length:
        raise InputError("The three solutions lie on a line: choose three that differ, or interpolate between two.")
    plane = Plane(first, x, [part / height for part in v])
    return Triangle(plane, np.array([[0.0, 0.0], [width, 0.0], [along, height]]))


def _difference(one: Values, other: Values) -> list[np.ndarray]:
    return [_as_float64(a) - _as_float64(b) for a, b in zip(one, other, strict=True)]


def _as_float64(value: np.ndarray) -> np.ndarray:
    return np.asarray(value, np.float64)
