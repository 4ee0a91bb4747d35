"""Positions of active weights: random ones, and those of the largest gradients, against the dense matrix."""

import numpy as np
import pytest
import tensorflow as tf

from sparse_lib import selection
from sparse_lib.layers import positions


def find_densely(x, dy, count, taken):
    """Returns what `selection` finds on the dense gradient."""
    gradient = tf.reshape(tf.abs(tf.matmul(x, dy, transpose_a=True)), [-1])
    among = np.ones(gradient.shape, bool)
    among[taken] = False
    return np.flatnonzero(selection.top_k_mask(gradient, count, tf.constant(among)))


# Small integers tie all the time; a tile is one row, a few, or everything.
@pytest.mark.parametrize("tile_entries", [1, 33, 10_000])
@pytest.mark.parametrize("count", [1, 7, 60, 143])
def test_largest_gradients_are_those_of_the_dense_matrix(tile_entries, count):
    rng = np.random.default_rng(count)
    x, dy = (tf.constant(rng.integers(-2, 3, (5, size)), tf.float64) for size in (13, 17))
    taken = positions.draw_distinct(rng, 78, 13 * 17)
    found = positions.find_largest_gradients(x, dy, count, taken, tile_entries=tile_entries)
    np.testing.assert_array_equal(found, find_densely(x, dy, count, taken))


@pytest.mark.parametrize("count", [3, 80, 221])
def test_nan_ranks_below_every_number(count):
    rng = np.random.default_rng(0)
    x, dy = (rng.normal(size=(5, size)).astype(np.float32) for size in (13, 17))
    x[0, 2:9], taken = np.nan, np.array([], np.int64)
    found = positions.find_largest_gradients(tf.constant(x), tf.constant(dy), count, taken, tile_entries=40)
    np.testing.assert_array_equal(found, find_densely(x, dy, count, taken))


@pytest.mark.parametrize(("count", "size"), [(0, 5), (3, 10), (9, 10), (10, 10), (1000, 2**40)])
def test_distinct_numbers(count, size):
    drawn = positions.draw_distinct(np.random.default_rng(1), count, size)
    assert drawn.dtype == np.int64
    assert len(set(drawn.tolist())) == drawn.size == count
    assert np.all(np.diff(drawn) > 0)
    assert count == 0 or (drawn[0] >= 0 and drawn[-1] < size)


def test_distinct_numbers_are_uniform():
    rng = np.random.default_rng(2)
    sets = [tuple(positions.draw_distinct(rng, 2, 5)) for _ in range(5000)]
    _, counts = np.unique(sets, axis=0, return_counts=True)
    # Ten pairs, 500 each, standard deviation 21.
    assert counts.size == 10
    assert np.all(np.abs(counts - 500) < 5 * 21)


def test_free_positions():
    rng, taken = np.random.default_rng(3), np.array([0, 1, 4, 8])
    np.testing.assert_array_equal(positions.draw_outside(rng, 6, 10, taken), [2, 3, 5, 6, 7, 9])
    drawn = [positions.draw_outside(rng, 1, 10, taken)[0] for _ in range(3000)]
    found, counts = np.unique(drawn, return_counts=True)
    np.testing.assert_array_equal(found, [2, 3, 5, 6, 7, 9])
    assert np.all(np.abs(counts - 500) < 5 * 21)


def test_places():
    places = positions.find_places(np.array([2, 5, 7]), np.array([7, 0, 2, 9]))
    np.testing.assert_array_equal(places, [2, -1, 0, -1])
    np.testing.assert_array_equal(positions.find_places(np.array([], np.int64), np.array([1, 2])), [-1, -1])
