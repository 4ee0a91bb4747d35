"""Rewinding: an IMP loop on one compiled model equals one that builds everything anew."""

import keras
import numpy as np
import pytest

import sparse_lib
from sparse_lib import NM, Snapshot, SparseOptimizer, TopKAST, rewind
from tests.replicas import two_replicas

layers = keras.layers
X = np.random.default_rng(0).normal(size=(48, 12)).astype("float32")
Y = (X[:, 0] * X[:, 1] > 0).astype("int32")
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@keras.saving.register_keras_serializable("tests")
class TraceCounter(layers.Layer):
    """Counts how often a graph is made of it."""

    traces = 0

    def call(self, x):
        type(self).traces += 1
        return x


def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    hidden = [layers.Dense(16, "relu", name="hidden"), TraceCounter(), layers.Dropout(0.2), layers.BatchNormalization()]
    return keras.Sequential([keras.Input((12,)), *hidden, layers.Dense(2, name="logits")])


def fit(model, epochs=2):
    model.fit(X, Y, batch_size=16, epochs=epochs, verbose=0, shuffle=False)


def anew(start: Snapshot, masks, make):
    """A new model with new masks and a new optimizer, trained from the snapshot."""
    model = network()
    for variable, array in zip(model.variables, start.weights, strict=True):
        variable.assign(array)
    own = sparse_lib.sparsify(model, masks=masks, execution="dense")
    model.compile(SparseOptimizer(make(), own), LOSS)
    fit(model)
    return model


