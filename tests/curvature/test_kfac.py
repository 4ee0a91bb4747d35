"""KFAC against Gauss-Newton blocks where theory says that they are equal, and against curvlinops."""

import keras
import numpy as np
import pytest

from sparse_lib.curvature import (
    Batches,
    DiagonalBlock,
    FisherOperator,
    GaussNewtonOperator,
    InverseOperator,
    KFACOperator,
    KroneckerBlock,
    Subspace,
)
from sparse_lib.masks import Masks
from sparse_lib.objective import Objective
from tests.curvature.known import dense, examples, network
from tests.golden_values import read_golden
from tests.replicas import two_replicas

layers = keras.layers
SQUARED = keras.losses.MeanSquaredError(reduction=None, dtype="float64")
_GOLDEN = read_golden("curvlinops")


def build(kind, model, data, loss=None, subspace=None, batch_size=4, **options):
    objective = Objective(model, loss)
    params, batches = objective.params(), Batches.of(data, batch_size)
    return kind(objective, params, batches, subspace or Subspace.all(model), **options)


def chain(shape, *parts):
    return keras.Sequential([keras.Input(shape, dtype="float64"), *parts])


def double(kind, *args, **options):
    return kind(*args, dtype="float64", **options)


def as_matrix(operator):
    return operator @ np.eye(operator.shape[0])


def gauss_newton(model, data, loss=None, subspace=None):
    return dense(build(GaussNewtonOperator, model, data, loss, subspace))


def assert_blocks_equal(kfac, matrix, *, zero_outside=True):
    """The blocks of the operator are those of the matrix."""
    found = as_matrix(kfac)
    inside = np.zeros(found.shape, bool)
    for name, block in kfac.blocks.items():
        at = np.ix_(block.places, block.places)
        inside[at] = True
        scale = np.abs(matrix[at]).max()
        np.testing.assert_allclose(found[at], matrix[at], rtol=0, atol=1e-12 * scale, err_msg=name)
    if zero_outside:
        assert not found[~inside].any()


def names_of(kfac):
    return {name: type(block) for name, block in kfac.blocks.items()}


def test_one_example_without_shared_weights_is_exact():
    model = network("dense chain")
    x, y = examples(model, 1)
    kfac = build(KFACOperator, model, (x, y))
    assert_blocks_equal(kfac, gauss_newton(model, (x, y)))
    assert list(names_of(kfac).values()) == [KroneckerBlock] * 2


def test_given_labels_of_one_example_are_exact():
    model = network("dense chain")
    data = examples(model, 1)
    empirical = dense(build(FisherOperator, model, data, labels="data"))
    assert_blocks_equal(build(KFACOperator, model, data, labels="data"), empirical)


def test_deep_linear_networks_under_squared_error_are_exact():
    model = chain((4,), *(double(layers.Dense, size) for size in (3, 5, 2)))
    x, _ = examples(model)
    data = x, np.random.default_rng(1).normal(size=(len(x), 2))
    assert_blocks_equal(build(KFACOperator, model, data, SQUARED), gauss_newton(model, data, SQUARED))


def test_expand_is_exact_for_linear_networks_on_tokens():
    parts = double(layers.EinsumDense, "btc,hcd->bthd", (None, 2, 2), bias_axes="hd"), double(layers.Reshape, (-1, 4))
    model = chain((5, 3), *parts, double(layers.Dense, 2))
    x, _ = examples(model, 6)
    data = x, np.random.default_rng(1).normal(size=(6, 5, 2))
    expand, reduced = (build(KFACOperator, model, data, SQUARED, approximation=a) for a in ("expand", "reduce"))
    exact = gauss_newton(model, data, SQUARED)
    assert_blocks_equal(expand, exact)
    assert np.abs(as_matrix(reduced) - exact).max() > 0.1 * exact.max()


