"""Conjugate gradients against dense solutions."""

import numpy as np
import pytest
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from sparse_lib.curvature import Counted, InverseOperator, solve
from tests.curvature.known import SPECTRA, matrix_of, operator_of

POSITIVE = "few outliers"


def problem(damping=0.2, columns=3):
    matrix = matrix_of(SPECTRA[POSITIVE]) + damping * np.eye(200)
    b = np.random.default_rng(1).normal(size=(200, columns))
    return operator_of(SPECTRA[POSITIVE]), b, np.linalg.solve(matrix, b)


@pytest.mark.parametrize("columns", [1, 5])
def test_solutions(columns):
    operator, b, expected = problem(columns=columns)
    found = solve(operator, b, damping=0.2, tolerance=1e-11)
    np.testing.assert_allclose(found.x, expected, atol=1e-9)
    residual = operator @ found.x + 0.2 * found.x - b
    np.testing.assert_allclose(
        found.residuals, np.linalg.norm(residual, axis=0) / np.linalg.norm(b, axis=0), atol=1e-13
    )
    assert found.has_converged and found.residuals.max() <= 1e-11


def test_a_vector_has_the_shape_of_a_vector():
    operator, b, expected = problem(columns=1)
    found = solve(operator, b[:, 0], damping=0.2, tolerance=1e-11)
    np.testing.assert_allclose(found.x, expected[:, 0], atol=1e-9)


def test_as_many_iterations_as_distinct_eigenvalues():
    found = solve(operator_of(SPECTRA["two values"]), np.ones(200), damping=1.0)
    assert found.iterations == 2


def test_columns_that_have_converged_cost_no_products():
    matrix = np.diag(np.linspace(1, 2, 50))
    counted = Counted(aslinearoperator(matrix))
    easy, hard = np.eye(50)[0], np.ones(50)
    together = solve(counted, np.stack([easy, hard, 0 * hard], axis=1))
    products = counted.products
    alone = solve(aslinearoperator(matrix), hard)
    # One iteration for the easy column, none for zero, and a check for both at the end.
    assert products == alone.iterations + 1 + 2
    np.testing.assert_array_equal(together.x[:, 2], 0.0)


def test_the_inverse_as_preconditioner_takes_one_iteration():
    operator, b, expected = problem()
    inverse = aslinearoperator(np.linalg.inv(matrix_of(SPECTRA[POSITIVE]) + 0.2 * np.eye(200)))
    found = solve(operator, b, damping=0.2, preconditioner=inverse)
    assert found.iterations == 1
    np.testing.assert_allclose(found.x, expected, atol=1e-9)


def test_a_diagonal_as_preconditioner_saves_iterations():
    values = np.geomspace(1e-3, 1e3, 200)
    operator, b = aslinearoperator(np.diag(values)), np.ones(200)
    plain, helped = (
        solve(operator, b, preconditioner=p) for p in (None, aslinearoperator(np.diag(1 / (1.1 * values))))
    )
    assert helped.iterations < 0.1 * plain.iterations
    assert helped.has_converged


def test_the_operator():
    operator, b, expected = problem()
    inverse = InverseOperator(operator, damping=0.2, tolerance=1e-11)
    np.testing.assert_allclose(inverse @ b, expected, atol=1e-9)
    np.testing.assert_allclose(inverse.T @ b[:, 0], expected[:, 0], atol=1e-9)
    np.testing.assert_allclose((operator + 0.2 * aslinearoperator(np.eye(200))) @ (inverse @ b), b, atol=1e-9)


def test_products_in_float32_converge_to_their_precision():
    matrix = matrix_of(np.geomspace(1e-2, 1, 100)).astype(np.float32)
    operator = LinearOperator((100, 100), lambda v: matrix @ v.astype(np.float32), dtype=np.float64)
    b = np.random.default_rng(0).normal(size=100)
    found = solve(operator, b, damping=1e-2, tolerance=1e-5)
    assert found.has_converged
    residual = b - matrix.astype(np.float64) @ found.x - 1e-2 * found.x
    assert np.linalg.norm(residual) < 2e-5 * np.linalg.norm(b)


def test_too_few_iterations():
    operator, b, _ = problem()
    found = solve(operator, b, damping=0.2, max_iterations=3)
    assert not found.has_converged and found.iterations == 3
    energy = np.sum(found.x * (0.5 * (operator @ found.x) + 0.1 * found.x - b), axis=0)
    assert np.all(energy < 0)
    with pytest.raises(ValueError, match=r"After 3 products the relative residual is .*: take a larger damping"):
        InverseOperator(operator, damping=0.2, max_iterations=3) @ b


def test_negative_curvature():
    with pytest.raises(ValueError, match=r"with damping 0.5 is not positive definite: a direction has curvature -"):
        solve(operator_of(SPECTRA["negative"]), np.ones(200), damping=0.5)


def test_an_indefinite_preconditioner():
    operator, b, _ = problem()
    with pytest.raises(ValueError, match="preconditioner is not positive definite"):
        solve(operator, b, damping=0.2, preconditioner=aslinearoperator(-np.eye(200)))


@pytest.mark.parametrize("options", [{"tolerance": 0.0}, {"max_iterations": 0}, {"damping": np.nan}])
def test_bad_input(options):
    with pytest.raises(ValueError, match="tolerance must lie between 0 and 1"):
        solve(operator_of(SPECTRA["identity"]), np.ones(200), **options)


def test_a_right_hand_side_that_is_not_finite():
    with pytest.raises(ValueError, match="not finite"):
        solve(operator_of(SPECTRA["identity"]), np.full(200, np.nan))
