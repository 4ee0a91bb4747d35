"""The exact Hessian against closed forms, finite differences and an uninterrupted run; spectra against known ones."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from sparse_lib._keras import precision
from sparse_lib.curvature import Batches, Subspace, exact, stored_parts
from sparse_lib.curvature.exact import by_structure as structured
from sparse_lib.masks import Masks, random_masks
from sparse_lib.objective import Objective, cross_entropy
from tests.replicas import two_replicas

layers = keras.layers


def _squared_error(y, outputs):
    return tf.reduce_mean(tf.square(outputs - tf.cast(y, outputs.dtype)), axis=-1)


def _hessian(model, x, y, subspace=None, loss=None, batch_size=4, **arguments):
    objective = Objective(model, loss)
    return exact.hessian(
        objective,
        objective.params(),
        Batches.of((x, y), batch_size),
        subspace or Subspace.all(model),
        **arguments,
    )


def _mlp():
    return keras.Sequential([keras.Input((6,)), layers.Dense(5, "relu"), layers.Dense(3)])


def _smooth():
    return keras.Sequential([keras.Input((6,)), layers.Dense(5, "tanh"), layers.Dense(3)])


def _attention():
    tokens = keras.Input((4, 3))
    mixed = layers.Add()([tokens, layers.MultiHeadAttention(2, 2)(tokens, tokens)])
    return keras.Model(tokens, layers.Dense(2)(layers.Flatten()(layers.LayerNormalization()(mixed))))


def _residual():
    image = keras.Input((4, 4, 2))
    hidden = layers.Conv2D(2, 3, padding="same", activation="relu")(layers.BatchNormalization()(image))
    hidden = layers.MaxPooling2D(2)(layers.Add()([image, hidden]))
    return keras.Model(image, layers.Dense(3)(layers.Flatten()(hidden)))


def _data(model, examples=11):
    rng = np.random.default_rng(0)
    return rng.standard_normal((examples, *model.input_shape[1:])), np.arange(examples) % model.output_shape[-1]


def _close(found, true, tolerance):
    np.testing.assert_allclose(found, true, rtol=0, atol=tolerance * np.abs(true).max())


def test_linear_regression():
    """The Hessian of mean |x W + b - y|^2 / k is 2/k mean [x; 1] [x; 1]^T for each output, nothing between outputs."""
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((7, 4)), rng.standard_normal((7, 3))
    found = _hessian(model, x, y, loss=_squared_error)
    gram = 2 / 3 * x.T @ x / 7
    true = np.zeros((15, 15))
    true[:12, :12] = np.kron(gram, np.eye(3))
    true[:12, 12:] = np.kron(2 / 3 * x.mean(0)[:, np.newaxis], np.eye(3))
    true[12:, :12] = true[:12, 12:].T
    true[12:, 12:] = 2 / 3 * np.eye(3)
    _close(found.matrix, true, 1e-14)
    assert (found.method, found.reason) == ("rows", "the loss is not objective.cross_entropy")
    assert found.symmetry_error < 1e-15


@pytest.mark.parametrize("structure", ["always", "never"])
def test_softmax_regression(structure):
    """mean_n (x x^T) kron (diag(p) - p p^T), and batches that do not divide the data."""
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, use_bias=False)])
    x, y = _data(model)
    logits = x @ model.get_weights()[0].astype(np.float64)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    true = np.mean([np.kron(np.outer(a, a), np.diag(q) - np.outer(q, q)) for a, q in zip(x, p, strict=True)], axis=0)
    found = _hessian(model, x, y, structure=structure)
    _close(found.matrix, true, 1e-14)
    assert found.method == {"always": "structured", "never": "rows"}[structure]
    assert found.examples == 11
    assert found.symmetry_error < 1e-15


@pytest.mark.parametrize("make", [_smooth, _attention, pytest.param(_residual, marks=pytest.mark.slow)])
def test_rows_are_differences_of_gradients(make):
    model = make()
    x, y = _data(model)
    found = _hessian(model, x, y)
    assert found.method == "rows"
    assert found.symmetry_error < 1e-13
    with precision.arithmetic(model, "float64"):
        objective, subspace = Objective(model), Subspace.all(model)
        flat = subspace.gather([tf.cast(p, tf.float64) for p in objective.params()]).numpy()

        @tf.function
        def gradient(vector):
            return subspace.gather(objective.gradient(subspace.scatter(vector), tf.constant(x), tf.constant(y)))

        step = 1e-6
        rows = [(gradient(flat + step * e) - gradient(flat - step * e)) / (2 * step) for e in np.eye(subspace.size)]
    _close(found.matrix, np.stack(rows), 3e-8)


@pytest.mark.parametrize("make", [_mlp, pytest.param(_residual, marks=pytest.mark.slow)])
def test_on_masks_it_is_the_submatrix(make):
    model = make()
    kernels = [v for v in model.trainable_variables if len(v.shape) > 1]
    masks = Masks(kernels, random_masks([k.shape for k in kernels], [int(np.prod(k.shape)) // 4 for k in kernels], 0))
    x, y = _data(model)
    active, everything = Subspace.active(model, masks), Subspace.all(model)
    found, whole = _hessian(model, x, y, active), _hessian(model, x, y, structure="never", rows_at_once=7)
    where = everything.positions(active)
    assert len(where) < everything.size
    _close(found.matrix, whole.matrix[np.ix_(where, where)], 1e-13)


def test_float32_is_close_and_float64_is_not_float32():
    model = _smooth()
    x, y = _data(model)
    double, single = (_hessian(model, x, y, dtype=dtype) for dtype in ("float64", "float32"))
    assert double.matrix.dtype == single.matrix.dtype == np.float64
    assert double.symmetry_error < 1e-14 < single.symmetry_error < 1e-5
    difference = np.abs(double.matrix - single.matrix).max() / np.abs(double.matrix).max()
    assert 1e-10 < difference < 1e-5


def test_the_model_is_untouched():
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(5), layers.BatchNormalization(), layers.Dropout(0.5), layers.Dense(3)]
    )
    before, policy = model.get_weights(), model.layers[0].dtype_policy
    x, y = _data(model)
    for structure, training in (("always", False), ("never", False), ("never", True)):
        _hessian(model, x, y, structure=structure, training=training)
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    assert model.layers[0].dtype_policy is policy


class _Killed(BaseException):
    pass


def _killer(after):
    seen = []

    def progress(done, total):
        seen.append((done, total))
        if len(seen) > after:
            raise _Killed

    return progress


@pytest.mark.parametrize(
    ("make", "structure"), [("mlp", "always"), ("smooth", "auto"), pytest.param("mlp", "never", marks=pytest.mark.slow)]
)
def test_a_killed_computation_resumes_with_the_same_bits(make, structure, tmp_path, monkeypatch):
    monkeypatch.setattr(structured, "SECONDS_BETWEEN_SAVES", -1.0)
    model = {"mlp": _mlp, "smooth": _smooth}[make]()
    x, y = _data(model)
    whole = _hessian(model, x, y, structure=structure, rows_at_once=8)
    with pytest.raises(_Killed):
        _hessian(model, x, y, structure=structure, rows_at_once=8, store=tmp_path, progress=_killer(2))
    seen = []
    resumed = _hessian(
        model, x, y, structure=structure, rows_at_once=8, store=tmp_path, progress=lambda *at: seen.append(at)
    )
    np.testing.assert_array_equal(resumed.matrix, whole.matrix)
    assert resumed.product_error == whole.product_error
    # After the start: two batches of 4 examples, or blocks of 8 rows.
    done, total = (8, 11) if structure == "always" else (16, 53)
    assert seen[0] == (done, total)
    assert seen[-1] == (total, total)
    # What is complete is read, not computed.
    again = _hessian(model, x, y, structure=structure, store=tmp_path, progress=_killer(1))
    np.testing.assert_array_equal(again.matrix, whole.matrix)
    assert not list(tmp_path.rglob(".tmp-*"))


def _changed_weights(model, x, y):
    model.layers[-1].bias.assign(np.ones(3))
    return {}


def _changed_data(model, x, y):
    x[3, 2] += 1e-9
    return {}


CHANGES = {
    "weights": _changed_weights,
    "data": _changed_data,
    "labels": lambda model, x, y: y.__setitem__(0, 2) or {},
    "subspace": lambda model, x, y: {"subspace": Subspace.all(model).only("*bias")},
    "batches": lambda model, x, y: {"batch_size": 5},
    "arithmetic": lambda model, x, y: {"dtype": "float32"},
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_stale_store_is_not_continued(change, tmp_path):
    model = _mlp()
    x, y = _data(model)
    with pytest.raises(_Killed):
        _hessian(model, x, y, structure="never", rows_at_once=8, store=tmp_path, progress=_killer(2))
    arguments = {"structure": "never", **CHANGES[change](model, x, y)}
    seen = []
    found = _hessian(model, x, y, store=tmp_path, progress=lambda *at: seen.append(at), **arguments)
    assert seen[0][0] == 0
    np.testing.assert_array_equal(found.matrix, _hessian(model, x, y, **arguments).matrix)


def test_a_torn_file_is_never_read(tmp_path):
    store = stored_parts.Parts(tmp_path, "a")
    store.put(3, rows=np.ones(2))
    (tmp_path / ".tmp-1-part-5.npz").write_bytes(b"half")
    assert stored_parts.Parts(tmp_path, "a").numbers() == [3]
    assert stored_parts.Parts(tmp_path, "b").numbers() == []


@pytest.mark.parametrize("structure", ["always", "never"])
def test_two_replicas_give_the_hessian_of_one_device(structure):
    model = _mlp()
    x, y = _data(model)
    alone = _hessian(model, x, y, structure=structure)
    with two_replicas().scope():
        shared = _mlp()
    shared.set_weights(model.get_weights())
    _close(_hessian(shared, x, y, structure=structure).matrix, alone.matrix, 1e-13)


def test_too_many_parameters():
    model = keras.Sequential([keras.Input((200,)), layers.Dense(100)])
    x, y = _data(model, 2)
    with pytest.raises(ValueError, match=r"20,100 parameters takes 6\.5 GB, and 12,000 are the limit.*largest eigen"):
        _hessian(model, x, y)
    with pytest.raises(ValueError, match="the limit"):
        _hessian(_mlp(), *_data(_mlp()), limit=52)


@pytest.mark.parametrize("wrong", [{"dtype": "float16"}, {"structure": "yes"}, {"rows_at_once": 0}])
def test_unknown_choices(wrong):
    with pytest.raises(ValueError, match="dtype is float64 or float32"):
        _hessian(_mlp(), *_data(_mlp()), **wrong)


def test_a_structure_that_is_insisted_on():
    model = _smooth()
    with pytest.raises(ValueError, match="no known structure: the activation of layer .* Use structure='auto'"):
        _hessian(model, *_data(model), structure="always")


def test_a_model_that_leaves_float64():
    features = keras.Input((6,))
    hidden = layers.Lambda(lambda t: tf.cast(tf.cast(t, tf.float32), t.dtype))(layers.Dense(4)(features))
    model = keras.Model(features, layers.Dense(3)(hidden))
    with pytest.raises(ValueError, match="shorter type at .*dtype='float32'"):
        _hessian(model, *_data(model))
    assert _hessian(model, *_data(model), dtype="float32").method == "rows"


class _Fixed(layers.Layer):
    """Has a type written into its code."""

    def call(self, inputs):
        return tf.matmul(inputs, tf.ones((inputs.shape[-1], 3), tf.float32))


def test_a_model_that_fails_in_float64():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(4), _Fixed()])
    with pytest.raises(ValueError, match=r"fails in float64: .* Pass dtype='float32'"):
        _hessian(model, *_data(model))


def test_a_frozen_layer_that_leaves_float64():
    model = keras.Sequential(
        [keras.Input((6,)), layers.Lambda(lambda t: tf.cast(tf.cast(t, tf.float32), t.dtype)), layers.Dense(3)]
    )
    with pytest.raises(ValueError, match="shorter type at"):
        _hessian(model, *_data(model), structure="always")


@pytest.mark.parametrize("make", [_mlp, _smooth])
def test_not_finite(make):
    model = make()
    x, y = _data(model)
    x[2] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        _hessian(model, x, y)
    model.layers[0].kernel.assign(np.full((6, 5), np.inf))
    with pytest.raises(ValueError, match="not finite"):
        _hessian(model, *_data(model))


def test_cross_entropy_by_name_is_the_default():
    model = _mlp()
    x, y = _data(model)
    named = _hessian(model, x, y, loss=cross_entropy)
    np.testing.assert_array_equal(named.matrix, _hessian(model, x, y).matrix)
    assert named.method == "structured"


SPECTRA = {
    "clustered": np.r_[np.full(5, -1e-6), 1 + 1e-12 * np.arange(20), 100.0],
    "degenerate": np.r_[np.zeros(10), np.ones(15), [-3.0] * 4],
    "spread": np.r_[-(10.0 ** np.arange(-8, 2)), 10.0 ** np.arange(-8, 4)],
    "zero": np.zeros(7),
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("dead", [0, 5])
def test_eigenvalues_of_known_spectra(name, dead):
    values = np.sort(SPECTRA[name])
    basis, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((len(values),) * 2))
    matrix = np.pad((basis * values) @ basis.T, (dead, 0))
    matrix = (matrix + matrix.T) / 2
    given = matrix.copy()
    true = np.sort(np.r_[np.zeros(dead), values])
    scale = max(np.abs(values).max(), 1)
    np.testing.assert_allclose(exact.eigenvalues(matrix), true, rtol=0, atol=1e-14 * len(true) * scale)
    np.testing.assert_array_equal(matrix, given)
    found, vectors = exact.eigenvectors(matrix, len(true) - 3, len(true) - 1)
    np.testing.assert_allclose(found, true[-3:], rtol=0, atol=1e-14 * len(true) * scale)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=1e-13)
    np.testing.assert_allclose(matrix @ vectors, vectors * found, atol=1e-13 * len(true) * scale)


def test_asymmetry_is_measured_over_tiles(monkeypatch):
    monkeypatch.setattr(exact.matrix, "TILE", 3)
    matrix = np.random.default_rng(0).standard_normal((8, 8))
    symmetric, error = (matrix + matrix.T) / 2, np.abs(matrix - matrix.T).max() / np.abs(matrix).max()
    assert exact.matrix.symmetrize(matrix) == error
    np.testing.assert_allclose(matrix, symmetric, rtol=1e-15)
    np.testing.assert_array_equal(matrix, matrix.T)


def test_memory_is_counted_in_matrices():
    assert exact.memory_needed(1000) == 16e6
    assert exact.memory_needed(1000, "float32") == 20e6
