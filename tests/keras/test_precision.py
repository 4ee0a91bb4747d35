"""A float32 model evaluated in float64 is the float64 model."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from sparse_lib._keras import precision
from sparse_lib.objective import Objective

layers = keras.layers


def _attention() -> keras.Model:
    tokens = keras.Input((5, 4))
    mixed = layers.MultiHeadAttention(2, 3)(tokens, tokens)
    mixed = layers.LayerNormalization()(layers.Add()([tokens, mixed]))
    return keras.Model(tokens, layers.Dense(3)(layers.GlobalAveragePooling1D()(mixed)))


def _nested() -> keras.Model:
    features = keras.Input((6,))
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(5, "tanh"), layers.Dense(4, "gelu")])
    return keras.Model(features, layers.Dense(3)(inner(features)))


def _frozen() -> keras.Model:
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Rescaling(1 / 3),
            layers.Dense(5, "relu"),
            layers.BatchNormalization(),
            layers.Dense(3),
        ]
    )
    for layer in model.layers[1:3]:
        layer.trainable = False
    return model


MODELS = {
    "dense": lambda: keras.Sequential([keras.Input((6,)), layers.Dense(5, "relu"), layers.Dense(3)]),
    "convolution": lambda: keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(3, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(3),
        ]
    ),
    "group norm": lambda: keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            layers.DepthwiseConv2D(3, depth_multiplier=2),
            layers.GroupNormalization(2),
            layers.Flatten(),
            layers.Dense(3),
        ]
    ),
    "attention": _attention,
    "nested": _nested,
    "frozen": _frozen,
    "recurrent": lambda: keras.Sequential([keras.Input((4, 3)), layers.LSTM(4), layers.Dense(3)]),
}


def _filled(model: keras.Model) -> keras.Model:
    """Values that float32 holds, variances positive."""
    rng = np.random.default_rng(1)
    for variable in model.variables:
        if "seed" not in variable.path:
            variable.assign(np.abs(rng.standard_normal(variable.shape).astype(np.float32)) * 0.4 + 0.1)
    return model


def _batch(model: keras.Model) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
    rng = np.random.default_rng(2)
    # Inputs that float32 does not hold: they are not to be rounded either.
    x = tf.constant(rng.standard_normal((7, *model.input_shape[1:])))
    return (
        x,
        tf.constant(np.arange(7) % 3),
        [tf.constant(rng.standard_normal(v.shape)) for v in model.trainable_variables],
    )


@pytest.mark.parametrize("name", MODELS)
def test_equals_the_model_that_was_made_in_float64(name):
    ours = _filled(MODELS[name]())
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        theirs = _filled(MODELS[name]())
    finally:
        keras.config.set_floatx(before)
        keras.config.set_dtype_policy("float32")
    x, y, vectors = _batch(ours)
    objective, truth = Objective(ours), Objective(theirs)
    params = [tf.cast(p, tf.float64) for p in objective.params()]
    true_loss, true_gradient = truth.loss_and_gradient(truth.params(), x, y)
    true_product = truth.hvp(truth.params(), x, y, vectors)
    with precision.arithmetic(ours, "float64"):
        loss, gradient = objective.loss_and_gradient(params, x, y)
        product = objective.hvp(params, x, y, vectors)
    assert loss.dtype == tf.float64
    np.testing.assert_allclose(loss, true_loss, rtol=1e-13)
    for found, true in zip([*gradient, *product], [*true_gradient, *true_product], strict=True):
        np.testing.assert_allclose(found, true, rtol=1e-10, atol=1e-13)


def _parts(layer: keras.Layer) -> list[keras.Layer]:
    """Returns a layer, all layers inside it, theirs and so on."""
    inside = getattr(layer, "layers", None) or [v for v in vars(layer).values() if isinstance(v, keras.Layer)]
    return [layer, *(part for child in inside for part in _parts(child))]


def _state(model: keras.Model) -> list:
    parts = _parts(model)
    return [
        *(id(layer.dtype_policy) for layer in parts),
        *(layer.compute_dtype for layer in parts),
        *(v.dtype for v in model.variables),
        *(t.dtype for t in model.inputs),
        keras.config.floatx(),
    ]


@pytest.mark.parametrize("name", ["convolution", "nested", "attention"])
@pytest.mark.parametrize("fails", [False, True])
def test_afterwards_the_model_is_as_it_was(name, fails):
    model = _filled(MODELS[name]())
    x = tf.cast(_batch(model)[0], tf.float32)
    state, outputs, weights = _state(model), model(x).numpy(), model.get_weights()
    try:
        with precision.arithmetic(model, "float64"):
            assert _state(model) != state
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert _state(model) == state
    assert model(x).dtype == tf.float32
    np.testing.assert_array_equal(model(x), outputs)
    for now, then in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(now, then)


def test_a_mixed_precision_model_is_evaluated_in_float32():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = _filled(MODELS["dense"]())
    finally:
        keras.config.set_dtype_policy("float32")
    plain = _filled(MODELS["dense"]())
    x = tf.cast(_batch(plain)[0], tf.float32)
    with precision.arithmetic(mixed, "float32"):
        found = Objective(mixed).outputs(Objective(mixed).params(), x)
    np.testing.assert_array_equal(found, plain(x))
    assert mixed(x).dtype == tf.bfloat16


@pytest.mark.parametrize(("middle", "rounds"), [("float32", True), ("float64", False)])
def test_a_type_written_into_the_model_is_found(middle, rounds):
    features = keras.Input((3,))
    hidden = layers.Lambda(lambda t: tf.cast(tf.cast(t, middle), t.dtype))(layers.Dense(4)(features))
    model = keras.Model(features, layers.Dense(2)(hidden))
    objective = Objective(model)
    params = [tf.cast(p, tf.float64) for p in objective.params()]
    with precision.arithmetic(model, "float64"):
        function = tf.function(objective.gradient).get_concrete_function(
            params, tf.zeros((4, 3), tf.float64), tf.zeros(4, tf.int64)
        )
    with pytest.raises(ValueError, match="converts float64 .*Cast") if rounds else contextlib.nullcontext():
        precision.check_float64(function)


@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have a `quantize` method:UserWarning")
def test_a_quantised_layer_is_refused():
    model = keras.Sequential([keras.Input((8,)), layers.Dense(4, name="hidden")])
    model.quantize("int8")
    with pytest.raises(ValueError, match="'hidden' is quantized"), precision.arithmetic(model, "float64"):
        pass


def test_cast_leaves_integers():
    x, y = precision.cast((tf.zeros(2, tf.float16), {"label": tf.zeros(2, tf.int32)}), "float64")
    assert x.dtype == tf.float64
    assert y["label"].dtype == tf.int32
