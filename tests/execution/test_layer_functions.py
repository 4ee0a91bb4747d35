"""Native max pooling, batch normalization and bias, against TensorFlow's and Keras' own."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from sparse_lib.execution import layer_functions, library

# Batch, height, width, channels; pool size, strides.
POOLINGS = (
    ((130, 4, 4, 6), (2, 2), (2, 2)),
    ((3, 7, 9, 1), (2, 2), (2, 2)),
    ((1, 8, 6, 64), (2, 2), (2, 2)),
    ((2, 5, 5, 17), (2, 2), (2, 2)),
    ((2, 9, 8, 3), (3, 3), (2, 2)),
    ((2, 6, 5, 17), (3, 2), (1, 1)),
    ((2, 7, 8, 6), (1, 1), (2, 3)),
    ((2, 10, 11, 3), (3, 4), (3, 4)),
    ((1, 3, 2, 3), (5, 4), (2, 1)),
    ((2, 1, 1, 20), (2, 2), (2, 2)),
)
SHAPES = ((1, 3), (130, 17), (1, 5, 3, 1), (130, 3, 3, 6), (3, 7, 5, 64), (2, 3, 300))


@pytest.fixture
def set_threads(monkeypatch):
    """Sets the number of threads for the rest of a test, which `library.operations` would set anew at each call."""
    module = library.operations()
    monkeypatch.setattr(library, "operations", lambda: module)
    yield library.use_threads
    library.use_threads(tf.config.threading.get_intra_op_parallelism_threads())


def _images(kind, shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape)
    if kind == "ties":
        x = np.round(x)
    if kind == "special":
        for value, share in ((np.nan, 0.3), (-np.inf, 0.3), (-0.0, 0.2), (0.0, 0.2)):
            x[rng.random(shape) < share] = value
    return tf.constant(x, dtype)


def _pool_twice(x, pool_size, strides, padding):
    """Returns output and gradients of the native pooling and of TensorFlow's: the first, and one through it."""
    results = []
    for pool in (
        lambda x: layer_functions.max_pool(x, pool_size=pool_size, strides=strides, padding=padding),
        lambda x: tf.nn.max_pool(x, pool_size, strides, padding.upper()),
    ):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = pool(x)
            dy = _images("normal", y.shape, x.dtype, 1)
            outer.watch(dy)
            dx = tape.gradient(y, x, dy)
        results.append([y, dx, *outer.gradient(dx, [x, dy], _images("normal", x.shape, x.dtype, 2))])
    return results


