"""Sums of squares of the inputs of weights against loops over places, and Wanda's choice by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import sparse_lib
from sparse_lib.oneshot import Wanda, scores
from sparse_lib.oneshot.input_norms import InputSquares

layers = keras.layers


def test_squares_of_a_convolution_and_a_dense_layer_equal_loops():
    convolution = layers.Conv2D(3, (2, 3), strides=(2, 1), activation="relu", name="conv")
    model = keras.Sequential([keras.Input((5, 6, 2)), convolution, layers.Flatten(), layers.Dense(4, "tanh")])
    x = np.random.default_rng(0).normal(size=(7, 5, 6, 2)).astype("float32")
    found = InputSquares(model, [0, 2])([v.value for v in model.trainable_variables], tf.constant(x))
    expected = np.zeros((2, 3, 2))
    for row in range(2):
        for column in range(4):
            expected += np.sum(x[:, 2 * row : 2 * row + 2, column : column + 3] ** 2, axis=0)
    np.testing.assert_allclose(found[0], np.repeat(expected[..., np.newaxis], 3, axis=-1), rtol=1e-5)
    hidden = np.reshape(convolution(x), (7, -1))
    np.testing.assert_allclose(found[1], np.repeat(np.sum(hidden**2, axis=0)[:, np.newaxis], 4, axis=1), rtol=1e-5)


def test_squares_of_groups_padding_shared_layers_and_projections():
    # Every layer is called with known inputs: the network passes its input on unchanged.
    inputs = keras.Input((3, 4))
    shared = layers.Dense(4, name="shared", kernel_initializer="identity", use_bias=False)
    grouped = layers.Conv1D(2, 2, padding="causal", groups=2, name="grouped")
    heads = layers.EinsumDense("btd,dhe->bthe", (None, 2, 3), name="heads")
    z = shared(shared(inputs))
    model = keras.Model(inputs, [grouped(z), heads(z)])
    x = np.arange(1.0, 25.0, dtype="float32").reshape(2, 3, 4)
    kernels = [i for i, v in enumerate(model.trainable_variables) if v.name == "kernel"]
    found = InputSquares(model, kernels)([v.value for v in model.trainable_variables], tf.constant(x))
    found = {model.trainable_variables[i].path: part.numpy() for i, part in zip(kernels, found, strict=True)}
    by_input = np.sum(x**2, axis=(0, 1))
    np.testing.assert_allclose(found["shared/kernel"], np.repeat(2 * by_input[:, np.newaxis], 4, axis=1))
    np.testing.assert_allclose(found["heads/kernel"], np.broadcast_to(by_input[:, None, None], (4, 2, 3)))
    # The first place of a causal window of two meets all steps but the last; each output has two of the channels.
    places = np.stack([np.sum(x[:, :-1] ** 2, axis=(0, 1)), by_input])
    np.testing.assert_allclose(found["grouped/kernel"], np.stack([places[:, :2], places[:, 2:]], axis=-1))


def test_scores_by_hand_do_not_depend_on_the_split():
    x, w = np.array([[3.0, 0.0], [4.0, -2.0]], "float32"), [tf.constant([[1.0, -2.0], [5.0, 0.5]])]
    squares = lambda params, x: [tf.broadcast_to(tf.reduce_sum(x**2, axis=0)[:, tf.newaxis], (2, 2))]  # noqa: E731
    for batches in ([(x, None)], [(x[:1], None), (x[1:], None)]):
        np.testing.assert_allclose(scores.wanda(squares, w, [0], batches)[0], [[5, 10], [10, 1]])


def test_every_output_keeps_as_many_inputs():
    # Norms of the inputs are 1, 2 and 4: the scores are 3, 4, 4 and 1, 4, 12.
    dense = layers.Dense(2, use_bias=False)
    model = keras.Sequential([keras.Input((3,)), dense])
    dense.set_weights([np.array([[3, 1], [2, 2], [1, 3]])])
    examples = np.array([[1.0, 2.0, 4.0]]), np.array([0])
    masks = sparse_lib.sparsify(model, 0.6, masks="wanda", data=examples)
    assert masks.values()[0].numpy().astype(int).tolist() == [[0, 0], [1, 1], [1, 1]]
    # Of all 6, the 3 best; of equals the first.
    dense.set_weights([np.array([[3, 1], [2, 2], [1, 3]])])
    masks = sparse_lib.sparsify(model, 0.5, "global", masks="wanda", data=examples)
    assert masks.values()[0].numpy().astype(int).tolist() == [[0, 0], [1, 1], [0, 1]]


def test_layers_whose_inputs_are_not_seen_are_refused():
    model = keras.Sequential([keras.Input((3, 2)), layers.GRU(4)])
    with pytest.raises(ValueError, match="and GRUCell does not show them: leave this kernel out"):
        Wanda(sparsity=0.5).masks(
            sparse_lib.Objective(model), sparse_lib.sparse_kernels(model, "*gru*/kernel"), (np.ones((1, 3, 2)), [0])
        )
