"""The structured Hessian of chains against the dense Hessian by automatic differentiation, in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from sparse_lib._keras import precision
from sparse_lib._keras.graph import NoChainError
from sparse_lib.curvature import Batches, Subspace
from sparse_lib.curvature.exact import by_structure as structured
from sparse_lib.curvature.exact import gauss_newton_part
from sparse_lib.curvature.exact.by_structure import by_structure
from sparse_lib.curvature.stored_parts import Parts
from sparse_lib.masks import Masks, random_masks
from sparse_lib.objective import Objective, cross_entropy

layers = keras.layers


def _sequential(shape, *stack):
    return keras.Sequential([keras.Input(shape), *stack])


def _functional():
    image = keras.Input((6, 6, 2))
    inner = _sequential((4, 4, 3), layers.AveragePooling2D(2), layers.Flatten(), layers.Dense(5, "relu"))
    return keras.Model(image, layers.Dense(3)(layers.Dropout(0.5)(inner(layers.Conv2D(3, 3)(image)))))


def _lenet(**arguments):
    return _sequential(
        (12, 12, 2),
        layers.Conv2D(3, 3, activation="relu", **arguments),
        layers.MaxPooling2D(2),
        layers.Conv2D(4, 2, activation="relu", **arguments),
        layers.MaxPooling2D(2),
        layers.Flatten(),
        layers.Dense(6, "relu", **arguments),
        layers.Dense(5, "relu", **arguments),
        layers.Dense(3, **arguments),
    )


CHAINS = {
    "logistic regression": lambda: _sequential((6,), layers.Dense(3)),
    "mlp": lambda: _sequential((6,), layers.Dense(7, "relu"), layers.Dense(5, "relu"), layers.Dense(3)),
    "deep mlp, slopes": lambda: _sequential(
        (6,),
        layers.Dense(5, "leaky_relu"),
        layers.Dense(6, activation=layers.LeakyReLU(0.2)),
        layers.Dense(4),
        layers.ReLU(max_value=1.0, negative_slope=0.1),
        layers.Dense(5, "relu6", use_bias=False),
        layers.Dense(3, use_bias=False),
    ),
    "lenet": _lenet,
    "lenet without biases": lambda: _lenet(use_bias=False),
    "strided, dilated, padded": lambda: _sequential(
        (9, 8, 2),
        layers.Conv2D(3, (3, 2), strides=2, padding="same", activation="relu"),
        layers.ZeroPadding2D((1, 2)),
        layers.Conv2D(4, (2, 3), dilation_rate=(1, 2), padding="same", activation="relu"),
        layers.Conv2D(2, 2, strides=(1, 2)),
        layers.GlobalAveragePooling2D(),
        layers.Dense(4, "relu"),
        layers.Dense(3),
    ),
    "overlapping pools": lambda: _sequential(
        (9, 9, 2),
        layers.Conv2D(3, 2, activation="relu"),
        layers.MaxPooling2D(3, 2, "same"),
        layers.MaxPooling2D(2, 1),
        layers.Conv2D(4, 1),
        layers.MaxPooling2D((2, 1)),
        layers.Activation("relu"),
        layers.Flatten(),
        layers.Dense(3),
    ),
    "batch norm": lambda: _sequential(
        (7, 7, 2),
        layers.Conv2D(3, 3, use_bias=False),
        layers.BatchNormalization(axis=3),
        layers.ReLU(),
        layers.MaxPooling2D(2),
        layers.BatchNormalization(scale=False),
        layers.Conv2D(4, 2),
        layers.ReLU(),
        layers.Flatten(),
        layers.Dense(5),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Dense(4, "relu"),
        layers.BatchNormalization(center=False),
        layers.Dense(3),
    ),
    "flattened first": lambda: _sequential(
        (5, 5, 2),
        layers.Conv2D(3, 3),
        layers.AveragePooling2D(2, 1),
        layers.Flatten(),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Flatten(),
        layers.Dense(4),
        layers.ReLU(),
        layers.BatchNormalization(),
        layers.Dense(3),
    ),
    "functional, nested": _functional,
}


def _fill(model, seed=0):
    rng = np.random.default_rng([7, seed])
    for variable in model.variables:
        if "seed" not in variable.path:
            value = rng.standard_normal(variable.shape) * 0.6
            variable.assign(np.abs(value) + 0.3 if "variance" in variable.path else value)
    return model


def _data(model, examples=11, seed=0):
    rng = np.random.default_rng([8, seed])
    classes = model.output_shape[-1]
    return rng.standard_normal((examples, *model.input_shape[1:])), rng.integers(0, classes, examples)


def _sparse(model, sparsity, seed=0):
    kernels = [v for v in model.trainable_variables if len(v.shape) > 1]
    active = [max(1, round(float(np.prod(k.shape)) * (1 - sparsity))) for k in kernels]
    return Masks(kernels, random_masks([k.shape for k in kernels], active, seed))


def _dense_hessian(objective, params, x, y, subspace):
    """All rows at once, by differentiating the gradient of the whole batch."""

    @tf.function(autograph=False)
    def rows():
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(params)
            gradient = subspace.gather(objective.gradient(params, tf.cast(x, params[0].dtype), tf.constant(y)))
        parts = tape.jacobian(gradient, params, unconnected_gradients="zero", experimental_use_pfor=False)
        return subspace.gather([tf.reshape(h, [subspace.size, *p.shape]) for h, p in zip(parts, params, strict=True)])

    return rows().numpy()


def _eager_rows(objective, params, x, y, subspace):
    """Product by product, without a graph."""
    units = np.eye(subspace.size)
    rows = [objective.hvp(params, tf.constant(x), tf.constant(y), subspace.scatter(tf.constant(e))) for e in units]
    return np.stack([subspace.gather(row) for row in rows])


def _both(model, x, y, subspace, dtype="float64", batch_size=4, truth=_dense_hessian, **arguments):
    objective = Objective(model)
    params = [tf.cast(p, dtype) for p in objective.params()]
    with precision.arithmetic(model, dtype):
        matrix, error = by_structure(
            objective,
            params,
            Batches.of((x, y), batch_size),
            subspace,
            parts=Parts(None),
            progress=lambda done, total: None,
            **arguments,
        )
        return matrix, error, truth and truth(objective, params, x, y, subspace)


def _assert_equal(found, true, tolerance=1e-12):
    assert np.abs(true).max() > 1e-3
    np.testing.assert_array_equal(found, found.T)
    np.testing.assert_allclose(found, true, rtol=0, atol=tolerance * np.abs(true).max())


# What these have in common with others, and with random chains, is left to the slow tests.
LONG = ("batch norm", "lenet without biases", "overlapping pools")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LONG)) for n in CHAINS])
def test_equals_the_dense_hessian(name):
    model = _fill(CHAINS[name]())
    found, error, true = _both(model, *_data(model), Subspace.all(model))
    _assert_equal(found, true)
    assert error < 1e-13


@pytest.mark.parametrize(
    ("name", "sparsity"), [("mlp", 0.9), ("lenet", 0.98), pytest.param("batch norm", 0.95, marks=pytest.mark.slow)]
)
def test_on_active_weights_it_equals_the_dense_hessian_there(name, sparsity):
    model = _fill(CHAINS[name]())
    # In a mask of 98% some units have no input at all: their pre-activation is their bias, or exactly zero.
    masks = _sparse(model, sparsity)
    subspace = Subspace.active(model, masks)
    found, _, true = _both(model, *_data(model), subspace)
    _assert_equal(found, true)


@pytest.mark.parametrize(
    "pattern", ["*bias", *(pytest.param(p, marks=pytest.mark.slow) for p in ("*kernel", "dense*"))]
)
def test_a_part_of_the_layers(pattern):
    model = _fill(_lenet())
    subspace = Subspace.all(model).only(lambda name: bool(pattern.strip("*") in name))
    found, _, true = _both(model, *_data(model), subspace)
    _assert_equal(found, true)


def test_frozen_layers_below_between_and_above():
    model = _fill(
        _sequential(
            (6, 6, 1),
            layers.Rescaling(0.5),
            layers.Conv2D(2, 3, activation="tanh"),
            layers.Conv2D(3, 2, activation="relu"),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(4, "relu"),
            layers.Dense(5, "relu"),
            layers.Dense(3),
        )
    )
    for place in (1, 3, 5, 7):
        model.layers[place].trainable = False
    found, _, true = _both(model, *_data(model), Subspace.all(model))
    _assert_equal(found, true)


def test_ties_and_kinks_follow_tensorflow():
    """Units at exactly zero, and constant images, whose pooling windows tie everywhere."""
    model = _fill(_lenet())
    for variable in model.trainable_variables[1::2]:
        variable.assign(np.where(np.arange(variable.shape[0]) % 2, variable, 0))
    kernel = model.trainable_variables[4]
    kernel.assign(np.where(np.arange(kernel.shape[1]) % 2, kernel, 0))
    x, y = _data(model)
    x[:5] = np.round(x[:5])
    x[5:] = 0.5
    found, _, true = _both(model, x, y, Subspace.all(model))
    _assert_equal(found, true)


def test_pools_that_keep_their_size():
    """In a graph TensorFlow's MaxPoolGradGrad overwrites what it reads where input and output have one shape."""
    model = _fill(
        _sequential(
            (5, 5, 1),
            layers.Conv2D(2, 2, use_bias=False),
            layers.MaxPooling2D(3, 1, "same"),
            layers.MaxPooling2D(1),
            layers.MaxPooling2D(2, padding="same"),
            layers.Conv2D(2, 2, activation="relu"),
            layers.Flatten(),
            layers.Dense(3),
        )
    )
    found, _, true = _both(model, *_data(model), Subspace.all(model), truth=_eager_rows)
    _assert_equal(found, true)


