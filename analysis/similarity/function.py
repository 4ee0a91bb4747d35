"""Similarity in function, from logits on the same examples."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import special

from sparse_lib._utils.errors import InputError

# Columns of `pairwise` with measures, in order.
PAIR_MEASURES = ("disagreement", "kl", "js", "error_jaccard", "pair_ensemble_gain")


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy (fraction).

    Args:
      logits: [n, classes].
      labels: integers [n].

    Returns:
      Fraction of correct predictions.
    """
    _check([logits], labels)
    return float(np.mean(np.argmax(logits, -1) == labels))


def disagreement(one: np.ndarray, other: np.ndarray) -> float:
    """Fraction of examples that two networks classify differently (Fort et al. 2019, section 3.1).

    Args:
      one: logits [n, classes].
      other: logits [n, classes].

    Returns:
      A fraction.
    """
    _check([one, other])
    return float(np.mean(np.argmax(one, -1) != np.argmax(other, -1)))


def kl(one: np.ndarray, other: np.ndarray) -> float:
    """Mean Kullback-Leibler divergence of the predicted distributions.

    KL(p || q) = sum_c p_c (log p_c - log q_c)

    Args:
      one: logits [n, classes] of p.
      other: logits [n, classes] of q.

    Returns:
      Mean over the examples (nats).
    """
    _check([one, other])
    return float(np.mean(_kl(_log_probabilities(one), _log_probabilities(other))))


def jensen_shannon(one: np.ndarray, other: np.ndarray) -> float:
    """Mean Jensen-Shannon divergence of the predicted distributions.

    JS(p, q) = KL(p || m) / 2 + KL(q || m) / 2 with m = (p + q) / 2

    Args:
      one: logits [n, classes] of p.
      other: logits [n, classes] of q.

    Returns:
      Mean over the examples (nats), from 0 to log 2.
    """
    _check([one, other])
    p, q = _log_probabilities(one), _log_probabilities(other)
    middle = np.logaddexp(p, q) - np.log(2.0)
    return float(np.mean(_kl(p, middle) + _kl(q, middle)) / 2)


def error_jaccard(one: np.ndarray, other: np.ndarray, labels: np.ndarray) -> float:
    """Jaccard index of the sets of misclassified examples, |A and B| / |A or B|.

    Args:
      one: logits [n, classes].
      other: logits [n, classes].
      labels: integers [n].

    Returns:
      A fraction; NaN if neither network makes an error.
    """
    _check([one, other], labels)
    a, b = (np.argmax(logits, -1) != labels for logits in (one, other))
    either = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / either) if either else float("nan")


def ensemble_accuracy(members: Sequence[np.ndarray], labels: np.ndarray) -> float:
    """Accuracy of an ensemble that averages predicted probabilities (fraction).

    Args:
      members: logits [n, classes] of each network.
      labels: integers [n].

    Returns:
      Fraction of correct predictions.
    """
    _check(members, labels)
    probabilities = np.mean([special.softmax(np.asarray(m, np.float64), -1) for m in members], axis=0)
    return float(np.mean(np.argmax(probabilities, -1) == labels))


def ensemble_gain(members: Sequence[np.ndarray], labels: np.ndarray) -> float:
    """Accuracy of an ensemble minus the mean accuracy of its members (fraction)."""
    return ensemble_accuracy(members, labels) - float(np.mean([accuracy(m, labels) for m in members]))


def pairwise(logits: Mapping[str, np.ndarray], labels: np.ndarray) -> pd.DataFrame:
    """Computes all measures for all pairs of networks.

    Args:
      logits: [n, classes] by name.
      labels: integers [n].

    Returns:
      One row per pair: `first`, `second`, disagreement (fraction), `kl` (nats, mean of both directions), `js` (nats),
      `error_jaccard` (fraction) and `pair_ensemble_gain`, the gain of an ensemble of the two (fraction).

    Raises:
      InputError: if the networks were evaluated on different examples.
    """
    rows = []
    for (first, a), (second, b) in itertools.combinations(logits.items(), 2):
        both_ways = (kl(a, b) + kl(b, a)) / 2
        values = (disagreement(a, b), both_ways, jensen_shannon(a, b), error_jaccard(a, b, labels))
        rows.append((first, second, *values, ensemble_gain([a, b], labels)))
    return pd.DataFrame(rows, columns=["first", "second", *PAIR_MEASURES])


def matrix(
    pairs: pd.DataFrame, measure: str, names: Sequence[str] | None = None, *, diagonal: float = 0.0
) -> np.ndarray:
    """Arranges one measure of all pairs in a symmetric matrix.

    Args:
      pairs: from `pairwise`, or any frame with columns first, second and the measure.
      measure: column name.
      names: order of rows and columns; None takes the order of the pairs.
      diagonal: value for a network with itself.

    Returns:
      [names, names], NaN for missing pairs.
    """
    if names is None:
        names = list(dict.fromkeys([*pairs["first"], *pairs["second"]]))
    places = {name: place for place, name in enumerate(names)}
    values = np.full((len(names), len(names)), np.nan)
    np.fill_diagonal(values, diagonal)
    for first, second, value in zip(pairs["first"], pairs["second"], pairs[measure], strict=True):
        if first in places and second in places:
            values[places[first], places[second]] = values[places[second], places[first]] = value
    return values


def _log_probabilities(logits: np.ndarray) -> np.ndarray:
    return special.log_softmax(np.asarray(logits, np.float64), axis=-1)


def _kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Divergences [n] of log-probabilities [n, classes]."""
    return np.sum(np.exp(p) * (p - q), axis=-1)


def _check(logits: Sequence[np.ndarray], labels: np.ndarray | None = None) -> None:
    shapes = {np.shape(array) for array in logits}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise InputError(
            f"Compare networks on the same examples and classes; got logits of shapes {sorted(map(str, shapes))}."
        )
    (n, _) = next(iter(shapes))
    if labels is not None and np.shape(labels) != (n,):
        raise InputError(f"Give one label for each of the {n} examples; got shape {np.shape(labels)}.")
