"""Contrasts on frames whose truth is known."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.claims import effects
from analysis.claims.effects import NOT_ENOUGH, NOT_SUPPORTED, SUPPORTED, UNDECIDED
from analysis.claims.quantities import Evidence
from analysis.claims.statistics import Interval
from analysis.records import methods
from analysis.records.runs import Runs

NOTHING = pd.DataFrame()
RUNS = Runs(NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING)
EVIDENCE = Evidence(
    runs=RUNS, pairs=NOTHING, to_parents=NOTHING, distances=NOTHING, barriers=NOTHING, curvature_changes=NOTHING
)


def quantity(**values: list[float]):
    """Returns a quantity with these values of each method, one per seed; a double underscore stands for a dot."""
    rows = [
        (f"{method}{seed}", method.replace("__", "."), methods.label(method.replace("__", ".")), seed, value)
        for method, of_seeds in values.items()
        for seed, value in enumerate(of_seeds)
    ]
    frame = pd.DataFrame(rows, columns=["run", "method", "label", "seed", "value"])
    return lambda _: frame


def measured(mean: float, low: float, high: float) -> effects.Measured:
    return effects.Measured(Interval(mean, low, high, 3, ""), "nats", "")


@pytest.mark.parametrize(
    ("interval", "border", "status"),
    [
        ((2, 1, 3), (0, math.inf), SUPPORTED),
        ((-2, -3, -1), (0, math.inf), NOT_SUPPORTED),
        ((1, -1, 3), (0, math.inf), UNDECIDED),
        ((0, 0, 0), (0, math.inf), NOT_SUPPORTED),
        ((0, -0.5, 0.5), (-1, 1), SUPPORTED),
        ((0, -0.5, 1.5), (-1, 1), UNDECIDED),
        ((3, 2, 4), (-1, 1), NOT_SUPPORTED),
        ((1, math.nan, math.nan), (0, math.inf), NOT_ENOUGH),
    ],
)
def test_decisions(interval, border, status):
    assert effects.decide(measured(*interval), *border) == status


def test_differences_are_paired():
    found = effects.Contrast(quantity(rigl=[1.0, 2.0, 3.5], set=[0.5, 1.0, 3.0]), [("rigl", "set")], "nats")(EVIDENCE)
    expected = stats.ttest_rel([1, 2, 3.5], [0.5, 1, 3]).confidence_interval(0.95)
    np.testing.assert_allclose(found.interval[1:3], (expected.low, expected.high))
    assert found.sides == "RigL 2.17 nats, SET 1.5 nats"


def test_ratios_are_means_of_logarithms():
    found = effects.Contrast(quantity(rigl=[2.0, 8.0, 32.0], set=[1.0, 1.0, 4.0]), [("rigl", "set")], "times")(EVIDENCE)
    expected = stats.ttest_1samp(np.log([2, 8, 8]), 0).confidence_interval(0.95)
    assert found.interval.mean == pytest.approx(np.exp(np.log([2, 8, 8]).mean()))
    np.testing.assert_allclose(found.interval[1:3], np.exp([expected.low, expected.high]))


def test_a_ratio_to_nothing_is_large_and_finite():
    found = effects.Contrast(quantity(rigl=[1.0, 1.1], set=[0.0, 0.0]), [("rigl", "set")], "times")(EVIDENCE)
    assert 1e10 < found.interval.low <= found.interval.high < math.inf


def test_the_preferred_methods_are_taken_unless_others_have_more_seeds():
    pairs = [("rigl.plus", "set.plus"), ("rigl", "set")]
    both = quantity(rigl__plus=[1.0, 1.0], set__plus=[0.0, 0.5], rigl=[5.0, 5.0], set=[1.0, 2.0])
    assert effects.Contrast(both, pairs, "nats")(EVIDENCE).sides.startswith("RigL+")
    single = quantity(rigl__plus=[1.0], set__plus=[0.0], rigl=[5.0, 5.0], set=[1.0, 2.0])
    assert effects.Contrast(single, pairs, "nats")(EVIDENCE).sides.startswith("RigL 5")


def test_variants_do_not_count():
    frame = quantity(rigl=[1.0, 1.0], set=[0.0, 0.1])(EVIDENCE)
    frame.loc[frame["method"] == "rigl", "label"] = "RigL, update_freq=500"
    found = effects.Contrast(lambda _: frame, [("rigl", "set")], "nats")(EVIDENCE)
    assert found.missing == "runs of RigL and SET with this measurement"


@pytest.mark.parametrize(
    ("values", "missing"),
    [
        ({}, "runs of RigL and SET with this measurement"),
        ({"rigl": [1.0, 2.0]}, "runs of RigL and SET with this measurement"),
        ({"rigl": [1.0], "set": [0.0]}, "a second seed"),
        ({"rigl": [1.0, math.nan], "set": [0.0, 1.0]}, "a second seed"),
    ],
)
def test_what_is_missing(values, missing):
    found = effects.Contrast(quantity(**values), [("rigl", "set")], "nats")(EVIDENCE)
    assert found.missing == missing
    assert effects.decide(found, 0, math.inf) == NOT_ENOUGH


def test_single_quantity():
    found = effects.Single(quantity(rigl=[1.0, 2.0, 3.0]), ["rigl.plus", "rigl"], "nats")(EVIDENCE)
    expected = stats.ttest_1samp([1, 2, 3], 0).confidence_interval(0.95)
    np.testing.assert_allclose(found.interval[1:3], (expected.low, expected.high))


def pairs(method: str, values: np.ndarray, *, same: bool) -> pd.DataFrame:
    rows = [
        (methods.label(method), method, same, f"{method}{a}", f"{method}{b}", values[a, b])
        for a in range(len(values))
        for b in range(a + 1, len(values))
    ]
    return pd.DataFrame(rows, columns=["label", "method", "same_masks", "first", "second", "disagreement"])


def with_pairs(frame: pd.DataFrame) -> Evidence:
    return Evidence(
        runs=RUNS, pairs=frame, to_parents=NOTHING, distances=NOTHING, barriers=NOTHING, curvature_changes=NOTHING
    )


def around(mean: float, n: int = 5) -> np.ndarray:
    values = np.random.default_rng(n).normal(mean, 0.001, (n, n))
    return (values + values.T) / 2


TICKETS = effects.PairContrast("disagreement", "lottery", "prune", "points")


def test_pairs_of_two_methods():
    frame = pd.concat([pairs("lottery", around(0.01), same=True), pairs("prune", around(0.05), same=False)])
    found = TICKETS(with_pairs(frame))
    assert found.interval.mean == pytest.approx(-0.04, abs=0.002)
    assert effects.decide(found, -math.inf, 0.0) == SUPPORTED
    assert found.interval.n == 5


def test_tickets_of_different_masks_say_nothing_about_tickets_of_one():
    frame = pd.concat([pairs("lottery", around(0.01), same=False), pairs("prune", around(0.05), same=False)])
    assert "from one pruned network" in TICKETS(with_pairs(frame)).missing


def test_two_runs_are_too_few_for_the_jackknife():
    frame = pd.concat([pairs("lottery", around(0.01, 2), same=True), pairs("prune", around(0.05), same=False)])
    found = TICKETS(with_pairs(frame))
    assert found.missing == "a third run of each"
    assert effects.decide(found, -math.inf, 0.0) == NOT_ENOUGH


def test_families_of_different_parents_are_not_mixed():
    other = pairs("lottery", around(0.5, 3), same=True)
    other[["first", "second"]] = "b" + other[["first", "second"]]
    frame = pd.concat([pairs("lottery", around(0.01), same=True), other, pairs("prune", around(0.05), same=False)])
    assert TICKETS(with_pairs(frame)).interval.mean == pytest.approx(-0.04, abs=0.002)


def test_rank_correlation():
    names = ["scratch", "scratch__plus", "set", "rigl", "rigl__plus"]
    noise = np.random.default_rng(0).normal(0, 0.01, (5, 3))
    flow = {name: list(place + noise[place]) for place, name in enumerate(names)}
    accuracy = {name: list(10 * place + noise[place]) for place, name in enumerate(names)}
    found = effects.RankCorrelation(quantity(**flow), quantity(**accuracy))(EVIDENCE)
    assert found.interval[:3] == pytest.approx((1.0, 1.0, 1.0))
    against = effects.RankCorrelation(
        quantity(**flow), quantity(**dict(zip(names, reversed(accuracy.values()), strict=True)))
    )
    assert against(EVIDENCE).interval.mean == pytest.approx(-1.0)
    tied = dict(zip(names, [1.0, 7.0, 2.0, 3.0, 1.0], strict=True))
    with_ties = effects.RankCorrelation(quantity(**flow), quantity(**{name: [tied[name]] * 3 for name in names}))
    expected = stats.spearmanr([np.mean(flow[name]) for name in names], list(tied.values())).statistic
    assert with_ties(EVIDENCE).interval.mean == pytest.approx(expected)
    same = effects.RankCorrelation(quantity(**{name: [1.0, 1.0] for name in names}), quantity(**accuracy))
    assert "identical runs" in same(EVIDENCE).missing
    few = effects.RankCorrelation(quantity(**dict(list(flow.items())[:3])), quantity(**accuracy))
    assert few(EVIDENCE).missing == "at least 4 sparse methods"


def test_rank_correlation_resamples_seeds_within_methods():
    names = ["scratch", "scratch__plus", "set", "rigl", "rigl__plus"]
    flow = [[0.1, 0.2, 0.35], [0.3, 0.32, 0.2], [0.4, 0.2, 0.6], [0.5, 0.7, 0.45], [0.9, 0.4, 0.8]]
    accuracy = [[0.90, 0.91, 0.89], [0.92, 0.9, 0.93], [0.91, 0.93, 0.9], [0.95, 0.93, 0.94], [0.94, 0.96, 0.92]]
    found = effects.RankCorrelation(*(quantity(**dict(zip(names, side, strict=True))) for side in (flow, accuracy)))
    rng = np.random.default_rng([0, 5])
    picked = [rng.integers(3, size=(2000, 3)) for _ in names]
    drawn = []
    for place in range(2000):
        x, y = ([np.mean(np.take(v, i[place])) for v, i in zip(s, picked, strict=True)] for s in (flow, accuracy))
        drawn.append(stats.spearmanr(x, y).statistic)
    interval = found(EVIDENCE).interval
    assert interval[:3] == pytest.approx((0.872081599272381, 0.2, 1.0))
    assert interval[1:3] == pytest.approx(np.nanpercentile(drawn, [2.5, 97.5]))
    assert (interval.n, interval.kind) == (3, "bootstrap over seeds within methods")


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0123, "points", "+1.23 points"),
        (-0.0123, "points", "-1.23 points"),
        (2.5, "times", "2.5 times"),
        (0.5, "nats", "+0.5 nats"),
        (3.0, "count", "+3"),
        (math.nan, "points", ""),
    ],
)
def test_effects_in_words(value, unit, text):
    assert effects.format_effect(value, unit) == text
