"""Stochastic Lanczos quadrature against exact spectra."""

import numpy as np
import pytest
from scipy.stats import norm

from sparse_lib.curvature import Counted, Probe, Quadrature, quadrature
from tests.curvature.known import SPECTRA, operator_of

SMOOTH = np.sort(np.r_[np.random.default_rng(0).normal(0, 1, 380), np.linspace(5, 9, 20)])


def exact_density(values, grid, width):
    return norm.pdf(grid[:, None], values, width).mean(axis=1)


@pytest.fixture(scope="module")
def smooth():
    return quadrature(operator_of(SMOOTH), steps=60, max_probes=40, precision=1e-9)


def test_density_is_that_of_the_exact_spectrum(smooth):
    found = smooth.density(width=0.4, points=500)
    expected = exact_density(SMOOTH, found.grid, 0.4)
    off = np.abs(found.values - expected)
    assert np.mean(off <= 3 * found.errors + 1e-3 * expected.max()) > 0.97
    assert off.max() < 0.05 * expected.max()


def test_error_bars_of_the_density_cover():
    operator = operator_of(SMOOTH)
    grid = np.array([-1.0, 0.0, 1.0, 7.0])
    expected = exact_density(SMOOTH, grid, 0.5)
    off = np.array(
        [
            (found.values - expected) / found.errors
            for found in (
                quadrature(operator, steps=40, max_probes=12, precision=1e-9, seed=s).density(grid, width=0.5)
                for s in range(60)
            )
        ]
    )
    assert np.mean(np.abs(off) < 2) > 0.85
    assert 0.45 < np.mean(np.abs(off) < 1) < 0.85


def test_density_integrates_to_one(smooth):
    found = smooth.density()
    assert len(found.grid) == 10_000
    assert np.trapezoid(found.values, found.grid) == pytest.approx(1, abs=1e-4)
    extent = smooth_range(smooth)
    assert found.width == pytest.approx(np.sqrt(1e-5 * extent))


def smooth_range(found):
    return max(p.nodes[-1] for p in found.probes) - min(p.nodes[0] for p in found.probes)


def test_small_spectra_are_smoothed_to_scale():
    found = quadrature(operator_of(1e-4 * SMOOTH), steps=20, max_probes=3)
    assert found.density(points=100).width == pytest.approx(np.sqrt(1e-5) * smooth_range(found))


@pytest.mark.parametrize("name", SPECTRA)
def test_functions_of_the_spectrum(name):
    values = SPECTRA[name]
    found = quadrature(operator_of(values), steps=50, max_probes=30, precision=1e-9)
    for function in (np.abs, np.square, np.cosh, lambda x: (x > 2.5).astype(float)):
        estimate, exact = found.trace_of(function), np.sum(function(values))
        assert abs(estimate.value - exact) <= 4 * estimate.error + 0.02 * abs(exact) + 1e-9
        assert estimate.probes == len(found.probes)
    first = found.moment(1)
    assert abs(first.value - values.mean()) <= 4 * first.error + 1e-12


def test_low_moments_of_a_probe_are_exact():
    from sparse_lib.curvature.estimate import signs

    operator = operator_of(SMOOTH)
    probe = quadrature(operator, steps=4, max_probes=1, seed=3).probes[0]
    vector = signs(400, 3, 0) / 20
    power = vector
    for order in range(8):
        assert probe.weights @ probe.nodes**order == pytest.approx(vector @ power, rel=1e-10)
        power = operator.matvec(power)


def test_few_distinct_eigenvalues_need_few_steps():
    found = quadrature(operator_of(SPECTRA["two values"]), steps=30, max_probes=12, precision=1e-9)
    at_ten = found.trace_of(lambda x: (x > 5).astype(float))
    assert abs(at_ten.value - 5) <= 4 * at_ten.error
    for probe in found.probes:
        assert probe.weights @ ((np.abs(probe.nodes) < 1e-9) | (np.abs(probe.nodes - 10) < 1e-9)) == pytest.approx(1)


def test_a_single_value_has_a_peak():
    density = quadrature(operator_of(SPECTRA["identity"]), steps=10, max_probes=2).density(points=1001)
    assert density.grid[np.argmax(density.values)] == pytest.approx(1)
    assert np.trapezoid(density.values, density.grid) == pytest.approx(1, abs=1e-4)


def test_stops_at_the_precision():
    counted = Counted(operator_of(SPECTRA["negative"]))
    found = quadrature(counted, steps=20, precision=0.05, max_probes=100)
    assert 10 <= len(found.probes) < 20
    assert counted.products == 20 * len(found.probes)


def test_an_interrupted_run_goes_on():
    operator = operator_of(SMOOTH)
    saved = []
    whole = quadrature(operator, steps=15, max_probes=10, precision=1e-9, seed=2, on_probe=saved.append)
    assert [len(probes) for probes in saved] == [4, 8, 10]
    counted = Counted(operator)
    rest = quadrature(counted, steps=15, max_probes=10, precision=1e-9, seed=2, done=saved[0])
    assert counted.products == 6 * 15
    for one, other in zip(whole.probes, rest.probes, strict=True):
        np.testing.assert_array_equal(one.nodes, other.nodes)
        np.testing.assert_array_equal(one.weights, other.weights)
    counted.products = 0
    quadrature(counted, steps=15, max_probes=10, precision=1e-9, seed=2, done=whole.probes)
    assert counted.products == 0


def test_error_of_one_probe_is_unknown():
    found = Quadrature(2, (Probe(np.array([0.0, 1.0]), np.array([0.5, 0.5])),))
    assert found.trace_of(lambda x: x).error == np.inf
    assert np.all(np.isinf(found.density(points=10).errors))


@pytest.mark.parametrize("options", [{"precision": 0.0}, {"max_probes": 0}, {"steps": 0}])
def test_bad_input(options):
    with pytest.raises(ValueError, match="precision must be positive"):
        quadrature(operator_of(SPECTRA["zero"]), **options)
