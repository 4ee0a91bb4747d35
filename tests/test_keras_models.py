"""Every kind of Keras model and every way to train one: sparsify, SparseOptimizer, fit."""

import functools
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import sparse_lib
from sparse_lib.structures import NM, UNSTRUCTURED, ConstantFanIn
from tests.replicas import two_replicas
from tests.subclassed import Subclassed

layers = keras.layers
SPARSITY = 0.5


def rigl(**settings) -> sparse_lib.RigL:
    return sparse_lib.RigL(**{"end_step": 100, "frequency": 2, "drop_fraction": 0.5, **settings})


# --- kinds of models: a model, its inputs, and the kernels that are sparse by default ---


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def tokens(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 11, (n, 6))


def dense():
    shared = layers.Dense(6, "relu", name="shared")
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(6, "tanh", name="inside"), layers.BatchNormalization()])
    a, b = keras.Input((4,)), keras.Input((4,))
    merged = layers.Concatenate()([inner(shared(a)), shared(b)])
    model = keras.Model([a, b], layers.Dense(3, name="head")(merged))
    return model, [numbers(16, 4), numbers(16, 4)], {"shared/kernel", "inside/kernel", "head/kernel"}


def subclassed():
    model = Subclassed()
    model(tf.zeros([1, 4]))
    names = {"subclassed/head_kernel", "stem/kernel", "subclassed/block/kernel", "subclassed/block/kernel_1"}
    return model, numbers(16, 4), names


def convolutions_1d():
    model = keras.Sequential(
        [
            keras.Input((12, 4)),
            layers.Conv1D(8, 3, activation="relu", name="conv"),
            layers.DepthwiseConv1D(3, name="depthwise"),
            layers.SeparableConv1D(6, 3, name="separable"),
            layers.Conv1DTranspose(4, 3, name="transposed"),
            layers.GlobalAveragePooling1D(),
            layers.Dense(3, name="head"),
        ]
    )
    names = {"conv/kernel", "separable/pointwise_kernel", "transposed/kernel", "head/kernel"}
    return model, numbers(16, 12, 4), names


def convolutions_2d():
    image = keras.Input((8, 8, 4))
    x = layers.Conv2D(8, 3, groups=2, use_bias=False, name="grouped")(image)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.Add()([x, layers.SeparableConv2D(8, 3, padding="same", name="separable")(x)])
    x = layers.Conv2DTranspose(4, 3, strides=2, name="transposed")(x)
    model = keras.Model(image, layers.Dense(3, name="head")(layers.GlobalMaxPooling2D()(x)))
    names = {"grouped/kernel", "separable/pointwise_kernel", "transposed/kernel", "head/kernel"}
    return model, numbers(16, 8, 8, 4), names


def convolutions_3d():
    model = keras.Sequential(
        [
            keras.Input((5, 5, 5, 2)),
            layers.Conv3D(4, 3, name="conv"),
            layers.Conv3DTranspose(2, 2, name="transposed"),
            layers.Flatten(),
            layers.Dense(3, name="head"),
        ]
    )
    return model, numbers(16, 5, 5, 5, 2), {"conv/kernel", "transposed/kernel", "head/kernel"}


def attention():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(11, 8, name="embedding")(inputs)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 4, name="mha", dropout=0.1)(x, x))
    x = x + layers.GroupQueryAttention(4, 4, 2, name="gqa")(x, x)
    x = layers.EinsumDense("...d,df->...f", 8, bias_axes="f", activation="gelu", name="einsum")(x)
    model = keras.Model(inputs, layers.Dense(3, name="head")(layers.GlobalAveragePooling1D()(x)))
    projections = {f"{part}/{name}" for part in ("mha", "gqa") for name in ("query", "key", "value")}
    paths = {f"{name}/kernel" for name in (*projections, "mha/attention_output", "gqa/attention_output")}
    return model, tokens(16), {*paths, "einsum/kernel", "head/kernel"}


