"""Summaries of spectra by hand, and stability limits against optimizers that run."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from sparse_lib.curvature import (
    Probe,
    Quadrature,
    change,
    extreme,
    float_tolerance,
    overlap,
    quadrature,
    stability_limit,
    summarize,
    summarize_estimates,
)
from tests.curvature.known import SPECTRA, matrix_of, operator_of


def test_a_spectrum_by_hand():
    found = summarize(np.array([4.0, -1.0, 0.0, 1e-9, -1e-9, 2.0, -3.0]), tolerance=1e-6)
    assert found.parameters == 7
    assert (found.lambda_max, found.lambda_min, found.tolerance) == (4.0, -3.0, 1e-6)
    assert found.negative == 2
    assert found.negative_mass == pytest.approx(0.4)
    assert found.condition == 4.0
    assert found.trace == pytest.approx(2.0)
    shares = np.array([0.4, 0.1, 0.2, 0.3])
    assert found.effective_rank == pytest.approx(np.exp(-np.sum(shares * np.log(shares))))
    assert found.errors == {}


@pytest.mark.parametrize(
    ("values", "rank", "condition"),
    [(np.full(7, 3.0), 7, 1), (np.r_[5.0, np.zeros(9)], 1, 1), (np.array([1.0, -1.0]), 2, 1), (np.zeros(3), 0, None)],
)
def test_effective_rank_of_plain_cases(values, rank, condition):
    found = summarize(values)
    assert found.effective_rank == pytest.approx(rank)
    assert found.condition == condition


@pytest.mark.parametrize(("dtype", "negative"), [("float64", 2), ("float32", 1)])
def test_rounding_error_is_not_negative_curvature(dtype, negative):
    values = np.array([10.0, 1.0, -1e-7, -0.1])
    found = summarize(values, dtype=dtype)
    assert found.negative == negative
    assert found.tolerance == float_tolerance(10.0, dtype)
    assert summarize(values, dtype=dtype, tolerance=0.5).negative == 0
    # A tolerance that is asked for does not undercut rounding error.
    assert summarize(values, dtype=dtype, tolerance=1e-30).negative == negative


def test_float32_matrices_are_within_the_tolerance():
    values = np.r_[np.zeros(150), np.linspace(0.01, 10, 50)]
    rounded = np.linalg.eigvalsh(matrix_of(values).astype(np.float32).astype(np.float64))
    assert np.sum(rounded < 0) > 20
    assert summarize(rounded, dtype="float32").negative == 0


@pytest.mark.parametrize("name", ["few outliers", "repeated at both ends", "evenly spread", "low rank"])
def test_estimates_agree_with_the_exact_summary(name):
    operator = operator_of(SPECTRA[name])
    exact = summarize(SPECTRA[name], tolerance=1e-4)
    spectrum = quadrature(operator, steps=100, max_probes=30, precision=1e-9)
    found = summarize_estimates(extreme(operator), extreme(operator, which="smallest"), spectrum, tolerance=1e-4)
    assert found.parameters == 200 and found.condition is None
    for field in ("lambda_max", "lambda_min", "trace", "negative", "negative_mass", "effective_rank"):
        off = abs(getattr(found, field) - getattr(exact, field))
        # Nodes near zero are where eigenvalues crowd, not where they are.
        assert off <= 4 * found.errors[field] + 0.03 * abs(getattr(exact, field)) + 1e-4, field


def test_errors_of_estimates_cover():
    values = SPECTRA["evenly spread"]
    operator = operator_of(values)
    exact = summarize(values)
    ends = extreme(operator), extreme(operator, which="smallest")
    off = []
    for seed in range(60):
        found = summarize_estimates(*ends, quadrature(operator, steps=60, max_probes=10, precision=1e-9, seed=seed))
        off.append([(getattr(found, f) - getattr(exact, f)) / found.errors[f] for f in ("trace", "negative_mass")])
    assert np.all(np.mean(np.abs(off) < 2, axis=0) > 0.8)
    assert np.all(np.abs(np.mean(np.abs(off) < 1, axis=0) - 0.66) < 0.2)


def test_one_probe_has_no_error_bar():
    ends = extreme(operator_of(np.ones(3)))
    with pytest.raises(ValueError, match="at least two probes"):
        summarize_estimates(ends, ends, Quadrature(3, (Probe(np.ones(1), np.ones(1)),)))


@pytest.mark.parametrize("values", [np.zeros(0), np.array([1.0, np.nan])])
def test_unusable_spectra(values):
    with pytest.raises(ValueError, match="empty or not finite"):
        summarize(values)


def test_change_across_an_update():
    before, after = summarize(np.array([3.0, 1.0, 0.0])), summarize(np.array([5.0, 1.0, -2.0]))
    assert change(before, after) == {
        "lambda_max": 2.0,
        "lambda_min": -2.0,
        "negative": 1,
        "negative_mass": 0.25,
        "trace": 0.0,
    }


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_above_the_limit_sgd_diverges_and_below_it_converges(momentum, nesterov):
    limit = stability_limit(0.1, momentum, nesterov=nesterov)
    for curvature, converges in ((0.97 * limit, True), (1.03 * limit, False)):
        w = keras.Variable(1.0)
        optimizer = keras.optimizers.SGD(0.1, momentum, nesterov=nesterov)
        for _ in range(150):
            optimizer.apply([curvature * tf.convert_to_tensor(w)], [w])
        assert (abs(float(w.numpy())) < 1) == converges


def test_limits_of_the_paper():
    assert stability_limit(0.01) == pytest.approx(200)
    assert stability_limit(0.01, 0.9) == pytest.approx(380)
    assert stability_limit(0.01, 0.9, nesterov=True) == pytest.approx(380 / 2.8)


@pytest.mark.parametrize(("rate", "momentum"), [(0.0, 0.9), (-1.0, 0.0), (0.1, 1.0), (0.1, -0.1)])
def test_limits_of_impossible_optimizers(rate, momentum):
    with pytest.raises(ValueError, match="positive learning rate"):
        stability_limit(rate, momentum)


def test_overlap():
    vectors = np.eye(4)[:, :2]
    assert overlap(np.array([3.0, 0.0, 4.0, 0.0]), vectors) == pytest.approx(9 / 25)
    assert overlap(np.array([1.0, 2.0, 0.0, 0.0]), vectors) == pytest.approx(1)
    assert np.isnan(overlap(np.zeros(4), vectors))
    rotated, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))
    assert overlap(rotated @ np.array([3.0, 0.0, 4.0, 0.0]), rotated[:, :2]) == pytest.approx(9 / 25)
