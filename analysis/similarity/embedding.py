"""Metric multidimensional scaling of solutions to the plane."""

from typing import NamedTuple

import numpy as np
from sklearn import manifold

from sparse_lib._utils.errors import InputError


class Embedding(NamedTuple):
    """Points in the plane with distances close to given ones.

    Attributes:
      points: [n, 2], centred, in the axes of their principal components.
      stress: Kruskal's stress-1, sqrt(sum (d - delta)^2 / sum d^2) over all pairs, with the distances d in the plane
        and the given ones delta; 0 is perfect, 0.1 fair, 0.2 poor (Kruskal 1964).
    """

    points: np.ndarray
    stress: float


def mds(distances: np.ndarray, *, seed: int = 0, starts: int = 8) -> Embedding:
    """Metric multidimensional scaling by SMACOF (scikit-learn), as in Figure 5 of the gradient-flow paper.

    The first start is classical scaling, the others are random; the result with the least stress is returned.

    Args:
      distances: [n, n], symmetric, zero on the diagonal.
      seed: of the random starts.
      starts: number of starts (count).

    Returns:
      Points and stress.

    Raises:
      InputError: if the matrix is not one of distances.
    """
    delta = np.asarray(distances, np.float64)
    if delta.ndim != 2 or delta.shape[0] != delta.shape[1] or not len(delta):
        raise InputError(f"Distances form a square matrix; got shape {delta.shape}.")
    symmetric = np.isfinite(delta).all() and np.allclose(delta, delta.T)
    if not symmetric or (delta < 0).any() or delta.diagonal().any():
        raise InputError("Distances are finite, symmetric, not negative, and 0 on the diagonal; these are not.")
    if len(delta) == 1 or not delta.any():
        return Embedding(np.zeros((len(delta), 2)), 0.0)
    scale = float(delta.max())
    found = [_smacof(delta / scale, start) for start in _start_points(delta / scale, seed, starts)]
    best = min(found, key=lambda points: _stress(points, delta / scale))
    return Embedding(_orient(best * scale), _stress(best * scale, delta))


def _start_points(delta: np.ndarray, seed: int, count: int) -> list[np.ndarray]:
    rng = np.random.default_rng([seed, len(delta)])
    return [_classical_scaling(delta), *(rng.uniform(-0.5, 0.5, (len(delta), 2)) for _ in range(count - 1))]


def _classical_scaling(delta: np.ndarray) -> np.ndarray:
    """Torgerson's scaling: the two leading axes of the double-centred squared distances."""
    n = len(delta)
    centre = np.eye(n) - 1 / n
    values, vectors = np.linalg.eigh(-0.5 * centre @ delta**2 @ centre)
    points = np.zeros((n, 2))
    for axis, place in enumerate(np.argsort(values)[::-1][:2]):
        points[:, axis] = vectors[:, place] * np.sqrt(max(values[place], 0.0))
    return points


def _smacof(delta: np.ndarray, start: np.ndarray) -> np.ndarray:
    points, _ = manifold.smacof(
        delta, metric=True, n_components=2, init=start, n_init=1, max_iter=1000, eps=1e-9, normalized_stress=False
    )
    return np.asarray(points)


def _stress(points: np.ndarray, delta: np.ndarray) -> float:
    d = np.linalg.norm(points[:, None] - points[None], axis=-1)
    return float(np.sqrt(np.sum((d - delta) ** 2) / np.sum(d**2))) if d.any() else 1.0


def _orient(points: np.ndarray) -> np.ndarray:
    """Rotates points to their principal axes with fixed signs, so that equal distances give equal points."""
    centred = points - points.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    turned = centred @ axes.T
    signs = np.sign(turned[np.argmax(np.abs(turned), axis=0), [0, 1]])
    return turned * np.where(signs == 0, 1, signs)