def test_variables_in_another_order_than_the_layers(monkeypatch):
    model = _fill(_lenet())
    variables = model.trainable_variables[::-1]
    monkeypatch.setattr(keras.Sequential, "trainable_variables", variables)
    found, _, true = _both(model, *_data(model), Subspace.all(model))
    assert model.trainable_variables[0].shape == (3,)
    _assert_equal(found, true)


def _random_chain(seed):
    rng = np.random.default_rng([9, seed])
    size, stack = int(rng.integers(7, 10)), []
    for _ in range(rng.integers(0, 3)):
        stack.append(
            layers.Conv2D(
                int(rng.integers(1, 4)),
                int(rng.integers(1, 4)),
                strides=int(rng.integers(1, 3)),
                padding=str(rng.choice(["same", "valid"])),
                activation=str(rng.choice(["relu", "linear"])),
                use_bias=bool(rng.integers(2)),
            )
        )
        if rng.integers(2):
            stack.append(layers.BatchNormalization())
        if rng.integers(2):
            stack.append(layers.MaxPooling2D(int(rng.integers(2, 4)), 2, str(rng.choice(["same", "valid"]))))
    stack.append(layers.Flatten())
    for _ in range(rng.integers(0, 3)):
        stack.append(layers.Dense(int(rng.integers(1, 6)), "relu", use_bias=bool(rng.integers(2))))
    return _sequential((size, size, int(rng.integers(1, 3))), *stack, layers.Dense(int(rng.integers(2, 5))))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [pytest.param(n, marks=[pytest.mark.slow] * (n > 3)) for n in range(12)])
