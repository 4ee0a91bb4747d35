"""Masks: what they zero, what they count, what they refuse."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from sparse_lib import mask_files
from sparse_lib.masks import Masks, random_masks
from sparse_lib.structures import NM
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


def test_report_names_the_structure():
    kernels = variables((4, 3), (10, 2))
    values = [tf.constant(v) for v in random_masks([(4, 3)], [6], 0, [NM(2, 4)])]
    masks = Masks(kernels[:1], values, ["a_longer_name/kernel"], [NM(2, 4)])
    header, row, total = masks.report().splitlines()
    assert header.split() == ["kernel", "shape", "active", "of", "sparsity", "structure"]
    assert row.split() == ["a_longer_name/kernel", "4x3", "6", "12", "0.5000", "2:4"]
    assert header.index("structure") == row.index("2:4")
    assert total.split() == ["total", "6", "12", "0.5000"]


# --- files ---


def test_a_file_has_one_bit_a_weight(tmp_path):
    kernels = variables((30, 50), (3, 3, 2, 5), (7,))
    masks = Masks(kernels, halves(kernels), ["a/kernel", "b/kernel", "c"])
    masks.save(tmp_path / "masks.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["masks.npz"]
    with np.load(tmp_path / "masks.npz") as archive:
        assert archive["names"].tolist() == ["a/kernel", "b/kernel", "c"]
        assert archive["structures"].tolist() == ["unstructured"] * 3
        assert [archive[f"bits_{i}"].nbytes for i in range(3)] == [188, 12, 1]
        by_hand = np.unpackbits(archive["bits_1"])[:90].reshape(archive["shape_1"])
    np.testing.assert_array_equal(by_hand, masks.values()[1])
    fresh = variables((30, 50), (3, 3, 2, 5), (7,))
    restored = Masks(fresh, names=["a_1/kernel", "b_12/kernel", "c"])
    restored.load(tmp_path / "masks.npz")
    for mine, theirs, kernel in zip(restored.values(), masks.values(), fresh, strict=True):
        np.testing.assert_array_equal(mine, theirs)
        assert not np.any(kernel.numpy()[~mine])


def test_a_file_that_is_there_stays_if_writing_fails(tmp_path, monkeypatch):
    kernels = variables((4,))
    masks = Masks(kernels, halves(kernels))
    masks.save(tmp_path / "masks.npz")
    written = (tmp_path / "masks.npz").read_bytes()

    def fail(file, **arrays):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(mask_files.np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        masks.save(tmp_path / "masks.npz")
    assert (tmp_path / "masks.npz").read_bytes() == written
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("own", "names", "structures", "message"),
    [
        (((4, 3),), ["a"], None, r"masks.npz are of 2 kernels \(a, b\) and this network has 1 .* include= and"),
        (
            ((4, 3), (6, 2)),
            ["a", "c"],
            None,
            r"mask of b from .*masks.npz is of shape \(5, 2\) and kernel c of .*\(6, 2\)",
        ),
        (((4, 3), (5, 2)), ["a", "c"], None, "mask of b from .*masks.npz would be put on kernel c: .* the same names"),
        (((4, 3), (5, 2)), ["a_1", "b"], [NM(1, 4)] * 2, "mask of a_1 does not keep to structure 1:4"),
    ],
)
def test_a_file_of_another_network(tmp_path, own, names, structures, message):
    kernels = variables((4, 3), (5, 2))
    Masks(kernels, halves(kernels), ["a", "b"]).save(tmp_path / "masks.npz")
    masks = Masks(variables(*own), names=names, structures=structures)
    with pytest.raises(ValueError, match=message):
        masks.load(tmp_path / "masks.npz")
    assert masks.sparsity() == 0


def test_masks_of_kernels_in_another_order_are_refused(tmp_path):
    kernels = variables((4, 3), (4, 3))
    Masks(kernels, halves(kernels), ["block_1", "block_2"]).save(tmp_path / "masks.npz")
    with pytest.raises(ValueError, match="mask of block_1 from .* would be put on kernel block_2"):
        Masks(variables((4, 3), (4, 3)), names=["block_2", "block_1"]).load(tmp_path / "masks.npz")
    # Keras numbers the layers of a second network on.
    Masks(variables((4, 3), (4, 3)), names=["block_2", "block_3"]).load(tmp_path / "masks.npz")


def test_a_file_without_masks(tmp_path):
    masks = Masks(variables((4,)))
    np.savez(tmp_path / "weights.npz", w=np.ones(3))
    (tmp_path / "text.npz").write_text("no archive")
    for name in ("weights.npz", "text.npz"):
        with pytest.raises(ValueError, match=f"{name} holds no masks, or not all of them: give a file that masks.save"):
            masks.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        masks.load(tmp_path / "nothing.npz")


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


@pytest.mark.parametrize(
    ("stored", "own", "fits"),
    [
        ("dense/kernel", "encoder/dense_1/kernel", True),
        ("block_2/dense_7/kernel", "dense/kernel", True),
        ("dense/kernel", "encoder/conv/kernel", False),
        ("a/dense/kernel", "b/dense/kernel", False),
    ],
)
def test_names_of_masks_fit_with_other_numbers_and_as_ends_of_paths(stored, own, fits):
    arguments = ("a file", [stored], [(2, 3)], [own], [(2, 3)])
    if fits:
        mask_files.check_same_kernels(*arguments)
    else:
        with pytest.raises(ValueError, match=f"The mask of {stored} from a file would be put on kernel {own}"):
            mask_files.check_same_kernels(*arguments)
