"""MetaInit against finite differences, and what it must and must not change."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from sparse_lib import gradient_flow, metainit
from sparse_lib.objective import Objective

_LAYERS = keras.layers


def _mlp(activation="relu", dtype="float32", units=(20, 16)):
    layers = [_LAYERS.Dense(n, activation=activation, dtype=dtype) for n in units]
    return keras.Sequential([keras.Input((12,)), *layers, _LAYERS.Dense(4, dtype=dtype)])


def _convnet():
    return keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            _LAYERS.Conv2D(4, 3, activation="relu"),
            _LAYERS.MaxPool2D(2),
            _LAYERS.Conv2D(5, 2, activation="relu"),
            _LAYERS.Flatten(),
            _LAYERS.Dense(3),
        ]
    )


def _masks(model, density, seed=0):
    rng = np.random.default_rng(seed)
    return [tf.constant(rng.random(v.shape) < density) if len(v.shape) > 1 else None for v in model.trainable_variables]


def _batch(model, n, seed, classes):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, *model.input_shape[1:]))
    return x.astype(model.compute_dtype), rng.integers(0, classes, n)


def _scaled_model(build, factors):
    """A model whose kernels are multiplied by factors."""
    keras.utils.set_random_seed(3)
    model = build()
    kernels = [v for v in model.trainable_variables if len(v.shape) > 1]
    for kernel, factor in zip(kernels, factors, strict=True):
        kernel.assign(kernel * factor)
    return model


def _difference_quotient(params, masks, x, y, epsilon):
    """The gradient quotient of a tanh network with one hidden layer, from its loss alone."""
    active = [np.ones(p.shape, bool) if m is None else m.numpy() for p, m in zip(params, masks, strict=True)]
    places = np.concatenate([m.ravel() for m in active])
    flat = np.where(places, np.concatenate([p.ravel() for p in params]), 0)
    splits = np.cumsum([p.size for p in params])[:-1]

    def loss(theta):
        full = flat.copy()
        full[places] = theta
        parts = zip(np.split(full, splits), params, strict=True)
        w1, b1, w2, b2 = (part.reshape(p.shape) for part, p in parts)
        logits = np.tanh(x @ w1 + b1) @ w2 + b2
        log_sum = np.log(np.exp(logits).sum(axis=1))
        return np.mean(log_sum - logits[np.arange(len(y)), y])

    def derivative(function, theta, direction, h):
        # Fourth-order central difference.
        near = function(theta + h * direction) - function(theta - h * direction)
        far = function(theta + 2 * h * direction) - function(theta - 2 * h * direction)
        return (8 * near - far) / (12 * h)

    def gradient(theta):
        return np.array([derivative(loss, theta, e, 2e-3) for e in np.eye(theta.size)])

    theta = flat[places]
    g = gradient(theta)
    product = derivative(gradient, theta, g, 2e-3)
    return np.mean(np.abs((g - product) / (g + epsilon * np.where(g >= 0, 1, -1)) - 1))


@pytest.mark.parametrize("density", [None, 0.6])
@pytest.mark.parametrize("epsilon", [1e-5, 1e-2])
def test_quotient_equals_finite_differences(density, epsilon):
    keras.utils.set_random_seed(1)
    model = _mlp("tanh", "float64", units=(5,))
    masks = _masks(model, density) if density else [None] * 4
    params = [v.numpy() for v in model.trainable_variables]
    # Nonzero biases, and garbage off the mask that must not count.
    params = [p + np.random.default_rng(p.size).normal(size=p.shape) for p in params]
    x, y = _batch(model, 20, 2, 4)
    masked = [p if m is None else p * m.numpy() for p, m in zip(params, masks, strict=True)]
    found = metainit.gradient_quotient(Objective(model), masked, masks, x, y, epsilon=epsilon)
    assert found.dtype == tf.float64
    truth = _difference_quotient(params, masks, x, y, epsilon)
    assert float(found) == pytest.approx(truth, rel=1e-4)


def test_quotient_of_a_quadratic_by_hand():
    # One weight w with loss (w x - y)^2 / 2: g = (w x - y) x, H g / g = x^2.
    model = keras.Sequential([keras.Input((1,)), _LAYERS.Dense(1, use_bias=False)])
    objective = Objective(model, lambda y, out: tf.square(out[:, 0] - y) / 2)
    quotient = metainit.gradient_quotient(
        objective, [tf.constant([[2.0]])], [None], tf.constant([[3.0]]), tf.constant([1.0])
    )
    assert float(quotient) == pytest.approx(9.0, rel=1e-5)


@pytest.mark.parametrize("density", [None, 0.6])
def test_slope_by_the_norms_equals_finite_differences_of_the_quotient(density):
    keras.utils.set_random_seed(1)
    model = _mlp("tanh", "float64", units=(5,))
    masks = _masks(model, density) if density else [None] * 4
    objective = Objective(model)
    kernels = metainit.KernelNorms(gradient_flow.apply_masks(objective.params(), masks))
    x, y = _batch(model, 20, 2, 4)
    slope_of = metainit.norm_slope(objective, kernels, masks, 1e-2)

    def quotient(norms):
        params = kernels.rescale(tf.constant(norms, tf.float64))
        value = metainit.gradient_quotient(objective, params, masks, x, y, epsilon=1e-2)
        return float(value)

    norms = kernels.start.numpy().astype(np.float64)
    slope = slope_of(tf.constant(norms), tf.constant(x), tf.constant(y)).numpy()
    h = 1e-6
    truth = [(quotient(norms + h * e) - quotient(norms - h * e)) / (2 * h) for e in np.eye(2)]
    np.testing.assert_allclose(slope, truth, rtol=1e-6)


_BADLY_SCALED = {
    "mlp-large": (_mlp, (4.0, 3.0, 5.0), 4, 0.9, 200),
    "mlp-sparse": (_mlp, (8.0, 6.0, 10.0), 4, 0.4, 100),
    "convnet-large": (_convnet, (3.0, 4.0, 3.0), 3, 0.7, 60),
}


_CASES = [pytest.param(case, marks=[pytest.mark.slow] * (case != "mlp-sparse")) for case in _BADLY_SCALED]


@pytest.mark.parametrize("case", _CASES)
def test_quotient_falls_and_only_norms_change(case):
    build, factors, classes, density, steps = _BADLY_SCALED[case]
    model = _scaled_model(build, factors)
    masks = _masks(model, density)
    before = [v.numpy() for v in model.variables]
    new = metainit.metainit(model, masks, num_classes=classes, seed=5, steps=steps, learning_rate=0.02, batch_size=64)
    for old, variable in zip(before, model.variables, strict=True):
        assert np.array_equal(old, variable.numpy())

    for value, variable, mask in zip(new, model.trainable_variables, masks, strict=True):
        assert value.dtype == tf.float32
        if mask is None:
            assert np.array_equal(value, variable.numpy())
            continue
        assert np.all(value.numpy()[~mask.numpy()] == 0)
        old = np.where(mask, variable.numpy(), 0)
        old_norm, new_norm = np.linalg.norm(old), np.linalg.norm(value)
        assert abs(new_norm - old_norm) > 0.01
        np.testing.assert_allclose(value / new_norm, old / old_norm, rtol=1e-4, atol=1e-9)

    objective = Objective(model)
    start = [
        value if mask is None else tf.where(mask, value, 0.0)
        for value, mask in zip(objective.params(), masks, strict=True)
    ]
    batches = [_batch(model, 256, seed, classes) for seed in range(11, 15)]
    quotients = [[float(metainit.gradient_quotient(objective, p, masks, *b)) for b in batches] for p in (start, new)]
    # The quotient is heavy-tailed over batches.
    assert np.mean(quotients[1]) < 0.6 * np.mean(quotients[0])


def test_one_step_moves_each_norm_by_the_learning_rate():
    model = _scaled_model(_mlp, (4.0, 3.0, 5.0))
    masks = _masks(model, 0.8)
    new = metainit.metainit(model, masks, num_classes=4, seed=1, steps=1, learning_rate=0.125, batch_size=32)
    for value, variable, mask in zip(new, model.trainable_variables, masks, strict=True):
        if mask is not None:
            moved = np.linalg.norm(value) - np.linalg.norm(np.where(mask, variable.numpy(), 0))
            assert abs(moved) == pytest.approx(0.125, rel=1e-4)


def test_result_is_a_function_of_the_seed():
    model = _scaled_model(lambda: _mlp("tanh", units=(5,)), (1.0, 1.0))
    masks = _masks(model, 0.5)

    def run(seed):
        arguments = {"num_classes": 4, "steps": 2, "learning_rate": 0.05, "batch_size": 8}
        new = metainit.metainit(model, masks, seed=seed, **arguments)
        return np.concatenate([value.numpy().ravel() for value in new])

    assert np.array_equal(run(1), run((1, 0)))
    assert not np.array_equal(run(1), run(2))


def test_no_kernel_changes_its_sign_and_empty_kernels_stay_empty():
    model = _scaled_model(_mlp, (0.01, 1.0, 1.0))
    masks = _masks(model, 0.5)
    masks[2] = tf.zeros_like(masks[2])
    new = metainit.metainit(model, masks, num_classes=4, seed=0, steps=5, learning_rate=3.0, batch_size=16)
    for value, variable, mask in zip(new, model.trainable_variables, masks, strict=True):
        if mask is not None:
            assert np.all(value.numpy() * np.where(mask, variable.numpy(), 0) >= 0)
            assert np.all(np.isfinite(value))
    assert np.all(new[2].numpy() == 0)
    assert all(np.any(new[i].numpy() != 0) for i in (0, 4))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = _LAYERS.Dense(3)

    def call(self, x):
        return self.dense(tf.reshape(x, [-1, 10]))


def test_inputs_of_any_rank_and_subclassed_models():
    model = Subclassed()
    model(tf.zeros([1, 5, 2]))
    with pytest.raises(ValueError, match="give input_shape=, the shape of one input"):
        metainit.metainit(model, [None, None], num_classes=3, seed=0, steps=1)
    new = metainit.metainit(model, [None, None], num_classes=3, seed=0, steps=2, batch_size=4, input_shape=(5, 2))
    assert not np.allclose(new[0], model.dense.kernel.numpy())
    assert np.array_equal(new[1], model.dense.bias.numpy())


def test_bad_arguments():
    model = _mlp()
    with pytest.raises(ValueError, match="Got 1 masks for 6 trainable variables"):
        metainit.metainit(model, [None], num_classes=4, seed=0)
    masks = [None, None, tf.ones([3, 3], tf.bool), None, None, None]
    with pytest.raises(ValueError, match=r"has shape \(3, 3\), its variable \(20, 16\); give"):
        metainit.metainit(model, masks, num_classes=4, seed=0)
    free = keras.Sequential([keras.Input((None, 2)), _LAYERS.GlobalMaxPool1D(), _LAYERS.Dense(3)])
    with pytest.raises(ValueError, match=r"whose input shape is \(None, 2\)"):
        metainit.metainit(free, [None, None], num_classes=3, seed=0)


def test_losses_that_are_not_finite():
    model = _scaled_model(_mlp, (1e30, 1e30, 1.0))
    with pytest.raises(ValueError, match=r"losses of .* that are not finite; start from smaller"):
        metainit.metainit(model, [None] * 6, num_classes=4, seed=0, steps=1, batch_size=8)
