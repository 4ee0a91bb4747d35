"""Extreme eigenvalues against numpy, on spectra that are easy to get wrong."""

import numpy as np
import pytest
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from sparse_lib.curvature import Batches, HessianOperator, Subspace, both_ends, eigenpairs, extreme
from sparse_lib.objective import Objective
from tests.curvature.known import SPECTRA, examples, matrix_of, network, operator_of, plain_hessian

WHICH = {"largest": lambda v: -v, "smallest": lambda v: v, "magnitude": lambda v: -np.abs(v)}


def outermost(values, which, k):
    return values[np.argsort(WHICH[which](values), kind="stable")][:k]


@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("name", SPECTRA)
def test_values_vectors_and_residuals(name, k, which):
    values = SPECTRA[name]
    operator = operator_of(values)
    found = extreme(operator, k, which)
    norm = np.abs(values).max()
    expected = outermost(values, which, k)
    if which == "magnitude":
        np.testing.assert_allclose(np.abs(found.values), np.abs(expected), atol=1e-5 * norm)
    else:
        np.testing.assert_allclose(found.values, expected, atol=1e-5 * norm)
    np.testing.assert_allclose(found.vectors.T @ found.vectors, np.eye(k), atol=1e-4)
    true = np.linalg.norm(operator.matmat(found.vectors) - found.vectors * found.values, axis=0)
    np.testing.assert_allclose(found.residuals, true, atol=1e-12)
    assert np.all(found.residuals <= 1e-4 * norm + 1e-13)


@pytest.mark.parametrize("basis", [300, 24], ids=["one basis", "restarts"])
@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("name", SPECTRA)
def test_both_ends_are_those_of_each(name, k, basis, monkeypatch):
    monkeypatch.setattr(eigenpairs, "BASIS", basis)
    values = SPECTRA[name]
    operator = operator_of(values)
    norm = np.abs(values).max()
    for which, found in zip(("largest", "smallest"), both_ends(operator, k), strict=True):
        np.testing.assert_allclose(found.values, outermost(values, which, k), atol=1e-5 * norm)
        np.testing.assert_allclose(found.vectors.T @ found.vectors, np.eye(k), atol=1e-4)
        true = np.linalg.norm(operator.matmat(found.vectors) - found.vectors * found.values, axis=0)
        assert np.all(true <= 1e-4 * norm + 1e-13)


@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize("name", SPECTRA)
def test_restarts_where_the_basis_has_no_room(name, which, monkeypatch):
    monkeypatch.setattr(eigenpairs, "BASIS_BYTES", 8 * len(SPECTRA[name]) * 12)
    values = SPECTRA[name]
    found = extreme(operator_of(values), 4, which)
    np.testing.assert_allclose(
        np.sort(np.abs(found.values)),
        np.sort(np.abs(outermost(values, which, 4))),
        atol=1e-5 * np.abs(values).max(),
    )


def test_both_ends_take_few_more_products_than_one():
    values = np.concatenate([np.linspace(-0.5, 0.5, 1000), np.arange(2, 12)])
    operator = operator_of(values)
    one, (both, same) = extreme(operator, 10), both_ends(operator, 10)
    assert both.products == same.products
    assert both.products < extreme(operator, 10, "smallest").products + one.products


def test_a_tight_tolerance():
    values = SPECTRA["evenly spread"]
    found = extreme(operator_of(values), 4, tolerance=1e-12)
    np.testing.assert_allclose(found.values, outermost(values, "largest", 4), rtol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 5, 64, 65])
@pytest.mark.parametrize("which", WHICH)
def test_tiny_matrices(size, which):
    values = np.linspace(-1, 2, size)
    k = min(size, 3)
    np.testing.assert_allclose(
        np.abs(extreme(operator_of(values), k, which).values), np.abs(outermost(values, which, k)), atol=1e-6
    )


def test_all_eigenvalues_may_be_asked_for():
    values = np.linspace(-1, 2, 100)
    np.testing.assert_allclose(extreme(operator_of(values), 100, "smallest").values, values, atol=1e-13)


def test_products_are_counted_and_seeds_repeat_bits():
    matrix = matrix_of(SPECTRA["few outliers"])
    counts = [0]

    def product(v):
        counts[0] += 1
        return matrix @ v

    operator = LinearOperator(matrix.shape, product, dtype=np.float64)
    found = extreme(operator, 3, seed=1)
    assert found.products == counts[0]
    again = extreme(operator, 3, seed=1)
    np.testing.assert_array_equal(found.values, again.values)
    np.testing.assert_array_equal(found.vectors, again.vectors)
    assert not np.array_equal(found.vectors, extreme(operator, 3, seed=2).vectors)


def test_no_convergence_says_what_to_do(monkeypatch):
    monkeypatch.setattr(eigenpairs, "BASIS", 12)
    with pytest.raises(ValueError, match=r"of 5 eigenpairs converged in \d+ products: raise"):
        extreme(operator_of(SPECTRA["evenly spread"]), 5, tolerance=1e-14, max_iterations=1)


@pytest.mark.parametrize(
    ("size", "k", "which", "message"),
    [(100, 0, "largest", "k must be"), (100, 101, "largest", "k must be"), (100, 1, "LA", "one of largest, smallest")],
)
def test_bad_input(size, k, which, message):
    with pytest.raises(ValueError, match=message):
        extreme(aslinearoperator(np.eye(size)), k, which)


@pytest.mark.parametrize("size", [10, 100])
def test_products_that_are_not_finite(size):
    with pytest.raises(ValueError, match="not finite"):
        extreme(aslinearoperator(np.full((size, size), np.nan)))


@pytest.mark.slow
def test_the_hessian_of_a_float32_network():
    model = network("convolutions and max-pooling", "float32")
    wide = network("convolutions and max-pooling")
    wide.set_weights(model.get_weights())
    data = examples(wide)
    values = np.linalg.eigvalsh(plain_hessian(wide, *data))
    objective = Objective(model)
    operator = HessianOperator(objective, objective.params(), Batches.of(data, 11), Subspace.all(model))
    np.testing.assert_allclose(extreme(operator, 3).values, values[:-4:-1], atol=3e-6 * values[-1])
    np.testing.assert_allclose(extreme(operator, 3, "smallest").values, values[:3], atol=3e-6 * values[-1])