def test_reduce_is_exact_for_linear_convolutions_that_are_averaged():
    convolution = double(layers.Conv2D, 3, (2, 3), strides=(1, 2), padding="same", dilation_rate=1)
    model = chain((5, 6, 2), convolution, double(layers.GlobalAveragePooling2D), double(layers.Dense, 2))
    x, _ = examples(model, 6)
    data = x, np.random.default_rng(1).normal(size=(6, 2))
    expand, reduced = (build(KFACOperator, model, data, SQUARED, approximation=a) for a in ("expand", "reduce"))
    exact = gauss_newton(model, data, SQUARED)
    assert_blocks_equal(reduced, exact)
    assert np.abs(as_matrix(expand) - exact).max() > 0.1 * exact.max()


@pytest.mark.slow
def test_attention_on_one_token_is_exact():
    inputs = keras.Input((1, 3), dtype="float64")
    x = double(layers.MultiHeadAttention, 2, 2, name="attention")(inputs, inputs)
    model = keras.Model(inputs, double(layers.Dense, 2)(double(layers.Flatten)(x)))
    data = examples(model, 1, classes=2)
    kfac = build(KFACOperator, model, data)
    expected = {f"attention/{part}/kernel+attention/{part}/bias" for part in ("value", "attention_output")}
    assert expected < set(kfac.blocks)
    assert_blocks_equal(kfac, gauss_newton(model, data))


def test_active_weights_are_a_submatrix_with_an_exact_inverse():
    model = network("dense chain")
    x, y = examples(model)
    kernels = [v for v in model.trainable_variables if len(v.shape) > 1]
    masks = Masks(kernels, [np.random.default_rng(0).random(k.shape) < 0.5 for k in kernels])
    active, whole = Subspace.active(model, masks), Subspace.all(model)
    matrix = as_matrix(build(KFACOperator, model, (x, y), subspace=whole))
    kept = whole.positions(active)
    found = build(KFACOperator, model, (x, y), subspace=active)
    np.testing.assert_allclose(as_matrix(found), matrix[np.ix_(kept, kept)], rtol=1e-13)
    np.testing.assert_allclose(found.diagonal(), np.diag(matrix)[kept], rtol=1e-13)
    damped = as_matrix(found) + 1e-3 * np.eye(active.size)
    np.testing.assert_allclose(as_matrix(found.inverse(1e-3)), np.linalg.inv(damped), atol=1e-6)
    np.testing.assert_array_equal(as_matrix(found.inverse(1e-3)).T.shape, damped.shape)


def test_other_variables_have_the_exact_diagonal():
    model = network("batch norm")
    data = examples(model, 3)
    subspace = Subspace.all(model).only(lambda name: "conv" not in name)
    kfac = build(KFACOperator, model, data, subspace=subspace)
    kinds = {name.split("/")[-1]: kind for name, kind in names_of(kfac).items()}
    assert kinds == {"gamma": DiagonalBlock, "beta": DiagonalBlock, "bias": KroneckerBlock}
    exact = np.diag(gauss_newton(model, data, subspace=subspace))
    diagonals = np.concatenate([b.places for b in kfac.blocks.values() if isinstance(b, DiagonalBlock)])
    np.testing.assert_allclose(kfac.diagonal()[diagonals], exact[diagonals], rtol=1e-10)


class Doubled(layers.Dense):
    """A dense layer that computes something else."""

    def call(self, inputs, training=None):
        return super().call(inputs) + keras.ops.sum(self.kernel)


def test_what_is_no_linear_layer_has_a_diagonal():
    inputs = keras.Input((3,), dtype="float64")
    tied = double(layers.Dense, 3, use_bias=False, name="tied")
    used = double(layers.Lambda, lambda x: x @ keras.ops.transpose(tied.kernel))(tied(inputs))
    model = keras.Model(inputs, double(Doubled, 2, name="doubled")(used))
    kfac = build(KFACOperator, model, examples(model, 2, classes=2))
    names = {"tied/kernel": DiagonalBlock, "doubled/kernel": DiagonalBlock, "doubled/bias": DiagonalBlock}
    assert names_of(kfac) == names


