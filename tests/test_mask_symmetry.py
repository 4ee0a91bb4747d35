"""Permutations, unique and zeroed neurons, against tables worked by hand and brute force."""

import itertools
import math

import numpy as np
import pytest

from sparse_lib import mask_symmetry
from sparse_lib.mask_symmetry import Symmetry


def test_a_dense_chain_has_all_permutations():
    masks = [np.ones((5, 4), bool), np.ones((4, 3), bool)]
    assert mask_symmetry.count_symmetry(masks) == [Symmetry(4, 0, 1, 24), Symmetry(3, 0, 1, 6)]
    assert mask_symmetry.sum_symmetry(mask_symmetry.count_symmetry(masks)) == Symmetry(7, 0, 2, 144)


def test_a_table_worked_by_hand():
    # Neurons 0, 1, 2 read the same inputs; 0 and 1 are read alike, 3 reads nothing, 4 is read by nobody.
    first = np.array([[1, 1, 1, 0, 1], [1, 1, 1, 0, 0], [0, 0, 0, 0, 1]], bool)
    second = np.array([[1, 1], [1, 1], [0, 1], [1, 1], [0, 0]], bool)
    one, two = mask_symmetry.count_symmetry([first, second])
    assert one == Symmetry(neurons=5, zeroed=1, unique=2, permutations=2)
    # Of the last kernel, incoming weights count alone: 0, 1, 3 against 0, 1, 2, 3.
    assert two == Symmetry(neurons=2, zeroed=0, unique=2, permutations=1)


def test_permutations_are_those_of_brute_force():
    rng = np.random.default_rng(0)
    for _ in range(20):
        first, second = rng.random((3, 5)) < 0.5, rng.random((5, 2)) < 0.6
        active = np.flatnonzero(first.any(0) & second.any(1))
        expected = 0
        for order in map(list, itertools.permutations(active)) if len(active) else ():
            expected += (first[:, order] == first[:, active]).all() and (second[order] == second[active]).all()
        assert mask_symmetry.count_symmetry([first, second])[0].permutations == expected


def test_convolutions_and_flattened_positions():
    # Two channels that are alike in a 2x2 window, flattened at two positions: reader 0 tells them apart at the second.
    window = np.ones((2, 2, 1, 2), bool)
    same = np.array([[1], [1], [1], [1]], bool)
    apart = np.array([[1], [1], [1], [0]], bool)
    assert mask_symmetry.count_symmetry([window, same])[0] == Symmetry(2, 0, 1, 2)
    assert mask_symmetry.count_symmetry([window, apart])[0] == Symmetry(2, 0, 2, 1)
    following = np.ones((3, 3, 2, 4), bool)
    following[1, 2, 0, 3] = False
    assert mask_symmetry.count_symmetry([window, following])[0] == Symmetry(2, 0, 2, 1)


def test_a_layer_without_active_neurons_has_none():
    empty = mask_symmetry.count_symmetry([np.zeros((3, 4), bool), np.ones((4, 2), bool)])[0]
    assert empty == Symmetry(4, 4, 0, 0) and empty.log10_permutations == 0
    unread = mask_symmetry.count_symmetry([np.ones((3, 4), bool), np.zeros((4, 2), bool)])[0]
    assert unread == Symmetry(4, 0, 0, 0)
    wide = mask_symmetry.count_symmetry([np.ones((2, 300), bool)])[0]
    assert wide.permutations == math.factorial(300)
    assert wide.log10_permutations == pytest.approx(614.4858, abs=1e-4)


def test_masks_that_are_no_chain():
    with pytest.raises(ValueError, match="Kernel 1 has 5 inputs, which does not fit the 4 neurons of kernel 0"):
        mask_symmetry.count_symmetry([np.ones((3, 4), bool), np.ones((5, 2), bool)])
