"""Multidimensional scaling, against known distances and scikit-learn."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform
from sklearn import manifold

from analysis.similarity import embedding


def distances(points: np.ndarray) -> np.ndarray:
    return squareform(pdist(points))


def test_points_of_a_plane_are_found_again():
    points = np.random.default_rng(0).normal(size=(9, 2)) * 20
    found = embedding.mds(distances(points))
    np.testing.assert_allclose(distances(found.points), distances(points), atol=1e-3)
    assert found.stress < 1e-4


def test_stress_is_no_larger_than_scikit_learns():
    delta = distances(np.random.default_rng(1).normal(size=(12, 30)))
    found = embedding.mds(delta)
    theirs, raw = manifold.smacof(delta, n_init=8, random_state=0, normalized_stress=False, max_iter=1000, eps=1e-9)
    d = distances(theirs)
    # Scikit-learn's raw stress is half the sum over the matrix.
    assert np.sum((d - delta) ** 2) / 2 == pytest.approx(raw)
    ours = np.sum((distances(found.points) - delta) ** 2) / 2
    assert ours <= raw * 1.0001
    assert found.stress == pytest.approx(np.sqrt(2 * ours / np.sum(distances(found.points) ** 2)))
    assert 0.1 < found.stress < 0.5


def test_an_equilateral_simplex_has_known_stress():
    # Four points at equal distances: the best plane figure has the stress of a square, scaled.
    delta = np.ones((4, 4)) - np.eye(4)
    sides = np.array([1, 1, 1, 1, 2**0.5, 2**0.5])
    scale = sides.sum() / np.sum(sides**2)
    square = np.sqrt(np.sum((scale * sides - 1) ** 2) / np.sum((scale * sides) ** 2))
    assert embedding.mds(delta).stress <= square + 1e-6


def test_the_same_distances_give_the_same_picture():
    points = np.random.default_rng(2).normal(size=(6, 3))
    turned = points[:, ::-1] * [1, -1, 1] + 5
    first, second = (embedding.mds(distances(p)) for p in (points, turned))
    np.testing.assert_allclose(first.points, second.points, atol=1e-6)
    spread = first.points.std(0)
    assert spread[0] > spread[1]
    np.testing.assert_allclose(first.points.mean(0), 0, atol=1e-9)


@pytest.mark.parametrize("delta", [np.zeros((1, 1)), np.zeros((3, 3))])
def test_equal_solutions_are_one_point(delta):
    found = embedding.mds(delta)
    assert not found.points.any()
    assert found.stress == 0


def test_two_points():
    found = embedding.mds(np.array([[0.0, 5.0], [5.0, 0.0]]))
    np.testing.assert_allclose(distances(found.points)[0, 1], 5.0, rtol=1e-6)


@pytest.mark.parametrize(
    "delta",
    [np.zeros((2, 3)), np.array([[0, 1], [2, 0]]), np.array([[0, -1], [-1, 0]]), np.array([[0, np.nan], [np.nan, 0]])],
)
def test_what_is_no_distance_is_refused(delta):
    with pytest.raises(ValueError, match="Distances"):
        embedding.mds(delta)