@pytest.mark.parametrize(
    ("shape", "layer"),
    [
        ((7, 2), lambda: double(layers.Conv1D, 3, 3, padding="causal", dilation_rate=2, activation="relu")),
        ((5, 5, 2), lambda: double(layers.Conv2D, 3, 2, dilation_rate=2, activation=layers.ReLU(dtype="float64"))),
        ((4, 3), lambda: double(layers.EinsumDense, "...x,xy->...y", (2,), bias_axes="y", activation="gelu")),
        ((4, 3), lambda: double(layers.Dense, 2, activation="softmax")),
    ],
)
def test_layers_that_are_found(shape, layer):
    # A layer is found only if the gradient of its weights is that of what it multiplies, see `linear_layers`.
    model = chain(shape, layer(), double(layers.Flatten), double(layers.Dense, 2))
    kfac = build(KFACOperator, model, examples(model, 3, classes=2), labels="data")
    assert list(names_of(kfac).values()) == [KroneckerBlock] * 2


def test_a_layer_that_is_called_twice_has_twice_as_many_places():
    inputs = keras.Input((4,), dtype="float64")
    shared = double(layers.Dense, 3)
    halves = [shared(inputs[:, :2]), shared(inputs[:, 2:])]
    model = keras.Model(inputs, double(layers.Average)(halves))
    x, _ = examples(model)
    data = x, np.random.default_rng(1).normal(size=(len(x), 3))
    kfac = build(KFACOperator, model, data, SQUARED, approximation="reduce")
    assert_blocks_equal(kfac, gauss_newton(model, data, SQUARED))


def test_sampled_labels():
    model = network("dense chain")
    data = examples(model)
    exact, one, again, other = (
        as_matrix(build(KFACOperator, model, data, **options))
        for options in ({}, *({"labels": "sampled", "samples": 200, "seed": seed} for seed in (1, 1, 2)))
    )
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 0
    assert np.linalg.norm(one - exact) < 0.1 * np.linalg.norm(exact)


@pytest.mark.slow
def test_two_replicas_give_the_matrix_of_one_device():
    def operators():
        model = network("dense chain")
        return [build(kind, model, examples(model)) for kind in (KFACOperator, GaussNewtonOperator)]

    alone = [operator.diagonal() for operator in operators()]
    with two_replicas().scope():
        shared = [operator.diagonal() for operator in operators()]
    np.testing.assert_allclose(shared, alone, rtol=1e-11)


def test_layers_in_bfloat16():
    model, wide = network("dense chain", "mixed_bfloat16"), network("dense chain")
    wide.set_weights(model.get_weights())
    data = examples(wide)
    found, expected = (build(KFACOperator, m, data) for m in (model, wide))
    assert list(names_of(found).values()) == [KroneckerBlock] * 2
    expected = as_matrix(expected)
    np.testing.assert_allclose(as_matrix(found), expected, atol=0.05 * np.abs(expected).max())


@pytest.mark.slow
def test_kfac_as_a_preconditioner_saves_products():
    model = network("dense chain")
    data = examples(model, 40)
    operator = build(GaussNewtonOperator, model, data)
    damping = 1e-4
    b = np.random.default_rng(0).normal(size=operator.shape[0])
    expected = np.linalg.solve(dense(operator) + damping * np.eye(len(b)), b)
    inverse = build(KFACOperator, model, data).inverse(damping)
    found = InverseOperator(operator, damping=damping, tolerance=1e-9, preconditioner=inverse) @ b
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"approximation": "both"}, "approximation must be one of expand, reduce; got 'both'"),
        ({"labels": "true"}, "labels must be one of"),
        ({"labels": "sampled", "loss": SQUARED}, "not the cross-entropy"),
        ({"loss": lambda y, z: -keras.ops.sum(z**2, -1)}, "not convex in the outputs"),
    ],
)
def test_bad_input(options, message):
    model = network("dense chain")
    x, _ = examples(model)
    y = np.eye(3)[[0, 1, 2] * 4][: len(x)]
    with pytest.raises(ValueError, match=message):
        build(KFACOperator, model, (x, y), **{"loss": SQUARED, **options})


def test_damping_of_an_inverse():
    kfac = build(KFACOperator, network("dense chain"), examples(network("dense chain")))
    with pytest.raises(ValueError, match="damping must be positive"):
        kfac.inverse(0.0)


# --- curvlinops ---

