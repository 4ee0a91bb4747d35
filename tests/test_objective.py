"""Tests of the pure loss, its gradient and its Hessian-vector product."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from sparse_lib._keras.patches import exact_derivatives
from sparse_lib.objective import Objective, cross_entropy
from tests.replicas import two_replicas

layers = keras.layers


def _conv_layers(dtype, seed=0):
    """Conv, batch norm, max pooling, dropout and dense layers, smooth but for the pooling."""

    def init(index):
        return keras.initializers.GlorotNormal(seed=10 * seed + index)

    return [
        layers.Conv2D(3, 3, kernel_initializer=init(0), dtype=dtype),
        layers.BatchNormalization(dtype=dtype),
        layers.Activation("tanh", dtype=dtype),
        layers.MaxPooling2D(2, dtype=dtype),
        layers.Flatten(dtype=dtype),
        layers.Dropout(0.3, seed=7, dtype=dtype),
        layers.Dense(4, kernel_initializer=init(1), dtype=dtype),
    ]


class Subclassed(keras.Model):
    """A model whose `call` does not take `training`."""

    def __init__(self, dtype):
        super().__init__(dtype=dtype)
        self.blocks = _conv_layers(dtype)

    def call(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def make_model(kind="functional", dtype="float64"):
    """A small network with non-trivial batch-norm statistics."""
    inputs = keras.Input((6, 6, 2), dtype=dtype)
    if kind == "functional":
        outputs = inputs
        for layer in _conv_layers(dtype):
            outputs = layer(outputs)
        model = keras.Model(inputs, outputs)
    elif kind == "sequential":
        model = keras.Sequential([inputs, *_conv_layers(dtype)])
    else:
        model = Subclassed(dtype)
        model(tf.zeros((1, 6, 6, 2), dtype))
    (norm,) = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    norm.moving_mean.assign([0.2, -0.1, 0.3])
    norm.moving_variance.assign([0.5, 1.5, 0.8])
    return model


def make_batch(n=6, shape=(6, 6, 2), classes=4, dtype="float64", seed=0):
    """Inputs, labels."""
    rng = np.random.default_rng(seed)
    x = tf.constant(rng.normal(size=(n, *shape)), dtype)
    return x, tf.constant(rng.integers(0, classes, n))


def directions(params, seed=0):
    """One Gaussian tensor per parameter."""
    rng = np.random.default_rng(seed)
    return [tf.constant(rng.normal(size=p.shape), p.dtype) for p in params]


def shifted(params, vectors, scale):
    """params + scale * vectors."""
    return [p + tf.cast(scale, p.dtype) * v for p, v in zip(params, vectors, strict=True)]


def flat(tensors):
    """All entries in one float64 vector."""
    return np.concatenate([np.ravel(t) for t in tensors]).astype(np.float64)


def state(model):
    """The bytes of every variable, seeds and statistics included."""
    return [v.numpy().tobytes() for v in model.variables]


def relative_error(a, b):
    """||a - b|| / ||b||."""
    return np.linalg.norm(flat(a) - flat(b)) / np.linalg.norm(flat(b))


MODES = {
    "eager": lambda f: f,
    "graph": tf.function,
    "xla": lambda f: tf.function(f, jit_compile=True),
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", ["functional", "sequential", "subclassed"])
def test_gradient_equals_central_differences_in_every_coordinate(kind, training):
    objective = Objective(make_model(kind))
    x, y = make_batch()
    params = objective.params()
    mean_loss = tf.function(lambda p: objective.mean_loss(p, x, y, training=training))
    gradient = objective.gradient(params, x, y, training=training)
    step = 1e-6
    for index, (param, slope) in enumerate(zip(params, gradient, strict=True)):
        assert slope.dtype == tf.float64
        for place in range(0, int(tf.size(param)), 5):
            unit = np.zeros(param.shape)
            unit.flat[place] = step
            up, down = list(params), list(params)
            up[index], down[index] = param + unit, param - unit
            difference = (mean_loss(up) - mean_loss(down)) / (2 * step)
            assert np.ravel(slope)[place] == pytest.approx(float(difference), abs=2e-9)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", ["functional", "subclassed"])
def test_hvp_equals_differences_of_the_gradient(kind, training):
    objective = Objective(make_model(kind))
    x, y = make_batch()
    params = objective.params()
    vectors = directions(params)
    gradient = tf.function(lambda p: objective.gradient(p, x, y, training=training))
    product = objective.hvp(params, x, y, vectors, training=training)
    up, down = gradient(shifted(params, vectors, 1e-6)), gradient(shifted(params, vectors, -1e-6))
    assert relative_error(product, [(u - d) / 2e-6 for u, d in zip(up, down, strict=True)]) < 1e-6


@pytest.mark.parametrize(
    "norm",
    [
        lambda: layers.LayerNormalization(dtype="float64"),
        lambda: layers.GroupNormalization(2, dtype="float64"),
    ],
)
def test_hvp_is_right_through_normalisation_by_current_moments(norm):
    inputs = keras.Input((5,), dtype="float64")
    hidden = norm()(layers.Dense(6, activation="tanh", dtype="float64")(inputs))
    model = keras.Model(inputs, layers.Dense(4, dtype="float64")(hidden))
    objective = Objective(model)
    x, y = make_batch(shape=(5,))
    params = objective.params()
    vectors = directions(params)
    up = objective.gradient(shifted(params, vectors, 1e-6), x, y)
    down = objective.gradient(shifted(params, vectors, -1e-6), x, y)
    differences = [(u - d) / 2e-6 for u, d in zip(up, down, strict=True)]
    assert relative_error(objective.hvp(params, x, y, vectors), differences) < 1e-6


POOLS = [
    ((6, 6, 2), lambda: layers.MaxPooling2D(1)),
    ((6, 6, 2), lambda: layers.MaxPooling2D(2, strides=1, padding="same")),
    ((6, 6, 2), lambda: layers.MaxPooling2D((3, 2), strides=1, padding="same")),
    ((1, 1, 2), lambda: layers.MaxPooling2D(2, padding="same")),
    ((6, 6, 2), lambda: layers.MaxPooling2D(3, strides=2, padding="same")),
    ((6, 2), lambda: layers.MaxPooling1D(2, strides=1, padding="same")),
]


@pytest.mark.parametrize(("shape", "pool"), POOLS)
def test_hvp_is_right_through_max_pooling_of_any_shape(shape, pool):
    convolution = {1: layers.Conv1D, 2: layers.Conv2D}[len(shape) - 1]
    hidden = [
        convolution(3, 2, padding="same", activation="tanh"),
        pool(),
        convolution(3, 2, padding="same", activation="tanh"),
        layers.Flatten(),
        layers.Dense(4),
    ]
    with_policy = [type(layer).from_config({**layer.get_config(), "dtype": "float64"}) for layer in hidden]
    model = keras.Sequential([keras.Input(shape, dtype="float64"), *with_policy])
    objective = Objective(model)
    x, y = make_batch(shape=shape)
    params = objective.params()
    vectors = directions(params)
    up = objective.gradient(shifted(params, vectors, 1e-6), x, y)
    down = objective.gradient(shifted(params, vectors, -1e-6), x, y)
    differences = [(u - d) / 2e-6 for u, d in zip(up, down, strict=True)]
    np.testing.assert_array_equal(objective.outputs(params, x), model(x, training=False))
    # TensorFlow's own operation is wrong in a graph only, where buffers are used again.
    product = tf.function(lambda: objective.hvp(params, x, y, vectors))()
    assert relative_error(product, differences) < 1e-6


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_moments_equal_tensorflow_s_and_are_taken_back(keepdims, dtype):
    x = tf.cast(make_batch()[0], dtype)
    original = tf.nn.moments
    expected = tf.nn.moments(x, [0, 2], keepdims=keepdims)
    with exact_derivatives():
        assert tf.nn.moments is not original
        result = tf.nn.moments(x, [0, 2], keepdims=keepdims)
        with exact_derivatives():
            pass
        assert tf.nn.moments is not original
    assert tf.nn.moments is original
    for a, b in zip(result, expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_hvp_of_logistic_regression_equals_the_closed_form():
    inputs = keras.Input((3,), dtype="float64")
    model = keras.Sequential([inputs, layers.Dense(4, use_bias=False, dtype="float64")])
    objective = Objective(model)
    x, y = make_batch(shape=(3,))
    (kernel,) = objective.params()
    p = tf.nn.softmax(x @ kernel).numpy()
    hessian = np.zeros((12, 12))
    for row, probability in zip(x.numpy(), p, strict=True):
        curvature = np.diag(probability) - np.outer(probability, probability)
        hessian += np.kron(np.outer(row, row), curvature) / len(p)
    for column in range(12):
        unit = np.zeros(12)
        unit[column] = 1.0
        product = objective.hvp([kernel], x, y, [tf.constant(unit.reshape(3, 4))])
        np.testing.assert_allclose(np.ravel(product[0]), hessian[column], atol=1e-14)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_compiled_results_equal_eager_ones(mode, training):
    objective = Objective(make_model(dtype="float32"))
    x, y = make_batch(dtype="float32")
    params = objective.params()
    vectors = directions(params)

    def everything(params, vectors):
        loss, gradient = objective.loss_and_gradient(params, x, y, training=training)
        return [loss, *gradient, *objective.hvp(params, x, y, vectors, training=training)]

    if training:
        # Compiled and eager random generators differ under XLA, so the dropout noise does too.
        objective.model.layers[-2].rate = 0.0
    eager, compiled = everything(params, vectors), MODES[mode](everything)(params, vectors)
    assert relative_error(compiled, eager) < 2e-6


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("kind", ["functional", "sequential", "subclassed"])
def test_nothing_moves_the_model_s_state(kind, mode):
    model = make_model(kind)
    objective = Objective(model)
    x, y = make_batch()
    before = state(model)

    def everything(params):
        return objective.hvp(params, x, y, directions(params), training=True)

    MODES[mode](everything)(shifted(objective.params(), directions(objective.params()), 0.1))
    assert state(model) == before
    model(x, training=True)
    assert state(model) != before  # the model does have state that training moves


def test_training_mode_uses_batch_statistics_and_fixed_dropout_noise():
    objective = Objective(make_model())
    x, y = make_batch()
    params = objective.params()
    evaluated = objective.losses(params, x, y)
    trained = objective.losses(params, x, y, training=True)
    assert np.abs(trained - evaluated).min() > 1e-6
    np.testing.assert_array_equal(trained, objective.losses(params, x, y, training=True))
    objective.model(x, training=True)
    assert np.any(trained != objective.losses(params, x, y, training=True))


def test_subclassed_model_without_training_argument_still_gets_it():
    functional_model, subclassed = make_model("functional"), make_model("subclassed")
    x, y = make_batch()
    for training in (False, True):
        a, b = (
            Objective(m).losses(Objective(m).params(), x, y, training=training) for m in (functional_model, subclassed)
        )
        np.testing.assert_array_equal(a, b)


def test_mean_over_parts_of_a_batch_equals_the_whole():
    objective = Objective(make_model())
    x, y = make_batch(n=10)
    params = objective.params()
    whole, gradient = objective.loss_and_gradient(params, x, y)
    product = objective.hvp(params, x, y, directions(params))
    parts = [(x[:3], y[:3]), (x[3:], y[3:])]
    shares = [0.3, 0.7]
    losses = [float(objective.mean_loss(params, *part)) for part in parts]
    assert float(whole) == pytest.approx(np.dot(shares, losses), rel=1e-14)
    gradients = [flat(objective.gradient(params, *part)) for part in parts]
    np.testing.assert_allclose(flat(gradient), np.dot(shares, gradients), atol=1e-15)
    products = [flat(objective.hvp(params, *part, directions(params))) for part in parts]
    np.testing.assert_allclose(flat(product), np.dot(shares, products), atol=1e-14)


def test_statistics_are_read_at_call_time():
    objective = Objective(make_model())
    x, y = make_batch()
    losses = tf.function(lambda p: objective.losses(p, x, y))
    before = losses(objective.params())
    objective.model.layers[2].moving_mean.assign([1.0, 2.0, 3.0])
    after = losses(objective.params())
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_allclose(after, objective.losses(objective.params(), x, y), rtol=1e-12)


def test_gradient_of_unused_and_gathered_variables_is_dense():
    tokens = keras.Input((2,), dtype="int32")
    embedding = layers.Embedding(5, 3, dtype="float64", name="words")
    hidden = layers.Flatten()(embedding(tokens))
    model = keras.Model(tokens, layers.Dense(4, dtype="float64", name="out")(hidden))
    objective = Objective(model)
    x, y = tf.constant([[0, 1], [1, 2]]), tf.constant([0, 3])
    gradient = objective.gradient(objective.params(), x, y)
    assert isinstance(gradient[0], tf.Tensor) and gradient[0].shape == (5, 3)
    assert np.all(gradient[0][3:] == 0) and np.all(gradient[0][:3] != 0)
    unused = Objective(model, loss=lambda y, z: tf.zeros(2, tf.float64))
    assert all(np.all(g == 0) for g in unused.gradient(unused.params(), x, y))
    assert all(np.all(h == 0) for h in unused.hvp(unused.params(), x, y, unused.params()))


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("bfloat16", tf.float32), ("float32", tf.float32), ("float64", tf.float64)],
)
def test_loss_is_at_least_single_precision(dtype, expected):
    logits = tf.constant([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]], dtype)
    losses = cross_entropy(tf.constant([[2], [0]]), logits)
    assert losses.dtype == expected
    np.testing.assert_allclose(losses, [0.40760596444438, np.log(3.0)], rtol=1e-6)


def test_works_in_a_replica_context():
    strategy = two_replicas()
    with strategy.scope():
        model = make_model()
    objective = Objective(model)
    x, y = make_batch()

    @tf.function
    def step():
        return strategy.run(
            lambda: (
                objective.gradient(objective.params(), x, y, training=True),
                objective.hvp(objective.params(), x, y, objective.params()),
            )
        )

    before = state(model)
    gradient, product = tf.nest.map_structure(lambda value: strategy.experimental_local_results(value)[1], step())
    params = objective.params()
    assert relative_error(gradient, objective.gradient(params, x, y, training=True)) < 1e-12
    assert relative_error(product, objective.hvp(params, x, y, params)) < 1e-12
    assert state(model) == before


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="not built"):
        Objective(keras.Sequential([layers.Dense(3)]))
    objective = Objective(make_model())
    x, y = make_batch()
    params = objective.params()
    with pytest.raises(ValueError, match="in the order of model.trainable_variables"):
        objective.losses(params[1:], x, y)
    with pytest.raises(ValueError, match="pass one for each"):
        objective.hvp(params, x, y, params[1:])
    scalar = lambda y, outputs: tf.reduce_mean(cross_entropy(y, outputs))  # noqa: E731
    with pytest.raises(ValueError, match="one value per example"):
        Objective(objective.model, scalar).losses(params, x, y)
