"""Lanczos against numpy's eigenvalues."""

import numpy as np
import pytest
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from sparse_lib.curvature import lanczos
from sparse_lib.curvature.lanczos import lanczos_many
from tests.curvature.known import SPECTRA, dense, matrix_of, operator_of


@pytest.mark.parametrize("name", SPECTRA)
def test_n_steps_give_the_whole_spectrum_with_its_multiplicities(name):
    values = np.sort(SPECTRA[name])
    operator = operator_of(values)
    found = lanczos(operator, len(values) + 10)
    scale = max(np.abs(values).max(), 1e-30)
    nodes, weights = found.quadrature()
    np.testing.assert_allclose(nodes, values, atol=1e-12 * scale)
    assert weights.sum() == pytest.approx(1)
    ritz = found.ritz()
    np.testing.assert_allclose(ritz.vectors.T @ ritz.vectors, np.eye(len(values)), atol=1e-12)
    np.testing.assert_allclose(operator.matmat(ritz.vectors), ritz.vectors * ritz.values, atol=1e-11 * scale)


@pytest.mark.parametrize("steps", [1, 7, 60])
@pytest.mark.parametrize("name", ["evenly spread", "few outliers", "clustered"])
def test_the_three_term_relation_holds(name, steps):
    operator = operator_of(SPECTRA[name])
    found = lanczos(operator, steps, seed=1)
    basis = found.basis
    assert basis.shape == (steps, 200)
    np.testing.assert_allclose(basis @ basis.T, np.eye(steps), atol=1e-13)
    tridiagonal = np.diag(found.diagonal) + np.diag(found.off_diagonal, 1) + np.diag(found.off_diagonal, -1)
    rest = operator.matmat(basis.T) - basis.T @ tridiagonal
    np.testing.assert_allclose(rest[:, :-1], 0, atol=1e-11)
    assert np.linalg.norm(rest[:, -1]) == pytest.approx(found.residual, rel=1e-6)


@pytest.mark.parametrize("steps", [5, 20, 50])
def test_residuals_are_true_and_bound_the_error(steps):
    values = SPECTRA["few outliers"]
    operator = operator_of(values)
    ritz = lanczos(operator, steps).ritz()
    true = np.linalg.norm(operator.matmat(ritz.vectors) - ritz.vectors * ritz.values, axis=0)
    np.testing.assert_allclose(ritz.residuals, true, atol=1e-11)
    nearest = np.abs(values[:, None] - ritz.values).min(axis=0)
    assert np.all(nearest <= ritz.residuals + 1e-11)


def test_no_eigenvalue_comes_twice_after_it_has_converged():
    # Without re-orthogonalisation 120 steps return the largest of these several times.
    ritz = lanczos(operator_of(np.r_[np.linspace(0, 1, 199), 100.0]), 120).ritz()
    assert np.sum(np.abs(ritz.values - 100) < 1e-6) == 1


def test_a_used_up_krylov_space_goes_on_elsewhere():
    operator = aslinearoperator(np.diag(np.arange(8.0)))
    start = np.zeros(8)
    start[[2, 5]] = 1
    found = lanczos(operator, 8, start=start)
    assert found.off_diagonal[1] == 0
    nodes, weights = found.quadrature()
    np.testing.assert_allclose(nodes, np.arange(8), atol=1e-12)
    np.testing.assert_allclose(weights, [0, 0, 0.5, 0, 0, 0.5, 0, 0], atol=1e-12)


def test_seeds_repeat_bits():
    operator = operator_of(SPECTRA["evenly spread"])
    one, two, other = (lanczos(operator, 10, seed=seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one.basis, two.basis)
    np.testing.assert_array_equal(one.diagonal, two.diagonal)
    assert not np.array_equal(one.diagonal, other.diagonal)


def test_many_at_once_are_as_one_by_one():
    matrix = matrix_of(SPECTRA["few outliers"])
    widths = []

    def product(block):
        widths.append(block.shape[1])
        return matrix @ block

    operator = LinearOperator(matrix.shape, lambda v: matrix @ v, matmat=product, dtype=np.float64)
    starts = np.random.default_rng(0).normal(size=(3, 200))
    for together, start in zip(lanczos_many(operator, 12, starts), starts, strict=True):
        alone = lanczos(operator, 12, start=start)
        np.testing.assert_allclose(together.diagonal, alone.diagonal, rtol=1e-10)
        np.testing.assert_allclose(together.basis, alone.basis, atol=1e-9)
    assert widths[:12] == [3] * 12


def test_one_dimension():
    found = lanczos(aslinearoperator(np.array([[4.0]])), 5)
    assert found.ritz().values == [4.0] and found.residual == 0
    np.testing.assert_array_equal(dense(aslinearoperator(np.array([[4.0]]))), [[4.0]])


@pytest.mark.parametrize(
    ("steps", "start", "scale", "message"),
    [
        (0, None, 1.0, "at least one step"),
        (3, np.zeros(4), 1.0, "vector of length 0"),
        (3, None, np.nan, "not finite"),
    ],
)
def test_bad_input(steps, start, scale, message):
    with pytest.raises(ValueError, match=message):
        lanczos(aslinearoperator(scale * np.eye(4)), steps, start=start)