def recurrent():
    inputs = keras.Input((6, 4))
    x = layers.LSTM(4, return_sequences=True, name="lstm")(inputs)
    x = layers.Bidirectional(layers.GRU(3, return_sequences=True), name="both")(x)
    x = layers.TimeDistributed(layers.Dense(4, name="each"))(x)
    model = keras.Model(inputs, layers.Dense(3, name="head")(layers.SimpleRNN(4, name="simple")(x)))
    cells = {f"{cell}/{kind}" for cell in ("lstm_cell", "simple_rnn_cell") for kind in ("kernel", "recurrent_kernel")}
    return model, numbers(16, 6, 4), cells


# What these have in common with others is left to the slow tests.
SHORT = ((dense, UNSTRUCTURED), (subclassed, UNSTRUCTURED), (convolutions_2d, NM(2, 4)))
LONG = (
    *((make, UNSTRUCTURED) for make in (convolutions_1d, convolutions_2d, convolutions_3d, attention, recurrent)),
    *((make, NM(2, 4)) for make in (convolutions_1d, attention, recurrent)),
)


def rows(short, long) -> list:
    return [*short, *(pytest.param(*row, marks=pytest.mark.slow) for row in long)]


def labels(n: int = 16) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 2, n)


def loss() -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def fit(model, x, optimizer, *, epochs: int = 2, y=None, **settings) -> dict[str, list[float]]:
    compiling = {"jit_compile": False} | {k: settings.pop(k) for k in list(settings) if k in COMPILING}
    model.compile(optimizer, loss(), **compiling)
    y = labels() if y is None else y
    return model.fit(x, y, batch_size=4, epochs=epochs, shuffle=False, verbose=0, **settings).history


COMPILING = ("jit_compile", "steps_per_execution", "metrics", "weighted_metrics", "auto_scale_loss")


def arrays(masks: sparse_lib.Masks) -> list[np.ndarray]:
    return [value.numpy() for value in masks.values()]


@pytest.mark.parametrize(("make", "structure"), rows(SHORT, LONG), ids=lambda v: getattr(v, "__name__", str(v)))
def test_three_lines_train_every_kind_of_model(make, structure):
    model, x, names = make()
    before = [v.numpy() for v in model.trainable_variables]
    masks = sparse_lib.sparsify(model, SPARSITY, structure=structure)
    assert names <= {
        name.removeprefix(f"{model.name}/") if "mha" in name or "gqa" in name else name for name in masks.names
    }
    assert not any(part in name for name in masks.names for part in ("bias", "gamma", "embedding", "depthwise"))
    # What is left of pretrained weights is what they were.
    for value, old, mask in zip(
        model.trainable_variables, before, masks.aligned(model.trainable_variables), strict=True
    ):
        np.testing.assert_array_equal(value.numpy(), old if mask is None else np.where(mask, old, 0))
    start, active = arrays(masks), masks.active()
    history = fit(model, x, sparse_lib.SparseOptimizer(keras.optimizers.Adam(0.01), masks, rigl()))
    masks.check()
    assert masks.active() == active
    assert np.all(np.isfinite(history["loss"])) and history["loss"][1] != history["loss"][0]
    moved = [np.any(a != b) for a, b in zip(start, arrays(masks), strict=True)]
    assert any(moved)
    assert all(rule.fits(mask) for rule, mask in zip(masks.structures, masks.values(), strict=True))


def test_an_embedding_is_sparse_if_asked_for():
    model, x, _ = attention()
    masks = sparse_lib.sparsify(model, 0.6, include=("embedding", "head"))
    assert masks.names == ["embedding/embeddings", "head/kernel"]
    active = masks.active()
    fit(model, x, sparse_lib.SparseOptimizer(keras.optimizers.SGD(0.1, momentum=0.9), masks, rigl()))
    masks.check()
    assert masks.active() == active


