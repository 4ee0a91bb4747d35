"""Weights and their masks are stored and restored together, and advice is followed to its end."""

import re

import keras
import numpy as np
import pytest

import sparse_lib
from sparse_lib import updaters
from sparse_lib.optimizer import EarlyStopping, SparseOptimizer

UPDATERS = {
    "rigl": lambda: updaters.RigL(begin_step=3, frequency=4, end_step=200, drop_fraction=0.5),
    "mest": lambda: updaters.MEST(begin_step=3, frequency=4, end_step=200, soft_bound=True),
    "snfs": lambda: updaters.SNFS(begin_step=3, frequency=4, end_step=200),
    "prune": lambda: updaters.Prune(
        sparsity=sparse_lib.PolynomialSparsity(initial=0.5, final=0.9, begin=0, end=40),
        begin_step=3,
        frequency=4,
        end_step=200,
    ),
    "topkast": updaters.TopKAST,
    "dnw": updaters.DNW,
}


def data() -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(64, 16)).astype("float32")
    return x, (x[:, 0] > 0).astype("int32")


def make(name: str = "rigl", seed: int = 0) -> tuple[keras.Model, SparseOptimizer]:
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Dense(12, "relu", name="hidden"), keras.layers.Dense(2, name="logits")]
    model = keras.Sequential([keras.Input((16,)), *layers])
    masks = sparse_lib.sparsify(model, 0.5, seed=seed)
    optimizer = SparseOptimizer(keras.optimizers.SGD(0.1, momentum=0.9), masks, UPDATERS[name]())
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    return model, optimizer


def train(model: keras.Model, epochs: int, callbacks=()) -> None:
    model.fit(*data(), batch_size=16, epochs=epochs, verbose=0, shuffle=False, callbacks=list(callbacks))


def kernels_and_masks(optimizer: SparseOptimizer) -> list[np.ndarray]:
    masks = optimizer.masks
    return [part.numpy() for part in [*masks.kernels, *masks.variables_by_kernel]]