@pytest.mark.parametrize("kind", ["normal", "ties", "special"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_pooling_is_that_of_tensorflow_bit_by_bit(kind, dtype, padding):
    for shape, pool_size, strides in POOLINGS:
        if padding == "valid" and (shape[1] < pool_size[0] or shape[2] < pool_size[1]):
            continue
        ours, theirs = _pool_twice(_images(kind, shape, dtype), pool_size, strides, padding)
        # Of a window with NaN TensorFlow's second derivative is not the derivative of its first.
        for mine, other in list(zip(ours, theirs, strict=True))[: 2 if kind == "special" else 4]:
            assert mine.shape == other.shape
            assert mine.numpy().tobytes() == other.numpy().tobytes(), (shape, pool_size, strides)


def test_third_derivative_of_pooling_scatters():
    x, u = _images("normal", (2, 5, 5, 3), "float64"), _images("normal", (2, 3, 3, 3), "float64", 1)
    options = {"pool_size": (3, 3), "strides": (2, 2), "padding": "same"}

    def cubed(x):
        return tf.reduce_sum(u * layer_functions.max_pool(x, **options) ** 3)

    found = x
    with tf.GradientTape() as third:
        third.watch(x)
        with tf.GradientTape() as second:
            second.watch(x)
            with tf.GradientTape() as first:
                first.watch(x)
                value = cubed(x)
            found = first.gradient(value, x)
        found = second.gradient(found, x, tf.ones_like(x))
    found = third.gradient(found, x, tf.ones_like(x))
    # Every maximum m of a window counts u m^3; the windows that share a maximum see each other's pixel.
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer_functions.max_pool(x, **options)
    np.testing.assert_allclose(found, tape.gradient(y, x, 6 * u), rtol=1e-12)


def _normalize_by_formula(x, gamma, beta):
    # Not `tf.nn.moments`: it hides the mean from the gradient of the variance, so its second derivative is wrong.
    axes = list(range(x.shape.rank - 1))
    mean = tf.reduce_mean(x, axes)
    variance = tf.reduce_mean((x - mean) ** 2, axes)
    return tf.nn.batch_normalization(x, mean, variance, beta, gamma, 1e-3), mean, variance


def _derivatives(normalize, operands):
    """Returns outputs, first and second derivatives by all operands, of all outputs at once."""
    x = operands[0]
    shapes = (x.shape, x.shape[-1:], x.shape[-1:])
    upstream = [_images("normal", shape, x.dtype, 3 + i) for i, shape in enumerate(shapes)]
    directions = [_images("normal", v.shape, x.dtype, 7 + i) for i, v in enumerate(operands)]
    with tf.GradientTape() as outer:
        outer.watch([*operands, *upstream])
        with tf.GradientTape() as tape:
            tape.watch(operands)
            outputs = normalize(*operands)
        first = tape.gradient(outputs, operands, upstream)
    second = outer.gradient(first, [*operands, *upstream], directions, unconnected_gradients="zero")
    return [*outputs, *first, *second]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_normalization_and_its_derivatives_are_those_of_the_formula(shape):
    x = 3 * _images("normal", shape, "float64") + 2
    operands = [x, _images("normal", shape[-1:], "float64", 1), _images("normal", shape[-1:], "float64", 2)]
    ours = _derivatives(lambda *v: tuple(layer_functions.normalize(*v, 1e-3)), operands)
    theirs = _derivatives(_normalize_by_formula, operands)
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-10, atol=1e-10 * float(tf.reduce_max(tf.abs(other))) + 1e-12)


def test_normalization_is_accurate_where_the_mean_is_large():
    x = tf.cast(1000 + _images("normal", (9000, 5), "float64"), "float32")
    y, mean, variance = layer_functions.normalize(x, tf.ones(5), tf.zeros(5), 1e-3)
    exact = x.numpy().astype("float64")
    np.testing.assert_allclose(mean, exact.mean(0), rtol=1e-7)
    np.testing.assert_allclose(variance, exact.var(0), rtol=1e-6)
    np.testing.assert_allclose(y, (exact - exact.mean(0)) / np.sqrt(exact.var(0) + 1e-3), atol=1e-4)


def _step(layer, call, x, upstream):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = call(x, training=True)
    variables = [v.value for v in layer.trainable_variables]
    gradients = tape.gradient(y, [x, *variables], upstream)
    return [y, *gradients, *(tf.identity(v.value) for v in layer.non_trainable_variables)]


@pytest.mark.parametrize("options", [{}, {"center": False}, {"scale": False, "axis": 3, "momentum": 0.7}], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_layer_of_keras_and_its_moving_averages(options, dtype):
    shape, results = (130, 5, 5, 6), []
    x, upstream = 2 * _images("normal", shape, dtype) + 1, _images("normal", shape, dtype, 1)
    for is_native in (True, False):
        layer = keras.layers.BatchNormalization(**options, dtype=dtype, epsilon=1e-5)
        layer.build((None, *shape[1:]))
        for variable in layer.trainable_variables:
            variable.assign(_images("normal", variable.shape, dtype, 5))
        call = layer_functions.replace_normalization(layer) if is_native else layer.call
        step = tf.function(lambda x, u, layer=layer, call=call: _step(layer, call, x, u), autograph=False)
        step(x, upstream)
        results.append(step(x, upstream))
        if is_native:
            np.testing.assert_array_equal(call(x), layer.call(x))
    tolerance = 2e-6 if dtype == "float32" else 1e-12
    for mine, other in zip(*results, strict=True):
        np.testing.assert_allclose(mine, other, rtol=tolerance, atol=tolerance * float(tf.reduce_max(tf.abs(other))))


def test_frozen_and_masked_calls_stay_those_of_keras():
    layer = keras.layers.BatchNormalization()
    layer.build((None, 4, 3))
    call = layer_functions.replace_normalization(layer)
    x, mask = _images("normal", (2, 4, 3), "float32"), tf.constant([[True, False, True, True]] * 2)
    before = [v.numpy() for v in layer.non_trainable_variables]
    layer.trainable = False
    np.testing.assert_array_equal(call(x, training=True), layer.call(x, training=False))
    layer.trainable = True
    masked = call(x, training=True, mask=mask)
    for variable, value in zip([layer.moving_mean, layer.moving_variance], before, strict=True):
        variable.assign(value)
    np.testing.assert_array_equal(masked, layer.call(x, training=True, mask=mask))


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.BatchNormalization(axis=1),
        keras.layers.BatchNormalization(renorm=True),
        keras.layers.BatchNormalization(synchronized=True),
        keras.layers.BatchNormalization(dtype="mixed_bfloat16"),
        keras.layers.LayerNormalization(),
        type("Own", (keras.layers.BatchNormalization,), {})(),
    ],
    ids=lambda layer: f"{type(layer).__name__}",
)
def test_settings_that_are_not_covered_leave_normalization_alone(layer):
    assert layer_functions.replace_normalization(layer) is None
    layer.build((None, 4, 5, 3))
    assert layer_functions.replace_normalization(layer) is None


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.MaxPooling2D(data_format="channels_first"),
        keras.layers.MaxPooling2D(dtype="float16"),
        keras.layers.AveragePooling2D(2),
        keras.layers.MaxPooling1D(2),
    ],
    ids=lambda layer: f"{type(layer).__name__}-{layer.data_format}-{layer.compute_dtype}",
)
def test_settings_that_are_not_covered_leave_pooling_alone(layer):
    assert layer_functions.replace_pooling(layer) is None


