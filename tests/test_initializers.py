"""Sparsity-aware initialisation against published statistics and hand-worked variances."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from sparse_lib import api, initializers
from tests.golden_values import read_golden

_GOLDEN = read_golden("inits")["cases"]
_UNIT_CASES = [case for case in _GOLDEN if case["fn"] == "unit_scaled_init"]
_LAYER_CASES = [case for case in _GOLDEN if case["fn"] == "layer_scaled_init"]
_METHODS = [f"{f}_{d}" for f in ("fanin", "fanout", "fanavg") for d in ("normal", "uniform")]

# Input units 0, 1, 2 have 3, 1, 0 connections; output units 0, 1, 2, 3 have 2, 1, 0, 1.
_MASK = np.array([[1, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]], bool)
_FANS = {
    "fanin": np.array([[2, 1, 1, 1]] * 3, float),
    "fanout": np.array([[3] * 4, [1] * 4, [1] * 4], float),
    "fanavg": np.array([[2.5, 2, 1.5, 2], [1.5, 1, 1, 1], [1, 1, 1, 1]], float),
}


def _copies(mask, n):
    """A kernel that holds n copies of a mask on the diagonal of its units; every fan stays."""
    *window, n_in, n_out = mask.shape
    big = np.zeros((*window, n, n_in, n, n_out), bool)
    for i in range(n):
        big[..., i, :, i, :] = mask
    return big.reshape(*window, n * n_in, n * n_out)


def _blocks(values, mask, n):
    """The copies of `_copies` as an array of shape [n, *mask.shape]."""
    *window, n_in, n_out = mask.shape
    split = values.reshape(*window, n, n_in, n, n_out)
    return np.stack([split[..., i, :, i, :] for i in range(n)])


def _loop_fans(mask, kind):
    """Fans of every connection, one by one."""
    fan = np.zeros(mask.shape)
    for index in itertools.product(*map(range, mask.shape)):
        into = mask[..., index[-1]].sum()
        out_of = mask[..., index[-2], :].sum()
        fan[index] = {"fanin": into, "fanout": out_of, "fanavg": (into + out_of) / 2}[kind]
    return fan


@pytest.mark.parametrize("case", _UNIT_CASES, ids=lambda c: f"{c['method']}-{np.ndim(c['mask'])}d")
def test_published_unit_scaled_groups(case):
    mask = np.array(case["mask"], bool)
    n = 200
    values = initializers.unit_scaled(_copies(mask, n), method=case["method"], scale=case["scale"], seed=(1, 2)).numpy()
    values = _blocks(values, mask, n)
    fan = _loop_fans(mask, case["method"].split("_")[0])
    assert {float(f) for f in fan[mask]} == {float(f) for f in case["groups"]}
    for key, truth in case["groups"].items():
        group = values[:, mask & (fan == float(key))]
        assert group.size // n == truth["n"] // 30
        assert group.std() == pytest.approx(truth["std_theory"], rel=4 / np.sqrt(2 * group.size))
        limit = truth["uniform_limit"]
        if limit is None:
            assert np.abs(group).max() > 2.3 * truth["std_theory"]
        else:
            assert 0.97 * limit < np.abs(group).max() <= limit * (1 + 1e-6)
    assert np.all(values[:, ~mask] == 0)


@pytest.mark.parametrize("case", _LAYER_CASES, ids=lambda case: case["method"])
def test_published_layer_scaled_statistics(case):
    shape = case["shape"]
    mask = np.arange(np.prod(shape)).reshape(shape) % 2 == 0
    assert mask.mean() == case["mask_density"]
    draw = tf.function(initializers.layer_scaled)
    values = np.stack(
        [
            draw(tf.constant(mask), method=case["method"], scale=case["scale"], seed=seed)
            for seed in tf.stack([tf.zeros(300, tf.int64), tf.range(300, dtype=tf.int64)], axis=1)
        ]
    )
    active = values[:, mask]
    assert active.std() == pytest.approx(case["std_theory"], rel=0.02)
    largest = np.abs(active).max() / case["std_theory"]
    assert largest == pytest.approx(case["absmax_over_std"], rel=0.03)
    assert np.all(values[:, ~mask] == 0)


@pytest.mark.parametrize("method", _METHODS)
def test_unit_scaled_variance_of_every_connection_by_hand(method):
    # The draw belongs to the seed and the place, so a full mask shows what the mask's fans did.
    full = initializers.unit_scaled(np.ones((3, 4), bool), method=method, scale=3.0, seed=9)
    sparse = initializers.unit_scaled(_MASK, method=method, scale=3.0, seed=9)
    kind = method.split("_")[0]
    full_variance = 3.0 / {"fanin": 3, "fanout": 4, "fanavg": 3.5}[kind]
    factor = np.sqrt(3.0 / _FANS[kind] / full_variance)
    assert np.all(full.numpy() != 0)
    assert np.allclose(sparse, np.where(_MASK, full * factor, 0), rtol=1e-6, atol=0)


@pytest.mark.parametrize("method", _METHODS)
@pytest.mark.parametrize("shape", [(7,), (5, 4), (3, 4, 5), (2, 3, 4, 5), (2, 2, 2, 3, 2)])
def test_unit_scaled_fans_of_any_rank(shape, method):
    mask = np.random.default_rng(len(shape)).random(shape) < 0.6
    full = initializers.unit_scaled(np.ones(shape, bool), method=method, seed=9).numpy()
    sparse = initializers.unit_scaled(mask, method=method, seed=9).numpy()
    if len(shape) == 1:
        factor = np.sqrt(shape[0] / mask.sum())
    else:
        kind = method.split("_")[0]
        factor = np.sqrt(_loop_fans(np.ones(shape, bool), kind) / np.maximum(_loop_fans(mask, kind), 1))
    assert np.allclose(sparse, np.where(mask, full * factor, 0), rtol=1e-5, atol=0)


@pytest.mark.parametrize("method", _METHODS)
@pytest.mark.parametrize("shape", [(4000,), (80, 50), (5, 40, 20), (3, 3, 24, 20), (2, 3, 2, 15, 20)])
def test_full_masks_give_the_dense_initialisation_of_keras(shape, method):
    fan, distribution = method.split("_")
    mode = {"fanin": "fan_in", "fanout": "fan_out", "fanavg": "fan_avg"}[fan]
    for function, keras_distribution in (
        (initializers.unit_scaled, {"normal": "untruncated_normal"}.get(distribution, "uniform")),
        (initializers.layer_scaled, {"normal": "truncated_normal"}.get(distribution, "uniform")),
    ):
        dense = keras.initializers.VarianceScaling(2.0, mode, keras_distribution, seed=1)
        truth = dense(shape).numpy()
        values = function(np.ones(shape, bool), method=method, scale=2.0, seed=2).numpy()
        assert values.std() == pytest.approx(truth.std(), rel=0.06)
        assert abs(values.mean()) < 0.1 * truth.std()
        if keras_distribution != "untruncated_normal":
            assert np.abs(values).max() == pytest.approx(np.abs(truth).max(), rel=0.03)
        ratio = np.mean(values**4) / values.var() ** 2
        assert ratio == pytest.approx(np.mean(truth**4) / truth.var() ** 2, rel=0.15)


@pytest.mark.parametrize("method", _METHODS)
def test_layer_scaled_is_the_dense_variance_over_the_density(method):
    mask = np.zeros((3, 3, 40, 80), bool)
    mask[:, :, :20, :32] = True
    values = initializers.layer_scaled(mask, method=method, scale=2.0, seed=3).numpy()
    fan = {"fanin": 360, "fanout": 720, "fanavg": 540}[method.split("_")[0]]
    assert values[mask].var() == pytest.approx(2.0 / fan / 0.2, rel=0.05)
    full = initializers.layer_scaled(np.ones_like(mask), method=method, scale=2.0, seed=3).numpy()
    assert np.allclose(values, np.where(mask, full / np.sqrt(0.2), 0), rtol=1e-5, atol=0)


@pytest.mark.parametrize("method", _METHODS)
def test_vectors_have_their_active_length_as_fan(method):
    mask = np.arange(9000) % 3 != 0
    unit = initializers.unit_scaled(mask, method=method, seed=0).numpy()
    assert unit[mask].var() == pytest.approx(1 / 6000, rel=0.1)
    layer = initializers.layer_scaled(mask, method=method, seed=0).numpy()
    assert layer[mask].var() == pytest.approx(1 / 9000 / (2 / 3), rel=0.1)


@pytest.mark.parametrize("function", [initializers.unit_scaled, initializers.layer_scaled])
def test_an_empty_mask_gives_zeros(function):
    values = function(np.zeros((4, 5), bool), seed=3)
    assert np.all(values.numpy() == 0)


@pytest.mark.parametrize("function", [initializers.unit_scaled, initializers.layer_scaled])
@pytest.mark.parametrize("method", _METHODS)
def test_values_are_a_function_of_the_seed(function, method):
    first = function(_MASK, method=method, seed=(5, 1)).numpy()
    assert first.dtype == np.float32
    assert np.array_equal(first, function(_MASK, method=method, seed=[5, 1]).numpy())
    assert not np.array_equal(first, function(_MASK, method=method, seed=(5, 2)).numpy())
    single = function(_MASK, method=method, seed=np.int64(5)).numpy()
    assert np.array_equal(single, function(_MASK, method=method, seed=(5, 0)).numpy())
    compiled = tf.function(function)
    again = compiled(tf.constant(_MASK), method=method, seed=tf.constant([5, 1])).numpy()
    assert np.allclose(first, again, rtol=1e-6, atol=0)
    # XLA has its own stream for the same seed: it repeats itself, not the others.
    xla = tf.function(function, jit_compile=True)
    once, twice = (xla(tf.constant(_MASK), method=method, seed=tf.constant([5, 1])) for _ in "ab")
    assert np.array_equal(once, twice)
    assert np.array_equal(once.numpy() != 0, _MASK)


def test_noise():
    values = np.where(_MASK, 2.0, 0.0).astype(np.float32)
    big = np.tile(values, (200, 200))
    noisy = initializers.add_noise(big, 0.5, seed=4).numpy()
    assert (noisy - big).std() == pytest.approx(0.5, rel=0.01)
    assert abs((noisy - big).mean()) < 0.01
    masked = initializers.add_noise(big, 0.5, seed=4, mask=big != 0).numpy()
    assert np.array_equal(masked, np.where(big != 0, noisy, 0))
    assert np.array_equal(initializers.add_noise(big, 0.0, seed=4).numpy(), big)
    half = initializers.add_noise(tf.cast(values, tf.bfloat16), 0.5, seed=4)
    assert half.dtype == tf.bfloat16
    assert not np.array_equal(initializers.add_noise(big, 0.5, seed=5).numpy(), noisy)


@pytest.mark.parametrize("function", [initializers.unit_scaled, initializers.layer_scaled])
def test_bad_settings(function):
    for method in ("faninout_uniform", "fanin", "fan_in_normal", "uniform"):
        with pytest.raises(ValueError, match=f"Unknown initialisation '{method}'; use one of"):
            function(_MASK, method=method, seed=0)
    for scale in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="give a positive number"):
            function(_MASK, scale=scale, seed=0)
    with pytest.raises(ValueError, match="give the mask of a kernel"):
        function(True, seed=0)
    with pytest.raises(ValueError, match="give 0 or more"):
        initializers.add_noise(tf.ones(3), -0.1, seed=0)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (keras.layers.Dense(6), (40,)),
        (keras.layers.EinsumDense("abc,cde->abde", (3, 4, 5)), (3, 30)),
        pytest.param(keras.layers.EinsumDense("abcd,cde->abe", (3, 6)), (3, 4, 10), marks=pytest.mark.slow),
        (keras.layers.Conv2D(4, 3), (7, 7, 8)),
        pytest.param(keras.layers.Conv2DTranspose(4, 3), (7, 7, 8), marks=pytest.mark.slow),
        (keras.layers.DepthwiseConv2D(5, depth_multiplier=2), (9, 9, 4)),
    ],
    ids=["dense", "queries", "attention output", "conv", "transposed", "depthwise"],
)
def test_fan_in_scaling_keeps_the_variance_of_every_output(layer, shape):
    model = keras.Sequential([keras.Input(shape), layer])
    kernel = layer.weights[0]
    ((inputs, outputs),) = api.kernel_axes(model, [kernel])
    mask = np.random.default_rng(1).random(kernel.shape) < 0.4
    x = np.random.default_rng(2).normal(size=(80, *shape)).astype(np.float32)
    squares = []
    for seed in range(300):
        kernel.assign(initializers.unit_scaled(mask, method="fanin_normal", seed=seed, inputs=inputs, outputs=outputs))
        squares.append(np.square(layer(x).numpy()).mean(0))
    variance = np.mean(squares, 0)
    if isinstance(layer, keras.layers.Conv2DTranspose):
        # Towards the border fewer places of the window meet the input.
        variance = variance[2:-2, 2:-2]
    units = len(outputs) if isinstance(layer, keras.layers.EinsumDense) else 1
    np.testing.assert_allclose(variance.mean(tuple(range(variance.ndim - units))), 1, atol=0.12)


@pytest.mark.slow
def test_fan_out_scaling_keeps_the_variance_of_gradients_through_attention():
    layer = keras.layers.EinsumDense("abc,cde->abde", (3, 8, 15))
    model = keras.Sequential([keras.Input((3, 6)), layer])
    ((inputs, outputs),) = api.kernel_axes(model, layer.trainable_variables[:1])
    mask = np.random.default_rng(1).random(layer.kernel.shape) < 0.4
    x = tf.constant(np.random.default_rng(2).normal(size=(4, 3, 6)).astype(np.float32))
    upstream = np.random.default_rng(3).normal(size=(4, 3, 8, 15)).astype(np.float32)
    squares = []
    for seed in range(300):
        layer.kernel.assign(
            initializers.unit_scaled(mask, method="fanout_uniform", seed=seed, inputs=inputs, outputs=outputs)
        )
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
        squares.append(np.square(tape.gradient(y, x, upstream).numpy()).mean((0, 1)))
    np.testing.assert_allclose(np.mean(squares, 0), 1, atol=0.15)
