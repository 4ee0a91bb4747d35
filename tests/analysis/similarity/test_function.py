"""Similarity of predictions, against hand-worked tables."""

import math

import numpy as np
import pytest

from analysis.similarity import function

LABELS = np.array([0, 1, 2, 0])
# Answers 0 1 2 1 and 0 1 0 0 and 0 2 2 1.
A = np.log(np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.3, 0.6, 0.1]]))
B = np.log(np.array([[0.6, 0.2, 0.2], [0.2, 0.6, 0.2], [0.5, 0.1, 0.4], [0.6, 0.3, 0.1]]))
C = np.log(np.array([[0.9, 0.05, 0.05], [0.1, 0.3, 0.6], [0.1, 0.1, 0.8], [0.1, 0.8, 0.1]]))


def test_accuracy_and_disagreement_by_hand():
    assert [function.accuracy(x, LABELS) for x in (A, B, C)] == [0.75, 0.75, 0.5]
    assert function.disagreement(A, B) == 0.5
    assert function.disagreement(A, C) == 0.25
    assert function.disagreement(B, C) == 0.75
    assert function.disagreement(A, A) == 0.0


def test_error_overlap_by_hand():
    # A errs on example 3, B on 2, C on 1 and 3.
    assert function.error_jaccard(A, B, LABELS) == 0.0
    assert function.error_jaccard(A, C, LABELS) == 0.5
    assert math.isnan(function.error_jaccard(A, A, np.argmax(A, -1)))


def test_divergences_by_hand():
    p, q = np.log([[0.75, 0.25]]), np.log([[0.25, 0.75]])
    assert function.kl(p, q) == pytest.approx(0.5 * math.log(3))
    # m = (1/2, 1/2): 0.75 log 1.5 + 0.25 log 0.5 on both sides.
    assert function.jensen_shannon(p, q) == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))


def test_divergences_know_neither_shift_nor_overflow():
    assert function.kl(A + 7.0, A) == pytest.approx(0.0, abs=1e-12)
    far = np.array([[1e4, 0.0]]), np.array([[0.0, 1e4]])
    assert function.kl(*far) == pytest.approx(1e4)
    assert function.jensen_shannon(*far) == pytest.approx(math.log(2))


def test_divergence_is_scipys():
    from scipy import stats
    from scipy.spatial import distance

    p, q = np.exp(A), np.exp(B)
    assert function.kl(A, B) == pytest.approx(np.mean([stats.entropy(a, b) for a, b in zip(p, q, strict=True)]))
    by_scipy = np.mean([distance.jensenshannon(a, b) ** 2 for a, b in zip(p, q, strict=True)])
    assert function.jensen_shannon(A, B) == pytest.approx(by_scipy)


def test_ensemble_by_hand():
    # Means of A and B: example 2 (0.3, 0.1, 0.6) and example 3 (0.45, 0.45, 0.1); the first of equals is taken.
    nudged = B.copy()
    nudged[3] = np.log([0.62, 0.28, 0.1])
    assert function.ensemble_accuracy([A, nudged], LABELS) == 1.0
    assert function.ensemble_gain([A, nudged], LABELS) == 0.25
    assert function.ensemble_gain([A, A], LABELS) == 0.0


def test_pairs_and_their_matrix():
    pairs = function.pairwise({"a": A, "b": B, "c": C}, LABELS)
    assert list(zip(pairs["first"], pairs["second"], strict=True)) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert list(pairs["disagreement"]) == [0.5, 0.25, 0.75]
    both_ways = (function.kl(A, B) + function.kl(B, A)) / 2
    assert pairs.loc[0, "kl"] == pytest.approx(both_ways)
    matrix = function.matrix(pairs, "disagreement", ["c", "a", "b"])
    np.testing.assert_array_equal(matrix, [[0, 0.25, 0.75], [0.25, 0, 0.5], [0.75, 0.5, 0]])


def test_other_examples_are_refused():
    with pytest.raises(ValueError, match="same examples and classes"):
        function.disagreement(A, A[:2])
    with pytest.raises(ValueError, match="one label for each of the 4 examples"):
        function.pairwise({"a": A, "b": B}, LABELS[:3])
