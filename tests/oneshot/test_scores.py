"""Tests of the saliency scores against closed forms, dense Hessians and finite differences."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from sparse_lib.objective import Objective
from sparse_lib.oneshot import scores

KERNELS = (0, 2)  # of kernel, bias, kernel, bias


class Regression:
    """L(w) = mean_n (x_n w - y_n)^2 / 2 in float64, with derivatives by hand."""

    def gradient(self, params, x, y):
        residual = tf.linalg.matvec(x, params[0]) - y
        return [tf.linalg.matvec(x, residual, transpose_a=True) / len(x)]

    def hvp(self, params, x, y, vectors):
        product = tf.linalg.matvec(x, vectors[0])
        return [tf.linalg.matvec(x, product, transpose_a=True) / len(x)]


def regression_data(n=12, features=4):
    rng = np.random.default_rng(3)
    return rng.normal(size=(n, features)), rng.normal(size=n), rng.normal(size=features)


def split(x, y, sizes):
    """The same examples in batches of the given sizes."""
    places = np.cumsum(sizes)[:-1]
    return list(zip(np.split(x, places), np.split(y, places), strict=True))


def network():
    """A smooth float64 network with biases, its parameters and data."""
    init = [keras.initializers.GlorotNormal(seed=i) for i in range(4)]
    model = keras.Sequential(
        [
            keras.Input((4,), dtype="float64"),
            keras.layers.Dense(3, "tanh", dtype="float64", kernel_initializer=init[0]),
            keras.layers.Dense(3, dtype="float64", kernel_initializer=init[1]),
        ]
    )
    model.layers[0].bias.assign([0.3, -0.2, 0.1])
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(10, 4)), rng.integers(0, 3, 10)
    return Objective(model), [tf.convert_to_tensor(v) for v in model.trainable_variables], x, y


def slopes_by_mask(function, params, step=1e-5):
    """d function(m * w) / dm at m = 1 by central differences, for every weight of every kernel."""
    found = []
    for i in KERNELS:
        slope = np.zeros(params[i].shape)
        for place in np.ndindex(*slope.shape):
            ends = []
            for sign in (1, -1):
                mask = np.ones(slope.shape)
                mask[place] += sign * step
                moved = list(params)
                moved[i] = params[i] * mask
                ends.append(float(function(moved)))
            slope[place] = (ends[0] - ends[1]) / (2 * step)
        found.append(slope)
    return found


def flat(tensors):
    return np.concatenate([np.ravel(t) for t in tensors])


def test_magnitude_is_the_absolute_weight_of_the_chosen_kernels():
    params = [tf.constant([[-2.0, 0.5]]), tf.constant([9.0]), tf.constant([-0.0, 3.0, -1.0])]
    first, second = scores.magnitude(params, [0, 2])
    np.testing.assert_array_equal(first, [[2.0, 0.5]])
    np.testing.assert_array_equal(second, [0.0, 3.0, 1.0])


def test_random_is_a_function_of_seed_and_kernel():
    params = [tf.zeros((50, 40))] * 3
    first, second = scores.random(params, [0, 2], seed=5)
    again = scores.random([p + 7 for p in params], [0, 2], seed=5)
    np.testing.assert_array_equal(first, again[0])
    np.testing.assert_array_equal(second, again[1])
    assert abs(np.corrcoef(np.ravel(first), np.ravel(second))[0, 1]) < 0.1
    other = scores.random(params, [0], seed=2**40)[0]
    assert abs(np.corrcoef(np.ravel(first), np.ravel(other))[0, 1]) < 0.1
    histogram = np.histogram(first, bins=10, range=(0, 1))[0]
    assert histogram.sum() == 2000
    assert histogram.min() > 140


@pytest.mark.parametrize("sizes", [(12,), (4, 4, 4), (1, 11), (7, 2, 3)])
def test_regression_scores_equal_their_closed_forms_however_the_data_are_split(sizes):
    x, y, w = regression_data()
    gradient = x.T @ (x @ w - y) / 12
    product = (x.T @ x / 12) @ gradient
    batches = split(x, y, sizes)
    (found,) = scores.snip(Regression(), [tf.constant(w)], [0], batches)
    sensitivity = np.abs(gradient * w)
    np.testing.assert_allclose(found, sensitivity / sensitivity.sum(), rtol=1e-12)
    (found,) = scores.grasp(Regression(), [tf.constant(w)], [0], batches)
    np.testing.assert_allclose(found, w * product, rtol=1e-12)
    (found,) = scores.mean_gradient(Regression(), [tf.constant(w)], batches)
    np.testing.assert_allclose(found, gradient, rtol=1e-12)


def test_snip_is_the_slope_of_the_loss_by_the_mask():
    objective, params, x, y = network()
    slopes = slopes_by_mask(lambda p: objective.mean_loss(p, x, y), params)
    truth = np.abs(flat(slopes))
    found = scores.snip(objective, params, KERNELS, split(x, y, (3, 7)))
    assert [tuple(f.shape) for f in found] == [(4, 3), (3, 3)]
    np.testing.assert_allclose(flat(found), truth / truth.sum(), atol=1e-9)
    assert flat(found).sum() == pytest.approx(1)


def test_snip_without_any_gradient_is_zero_and_not_nan():
    x, _, w = regression_data()
    (found,) = scores.snip(Regression(), [tf.constant(w)], [0], [(0 * x, np.ones(12))])
    np.testing.assert_array_equal(found, 0)


def test_grasp_is_half_the_slope_of_the_gradient_flow_by_the_mask():
    objective, params, x, y = network()

    def gradient_flow(values):
        gradient = objective.gradient(values, x, y)
        return sum(tf.reduce_sum(gradient[i] ** 2) for i in KERNELS)

    slopes = slopes_by_mask(gradient_flow, params)
    found = scores.grasp(objective, params, KERNELS, split(x, y, (3, 7)))
    np.testing.assert_allclose(flat(found), flat(slopes) / 2, atol=1e-9)


def test_grasp_equals_the_dense_hessian_of_the_kernels():
    objective, params, x, y = network()
    sizes = [int(tf.size(params[i])) for i in KERNELS]

    def kernel_gradient(vector):
        values = list(params)
        for i, part in zip(KERNELS, np.split(vector, np.cumsum(sizes)[:-1]), strict=True):
            values[i] = tf.reshape(tf.constant(part), params[i].shape)
        gradient = objective.gradient(values, x, y)
        return flat([gradient[i] for i in KERNELS])

    weights = flat([params[i] for i in KERNELS])
    step = 1e-5
    hessian = np.stack(
        [
            (kernel_gradient(weights + step * unit) - kernel_gradient(weights - step * unit)) / (2 * step)
            for unit in np.eye(len(weights))
        ]
    )
    found = scores.grasp(objective, params, KERNELS, [(x, y)])
    truth = weights * (hessian @ kernel_gradient(weights))
    np.testing.assert_allclose(flat(found), truth, atol=1e-9)
    assert truth.min() < -1e-3 < 1e-3 < truth.max()


def test_removing_the_lowest_grasp_score_gains_gradient_flow():
    # L = (a^2 + 1.8 a b + 4 b^2) / 2 at (1, -0.5): g = (0.55, -1.1), H g = (-0.44, -3.905). Without
    # a, g^T g rises from 1.5125 to 4.2025; without b, only to 1.81.
    matrix = np.array([[1.0, 0.9], [0.9, 4.0]])
    x = np.linalg.cholesky(2 * matrix).T
    weights = tf.constant([1.0, -0.5], tf.float64)
    (found,) = scores.grasp(Regression(), [weights], [0], [(x, np.zeros(2))])
    np.testing.assert_allclose(found, [-0.44, 1.9525], rtol=1e-12)


def chain(widths=(4, 6, 5, 3)):
    rng = np.random.default_rng(1)
    return [tf.constant(rng.normal(size=s)) for s in itertools.pairwise(widths)]


def chain_flow(params):
    signal = tf.ones((1, params[0].shape[0]), params[0].dtype)
    for kernel in params:
        signal = signal @ kernel
    return tf.reduce_sum(signal)


def test_synflow_equals_the_sum_over_paths():
    params = chain()
    a, b, c = (np.abs(p) for p in params)
    paths = np.einsum("ij,jk,kl->ijkl", a, b, c)
    found = scores.synflow(chain_flow, params, range(3))
    np.testing.assert_allclose(found[0], paths.sum((2, 3)) / paths.sum(), rtol=1e-12)
    np.testing.assert_allclose(found[1], paths.sum((0, 3)) / paths.sum(), rtol=1e-12)
    np.testing.assert_allclose(found[2], paths.sum((0, 1)) / paths.sum(), rtol=1e-12)


def test_synflow_is_conserved_over_layers_and_units():
    params = [tf.where(tf.abs(p) > 0.4, p, tf.zeros_like(p)) for p in chain()]
    found = scores.synflow(chain_flow, params, range(3))
    for layer in found:
        assert float(tf.reduce_sum(layer)) == pytest.approx(1, rel=1e-12)
    for before, after in itertools.pairwise(found):
        np.testing.assert_allclose(tf.reduce_sum(before, 0), tf.reduce_sum(after, 1), atol=1e-15)


def test_synflow_scores_only_the_chosen_kernels_and_survives_a_dead_network():
    params = chain()
    (middle,) = scores.synflow(chain_flow, params, [1])
    np.testing.assert_array_equal(middle, scores.synflow(chain_flow, params, range(3))[1])
    params[1] = tf.zeros_like(params[1])
    for layer in scores.synflow(chain_flow, params, range(3)):
        np.testing.assert_array_equal(layer, 0)


@pytest.mark.parametrize("score", [scores.snip, scores.grasp])
@pytest.mark.parametrize("batches", [[], [(np.zeros((0, 4)), np.zeros(0))]])
def test_no_examples_are_refused(score, batches):
    with pytest.raises(ValueError, match="at least one batch"):
        score(Regression(), [tf.ones(4, tf.float64)], [0], batches)