def test_random_chains(seed):
    model = _fill(_random_chain(seed), seed)
    x, y = _data(model, 5, seed)
    # Without a graph: images may shrink to one pixel, which a pool leaves at its size.
    subspace = Subspace.active(model, _sparse(model, 0.5, seed))
    found, _, true = _both(model, x, y, subspace, batch_size=3, truth=_eager_rows)
    np.testing.assert_allclose(found, true, rtol=0, atol=1e-12 * max(np.abs(true).max(), 1e-3))


def test_float32_is_as_exact_as_float32():
    model = _fill(_lenet())
    x, y = _data(model)
    true = _both(model, x, y, Subspace.all(model), truth=None)[0]
    found = _both(model, x.astype(np.float32), y, Subspace.all(model), dtype="float32", truth=None)[0]
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, true, rtol=0, atol=3e-6 * np.abs(true).max())
    assert np.abs(found - true).max() > 1e-12 * np.abs(true).max()


@pytest.mark.slow
def test_pieces_of_batches_add_up(monkeypatch):
    model = _fill(CHAINS["lenet"]())
    x, y = _data(model)
    whole = _both(model, x, y, Subspace.all(model), batch_size=11, truth=None)[0]
    monkeypatch.setattr("sparse_lib.curvature.exact.accumulator.WORKSPACE", 50_000)
    monkeypatch.setattr(structured, "CHECKED_EXAMPLES", 2)
    found = _both(model, x, y, Subspace.all(model), batch_size=9, truth=None)[0]
    _assert_equal(found, whole)


@pytest.mark.parametrize("scale", [1.0, 30.0, 1000.0])
def test_softmax_factor(scale):
    rng = np.random.default_rng(0)
    logits = tf.constant(scale * rng.standard_normal((6, 4)))
    factor = gauss_newton_part.softmax_factor(logits).numpy()
    assert factor.shape == (3, 6, 4)
    p = tf.nn.softmax(logits).numpy()
    true = [np.diag(q) - np.outer(q, q) for q in p]
    np.testing.assert_allclose(np.einsum("kni,knj->nij", factor, factor), true, atol=1e-15)


class _Doubled(layers.Dense):
    def call(self, inputs):
        return 2 * super().call(inputs)


class _Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden, self.head = layers.Dense(4, "relu"), layers.Dense(3)

    def call(self, inputs):
        return self.head(self.hidden(inputs))


