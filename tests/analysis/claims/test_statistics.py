"""Intervals, against scipy and hand-worked numbers."""

import itertools

import numpy as np
import pytest
from scipy import stats

from analysis.claims import statistics


@pytest.mark.parametrize("n", [2, 3, 10])
def test_t_interval_is_scipys(n):
    values = np.random.default_rng(n).normal(size=n)
    found = statistics.t_interval(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    np.testing.assert_allclose((found.low, found.high), expected)
    assert (found.mean, found.n) == (pytest.approx(values.mean()), n)


def test_t_interval_by_hand():
    # Mean 2, s = 1, error 1 / sqrt 3, quantile of t with 2 degrees of freedom 4.3027.
    found = statistics.t_interval([1.0, 2.0, 3.0, float("nan")])
    np.testing.assert_allclose(found[:3], (2, 2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), rtol=1e-6)


@pytest.mark.parametrize("values", [[], [1.0], [float("nan"), 2.0]])
def test_too_few_values_have_no_interval(values):
    found = statistics.t_interval(values)
    assert np.isnan(found.low)
    assert np.isnan(found.high)


def test_differences_are_paired_by_seed():
    first, second = {0: 10.0, 1: 20.0, 2: 31.0, 7: 99.0}, {2: 30.0, 1: 19.0, 0: 8.0}
    found = statistics.paired_difference(first, second)
    expected = stats.ttest_rel([10, 20, 31], [8, 19, 30]).confidence_interval(0.95)
    np.testing.assert_allclose((found.low, found.high), expected)
    assert found.n == 3


def test_unpaired_seeds_take_welch():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=4), 3 * rng.normal(size=6)
    found = statistics.paired_difference(dict(enumerate(a)), {10 + i: x for i, x in enumerate(b)})
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    np.testing.assert_allclose((found.low, found.high), expected)
    assert "Welch" in found.kind


def test_one_seed_has_a_difference_and_no_interval():
    found = statistics.paired_difference({0: 3.0}, {1: 1.0})
    assert found.mean == 2.0
    assert np.isnan(found.low)


def test_equal_values_have_an_interval_of_no_width():
    found = statistics.paired_difference({0: 1.0, 1: 1.0}, {0: 1.0, 1: 1.0})
    assert (found.mean, found.low, found.high) == (0, 0, 0)


def test_jackknife_of_a_sum_is_the_t_interval():
    # The measure x_i + x_j of all pairs has twice the mean of x, and the jackknife estimates its variance exactly.
    x = np.array([1.0, 4.0, 2.0, 9.0, 3.0])
    found = statistics.jackknife(x[:, None] + x[None])
    expected = statistics.t_interval(x)
    np.testing.assert_allclose(found[:3], 2 * np.array(expected[:3]))


def test_jackknife_leaves_out_every_run_in_turn():
    pairs = np.random.default_rng(1).random((4, 4))
    pairs = pairs + pairs.T
    everyone = [pairs[a, b] for a, b in itertools.combinations(range(4), 2)]
    without = [
        np.mean([pairs[a, b] for a, b in itertools.combinations(sorted({0, 1, 2, 3} - {left}), 2)]) for left in range(4)
    ]
    error = np.sqrt(3 / 4 * np.sum((without - np.mean(without)) ** 2))
    found = statistics.jackknife(pairs)
    assert found.mean == pytest.approx(np.mean(everyone))
    assert found.high - found.mean == pytest.approx(stats.t.ppf(0.975, 3) * error)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_jackknife_needs_three(n):
    assert np.isnan(statistics.jackknife(np.ones((n, n))).low)


def test_welch_of_two_jackknifes():
    first = np.array([[0, 0.004, 0.009], [0.004, 0, 0.007], [0.009, 0.007, 0]])
    second = np.array(
        [[0, 0.021, 0.034, 0.027], [0.021, 0, 0.019, 0.04], [0.034, 0.019, 0, 0.031], [0.027, 0.04, 0.031, 0]]
    )
    found = statistics.welch(statistics.pseudo_values(first), statistics.pseudo_values(second))
    sides = [statistics.jackknife(side) for side in (first, second)]
    assert found.mean == pytest.approx(sides[0].mean - sides[1].mean)
    # Welch's formula on the standard errors of the jackknife.
    errors = [(side.high - side.mean) / stats.t.ppf(0.975, side.n - 1) for side in sides]
    total = sum(error**2 for error in errors)
    freedom = total**2 / sum(error**4 / (side.n - 1) for error, side in zip(errors, sides, strict=True))
    assert found.high - found.mean == pytest.approx(stats.t.ppf(0.975, freedom) * total**0.5)