_PARTS = {
    "dense": lambda: [double(layers.Dense, 5, activation="tanh"), double(layers.Dense, 3)],
    "regression": lambda: [double(layers.Dense, 5, activation="tanh"), double(layers.Dense, 2)],
    "convolutions": lambda: [
        double(layers.Conv2D, 3, 3, strides=2, activation="tanh"),
        double(layers.Conv2D, 2, 2, activation="tanh"),
        double(layers.Flatten),
        double(layers.Dense, 3),
    ],
    "tokens": lambda: [double(layers.Dense, 4, activation="tanh"), double(layers.Dense, 2)],
    "mean of tokens": lambda: [
        double(layers.Dense, 4, activation="tanh"),
        double(layers.GlobalAveragePooling1D),
        double(layers.Dense, 3),
    ],
}


def from_torch(parts):
    """Kernels of PyTorch in the axes of Keras."""
    axes = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}
    return [np.transpose(part, axes[np.ndim(part)]) for part in parts]


def flat(parts):
    return np.concatenate([np.ravel(part) for part in from_torch(parts)])


def golden_case(name):
    case = _GOLDEN["cases"][name]
    x = np.array(case["x"])
    x = x if x.ndim < 4 else np.transpose(x, (0, 2, 3, 1))
    model = chain(x.shape[1:], *_PARTS[name]())
    model.set_weights(from_torch(case["params"]))
    return case, model, (x, np.array(case["y"])), None if np.ndim(case["y"]) == 1 else SQUARED


_LABELS = {"type-2": "model", "empirical": "data"}
_FAST = ("convolutions: expand type-2", "tokens: expand type-2", "mean of tokens: reduce empirical")
_CASES = [
    pytest.param(name, key, marks=() if f"{name}: {key}" in _FAST else pytest.mark.slow)
    for name, case in _GOLDEN["cases"].items()
    for key in case
    if f"{key} inverse" in case and key != "ggn"
]


@pytest.mark.parametrize(("name", "key"), _CASES)
def test_products_of_curvlinops(name, key):
    case, model, data, loss = golden_case(name)
    approximation, labels = key.split()
    kfac = build(KFACOperator, model, data, loss, approximation=approximation, labels=_LABELS[labels])
    vector = flat(case["vector"])
    np.testing.assert_allclose(kfac @ vector, flat(case[key]), rtol=1e-9, atol=1e-11)
    inverse = kfac.inverse(_GOLDEN["damping"])
    np.testing.assert_allclose(inverse @ vector, flat(case[f"{key} inverse"]), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    "name", ["convolutions", *(pytest.param(n, marks=pytest.mark.slow) for n in ("dense", "tokens"))]
)
def test_gauss_newton_of_curvlinops(name):
    case, model, data, loss = golden_case(name)
    operator = build(GaussNewtonOperator, model, data, loss)
    vector = flat(case["vector"])
    np.testing.assert_allclose(operator @ vector, flat(case["ggn"]), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(operator.diagonal(), flat(case["ggn_diagonal"]), rtol=1e-9, atol=1e-11)
    inverse = InverseOperator(operator, damping=_GOLDEN["damping"], tolerance=1e-12)
    np.testing.assert_allclose(inverse @ vector, flat(case["ggn_inverse"]), rtol=1e-9, atol=1e-10)


# --- exact diagonals ---


@pytest.mark.parametrize(
    "name", ["convolutions and max-pooling", pytest.param("attention and layer norm", marks=pytest.mark.slow)]
)
def test_exact_diagonal_of_gauss_newton(name):
    model = network(name)
    operator = build(GaussNewtonOperator, model, examples(model, 3))
    expected = np.diag(dense(operator))
    np.testing.assert_allclose(operator.diagonal(), expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("options", [{}, {"labels": "data"}, {"labels": "sampled", "samples": 3}])
def test_exact_diagonal_of_fisher(options):
    model = network("dense chain")
    operator = build(FisherOperator, model, examples(model), **options)
    np.testing.assert_allclose(operator.diagonal(), np.diag(dense(operator)), rtol=1e-10)


def test_exact_diagonal_in_training():
    model = network("batch norm")
    operator = build(GaussNewtonOperator, model, examples(model), training=True)
    with pytest.raises(ValueError, match="needs training=False"):
        operator.diagonal()
