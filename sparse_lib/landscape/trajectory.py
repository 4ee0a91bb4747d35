"""Training trajectory projected on its first two principal components."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sparse_lib._utils.errors import InputError
from sparse_lib.landscape.paths import Values
from sparse_lib.landscape.plane import Plane

# A second singular value below this share of the first is rounding error.
_FLAT = 1e-9


class Trajectory(NamedTuple):
    """A training trajectory in its plane of largest variance.

    Attributes:
      plane: with the last point as origin and orthonormal directions.
      coordinates: of the points in the plane, [n, 2]; distances are L2 distances of the projected weights.
      explained: share of the variance along each principal direction, descending (fraction); the first two span the
        plane.
    """

    plane: Plane
    coordinates: np.ndarray
    explained: np.ndarray


def principal_plane(points: Sequence[Values], masks: Sequence[np.ndarray | None] | None = None) -> Trajectory:
    """Computes the plane of largest variance of a series of weights.

    The directions are the first two principal components of the rows theta_t - theta_T, t < T (Li et al. 2018, section
    7.2). Random directions would show nothing, since in many dimensions a trajectory is nearly orthogonal to them.

    Args:
      points: weights in the order of training, each a list of arrays; the last one is theta_T.
      masks: one boolean array per variable, true for weights that enter, or None where all do; the others keep their
        last value in the whole plane.

    Returns:
      The trajectory, with signs such that the first point has no negative coordinate.

    Raises:
      ValueError: if the points lie on a line, as up to three of them may, or shapes differ.
    """
    last = points[-1]
    chosen = [slice(None) if m is None else np.flatnonzero(m) for m in (masks or [None] * len(last))]
    if any([np.shape(a) for a in point] != [np.shape(a) for a in last] for point in points):
        raise InputError("A trajectory needs points of one network: lists of arrays of the same shapes.")
    offsets = np.stack([_offset(point, last, chosen) for point in points])
    earlier = offsets[:-1]
    centred = earlier - earlier.mean(0)
    _, scales, components = np.linalg.svd(centred, full_matrices=False)
    if len(scales) < 2 or scales[1] <= _FLAT * scales[0]:
        raise InputError("The points lie on a line and span no plane: give at least four different ones.")
    x, y = (component * (1.0 if component @ offsets[0] >= 0 else -1.0) for component in components[:2])
    plane = Plane(last, _as_values(x, last, chosen), _as_values(y, last, chosen))
    return Trajectory(plane, offsets @ np.stack([x, y], 1), scales**2 / np.sum(scales**2))


def _offset(point: Values, last: Values, chosen: Sequence[slice | np.ndarray]) -> np.ndarray:
    """The chosen entries of point - last as one vector."""
    parts = zip(point, last, chosen, strict=True)
    return np.concatenate([np.subtract(a, b, dtype=np.float64).ravel()[entries] for a, b, entries in parts])


def _as_values(vector: np.ndarray, like: Values, chosen: Sequence[slice | np.ndarray]) -> list[np.ndarray]:
    """Arrays with the entries of a vector at the chosen places and zeros elsewhere."""
    arrays, start = [], 0
    for value, entries in zip(like, chosen, strict=True):
        flat = np.zeros(np.size(value))
        size = flat[entries].size
        flat[entries] = vector[start : start + size]
        arrays.append(flat.reshape(np.shape(value)))
        start += size
    return arrays
