"""Subspaces: which coordinates, and the way between vectors and tensors."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from sparse_lib.curvature import Subspace
from sparse_lib.masks import Masks


@pytest.fixture
def model(tiny_model):
    return tiny_model("mlp")


@pytest.fixture
def masks(model):
    """The hidden kernel keeps its first row and its last entry, the other one its first column."""
    hidden, logits = np.zeros((6, 5), bool), np.zeros((5, 3), bool)
    hidden[0] = hidden[5, 4] = True
    logits[:, 0] = True
    return Masks([model.trainable_variables[0], model.trainable_variables[2]], [hidden, logits])


def tensors_of(subspace, first=0.0):
    """Tensors that count 0, 1, 2, ... through all entries."""
    sizes = [int(np.prod(shape)) for shape in subspace.shapes]
    starts = np.cumsum([0, *sizes[:-1]])
    return [
        tf.reshape(tf.range(start + first, start + first + size, dtype=tf.float32), shape)
        for start, size, shape in zip(starts, sizes, subspace.shapes, strict=True)
    ]


def test_coordinates_of_active_weights_by_hand(model, masks):
    subspace = Subspace.active(model, masks)
    assert subspace.names == ("hidden/kernel", "hidden/bias", "logits/kernel", "logits/bias")
    assert subspace.shapes == ((6, 5), (5,), (5, 3), (3,))
    expected = ([0, 1, 2, 3, 4, 29], range(5), [0, 3, 6, 9, 12], range(3))
    for index, want in zip(subspace.indices, expected, strict=True):
        assert index.dtype == np.int64
        np.testing.assert_array_equal(index, list(want))
    assert subspace.size == 19
    assert subspace.slices == (slice(0, 6), slice(6, 11), slice(11, 16), slice(16, 19))


def test_all_counts_every_weight(model, masks):
    assert Subspace.all(model).size == model.count_params() == 53
    assert Subspace.active(model).size == 53


def test_gather_by_hand(model, masks):
    subspace = Subspace.active(model, masks)
    expected = [0, 1, 2, 3, 4, 29, 30, 31, 32, 33, 34, 35, 38, 41, 44, 47, 50, 51, 52]
    np.testing.assert_array_equal(subspace.gather(tensors_of(subspace)), expected)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("leading", [(), (1,), (4,)])
def test_scatter_puts_back_what_gather_takes_and_zero_elsewhere(model, masks, leading, compiled):
    subspace = Subspace.active(model, masks)
    scatter = tf.function(subspace.scatter) if compiled else subspace.scatter
    gather = tf.function(subspace.gather) if compiled else subspace.gather
    vector = tf.constant(np.random.default_rng(0).normal(size=(*leading, subspace.size)))
    tensors = scatter(vector)
    for tensor, shape, index in zip(tensors, subspace.shapes, subspace.indices, strict=True):
        assert tensor.shape == (*leading, *shape)
        assert tensor.dtype == tf.float64
        off = np.ones(int(np.prod(shape)), bool)
        off[index] = False
        assert not np.any(tf.reshape(tensor, [*leading, -1]).numpy()[..., off])
    np.testing.assert_array_equal(gather(tensors), vector)


def test_tensors_of_many_are_gathered_each_on_its_own(model, masks):
    subspace = Subspace.active(model, masks)
    both = [tf.stack(pair) for pair in zip(tensors_of(subspace), tensors_of(subspace, 100.0), strict=True)]
    together = subspace.gather(both)
    np.testing.assert_array_equal(together[0], subspace.gather(tensors_of(subspace)))
    np.testing.assert_array_equal(together[1], subspace.gather(tensors_of(subspace, 100.0)))


def test_tensors_of_several_dtypes_make_float64(model):
    subspace = Subspace.all(model)
    first, *rest = tensors_of(subspace)
    assert subspace.gather([tf.cast(first, tf.float64), *rest]).dtype == tf.float64


@pytest.mark.parametrize(
    ("which", "names"),
    [
        ("hidden", ["hidden/kernel", "hidden/bias"]),
        ("hidden/kernel", ["hidden/kernel"]),
        ("*/kernel", ["hidden/kernel", "logits/kernel"]),
        ("*", ["hidden/kernel", "hidden/bias", "logits/kernel", "logits/bias"]),
        (lambda name: name.endswith("bias"), ["hidden/bias", "logits/bias"]),
    ],
)
def test_only_some_variables(model, masks, which, names):
    whole = Subspace.active(model, masks)
    part = whole.only(which)
    assert [n for n, index in zip(part.names, part.indices, strict=True) if len(index)] == names
    tensors = tensors_of(whole)
    np.testing.assert_array_equal(part.gather(tensors), whole.gather(tensors).numpy()[whole.positions(part)])


def test_only_names_the_choices(model, masks):
    with pytest.raises(ValueError, match=r"'conv1'.*choose among hidden/kernel, hidden/bias, logits/kernel"):
        Subspace.active(model, masks).only("conv1")


def test_a_layer_without_active_weights_cannot_be_chosen(model):
    masks = Masks([model.trainable_variables[0]], [np.zeros((6, 5), bool)])
    with pytest.raises(ValueError, match="choose among hidden/bias"):
        Subspace.active(model, masks).only("hidden/kernel")


def test_positions_refuse_what_lies_outside(model, masks, tiny_model):
    inside = Subspace.active(model, masks)
    with pytest.raises(ValueError, match="outside"):
        inside.positions(Subspace.all(model))
    with pytest.raises(ValueError, match="different models"):
        inside.positions(Subspace.all(tiny_model("convnet")))


def test_masks_of_another_model(model, masks, tiny_model):
    with pytest.raises(ValueError, match="not those of model"):
        Subspace.active(tiny_model("mlp"), masks)


def test_a_model_without_variables():
    with pytest.raises(ValueError, match="no trainable variables"):
        Subspace.all(keras.Sequential([keras.Input((2,)), keras.layers.ReLU()]))


def test_frozen_layers_are_left_out_and_their_masks_with_them(model, masks):
    model.get_layer("hidden").trainable = False
    assert Subspace.active(model, masks).names == ("logits/kernel", "logits/bias")


def test_a_scalar_variable_is_one_coordinate():
    class Scale(keras.layers.Layer):
        def build(self, _):
            self.factor = self.add_weight(shape=(), name="factor")

        def call(self, x):
            return x * self.factor

    model = keras.Sequential([keras.Input((2,)), Scale(), keras.layers.Dense(1)])
    subspace = Subspace.all(model)
    assert subspace.size == 4
    np.testing.assert_array_equal(subspace.gather(subspace.scatter(tf.range(4.0))), [0, 1, 2, 3])
    stacked = tf.reshape(tf.range(8.0), [2, 4])
    np.testing.assert_array_equal(subspace.gather(subspace.scatter(stacked)), stacked)
