"""sparsify: which kernels it finds in any Keras model, and how many weights it leaves."""

import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import sparse_lib
from sparse_lib import api, measure, oneshot
from sparse_lib.optimizer import SparseOptimizer
from sparse_lib.structures import NM, UNSTRUCTURED, ConstantFanIn
from sparse_lib.updaters import RigL
from tests.subclassed import Subclassed

layers = keras.layers


def nested_and_shared() -> keras.Model:
    shared = layers.Dense(5, name="shared")
    stack = [keras.Input((5,)), layers.Dense(5, name="hidden"), layers.LayerNormalization()]
    inner = keras.Sequential(stack, name="inner")
    a, b = keras.Input((4,)), keras.Input((4,))
    merged = layers.Concatenate()([inner(shared(a)), inner(shared(b))])
    return keras.Model([a, b], layers.Dense(2, name="head")(merged))


def convolutional() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, name="conv"),
            layers.BatchNormalization(),
            layers.DepthwiseConv2D(3, name="depthwise"),
            layers.SeparableConv2D(5, 3, name="separable"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2, name="head"),
        ]
    )


def attention() -> keras.Model:
    tokens = keras.Input((7,), dtype="int32")
    x = layers.Embedding(11, 8, name="embedding")(tokens)
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    return keras.Model(tokens, layers.LSTM(3, name="lstm")(x))


def built_subclassed() -> keras.Model:
    model = Subclassed()
    model(tf.zeros([1, 4]))
    return model


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (nested_and_shared, ["shared/kernel", "hidden/kernel", "head/kernel"]),
        (convolutional, ["conv/kernel", "separable/pointwise_kernel", "head/kernel"]),
    ],
)
def test_kernels_that_are_found(make, names):
    assert list(api.sparse_kernels(make())) == names


def test_repeated_names_are_told_apart():
    model = built_subclassed()
    kernels = api.sparse_kernels(model)
    path = "subclassed/block/kernel"
    assert set(kernels) == {"subclassed/head_kernel", "stem/kernel", path, f"{path}_1"}
    assert kernels[path] is model.blocks[0].kernel
    assert kernels[f"{path}_1"] is model.blocks[1].kernel


def test_attention_and_recurrent_kernels():
    model = attention()
    found = api.sparse_kernels(model)
    assert {name.rpartition("/")[0] for name in found} == {"query", "key", "value", "attention_output", "lstm_cell"}
    assert len(found) == 6
    order = [id(v) for v in model.trainable_variables]
    places = [order.index(id(v)) for v in found.values()]
    assert places == sorted(places)


def test_frozen_layers_are_left_out():
    model = convolutional()
    model.get_layer("conv").trainable = False
    assert "conv/kernel" not in api.sparse_kernels(model)


def test_include_decides():
    kernels = api.sparse_kernels(attention(), include=lambda layer, v: layer.name == "embedding")
    assert list(kernels) == ["embedding/embeddings"]


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"include": "query"}, ["query/kernel"]),
        ({"include": "*/query/*"}, ["query/kernel"]),
        ({"include": re.compile("key|value/kernel")}, ["key/kernel", "value/kernel"]),
        (
            {"include": ["embedding", "lstm/*"]},
            ["embedding/embeddings", "lstm_cell/kernel", "lstm_cell/recurrent_kernel"],
        ),
        ({"exclude": ["*recurrent*", "attention/*"]}, None),
        ({"include": "lstm_cell", "exclude": lambda layer, v: v.name == "kernel"}, ["lstm_cell/recurrent_kernel"]),
        ({"include": (api.is_weight_matrix, "embedding"), "exclude": "[qkv]*"}, None),
    ],
)
def test_rules_choose(settings, names):
    model = attention()
    found = list(api.sparse_kernels(model, **settings))
    everything = list(api.sparse_kernels(model))
    if names is None and "include" in settings:
        names = ["embedding/embeddings", *(n for n in everything if n[0] not in "qkv")]
    elif names is None:
        names = ["lstm_cell/kernel"]
    assert found == names


