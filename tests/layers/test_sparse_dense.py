"""The layer without a dense form, against the dense layer."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import sparse_lib
from sparse_lib import measure
from sparse_lib.layers import SparseDense, SparseLayers
from tests.layers.dense_form import dense_model, examples, kernel_of, sparse_model


@pytest.mark.parametrize("shape", [(7, 9), (2, 3, 9)])
@pytest.mark.parametrize("density", [0.01, 0.4, 1.0])
def test_outputs_and_gradients_are_those_of_the_dense_layer(shape, density):
    rng = np.random.default_rng(0)
    layer = SparseDense(11, density, activation="tanh", seed=4, dtype="float64")
    x = tf.Variable(rng.normal(size=shape))
    with tf.GradientTape() as tape:
        y = layer(x, training=True)
        loss = tf.reduce_sum(y**3)
    dx, dvalues, dbias = tape.gradient(loss, [x, layer.values.value, layer.bias.value])
    kernel, mask = (tf.constant(array) for array in kernel_of(layer))
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        expected = tf.tanh(tf.tensordot(x, kernel, 1) + layer.bias.value)
        loss = tf.reduce_sum(expected**3)
    dense_dx, dkernel, dense_dbias = tape.gradient(loss, [x, kernel, layer.bias.value])
    np.testing.assert_allclose(y, expected, atol=1e-12)
    np.testing.assert_allclose(dx, dense_dx, atol=1e-12)
    np.testing.assert_allclose(dvalues, tf.boolean_mask(dkernel, mask), atol=1e-12)
    np.testing.assert_allclose(dbias, dense_dbias, atol=1e-12)


def test_initial_variance_follows_the_fan_in_of_each_unit():
    layer = SparseDense(400, 0.05, scale=3.0, seed=0)
    layer.build((None, 2000))
    kernel, mask = kernel_of(layer)
    scaled = kernel * np.sqrt(mask.sum(0))
    # 40,000 values: the standard error of the variance is 3 sqrt(2 / 40000).
    assert layer.values.shape == (40_000,)
    assert scaled[mask].var() == pytest.approx(3.0, abs=5 * 3 * np.sqrt(2 / 40_000))


def test_half_precision_computes_in_single():
    layer = SparseDense(6, 0.5, dtype="mixed_bfloat16")
    y = layer(tf.ones((3, 5)))
    assert (y.dtype, layer.values.dtype) == (tf.bfloat16, "float32")


def test_a_network_without_a_dense_form_is_built_at_once():
    # Its matrix would take 4 TB.
    layer = SparseDense(1_000_000, 1e-8, seed=1)
    y = layer(tf.ones((2, 1_000_000)))
    positions = layer.positions()
    assert (positions.size, y.shape) == (10_000, (2, 1_000_000))
    assert positions.max() > 2**32
    sums = np.zeros(1_000_000, np.float32)
    np.add.at(sums, positions % 1_000_000, layer.values.numpy())
    np.testing.assert_allclose(y[0], sums, atol=1e-5)


def test_seeds():
    def positions(seed):
        layer = SparseDense(30, 0.2, seed=seed)
        layer.build((None, 30))
        return layer.positions().tolist()

    assert positions(1) == positions(1) != positions(2)
    keras.utils.set_random_seed(5)
    first, second = positions(None), positions(None)
    keras.utils.set_random_seed(5)
    assert first == positions(None) != second


def test_a_saved_model_goes_on(tmp_path):
    x, y = examples()
    model = sparse_model("float32")
    model.compile(keras.optimizers.Adam(), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for one, other in ((model, loaded), (model.optimizer, loaded.optimizer)):
        for variable, again in zip(one.variables, other.variables, strict=True):
            np.testing.assert_array_equal(variable.numpy(), again.numpy())
    # Weights, slots: nothing is larger than the active weights, 72 of 300.
    largest = max(v.shape.num_elements() for v in (*loaded.variables, *loaded.optimizer.variables))
    assert largest == max(loaded.layers[1].values.shape[0], 60, 90)
    np.testing.assert_array_equal(model.predict(x, verbose=0), loaded.predict(x, verbose=0))


def test_counting_and_gradient_flow_are_those_of_the_dense_form():
    model = sparse_model()
    dense, masks = dense_model(model)
    cost, expected = measure.cost(model), measure.cost(dense, masks)
    assert cost._replace(size_bytes=0) == expected._replace(size_bytes=0)
    # Values and biases in float64, indices and row pointers in int32.
    active = [60, 90]
    numbers = 8 * (sum(active) + 60 + 20 + 15 + 4) + 4 * (sum(active) + 13 + 21)
    assert cost.size_bytes == numbers
    flow = measure.gradient_flow(model, examples())
    other = measure.gradient_flow(dense, examples(), masks=masks)
    assert flow.norm == pytest.approx(other.norm, rel=1e-12)
    assert list(flow.norm_by_variable.values()) == pytest.approx(list(other.norm_by_variable.values()), rel=1e-12)


def test_masks_view():
    model = sparse_model()
    _, masks = dense_model(model)
    view = SparseLayers(model)
    assert view.names == ["first/values", "second/values"]
    assert (view.active(), view.sizes()) == (masks.active(), [240, 300])
    assert view.sparsity() == pytest.approx(masks.sparsity(), abs=1e-12)
    for indices, mask in zip(view.indices(), masks.values(), strict=True):
        np.testing.assert_array_equal(indices, np.flatnonzero(mask))
    assert "12x20" in view.report()
    assert "0.7500" in view.report()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SparseDense(0, 0.1), "from 1 to 10,000,000"),
        (lambda: SparseDense(5, 0.0), r"in \(0, 1\]"),
        (lambda: SparseDense(5, 0.1, scale=0), "positive"),
        (lambda: SparseDense(5, 0.1).build((None, None)), "has None inputs"),
        (lambda: SparseDense(10**6, 0.5).build((None, 10**6)), "lower the density"),
        (lambda: SparseLayers(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])), "no SparseDense layer"),
    ],
)
def test_invalid_input(make, message):
    with pytest.raises(sparse_lib.InputError, match=message):
        make()
