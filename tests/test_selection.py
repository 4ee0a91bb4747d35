"""Selection against NumPy's stable sort, in eager mode, in graphs and under XLA."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from sparse_lib import selection

N = 60
MODES = {
    "eager": lambda function: function,
    "graph": tf.function,
    "xla": functools.partial(tf.function, jit_compile=True),
}
TOP_K = {mode: wrap(selection.top_k_mask) for mode, wrap in MODES.items()}


def stable_top_k(scores: np.ndarray, k: int, among: np.ndarray) -> np.ndarray:
    """The definition: candidates in order of falling score, NaN last, earlier index first."""
    flat = scores.ravel().astype("float64")
    is_nan = np.isnan(flat)
    order = np.lexsort((np.arange(flat.size), np.where(is_nan, 0, -flat), is_nan))
    order = [i for i in order if among.ravel()[i]]
    chosen = np.zeros(flat.size, bool)
    chosen[order[: max(k, 0)]] = True
    return chosen.reshape(scores.shape)


def score_sets() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    normal = rng.normal(size=N)
    special = np.tile([np.inf, -np.inf, np.nan, -np.nan, 0.0, -0.0, 1e-42, -1e-42, 3e38, -3e38, 1.0, -1.0], N // 12)
    return {
        "normal": normal,
        "magnitudes": np.abs(normal) * 1e-3,
        "heavy": rng.standard_t(1.0, size=N) ** 3,
        "mostly zero": np.where(rng.random(N) < 0.7, 0.0, normal),
        "tied": rng.integers(-2, 3, N).astype("float64"),
        "constant": np.full(N, -3.0),
        "signed zeros": np.where(rng.random(N) < 0.5, 0.0, -0.0),
        "special": rng.permutation(special),
        "one outlier": np.where(np.arange(N) == 17, 1e30, 1e-30 * normal),
    }


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", score_sets())
def test_equals_a_stable_sort(name, mode):
    scores = score_sets()[name].astype("float32")
    everything = np.ones(N, bool)
    some = np.random.default_rng(1).random(N) < 0.5
    for k in [0, 1, 7, 29, int(some.sum()), N - 1, N]:
        for among in (everything, some):
            got = TOP_K[mode](tf.constant(scores), tf.constant(k), tf.constant(among))
            np.testing.assert_array_equal(got, stable_top_k(scores, k, among), f"k={k}")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_every_float_type(dtype):
    # Steps of 2^-7 are exact in every type, and collide in none.
    scores = (np.random.default_rng(2).permutation(N) / 128 - 0.25).reshape(3, 4, 5)
    got = selection.top_k_mask(tf.constant(scores, dtype), 13)
    np.testing.assert_array_equal(got, stable_top_k(scores, 13, np.ones_like(scores, bool)))


def test_float64_is_not_rounded():
    scores = tf.constant([1.0, 1.0 + 1e-15, 1.0 - 1e-15], tf.float64)
    assert selection.top_k_mask(scores, 1).numpy().tolist() == [False, True, False]


@pytest.mark.parametrize("k", [-3, 0, 2, 5, 99])
@pytest.mark.parametrize("candidates", [0, 1, 4])
def test_count_is_exact(k, candidates):
    among = tf.range(6) < candidates
    mask = selection.top_k_mask(tf.constant([0.0, 0.0, float("nan"), float("nan"), 0.0, 9.0]), k, among)
    assert int(selection.count_active(mask)) == min(max(k, 0), candidates)
    assert not np.any(mask & ~among)


def test_no_scores():
    assert selection.top_k_mask(tf.zeros([0, 3]), 2).shape == (0, 3)


def test_ties_go_to_the_lower_index():
    scores = tf.constant([[1.0, 2.0, 1.0], [1.0, 0.0, 1.0]])
    assert selection.top_k_mask(scores, 3).numpy().tolist() == [[True, True, True], [False, False, False]]


def test_large_and_skewed():
    rng = np.random.default_rng(3)
    scores = np.abs(rng.normal(size=300_000)).astype("float32") * (rng.random(300_000) < 0.1)
    among = rng.random(300_000) < 0.4
    for k in (1, 11_000, 12_345, 100_000):
        got = TOP_K["graph"](tf.constant(scores), tf.constant(k), tf.constant(among))
        np.testing.assert_array_equal(got, stable_top_k(scores, k, among))


def test_smooth_scores_take_few_passes(monkeypatch):
    tf.config.run_functions_eagerly(True)
    passes = []
    count = selection.count_active
    monkeypatch.setattr(selection, "count_active", lambda mask: passes.append(1) or count(mask))
    rng = np.random.default_rng(4)
    for scores in (np.abs(rng.normal(size=100_000)), np.exp(3 * rng.normal(size=100_000)), rng.random(100_000)):
        for k in (200, 20_000, 97_000):
            passes.clear()
            selection.top_k_mask(tf.constant(scores, tf.float32), k)
            # Bisection takes 25 and more.
            assert 5 < len(passes) < 22
    tf.config.run_functions_eagerly(False)


@pytest.mark.parametrize("mode", ["eager", "xla"])
@pytest.mark.parametrize("rows", [1, 4, 16, 17, 40])
def test_columns_equal_stable_sorts(rows, mode):
    rng = np.random.default_rng(rows)
    scores = np.round(rng.normal(size=(3, rows, 5)), 1).astype("float32")
    scores.ravel()[rng.permutation(scores.size)[:6]] = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-42]
    some, k = rng.random(scores.shape) < 0.7, rng.integers(-1, rows + 2, (3, 1, 5))
    select = MODES[mode](selection.top_k_of_columns)
    for among in (np.ones_like(some), some):
        got = select(tf.constant(scores), tf.constant(k), tf.constant(among)).numpy()
        for i in range(3):
            for j in range(5):
                expected = stable_top_k(scores[i, :, j], k[i, 0, j], among[i, :, j])
                np.testing.assert_array_equal(got[i, :, j], expected)
    if mode == "eager":
        everything = selection.top_k_of_columns(tf.constant(scores), 2)
        np.testing.assert_array_equal(everything, select(tf.constant(scores), 2, tf.ones(scores.shape, tf.bool)))


@pytest.mark.parametrize("rows", [4, 30])
def test_columns_in_float64_are_not_rounded(rows):
    scores = np.ones((rows, 1))
    scores[2] += 1e-15
    assert np.flatnonzero(selection.top_k_of_columns(tf.constant(scores), 1)).tolist() == [2]
    low = selection.top_k_of_columns(tf.constant(-scores, tf.bfloat16), 2)
    assert np.flatnonzero(low).tolist() == [0, 1]


def test_global_ranks_all_kernels_together():
    scores = [tf.constant([[3.0, 1.0], [2.0, 2.0]]), tf.constant([2.0, 5.0, float("nan")])]
    first, second = selection.global_top_k_masks(scores, 4)
    assert first.numpy().tolist() == [[True, False], [True, True]]
    assert second.numpy().tolist() == [False, True, False]


def test_global_keeps_to_the_candidates():
    scores = [tf.constant([9.0, 8.0, 7.0]), tf.constant([1.0, 2.0])]
    among = [tf.constant([True, False, False]), tf.constant([True, True])]
    first, second = selection.global_top_k_masks(scores, 2, among)
    assert first.numpy().tolist() == [True, False, False]
    assert second.numpy().tolist() == [False, True]


def test_count_is_an_integer_above_float32():
    # float32 cannot tell 2^24 from 2^24 + 1.
    assert int(selection.count_active(tf.ones([2**24 + 1], tf.bool))) == 2**24 + 1


@pytest.mark.parametrize("wrap", MODES.values(), ids=MODES)
def test_off_the_mask_all_is_zero(wrap):
    values = tf.constant([[np.inf, -1.0, np.nan], [2.0, -np.inf, 3.0]])
    mask = tf.constant([[False, True, False], [True, False, False]])
    found = wrap(selection.on_mask)(mask, values)
    assert found.numpy().tobytes() == np.array([[0, -1, 0], [2, 0, 0]], "f").tobytes()


def test_values_off_the_mask_get_no_gradient():
    values, mask = tf.constant([0.5, 2.0, np.inf]), tf.constant([True, True, False])
    with tf.GradientTape() as outer:
        outer.watch(values)
        with tf.GradientTape() as tape:
            tape.watch(values)
            cubes = tf.reduce_sum(selection.on_mask(mask, values) ** 3)
        slope = tape.gradient(cubes, values)
    assert slope.numpy().tolist() == [0.75, 12.0, 0.0]
    assert outer.gradient(slope, values).numpy().tolist() == [3.0, 12.0, 0.0]
