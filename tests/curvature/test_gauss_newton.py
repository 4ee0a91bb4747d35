"""Gauss-Newton and Fisher matrices against Jacobians written out."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from sparse_lib.curvature import Batches, FisherOperator, GaussNewtonOperator, Subspace
from sparse_lib.objective import Objective
from tests.curvature.known import dense, examples, network
from tests.replicas import two_replicas

SMALL = "dense chain"


def build(kind, model, data, batch_size=11, loss=None, **options):
    objective = Objective(model, loss)
    return kind(objective, objective.params(), Batches.of(data, batch_size), Subspace.all(model), **options)


def jacobian(model, x):
    """d outputs / d weights by a plain tape, [examples, outputs, weights]."""
    with tf.GradientTape(persistent=True) as tape:
        outputs = model(x, training=False)
    parts = tape.jacobian(outputs, [v.value for v in model.trainable_variables], experimental_use_pfor=False)
    return np.concatenate([np.reshape(part, (*outputs.shape, -1)) for part in parts], axis=-1)


def sandwich(j, middle):
    """Mean over examples of J^T M J."""
    return np.einsum("nap,nab,nbq->pq", j, middle, j) / len(j)


def softmax(model, x):
    return np.asarray(tf.nn.softmax(model(x)))


def softmax_hessian(p):
    return p[:, :, None] * (np.eye(p.shape[1]) - p[:, None, :])


@pytest.mark.parametrize(
    "name", [SMALL, "convolutions and max-pooling", pytest.param("attention and layer norm", marks=pytest.mark.slow)]
)
def test_gauss_newton_of_cross_entropy(name):
    model = network(name)
    x, y = examples(model)
    operator = build(GaussNewtonOperator, model, (x, y))
    expected = sandwich(jacobian(model, x), softmax_hessian(softmax(model, x)))
    vectors = np.random.default_rng(0).normal(size=(len(expected), 4))
    np.testing.assert_allclose(operator.matmat(vectors), expected @ vectors, rtol=1e-9, atol=1e-12)


def test_gauss_newton_of_any_convex_loss_over_uneven_batches():
    model = network(SMALL)
    x, _ = examples(model)
    targets = np.random.default_rng(1).normal(size=(len(x), 3))
    operator = build(
        GaussNewtonOperator, model, (x, targets), 4, loss=lambda y, z: tf.reduce_sum(tf.cosh(z - y), axis=1)
    )
    middle = np.cosh(np.asarray(model(x)) - targets)[:, :, None] * np.eye(3)
    np.testing.assert_allclose(dense(operator), sandwich(jacobian(model, x), middle), rtol=1e-10, atol=1e-14)


def test_gauss_newton_is_semidefinite():
    model = network(SMALL)
    matrix = dense(build(GaussNewtonOperator, model, examples(model)))
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-15)
    assert np.linalg.eigvalsh(matrix)[0] > -1e-14


@pytest.mark.parametrize("form", ["indices", "column", "one-hot"])
def test_fisher_with_the_labels_of_the_model(form):
    model = network(SMALL)
    x, y = examples(model)
    labels = {"indices": y, "column": y[:, None], "one-hot": np.eye(3)[y]}[form]
    loss = (
        keras.losses.CategoricalCrossentropy(from_logits=True, reduction=None, dtype="float64")
        if form == "one-hot"
        else None
    )
    p = softmax(model, x)
    scores = p[:, None, :] - np.eye(3)
    middle = np.einsum("nc,nca,ncb->nab", p, scores, scores)
    found = dense(build(FisherOperator, model, (x, labels), loss=loss))
    np.testing.assert_allclose(found, sandwich(jacobian(model, x), middle), rtol=1e-10, atol=1e-14)


def test_empirical_fisher():
    model = network(SMALL)
    x, y = examples(model)
    gradients = np.einsum("nap,na->np", jacobian(model, x), softmax(model, x) - np.eye(3)[y])
    found = dense(build(FisherOperator, model, (x, y), 4, labels="data"))
    np.testing.assert_allclose(found, gradients.T @ gradients / len(x), rtol=1e-10, atol=1e-14)


def test_empirical_fisher_of_squared_error():
    model = network(SMALL)
    x, _ = examples(model)
    targets = np.random.default_rng(1).normal(size=(len(x), 3))
    loss = keras.losses.MeanSquaredError(reduction=None, dtype="float64")
    gradients = np.einsum("nap,na->np", jacobian(model, x), 2 / 3 * (np.asarray(model(x)) - targets))
    found = dense(build(FisherOperator, model, (x, targets), loss=loss, labels="data"))
    np.testing.assert_allclose(found, gradients.T @ gradients / len(x), rtol=1e-10, atol=1e-14)


def test_sampled_fisher_is_a_function_of_its_seed_and_right_on_average():
    model = network(SMALL)
    data = examples(model)
    exact = dense(build(FisherOperator, model, data))

    def sampled(**options):
        return dense(build(FisherOperator, model, data, labels="sampled", **options))

    np.testing.assert_array_equal(sampled(seed=3), sampled(seed=3))
    assert np.abs(sampled(seed=3) - sampled(seed=4)).max() > 0
    error = {samples: np.linalg.norm(sampled(samples=samples) - exact) for samples in (4, 400)}
    # A hundred times the samples, a tenth of the error.
    assert 4 < error[4] / error[400] < 25
    assert error[400] < 0.1 * np.linalg.norm(exact)


def test_sampled_labels_are_those_of_a_sampled_matrix():
    # With one example of one weight the matrix is a mean of squares of the classes' scores.
    model = keras.Sequential(
        [keras.Input((1,), dtype="float64"), keras.layers.Dense(2, use_bias=False, dtype="float64")]
    )
    model.set_weights([np.array([[0.7, -0.4]])])
    p = softmax(model, np.ones((1, 1)))[0]
    operator = build(FisherOperator, model, (np.ones((1, 1)), np.zeros(1, int)), labels="sampled", samples=2000)
    # E (p - y)^2 with y ~ p, whose mean over draws is (1 - 2 p) (draws of it / all) + p^2.
    share = (dense(operator)[0, 0] - p[0] ** 2) / (1 - 2 * p[0])
    assert abs(share - p[0]) < 4 * np.sqrt(p[0] * p[1] / 2000)


@pytest.mark.parametrize(("kind", "options"), [(GaussNewtonOperator, {}), (FisherOperator, {"labels": "sampled"})])
def test_two_replicas_give_the_vector_of_one_device(kind, options):
    def operator():
        model = network(SMALL)
        return build(kind, model, examples(model), 4, **options)

    with two_replicas().scope():
        shared = operator()
    alone = operator()
    vector = np.random.default_rng(0).normal(size=alone.shape[0])
    np.testing.assert_allclose(shared.matvec(vector), alone.matvec(vector), rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize(("kind", "options"), [(GaussNewtonOperator, {}), (FisherOperator, {"labels": "model"})])
def test_layers_in_bfloat16(kind, options):
    model, wide = network(SMALL, "mixed_bfloat16"), network(SMALL)
    wide.set_weights(model.get_weights())
    data = examples(wide)
    expected = dense(build(kind, wide, data, **options))
    np.testing.assert_allclose(dense(build(kind, model, data, **options)), expected, atol=0.05 * np.abs(expected).max())


@pytest.mark.parametrize("labels", ["model", "sampled"])
def test_squared_error_has_no_labels_of_the_model(labels):
    model = network(SMALL)
    x, y = examples(model)
    loss = keras.losses.MeanSquaredError(reduction=None)
    with pytest.raises(ValueError, match="not the cross-entropy"):
        build(FisherOperator, model, (x, np.eye(3)[y]), loss=loss, labels=labels)


@pytest.mark.parametrize("options", [{"labels": "true"}, {"labels": "sampled", "samples": 0}])
def test_unusable_options(options):
    model = network(SMALL)
    with pytest.raises(ValueError, match="labels must be one of model, sampled, data and samples at least 1"):
        build(FisherOperator, model, examples(model), **options)


def test_losses_that_are_averaged():
    model = network(SMALL)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True).__call__
    with pytest.raises(ValueError, match="one value per example"):
        build(GaussNewtonOperator, model, examples(model), loss=loss).matvec(np.zeros(39))


def test_models_of_several_outputs():
    inputs = keras.Input((5,), dtype="float64")
    model = keras.Model(inputs, [keras.layers.Dense(2)(inputs), keras.layers.Dense(3)(inputs)])
    data = np.zeros((4, 5)), np.zeros(4, int)
    loss = lambda _, outputs: outputs[0][:, 0]  # noqa: E731
    with pytest.raises(ValueError, match="several outputs"):
        build(GaussNewtonOperator, model, data, loss=loss).matvec(np.zeros(30))
