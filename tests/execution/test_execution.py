"""Sparse execution against dense execution: losses, weights, slots and masks of training runs."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import sparse_lib
from sparse_lib.execution import Execution, rule
from sparse_lib.experiment.data import Split
from sparse_lib.experiment.training.steps import Steps

STEPS, FREQUENCY = 50, 10
UPDATERS = {
    "static": sparse_lib.Static(),
    "set": sparse_lib.SET(frequency=FREQUENCY, end_step=STEPS),
    "rigl": sparse_lib.RigL(frequency=FREQUENCY, end_step=STEPS),
    "rigl_inverted": sparse_lib.RigLInverted(frequency=FREQUENCY, end_step=STEPS, replaces_step=True),
    "mest": sparse_lib.MEST(frequency=FREQUENCY, end_step=STEPS, soft_bound=True),
    "cht": sparse_lib.CHT(frequency=FREQUENCY, end_step=STEPS),
    # All weights train up to step 19 and from 30 to 39.
    "acdc": sparse_lib.ACDC(sparsity=lambda step: 0.9, begin_step=20, frequency=FREQUENCY, end_step=40),
    "granet": sparse_lib.GraNet(
        sparsity=sparse_lib.PolynomialSparsity(initial=0.5, final=0.9, begin=0, end=40),
        frequency=FREQUENCY,
        end_step=STEPS,
    ),
    "prune": sparse_lib.Prune(
        sparsity=sparse_lib.PolynomialSparsity(initial=0.0, final=0.9, begin=0, end=40),
        frequency=FREQUENCY,
        end_step=STEPS,
    ),
    "topkast": sparse_lib.TopKAST(frequency=FREQUENCY, begin_step=5, penalty=1e-2),
    "topkast_every_step": sparse_lib.TopKAST(penalty=1e-2),
}
FAST = ("rigl", "prune", "topkast")
SLOW = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in UPDATERS]


@pytest.fixture(autouse=True)
def unoptimized_graphs():
    """Leaves graphs as they are traced: optimizing them takes longer than to run them here."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})


def make_data(dtype: str = "float32") -> Split:
    rng = np.random.default_rng(0)
    return Split(rng.normal(size=(90, 9, 7, 3)).astype(dtype), rng.integers(0, 4, 90).astype(np.int32))


def build(dtype: str = "float32") -> keras.Model:
    """An odd network: a stride, dilation, VALID, a batch norm, weight decay, a pooling, and a dense layer."""
    keras.utils.set_random_seed(1)
    decay = keras.regularizers.L2(1e-3)
    layers = [
        keras.layers.Conv2D(5, 3, strides=(2, 1), padding="same", activation="relu", kernel_regularizer=decay),
        keras.layers.Conv2D(6, (2, 3), dilation_rate=(1, 2), use_bias=False),
        keras.layers.BatchNormalization(),
        keras.layers.MaxPooling2D(2, padding="same"),
        keras.layers.Flatten(),
        keras.layers.Dense(7, "tanh", kernel_regularizer=decay),
        keras.layers.Dense(4),
    ]
    policy = keras.dtype_policies.DTypePolicy(dtype)
    for layer in layers:
        layer.dtype_policy = policy
    return keras.Sequential([keras.Input((9, 7, 3), dtype=dtype), *layers])


