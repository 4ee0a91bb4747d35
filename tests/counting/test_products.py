"""Weights outside of Keras' plain layers are counted too, against the same network in plain layers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import sparse_lib
from sparse_lib import measure
from sparse_lib.counting import layer_costs
from tests.replicas import two_replicas

L = keras.layers


class Mixing(L.Layer):
    """A product with a matrix that is not called kernel, from the right or the left."""

    def __init__(self, from_left: bool = False) -> None:
        super().__init__()
        self.from_left = from_left

    def build(self, shape):
        self.weight = self.add_weight(shape=(9, shape[-2]) if self.from_left else (shape[-1], 9), name="weight")

    def call(self, x):
        return tf.matmul(self.weight, x) if self.from_left else x @ self.weight


def plain(shape, *inner):
    return keras.Sequential([keras.Input(shape), *inner, L.Dense(2)])


def test_layers_of_ones_own():
    for shape in ((7,), (5, 7), (3, 5, 7)):
        own, dense = plain(shape, Mixing()), plain(shape, L.Dense(9, use_bias=False))
        assert measure.cost(own) == measure.cost(dense)
    rows = measure.cost(plain((5, 7), Mixing(from_left=True)))
    columns = measure.cost(plain((5, 7), L.Permute((2, 1)), L.Dense(9, use_bias=False), L.Permute((2, 1))))
    assert rows == columns


def test_masks_of_a_layer_of_ones_own():
    model = plain((7,), Mixing())
    masks = sparse_lib.sparsify(model, 0.5, "uniform", include="*weight")
    assert measure.cost(model, masks).active_weights == 63 - 31 + 18


def test_tied_products():
    tokens = keras.Input((5,), dtype="int32")
    embedding = L.Embedding(11, 6)
    hidden = L.Dense(6)(embedding(tokens))
    tied = keras.Model(tokens, Tied(embedding)(hidden))
    untied = keras.Model(tokens, L.Dense(11, use_bias=False)(L.Dense(6)(L.Embedding(11, 6)(tokens))))
    assert measure.cost(tied) == measure.cost(untied)
    # A weight of a plain layer, used once more the other way round.
    inputs = keras.Input((8,))
    encoder = L.Dense(3, use_bias=False)
    autoencoder = keras.Model(inputs, Tied(encoder)(encoder(inputs)))
    found = measure.cost(autoencoder)
    assert (found.weights, found.inference_flops) == (24, 24 + 24 - 3 + 24 + 24 - 8)


class Tied(L.Layer):
    """A product with the transposed weight of another layer."""

    def __init__(self, other) -> None:
        super().__init__()
        self.other = other

    def call(self, x):
        weight = self.other.embeddings if isinstance(self.other, L.Embedding) else self.other.kernel
        return keras.ops.matmul(x, keras.ops.transpose(weight))


def test_time_distributed_is_counted_at_every_step():
    inner = keras.Sequential([keras.Input((7,)), L.Dense(4, "relu"), L.Dense(3)])
    wrapped = keras.Sequential([keras.Input((5, 7)), L.TimeDistributed(inner)])
    direct = keras.Sequential([keras.Input((5, 7)), L.Dense(4, "relu"), L.Dense(3)])
    assert measure.cost(wrapped) == measure.cost(direct)


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_quantized_layers(mode):
    model = plain((7,), L.Dense(9, "relu"))
    wanted = measure.cost(model)
    for layer in model.layers:
        layer.quantize(mode)
    found = measure.cost(model)
    assert found.inference_flops == wanted.inference_flops
    assert found.weights == wanted.weights == 63 + 18
    if mode == "int8":
        # A byte per weight; 11 biases and 11 scales of 4 bytes.
        assert found.size_bytes == 63 + 18 + 4 * (11 + 11)
    assert found.size_bytes < wanted.size_bytes


def test_lora_makes_a_sparse_kernel_dense():
    model = plain((7,), L.Dense(9, use_bias=False))
    wanted = measure.cost(model)
    masks = sparse_lib.sparsify(model, 0.9, "uniform")
    model.layers[0].enable_lora(2)
    with pytest.warns(UserWarning, match="LoRA adds a dense .*kernel: in effect they are dense, and count as such"):
        found = measure.cost(model, masks)
    assert np.count_nonzero(masks.values()[0]) < 63
    assert found.active_weights == 63 + masks.active()[1]
    assert measure.cost(model).inference_flops == wanted.inference_flops


def test_products_without_a_rule_are_named():
    class Correlating(L.Layer):
        def build(self, shape):
            self.pattern = self.add_weight(shape=(3, 3, shape[-1], 4), name="pattern")

        def call(self, x):
            return tf.nn.conv2d(x, self.pattern, 1, "SAME")

    model = keras.Sequential([keras.Input((6, 6, 2)), Correlating(), L.Flatten(), L.Dense(2)])
    with pytest.raises(ValueError, match="Cannot count the product with .*pattern: only Keras' own layers"):
        measure.cost(model)
    with pytest.raises(ValueError, match="Cannot count the product with .*weight.*'micronet'"):
        layer_costs(plain((7,), Mixing()), rule="micronet")


def test_sums_and_scales_are_no_products():
    class Shifted(L.Layer):
        def build(self, shape):
            self.table = self.add_weight(shape=shape[1:], name="table")

        def call(self, x):
            return x * self.table + self.table

    assert measure.cost(plain((5, 7), Shifted())) == measure.cost(plain((5, 7)))


def test_layers_with_inner_products_are_counted_once():
    inputs = keras.Input((5, 8))
    attended = L.MultiHeadAttention(2, 4)(inputs, inputs)
    recurrent = L.Bidirectional(L.LSTM(3, unroll=True))(attended)
    model = keras.Model(inputs, L.Dense(2)(recurrent))
    looped = keras.Model(inputs, L.Dense(2)(L.Bidirectional(L.LSTM(3))(L.MultiHeadAttention(2, 4)(inputs, inputs))))
    assert measure.cost(model) == measure.cost(looped)
    assert measure.cost(model).weights == sum(v.numpy().size for v in model.weights if v.name.endswith("kernel"))


def test_replicas_count_as_one_device():
    alone = measure.cost(plain((7,), Mixing()))
    with two_replicas().scope():
        assert measure.cost(plain((7,), Mixing())) == alone
