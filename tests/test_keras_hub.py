"""Models of keras-hub, where it is installed: random weights, nothing is downloaded."""

import keras
import numpy as np
import pytest

import sparse_lib
from sparse_lib import deployment

keras_hub = pytest.importorskip("keras_hub", reason="keras-hub is not installed")


@pytest.mark.slow
def test_a_bert_classifier_is_sparse_trains_and_is_exported():
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=50, num_layers=2, num_heads=2, hidden_dim=16, intermediate_dim=32, max_sequence_length=8
    )
    model = keras_hub.models.BertTextClassifier(backbone=backbone, num_classes=3, preprocessor=None)
    masks = sparse_lib.sparsify(model, 0.8)
    # Query, key, value, output and two feed-forward kernels a layer, the pooler and the logits; no embedding.
    assert len(masks) == 2 * 6 + 2
    assert masks.sparsity() == pytest.approx(0.8, abs=0.01)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 50, (16, 8))
    x = {"token_ids": tokens, "segment_ids": np.zeros_like(tokens), "padding_mask": np.ones_like(tokens)}
    optimizer = sparse_lib.SparseOptimizer(
        keras.optimizers.Adam(), masks, sparse_lib.RigL(frequency=2, end_step=6, drop_fraction=0.5)
    )
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before, active = masks.values(), masks.active()
    model.fit(x, rng.integers(0, 3, 16), batch_size=4, epochs=2, verbose=0)
    masks.check()
    assert masks.active() == active
    assert any((old != new).numpy().any() for old, new in zip(before, masks.values(), strict=True))
    smaller = deployment.remove_dead_channels(model).model
    np.testing.assert_allclose(smaller(x), model(x), rtol=0, atol=1e-5)
    assert len(deployment.convert(model)) < len(deployment.convert(model, sparse=False))


@pytest.mark.slow
def test_dead_channels_of_a_resnet():
    model = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 128],
        stackwise_num_blocks=[1, 1],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
        image_shape=(16, 16, 3),
    )
    sparse_lib.sparsify(model, 0.5, "uniform", structure=sparse_lib.Channel())
    found = deployment.remove_dead_channels(model)
    assert found.widths
    assert found.parameters[1] < found.parameters[0]
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype("float32")
    np.testing.assert_allclose(found.model(x), model(x), rtol=0, atol=1e-4)
