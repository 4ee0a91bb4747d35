"""Distances between solutions in weight space."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sparse_lib._utils.errors import InputError
from sparse_lib.experiment.storage.checkpoints import checkpoint_key
from sparse_lib.landscape import matching

Values = Mapping[str, np.ndarray]


def l2(one: Values, other: Values) -> float:
    """Euclidean distance || a - b || over all variables, in float64.

    Args:
      one: arrays by variable name.
      other: arrays of the same names and shapes.

    Returns:
      The distance.
    """
    pairs = _paired_arrays(one, other)
    return float(np.sqrt(sum(np.sum((a - b) ** 2) for a, b in pairs)))


def cosine(one: Values, other: Values) -> float:
    """Cosine distance `1 - <a, b> / (||a|| ||b||)` over all variables.

    Args:
      one: arrays by variable name.
      other: arrays of the same names and shapes.

    Returns:
      The distance, from 0 to 2; NaN if either side is zero.
    """
    pairs = _paired_arrays(one, other)
    a, b = (np.concatenate([side.ravel() for side in sides]) for sides in zip(*pairs, strict=True))
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return 1.0 - float(np.clip(a @ b / norms, -1, 1)) if norms else float("nan")


def matched_l2(model: Any, reference: Values, params: Values, *, seed: int = 0, restarts: int = 5) -> float:
    """Euclidean distance after permuting the hidden units of one solution to match the other's.

    Permuting hidden units does not change a network's function, so the plain distance between networks with different
    initial weights overstates their difference (Ainsworth et al. 2022).

    Args:
      model: a built network whose layers form a chain.
      reference: trainable values of the fixed solution, by variable name in checkpoints.
      params: trainable values of the permuted solution.
      seed: of the random starts of the search.
      restarts: number of starts, the first from the identity (count).

    Returns:
      An upper bound on the distance, as the search may miss the best permutation.
    """
    keys = [checkpoint_key(v.path) for v in model.trainable_variables]
    ordered = [[side[key] for key in keys] for side in (reference, params)]
    return float(matching.match(model, *ordered, seed=seed, restarts=restarts).distance)


def pairwise(
    solutions: Mapping[str, Values], measures: Mapping[str, Callable[[Values, Values], float]] | None = None
) -> pd.DataFrame:
    """Computes the distances of all pairs of solutions.

    Args:
      solutions: arrays by variable name, by name of the solution.
      measures: functions of two solutions, by name; None takes `l2` and `cosine`.

    Returns:
      One row per pair: first, second, and one column per measure.

    Raises:
      InputError: if the solutions belong to different networks.
    """
    measures = {"l2": l2, "cosine": cosine} if measures is None else measures
    names = list(solutions)
    rows = [
        (first, second, *(measure(solutions[first], solutions[second]) for measure in measures.values()))
        for place, first in enumerate(names)
        for second in names[place + 1 :]
    ]
    return pd.DataFrame(rows, columns=["first", "second", *measures])


def l2_matrix(solutions: Sequence[Values]) -> np.ndarray:
    """Computes the Euclidean distances of all pairs, [n, n].

    Args:
      solutions: arrays of the same names and shapes.

    Returns:
      A symmetric matrix with zero diagonal.
    """
    n = len(solutions)
    distances = np.zeros((n, n))
    for row in range(n):
        for column in range(row):
            distances[row, column] = distances[column, row] = l2(solutions[row], solutions[column])
    return distances


def _paired_arrays(one: Values, other: Values) -> list[tuple[np.ndarray, np.ndarray]]:
    shapes = [{name: np.shape(value) for name, value in side.items()} for side in (one, other)]
    if not one or shapes[0] != shapes[1]:
        differing = sorted(name for name in {*one, *other} if shapes[0].get(name) != shapes[1].get(name))
        raise InputError(f"Only solutions of one network have a distance; they differ in {', '.join(differing[:3])}.")
    return [(np.asarray(value, np.float64), np.asarray(other[name], np.float64)) for name, value in one.items()]
