"""Batch-norm statistics of weights that were never trained, against numpy and against Keras' own training."""

import keras
import numpy as np
import pytest

from sparse_lib.landscape import batch_norm
from sparse_lib.landscape.batch_norm import BatchNormEstimator

EPSILON = 1e-3


def make_model(**norm):
    """Dense, norm, ReLU, dense, norm: the second norm sees what the first one made of its batch."""
    layers = [
        keras.Input((4,)),
        keras.layers.Dense(3, kernel_initializer=keras.initializers.GlorotUniform(seed=1)),
        keras.layers.BatchNormalization(epsilon=EPSILON, **norm),
        keras.layers.ReLU(),
        keras.layers.Dense(2, kernel_initializer=keras.initializers.GlorotUniform(seed=2)),
        keras.layers.BatchNormalization(epsilon=EPSILON, **norm),
    ]
    return keras.Sequential(layers)


@pytest.fixture
def batches():
    return np.random.default_rng(0).normal(1.0, 2.0, (3, 16, 4)).astype(np.float32)


def weights(model, seed=3):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=v.shape).astype(np.float32) for v in model.trainable_variables]


def by_hand(values, batch):
    """Mean and variance before each norm, for one batch; values are W1, b1, gamma1, beta1, W2, b2, gamma2, beta2."""
    w1, b1, gamma, beta, w2, b2, *_ = (v.astype(np.float64) for v in values)
    first = batch @ w1 + b1
    hidden = np.maximum(gamma * (first - first.mean(0)) / np.sqrt(first.var(0) + EPSILON) + beta, 0)
    second = hidden @ w2 + b2
    return first.mean(0), first.var(0), second.mean(0), second.var(0)


def test_statistics_are_the_average_over_batches_by_hand(batches):
    model = make_model()
    values = weights(model)
    found = BatchNormEstimator(model)(values, batches)
    each = [by_hand(values, batch.astype(np.float64)) for batch in batches]
    for estimate, expected in zip(found, (np.mean(part, axis=0) for part in zip(*each, strict=True)), strict=True):
        assert estimate.dtype == np.float32
        np.testing.assert_allclose(estimate, expected, rtol=1e-5, atol=1e-6)


def test_one_batch_is_what_keras_tends_to_in_training(batches):
    model = make_model(momentum=0.5)
    values = [v.numpy() for v in model.trainable_variables]
    found = BatchNormEstimator(model)(values, batches[:1])
    for _ in range(40):
        model(batches[0], training=True)
    for estimate, variable in zip(found, batch_norm.statistics(model), strict=True):
        np.testing.assert_allclose(estimate, variable.numpy(), rtol=1e-6, atol=1e-7)


def test_nothing_of_the_model_moves(batches):
    model = make_model(momentum=0.9)
    before = [v.numpy().copy() for v in model.variables]
    BatchNormEstimator(model)(weights(model), batches)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    assert [layer.momentum for layer in batch_norm.norm_layers(model)] == [0.9, 0.9]


def test_what_training_left_behind_does_not_count(batches):
    model, other = make_model(), make_model()
    for variable in batch_norm.statistics(other):
        variable.assign(variable + 7.0)
    values = weights(model)
    for one, two in zip(
        BatchNormEstimator(model)(values, batches), BatchNormEstimator(other)(values, batches), strict=True
    ):
        np.testing.assert_array_equal(one, two)


def test_a_frozen_norm_keeps_its_statistics(batches):
    model = make_model()
    first, second = batch_norm.norm_layers(model)
    first.trainable = False
    assert batch_norm.norm_layers(model) == [second]
    assert len(BatchNormEstimator(model)([v.numpy() for v in model.trainable_variables], batches)) == 2


def test_convolutions_share_a_statistic_over_places():
    model = keras.Sequential([keras.Input((5, 5, 2)), keras.layers.BatchNormalization()])
    images = np.random.default_rng(0).normal(size=(2, 8, 5, 5, 2)).astype(np.float32)
    mean, variance = BatchNormEstimator(model)([v.numpy() for v in model.trainable_variables], images)
    np.testing.assert_allclose(mean, images.mean((0, 1, 2, 3)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(variance, np.mean([batch.var((0, 1, 2)) for batch in images], axis=0), rtol=1e-5)


def test_a_nested_model(batches):
    inner = make_model()
    model = keras.Sequential([keras.Input((4,)), inner, keras.layers.Dense(2)])
    values = [v.numpy() for v in model.trainable_variables]
    nested, plain = BatchNormEstimator(model)(values, batches), BatchNormEstimator(inner)(values[:8], batches)
    for one, two in zip(nested, plain, strict=True):
        np.testing.assert_array_equal(one, two)


def test_without_norms_there_is_nothing_to_estimate(tiny_model):
    assert batch_norm.statistics(tiny_model()) == []


def test_without_data_there_is_no_estimate():
    model = make_model()
    with pytest.raises(ValueError, match="give at least one batch"):
        BatchNormEstimator(model)(weights(model), [])
