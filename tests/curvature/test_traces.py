"""Trace and Frobenius norm: unbiased, exact where they should be, with error bars that cover."""

import numpy as np
import pytest

from sparse_lib.curvature import Counted, Estimate, traces
from sparse_lib.curvature.estimate import signs
from tests.curvature.known import SPECTRA, matrix_of, operator_of


@pytest.mark.parametrize("sketch", [0, 4])
@pytest.mark.parametrize("name", ["evenly spread", "few outliers", "negative"])
def test_error_bars_cover(name, sketch):
    values = SPECTRA[name]
    operator = operator_of(values)
    off = np.array(
        [
            [
                (found.trace.value - values.sum()) / found.trace.error,
                (found.squared_frobenius.value - np.sum(values**2)) / found.squared_frobenius.error,
            ]
            for found in (traces(operator, sketch=sketch, precision=1e-9, max_probes=20, seed=s) for s in range(200))
        ]
    )
    # Student's t with 19 degrees of freedom: 67% within one error, 94% within two, mean zero.
    assert np.all(np.abs(np.mean(np.abs(off) < 1, axis=0) - 0.67) < 0.12)
    assert np.all(np.mean(np.abs(off) < 2, axis=0) > 0.87)
    assert np.all(np.abs(off.mean(axis=0)) < 0.35)


def test_one_probe_by_hand():
    matrix = matrix_of(SPECTRA["few outliers"])
    found = traces(operator_of(SPECTRA["few outliers"]), max_probes=2, precision=1e-9, seed=7)
    probes = [signs(200, 7, i) for i in range(2)]
    first, second = (v @ matrix @ v for v in probes)
    assert found.trace.value == pytest.approx((first + second) / 2)
    assert found.trace.error == pytest.approx(abs(first - second) / 2)
    assert found.trace.probes == 2
    assert found.squared_frobenius.value == pytest.approx(np.mean([np.sum((matrix @ v) ** 2) for v in probes]))


def test_diagonal_matrices_are_exact_by_signs():
    values = SPECTRA["few outliers"]
    found = traces(operator_of(values) * 0 + _diagonal(values))
    assert found.trace.value == pytest.approx(values.sum(), rel=1e-13)
    assert found.trace.error < 1e-12


def _diagonal(values):
    from scipy.sparse import diags_array
    from scipy.sparse.linalg import aslinearoperator

    return aslinearoperator(diags_array(values))


@pytest.mark.parametrize("name", ["low rank", "two values", "zero"])
def test_a_sketch_makes_low_rank_exact(name):
    values = SPECTRA[name]
    found = traces(operator_of(values), sketch=8)
    assert found.trace.value == pytest.approx(values.sum(), abs=1e-11)
    assert found.squared_frobenius.value == pytest.approx(np.sum(values**2), abs=1e-10)
    assert found.trace.error < 1e-11
    plain = traces(operator_of(values)).trace.error
    assert plain > 0 or name == "zero"


def test_a_sketch_of_everything_is_exact():
    values = SPECTRA["evenly spread"]
    found = traces(operator_of(values), sketch=500)
    assert found.trace.value == pytest.approx(values.sum(), rel=1e-12)
    assert found.squared_frobenius.value == pytest.approx(np.sum(values**2), rel=1e-12)


def test_a_sketch_helps_where_few_eigenvalues_are_large():
    operator = operator_of(SPECTRA["few outliers"])
    plain, sketched = (traces(operator, sketch=s, precision=1e-9, max_probes=20) for s in (0, 10))
    assert sketched.trace.error < 0.1 * plain.trace.error


def test_stops_at_the_precision():
    values = SPECTRA["negative"]
    loose, tight = (traces(operator_of(values), precision=p, max_probes=10_000) for p in (0.05, 0.001))
    for found, precision in ((loose, 0.05), (tight, 0.001)):
        assert found.trace.error <= precision * abs(found.trace.value)
        assert found.squared_frobenius.error <= precision * found.squared_frobenius.value
    assert 10 <= loose.trace.probes < tight.trace.probes < 10_000


@pytest.mark.parametrize(("sketch", "probes", "products"), [(0, 13, 13), (5, 13, 23)])
def test_products(sketch, probes, products):
    counted = Counted(operator_of(SPECTRA["evenly spread"]))
    found = traces(counted, sketch=sketch, precision=1e-9, max_probes=probes)
    assert found.trace.probes == probes
    assert counted.products == products


def test_seeds_repeat_bits():
    operator = operator_of(SPECTRA["evenly spread"])
    one, two, other = (traces(operator, sketch=3, seed=s) for s in (1, 1, 2))
    assert one == two != other


def test_samples_with_an_exact_part():
    found = Estimate.of([1.0, 2.0, 6.0], offset=10.0)
    assert found == Estimate(13.0, pytest.approx(np.sqrt(7 / 3)), 3)
    assert Estimate.of([1.0]).error == np.inf
    assert not found.within(10.0)
    assert Estimate(5.0, 0.1, 50).within(0.05) and not Estimate(5.0, 0.1, 50).within(0.01)
    assert Estimate(0.0, 0.1, 50).within(0.05, scale=3.0)


@pytest.mark.parametrize("options", [{"precision": 0.0}, {"max_probes": 1}, {"sketch": -1}])
def test_bad_input(options):
    with pytest.raises(ValueError, match="precision must be positive"):
        traces(operator_of(SPECTRA["zero"]), **options)
