"""Steps of iterative magnitude pruning against counts and masks worked out by hand."""

import numpy as np
import pytest
import tensorflow as tf

from sparse_lib._utils.errors import InputError
from sparse_lib.magnitude import remove_smallest
from sparse_lib.structures import UNSTRUCTURED, Block


def kernel(weights, mask=None, structure=UNSTRUCTURED):
    values = tf.constant(weights, tf.float32)
    return values, tf.ones(values.shape, tf.bool) if mask is None else tf.constant(mask), structure


def kept(kernels, *args, **options):
    return [mask.numpy().astype(int).tolist() for mask in remove_smallest(kernels, *args, **options)]


FIRST = kernel([1.0, -2.0, 3.0, -4.0, 5.0])
SECOND = kernel([0.1, 0.2, -0.3, 9.0])


@pytest.mark.parametrize(
    ("fraction", "options", "expected"),
    [
        # Of 5 and 4 weights, floor(0.4 * 5) = 2 and floor(0.4 * 4) = 1 go.
        (0.4, {}, [[0, 0, 1, 1, 1], [0, 1, 1, 1]]),
        # Of 9 weights floor(0.4 * 9) = 3 go, all of them of the second kernel.
        (0.4, {"scope": "global"}, [[1, 1, 1, 1, 1], [0, 0, 0, 1]]),
        (0.4, {"custom": {"second": 0.2}}, [[0, 0, 1, 1, 1], [1, 1, 1, 1]]),
        # What has its own fraction is ranked by itself.
        (0.4, {"custom": {"second": 0.5}, "scope": "global"}, [[0, 0, 1, 1, 1], [0, 0, 1, 1]]),
        (0.0, {}, [[1, 1, 1, 1, 1], [1, 1, 1, 1]]),
    ],
)
def test_fractions_of_kernels_by_hand(fraction, options, expected):
    assert kept({"first": FIRST, "second": SECOND}, fraction, **options) == expected


def test_only_active_weights_count():
    # 4 are active: floor(0.5 * 4) = 2 go. The inactive 7 is larger than all of them.
    weights = kernel([1.0, -2.0, 7.0, 3.0, 4.0], [True, True, False, True, True])
    assert kept({"a": weights}, 0.5) == [[0, 0, 0, 1, 1]]


def test_levels_follow_the_rounding_of_every_level():
    state, counts = kernel(np.arange(1, 31)), []
    for _ in range(4):
        mask = remove_smallest({"a": state}, 0.2)[0]
        state = (state[0], mask, UNSTRUCTURED)
        counts.append(int(tf.math.count_nonzero(mask)))
    # 30 - 6 = 24, 24 - 4 = 20, 20 - 4 = 16, 16 - 3 = 13.
    assert counts == [24, 20, 16, 13]
    assert state[1].numpy().tolist() == [False] * 17 + [True] * 13


def test_blocks_go_as_a_whole():
    blocks = kernel([[1.0, 1.0, 5.0, 5.0], [1.0, 1.0, 5.0, 5.0]], structure=Block(2, 2))
    assert kept({"a": blocks}, 0.5) == [[[0, 0, 1, 1], [0, 0, 1, 1]]]


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_a_fraction_out_of_range_is_told(fraction):
    with pytest.raises(InputError, match="first"):
        remove_smallest({"first": FIRST}, fraction)
