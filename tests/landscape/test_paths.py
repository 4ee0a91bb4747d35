"""Coefficients, lines, Bezier curves and the subspaces of sparse paths, by hand."""

import itertools

import numpy as np
import pytest

from sparse_lib import landscape

NO_MASK = (None, None)


def test_the_published_grid_has_its_ends_exactly():
    grid = landscape.coefficients()
    assert len(grid) == 29
    assert grid == [float(f"{k / 20:.2f}") for k in range(-4, 25)]
    assert 0.0 in grid and 1.0 in grid
    # The plain grid of floats misses them.
    assert 0.0 not in np.linspace(-0.2, 1.2, 29)


@pytest.mark.parametrize(
    ("arguments", "grid"),
    [
        ((0.0, 1.0, 3), [0.0, 0.5, 1.0]),
        ((0.0, 1.0, 11), [float(f"{k / 10:.1f}") for k in range(11)]),
        ((0.25, 0.75, 3), [0.0, 0.25, 0.5, 0.75, 1.0]),
        (
            (-0.5, 1.5, 4),
            [-0.5, 0.0, float.fromhex("0x1.5555555555555p-3"), float.fromhex("0x1.aaaaaaaaaaaabp-1"), 1.0, 1.5],
        ),
        ((1, 2, 2), [0.0, 1.0, 2.0]),
        ((-0.2, 1.2, 71), [float(f"{k / 50:.2f}") for k in range(-10, 61)]),
    ],
)
def test_grids(arguments, grid):
    assert landscape.coefficients(*arguments) == grid


@pytest.mark.parametrize("arguments", [(0.0, 1.0, 1), (1.0, 1.0, 5), (1.0, 0.0, 5), (0.0, float("nan"), 5)])
def test_grids_that_are_none(arguments):
    with pytest.raises(ValueError, match="at least 2 points from a start below its end"):
        landscape.coefficients(*arguments)


def test_a_line_is_the_weighted_mean():
    start, end = [np.array([1.0, 2.0]), np.array([[4.0]])], [np.array([3.0, 0.0]), np.array([[0.0]])]
    path = landscape.linear_path(start, end)
    for a, expected in (
        (0.0, (1, 2, 4)),
        (0.5, (2, 1, 2)),
        (1.0, (3, 0, 0)),
        (1.25, (3.5, -0.5, -1)),
        (-1, (-1, 4, 8)),
    ):
        assert np.concatenate([v.ravel() for v in path(a)]).tolist() == list(expected)


def test_ends_and_what_they_agree_on_come_back_bit_by_bit():
    rng = np.random.default_rng(0)
    start, end = (rng.normal(size=10_000).astype(np.float32) for _ in range(2))
    end[:5_000] = start[:5_000]
    start[0], end[0] = -0.0, -0.0
    for degree in (1, 2, 3):
        between = [[landscape.linear_path([start], [end])(k / degree)[0]] for k in range(1, degree)]
        path = landscape.Bezier(([start], *between, [end]))
        for a, whole in ((0.0, start), (1.0, end)):
            assert path(a)[0].tobytes() == whole.tobytes()
        for a in landscape.coefficients():
            (value,) = path(a)
            assert value.dtype == np.float32
            np.testing.assert_array_equal(value[:5_000], start[:5_000])


def test_an_infinite_end_leaves_the_other_one_alone():
    path = landscape.linear_path([np.array([np.inf])], [np.array([2.0])])
    assert path(1.0)[0].tolist() == [2.0] and np.isinf(path(0.5)[0]).all()


