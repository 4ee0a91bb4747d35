"""Scores of absent links against an enumeration of all paths of three links."""

import numpy as np
import pytest
import tensorflow as tf

from sparse_lib.updaters import link_prediction
from sparse_lib.updaters.link_prediction import score_node_based, score_path_based


def enumerate_paths(adjacency: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """CH3-L3 and CH2-L3n of absent links by their definitions, with nodes as (side, index)."""
    neighbours = {(side, i): set() for side, n in enumerate(adjacency.shape) for i in range(n)}
    for u, v in np.argwhere(adjacency):
        neighbours[0, u].add((1, v))
        neighbours[1, v].add((0, u))
    path, node = np.zeros(adjacency.shape), np.zeros(adjacency.shape)
    for u, v in np.argwhere(~adjacency):
        ends = {(0, u), (1, v)}
        paths = [(y, z) for y in neighbours[0, u] for z in neighbours[1, v] if z in neighbours[y]]
        community = {one for pair in paths for one in pair}
        external = {one: len(neighbours[one] - community - ends) for one in community}
        path[u, v] = sum(((1 + external[y]) * (1 + external[z])) ** -0.5 for y, z in paths)
        node[u, v] = sum((1 + len(neighbours[one] & community)) / (1 + external[one]) for one in community)
    return path, node


@pytest.mark.parametrize(("shape", "density"), [((6, 4), 0.4), ((5, 9), 0.2), ((7, 7), 0.7), ((3, 4), 0.0)])
def test_scores_are_those_of_enumerated_paths(monkeypatch, shape, density):
    # Several parts, the last one padded.
    monkeypatch.setattr(link_prediction, "LINKS_AT_ONCE", 5)
    links = np.random.default_rng(0).random(shape) < density
    for score, expected in zip((score_path_based, score_node_based), enumerate_paths(links), strict=True):
        got = np.where(links, 0, score(tf.constant(links)))
        np.testing.assert_allclose(got, expected, rtol=1e-12)
        assert np.any(expected) == (density > 0)


def test_scores_worked_by_hand():
    # Inputs a, b, c and outputs 0, 1, 2; b - 1 closes the path b - 0 - a - 1. Output 0 also has c, and a also has 2.
    links = tf.constant([[True, True, True], [True, False, False], [True, False, False]])
    # Between b and 1, output 0 has one link inside, to a, and one outside, to c; input a one to 0 and one to 2.
    assert float(score_path_based(links)[1, 1]) == pytest.approx(1 / np.sqrt(2 * 2))
    assert float(score_node_based(links)[1, 1]) == pytest.approx((1 + 1) / (1 + 1) + (1 + 1) / (1 + 1))


@pytest.mark.slow
def test_scores_are_the_same_under_xla():
    links = tf.constant(np.random.default_rng(1).random((6, 5)) < 0.5)
    for score in (score_path_based, score_node_based):
        np.testing.assert_allclose(tf.function(score, jit_compile=True)(links), score(links), rtol=1e-12)