def test_intervals_keep_their_values():
    """Values of the formulas written out, before SciPy's tests replaced them."""
    x, y = [0.931, 0.947, 0.922, 0.958], [0.905, 0.912, 0.918, 0.899, 0.93]
    expected = {
        "t-interval over seeds": (0.9395, 0.9138916868874696, 0.9651083131125304),
        "paired t-interval over seeds": (0.030999999999999972, -0.0052156237132373745, 0.06721562371323732),
        "Welch's t-interval over seeds": (0.026699999999999946, 0.0024486108821908346, 0.050951389117809054),
        "jackknife over seeds": (0.006666666666666667, -0.005836552292084885, 0.01916988562541822),
    }
    pairs = np.array([[0, 0.004, 0.009], [0.004, 0, 0.007], [0.009, 0.007, 0]])
    found = [
        statistics.t_interval(x),
        statistics.paired_difference(dict(enumerate(x)), dict(enumerate(y))),
        statistics.paired_difference({10 + seed: value for seed, value in enumerate(x)}, dict(enumerate(y))),
        statistics.jackknife(pairs),
    ]
    assert [interval.n for interval in found] == [4, 4, 4, 3]
    assert [interval.kind for interval in found] == list(expected)
    for interval in found:
        assert interval[:3] == pytest.approx(expected[interval.kind], rel=1e-12)


def test_equal_values_do_not_warn(recwarn):
    statistics.t_interval([0.5, 0.5, 0.5])
    statistics.welch([0.5, 0.5], [0.25, 0.25])
    assert not recwarn.list


def cells(table) -> dict[tuple[str, int], float]:
    return {(f"prune{p}", seed): float(x) for p, row in enumerate(table) for seed, x in enumerate(row)}


def test_crossed_interval_by_hand():
    # Means of rows 1.5, 4.5 and of columns 2, 4 around 3: mean squares 9 and 4, residuals of 0.5 with mean square 1.
    found = statistics.crossed_interval(cells([[1, 2], [3, 6]]))
    reach = stats.t.ppf(0.975, 12**2 / (81 + 16 + 1)) * ((9 + 4 - 1) / 4) ** 0.5
    np.testing.assert_allclose(found[:3], (3, 3 - reach, 3 + reach))
    assert (found.n, found.kind) == (2, "t-interval over 2 pruned networks x 2 seeds")
    # Seeds and residuals alone: the networks agree, and take nothing away from what the seeds say.
    found = statistics.crossed_interval(cells([[1, 2, 6], [2, 1, 6]]))
    of_seeds = 2 * np.var([1.5, 1.5, 6], ddof=1)
    assert found.high - found.mean == pytest.approx(stats.t.ppf(0.975, 2) * (of_seeds / 6) ** 0.5)


def test_crossed_interval_counts_networks_and_seeds_where_runs_do_not():
    rng, covered, naively = np.random.default_rng(0), 0, 0
    for _ in range(600):
        table = rng.normal(size=(5, 1)) + rng.normal(size=(1, 4)) + rng.normal(size=(5, 4))
        found, naive = statistics.crossed_interval(cells(table)), statistics.t_interval(table.ravel())
        covered += found.low < 0 < found.high
        naively += naive.low < 0 < naive.high
    assert 0.93 < covered / 600 < 0.995
    assert naively / 600 < 0.75


def test_one_network_or_one_run_of_each_is_an_interval_over_seeds():
    values = [1.0, 4.0, 2.5]
    for names in (("a", "a", "a"), ("a", "b", "c")):
        found = statistics.crossed_interval(
            {(name, seed): x for seed, (name, x) in enumerate(zip(names, values, strict=True))}
        )
        assert found == statistics.t_interval(values)
    nested = {("a", 0): 1.0, ("a", 1): 2.0, ("b", 2): 4.0, ("b", 3): 5.0, ("b", 4): 6.0}
    found = statistics.crossed_interval(nested)
    assert found[:3] == statistics.t_interval([1.5, 5.0])[:3] and found.kind == "t-interval over pruned networks"


def test_crossed_differences():
    first, second = cells([[1, 2], [3, 6]]), cells([[0.5, 0.25], [1, 1]])
    found = statistics.crossed_difference(first, second)
    assert found[:3] == statistics.crossed_interval(cells([[0.5, 1.75], [2, 5]]))[:3]
    assert found.kind.startswith("paired t-interval over 2 pruned networks")
    # The dense network has no pruned network: means over networks against seeds.
    dense = {("", seed): x for seed, x in enumerate([0.1, 0.3, 0.2])}
    found = statistics.crossed_difference(first, dense)
    assert found[:3] == statistics.welch([1.5, 4.5], [0.1, 0.3, 0.2])[:3] and "networks" in found.kind
    # One network: by seed, as ever.
    one, other = cells([[1, 2, 4]]), {("", 0): 0.5, ("", 1): 1.0, ("", 2): 1.0}
    assert statistics.crossed_difference(one, other) == statistics.paired_difference(
        {0: 1, 1: 2, 2: 4}, {0: 0.5, 1: 1, 2: 1}
    )
