"""Planes: coordinates by hand, solutions that lie where they should."""

import numpy as np
import pytest

from sparse_lib.landscape import Plane, plane_through


def split(*entries):
    """Four numbers as the weights of two variables."""
    return [np.array(entries[:1], np.float32), np.array([entries[1:]], np.float32)]


def joined(values):
    return np.concatenate([np.ravel(v) for v in values])


def test_plane_through_three_points_by_hand():
    found = plane_through(split(1, 0, 0, 0), split(4, 0, 0, 0), split(2, 3, 0, 4))
    np.testing.assert_allclose(joined(found.plane.x), [1, 0, 0, 0])
    np.testing.assert_allclose(joined(found.plane.y), [0, 0.6, 0, 0.8])
    np.testing.assert_allclose(found.coordinates, [[0, 0], [3, 0], [1, 5]])
    np.testing.assert_allclose(joined(found.plane(1.5, 2.5)), [2.5, 1.5, 0, 2])


def test_solutions_lie_at_their_coordinates_bit_by_bit():
    rng = np.random.default_rng(0)
    solutions = [[rng.normal(size=s).astype(np.float32) for s in ((30, 20), (20,))] for _ in range(3)]
    masks = [rng.random((30, 20)) < 0.1 for _ in range(3)]
    for solution, mask in zip(solutions, masks, strict=True):
        solution[0] *= mask
    plane, coordinates = plane_through(*solutions)
    for solution, (a, b) in zip(solutions, coordinates, strict=True):
        for value, expected in zip(plane(a, b), solution, strict=True):
            assert value.dtype == np.float32
            np.testing.assert_allclose(value, expected, rtol=1e-7, atol=1e-14)
        assert plane.coordinates(solution) == pytest.approx((a, b), abs=1e-9)


def test_directions_are_orthonormal():
    rng = np.random.default_rng(1)
    plane, _ = plane_through(*([rng.normal(size=(50,))] for _ in range(3)))
    gram = np.array([[np.vdot(a[0], b[0]) for a in (plane.x, plane.y)] for b in (plane.x, plane.y)])
    np.testing.assert_allclose(gram, np.eye(2), atol=1e-12)


def test_projection_in_oblique_coordinates():
    plane = Plane(split(1, 1, 0, 0), split(1, 0, 0, 0), split(1, 1, 0, 0))
    # 3 x + 2 y, and something orthogonal to both.
    assert plane.coordinates(split(1 + 3 + 2, 1 + 2, 9, -7)) == pytest.approx((3, 2))


def test_origin_comes_back_bit_by_bit():
    rng = np.random.default_rng(2)
    origin, x, y = ([rng.normal(size=(40,)).astype(np.float32)] for _ in range(3))
    (value,) = Plane(origin, x, y)(0.0, 0.0)
    np.testing.assert_array_equal(value, origin[0])
    assert value is not origin[0]


@pytest.mark.parametrize("third", [split(3, 0, 0, 0), split(1, 0, 0, 0), split(5, 0, 0, 0)])
def test_solutions_on_a_line_are_refused(third):
    with pytest.raises(ValueError, match="lie on a line"):
        plane_through(split(1, 0, 0, 0), split(3, 0, 0, 0), third)


def test_equal_solutions_are_refused():
    one = split(1, 0, 0, 0)
    with pytest.raises(ValueError, match="lie on a line"):
        plane_through(one, one, split(0, 1, 0, 0))
    with pytest.raises(ValueError, match="lie on a line"):
        plane_through(one, one, one)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="same shapes"):
        Plane([np.zeros(2)], [np.zeros(3)], [np.zeros(2)])
