"""Barriers of paths against hand-worked tables and landscapes whose barrier is known."""

import numpy as np
import pytest

from sparse_lib import landscape

GRID = landscape.coefficients()


def along(height, start, end):
    """Values of an analytic landscape on the straight line between two points of the plane."""
    path = landscape.linear_path([np.array(start, np.float64)], [np.array(end, np.float64)])
    return [height(path(a)[0]) for a in GRID]


def test_a_table_by_hand():
    # Ends 1 and 3, mean 2, line 1 + 2a; the point at 1.5 lies beyond the path and is higher than all.
    found = landscape.barrier([1.0, 0.0, 0.25, 0.5, 0.75, 1.5], [3.0, 1.0, 0.5, 4.0, 3.5, 9.0])
    assert found.above_line == (2.0, 0.5)
    assert found.above_mean == (2.0, 0.5)
    assert found.above_higher_end == (1.0, 0.5)
    assert found.largest_rise == (3.5, 0.25, 0.5)


def test_a_path_that_falls_has_no_barrier():
    found = landscape.barrier([0.0, 0.5, 1.0], [5.0, 2.0, 1.0])
    assert found.above_line.height == found.above_higher_end.height == found.largest_rise.height == 0
    # Frankle's barrier is measured from the mean: with ends of different height it is half their difference.
    assert found.above_mean == (2.0, 0.0)


def test_no_barrier_in_a_bowl():
    found = landscape.barrier(GRID, along(lambda w: 0.5 * w @ w, (1.0, 2.0), (-3.0, 1.0)))
    assert found.above_line == (0.0, 0.0) and found.above_higher_end.height == 0
    # It falls to its lowest point and rises to the higher end: (1 - a)(1, 2) + a(-3, 1) is lowest at a = 6 / 17.
    values = along(lambda w: 0.5 * w @ w, (1.0, 2.0), (-3.0, 1.0))
    lowest = GRID[int(np.argmin(values))]
    assert abs(lowest - 6 / 17) < 0.05
    assert found.largest_rise == (5.0 - min(values), lowest, 1.0)


@pytest.mark.parametrize(("start", "end"), [((1.0, 2.0), (-3.0, 1.0)), ((0.0, 0.0), (0.5, 0.0))])
def test_the_barrier_of_a_dome(start, end):
    # L = -|w|^2 / 2 lies a (1 - a) |end - start|^2 / 2 above the line between its ends: an eighth of it in the middle.
    found = landscape.barrier(GRID, along(lambda w: -0.5 * w @ w, start, end))
    squared = sum((a - b) ** 2 for a, b in zip(start, end, strict=True))
    assert found.above_line == (pytest.approx(squared / 8), 0.5)


def test_the_barrier_between_two_wells():
    # (x^2 - 1)^2 is 0 in its wells at -1 and 1, and 1 between them.
    found = landscape.barrier(GRID, along(lambda w: (w[0] ** 2 - 1) ** 2, (-1.0, 0.0), (1.0, 0.0)))
    for peak in (found.above_line, found.above_mean, found.above_higher_end):
        assert peak == (pytest.approx(1), 0.5)
    assert found.largest_rise == (pytest.approx(1), 0.0, 0.5)


def test_turning_a_path_around_mirrors_its_peaks():
    values = np.random.default_rng(0).normal(size=len(GRID))
    inside = [a for a in GRID if 0 <= a <= 1]
    shown = dict(zip(GRID, values, strict=True))
    one = landscape.barrier(GRID, values)
    turned = landscape.barrier([1 - a for a in inside], [shown[a] for a in inside])
    for name in ("above_line", "above_mean", "above_higher_end"):
        peak, mirrored = getattr(one, name), getattr(turned, name)
        assert mirrored.height == pytest.approx(peak.height)
        assert mirrored.coefficient == pytest.approx(1 - peak.coefficient)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_number_that_is_none_makes_no_barrier(bad):
    found = landscape.barrier([0.0, 0.5, 1.0], [1.0, bad, 1.0])
    assert np.isnan([*found.above_line, *found.above_mean, *found.above_higher_end, *found.largest_rise]).all()
    assert landscape.barrier([-0.2, 0.0, 1.0], [bad, 1.0, 1.0]).above_line.height == 0


@pytest.mark.parametrize(
    ("coefficients", "values", "message"),
    [
        ([0.0, 0.5], [1.0, 2.0], "have 0 and 1 among"),
        ([0.1, 1.0], [1.0, 2.0], "have 0 and 1 among"),
        ([0.0, 1.0], [1.0], "Give one value per coefficient"),
    ],
)
def test_what_has_no_barrier(coefficients, values, message):
    with pytest.raises(ValueError, match=message):
        landscape.barrier(coefficients, values)
