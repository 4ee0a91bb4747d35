"""SparseOptimizer inside Keras and tf.distribute: fit, callbacks, files, strategies, and what it refuses."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from sparse_lib import updaters
from sparse_lib.masks import Masks, random_masks
from sparse_lib.optimizer import SparseOptimizer
from tests.replicas import two_replicas

RIGL = updaters.RigL(end_step=100, frequency=3, drop_fraction=0.5)
SCHEDULE = keras.optimizers.schedules.ExponentialDecay(0.1, 5, 0.5)


def data(n: int = 48) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 6)).astype("float32")
    return x, (x[:, :3].argmax(-1)).astype("int32")


def make(inner=None, updater=RIGL, seed: int = 0, **kwargs) -> tuple[keras.Model, SparseOptimizer]:
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(10, "relu", name="hidden"), keras.layers.Dense(3, name="logits")]
    )
    kernels = [v for v in model.trainable_variables if len(v.shape) == 2]
    values = random_masks([k.shape for k in kernels], [20, 12], seed)
    masks = Masks(kernels, [tf.constant(v) for v in values], ["hidden", "logits"])
    inner = keras.optimizers.SGD(SCHEDULE, momentum=0.9) if inner is None else inner
    return model, SparseOptimizer(inner, masks, updater, **kwargs)


def loss() -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def gradients(model: keras.Model) -> list[tf.Tensor]:
    x, y = data()
    with tf.GradientTape() as tape:
        value = loss()(y, model(x))
    return tape.gradient(value, model.trainable_variables)


def fitted(strategy=None, **compile_settings) -> tuple[keras.Model, SparseOptimizer]:
    with (strategy or tf.distribute.get_strategy()).scope():
        model, optimizer = make()
        model.compile(optimizer, loss(), **compile_settings)
    x, y = data()
    model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    return model, optimizer


@pytest.fixture(scope="module")
def by_hand() -> list[np.ndarray]:
    model, optimizer = make()
    x, y = data()
    for start in [*range(0, 48, 8)] * 2:
        with tf.GradientTape() as tape:
            value = loss()(y[start : start + 8], model(x[start : start + 8]))
        optimizer.apply(tape.gradient(value, model.trainable_variables), model.trainable_variables)
    assert int(optimizer.iterations.numpy()) == 12
    return [v.numpy() for v in model.trainable_variables]


@pytest.mark.parametrize(
    ("scope", "settings"),
    [
        (None, {"run_eagerly": True}),
        (None, {"jit_compile": False}),
        (None, {"jit_compile": True}),
        pytest.param(None, {"jit_compile": False, "steps_per_execution": 3}, marks=pytest.mark.slow),
        pytest.param(lambda: tf.distribute.OneDeviceStrategy("/cpu:0"), {"jit_compile": False}, marks=pytest.mark.slow),
        (two_replicas, {"jit_compile": False}),
    ],
    ids=["eager", "graph", "xla", "3 steps an execution", "one device", "two replicas"],
)
def test_fit_equals_the_loop_by_hand(by_hand, scope, settings):
    model, optimizer = fitted(scope and scope(), **settings)
    optimizer.masks.check()
    assert optimizer.masks.active() == [20, 12]
    assert int(optimizer.iterations.numpy()) == 12
    for variable, expected in zip(model.trainable_variables, by_hand, strict=True):
        np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-4, atol=1e-6)
    assert max(optimizer.masks.exploration_rate()) > 20 / 60


def test_fit_learns():
    model, optimizer = make(keras.optimizers.Adam(0.02))
    model.compile(optimizer, loss(), metrics=["accuracy"])
    history = model.fit(*data(), batch_size=8, epochs=12, verbose=0).history
    assert history["accuracy"][-1] > 0.8 > history["accuracy"][0]


def test_a_callback_sets_the_learning_rate():
    model, optimizer = make(keras.optimizers.SGD(0.1))
    model.compile(optimizer, loss(), jit_compile=False)
    seen = []
    callbacks = [
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(logs["learning_rate"])),
    ]
    model.fit(*data(), batch_size=24, epochs=3, verbose=0, callbacks=callbacks)
    np.testing.assert_allclose(seen, [0.05, 0.025, 0.0125])
    np.testing.assert_allclose(float(optimizer.learning_rate), 0.0125)
    optimizer.learning_rate = 0.3
    np.testing.assert_allclose(float(optimizer.inner.learning_rate), 0.3)


def test_learning_rate_keeps_pace_on_mask_updates():
    model, optimizer = make()
    for step in range(7):
        assert int(optimizer.iterations.numpy()) == step
        np.testing.assert_allclose(float(optimizer.learning_rate), 0.1 * 0.5 ** (step / 5), rtol=1e-6)
        optimizer.apply(gradients(model), model.trainable_variables)


def test_apply_gradients_returns_the_count():
    model, optimizer = make()
    count = optimizer.apply_gradients(zip(gradients(model), model.trainable_variables, strict=True))
    assert int(count.numpy()) == int(optimizer.iterations.numpy()) == 1


# --- gradients and variables ---


def test_gradients_find_their_variables():
    model, optimizer = make()
    other, reordered = make()
    for _ in range(5):
        optimizer.apply(gradients(model), model.trainable_variables)
        if not reordered.built:
            reordered.build(other.trainable_variables)
        pairs = list(zip(gradients(other), other.trainable_variables, strict=True))[::-1]
        reordered.apply(*zip(*pairs, strict=True))
    for a, b in zip(model.trainable_variables, other.trainable_variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.mark.filterwarnings("ignore:Gradients do not exist:UserWarning")
def test_variables_without_gradient_stay():
    model, optimizer = make(keras.optimizers.AdamW(0.1, weight_decay=0.5))
    before = [v.numpy() for v in model.trainable_variables]
    grads = gradients(model)
    grads[1] = None
    grads[2] = None
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        optimizer.apply(grads, model.trainable_variables)
    np.testing.assert_array_equal(model.trainable_variables[1].numpy(), before[1])
    assert np.any(model.trainable_variables[0].numpy() != before[0])
    for _ in range(3):
        optimizer.apply([grads[0], None, None, None])
    optimizer.masks.check()
    assert optimizer.masks.active() == [20, 12]


def test_sparse_gradients_of_an_embedding():
    tokens = tf.constant([[1, 2], [2, 3]])
    results = []
    for dense in (False, True):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.layers.Embedding(9, 4), keras.layers.Flatten(), keras.layers.Dense(2)])
        model(tokens)
        masks = Masks([model.trainable_variables[1]], [tf.constant(np.eye(8, 2, dtype=bool))])
        inner = keras.optimizers.Adam(0.1)
        optimizer = SparseOptimizer(inner, masks, updaters.RigL(end_step=8, frequency=2))
        for _ in range(4):
            with tf.GradientTape() as tape:
                value = tf.reduce_sum(model(tokens) ** 2)
            grads = tape.gradient(value, model.trainable_variables)
            assert isinstance(grads[0], tf.IndexedSlices)
            optimizer.apply([tf.convert_to_tensor(g) if dense else g for g in grads], model.trainable_variables)
        results.append([v.numpy() for v in model.trainable_variables])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float64", "bfloat16"])
def test_number_formats(policy):
    keras.config.set_dtype_policy(policy)
    try:
        updater = updaters.RigL(end_step=9, frequency=2, growth_init="random")
        model, optimizer = make(keras.optimizers.Adam(0.01), updater)
        for _ in range(5):
            optimizer.apply(gradients(model), model.trainable_variables)
    finally:
        keras.config.set_dtype_policy("float32")
    expected = "float32" if policy == "mixed_bfloat16" else policy
    assert {v.dtype for v in model.trainable_variables} == {expected}
    optimizer.masks.check()
    assert optimizer.masks.active() == [20, 12]


# --- files ---


STATEFUL = updaters.SNFS(end_step=100, frequency=3, growth_init="random")


def trained_on(model, optimizer, steps: int) -> list[np.ndarray]:
    for _ in range(steps):
        optimizer.apply(gradients(model), model.trainable_variables)
    return [v.numpy() for v in [*model.trainable_variables, *optimizer.variables]] + [
        m.numpy() for m in [*optimizer.masks.variables_by_kernel, *optimizer.masks.explored]
    ]


def assert_same(mine: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_checkpoint_resumes_bit_by_bit(tmp_path):
    model, optimizer = make(updater=STATEFUL)
    optimizer.build(model.trainable_variables)
    trained_on(model, optimizer, 5)
    tf.train.Checkpoint(model=model, optimizer=optimizer).write(str(tmp_path / "ckpt"))
    other, resumed = make(updater=STATEFUL, seed=1)
    resumed.build(other.trainable_variables)
    tf.train.Checkpoint(model=other, optimizer=resumed).read(str(tmp_path / "ckpt")).assert_consumed()
    # The seed of growth is configuration and not state.
    assert_same(trained_on(other, resumed, 5), trained_on(model, optimizer, 5))


def test_a_weights_file_holds_the_masks(tmp_path):
    model, optimizer = make(updater=STATEFUL)
    model.compile(optimizer, loss())
    trained_on(model, optimizer, 5)
    model.save_weights(tmp_path / "a.weights.h5")
    other, resumed = make(updater=STATEFUL, seed=1)
    other.compile(resumed, loss())
    resumed.build(other.trainable_variables)
    other.load_weights(tmp_path / "a.weights.h5")
    assert_same(trained_on(other, resumed, 5), trained_on(model, optimizer, 5))


def test_a_weights_file_of_another_updater(tmp_path):
    model, optimizer = make(updater=STATEFUL)
    model.compile(optimizer, loss())
    optimizer.build(model.trainable_variables)
    model.save_weights(tmp_path / "a.weights.h5")
    other, static = make(updater=updaters.Static())
    other.compile(static, loss())
    static.build(other.trainable_variables)
    with pytest.raises(ValueError, match="holds .* optimizer variables and masks, this SparseOptimizer"):
        other.load_weights(tmp_path / "a.weights.h5")


def test_a_saved_model_is_a_plain_sparse_model(tmp_path):
    model, optimizer = make()
    model.compile(optimizer, loss())
    optimizer.apply(gradients(model), model.trainable_variables)
    model.save(tmp_path / "a.keras")
    loaded = keras.models.load_model(tmp_path / "a.keras", compile=False)
    x, _ = data()
    np.testing.assert_allclose(loaded(x), model(x), rtol=1e-6)
    assert np.count_nonzero(loaded.trainable_variables[0].numpy()) == 20
    with pytest.raises(ValueError, match=r"load_model\(path, compile=False\)"):
        keras.models.load_model(tmp_path / "a.keras")


# --- what cannot be ---


def inner_built() -> keras.optimizers.Optimizer:
    inner = keras.optimizers.SGD(0.1)
    inner.build([keras.Variable(1.0)])
    return inner


SGD = keras.optimizers.SGD


@pytest.mark.parametrize(
    ("inner", "settings", "message"),
    [
        (lambda: SGD(0.1, gradient_accumulation_steps=2), {}, "growth_gradient=k to average"),
        (lambda: SGD(0.1, loss_scale_factor=8.0), {}, r"use float32 or mixed_bfloat16"),
        (lambda: keras.optimizers.LossScaleOptimizer(SGD(0.1)), {}, "use float32 or mixed_bfloat16"),
        (lambda: make()[1], {}, "slots of a SparseOptimizer cannot be masked"),
        (inner_built, {}, "already built; pass a new one"),
        (lambda: SGD(0.1), {"updater": updaters.RigLGraSP(end_step=900)}, "pass a callable growth_gradient"),
        (lambda: SGD(0.1), {"growth_gradient": 4}, "growth_gradient=4 must be between 1 and the update frequency, 3"),
        (lambda: SGD(0.1), {"growth_gradient": 0}, "growth_gradient=0 must be between"),
        (lambda: SGD(0.1), {"updater": updaters.SET(end_step=1, begin_step=5)}, "No update lies between"),
    ],
)
def test_wrong_settings(inner, settings, message):
    with pytest.raises(ValueError, match=message):
        make(inner(), **settings)


def test_multi_optimizer_is_refused():
    if not hasattr(keras.optimizers, "MultiOptimizer"):
        pytest.skip("this Keras has none")
    mapping = keras.optimizers.OptimizerMap(SGD(0.1))
    with pytest.raises(ValueError, match="slots of a MultiOptimizer cannot be masked"):
        make(keras.optimizers.MultiOptimizer(mapping))


def frozen(model, optimizer):
    model.get_layer("hidden").trainable = False
    optimizer.build(model.trainable_variables)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (frozen, "masked kernels hidden are not among the trainable variables.*frozen"),
        (lambda m, o: o.apply(gradients(m)), r"Call optimizer.build\(model.trainable_variables\) before"),
        (lambda m, o: o.apply(gradients(m)[:2], m.trainable_variables), "Got 2 gradients for 4 variables"),
        (lambda m, o: o.apply([None] * 4, m.trainable_variables), "No variable has a gradient"),
        (
            lambda m, o: (o.build(m.trainable_variables), o.apply([1.0], [keras.Variable(1.0, name="new")])),
            "built without new; make a new one",
        ),
    ],
)
def test_wrong_use(wrong, message):
    model, optimizer = make()
    with pytest.raises(ValueError, match=message):
        wrong(model, optimizer)


def test_wrong_use_of_strategies():
    strategy = two_replicas()
    with strategy.scope():
        model, optimizer = make()
        late, unbuilt = make()
        optimizer.build(model.trainable_variables)
        grads = [tf.zeros(v.shape) for v in model.trainable_variables]
        with pytest.raises(ValueError, match=r"call the optimizer inside strategy.run"):
            optimizer.apply(grads)
        with pytest.raises(ValueError, match=r"Call optimizer.build\(model.trainable_variables\) before"):
            strategy.run(lambda: unbuilt.apply(grads, late.trainable_variables))
    outside = SparseOptimizer(SGD(0.1), unbuilt.masks, RIGL)
    with pytest.raises(ValueError, match="lives under another tf.distribute strategy.*with strategy.scope"):
        outside.build(late.trainable_variables)