def _subclassed():
    model = _Subclassed()
    model(tf.zeros((1, 6)))
    return model


def _residual():
    features = keras.Input((6,))
    hidden = layers.Dense(6, "relu")(features)
    return keras.Model(features, layers.Dense(3)(layers.Add()([features, hidden])))


def _shared():
    features, shared = keras.Input((6,)), layers.Dense(6, "relu")
    return keras.Model(features, layers.Dense(3)(shared(shared(features))))


def _dropping_always():
    features = keras.Input((6,))
    return keras.Model(features, layers.Dense(3)(layers.Dropout(0.5)(layers.Dense(6)(features), training=True)))


def _lora():
    model = _sequential((6,), layers.Dense(5, "relu"), layers.Dense(3))
    model.layers[0].enable_lora(2)
    return model


NO_CHAINS = {
    "smooth activation": (lambda: _sequential((6,), layers.Dense(4, "tanh"), layers.Dense(3)), "activation"),
    "smooth activation layer": (
        lambda: _sequential((6,), layers.Dense(4), layers.Activation("gelu"), layers.Dense(3)),
        "activation",
    ),
    "probabilities": (lambda: _sequential((6,), layers.Dense(3, "softmax")), "activation"),
    "own layer": (lambda: _sequential((6,), _Doubled(4, "relu"), layers.Dense(3)), "another kind"),
    "own model": (_subclassed, "neither sequential nor functional"),
    "layer norm": (
        lambda: _sequential((6,), layers.Dense(4), layers.LayerNormalization(), layers.Dense(3)),
        "another kind",
    ),
    "normalises units": (
        lambda: _sequential((6,), layers.Dense(4), layers.UnitNormalization(), layers.Dense(3)),
        "not piecewise linear",
    ),
    "other axis": (
        lambda: _sequential(
            (4, 4, 2), layers.Conv2D(2, 2), layers.BatchNormalization(axis=1), layers.Flatten(), layers.Dense(3)
        ),
        "does not normalize the last axis",
    ),
    "groups": (
        lambda: _sequential((4, 4, 2), layers.Conv2D(2, 2, groups=2), layers.Flatten(), layers.Dense(3)),
        "not piecewise linear",
    ),
    "dense in places": (
        lambda: _sequential((4, 4, 2), layers.Dense(3, "relu"), layers.Flatten(), layers.Dense(3)),
        "not applied to vectors",
    ),
    "reshaped": (
        lambda: _sequential((6,), layers.Dense(4), layers.Reshape((2, 2)), layers.Flatten(), layers.Dense(3)),
        "not piecewise linear",
    ),
    "sum": (_residual, "something else"),
    "shared": (_shared, "more than once"),
    "always drops": (_dropping_always, "arguments beside its input"),
    "adapted": (_lora, "kind"),
    "no vector": (lambda: _sequential((4, 4, 2), layers.Conv2D(3, 2)), "one vector"),
}


def _chain_error(model, loss=None, x=None, **arguments):
    objective = Objective(model, loss)
    x = np.zeros((2, *(model.input_shape[1:] if hasattr(model, "input_shape") else (6,)))) if x is None else x
    with pytest.raises(NoChainError) as caught:
        by_structure(
            objective,
            objective.params(),
            Batches.of((x, np.zeros(2, int)), 2),
            Subspace.all(model),
            parts=Parts(None),
            progress=lambda done, total: None,
            **arguments,
        )
    return str(caught.value)


@pytest.mark.parametrize("name", NO_CHAINS)
def test_other_models_are_no_chains(name):
    make, words = NO_CHAINS[name]
    assert words in _chain_error(make())


def test_other_losses_and_inputs_are_no_chains():
    model = CHAINS["mlp"]()
    assert "loss" in _chain_error(model, lambda y, z: 2 * cross_entropy(y, z))
    assert "rank" in _chain_error(model, x=np.zeros((2, 6, 1)))


def test_in_training_mode_only_layers_that_do_not_care_are_chains():
    assert "training" in _chain_error(CHAINS["functional, nested"](), training=True)
    assert "training" in _chain_error(CHAINS["batch norm"](), training=True)
    model = _fill(_lenet())
    found, _, true = _both(model, *_data(model), Subspace.all(model), training=True)
    _assert_equal(found, true)


def test_a_wrong_structure_is_noticed(monkeypatch):
    """If a map were wrong, the product on the first examples would tell."""
    monkeypatch.setattr(structured.HessianTotal, "product", lambda self, v: np.ones_like(v))
    assert "differs from a Hessian-vector product" in _chain_error(_fill(_lenet()))
