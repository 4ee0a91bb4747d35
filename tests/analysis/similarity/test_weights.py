"""Distances of weights, against hand-worked numbers and known permutations."""

import numpy as np
import pytest

from analysis.similarity import weights
from sparse_lib.experiment.storage.checkpoints import checkpoint_key

ONE = {"a": np.array([[1.0, 2.0]]), "b": np.array([2.0])}
OTHER = {"a": np.array([[1.0, 0.0]]), "b": np.array([-2.0])}


def test_distances_by_hand():
    assert weights.l2(ONE, OTHER) == pytest.approx(np.sqrt(4 + 16))
    # <(1, 2, 2), (1, 0, -2)> = -3, norms 3 and sqrt 5.
    assert weights.cosine(ONE, OTHER) == pytest.approx(1 + 1 / np.sqrt(5))
    assert weights.cosine(ONE, {name: 3 * value for name, value in ONE.items()}) == pytest.approx(0)
    assert np.isnan(weights.cosine(ONE, {name: 0 * value for name, value in ONE.items()}))


def test_sums_are_float64():
    big = {"a": np.full(100_000, 1e4, np.float32)}
    near = {"a": big["a"] + np.float32(1)}
    assert weights.l2(big, near) == pytest.approx(np.sqrt(100_000))


def test_pairs_and_matrix():
    three = {"x": ONE, "y": OTHER, "z": ONE}
    pairs = weights.pairwise(three)
    assert list(pairs["second"]) == ["y", "z", "z"]
    assert list(pairs["l2"]) == pytest.approx([20**0.5, 0, 20**0.5])
    matrix = weights.l2_matrix(list(three.values()))
    np.testing.assert_allclose(matrix, 20**0.5 * np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]]))


def test_other_networks_are_refused():
    with pytest.raises(ValueError, match="they differ in b"):
        weights.l2(ONE, {"a": ONE["a"], "b": np.zeros(2)})
    with pytest.raises(ValueError, match="they differ in b"):
        weights.cosine(ONE, {"a": ONE["a"]})


def test_a_permuted_network_has_matched_distance_zero(tiny_model):
    model = tiny_model("mlp")
    names = [checkpoint_key(v.path) for v in model.trainable_variables]
    values = dict(zip(names, [v.numpy() for v in model.trainable_variables], strict=True))
    order = np.array([3, 0, 4, 1, 2])
    kernel, bias, readout, last = names
    moved = {
        kernel: values[kernel][:, order],
        bias: values[bias][order],
        readout: values[readout][order],
        last: values[last],
    }
    assert weights.l2(values, moved) > 0.5
    assert weights.matched_l2(model, values, moved) == pytest.approx(0, abs=1e-6)
    noisy = {name: value + 0.01 for name, value in moved.items()}
    size = sum(value.size for value in moved.values())
    assert weights.matched_l2(model, values, noisy) == pytest.approx(0.01 * np.sqrt(size), rel=1e-4)
