"""How often layers apply their kernels, against brute force."""

import itertools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from sparse_lib.counting import layer_costs

layers = keras.layers


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("size", "strides", "padding", "groups", "dilation", "expected_output"),
    [
        ((7, 9), (1, 1), "valid", 1, 1, (5, 8)),
        ((7, 9), (2, 3), "valid", 2, 1, (3, 3)),
        ((7, 9), (2, 3), "same", 2, 1, (4, 3)),
        ((7, 9), (1, 1), "same", 4, 2, (7, 9)),
        ((7, 9), (1, 1), "valid", 1, 2, (3, 7)),
    ],
)
def test_convolution_against_a_brute_force_count(size, strides, padding, groups, dilation, expected_output, bias):
    layer = layers.Conv2D(
        8,
        (3, 2),
        strides=strides,
        padding=padding,
        groups=groups,
        dilation_rate=dilation,
        use_bias=bias,
    )
    model = keras.Sequential([keras.Input((*size, 4)), layer])
    mask = np.random.default_rng(0).random(layer.kernel.shape) < 0.6
    assert mask.any(axis=(0, 1, 2)).all()
    multiplications = additions = 0
    for _ in itertools.product(*map(range, expected_output)):
        for unit in range(8):
            taps = sum(bool(mask[(*tap, unit)]) for tap in np.ndindex(3, 2, 4 // groups))
            multiplications += taps
            additions += taps - 1 + bias
    (cost,) = layer_costs(model, {layer.kernel.path: int(mask.sum())})
    assert cost.inference_flops == multiplications + additions
    assert cost.kernel_size == mask.size


VALID = {
    "dense": (lambda: layers.Dense(5, use_bias=False), (4,)),
    "dense on a sequence": (lambda: layers.Dense(5, use_bias=False), (6, 4)),
    "conv1d": (lambda: layers.Conv1D(5, 3, strides=2, use_bias=False), (9, 4)),
    "causal": (lambda: layers.Conv1D(5, 1, padding="causal", use_bias=False), (9, 4)),
    "conv3d": (lambda: layers.Conv3D(2, 2, use_bias=False), (4, 3, 5, 2)),
    "depthwise1d": (lambda: layers.DepthwiseConv1D(3, use_bias=False), (9, 4)),
    "depthwise": (
        lambda: layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False),
        (7, 6, 4),
    ),
    "transpose1d": (lambda: layers.Conv1DTranspose(5, 3, strides=2, use_bias=False), (4, 2)),
    "transpose2d": (lambda: layers.Conv2DTranspose(3, 3, strides=2, use_bias=False), (4, 5, 2)),
    "transpose3d": (lambda: layers.Conv3DTranspose(2, 2, use_bias=False), (3, 4, 2, 2)),
    "einsum": (lambda: layers.EinsumDense("abc,cde->abde", (6, 3, 5)), (6, 4)),
    "einsum of two axes": (lambda: layers.EinsumDense("abcd,cde->abe", (6, 7)), (6, 3, 4)),
    "einsum with dots": (lambda: layers.EinsumDense("...x,xy->...y", 7), (2, 3, 4)),
}


@pytest.mark.parametrize("kind", VALID)
def test_products_equal_the_sum_of_a_layer_of_ones(kind):
    # With inputs of 1 and kernels of 0 or 1, each product with an active weight is 1.
    make, shape = VALID[kind]
    layer = make()
    model = keras.Sequential([keras.Input(shape), layer])
    mask = np.random.default_rng(0).random(layer.kernel.shape) < 0.5
    for values in (np.ones(mask.shape), mask):
        layer.kernel.assign(values)
        outputs = model(tf.ones((1, *shape)))
        products = int(tf.reduce_sum(outputs))
        (cost,) = layer_costs(model, {layer.kernel.path: int(values.sum())})
        assert cost.inference_flops == products + max(products - math.prod(outputs.shape), 0)


@pytest.mark.parametrize(("kind", "shape"), [(layers.SeparableConv1D, (9, 4)), (layers.SeparableConv2D, (9, 8, 4))])
def test_separable_convolution_is_two_kernels(kind, shape):
    layer = kind(5, 3, depth_multiplier=2, activation="relu")
    model = keras.Sequential([keras.Input(shape), layer])
    depthwise, pointwise = layer_costs(model)
    positions, taps = (7, 3) if len(shape) == 2 else (7 * 6, 9)
    assert depthwise.inference_flops == positions * 8 * (2 * taps - 1)
    assert pointwise.inference_flops == positions * 5 * (2 * 8 + 1)
    assert (depthwise.bias, pointwise.bias) == (0, 5)
    assert depthwise.name == layer.depthwise_kernel.path
    assert pointwise.name == layer.pointwise_kernel.path


def gates_by_brute_force(kind, units, steps, masks, biases):
    """Multiplications and additions of the sums of a recurrent layer, and its activations, counted one by one.

    A sum has the products of its inputs and of the state, and one bias or, in a GRU that resets afterwards, two.
    """
    outputs = masks[0].shape[1]
    flops = 0
    for _, output in itertools.product(range(steps), range(outputs)):
        products = sum(int(mask[:, output].sum()) for mask in masks)
        flops += products + (products - 1 + biases)
    return flops + steps * units * {"gru": 3, "lstm": 5, "simple": 1}[kind]


RECURRENT = {
    "gru": (lambda: layers.GRU(4, reset_after=False), 1),
    "gru with two biases": (lambda: layers.GRU(4), 2),
    "gru without bias": (lambda: layers.GRU(4, use_bias=False), 0),
    "lstm": (lambda: layers.LSTM(4, return_sequences=True), 1),
    "lstm with states": (lambda: layers.LSTM(4, return_state=True), 1),
    "simple": (lambda: layers.SimpleRNN(4), 1),
    "cell": (lambda: layers.RNN(layers.GRUCell(4), go_backwards=True), 2),
}


@pytest.mark.parametrize("name", RECURRENT)
@pytest.mark.parametrize("density", [1.0, 0.7])
def test_recurrent_layers_against_a_brute_force_count(name, density):
    make, biases = RECURRENT[name]
    inputs = keras.Input((5, 6))
    layer = make()
    outputs = layer(inputs)
    model = keras.Model(inputs, keras.tree.flatten(outputs)[0])
    cell = layer.cell
    random = np.random.default_rng(1)
    masks = [random.random(kernel.shape) < density for kernel in (cell.kernel, cell.recurrent_kernel)]
    assert all(mask.any(axis=0).all() for mask in masks)
    kind = "gru" if name in ("cell",) else name.split()[0]
    active = {v.path: int(m.sum()) for v, m in zip((cell.kernel, cell.recurrent_kernel), masks, strict=True)}
    costs = layer_costs(model, active)
    assert sum(c.inference_flops for c in costs) == gates_by_brute_force(kind, 4, 5, masks, biases)
    assert sum(c.kernel_size for c in costs) + sum(c.bias for c in costs) == layer.count_params()


def test_both_directions_of_a_recurrent_layer_count():
    one = keras.Sequential([keras.Input((5, 3)), layers.GRU(4)])
    both = keras.Sequential([keras.Input((5, 3)), layers.Bidirectional(layers.GRU(4))])
    total = [sum(c.inference_flops for c in layer_costs(model)) for model in (one, both)]
    assert total[1] == 2 * total[0]


def test_an_embedding_counts_where_it_makes_logits():
    embedding = layers.ReversibleEmbedding(7, 3)
    inputs = keras.Input((5,))
    hidden = layers.Dense(3, use_bias=False)(embedding(inputs))
    model = keras.Model(inputs, embedding(hidden, reverse=True))
    dense, logits = layer_costs(model)
    assert dense.inference_flops == 5 * 3 * (2 * 3 - 1)
    assert (logits.inference_flops, logits.kernel_size, logits.bias) == (5 * 7 * (2 * 3 - 1), 21, 0)
    lookup = keras.Model(inputs, layers.Dense(3)(embedding(inputs)))
    assert len(layer_costs(lookup)) == 1
