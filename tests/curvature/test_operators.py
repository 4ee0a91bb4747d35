"""Hessian operators against closed forms, finite differences and plain tapes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from sparse_lib._utils import distribute
from sparse_lib.curvature import Batches, Counted, GaussNewtonOperator, HessianOperator, Subspace, restricted, shifted
from sparse_lib.masks import Masks
from sparse_lib.objective import Objective
from tests.curvature.known import NETWORKS, dense, examples, finite_difference, network, plain_hessian
from tests.replicas import two_replicas


def hessian(model, data, batch_size=4, subspace=None, loss=None, training=False):
    objective = Objective(model, loss)
    subspace = subspace or Subspace.all(model)
    return HessianOperator(objective, objective.params(), Batches.of(data, batch_size), subspace, training=training)


class CountedLoss:
    """Cross-entropy that counts how often Python computes it, which a compiled graph does while it is traced."""

    def __init__(self):
        self.calls = 0

    def __call__(self, y, logits):
        self.calls += 1
        return tf.nn.sparse_softmax_cross_entropy_with_logits(tf.cast(y, tf.int32), logits)


def half_masks(model, seed=0):
    """Random masks of half of each kernel."""
    kernels = [v for v in model.trainable_variables if len(v.shape) > 1]
    rng = np.random.default_rng(seed)
    return Masks(kernels, [rng.random(k.shape) < 0.5 for k in kernels])


class Quadratic(keras.Model):
    """Returns its own weight for each example."""

    def __init__(self, size):
        super().__init__(dtype="float64")
        self.w = self.add_weight(shape=(size,), name="w", dtype="float64")
        self.built = True

    def call(self, x):
        return tf.zeros_like(x[:, :1]) + self.w.value


def linear(features, outputs, seed=0):
    """A dense layer in float64, features + 1 times outputs weights."""
    init = keras.initializers.GlorotNormal(seed=seed)
    layer = keras.layers.Dense(outputs, kernel_initializer=init, dtype="float64")
    model = keras.Sequential([keras.Input((features,), dtype="float64"), layer])
    model.layers[-1].bias.assign(np.random.default_rng(seed).normal(size=outputs))
    return model


def with_one(x):
    """The inputs and a one for the bias, [n, features + 1]."""
    return np.column_stack([x, np.ones(len(x))])


@pytest.mark.parametrize("batch_size", [2, 5])
def test_quadratic(batch_size):
    a = np.random.default_rng(0).normal(size=(6, 6))
    a = a + a.T
    operator = hessian(
        Quadratic(6), (np.zeros((5, 1)), np.zeros(5)), batch_size, loss=lambda _, w: tf.einsum("ni,ij,nj->n", w, a, w)
    )
    np.testing.assert_allclose(dense(operator), 2 * a, rtol=1e-14, atol=1e-14)


def test_linear_regression():
    x, y = np.random.default_rng(0).normal(size=(9, 4)), np.arange(9.0)
    operator = hessian(linear(4, 1), (x, y), loss=lambda y, z: 0.5 * (y - z[:, 0]) ** 2)
    np.testing.assert_allclose(dense(operator), with_one(x).T @ with_one(x) / 9, rtol=1e-13)


def test_logistic_regression():
    x, y = np.random.default_rng(0).normal(size=(9, 4)), np.arange(9) % 2
    model = linear(4, 1)
    operator = hessian(model, (x, y), loss=lambda y, z: tf.math.softplus(z[:, 0]) - tf.cast(y, z.dtype) * z[:, 0])
    s = 1 / (1 + np.exp(-np.asarray(model(x))[:, 0]))
    expected = (with_one(x) * (s * (1 - s))[:, None]).T @ with_one(x) / 9
    np.testing.assert_allclose(dense(operator), expected, rtol=1e-12)


@pytest.mark.parametrize("kind", [HessianOperator, GaussNewtonOperator])
def test_softmax_regression(kind):
    x, y = np.random.default_rng(0).normal(size=(9, 4)), np.arange(9) % 3
    model = linear(4, 3)
    objective = Objective(model)
    operator = kind(objective, objective.params(), Batches.of((x, y), 4), Subspace.all(model))
    p = np.asarray(tf.nn.softmax(model(x)))
    curvature = p[:, :, None] * (np.eye(3) - p[:, None, :])
    expected = np.einsum("na,nij,nb->aibj", with_one(x), curvature, with_one(x)).reshape(15, 15) / 9
    np.testing.assert_allclose(dense(operator), expected, rtol=1e-12, atol=1e-15)


LONG = ("attention and layer norm", "recurrent")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n in NETWORKS])
def test_products_are_differences_of_the_gradient(name):
    model = network(name)
    data = examples(model)
    operator = hessian(model, data, batch_size=11)
    directions = np.random.default_rng(1).normal(size=(operator.shape[0], 4))
    products = operator.matmat(directions)
    for direction, product in zip(directions.T, products.T, strict=True):
        expected = finite_difference(model, *data, direction)
        np.testing.assert_allclose(product, expected, atol=1e-7 * np.abs(expected).max())


def test_one_vector_and_several_have_the_same_products():
    model = network("convolutions and max-pooling")
    operator = hessian(model, examples(model), batch_size=11)
    vectors = np.random.default_rng(1).normal(size=(operator.shape[0], 5))
    products = operator.matmat(vectors)
    for vector, product in zip(vectors.T, products.T, strict=True):
        np.testing.assert_allclose(operator.matvec(vector), product, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["dense chain", pytest.param("convolutions and max-pooling", marks=pytest.mark.slow)])
def test_active_weights_have_the_rows_and_columns_of_the_dense_hessian(name):
    model = network(name)
    masks = half_masks(model)
    subspace = Subspace.active(model, masks)
    data = examples(model)
    active = subspace.gather([tf.ones(shape) for shape in subspace.shapes])
    chosen = np.concatenate([np.ravel(t) for t in subspace.scatter(active)]) > 0
    assert 0 < len(active) < len(chosen)
    expected = plain_hessian(model, *data)[np.ix_(chosen, chosen)]
    np.testing.assert_allclose(dense(hessian(model, data, 11, subspace)), expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("which", ["dense", "dense_1/kernel", "*/bias"])
def test_blocks_are_those_of_the_whole_matrix(which):
    model = keras.Sequential(
        [
            keras.Input((5,), dtype="float64"),
            keras.layers.Dense(4, "tanh", name="dense", dtype="float64"),
            keras.layers.Dense(3, name="dense_1", dtype="float64"),
        ]
    )
    subspace = Subspace.active(model, half_masks(model))
    operator = hessian(model, examples(model), subspace=subspace)
    whole = dense(operator)
    part = subspace.only(which)
    places = subspace.positions(part)
    block = operator.at(subspace=part)
    np.testing.assert_allclose(dense(block), whole[np.ix_(places, places)], rtol=1e-12, atol=1e-16)
    np.testing.assert_allclose(dense(restricted(operator, places)), whole[np.ix_(places, places)], rtol=1e-12)


@pytest.mark.parametrize("batch_size", [1, 4, 10])
def test_batches_of_any_size_make_one_mean(batch_size):
    model = network("dense chain")
    data = examples(model)
    vectors = np.random.default_rng(0).normal(size=(Subspace.all(model).size, 4))
    expected = hessian(model, data, 11).matmat(vectors)
    np.testing.assert_allclose(hessian(model, data, batch_size).matmat(vectors), expected, rtol=1e-10, atol=1e-14)


def test_float32_models_are_averaged_in_float64():
    model = network("dense chain", "float32")
    data = examples(model)
    wide = network("dense chain")
    wide.set_weights(model.get_weights())
    expected, found = dense(hessian(wide, data)), dense(hessian(model, data))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())
    assert np.abs(found - expected).max() > 0


def test_scipy_arithmetic():
    model = network("dense chain")
    operator = hessian(model, examples(model))
    matrix = dense(operator)
    n = len(matrix)
    np.testing.assert_allclose(dense(shifted(operator, 2.5)), matrix + 2.5 * np.eye(n), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(dense(3 * operator @ operator - operator), 3 * matrix @ matrix - matrix, atol=1e-12)
    np.testing.assert_allclose(operator.T.matvec(matrix[0]), operator.matvec(matrix[0]))
    np.testing.assert_allclose(operator.rmatmat(matrix[:, :2]), operator.matmat(matrix[:, :2]))
    assert operator.matmat(np.zeros((n, 0))).shape == (n, 0)


def test_counted_products():
    model = network("dense chain")
    seen = []
    counted = Counted(hessian(model, examples(model)), seen.append)
    matrix = counted.matmat(np.eye(counted.shape[0]))
    counted.matvec(matrix[0])
    n = len(matrix)
    assert seen == [n, n + 1]
    assert counted.products == n + 1


def test_elsewhere_with_the_same_graph():
    model = network("dense chain")
    data = examples(model)
    masks = half_masks(model)
    loss = CountedLoss()
    operator = hessian(model, data, subspace=Subspace.active(model, masks), loss=loss)
    vector = np.random.default_rng(0).normal(size=operator.shape[0])
    operator.matvec(vector)
    traced = loss.calls
    assert traced
    masks.assign([~mask.numpy() for mask in masks.values()])
    model.set_weights([w + 0.1 for w in model.get_weights()])
    masks.project()
    subspace, objective = Subspace.active(model, masks), Objective(model)
    moved = operator.at(objective.params(), subspace=subspace)
    expected = hessian(model, data, subspace=subspace)
    vector = np.random.default_rng(1).normal(size=subspace.size)
    np.testing.assert_array_equal(moved.matvec(vector), expected.matvec(vector))
    assert loss.calls == traced
    assert operator.shape[0] != moved.shape[0] == subspace.size


def test_a_subspace_of_another_model(tiny_model):
    model = network("dense chain")
    operator = hessian(model, examples(model))
    other = Subspace.all(tiny_model("mlp"))
    with pytest.raises(ValueError, match="of other shapes"):
        hessian(model, examples(model), subspace=other)
    with pytest.raises(ValueError, match="of other shapes"):
        operator.at(subspace=other)


def test_few_graphs_serve_any_number_of_vectors():
    model = network("dense chain")
    loss = CountedLoss()
    operator = hessian(model, tuple(part[:4] for part in examples(model)), batch_size=4, loss=loss)
    operator.matvec(np.ones(operator.shape[0]))
    once = loss.calls
    operator = hessian(model, examples(model), batch_size=4, loss=loss)
    loss.calls = 0
    for k in range(1, 11):
        operator.matmat(np.eye(operator.shape[0], k))
    # Two shapes of batches, four vectors or one.
    assert 0 < loss.calls <= 4 * once


@pytest.mark.parametrize("training", [False, True])
def test_state_stays(training):
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.Conv2D(2, 3),
            keras.layers.BatchNormalization(),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.4, seed=3),
            keras.layers.Dense(3),
        ]
    )
    assert any("seed" in v.path for v in model.variables)
    masks = half_masks(model)
    state = [*model.variables, *masks.variables_by_kernel]
    before = [v.numpy() for v in state]
    operator = hessian(model, examples(model), subspace=Subspace.active(model, masks), training=training)
    vector = np.ones(operator.shape[0])
    first = operator.matvec(vector)
    for v, old in zip(state, before, strict=True):
        np.testing.assert_array_equal(v.numpy(), old)
    np.testing.assert_array_equal(operator.matvec(vector), first)


def normalised(seed=0):
    """A small model with batch norm."""
    keras.utils.set_random_seed(seed)
    parts = [
        keras.layers.Dense(4, dtype="float64"),
        keras.layers.BatchNormalization(dtype="float64"),
        keras.layers.Dense(3, dtype="float64"),
    ]
    return keras.Sequential([keras.Input((5,), dtype="float64"), *parts])


@pytest.mark.parametrize(("batch_size", "training"), [(4, False), (11, False), (4, True)])
def test_two_replicas_give_the_vectors_of_one_device(batch_size, training):
    def operator():
        model = normalised()
        return hessian(model, examples(model), batch_size, training=training)

    strategy = two_replicas()
    with strategy.scope():
        shared = operator()
    alone = operator()
    assert distribute.owner(shared.objective.model.variables[0].value) is strategy
    vector = np.random.default_rng(0).normal(size=alone.shape[0])
    expected = alone.matvec(vector)
    # The model knows where it lives, also outside of the strategy's scope.
    np.testing.assert_allclose(shared.matvec(vector), expected, rtol=1e-11, atol=1e-15)
    with strategy.scope():
        np.testing.assert_allclose(shared.matvec(vector), expected, rtol=1e-11, atol=1e-15)


def test_replicas_share_the_work():
    replicas = []

    class Noted(keras.layers.Layer):
        def call(self, x):
            if context := tf.distribute.get_replica_context():
                replicas.append(int(tf.get_static_value(context.replica_id_in_sync_group)))
            return x

    with two_replicas().scope():
        model = keras.Sequential([keras.Input((4,)), Noted(), keras.layers.Dense(3)])
        operator = hessian(model, examples(model), 3)
        replicas.clear()
        operator.matvec(np.ones(operator.shape[0]))
    assert set(replicas) == {0, 1}