def assert_same(mine: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


def stop_at_third(kind, seen: list, optimizer: SparseOptimizer) -> list[keras.callbacks.Callback]:
    """Callbacks for which the third epoch is the best; its kernels and masks go to `seen`."""

    def score(epoch, logs):
        logs["score"] = abs(epoch - 2)
        if epoch == 2:
            seen.extend(kernels_and_masks(optimizer))

    stopping = kind("score", mode="min", patience=2, restore_best_weights=True)
    return [keras.callbacks.LambdaCallback(on_epoch_end=score), stopping]


@pytest.mark.parametrize("name", UPDATERS)
def test_early_stopping_restores_weights_with_their_masks(name):
    model, optimizer = make(name)
    best: list[np.ndarray] = []
    train(model, 9, stop_at_third(EarlyStopping, best, optimizer))
    assert int(optimizer.iterations.numpy()) == 20
    assert_same(kernels_and_masks(optimizer), best)
    optimizer.masks.check()
    for mask, slots in zip(optimizer.masks.values(), optimizer.slots, strict=True):
        trained = mask.numpy() if name not in ("topkast", "dnw") else np.ones_like(mask)
        for slot in slots:
            assert not np.any(slot.numpy()[~trained])
    # Training goes on, and what updates count is that of the restored masks.
    train(model, 3)
    optimizer.masks.check()
    if name == "rigl":
        assert optimizer.masks.active() == [int(mask.sum()) for mask in best[2:]]


def test_the_reserve_is_restored_with_its_masks():
    model, optimizer = make("topkast")
    train(model, 2)
    weights, copied = model.get_weights(), optimizer.copy_masks()
    state = {v.path: v.numpy() for v in optimizer.variables if "reserve" in v.path or "backward" in v.path}
    assert len(state) == 4
    train(model, 3)
    model.set_weights(weights)
    optimizer.restore_masks(copied)
    for variable in optimizer.variables:
        if variable.path in state:
            np.testing.assert_array_equal(variable.numpy(), state[variable.path])


@pytest.mark.parametrize("first", ["weights", "masks"])
def test_copied_masks_by_hand(first):
    model, optimizer = make()
    train(model, 2)
    best = kernels_and_masks(optimizer)
    weights, copied = model.get_weights(), optimizer.copy_masks()
    explored = None
    train(model, 3)
    explored = [variable.numpy() for variable in optimizer.masks.explored]
    if first == "masks":
        optimizer.restore_masks(copied)
    model.set_weights(weights)
    if first == "weights":
        optimizer.restore_masks(copied)
    assert_same(kernels_and_masks(optimizer), best)
    assert_same([variable.numpy() for variable in optimizer.masks.explored], explored)


def test_what_copied_masks_refuse():
    model, optimizer = make()
    with pytest.raises(ValueError, match=r"optimizer.build\(model.trainable_variables\) before optimizer.copy_masks"):
        optimizer.copy_masks()
    optimizer.build(model.trainable_variables)
    with pytest.raises(ValueError, match="The copy is of other masks"):
        optimizer.restore_masks(optimizer.copy_masks()[::-1])


def test_early_stopping_without_a_sparse_optimizer():
    model, _ = make()
    with pytest.warns(UserWarning, match="SparseOptimizer"):
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    with pytest.raises(ValueError, match=r"compile the model with one, or use keras.callbacks.EarlyStopping"):
        train(model, 1, [EarlyStopping("loss")])


def test_early_stopping_under_a_loss_scale():
    model, optimizer = make()
    scaled = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(scaled, keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    best: list[np.ndarray] = []
    train(model, 9, stop_at_third(EarlyStopping, best, optimizer))
    assert_same(kernels_and_masks(optimizer), best)


# --- advice followed to its end ---


def advice_after_keras_early_stopping() -> tuple[keras.Model, SparseOptimizer, list[np.ndarray], str]:
    model, optimizer = make()
    best: list[np.ndarray] = []
    copies: list = []
    keep = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: copies.append((optimizer.copy_masks(), optimizer.masks.stored().values))
    )
    train(model, 9, [keep, *stop_at_third(keras.callbacks.EarlyStopping, best, optimizer)])
    with pytest.raises(AssertionError) as caught:
        optimizer.masks.check()
    return model, optimizer, [best, copies[2]], str(caught.value)


def test_the_advice_of_check_keeps_the_weights(tmp_path):
    model, optimizer, (best, (copied, values)), advice = advice_after_keras_early_stopping()
    restored = model.get_weights()
    assert "sparse_lib.EarlyStopping, optimizer.restore_masks, masks.load" in advice
    assert advice.index("masks.load") < advice.index("masks.project") < advice.index("zeroes those weights")
    optimizer.restore_masks(copied)
    optimizer.masks.check()
    assert_same(kernels_and_masks(optimizer), best)
    # masks.load, from a file of the best epoch, on the same weights.
    other, fresh = make(seed=1)
    fresh.masks.assign(values)
    fresh.masks.save(tmp_path / "best.npz")
    optimizer.masks.load(tmp_path / "best.npz")
    assert_same(model.get_weights(), restored)
    assert_same(kernels_and_masks(optimizer), best)
    del other


@pytest.mark.parametrize("source", ["a.keras", "masks.npz"])
def test_the_advice_for_a_saved_model(source, tmp_path):
    model, optimizer = make()
    train(model, 2)
    optimizer.masks.save(tmp_path / "masks.npz")
    model.save(tmp_path / "a.keras")
    with pytest.raises(ValueError, match=re.escape("load_model(path, compile=False)")):
        keras.models.load_model(tmp_path / "a.keras")
    loaded = keras.models.load_model(tmp_path / "a.keras", compile=False)
    masks = sparse_lib.sparsify(loaded, masks=tmp_path / source)
    again = SparseOptimizer(keras.optimizers.SGD(0.1), masks, UPDATERS["rigl"]())
    assert_same(kernels_and_masks(again), kernels_and_masks(optimizer))
    loaded.compile(again, keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    train(loaded, 2)
    masks.check()
    assert masks.active() == optimizer.masks.active()


@pytest.mark.filterwarnings("ignore:Skipping variable loading")
def test_the_advice_for_weights_of_an_optimizer_that_is_not_built(tmp_path):
    model, optimizer = make()
    train(model, 2)
    model.save_weights(tmp_path / "a.weights.h5")
    other, resumed = make(seed=1)
    with pytest.raises(ValueError, match=re.escape("optimizer.build(model.trainable_variables), then load")) as caught:
        other.load_weights(tmp_path / "a.weights.h5")
    assert "kernels" not in str(caught.value)
    resumed.build(other.trainable_variables)
    other.load_weights(tmp_path / "a.weights.h5")
    resumed.masks.check()
    train(model, 3)
    train(other, 3)
    assert_same(kernels_and_masks(resumed), kernels_and_masks(optimizer))


@pytest.mark.filterwarnings("ignore:Skipping variable loading")
def test_the_advice_for_weights_saved_before_build(tmp_path):
    model, optimizer = make()
    model.save_weights(tmp_path / "a.weights.h5")
    other, resumed = make(seed=1)
    train(other, 1)
    with pytest.raises(ValueError, match="saved before its optimizer was built.*into a new SparseOptimizer"):
        other.load_weights(tmp_path / "a.weights.h5")
    new = SparseOptimizer(keras.optimizers.SGD(0.1, momentum=0.9), resumed.masks, UPDATERS["rigl"]())
    other.compile(new, keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    other.load_weights(tmp_path / "a.weights.h5")
    assert_same(kernels_and_masks(new), kernels_and_masks(optimizer))
    train(model, 2)
    train(other, 2)
    assert_same(kernels_and_masks(new), kernels_and_masks(optimizer))