def test_pooling_layer_of_keras_in_a_model():
    layer = keras.layers.MaxPooling2D((2, 3), strides=(2, 1), padding="same")
    x = _images("ties", (4, 6, 7, 3), "float32")
    np.testing.assert_array_equal(layer_functions.replace_pooling(layer)(x), layer(x))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bias_and_its_derivatives(shape):
    x, bias = _images("normal", shape, "float64"), _images("normal", shape[-1:], "float64", 1)
    results = []
    for add in (layer_functions.add_bias, tf.add):
        with tf.GradientTape() as outer:
            outer.watch([x, bias])
            with tf.GradientTape() as tape:
                tape.watch([x, bias])
                y = add(x, bias)
                cubes = tf.reduce_sum(y**3)
            first = tape.gradient(cubes, [x, bias])
        second = outer.gradient(first, [x, bias], [0.5 * x, bias])
        results.append([y, *first, *second])
    for mine, other in zip(*results, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-11)


def test_results_do_not_depend_on_the_number_of_threads(set_threads):
    x, dy = _images("normal", (37, 24, 24, 6), "float32"), _images("normal", (37, 24, 24, 6), "float32", 1)
    vector = _images("normal", (6,), "float32", 2)
    results = []
    for threads in (1, 2, 3):
        set_threads(threads)
        with tf.GradientTape() as tape:
            tape.watch([x, vector])
            y, mean, variance = layer_functions.normalize(x, vector, vector, 1e-3)
            pooled = [layer_functions.max_pool(x, pool_size=(k, k), strides=(2, 2), padding="same") for k in (2, 3)]
            total = layer_functions.add_bias(y, vector)
        gradients = tape.gradient([total, *pooled], [x, vector], [dy, *pooled])
        results.append([t.numpy().tobytes() for t in (y, mean, variance, *pooled, total, *gradients)])
    assert results[0] == results[1] == results[2]


def test_empty_batches():
    x, vector = tf.zeros([0, 4, 4, 3]), tf.ones([3])
    assert layer_functions.max_pool(x, pool_size=(2, 2), strides=(2, 2)).shape == (0, 2, 2, 3)
    assert layer_functions.add_bias(x, vector).shape == x.shape
    assert np.isnan(layer_functions.normalize(x, vector, vector, 1e-3).mean).all()
    np.testing.assert_array_equal(layer_functions.sum_rows(x), np.zeros(3))


def test_wrong_shapes_are_refused():
    operations, x, vector = library.operations(), tf.zeros([2, 4, 4, 3]), tf.zeros([3])
    options = {"pool_size": [2, 2], "strides": [2, 2], "same": False}
    calls = [
        lambda: operations.sparse_lib_max_pool(x=vector, **options),
        lambda: operations.sparse_lib_max_pool(x=x, **{**options, "strides": [0, 2]}),
        lambda: operations.sparse_lib_max_pool_scatter(x=x, dy=x, **options),
        lambda: operations.sparse_lib_max_pool_gather(x=x, u=x[:1], **options),
        lambda: layer_functions.normalize(x, vector[:2], vector, 1e-3),
        lambda: layer_functions.normalize(vector[0], vector, vector, 1e-3),
        lambda: operations.sparse_lib_normalize(x=x, gamma=vector, beta=vector, epsilon=vector),
        lambda: operations.sparse_lib_normalize_gradient(
            x=x, dy=x[:1], mean=vector, variance=vector, gamma=vector, epsilon=0.1, dmean=vector, dvariance=vector
        ),
        lambda: layer_functions.add_bias(x, vector[:2]),
    ]
    for call in calls:
        with pytest.raises(tf.errors.InvalidArgumentError):
            call()