@pytest.mark.slow
@pytest.mark.parametrize("structure", [UNSTRUCTURED, ConstantFanIn()], ids=str)
def test_an_application_of_keras(structure):
    model = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=3, classifier_activation=None)
    masks = sparse_lib.sparsify(model, 0.8, structure=structure)
    assert masks.sparsity() == pytest.approx(0.8, abs=0.02)
    convolutions = [layer for layer in model.layers if type(layer) is layers.Conv2D]
    assert len(masks) == len(convolutions) + 1
    optimizer = sparse_lib.SparseOptimizer(keras.optimizers.SGD(0.01, momentum=0.9), masks, rigl())
    fit(model, numbers(16, 32, 32, 3), optimizer, epochs=1)
    masks.check()


# --- what fit may be asked for ---


def mlp(updater=None, inner=None, **settings):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(10, "relu", name="hidden"), layers.Dense(3, name="logits")]
    )
    masks = sparse_lib.sparsify(model, SPARSITY, **settings)
    inner = inner or keras.optimizers.SGD(0.1, momentum=0.9)
    return model, sparse_lib.SparseOptimizer(inner, masks, rigl() if updater is None else updater)


X = numbers(16, 6)


def weights(model: keras.Model) -> list[np.ndarray]:
    return [v.numpy() for v in model.trainable_variables]


def test_callbacks_metrics_and_class_weights():
    model, optimizer = mlp()
    rates, sparsities = [], []
    watching = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: (
            rates.append(logs["learning_rate"]),
            sparsities.append(optimizer.masks.sparsity()),
        )
    )
    callbacks = [keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=1, min_delta=99.0), watching]
    history = fit(
        model,
        X,
        optimizer,
        epochs=4,
        metrics=["accuracy"],
        weighted_metrics=["accuracy"],
        class_weight={0: 1.0, 1: 3.0, 2: 1.0},
        validation_data=(X, labels()),
        callbacks=callbacks,
    )
    assert {"accuracy", "weighted_accuracy", "val_accuracy"} <= set(history)
    assert rates[-1] < rates[0] and len(set(sparsities)) == 1
    plain, same = mlp()
    fit(plain, X, same, epochs=4)
    assert np.any(weights(plain)[0] != weights(model)[0])


def test_early_stopping_brings_back_sparse_weights():
    model, optimizer = mlp(rigl(drop_fraction=sparse_lib.schedules.Constant(0.5)))
    seen = []
    watching = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(weights(model)))
    stopping = keras.callbacks.EarlyStopping("loss", patience=2, mode="max", restore_best_weights=True)
    fit(model, X, optimizer, epochs=8, callbacks=[watching, stopping])
    for got, best in zip(weights(model), seen[0], strict=True):
        np.testing.assert_array_equal(got, best)
    # The weights are those of an earlier mask, which they tell.
    masks = optimizer.masks
    with pytest.raises(AssertionError, match="hidden/kernel"):
        masks.check()
    masks.assign([tf.not_equal(kernel.value, 0) for kernel in masks.kernels])
    np.testing.assert_array_equal(weights(model)[0], seen[0][0])


def resumable(seed: int = 0, dropout: float = 0.0) -> tuple[keras.Model, sparse_lib.SparseOptimizer]:
    """A model with a state of everything that has one: averages, dropout, slots, masks, the updater."""
    keras.utils.set_random_seed(seed)
    stack = [keras.Input((6,)), layers.Dense(10), layers.BatchNormalization(), layers.Dropout(dropout, seed=1)]
    model = keras.Sequential([*stack, layers.Dense(3)])
    masks = sparse_lib.sparsify(model, 0.6, structure=ConstantFanIn())
    updater = sparse_lib.SRigL(end_step=100, frequency=3, drop_fraction=0.5, ablation_threshold=0.6)
    return model, sparse_lib.SparseOptimizer(keras.optimizers.Adam(0.01), masks, updater)


