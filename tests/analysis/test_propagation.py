"""Signal propagation at initialisation."""

import numpy as np
import pytest

from analysis import propagation


@pytest.fixture(scope="module")
def frame():
    """Returns the signal of the MLP at three sparsities."""
    return propagation.signal("mlp", sparsities=(0.0, 0.9, 0.98), input_shape=(28, 28, 1), examples=200, repeats=2)


def mean(frame, init: str, sparsity: float, column: str = "unit_std") -> float:
    return frame[(frame["init"] == init) & (frame["sparsity"] == sparsity)][column].mean()


def test_dense_networks_keep_the_signal(frame):
    # He's initialisation: pre-activations of variance 2 E[relu(z)^2] = E[z^2] = 2 at the first layer and on, and
    # relu(z) of z ~ N(0, 2) has standard deviation sqrt(1 - 1 / pi).
    for init in propagation.INITS:
        assert mean(frame, init, 0.0) == pytest.approx(np.sqrt(1 - 1 / np.pi), rel=0.15)


def test_dense_and_layer_scaled_agree_without_a_mask(frame):
    dense, scaled = (frame[(frame["init"] == init) & (frame["sparsity"] == 0)] for init in ("dense", "layer_scaled"))
    np.testing.assert_allclose(dense["logit_std"], scaled["logit_std"], rtol=1e-5)


def test_the_masked_dense_initialisation_loses_the_signal(frame):
    assert mean(frame, "dense", 0.98, "logit_std") < 0.05 * mean(frame, "dense", 0.0, "logit_std")


def test_the_sparsity_aware_initialisation_keeps_it(frame):
    for sparsity in (0.9, 0.98):
        assert mean(frame, "unit_scaled", sparsity) > 0.75 * mean(frame, "unit_scaled", 0.0)
        assert mean(frame, "unit_scaled", sparsity) > mean(frame, "layer_scaled", sparsity)


def test_masks_have_the_sparsity_and_units_of_very_different_fan_in():
    mask = propagation.uneven_mask((200, 50), 0.9, (0, 0, 0)).numpy()
    assert mask.sum() == 1000
    fans = mask.sum(0)
    assert fans[0] > 10 * fans[-1] > 0


def test_seeds_decide(frame):
    again = propagation.signal("mlp", sparsities=(0.9,), input_shape=(28, 28, 1), examples=200, repeats=1)
    first = frame[(frame["sparsity"] == 0.9) & (frame["repeat"] == 0)]
    np.testing.assert_allclose(again["logit_std"], first["logit_std"], rtol=1e-5)
    other = propagation.signal("mlp", sparsities=(0.9,), input_shape=(28, 28, 1), examples=200, repeats=1, seed=1)
    assert not np.allclose(other["logit_std"], again["logit_std"])