def test_bezier_curves_by_hand():
    a, b, c, d = ([np.array(p)] for p in ((0.0, 0.0), (1.0, 2.0), (3.0, 2.0), (4.0, 0.0)))
    # (1 - t)^2 A + 2 t (1 - t) B + t^2 D, and (1 - t)^3 A + 3 t (1 - t)^2 B + 3 t^2 (1 - t) C + t^3 D.
    np.testing.assert_allclose(landscape.Bezier((a, b, d))(0.25)[0], [6 / 16 * 1 + 1 / 16 * 4, 6 / 16 * 2])
    np.testing.assert_allclose(landscape.Bezier((a, b, c, d))(0.25)[0], [(27 + 27 + 4) / 64, (54 + 18) / 64])
    np.testing.assert_allclose(landscape.Bezier((a, b, c, d))(0.5)[0], [2.0, 1.5])


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_control_points_on_the_line_make_the_line(degree):
    start, end = [np.array([1.0, -2.0])], [np.array([4.0, 2.0])]
    line = landscape.linear_path(start, end)
    curve = landscape.Bezier(tuple(line(k / degree) for k in range(degree + 1)))
    for t in landscape.coefficients():
        np.testing.assert_allclose(curve(t)[0], line(t)[0], atol=1e-12)
    assert curve.length() == pytest.approx(5)
    assert curve.degree == degree


def test_the_length_of_a_parabola():
    # y = x^2 from -1 to 1 is the quadratic curve over (-1, 1), (0, -1), (1, 1); its length is sqrt(5) + asinh(2) / 2.
    points = tuple([np.array(p)] for p in ((-1.0, 1.0), (0.0, -1.0), (1.0, 1.0)))
    curve = landscape.Bezier(points)
    for t in (0.0, 0.3, 0.9):
        x, y = curve(t)[0]
        assert y == pytest.approx(x**2)
    assert curve.length() == pytest.approx(np.sqrt(5) + np.arcsinh(2) / 2, rel=1e-9)


def test_the_length_is_that_of_many_short_steps():
    rng = np.random.default_rng(1)
    points = tuple([rng.normal(size=(3, 2)), rng.normal(size=4).astype(np.float32)] for _ in range(4))
    curve = landscape.Bezier(points)
    places = [np.concatenate([v.ravel() for v in curve(t)]) for t in np.linspace(0, 1, 2001)]
    steps = sum(np.linalg.norm(b - a) for a, b in itertools.pairwise(places))
    assert curve.length() == pytest.approx(steps, rel=1e-4)


@pytest.mark.parametrize("points", [([np.zeros(2)],), ([np.zeros(2)], [np.zeros(3)]), ([np.zeros(2)], [])])
def test_points_of_one_space(points):
    with pytest.raises(ValueError, match="two or more points"):
        landscape.Bezier(points)


START, END = np.array([1.0, 2.0, 3.0, 4.0]), np.array([5.0, 6.0, 7.0, 8.0])
OF_START, OF_END = np.array([True, True, False, False]), np.array([True, False, True, False])


@pytest.mark.parametrize(
    ("mode", "start", "end", "mask"),
    [
        ("own", [1, 2, 0, 0], [5, 0, 7, 0], [True, True, True, False]),
        ("start", [1, 2, 0, 0], [5, 6, 0, 0], [True, True, False, False]),
        ("end", [1, 0, 3, 0], [5, 0, 7, 0], [True, False, True, False]),
        ("union", [1, 2, 3, 0], [5, 6, 7, 0], [True, True, True, False]),
        ("none", [1, 2, 3, 4], [5, 6, 7, 8], None),
    ],
)
def test_each_choice_of_masks_by_hand(mode, start, end, mask):
    bias = np.array([9.0])
    found = landscape.masked_ends([START, bias], [END, bias], [OF_START, None], [OF_END, None], mode)
    assert found.start[0].tolist() == start and found.end[0].tolist() == end
    assert found.start[1] is bias and found.end[1] is bias and found.masks[1] is None
    assert (found.masks[0] is None) if mask is None else (found.masks[0].tolist() == mask)


def test_a_dense_side_makes_the_union_dense():
    found = landscape.masked_ends([START], [END], [OF_START], NO_MASK[:1], "union")
    assert found.masks == [None] and found.start[0].tolist() == START.tolist()


def test_masks_that_are_not_known():
    with pytest.raises(ValueError, match="'both' are not known; use one of own, start, end, union, none"):
        landscape.masked_ends([START], [END], [OF_START], [OF_END], "both")
