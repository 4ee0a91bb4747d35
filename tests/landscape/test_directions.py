"""Random directions: filter norms by hand, masks, seeds."""

import keras
import numpy as np
import pytest

from sparse_lib.landscape import directions

layers = keras.layers


def test_filter_norms_by_hand():
    direction = [np.array([[3.0, 1.0], [4.0, 0.0]]), np.array([3.0, 4.0])]
    values = [np.array([[0.0, 2.0], [10.0, 0.0]]), np.array([6.0, 8.0])]
    kernel, bias = directions.filter_normalized(direction, values, [(-1,), ()])
    np.testing.assert_allclose(kernel, [[6.0, 2.0], [8.0, 0.0]])
    np.testing.assert_array_equal(bias, [0, 0])
    _, bias = directions.filter_normalized(direction, values, [(-1,), ()], others="scale")
    np.testing.assert_allclose(bias, [6.0, 8.0])


def test_empty_filters_stay_empty():
    direction = [np.array([[1.0, 0.0], [1.0, 0.0]])]
    values = [np.array([[0.0, 3.0], [0.0, 4.0]])]
    (kernel,) = directions.filter_normalized(direction, values, [(-1,)])
    np.testing.assert_array_equal(kernel, np.zeros((2, 2)))


@pytest.fixture
def model():
    return keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(4, 3, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise"),
            layers.SeparableConv2D(3, 2, name="separable"),
            layers.Conv2DTranspose(5, 2, name="transposed"),
            layers.Flatten(),
            layers.Dense(3, name="logits"),
        ]
    )


def test_filters_by_kind_of_layer(model):
    axes = {
        v.path.split("/", 1)[1]: a
        for v, a in zip(model.trainable_variables, directions.filter_axes(model), strict=True)
    }
    assert axes["conv/kernel"] == axes["logits/kernel"] == axes["separable/pointwise_kernel"] == (-1,)
    assert axes["depthwise/kernel"] == axes["separable/depthwise_kernel"] == (-2, -1)
    assert axes["transposed/kernel"] == (-2,)
    assert {axes[n] for n in axes if n.endswith(("bias", "gamma", "beta"))} == {()}


def test_filters_of_attention_are_units_of_heads_and_its_biases_have_none():
    x = keras.Input((5, 6))
    model = keras.Model(x, layers.LayerNormalization(axis=(1, 2))(layers.MultiHeadAttention(2, 3)(x, x)))
    axes = {
        v.path.split("/", 1)[1]: a
        for v, a in zip(model.trainable_variables, directions.filter_axes(model), strict=True)
    }
    for name in ("query", "key", "value"):
        # [inputs, heads, units]: a filter reads the input into one unit of one head.
        assert axes[f"{name}/kernel"] == (-2, -1)
    # The output kernel has axes for heads, units and outputs.
    assert axes["attention_output/kernel"] == (-1,)
    assert {a for n, a in axes.items() if not n.endswith("kernel")} == {()}


def test_biases_of_recurrent_cells_have_no_filters():
    model = keras.Sequential([keras.Input((5, 6)), layers.GRU(4)])
    shapes = [len(v.shape) for v in model.trainable_variables]
    assert shapes == [2, 2, 2]
    assert directions.filter_axes(model) == [(-1,), (-1,), ()]


@pytest.mark.parametrize("others", ["zero", "scale"])
def test_every_filter_of_a_random_direction_has_the_norm_of_the_weights(model, others):
    rng = np.random.default_rng(0)
    values = [rng.normal(size=v.shape).astype(np.float32) for v in model.trainable_variables]
    found = directions.random_direction(model, values, seed=3, others=others)
    assert all(d.shape == v.shape for d, v in zip(found, values, strict=True))
    for direction, value, axes in zip(found, values, directions.filter_axes(model), strict=True):
        if not axes and others == "zero":
            assert not direction.any()
            continue
        # One row a filter.
        rows = [np.moveaxis(a, axes, range(len(axes))) for a in (direction, value)]
        rows = [a.reshape(int(np.prod(a.shape[: len(axes)])), -1) for a in rows]
        np.testing.assert_allclose(*(np.linalg.norm(a, axis=1) for a in rows), rtol=1e-6)
        cosine = np.vdot(direction, value) / np.linalg.norm(direction) / np.linalg.norm(value)
        assert abs(cosine) < 1 - 1e-6 or value.size == 1


def test_masked_directions_live_on_active_weights(model):
    rng = np.random.default_rng(1)
    masks = [rng.random(v.shape) < 0.3 if len(v.shape) > 1 else None for v in model.trainable_variables]
    values = [
        rng.normal(size=v.shape) * (1 if m is None else m)
        for v, m in zip(model.trainable_variables, masks, strict=True)
    ]
    masked = directions.random_direction(model, values, seed=0, masks=masks)
    dense = directions.random_direction(model, values, seed=0)
    for direction, other, value, mask in zip(masked, dense, values, masks, strict=True):
        if mask is not None:
            assert not direction[~mask].any()
            assert other[~mask].any()
            for d in (direction, other):
                # Whatever the layer, the whole kernel is as long as that of the weights.
                assert np.linalg.norm(d) == pytest.approx(np.linalg.norm(value), rel=1e-6)


def test_seed_and_index_decide(tiny_model):
    model = tiny_model("mlp")
    values = [v.numpy() for v in model.trainable_variables]

    def draw(seed, index):
        return np.concatenate([d.ravel() for d in directions.random_direction(model, values, seed=seed, index=index)])

    np.testing.assert_array_equal(draw(1, 0), draw(1, 0))
    assert (draw(1, 0) != draw(1, 1)).any() and (draw(1, 0) != draw(2, 0)).any()


def test_directions_are_nearly_orthogonal_in_many_dimensions():
    model = keras.Sequential([keras.Input((400,)), layers.Dense(100)])
    values = [v.numpy() for v in model.trainable_variables]
    one, other = (directions.random_direction(model, values, seed=0, index=i)[0] for i in (0, 1))
    cosine = np.vdot(one, other) / np.linalg.norm(one) / np.linalg.norm(other)
    assert abs(cosine) < 5 / np.sqrt(40_000)
