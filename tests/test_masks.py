"""Masks: what they zero, what they count, what they refuse."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from sparse_lib.masks import Masks, random_masks
from tests.replicas import two_replicas


def variables(*shapes) -> list[keras.Variable]:
    rng = np.random.default_rng(0)
    return [keras.Variable(rng.normal(size=s).astype("float32") + 5, name=f"v{i}") for i, s in enumerate(shapes)]


def halves(kernels) -> list[tf.Tensor]:
    return [tf.reshape(tf.range(int(np.prod(k.shape))) % 2 == 0, k.shape) for k in kernels]


def test_masked_weights_become_zero_and_active_ones_stay():
    kernels = variables((3, 4), (2, 2, 1, 2))
    before = [k.numpy() for k in kernels]
    masks = Masks(kernels, halves(kernels), ["a", "b"])
    for kernel, mask, old, initial in zip(kernels, masks.values(), before, masks.initial, strict=True):
        np.testing.assert_array_equal(kernel.numpy(), np.where(mask, old, 0))
        np.testing.assert_array_equal(initial, old)
    masks.check()


def test_infinities_and_nans_are_masked_too():
    (kernel,) = variables((4,))
    kernel.assign([np.inf, np.nan, -np.inf, 1.0])
    Masks([kernel], [tf.constant([False, False, True, True])])
    assert kernel.numpy().tolist() == [0, 0, -np.inf, 1]


def test_masks_are_boolean_variables_that_do_not_train():
    kernels = variables((3, 4))
    masks = Masks(kernels)
    (mask,) = masks.variables_by_kernel
    assert (mask.dtype, tuple(mask.shape), mask.trainable) == (tf.bool, (3, 4), False)
    assert masks.trainable_variables == ()
    assert {id(v) for v in masks.variables} == {id(v) for v in [*masks.variables_by_kernel, *masks.explored]}


def test_counts():
    kernels = variables((3, 3), (2, 5))
    masks = Masks(kernels, halves(kernels), ["a", "b"])
    assert masks.active() == [5, 5]
    assert masks.sizes() == [9, 10]
    assert masks.sparsity() == pytest.approx(9 / 19)
    assert len(masks) == 2
    assert [k for k, _ in masks] == kernels


def test_no_kernels_is_a_dense_network():
    masks = Masks([])
    assert (masks.active(), masks.sparsity(), masks.exploration_rate(), len(masks)) == ([], 0.0, [], 0)
    masks.project()
    masks.check()


def test_assign_and_exploration():
    kernels = variables((4,))
    masks = Masks(kernels, [tf.constant([True, False, False, False])])
    assert masks.exploration_rate() == [0.25]
    masks.explored[0].assign([True, True, True, False])
    assert masks.exploration_rate() == [0.75]
    masks.assign([tf.constant([False, True, True, False])])
    assert masks.exploration_rate() == [0.5]
    assert masks.values()[0].numpy().tolist() == [False, True, True, False]
    assert kernels[0].numpy()[0] == 0


def test_aligned_follows_the_variables():
    kernels = variables((3,), (4,), (5,))
    masks = Masks([kernels[2], kernels[0]])
    assert [None if m is None else m.shape[0] for m in masks.aligned(kernels)] == [3, None, 5]


def test_check_names_what_is_broken():
    kernels = variables((3,), (3,))
    masks = Masks(kernels, halves(kernels), ["good", "bad"])
    kernels[1].assign([1.0, 1.0, 1.0])
    with pytest.raises(AssertionError, match="Masked weights of bad are not zero.*masks.project"):
        masks.check()
    masks.project()
    masks.check()


def test_random_masks_are_exact_seeded_and_spread():
    shapes, active = [(10, 20), (3, 3, 4, 5), (7,)], [37, 0, 7]
    masks = random_masks(shapes, active, seed=3)
    assert [m.shape for m in masks] == shapes
    assert [int(m.sum()) for m in masks] == active
    assert all((a == b).all() for a, b in zip(masks, random_masks(shapes, active, seed=3), strict=True))
    assert (masks[0] != random_masks(shapes, active, seed=4)[0]).any()
    twice = random_masks([(1000,)] * 2, [500] * 2, seed=0)
    assert 200 < (twice[0] & twice[1]).sum() < 300


def test_shuffled_keeps_the_counts():
    kernels = variables((30, 10), (50,))
    masks = Masks(kernels, halves(kernels))
    shuffled = masks.shuffled(seed=1)
    assert [int(tf.math.count_nonzero(m)) for m in shuffled] == masks.active()
    assert np.any(shuffled[0] != masks.values()[0])
    np.testing.assert_array_equal(shuffled[0], masks.shuffled(seed=1)[0])


def test_report_adds_up():
    kernels = variables((3, 4), (10,))
    lines = Masks(kernels, halves(kernels), ["conv/kernel", "head"]).report().splitlines()
    assert lines[1].split() == ["conv/kernel", "3x4", "6", "12", "0.5000"]
    assert lines[-1].split() == ["total", "11", "22", "0.5000"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([np.ones((4, 3), bool)], r"mask of layer/kernel must be boolean of shape \(3, 4\); got bool of .*\(4, 3\)"),
        ([np.ones((3, 4), "float32")], r"must be boolean of shape \(3, 4\); got float32"),
        ([np.ones((1, 4), bool)], r"got bool of shape \(1, 4\)"),
        ([], "Got 0 masks for 1 kernels"),
    ],
)
def test_wrong_masks(values, message):
    kernels = variables((3, 4))
    with pytest.raises(ValueError, match=message):
        Masks(kernels, values, ["layer/kernel"])
    with pytest.raises(ValueError, match=message):
        Masks(kernels, names=["layer/kernel"]).assign(values)


def test_a_kernel_takes_one_mask():
    (kernel,) = variables((3,))
    with pytest.raises(ValueError, match="Each kernel takes one mask; got a kernel twice among a, b"):
        Masks([kernel, kernel], names=["a", "b"])


def test_checkpoint_restores_into_a_second_model(tmp_path):
    # Layer names differ from model to model in one process; masks are stored by place.
    def make(seed):
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        kernels = [model.trainable_variables[0]]
        return model, Masks(kernels, [tf.constant(random_masks([(4, 3)], [5], seed)[0])])

    first, masks = make(0)
    path = tf.train.Checkpoint(model=first, masks=masks).save(str(tmp_path / "ckpt"))
    second, restored = make(1)
    assert np.any(masks.values()[0] != restored.values()[0])
    tf.train.Checkpoint(model=second, masks=restored).restore(path).assert_consumed()
    np.testing.assert_array_equal(masks.values()[0], restored.values()[0])
    restored.check()


@pytest.mark.parametrize("inside", [True, False], ids=["inside the scope", "outside of it"])
def test_a_mirrored_model_has_mirrored_masks(inside):
    strategy = two_replicas()
    with strategy.scope():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        kernel = model.trainable_variables[0]
        masks = Masks([kernel]) if inside else None
    masks = masks or Masks([kernel])
    masks.assign([tf.constant(np.eye(4, 3, dtype=bool))])
    (mask,) = masks.variables_by_kernel
    for copy in (*mask.values, *masks.explored[0].values):
        np.testing.assert_array_equal(copy, np.eye(4, 3, dtype=bool))
    for copy in kernel.value.values:
        assert np.count_nonzero(copy) == 3
    masks.check()
    assert masks.active() == [3]