def assert_same_state(model, optimizer, other, resumed) -> None:
    states = [
        [v.numpy() for v in [*m.variables, *o.variables]] + arrays(o.masks)
        for m, o in ((model, optimizer), (other, resumed))
    ]
    for a, b in zip(*states, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_checkpoint_goes_on_bit_by_bit(tmp_path):
    def checkpoint(model, optimizer):
        # Keras leaves the counters of dropout out of TensorFlow's checkpoints.
        counters = [v.value for v in model.non_trainable_variables]
        return tf.train.Checkpoint(model=model, masks=optimizer.masks, optimizer=optimizer, counters=counters)

    model, optimizer = resumable(dropout=0.3)
    fit(model, X, optimizer)
    path = checkpoint(model, optimizer).write(str(tmp_path / "ckpt"))
    other, resumed = resumable(seed=7, dropout=0.3)
    resumed.build(other.trainable_variables)
    checkpoint(other, resumed).read(path).assert_consumed()
    fit(model, X, optimizer)
    fit(other, X, resumed)
    assert int(resumed.iterations.numpy()) == 16
    assert_same_state(model, optimizer, other, resumed)


@pytest.mark.slow
def test_a_backup_goes_on_bit_by_bit(tmp_path):
    class Killed(Exception):
        pass

    def kill(epoch, logs):
        if epoch == 2:
            raise Killed

    def run(*callbacks, seed=0):
        model, optimizer = resumable(seed)
        fit(model, X, optimizer, epochs=4, callbacks=list(callbacks))
        return model, optimizer

    with pytest.raises(Killed):
        run(
            keras.callbacks.BackupAndRestore(tmp_path / "backup"),
            keras.callbacks.LambdaCallback(on_epoch_begin=kill),
        )
    assert_same_state(*run(), *run(keras.callbacks.BackupAndRestore(tmp_path / "backup"), seed=7))


def test_averages_of_weights_are_sparse():
    model, optimizer = mlp(inner=keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9))
    last = []
    watching = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: last.append(weights(model)[0]))
    fit(model, X, optimizer, callbacks=[watching])
    optimizer.masks.check()
    assert np.any(weights(model)[0] != last[-1])


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"jit_compile": True}, {"steps_per_execution": 4}], ids=str)
def test_compiled_attention_equals_a_plain_graph(settings):
    results = []
    for how in ({}, settings):
        keras.utils.set_random_seed(3)
        image = keras.Input((6, 8))
        x = layers.MultiHeadAttention(2, 4)(image, image)
        model = keras.Model(image, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))
        masks = sparse_lib.sparsify(model, SPARSITY, structure=NM(2, 4))
        fit(model, numbers(16, 6, 8), sparse_lib.SparseOptimizer(keras.optimizers.SGD(0.1), masks, rigl()), **how)
        masks.check()
        results.append(weights(model))
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def under(policy: str, scope=None, **settings):
    """An MLP of a number format, with its optimizer and what fit returns."""
    keras.config.set_dtype_policy(policy)
    try:
        with (scope or tf.distribute.get_strategy()).scope():
            model, optimizer = mlp()
            history = fit(model, X, optimizer, epochs=3, **settings)
    finally:
        keras.config.set_dtype_policy("float32")
    return model, optimizer, history


@functools.cache
def in_float32():
    return under("float32")


def test_bfloat16_in_fit():
    model, optimizer, _ = under("mixed_bfloat16")
    assert model.layers[0].compute_dtype == "bfloat16" and model.trainable_variables[0].dtype == "float32"
    optimizer.masks.check()
    exact, expected, _ = in_float32()
    np.testing.assert_allclose(weights(model)[1], weights(exact)[1], atol=0.02)
    assert optimizer.masks.active() == expected.masks.active()


def test_float16_with_loss_scaling_around_it():
    model, optimizer, _ = under("mixed_float16")
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert model.optimizer.inner_optimizer is optimizer
    optimizer.masks.check()
    exact, expected, _ = in_float32()
    np.testing.assert_allclose(weights(model)[1], weights(exact)[1], atol=0.02)
    assert optimizer.masks.active() == expected.masks.active()


