"""Models of all kinds under sparse execution, against their dense execution, and what stays dense."""

import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

import sparse_lib
from sparse_lib.execution import Execution, library
from tests.replicas import two_replicas

layers = keras.layers


@pytest.fixture(autouse=True)
def unoptimized_graphs():
    """Leaves graphs as they are traced: optimizing them takes longer than to run them here."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})


def make_vgg():
    blocks = [layers.Conv2D(6, 3, padding="same", activation="relu") for _ in range(3)]
    pooled = [layers.MaxPooling2D(), blocks[2], layers.BatchNormalization(), layers.MaxPooling2D(), layers.Flatten()]
    return keras.Sequential([keras.Input((8, 8, 3)), *blocks[:2], *pooled, layers.Dense(7, "relu"), layers.Dense(3)])


def make_odd():
    stack = [
        layers.Conv2D(5, (5, 2), strides=(3, 2), padding="same", activation="tanh"),
        layers.Conv2D(4, (1, 3), padding="valid", dilation_rate=(1, 1), strides=(2, 1)),
        layers.Conv2D(6, 1, strides=2),
        layers.Flatten(),
        layers.Dense(3),
    ]
    return keras.Sequential([keras.Input((11, 13, 3)), *stack])


def make_autoencoder():
    stack = [
        layers.Conv2D(6, 3, strides=2, padding="same", activation="relu"),
        layers.Conv2DTranspose(4, 3, strides=2, padding="same", activation="relu", name="up"),
        layers.Conv2D(3, 3, padding="same"),
    ]
    return keras.Sequential([keras.Input((8, 8, 3)), *stack])


def make_attention():
    inputs = keras.Input((5, 8))
    attended = layers.MultiHeadAttention(2, 3, name="attention")(inputs, inputs)
    einsum = layers.EinsumDense("abc,cde->abde", (5, 2, 3), bias_axes="de", name="heads")(attended)
    back = layers.EinsumDense("abde,dec->abc", (5, 6), name="back")(einsum)
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(back)))


class Shared(keras.Model):
    """A subclassed model that calls one layer three times."""

    def __init__(self):
        super().__init__()
        self.stem, self.block, self.head = layers.Dense(7), layers.Dense(7), layers.Dense(3)

    def call(self, x):
        x = self.stem(x)
        for _ in range(3):
            x = keras.ops.tanh(self.block(x))
        return self.head(x)


def make_shared():
    model = Shared()
    model(np.zeros((1, 6), np.float32))
    return model


MODELS = {
    "vgg": (make_vgg, (8, 8, 3), (3,)),
    "odd": (make_odd, (11, 13, 3), (3,)),
    "autoencoder": (make_autoencoder, (8, 8, 3), (8, 8, 3)),
    "attention": (make_attention, (5, 8), (3,)),
    "shared": (make_shared, (6,), (3,)),
}
FAST = ("attention",)


def build(name, mode):
    keras.utils.set_random_seed(3)
    make, inputs, outputs = MODELS[name]
    model = make()
    masks = sparse_lib.sparsify(model, 0.7, execution=mode)
    rng = np.random.default_rng(0)
    data = [rng.normal(size=(21, *shape)).astype("float32") for shape in (inputs, outputs)]
    return model, masks, data


def fit(name, mode):
    model, masks, (x, y) = build(name, mode)
    updater = sparse_lib.RigL(frequency=2, end_step=100)
    model.compile(sparse_lib.SparseOptimizer(keras.optimizers.SGD(0.05, momentum=0.9), masks, updater), "mse")
    losses = model.fit(x, y, batch_size=7, epochs=2, shuffle=False, verbose=0).history["loss"]
    return losses, [v.numpy() for v in model.variables], [m.numpy() for m in masks.values()], masks


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in MODELS])
def test_training_equals_dense_training(name):
    dense, sparse = (fit(name, mode) for mode in ("dense", "sparse"))
    np.testing.assert_allclose(dense[0], sparse[0], rtol=1e-5)
    for one, other in zip(dense[1], sparse[1], strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    for one, other in zip(dense[2], sparse[2], strict=True):
        np.testing.assert_array_equal(one, other)
    explained = {kernel.name: str(kernel) for kernel in sparse[3].execution.explain()}
    is_dense = {n: text for n, text in explained.items() if text.startswith("dense: ")}
    up = {"up/kernel": "dense: no sparse product for kernel of Conv2DTranspose"}
    if name == "attention":
        # Its output projection is a matrix product too.
        assert not is_dense
    else:
        assert is_dense == (up if name == "autoencoder" else {})


def run_loop(mode):
    """Trains in a loop of its own, traced once; returns losses, weights, masks and the types of operations."""
    model, masks, (x, y) = build("shared", mode)
    updater = sparse_lib.RigL(frequency=2, end_step=100)
    optimizer = sparse_lib.SparseOptimizer(keras.optimizers.SGD(0.05, momentum=0.9), masks, updater)
    optimizer.build(model.trainable_variables)
    traces = []

    @tf.function(autograph=False)
    def step(x, y):
        traces.append(None)
        with optimizer.execute(), tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x) - y) ** 2)
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    x, y = tf.constant(x), tf.constant(y)
    losses = [float(step(x, y)) for _ in range(7)]
    types = {operation.type for operation in step.get_concrete_function(x, y).graph.get_operations()}
    assert len(traces) == 1
    return losses, [v.numpy() for v in model.variables], [m.numpy() for m in masks.values()], types


def test_custom_loop_at_update_steps_equals_dense_loop():
    dense, sparse = run_loop("dense"), run_loop("sparse")
    np.testing.assert_allclose(dense[0], sparse[0], rtol=1e-5)
    for one, other in zip(dense[1], sparse[1], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    for one, other in zip(dense[2], sparse[2], strict=True):
        np.testing.assert_array_equal(one, other)
    assert "SparseLibMatmul" in sparse[3] - dense[3]


def test_fit_traces_once_and_keras_tools_are_unharmed(tmp_path, monkeypatch):
    calls, call = [], Shared.call
    monkeypatch.setattr(Shared, "call", lambda self, x: calls.append(None) or call(self, x))
    model, masks, (x, y) = build("shared", "sparse")
    optimizer = sparse_lib.SparseOptimizer(keras.optimizers.SGD(0.05), masks, sparse_lib.SET(frequency=2, end_step=50))
    model.compile(optimizer, "mse")
    board = keras.callbacks.TensorBoard(tmp_path / "board", histogram_freq=1, profile_batch=(1, 2))
    model.fit(x, y, batch_size=7, epochs=2, verbose=0, callbacks=[board])
    traced = len(calls)
    model.fit(x, y, batch_size=7, epochs=2, verbose=0)
    assert len(calls) == traced
    assert list((tmp_path / "board").rglob("*.xplane.pb"))


def test_clones_are_dense():
    model, _, (x, _) = build("vgg", "sparse")
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    assert "train_step" not in clone.__dict__
    np.testing.assert_allclose(clone.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-5)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: layers.Dense(4, dtype="mixed_bfloat16"), "dense: computes in bfloat16"),
        (lambda: layers.Conv2DTranspose(4, 2), "dense: no sparse product for kernel of Conv2DTranspose"),
        (lambda: layers.Conv2D(4, 2, groups=2), "dense: quantized, or with LoRA, groups or channels first"),
        (lambda: layers.Dense(4, kernel_constraint="non_neg"), "dense: its kernel has a constraint"),
    ],
    ids=["bfloat16", "transposed", "groups", "constraint"],
)
def test_layers_that_stay_dense_are_named(make, reason):
    model = keras.Sequential([keras.Input((4, 4, 2)), make()])
    masks = sparse_lib.sparsify(model, 0.8, execution="sparse")
    assert [str(kernel) for kernel in masks.execution.explain()] == [reason]
    assert np.isfinite(model.predict(np.ones((2, 4, 4, 2)), verbose=0)).all()


def make_dense_model():
    model = keras.Sequential([keras.Input((20,)), layers.Dense(10)])
    return model, sparse_lib.sparsify(model, 0.9)


def test_methods_that_need_dense_gradients_are_named():
    model, _ = make_dense_model()
    masks = sparse_lib.sparsify(model, 0.8, execution="sparse")
    optimizer = sparse_lib.SparseOptimizer(
        keras.optimizers.SGD(0.1), masks, sparse_lib.SNFS(redistribute=False, end_step=100)
    )
    optimizer.build(model.trainable_variables)
    (kernel,) = masks.execution.explain()
    assert str(kernel) == "dense: SNFS uses gradients of inactive weights at every step"
    assert masks.execution.limits(trains=False) == [1.0]


def test_xla_and_a_missing_library_say_one_sentence(monkeypatch):
    model, masks = make_dense_model()
    execution = Execution(model, masks, "auto", jit_compile=True)
    assert [str(kernel) for kernel in execution.explain()] == ["dense: XLA is asked for"]
    with pytest.raises(ValueError, match=r"^Sparse execution is not possible here: XLA is asked for; use execution="):
        Execution(model, masks, "sparse", jit_compile=True)
    monkeypatch.setattr(library, "reason", lambda: "The library is not built")
    assert [str(kernel) for kernel in Execution(model, masks).explain()] == ["dense: The library is not built"]
    with pytest.raises(ValueError, match=r"^Sparse execution is not possible here: The library is not built; use"):
        sparse_lib.sparsify(model, 0.8, execution="sparse")


def test_fit_under_xla_is_dense():
    model, masks, (x, y) = build("shared", "sparse")
    model.compile(sparse_lib.SparseOptimizer(keras.optimizers.SGD(0.1), masks), "mse", jit_compile=True)
    assert np.isfinite(model.fit(x, y, batch_size=7, verbose=0).history["loss"]).all()
    masks.check()


def test_several_replicas_are_dense():
    with two_replicas().scope():
        model, masks = make_dense_model()
        execution = Execution(model, masks)
        assert [str(kernel) for kernel in execution.explain()] == ["dense: sparse products run on one replica only"]
        model.compile(sparse_lib.SparseOptimizer(keras.optimizers.SGD(0.1), masks), "mse")
    model.fit(np.eye(20), np.eye(20)[:, :10], batch_size=10, verbose=0)
    masks.check()


def test_masks_do_not_keep_their_model_alive():
    model = keras.Sequential([keras.Input((20,)), layers.Dense(10)])
    masks = sparse_lib.sparsify(model, 0.9, execution="auto")
    held = weakref.ref(model)
    del model
    gc.collect()
    assert held() is None
    assert len(masks.execution.explain()) == 1


def test_a_step_that_the_caller_set_is_kept():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    steps, x = [], np.ones((2, 4), np.float32)

    def predict_step(data):
        steps.append(1)
        return type(model).predict_step(model, data)

    model.predict_step = predict_step
    for _ in range(2):
        sparse_lib.sparsify(model, 0.5, execution="sparse")
    model.predict(x, verbose=0)
    assert steps
    assert sparse_lib.strip(model).predict_step is predict_step
