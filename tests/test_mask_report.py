"""The report: every weight of a model, sparse or dense, with the reason, and totals that add up."""

import gc

import keras
import numpy as np

import sparse_lib

layers = keras.layers


class Projection(layers.Layer):
    """A layer of one's own, whose matrix is not called a kernel."""

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 32), name="w")

    def call(self, x):
        return x @ self.w


def table(masks) -> dict[str, list[str]]:
    """Cells of each row, by its name; numbers without commas."""
    found = {}
    for line in masks.report().splitlines()[1:]:
        name, *cells = line.replace(",", "").split("  ")
        found[name.strip()] = [cell.strip() for cell in cells if cell.strip()]
    return found


def test_a_layer_of_ones_own_is_listed_and_counts():
    model = keras.Sequential([keras.Input((32,)), Projection(name="own"), layers.Dense(9, name="d"), layers.Dense(4)])
    masks = sparse_lib.sparsify(model, 0.9, "uniform", include="d")
    rows = table(masks)
    assert rows["own/w"] == ["32x32", "1024", "1024", "0.0000", "not called a kernel: see include="]
    assert rows[f"{model.layers[2].name}/kernel"] == ["9x4", "36", "36", "0.0000", "left out"]
    assert rows["d/kernel"] == ["32x9", "29", "288", "0.8993"]
    assert rows["sparse kernels"] == ["29", "288", "0.8993"]
    assert rows["biases"] == ["13", "13", "0.0000", "no matrix"]
    assert rows["total"] == [str(29 + 1024 + 36 + 13), str(model.count_params()), f"{1 - 1102 / 1361:.4f}"]


def test_every_reason_has_a_name():
    tokens = keras.Input((6,), dtype="int32")
    x = layers.Embedding(11, 8, name="words")(tokens)
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = layers.DepthwiseConv1D(3, name="depthwise")(x)
    x = layers.BatchNormalization()(x)
    x = layers.Dense(5, name="frozen")(layers.GlobalAveragePooling1D()(x))
    model = keras.Model(tokens, layers.Dense(2, name="head")(x))
    model.get_layer("frozen").trainable = False
    masks = sparse_lib.sparsify(model, 0.5)
    rows = table(masks)
    reasons = {name: cells[-1] for name, cells in rows.items()}
    assert reasons["words/embeddings"] == "embedding"
    assert reasons["depthwise/kernel"] == "depthwise"
    assert reasons["frozen/kernel"] == "frozen"
    assert reasons["biases and scales"] == "no matrix"
    # Averages of batch norm are no weights.
    everything = model.count_params() - 2 * 8
    assert rows["total"][:2] == [str(everything - sum(masks.sizes()) + sum(masks.active())), str(everything)]


def test_lora_counts_as_dense_and_its_factors_have_names():
    model = keras.Sequential([keras.Input((16,)), layers.Dense(8, name="a"), layers.Dense(4, name="b")])
    masks = sparse_lib.sparsify(model, 0.75, "uniform")
    model.layers[0].enable_lora(2)
    rows = table(masks)
    assert rows["a/kernel"] == ["16x8", "128", "128", "0.0000", "LoRA adds to it"]
    assert rows["b/kernel"] == ["8x4", "8", "32", "0.7500"]
    assert rows["sparse kernels"] == ["136", "160", "0.1500"]
    assert rows["a/lora_kernel_a"] == ["16x2", "32", "32", "0.0000", "factor of LoRA"]
    assert rows["a/lora_kernel_b"][-1] == "factor of LoRA"
    only = keras.Sequential([keras.Input((16,)), layers.Dense(8, name="a", lora_rank=2), layers.Dense(4, name="b")])
    assert table(sparse_lib.sparsify(only, 0.5))["a/kernel"][-1] == "LoRA adds to it"


def test_structures_and_reasons_have_columns_of_their_own():
    model = keras.Sequential([keras.Input((8,)), layers.Dense(4, name="a"), layers.Dense(3, name="b")])
    masks = sparse_lib.sparsify(model, structure=sparse_lib.NM(2, 4), exclude="b")
    header, first, *_, left, biases, total = masks.report().splitlines()
    assert header.split()[-3:] == ["structure", "dense", "because"]
    assert first.split() == ["a/kernel", "8x4", "16", "32", "0.5000", "2:4"]
    assert header.index("dense because") == left.index("left out") == biases.index("no matrix")
    assert total.split() == ["total", "35", "51", "0.3137"]


def test_a_report_keeps_no_model_alive():
    model = keras.Sequential([keras.Input((8,)), layers.Dense(4, name="a")])
    kernels = sparse_lib.sparse_kernels(model)
    masks = sparse_lib.Masks(list(kernels.values()), [np.eye(8, 4) > 0], list(kernels), model=model)
    assert "biases" in masks.report()
    del model
    gc.collect()
    assert table(masks) == {"a/kernel": ["8x4", "4", "32", "0.8750"], "total": ["4", "32", "0.8750"]}