def test_an_overflow_in_float16_changes_nothing():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model, optimizer = mlp(rigl(begin_step=0))
    finally:
        keras.config.set_dtype_policy("float32")
    scaled = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0**40)
    before, masks = weights(model), arrays(optimizer.masks)
    fit(model, X, scaled, epochs=1)
    assert int(optimizer.iterations.numpy()) == 0 and float(scaled.dynamic_scale.numpy()) == 2.0**36
    for a, b in zip([*before, *masks], [*weights(model), *arrays(optimizer.masks)], strict=True):
        np.testing.assert_array_equal(a, b)
    fit(model, X, scaled, epochs=8)
    assert int(optimizer.iterations.numpy()) > 4
    optimizer.masks.check()


@pytest.mark.slow
def test_loss_scaling_with_replicas_is_refused():
    with pytest.raises(ValueError, match="Loss scaling .* first replica alone.*mixed_bfloat16"):
        under("mixed_float16", two_replicas())
    _, optimizer, _ = under("mixed_float16", two_replicas(), auto_scale_loss=False)
    optimizer.masks.check()


@pytest.mark.slow
def test_replicas_train_what_one_device_trains():
    results = []
    for strategy in (tf.distribute.get_strategy(), two_replicas()):
        with strategy.scope():
            keras.utils.set_random_seed(5)
            image = keras.Input((8, 8, 4))
            x = layers.ReLU()(layers.Conv2D(8, 3, name="conv")(image))
            x = layers.Conv2DTranspose(4, 3, name="transposed")(x)
            model = keras.Model(image, layers.Dense(3, name="head")(layers.GlobalAveragePooling2D()(x)))
            masks = sparse_lib.sparsify(model, structure=NM(2, 4))
            optimizer = sparse_lib.SparseOptimizer(keras.optimizers.SGD(0.1, momentum=0.9), masks, rigl())
            fit(model, numbers(16, 8, 8, 4), optimizer)
        masks.check()
        results.append(weights(model))
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_custom_loop_over_a_nested_model():
    model, x, _ = dense()
    masks = sparse_lib.sparsify(model, SPARSITY)
    optimizer = sparse_lib.SparseOptimizer(keras.optimizers.AdamW(0.01), masks, rigl())
    data = tf.data.Dataset.from_tensor_slices((tuple(x), labels())).batch(4)

    @tf.function
    def step(inputs, targets):
        with tf.GradientTape() as tape:
            value = loss()(targets, model(inputs, training=True))
        optimizer.apply_gradients(
            zip(tape.gradient(value, model.trainable_variables), model.trainable_variables, strict=True)
        )
        return value

    losses = [float(step(inputs, targets)) for _ in range(15) for inputs, targets in data]
    masks.check()
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    assert max(masks.exploration_rate()) > 1 - SPARSITY


# --- files ---


@pytest.mark.parametrize(
    "make", rows([dense], [(convolutions_2d,), (attention,), (recurrent,)]), ids=lambda make: make.__name__
)
def test_a_saved_model_is_a_plain_one(make, tmp_path):
    model, x, _ = make()
    masks = sparse_lib.sparsify(model, SPARSITY)
    fit(model, x, sparse_lib.SparseOptimizer(keras.optimizers.SGD(0.1), masks, rigl()), epochs=1)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_allclose(loaded.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-5, atol=1e-6)
    onto = sparse_lib.transfer_masks(masks, loaded)
    onto.check()
    for mine, theirs in zip(onto.kernels, masks.kernels, strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())


@pytest.mark.slow
def test_a_saved_model_needs_nothing_of_this_library(tmp_path):
    model, optimizer = mlp()
    fit(model, X, optimizer, epochs=1)
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "expected.npz", x=X, y=model.predict(X, verbose=0))
    program = """
import sys, keras, numpy as np
data = np.load('expected.npz')
model = keras.models.load_model('model.keras', compile=False)
np.testing.assert_allclose(model.predict(data['x'], verbose=0), data['y'], rtol=1e-5, atol=1e-6)
assert not any(name.startswith('sparse_lib') for name in sys.modules)
assert np.mean(model.layers[0].kernel.numpy() == 0) > 0.3
"""
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