def test_sparsities_by_pattern():
    masks = api.sparsify(attention(), {"*": 0.5, "lstm_cell": 0.75, "lstm_cell/recurrent*": 0.0})
    by_name = dict(zip(masks.names, zip(masks.active(), masks.sizes(), strict=True), strict=True))
    assert by_name["query/kernel"] == (32, 64)
    assert by_name["lstm_cell/kernel"] == (24, 96)
    assert by_name["lstm_cell/recurrent_kernel"] == (36, 36)
    alone = api.sparsify(attention(), {"query": 0.5, "lstm_cell/kernel": 0.75})
    assert list(zip(alone.names, alone.active(), strict=True)) == [("query/kernel", 32), ("lstm_cell/kernel", 24)]
    custom = api.sparsify(attention(), 0.5, "uniform", custom={"*_cell": 0.0})
    assert custom.active()[-2:] == [96, 36]


# --- masks of one model on another ---


@pytest.mark.parametrize("structure", [UNSTRUCTURED, NM(2, 4), ConstantFanIn()], ids=str)
@pytest.mark.parametrize("by_file", [True, False])
def test_masks_move_to_another_model(structure, by_file, tmp_path):
    masks = api.sparsify(attention(), structure=structure, exclude="lstm_cell")
    masks.save(tmp_path / "masks.npz")
    model = attention()
    before = {name: kernel.numpy() for name, kernel in api.sparse_kernels(model, exclude="lstm_cell").items()}
    moved = api.transfer_masks(tmp_path / "masks.npz" if by_file else masks, model, exclude="lstm_cell")
    assert moved.structures == masks.structures
    for mine, theirs, kernel, old in zip(moved.values(), masks.values(), moved.kernels, before.values(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
        np.testing.assert_array_equal(kernel.numpy(), np.where(theirs, old, 0))
    assert {id(k) for k in moved.kernels} <= {id(v) for v in model.trainable_variables}


@pytest.mark.parametrize("make", [nested_and_shared, convolutional, attention, built_subclassed])
@pytest.mark.parametrize("distribution", ["erk", "uniform"])
def test_total_sparsity_is_met(make, distribution):
    masks = api.sparsify(make(), 0.75, distribution)
    size = sum(masks.sizes())
    zeros = [int(0.75 * n) for n in masks.sizes()]
    assert abs(size - sum(masks.active()) - sum(zeros)) <= len(masks)
    masks.check()


def test_seed_and_custom_sparsities():
    model = attention()
    masks = api.sparsify(model, 0.5, "uniform", custom={"lstm_cell": 0.0, "query/kernel": 0.75})
    dense = dict(zip(masks.names, zip(masks.active(), masks.sizes(), strict=True), strict=True))
    assert dense["lstm_cell/kernel"] == (96, 96)
    assert dense["lstm_cell/recurrent_kernel"] == (36, 36)
    assert dense["query/kernel"] == (16, 64)
    assert dense["key/kernel"] == (32, 64)
    same, other = (api.sparsify(attention(), 0.5, "uniform", seed=seed) for seed in (0, 1))
    again = api.sparsify(attention(), 0.5, "uniform", seed=0)
    assert all(np.array_equal(a, b) for a, b in zip(same.values(), again.values(), strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(same.values(), other.values(), strict=True))


def test_first_layer_dense():
    masks = api.sparsify(nested_and_shared(), 0.5, "uniform", first_layer_dense=True)
    assert masks.active()[0] == masks.sizes()[0]


@pytest.mark.parametrize("make", [nested_and_shared, convolutional, attention, built_subclassed])
def test_three_lines_train_any_model(make):
    model = make()
    masks = api.sparsify(model, 0.5)
    active = masks.active()
    optimizer = SparseOptimizer(keras.optimizers.Adam(0.01), masks, RigL(end_step=4, frequency=2))
    model.compile(optimizer, "mse", run_eagerly=True)
    rng = np.random.default_rng(0)
    x = [rng.integers(0, 9, (12, *i.shape[1:])) for i in getattr(model, "inputs", None) or [np.zeros((1, 4))]]
    x = x if len(x) > 1 else x[0]
    before = [v.numpy() for v in masks.values()]
    model.fit(x, np.ones(model(x).shape), batch_size=3, verbose=0)
    masks.check()
    assert masks.active() == active
    assert any(np.any(a != b) for a, b in zip(before, masks.values(), strict=True))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: api.sparsify(keras.Sequential([layers.Dense(2)], name="a")), "Model a has no weights yet: call it"),
        (lambda: api.sparsify(nested_and_shared(), include=lambda *_: False), "No trainable kernel of .* was chosen"),
        (lambda: api.sparsify(nested_and_shared(), custom={"heads": 0.5}), "Custom sparsities name .*heads"),
        (lambda: api.sparsify(nested_and_shared(), 1.5), "1.5"),
        (lambda: api.sparsify(nested_and_shared(), {"heads": 0.5}), "name .*heads.*the kernels are .*head/kernel"),
        (
            lambda: api.sparsify(nested_and_shared(), include="conv*"),
            r"'conv\*' fits no kernel of .*; there are shared/",
        ),
        (lambda: api.sparsify(nested_and_shared(), exclude="heads"), "'heads' fits no kernel"),
        (
            lambda: api.transfer_masks(api.sparsify(nested_and_shared()), convolutional()),
            r"The mask of shared/kernel from another model is of shape \(4, 5\) and kernel conv/kernel of shape",
        ),
        (
            lambda: api.transfer_masks(api.sparsify(nested_and_shared()), attention()),
            r"The masks from another model are of 3 kernels .* and this network has 6 sparse ones .*: choose the same",
        ),
        (lambda: api.sparsify(nested_and_shared(), distribution="normal"), "Unknown distribution 'normal'"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_of_many_kernels_an_error_names_the_likest():
    sizes = [keras.layers.Dense(3, name=f"block_{i}") for i in range(20)] + [keras.layers.Dense(2, name="logits")]
    model = keras.Sequential([keras.Input((3,)), *sizes])
    with pytest.raises(
        ValueError, match=r"'logit' fits no kernel .*; there are (sequential\S*/)?logits/kernel, .* and 13 others"
    ):
        api.sparsify(model, 0.9, exclude="logit")


def test_arguments_of_a_wrong_type():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    for call, message in (
        (lambda: api.sparsify(0.9, model), "first argument is a Keras model, got 0.9"),
        (lambda: api.sparsify("adam"), "first argument is a Keras model, got 'adam'"),
        (lambda: api.sparsify(model, "0.9"), "The sparsity is '0.9': give a fraction"),
        (lambda: api.sparsify(model, True), "The sparsity is True"),
        (lambda: api.sparsify(model, structure=sparse_lib.Channel), "structure is <class .*: give an instance such as"),
        (lambda: api.sparsify(model, structure="2:4"), "structure is '2:4': give an instance"),
        (lambda: api.transfer_masks(model, model), "first argument is masks or a file of masks"),
        (lambda: oneshot.Magnitude(sparsity=0.5).masks(model, {}), "Masks are of an Objective .* got Sequential"),
        (lambda: measure.cost(model, 0.9), "masks= takes the masks from sparsify"),
        (lambda: measure.gradient_flow(model, (np.ones((2, 4)), np.ones(2)), masks=[1]), "masks= takes the masks"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_another_backend_is_one_line():
    """Other backends need packages that are not required here, so one is feigned."""
    code = """
import keras
keras.backend.backend = lambda: "jax"
import sparse_lib
try:
    sparse_lib.sparsify
except ValueError as error:
    print(error)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "sparse_lib needs Keras on TensorFlow, and Keras runs on jax: set KERAS_BACKEND" in found.stdout


def test_lora_on_a_sparse_kernel_warns():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    masks = api.sparsify(model, 0.5)
    model.layers[0].enable_lora(1)
    with pytest.warns(UserWarning, match="LoRA adds a dense update to the sparse kernels dense.*/kernel: in effect"):
        measure.gradient_flow(model, (np.ones((2, 4)), np.ones(2)), masks=masks)
