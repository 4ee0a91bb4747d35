"""What two passes over the data agree on, and what they refuse."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from sparse_lib.curvature import Batches, consistency
from sparse_lib.objective import Objective
from tests.curvature.known import examples, flat_gradient, mean_cross_entropy, network

layers = keras.layers


def check(model, data, batch_size=4, training=False):
    objective = Objective(model)
    return consistency(objective, objective.params(), Batches.of(data, batch_size), training=training)


def small(*inside, features=5):
    return keras.Sequential([keras.Input((features,)), layers.Dense(8), *inside, layers.Dense(3)])


def test_loss_and_gradient_of_the_whole_data_set():
    model = network("dense chain")
    data = examples(model)
    loss, gradient = check(model, data)
    assert loss == pytest.approx(float(mean_cross_entropy(model, *data)), rel=1e-13)
    assert all(g.dtype == tf.float64 for g in gradient)
    np.testing.assert_allclose(np.concatenate([np.ravel(g) for g in gradient]), flat_gradient(model, *data), atol=1e-14)


def test_a_minimum_where_gradients_of_batches_cancel_passes():
    model = keras.Sequential([keras.Input((5,)), layers.Dense(2, kernel_initializer="zeros")])
    x = np.repeat(np.random.default_rng(0).normal(size=(8, 5)), 2, axis=0).astype("float32")
    dataset = tf.data.Dataset.from_tensor_slices((x, np.arange(16) % 2)).shuffle(16, seed=1)
    loss, gradient = check(model, dataset.batch(3))
    assert loss == pytest.approx(np.log(2), rel=1e-6)
    assert tf.linalg.global_norm(gradient) < 1e-7


def test_an_order_that_changes_does_not_matter_to_a_mean():
    model = small()
    x, y = examples(model, n=30)
    check(model, tf.data.Dataset.from_tensor_slices((x, y)).shuffle(30).batch(4))


class Noise(layers.Layer):
    def call(self, x):
        return x * tf.random.uniform(tf.shape(x))


def augmented(x, y):
    rng = np.random.default_rng(0)
    spec = tf.TensorSpec([None, 5], tf.float32), tf.TensorSpec([None], tf.int64)
    return tf.data.Dataset.from_generator(lambda: iter([(x + rng.normal(size=x.shape), y)]), output_signature=spec)


def subset(x, y):
    return tf.data.Dataset.from_tensor_slices((x, y)).shuffle(30).take(20).batch(4)


@pytest.mark.parametrize("source", [augmented, subset])
def test_data_that_change(source):
    model = small()
    with pytest.raises(ValueError, match="Two passes over the data differ.*shuffled or augmented dataset"):
        check(model, source(*examples(model, n=30)))


def test_a_layer_that_draws_random_numbers():
    model = small(Noise())
    with pytest.raises(ValueError, match="Two passes.*dropout"):
        check(model, examples(model))


def test_batch_norm_in_training_on_shuffled_batches():
    model = small(layers.BatchNormalization(), layers.ReLU())
    x, y = examples(model, n=30)
    shuffled = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(30).batch(4)
    check(model, shuffled)
    check(model, (x, y), training=True)
    with pytest.raises(ValueError, match="batch norm in training mode"):
        check(model, shuffled, training=True)


def test_dropout_of_keras_is_one_fixed_network():
    model = small(layers.Dropout(0.5, seed=1))
    check(model, examples(model), training=True)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_that_is_not_finite(value):
    model = small()
    model.set_weights([np.full_like(w, value) for w in model.get_weights()])
    with pytest.raises(ValueError, match="The loss is (nan|inf).*before training diverged"):
        check(model, examples(model))
