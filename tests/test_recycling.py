"""ReDo under masks: which units start again, and what of them changes."""

import keras
import numpy as np
import pytest

import sparse_lib
from sparse_lib.recycling import find_dormant, recycle_dormant

layers = keras.layers


def make_network():
    """A convolution, batch norm and ReLU, a flattened map of 4 places, and two dense layers."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((3, 3, 1)),
            layers.Conv2D(3, 2, use_bias=False, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(6, "relu", name="hidden"),
            layers.Dense(4, name="logits"),
        ]
    )
    masks = sparse_lib.sparsify(model, 0.4, "uniform")
    optimizer = sparse_lib.SparseOptimizer(keras.optimizers.Adagrad(0.1, use_ema=True), masks)
    optimizer.build(model.trainable_variables)
    for slots in optimizer.slots_by_name.values():
        for slot in slots:
            if slot is not None:
                slot.assign(7.0 * np.ones(slot.shape))
    # Channel 1 and unit 2 are never active.
    model.get_layer("norm").beta.assign([0.5, -99.0, 0.5])
    model.get_layer("norm").gamma.assign([1.0, 3.0, 2.0])
    model.get_layer("hidden").bias.assign([9.0, 9.0, -99.0, 9.0, 9.0, 9.0])
    return model, optimizer


def names(model):
    return [variable.path.partition("/")[2] for variable in model.trainable_variables]


X = np.random.default_rng(0).normal(size=(20, 3, 3, 1)).astype("float32")


def test_silent_units_start_again_and_all_else_stays():
    model, optimizer = make_network()
    before = dict(zip(names(model), (v.numpy() for v in model.trainable_variables), strict=True))
    masks = [mask.numpy() for mask in optimizer.masks.values()]
    outputs = model.predict(X, verbose=0)
    assert recycle_dormant(model, optimizer, X, tau=0.0) == {"conv": 1, "hidden": 1}
    # Dormant units contributed nothing, and contribute nothing yet.
    np.testing.assert_allclose(model.predict(X, verbose=0), outputs, atol=1e-5)
    optimizer.masks.check()
    for mask, now in zip(masks, optimizer.masks.values(), strict=True):
        np.testing.assert_array_equal(mask, now)

    after = dict(zip(names(model), (v.numpy() for v in model.trainable_variables), strict=True))
    norm = model.get_layer("norm")
    assert after["norm/gamma"].tolist() == [1, 1, 2] and after["norm/beta"].tolist() == [0.5, 0, 0.5]
    assert after["hidden/bias"].tolist() == [9, 9, 0, 9, 9, 9] and norm.moving_mean.numpy().tolist() == [0, 0, 0]
    own = {
        "conv/kernel": np.broadcast_to([False, True, False], (2, 2, 1, 3)),
        # Each of the 4 places has channel 1; column 2 is unit 2.
        "hidden/kernel": (np.arange(12) % 3 == 1)[:, None] | (np.arange(6) == 2)[None],
        "logits/kernel": np.broadcast_to((np.arange(6) == 2)[:, None], (6, 4)),
    }
    for (name, marks), mask in zip(own.items(), masks, strict=True):
        np.testing.assert_array_equal(after[name][~marks], before[name][~marks])
        assert not np.any(after[name][~mask])
    fed = own["conv/kernel"] & masks[0]
    assert np.all(after["conv/kernel"][fed] != before["conv/kernel"][fed]) and np.all(after["conv/kernel"][fed] != 0)
    # From channel 1, also into unit 2, and out of unit 2 nothing flows.
    assert not np.any(after["hidden/kernel"][1::3]) and not np.any(after["logits/kernel"][2])
    fed = masks[1][:, 2] & (np.arange(12) % 3 != 1)
    assert np.all(after["hidden/kernel"][fed, 2] != 0)


def test_slots_of_recycled_weights_start_anew():
    model, optimizer = make_network()
    recycle_dormant(model, optimizer, X, tau=0.0)
    slots = dict(optimizer.slots_by_name)
    position = names(model).index("logits/kernel")
    accumulated, average = (slots[name][position].numpy() for name in ("accumulator", "average"))
    assert np.all(accumulated[2] == np.float32(0.1)) and np.all(np.delete(accumulated, 2, axis=0) == 7)
    assert np.all(average[2] == 0) and np.all(np.delete(average, 2, axis=0) == 7)


def test_the_threshold_is_relative_to_the_layer():
    model = keras.Sequential([keras.Input((1,)), layers.Dense(3, "relu", name="hidden"), layers.Dense(1)])
    model.layers[0].set_weights([np.array([[1.0, 1.9, 0.1]]), np.zeros(3)])
    # Of scores of 1, 1.9 and 0.1 for a positive input.
    x = np.array([[2.0], [4.0]])
    for tau, expected in ((0.09, [0, 0, 0]), (0.11, [0, 0, 1]), (1.01, [1, 0, 1])):
        assert find_dormant(model, x, tau)["hidden"].tolist() == expected


def test_networks_without_a_chain_and_optimizers_without_slots_are_refused():
    inputs = keras.Input((4,))
    joined = layers.add([layers.Dense(4, "relu")(inputs), inputs])
    model = keras.Model(inputs, layers.Dense(2)(joined))
    masks = sparse_lib.sparsify(model, 0.5)
    optimizer = sparse_lib.SparseOptimizer(keras.optimizers.SGD(0.1), masks)
    with pytest.raises(ValueError, match="form a chain"):
        recycle_dormant(model, optimizer, np.ones((2, 4)))
    chain = keras.Sequential([keras.Input((4,)), layers.Dense(3, "relu"), layers.Dense(2)])
    optimizer = sparse_lib.SparseOptimizer(keras.optimizers.SGD(0.1), sparse_lib.sparsify(chain, 0.5))
    with pytest.raises(ValueError, match=r"Call optimizer\.build"):
        recycle_dormant(chain, optimizer, np.ones((2, 4)))
    with pytest.raises(ValueError, match="tau must be at least 0"):
        find_dormant(chain, np.ones((2, 4)), -1.0)
