"""SET and RigL without a dense form, against `SparseOptimizer` on the dense form."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import sparse_lib
from sparse_lib import SET, RigL, SparseOptimizer
from sparse_lib.layers import SparseDense, SparseLayers, UpdateMasks
from tests.layers.dense_form import dense_model, examples, kernel_of, sparse_model

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
OPTIMIZERS = {
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "Adam": lambda: keras.optimizers.Adam(0.01),
    "Adagrad": lambda: keras.optimizers.Adagrad(0.05),
}


def train(model, optimizer, callbacks=(), epochs=3, is_eager=True, **options):
    """Trains for four steps an epoch, always on the same batches."""
    if optimizer is not None:
        model.compile(optimizer, LOSS, run_eagerly=is_eager)
    model.fit(*examples(), 10, epochs, shuffle=False, verbose=0, callbacks=list(callbacks), **options)
    return model


def assert_equal(one, other):
    """Compares all variables of two models and their optimizers bit by bit."""
    pairs = ((one.variables, other.variables), (one.optimizer.variables, other.optimizer.variables))
    for variables, others in pairs:
        for variable, again in zip(variables, others, strict=True):
            np.testing.assert_array_equal(variable.numpy(), again.numpy())


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        ("momentum", {}),
        pytest.param("Adam", {"replaces_step": False}, marks=pytest.mark.slow),
        ("Adagrad", {"reinit_regrown": True, "begin_step": 0}),
    ],
)
def test_rigl_finds_the_masks_of_the_dense_form(optimizer, options):
    updater = RigL(frequency=3, end_step=20, drop_fraction=0.4, **options)
    model = sparse_model()
    dense, masks = dense_model(model)
    before = masks.values()
    # A graph takes seconds to compile.
    train(model, OPTIMIZERS[optimizer](), [UpdateMasks(updater)], is_eager=optimizer != "momentum")
    train(dense, SparseOptimizer(OPTIMIZERS[optimizer](), masks, updater))
    for layer, kernel, mask, old in zip(model.layers, masks.kernels, masks.values(), before, strict=False):
        own_kernel, own_mask = kernel_of(layer)
        np.testing.assert_array_equal(own_mask, mask)
        np.testing.assert_allclose(own_kernel, kernel.numpy(), atol=1e-12)
        assert np.any(mask != old)
    np.testing.assert_allclose(model.layers[-1].kernel, dense.layers[-1].kernel, atol=1e-12)
    assert int(model.optimizer.iterations) == int(dense.optimizer.iterations) == 12


@pytest.mark.parametrize(
    "updater",
    [RigL(frequency=3, end_step=40), pytest.param(SET(frequency=3, end_step=40), marks=pytest.mark.slow)],
)
def test_a_resumed_run_ends_like_one_that_was_not_interrupted(updater, tmp_path):
    whole = train(sparse_model(), OPTIMIZERS["Adam"](), [UpdateMasks(updater)], epochs=4)
    start = train(sparse_model(), OPTIMIZERS["Adam"](), [UpdateMasks(updater)], epochs=2)
    start.save(tmp_path / "model.keras")
    resumed = keras.models.load_model(tmp_path / "model.keras")
    train(resumed, None, [UpdateMasks(updater)], epochs=4, initial_epoch=2)
    assert_equal(resumed, whole)


def test_own_loop_equals_fit():
    updater = RigL(frequency=2, end_step=20)
    fitted = train(sparse_model(), OPTIMIZERS["Adam"](), [UpdateMasks(updater)])
    model, optimizer, updates = sparse_model(), OPTIMIZERS["Adam"](), UpdateMasks(updater)
    model.compile(optimizer, LOSS)
    optimizer.build(model.trainable_variables)

    @tf.function
    def take_step(x, y):
        with tf.GradientTape() as tape:
            loss = LOSS(y, model(x, training=True))
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)

    x, y = examples()
    for step in range(12):
        part = slice(step % 4 * 10, step % 4 * 10 + 10)
        with updates.step(model, optimizer):
            take_step(tf.constant(x[part]), tf.constant(y[part]))
    for indices, others in zip(SparseLayers(model).indices(), SparseLayers(fitted).indices(), strict=True):
        np.testing.assert_array_equal(indices, others)
    for variable, other in zip(model.variables, fitted.variables, strict=True):
        np.testing.assert_allclose(variable.numpy(), other.numpy(), atol=1e-12)


def test_a_layer_that_is_called_twice_grows_by_both_gradients():
    layer, updater = SparseDense(6, 0.3, seed=1, dtype="float64"), RigL(frequency=1, begin_step=0, end_step=9)
    inputs = keras.Input((6,), dtype="float64")
    model = keras.Model(inputs, layer(keras.ops.tanh(layer(inputs))))
    (kernel, mask), optimizer = kernel_of(layer), keras.optimizers.SGD(0.1)
    x = tf.constant(np.random.default_rng(1).normal(size=(8, 6)))
    with UpdateMasks(updater).step(model, optimizer):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(x, training=True) ** 2)
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
    with tf.GradientTape() as tape:
        w = tf.Variable(kernel)
        loss = tf.reduce_sum((tf.tanh(x @ w) @ w) ** 2)
    found = {"mask": tf.constant(mask), "weight": tf.constant(kernel), "gradient": tape.gradient(loss, w)}
    context = sparse_lib.updaters.UpdateContext(tf.constant(0), tf.constant(0.1), 0)
    (expected,) = updater.update([sparse_lib.updaters.Kernel(**found, state={})], context)
    np.testing.assert_array_equal(kernel_of(layer)[1], expected.mask)


def test_set_keeps_the_largest_and_grows_from_zero():
    model = sparse_model()
    layer = model.layers[0]
    kernel, mask = kernel_of(layer)
    # The learning rate of 0 keeps the weights.
    updater = SET(frequency=1, begin_step=0, end_step=10**6, drop_fraction=0.5)
    train(model, keras.optimizers.SGD(0.0), [UpdateMasks(updater)], epochs=1, steps_per_epoch=1)
    kept = kernel * (np.abs(kernel) >= np.sort(np.abs(kernel[mask]))[30])
    after, new_mask = kernel_of(layer)
    assert new_mask.sum() == mask.sum() == 60
    np.testing.assert_array_equal(after[kept != 0], kept[kept != 0])
    is_new = new_mask & ~mask
    assert is_new.sum() > 10
    np.testing.assert_array_equal(after[is_new], 0)


def test_frozen_layers_keep_their_masks():
    model = sparse_model()
    model.layers[0].trainable = False
    before = SparseLayers(model).indices()
    train(model, OPTIMIZERS["momentum"](), [UpdateMasks(SET(frequency=1, end_step=10))], epochs=1)
    first, second = (np.array_equal(*pair) for pair in zip(before, SparseLayers(model).indices(), strict=True))
    assert (first, second) == (True, False)


@pytest.mark.parametrize(
    ("updater", "message"),
    [
        (sparse_lib.RigLInverted(end_step=9), "takes SET"),
        (RigL(end_step=9, growth_init="random"), "grows from zero"),
        (SET(end_step=9, redistribute=True), "keeps its number"),
    ],
)
def test_other_methods_are_refused(updater, message):
    with pytest.raises(sparse_lib.InputError, match=message):
        UpdateMasks(updater)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps_per_execution": 2}, "steps_per_execution=1"),
        ({"optimizer": keras.optimizers.SGD(gradient_accumulation_steps=2)}, "gradient_accumulation_steps"),
        ({"optimizer": keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())}, "no loss scaling"),
    ],
)
def test_training_that_hides_steps_is_refused(options, message):
    model = sparse_model()
    model.compile(**{"optimizer": "sgd", "loss": LOSS, **options})
    with pytest.raises(sparse_lib.InputError, match=message):
        train(model, None, [UpdateMasks(SET(end_step=9))])


def test_a_step_without_training_is_noticed():
    model, optimizer = sparse_model(), keras.optimizers.SGD(0.1)
    updates = UpdateMasks(RigL(frequency=1, begin_step=0, end_step=9))
    with pytest.raises(sparse_lib.InputError, match="training=True"), updates.step(model, optimizer):
        model(examples()[0])
