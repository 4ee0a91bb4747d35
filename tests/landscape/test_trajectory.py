"""Trajectories: principal directions against scikit-learn, and a way that lies in a known plane."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from sparse_lib.landscape import principal_plane


def walk(steps=9, seed=0):
    """Weights of two variables along a random walk that slows down."""
    rng = np.random.default_rng(seed)
    shapes = ((6, 5), (5,))
    moves = [[rng.normal(size=s) * 0.8**t * (1 + np.arange(5)) for s in shapes] for t in range(steps)]
    return [[sum(m[i] for m in moves[: t + 1]).astype(np.float32) for i in range(2)] for t in range(steps)]


def flat(values):
    return np.concatenate([np.ravel(v) for v in values]).astype(np.float64)


def test_directions_are_those_of_scikit_learn():
    points = walk()
    offsets = np.stack([flat(p) - flat(points[-1]) for p in points])
    pca = PCA().fit(offsets[:-1])
    found = principal_plane(points)
    for direction, component in zip((found.plane.x, found.plane.y), pca.components_[:2], strict=True):
        sign = np.sign(flat(direction) @ component)
        np.testing.assert_allclose(flat(direction), sign * component, atol=1e-10)
    np.testing.assert_allclose(found.explained, pca.explained_variance_ratio_, atol=1e-12)
    projected = offsets @ np.stack([flat(found.plane.x), flat(found.plane.y)], 1)
    np.testing.assert_allclose(found.coordinates, projected, atol=1e-10)


def test_the_end_is_the_origin_and_the_start_is_on_the_positive_side():
    points = walk()
    found = principal_plane(points)
    np.testing.assert_array_equal(found.coordinates[-1], [0, 0])
    assert (found.coordinates[0] >= 0).all()
    for point, (a, b) in zip(points, found.coordinates, strict=True):
        assert found.plane.coordinates(point) == pytest.approx((a, b), abs=1e-9)
    for value, last in zip(found.plane(0, 0), points[-1], strict=True):
        np.testing.assert_array_equal(value, last)


def test_a_way_in_a_plane_is_explained_and_reached_exactly():
    rng = np.random.default_rng(3)
    q, _ = np.linalg.qr(rng.normal(size=(12, 2)))
    ways = rng.normal(size=(6, 2)) * [3, 1]
    points = [[(5 + q @ way).reshape(4, 3)] for way in ways]
    found = principal_plane(points)
    assert found.explained[:2].sum() == pytest.approx(1)
    for point, (a, b) in zip(points, found.coordinates, strict=True):
        np.testing.assert_allclose(found.plane(a, b)[0], point[0], atol=1e-12)


def test_masked_directions_see_active_weights_alone():
    points = walk()
    mask = np.random.default_rng(1).random((6, 5)) < 0.4
    found = principal_plane(points, [mask, None])
    assert not found.plane.x[0][~mask].any() and not found.plane.y[0][~mask].any()
    alone = principal_plane([[kernel[mask], bias] for kernel, bias in points])
    np.testing.assert_allclose(found.coordinates, alone.coordinates, atol=1e-12)
    np.testing.assert_allclose(found.explained, alone.explained)
    np.testing.assert_allclose(found.plane.x[0][mask], alone.plane.x[0], atol=1e-12)
    np.testing.assert_array_equal(found.plane(1.0, 2.0)[0][~mask], points[-1][0][~mask])


@pytest.mark.parametrize("points", [walk()[:3], [walk()[0]] * 5, [[np.full(4, float(t))] for t in range(6)]])
def test_points_on_a_line_are_refused(points):
    with pytest.raises(ValueError, match="lie on a line"):
        principal_plane(points)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="of one network"):
        principal_plane([[np.zeros(2)], [np.ones(3)], [np.ones(2)]])
