"""Which weights of a matrix are active, as flat row-major positions, without ever making the matrix.

Positions are int64, since a matrix may have more entries than int32 can number. Everything here is NumPy outside of a
graph: masks change rarely, and their sizes with them.
"""

import numpy as np
import tensorflow as tf


def draw_distinct(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """Draws a uniformly random set of integers from [0, size) in memory of the order of its size.

    Args:
      rng: source of the randomness.
      count: numbers to draw, at most `size` (count).
      size: upper limit.

    Returns:
      int64 [count], ascending.
    """
    if 2 * count > size:
        left_out = draw_distinct(rng, size - count, size)
        return np.delete(np.arange(size), left_out)
    # As many draws as are missing: the set is that of the first distinct numbers of one sequence, so it is uniform.
    drawn = np.empty(0, np.int64)
    while drawn.size < count:
        drawn = np.sort(np.append(drawn, rng.integers(size, size=count - drawn.size)))
        # Where many numbers differ, `np.unique` takes forty times as long.
        drawn = drawn[np.append(True, drawn[1:] != drawn[:-1])]
    return drawn


def draw_outside(rng: np.random.Generator, count: int, size: int, taken: np.ndarray) -> np.ndarray:
    """Draws a uniformly random set of positions that are not taken.

    Args:
      rng: source of the randomness.
      count: positions to draw (count).
      size: entries of the matrix (count).
      taken: ascending positions.

    Returns:
      int64 [count], ascending.
    """
    ranks = draw_distinct(rng, count, size - taken.size)
    # The free position of rank r has as many taken ones before it as have at most r free ones before them.
    free_before = taken - np.arange(taken.size)
    return ranks + np.searchsorted(free_before, ranks, side="right")


def find_largest_gradients(
    x: tf.Tensor, dy: tf.Tensor, count: int, taken: np.ndarray, *, tile_entries: int = 1 << 20
) -> np.ndarray:
    """Finds the largest entries of |x^T dy| that are not taken, a tile of rows at a time.

    As with `selection.top_k_mask`, ties go to the lower position, and NaN ranks below every number.

    Args:
      x: inputs of the layer [M, R].
      dy: gradient of its outputs [M, O].
      count: positions to find, at most those that are free (count).
      taken: ascending positions.
      tile_entries: entries of a tile, if one row has no more; the default suits a cache of a few MB (count).

    Returns:
      int64 [count], ascending.
    """
    columns = dy.shape[1]
    rows = max(1, tile_entries // columns)
    inputs = tf.transpose(x)
    best = (np.empty(0, np.int64), np.empty(0, x.dtype.as_numpy_dtype))
    waiting, threshold = [best], -np.inf
    for start in range(0, inputs.shape[0], rows):
        found = _find_above(inputs[start : start + rows], dy, threshold, start * columns, taken)
        waiting.append(found)
        if sum(positions.size for positions, _ in waiting) > 2 * count:
            best = _keep_largest(waiting, count)
            waiting, threshold = [best], best[1][-1]
    return np.sort(_keep_largest(waiting, count)[0])


def _find_above(
    inputs: tf.Tensor, dy: tf.Tensor, threshold: float, offset: int, taken: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Positions, ascending, and scores of the free entries of a tile whose score lies above a threshold."""
    gradient = tf.matmul(inputs, dy).numpy().ravel()
    if threshold == -np.inf:
        chosen = np.arange(gradient.size)
    else:
        # Without |g|, of which each pass over the tile would count.
        chosen = np.flatnonzero((gradient > threshold) | (gradient < -threshold))
    chosen = chosen[find_places(taken, chosen + offset) < 0]
    scores = np.abs(gradient[chosen])
    return chosen + offset, np.where(np.isnan(scores), -1, scores)


def _keep_largest(parts: list[tuple[np.ndarray, np.ndarray]], count: int) -> tuple[np.ndarray, np.ndarray]:
    """The highest scores, descending; among equal ones the earlier, which are those of lower positions."""
    positions, scores = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.argsort(-scores, kind="stable")[:count]
    return positions[order], scores[order]


def find_places(positions: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Looks positions up.

    Args:
      positions: ascending [n].
      wanted: any positions [k].

    Returns:
      Index of each wanted position in `positions`, -1 where it is not among them [k].
    """
    if not positions.size:
        return np.full(wanted.size, -1)
    places = np.minimum(np.searchsorted(positions, wanted), positions.size - 1)
    return np.where(positions[places] == wanted, places, -1)