OPTIMIZERS = {
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "nadam": lambda: keras.optimizers.Nadam(0.01),
    "averages": lambda: keras.optimizers.SGD(0.1, use_ema=True),
    "schedule": lambda: keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.05, 6)),
    "adagrad": lambda: keras.optimizers.Adagrad(0.1),
}
SLOW = ("adagrad", "averages")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in OPTIMIZERS])
def test_a_loop_on_one_model_equals_one_that_builds_all_anew(name):
    make, model = OPTIMIZERS[name], network()
    # Sums of sparse products are rounded in another order, and a graph of dense masks has none.
    masks = sparse_lib.sparsify(model, 0.0, execution="dense")
    model.compile(SparseOptimizer(make(), masks), LOSS)
    start = Snapshot(model)
    for sparsity in (0.5, 0.75):
        fit(model)
        masks.prune(sparsity)
        rewind(model, start)
    assert model.optimizer.iterations == 0
    traces = TraceCounter.traces
    fit(model)
    assert TraceCounter.traces == traces
    assert sum(masks.active()) == 56
    masks.check()
    other = anew(start, masks, make)
    for mine, theirs in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    for mine, theirs in zip(model.optimizer.variables, other.optimizer.variables, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_masks_and_the_state_of_the_updater_go_back_on_request():
    model = network()
    masks = sparse_lib.sparsify(model, 0.5)
    optimizer = SparseOptimizer(keras.optimizers.SGD(0.1), masks, TopKAST())
    model.compile(optimizer, LOSS)
    fit(model)
    snapshot = Snapshot(model)
    before = [model.get_weights(), [m.numpy() for m in masks.values()], optimizer.copy_masks()]
    assert snapshot.step == 6
    fit(model)
    assert any(np.any(a != b) for a, b in zip(snapshot.masks, masks.values(), strict=True))
    rewind(model, snapshot, restore_masks=True, step=snapshot.step)
    assert optimizer.iterations == 6
    after = [model.get_weights(), [m.numpy() for m in masks.values()], optimizer.copy_masks()]
    for one, other in zip(before, after, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_an_optimizer_of_a_loop_of_ones_own():
    model = network()
    masks = sparse_lib.sparsify(model, 0.5)
    optimizer = SparseOptimizer(keras.optimizers.Adam(), masks)
    start = Snapshot(model, optimizer)
    weights = model.get_weights()
    model.layers[0].kernel.assign(np.ones((12, 16)))
    rewind(model, start, optimizer=optimizer)
    for a, b in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(a, b)
    masks.check()


def test_bad_calls():
    model = network()
    masks = sparse_lib.sparsify(model, 0.5)
    with pytest.raises(ValueError, match="Rewinding needs the SparseOptimizer of the model: compile"):
        Snapshot(model)
    model.compile(SparseOptimizer(keras.optimizers.SGD(0.1), masks), LOSS)
    start = Snapshot(model)
    with pytest.raises(ValueError, match=r"second argument is a Snapshot\(model\)"):
        rewind(model, model.get_weights())
    other = keras.Sequential([keras.Input((12,)), layers.Dense(3)])
    other.compile(SparseOptimizer(keras.optimizers.SGD(0.1), sparse_lib.sparsify(other, 0.5)), LOSS)
    with pytest.raises(ValueError, match="The snapshot is of another model"):
        rewind(other, start)
    with pytest.raises(ValueError, match=r"Call optimizer.build\(model.trainable_variables\) before"):
        model.optimizer.restart()
    with pytest.raises(ValueError, match="not built|no weights yet"):
        Snapshot(keras.Sequential([layers.Dense(2)]), model.optimizer)


# --- pruning in place ---


def dense_masks(structure=None):
    model = keras.Sequential([keras.Input((8,)), layers.Dense(6, name="a"), layers.Dense(5, name="b")])
    return sparse_lib.sparsify(model, 0.0, **({"structure": structure} if structure else {}))


def test_pruning_keeps_the_largest_and_never_brings_back():
    masks = dense_masks()
    first = [k.numpy() for k in masks.kernels]
    masks.prune(0.5)
    threshold = np.sort(np.abs(np.concatenate([k.ravel() for k in first])))[-39]
    for kernel, mask in zip(first, masks.values(), strict=True):
        np.testing.assert_array_equal(mask, np.abs(kernel) >= threshold)
    before = masks.values()
    # Large values where nothing is active must not count.
    for kernel, mask in zip(masks.kernels, before, strict=True):
        kernel.assign(np.where(mask, kernel.numpy(), 100))
    masks.prune(0.75)
    assert sum(masks.active()) == 20
    assert not any(np.any(new & ~old) for new, old in zip(masks.values(), before, strict=True))
    assert masks.exploration_rate() == [1.0, 1.0]
    masks.check()


def test_pruning_by_layer_and_under_a_structure():
    masks = dense_masks()
    masks.prune(0.5, "uniform")
    assert masks.active() == [24, 15]
    masks = dense_masks(NM(2, 4))
    masks.prune(0.5)
    assert masks.active()[0] == 24


@pytest.mark.parametrize(
    ("sparsity", "distribution", "message"),
    [
        (1.0, "global", "The sparsity is 1.0"),
        (0.5, "normal", "Unknown distribution"),
        (0.2, "global", "all kernels together would keep 63 weights, and 39 are left: give a higher"),
        (0.2, "uniform", "a/kernel would keep"),
    ],
)
def test_what_cannot_be_pruned(sparsity, distribution, message):
    masks = dense_masks()
    masks.prune(0.5)
    before = masks.active()
    with pytest.raises(ValueError, match=message):
        masks.prune(sparsity, distribution)
    assert masks.active() == before


@pytest.mark.slow
def test_replicas_are_rewound_together():
    with two_replicas().scope():
        model = network()
        masks = sparse_lib.sparsify(model, 0.0)
        model.compile(SparseOptimizer(keras.optimizers.SGD(0.1, momentum=0.9), masks), LOSS)
    start = Snapshot(model)
    fit(model)
    masks.prune(0.75)
    rewind(model, start)
    masks.check()
    assert model.optimizer.iterations == 0
    for slots in model.optimizer.slots:
        for slot in slots:
            for part in slot.value.values:
                assert not np.any(part.numpy())
    for kernel, mask, first in zip(masks.kernels, masks.values(), start.weights[::6], strict=False):
        for part in kernel.value.values:
            np.testing.assert_array_equal(part.numpy(), kernel.numpy())
        assert kernel.shape != first.shape or np.array_equal(kernel.numpy(), np.where(mask, first, 0))