def train(name: str, modes: tuple[str, ...], inner: keras.optimizers.Optimizer, dtype: str = "float32", **options):
    """Trains an equal part in each mode, one after the other; returns losses, variables and masks."""
    keras.config.set_floatx(dtype)
    try:
        model = build(dtype)
        masks = sparse_lib.sparsify(model, 0.0 if name in ("prune", "acdc") else 0.5 if name == "granet" else 0.8)
        optimizer = sparse_lib.SparseOptimizer(inner, masks, UPDATERS[name])
        optimizer.build(model.trainable_variables)
        # Once for each mode: their graphs take most of the time.
        steps_in, plans = {}, {}
        for mode in set(modes):
            execution = Execution(model, masks, mode)
            optimizer.lead(execution)
            data = make_data(dtype)
            steps_in[mode] = Steps(model, optimizer, data, batch_size=33, seed=2, execution=execution, **options)
            plans[mode] = lambda execution=execution: len(execution.plan(33))
        ends = [(part + 1) * STEPS // len(modes) for part in range(len(modes))]
        losses = []
        for mode, start, end in zip(modes, [0, *ends], ends, strict=False):
            losses += take_steps(steps_in[mode], UPDATERS[name], start, end)
        masks.check()
        assert plans[modes[-1]]() in {"sparse": [len(masks)], "dense": [0], "auto": [1, 2, 3]}[modes[-1]]
        variables = [v.numpy() for v in (*model.variables, *optimizer.variables)]
        return np.array(losses), variables, [mask.numpy() for mask in masks.values()]
    finally:
        keras.config.set_floatx("float32")


def take_steps(steps: Steps, updater: sparse_lib.Updater, step: int, end: int) -> list[float]:
    """Trains as the loop of a run does; returns the losses."""
    losses: list[float] = []
    while step < end:
        if updater.changes_every_step:
            result = steps.run(step, min(end - step, FREQUENCY), with_updates=True)
        elif updater.schedule.is_update_step(step):
            result, gradients = steps.begin_mask_update(step)
            steps.finish_mask_update(gradients)
        else:
            result = steps.run(step, min([end, *updater.schedule.steps(step, end)[:1]]) - step)
        losses += result.losses.tolist()
        step += len(result.losses)
    return losses


def make_sgd() -> keras.optimizers.Optimizer:
    return keras.optimizers.SGD(0.05, momentum=0.9, weight_decay=1e-3)


@functools.cache
def train_densely(name: str):
    return train(name, ("dense",), make_sgd())


def assert_same(one, other, tolerance: float) -> None:
    np.testing.assert_allclose(one[0], other[0], rtol=0, atol=tolerance)
    for a, b in zip(one[1], other[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)
    for a, b in zip(one[2], other[2], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", SLOW)
def test_training_equals_dense_training(name):
    # Over to the other execution and back, in the middle of training.
    modes = ("sparse", "dense", "sparse") if name == "rigl" else ("sparse",)
    assert_same(train_densely(name), train(name, modes, make_sgd()), 2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", UPDATERS)
def test_execution_changes_in_the_middle(name):
    for modes in (("dense", "sparse"), ("sparse", "dense")):
        assert_same(train_densely(name), train(name, modes, make_sgd()), 2e-5)


def test_kernels_outside_of_the_plan_stay_masked(monkeypatch):
    limits = [0.9, 0.0, 0.0, 0.9]
    monkeypatch.setattr(rule, "find_limit", lambda product, shape, *_: limits[len(shape) - 2 + (shape[-1] == 4)])
    assert_same(train_densely("rigl"), train("rigl", ("auto",), make_sgd()), 2e-5)


@pytest.mark.slow
def test_reserve_outside_of_the_plan_with_averages_and_gradient_penalty(monkeypatch):
    limits = [0.9, 0.0, 0.0, 0.9]
    monkeypatch.setattr(rule, "find_limit", lambda product, shape, *_: limits[len(shape) - 2 + (shape[-1] == 4)])
    inner = OPTIMIZERS["adamw_ema"]
    dense, *others = (
        train("topkast", (mode,), inner(), gradient_regularization=0.1) for mode in ("dense", "auto", "sparse")
    )
    for other in others:
        assert_same(dense, other, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", UPDATERS)
def test_training_in_float64(name):
    inner = lambda: keras.optimizers.Adam(0.01)  # noqa: E731
    same = [train(name, (mode,), inner(), "float64") for mode in ("dense", "sparse")]
    assert_same(*same, STEPS * 1e-10)


OPTIMIZERS = {
    "adamw_ema": lambda: keras.optimizers.AdamW(1e-3, use_ema=True, ema_overwrite_frequency=7),
    "adagrad_clipped": lambda: keras.optimizers.Adagrad(0.01, global_clipnorm=0.5),
    "rmsprop": lambda: keras.optimizers.RMSprop(1e-3, centered=True, momentum=0.5),
    "nadam": lambda: keras.optimizers.Nadam(1e-3, clipnorm=0.3),
    "adadelta": lambda: keras.optimizers.Adadelta(0.5),
    "adamax": lambda: keras.optimizers.Adamax(1e-3),
    "lion": lambda: keras.optimizers.Lion(1e-4),
    "ftrl": lambda: keras.optimizers.Ftrl(0.01),
    "lamb": lambda: keras.optimizers.Lamb(1e-3),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n == "adamw_ema" else pytest.mark.slow) for n in OPTIMIZERS]
)
def test_every_elementwise_optimizer(name):
    assert_same(*(train("set", (mode,), OPTIMIZERS[name]()) for mode in ("dense", "sparse")), 1e-4)


def fit(mode: str, updater: sparse_lib.Updater):
    model = build()
    masks = sparse_lib.sparsify(model, 0.8, execution=mode)
    optimizer = sparse_lib.SparseOptimizer(keras.optimizers.SGD(0.05, momentum=0.9), masks, updater)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    data = make_data()
    losses = model.fit(data.images, data.labels, batch_size=20, epochs=4, shuffle=False, verbose=0).history["loss"]
    masks.check()
    losses.append(model.evaluate(data.images, data.labels, verbose=0))
    variables = [v.numpy() for v in (*model.variables, *optimizer.variables)]
    variables.append(model.predict(data.images, verbose=0))
    return np.array(losses), variables, [mask.numpy() for mask in masks.values()]


@pytest.mark.parametrize(
    "updater",
    [
        sparse_lib.RigL(frequency=4, end_step=100),
        pytest.param(sparse_lib.SET(frequency=4, end_step=100), marks=pytest.mark.slow),
        pytest.param(sparse_lib.SNFS(frequency=4, end_step=100), marks=pytest.mark.slow),
        pytest.param(sparse_lib.TopKAST(), marks=pytest.mark.slow),
    ],
    ids=lambda updater: updater.label,
)
def test_fit_equals_dense_fit(updater):
    assert_same(fit("dense", updater), fit("sparse", updater), 1e-5)


def test_evaluation_sees_weights_off_the_masks():
    model = build()
    masks = sparse_lib.sparsify(model, 0.8, execution="sparse")
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    kernel, data = masks.kernels[0], make_data()
    kernel.assign(kernel + 0.1)
    found = model.predict(data.images, verbose=0)
    np.testing.assert_allclose(found, model(data.images), atol=1e-5)


def test_model_is_plain_outside_of_its_steps(tmp_path):
    model = build()
    sparse_lib.sparsify(model, 0.8, execution="sparse")
    data = make_data()
    graph = tf.function(model).get_concrete_function(tf.constant(data.images)).graph
    assert not [operation.type for operation in graph.get_operations() if "SparseLib" in operation.type]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.predict(data.images, verbose=0), model(data.images), atol=1e-6)
    model.export(tmp_path / "exported", verbose=False)
    exported = tf.saved_model.load(str(tmp_path / "exported"))
    np.testing.assert_allclose(exported.serve(data.images), model(data.images), atol=1e-6)
