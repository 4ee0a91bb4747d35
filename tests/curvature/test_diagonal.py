"""Estimates of diagonals: unbiased, exact where they should be, with error bars that cover."""

import numpy as np
import pytest
from scipy.sparse.linalg import aslinearoperator

from sparse_lib.curvature import Counted, diagonal
from tests.curvature.known import SPECTRA, matrix_of, operator_of


@pytest.mark.parametrize("sketch", [0, 5])
def test_error_bars_cover(sketch):
    name = "few outliers"
    expected = np.diag(matrix_of(SPECTRA[name]))
    off = [
        (found.values - expected) / found.errors
        for found in (
            diagonal(operator_of(SPECTRA[name]), sketch=sketch, precision=1e-9, max_probes=20, seed=s)
            for s in range(30)
        )
    ]
    # Student's t with 19 degrees of freedom: 67% within one error, 94% within two, mean zero.
    assert abs(np.mean(np.abs(off) < 1) - 0.67) < 0.03
    assert abs(np.mean(np.abs(off) < 2) - 0.94) < 0.02
    assert abs(np.mean(off)) < 0.05


def test_by_hand():
    matrix = np.array([[2.0, 1.0], [1.0, 5.0]])
    found = diagonal(aslinearoperator(matrix), precision=1e-9, max_probes=8)
    # Each sample is 2 + 1 or 2 - 1, and 5 + 1 or 5 - 1, by whether the two signs are equal.
    sums = (found.values - [2.0, 5.0]) * 8
    assert sums[0] == pytest.approx(sums[1])
    assert sums[0] == pytest.approx(round(sums[0]))
    mean = sums[0] / 8
    np.testing.assert_allclose(found.errors, np.sqrt((1 - mean**2) / 7))


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_hadamard_vectors_leave_entries_at_multiples_of_their_number(count):
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(11, 11))
    matrix += matrix.T
    distance = np.subtract.outer(np.arange(11), np.arange(11))
    expected = np.sum(np.where(distance % count == 0, matrix, 0), axis=1)
    found = diagonal(aslinearoperator(matrix), probes="hadamard", max_probes=2 * count - 1)
    np.testing.assert_allclose(found.values, expected, atol=1e-13)
    assert found.probes == count
    banded = np.where(abs(distance) < count, matrix, 0)
    found = diagonal(aslinearoperator(banded), probes="hadamard", max_probes=count)
    np.testing.assert_allclose(found.values, np.diag(matrix), atol=1e-13)
    assert np.isinf(found.errors).all()


def test_as_many_hadamard_vectors_as_rows_are_exact():
    found = diagonal(operator_of(SPECTRA["negative"]), probes="hadamard", max_probes=1000)
    assert found.probes == 256
    np.testing.assert_allclose(found.values, np.diag(matrix_of(SPECTRA["negative"])), rtol=1e-12)


@pytest.mark.parametrize("probes", ["signs", "hadamard"])
def test_a_sketch_makes_low_rank_exact(probes):
    found = diagonal(operator_of(SPECTRA["low rank"]), probes=probes, sketch=8, max_probes=4)
    np.testing.assert_allclose(found.values, np.diag(matrix_of(SPECTRA["low rank"])), atol=1e-12)


def test_stops_at_the_precision():
    operator = Counted(operator_of(SPECTRA["negative"]))
    found = diagonal(operator, precision=0.05, max_probes=1000)
    assert 10 <= found.probes == operator.products < 1000
    assert np.linalg.norm(found.errors) <= 0.05 * np.linalg.norm(found.values)


def test_one_probe_has_no_error_bar():
    assert np.isinf(diagonal(operator_of(SPECTRA["negative"]), max_probes=1).errors).all()


@pytest.mark.parametrize("options", [{"probes": "gauss"}, {"precision": 0.0}, {"max_probes": 0}, {"sketch": -1}])
def test_bad_input(options):
    with pytest.raises(ValueError, match="probes must be one of signs, hadamard"):
        diagonal(operator_of(SPECTRA["zero"]), **options)
