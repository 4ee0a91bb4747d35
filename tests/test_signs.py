"""Changes of the signs of weights against values worked out by hand."""

import numpy as np
import pytest

from sparse_lib import signs
from sparse_lib._utils.errors import InputError

WEIGHTS = np.array([[0.5, 0.0, -2.0], [1.0, -3.0, 0.0]], np.float32)


def test_constant_takes_the_deviation_of_the_weights_before_masking():
    source = np.array([[1.0, -1.0], [3.0, 1.0]], np.float32)  # Mean 1, variance (0 + 4 + 4 + 0) / 4 = 2.
    found = signs.change("constant", WEIGHTS, source, seed=0, index=0)
    root = np.sqrt(2)
    np.testing.assert_allclose(found, [[root, 0, -root], [root, -root, 0]], rtol=1e-6)
    assert found.dtype == np.float32
    # Zeros of a sparse source are masked weights, and no values.
    sparse = np.array([1.0, -1.0, 0.0, 0.0, 3.0, 1.0], np.float32)
    np.testing.assert_array_equal(signs.change("constant", WEIGHTS, sparse, seed=0, index=0), found)


def test_random_keeps_magnitudes_and_zeros():
    weights = np.linspace(-1, 1, 1001).astype(np.float32)
    first, again, other = (signs.change("random", weights, weights, seed=s, index=0) for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(np.abs(first), np.abs(weights))
    assert first[500] == 0 and (first != other).any()
    # 1,000 fair coins are between 420 and 580 heads but once in two million draws.
    assert 420 < (first == weights).sum() - 1 < 580


@pytest.mark.parametrize(("share", "count"), [("0", 0), ("0.49", 1), ("0.5", 2), ("1", 4)])
def test_flip_negates_an_exact_share_of_the_active_weights(share, count):
    found = signs.change(f"flip:{share}", WEIGHTS, WEIGHTS, seed=3, index=1)
    assert (found == -WEIGHTS).sum() - 2 == count and (np.abs(found) == np.abs(WEIGHTS)).all()


def test_kernels_draw_apart():
    weights = np.ones(100, np.float32)
    first, second = (signs.change("random", weights, weights, seed=0, index=index) for index in (0, 1))
    assert (first != second).any()


@pytest.mark.parametrize("text", ["", "flip", "flip:", "flip:1.1", "flip:-1", "constant:2", "Random"])
def test_other_texts_are_refused(text):
    with pytest.raises(InputError, match="constant"):
        signs.parse_change(text)
