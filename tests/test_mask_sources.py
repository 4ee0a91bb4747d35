"""One word for the source of the masks: random, by score, from files, checkpoints and other masks."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import sparse_lib
from sparse_lib import Objective, distributions, oneshot
from sparse_lib.structures import NM

layers = keras.layers
SHAPES = {"hidden/kernel": (20, 15), "logits/kernel": (15, 4)}


def network(seed=0) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [keras.Input((20,)), layers.Dense(15, "relu", name="hidden"), layers.Dense(4, name="logits")]
    )


def data(examples=24):
    rng = np.random.default_rng(0)
    return rng.normal(size=(examples, 20)).astype("float32"), np.arange(examples) % 4


def values(masks) -> list[np.ndarray]:
    return [mask.numpy() for mask in masks.values()]


def largest(weights, counts) -> list[np.ndarray]:
    """The largest magnitudes of each array, by sorting."""
    found = []
    for weight, count in zip(weights, counts, strict=True):
        flat = np.zeros(weight.size, bool)
        flat[np.argsort(-np.abs(weight).ravel())[:count]] = True
        found.append(flat.reshape(weight.shape))
    return found


def assert_equal(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_magnitude_keeps_the_largest_of_all_kernels():
    model = network()
    before = [model.layers[i].kernel.numpy() for i in (0, 1)]
    masks = sparse_lib.sparsify(model, 0.9, masks="magnitude")
    threshold = np.sort(np.abs(np.concatenate([k.ravel() for k in before])))[-36]
    assert_equal(values(masks), [np.abs(k) >= threshold for k in before])
    assert sum(masks.active()) == 36
    for kernel, old, mask in zip(masks.kernels, before, values(masks), strict=True):
        np.testing.assert_array_equal(kernel.numpy(), np.where(mask, old, 0))


@pytest.mark.parametrize("distribution", ["uniform", "erk"])
def test_magnitude_by_distribution_keeps_the_largest_of_each_kernel(distribution):
    model = network()
    before = [model.layers[i].kernel.numpy() for i in (0, 1)]
    masks = sparse_lib.sparsify(model, 0.8, distribution, masks="magnitude")
    counts = distributions.nnz(SHAPES, 0.8, distribution=distribution).values()
    assert masks.active() == list(counts)
    assert_equal(values(masks), largest(before, counts))


def test_a_global_ranking_leaves_out_kernels_with_their_own_sparsity():
    model = network()
    before = [model.layers[i].kernel.numpy() for i in (0, 1)]
    masks = sparse_lib.sparsify(model, 0.9, masks="magnitude", custom={"logits": 0.5})
    assert_equal(values(masks), largest(before, [30, 30]))
    first = sparse_lib.sparsify(network(), 0.9, masks="magnitude", first_layer_dense=True)
    assert first.active() == [300, 6]
    mapped = sparse_lib.sparsify(network(), {"hidden": 0.75}, masks="magnitude")
    assert (mapped.names, mapped.active()) == (["hidden/kernel"], [75])


def test_a_structure_that_fixes_the_sparsity_keeps_the_largest_of_every_group():
    model = network()
    kernel = model.layers[0].kernel.numpy()
    masks = sparse_lib.sparsify(model, masks="magnitude", structure=NM(2, 4), include="hidden")
    groups = np.abs(kernel).reshape(5, 4, 15)
    ranks = np.argsort(np.argsort(-groups, axis=1), axis=1)
    np.testing.assert_array_equal(values(masks)[0], (ranks < 2).reshape(20, 15))


@pytest.mark.parametrize("method", ["snip", "grasp", "synflow"])
def test_scores_are_those_of_the_one_shot_methods(method):
    model, (x, y) = network(), data()
    expected = oneshot.METHODS[method](sparsity=0.8).masks(Objective(model), sparse_lib.sparse_kernels(model), [(x, y)])
    given = tf.data.Dataset.from_tensor_slices((x, y)).batch(24) if method == "grasp" else (x, y)
    assert_equal(values(sparse_lib.sparsify(model, 0.8, masks=method, data=given)), [m.numpy() for m in expected])


def test_random_is_the_default_and_says_so_on_a_trained_model():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        default = sparse_lib.sparsify(network(), 0.8, seed=3)
        named = sparse_lib.sparsify(network(), 0.8, masks="random", seed=3)
        assert_equal(values(default), values(named))
        trained = network()
        trained.layers[1].bias.assign([0.0, 0.1, 0.0, 0.0])
        sparse_lib.sparsify(trained, 0.0)
        sparse_lib.sparsify(trained, 0.8, masks="magnitude")
        sparse_lib.sparsify(trained, 0.8, masks="random")
    with pytest.warns(UserWarning, match="looks trained, and random masks zero .* masks='magnitude'"):
        sparse_lib.sparsify(trained, 0.8)
    fitted = keras.Sequential([keras.Input((20,)), layers.Dense(4, use_bias=False)])
    fitted.compile("sgd", "mse")
    fitted.train_on_batch(data()[0], np.ones((24, 4)))
    with pytest.warns(UserWarning, match="looks trained"):
        sparse_lib.sparsify(fitted, 0.8)


def test_random_masks_may_be_drawn_over_all_kernels():
    masks = sparse_lib.sparsify(network(), 0.8, "global", masks="random")
    assert sum(masks.active()) == 72


# --- files, checkpoints and other masks ---


def sparse_and_fitted():
    model = network()
    masks = sparse_lib.sparsify(model, 0.8, seed=5)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = sparse_lib.SparseOptimizer(keras.optimizers.Adam(), masks)
    model.compile(optimizer, loss)
    optimizer.build(model.trainable_variables)
    return model, masks


def test_masks_of_every_kind_of_file(tmp_path):
    model, masks = sparse_and_fitted()
    masks.save(tmp_path / "masks.npz")
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    tf.train.Checkpoint(masks=masks, optimizer=model.optimizer).write(str(tmp_path / "run" / "state-9"))
    for mask in masks.variables_by_kernel:
        mask.assign(~mask)
    tf.train.Checkpoint(masks=masks).write(str(tmp_path / "run" / "state-10"))
    wanted = [~value for value in values(masks)]
    files = ["masks.npz", "model.keras", "model.weights.h5", "run/state-9", "run/state-9.index"]
    for file in files:
        other = network()
        assert_equal(values(sparse_lib.sparsify(other, masks=tmp_path / file)), wanted)
    assert_equal(values(sparse_lib.sparsify(network(), masks=str(tmp_path / "run"))), values(masks))
    assert_equal(values(sparse_lib.sparsify(network(), masks=masks)), values(masks))


def test_files_without_masks_are_named(tmp_path):
    model, masks = sparse_and_fitted()
    sparse_lib.strip(model).save(tmp_path / "plain.keras")
    (tmp_path / "broken.weights.h5").write_bytes(b"no file")
    (tmp_path / "broken.index").write_bytes(b"no checkpoint")
    (tmp_path / "empty").mkdir()
    tf.train.Checkpoint(masks=masks).write(str(tmp_path / "ckpt-1"))
    wide = keras.Sequential([keras.Input((20,)), layers.Dense(16, name="hidden"), layers.Dense(4, name="logits")])
    for other, source, message in (
        (network(), tmp_path / "plain.keras", "plain.keras has no masks: give a checkpoint of a sparse run"),
        (network(), tmp_path / "broken.weights.h5", "broken.weights.h5 cannot be read as a checkpoint"),
        (network(), tmp_path / "broken", "broken cannot be read as a checkpoint"),
        (network(), tmp_path / "empty", "empty has no checkpoint: give a directory with files such as"),
        (wide, tmp_path / "ckpt-1", "are of kernels hidden/kernel 20x15, .* and this network has hidden/kernel 20x16"),
        (network(), "magnitud", r"masks='magnitud' is neither a method .* \(did you mean 'magnitude'\?\)"),
        (network(), tmp_path / "missing.npz", "missing.npz"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            sparse_lib.sparsify(other, masks=source)


def test_arguments_that_contradict_each_other():
    masks = sparse_lib.sparsify(network(), 0.8)
    for settings, message in (
        ({"sparsity": 0.5, "masks": masks}, "These masks have their own sparsity: leave sparsity"),
        ({"distribution": "erk", "masks": masks}, "have their own sparsity"),
        ({"masks": "snip"}, r"masks='snip' scores weights on examples: give data=\(x, y\)"),
        ({"keep": "masks"}, "keep= takes the masks of an earlier sparsify"),
        ({"sparsity": 1.0, "masks": "magnitude"}, "The overall sparsity is 1.0"),
        ({"custom": {"logit": 0.5}, "masks": "magnitude"}, "Custom sparsities name .*logit"),
    ):
        with pytest.raises(ValueError, match=message):
            sparse_lib.sparsify(network(), **settings)


# --- kernels that are added later ---


def test_kept_kernels_keep_mask_initial_values_and_exploration():
    model = network()
    model.layers[1].trainable = False
    first = sparse_lib.sparsify(model, 0.8)
    first.explored[0].assign(np.ones((20, 15), bool))
    initial, before = first.initial[0], values(first)[0]
    model.layers[1].trainable = True
    trained = model.layers[1].kernel.numpy()
    grown = sparse_lib.sparsify(model, 0.5, masks="magnitude", keep=first)
    assert grown.names == ["hidden/kernel", "logits/kernel"]
    np.testing.assert_array_equal(values(grown)[0], before)
    np.testing.assert_array_equal(values(grown)[1], largest([trained], [30])[0])
    assert grown.variables_by_kernel[0] is first.variables_by_kernel[0]
    np.testing.assert_array_equal(grown.initial[0], initial)
    assert grown.exploration_rate() == [1.0, 0.5]
    grown.check()


def test_the_order_is_that_of_the_model_and_frozen_kernels_are_left_out():
    model = network()
    last = sparse_lib.sparsify(model, 0.5, include="logits")
    both = sparse_lib.sparsify(model, {"hidden": 0.9}, keep=last)
    assert (both.names, both.active()) == (["hidden/kernel", "logits/kernel"], [30, 30])
    model.layers[0].trainable = False
    assert sparse_lib.sparsify(model, 0.5, keep=both).names == ["logits/kernel"]
    model.layers[0].trainable = True
    same = sparse_lib.sparsify(model, 0.1, keep=both)
    assert_equal(values(same), values(both))


def test_a_model_that_is_unfrozen_trains_on_under_new_masks():
    model, (x, y) = network(), data()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.layers[0].trainable = False
    masks = sparse_lib.sparsify(model, 0.5)
    model.compile(sparse_lib.SparseOptimizer(keras.optimizers.SGD(0.1), masks), loss)
    model.fit(x, y, verbose=0)
    model.layers[0].trainable = True
    masks = sparse_lib.sparsify(model, 0.75, masks="magnitude", keep=masks)
    model.compile(sparse_lib.SparseOptimizer(keras.optimizers.SGD(0.1), masks), loss)
    model.fit(x, y, verbose=0)
    masks.check()
    assert masks.active() == [75, 30]
