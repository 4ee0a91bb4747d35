"""Mask updates against golden values and tables worked by hand."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from sparse_lib import schedules, selection, updaters
from sparse_lib.updaters.base import random_uniform, shrink
from sparse_lib.updaters.drop_and_grow import truncated_product
from sparse_lib.updaters.redistribution import share_out
from tests.kernels import CONTEXT, kernel

HALF = schedules.Constant(0.5)


def bits(mask) -> str:
    return "".join("1" if m else "0" for m in np.ravel(mask))


def one(updater: updaters.Updater, *kernels: updaters.Kernel, context=CONTEXT) -> updaters.Update:
    return updater.update(kernels, context)[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scored(updaters.DropAndGrow):
    """Drops and grows by given scores."""

    scores: Callable[[str], Any]

    def drop_score(self, kernel):
        return tf.constant(self.scores("drop"), tf.float32)

    def grow_score(self, kernel, seed):
        return tf.constant(self.scores("grow"), tf.float32)


# --- golden values ---


@pytest.mark.parametrize("index", range(7))
def test_golden_drop_and_grow(golden, index):
    case = golden("mask_updates")["cases"][index]
    updater = Scored(
        drop_fraction=schedules.Constant(case["drop_fraction"]),
        reinit_regrown=case["reinit_when_same"],
        scores=lambda kind: case[f"score_{kind}"],
    )
    update = one(updater, kernel(case["mask"], case["var"]))
    mask = np.array(case["new_mask"]) > 0
    np.testing.assert_array_equal(update.mask, mask)
    np.testing.assert_array_equal(update.weight, np.where(mask, case["new_var"], 0).astype("float32"))
    slot = np.where(mask & ~update.grown.numpy(), case["momentum"], 0)
    np.testing.assert_array_equal(slot, np.where(mask, case["new_momentum"], 0))


def test_golden_drop_alone(golden):
    case = golden("mask_updates")["cases"][7]
    assert case["score_grow"] is None
    before = kernel(case["mask"], case["var"])
    active = selection.count_active(before.mask)
    keep = active - truncated_product(active, tf.constant(case["drop_fraction"]))
    update = shrink(before, selection.top_k_mask(tf.constant(case["score_drop"]), keep, before.mask))
    mask = np.array(case["new_mask"]) > 0
    np.testing.assert_array_equal(update.mask, mask)
    np.testing.assert_array_equal(update.weight, np.where(mask, case["new_var"], 0).astype("float32"))


def test_golden_pruning_masks(golden):
    for case in golden("pruning")["update_mask"]:
        if "weights" not in case:
            continue
        weights = np.array(case["weights"], "float32")
        pruned = one(
            updaters.Prune(sparsity=schedules.Constant(case["sparsity"])), kernel(np.ones_like(weights, bool), weights)
        )
        expected = np.array(case["mask"]) > 0
        if "ties" in case.get("name", "") or "zero" in case.get("name", ""):
            # The published code keeps everything that ties with the threshold; here the count is exact.
            assert bits(pruned.mask) == "11000000"
            assert np.all(expected[pruned.mask])
        else:
            assert int(expected.sum()) == case["n_ones"]
            np.testing.assert_array_equal(pruned.mask, expected)


@pytest.mark.parametrize(("network", "sparsity"), [("lenet5", 0.95), ("mlp", 0.98)])
def test_golden_pruning_counts(golden, network, sparsity):
    layers = golden("pruning")["final_kept"][network]
    rng = np.random.default_rng(0)
    kernels = [kernel(np.ones(shape, bool), rng.normal(size=shape)) for shape, _ in layers]
    cubic = schedules.PolynomialSparsity(initial=0, final=sparsity, begin=3000, end=7000)
    for step in (7000, 11_000):
        context = CONTEXT._replace(step=tf.constant(step, tf.int64))
        updates = updaters.Prune(sparsity=cubic).update(kernels, context)
        assert [int(tf.math.count_nonzero(u.mask)) for u in updates] == [kept for _, kept in layers]


# --- drop and grow ---


def test_fresh_zeros_tie_with_nothing_inactive():
    # Of the active 0, 2, 0 one leaves: the later zero. The inactive zeros before it are no candidates to stay.
    before = kernel([0, 1, 1, 0, 1, 0], [0, 0, 2, 0, 0, 0], [1, 0, 0, 5, 0, 2])
    update = one(updaters.RigL(drop_fraction=schedules.Constant(0.34)), before)
    assert bits(update.mask) == "011100"
    assert bits(update.grown) == "000100"


def test_inactive_weights_rank_below_every_active_one():
    # All scores of active weights are negative, those of inactive ones zero.
    scores = {"drop": [0, -3, 0, -1, -2, 0], "grow": [0, 0, 1, 0, 0, 0]}
    before = kernel([0, 1, 0, 1, 1, 0], [0, 1, 0, 1, 1, 0])
    update = one(Scored(drop_fraction=schedules.Constant(0.34), scores=scores.get), before)
    assert bits(update.mask) == "001110"


@pytest.mark.parametrize("scores", [[0, 0, 0, 0], [1, 1, 1, 1]])
def test_ties_of_growth_go_to_the_lower_index(scores):
    before = kernel([0, 1, 0, 1], [0, 3, 0, 1])
    updater = Scored(drop_fraction=HALF, scores={"drop": [0, 3, 0, 1], "grow": scores}.get)
    assert bits(one(updater, before).mask) == "1100"


@pytest.mark.parametrize(
    "updater",
    [
        updaters.SET(drop_fraction=schedules.Constant(0.0)),
        updaters.RigL(drop_fraction=schedules.Constant(0.0), growth_init="random", reinit_regrown=True),
        updaters.RigL(end_step=4, drop_fraction=0.9),
        updaters.RigLInverted(drop_fraction=schedules.Constant(0.0)),
        updaters.RigLSNIP(drop_fraction=schedules.Constant(0.0)),
        updaters.RigLAuto(coefficient=0.0),
        updaters.SNFS(drop_fraction=schedules.Constant(0.0)),
        updaters.MEST(drop_fraction=schedules.Constant(0.0)),
        updaters.GraNet(sparsity=schedules.Constant(0.5), drop_fraction=schedules.Constant(0.0)),
        updaters.Static(),
    ],
    ids=lambda updater: type(updater).__name__,
)
def test_drop_fraction_zero_is_the_identity(updater):
    rng = np.random.default_rng(0)
    # Active zeros stay, too: the ancestor swaps them for inactive weights of lower index.
    before = kernel([0, 1, 0, 1, 1, 0], [0, 0, 0, 0, 2, 0], rng.normal(size=6), momentum=rng.normal(size=6))
    update = one(updater, before)
    assert bits(update.mask) == "010110"
    assert bits(update.grown) == "000000"
    np.testing.assert_array_equal(update.weight, before.weight)


def test_regrown_weights_keep_their_value_or_start_anew():
    before = kernel([1, 1, 0, 0], [1, 0.25, 0, 0], [0, 9, 1, 0])
    update = one(updaters.RigL(drop_fraction=HALF), before)
    assert (bits(update.mask), bits(update.grown)) == ("1100", "0000")
    assert update.weight.numpy().tolist() == [1, 0.25, 0, 0]
    update = one(updaters.RigL(drop_fraction=HALF, reinit_regrown=True), before)
    assert (bits(update.mask), bits(update.grown)) == ("1100", "0100")
    assert update.weight.numpy().tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize(("growth_init", "value"), [("zeros", 0.0), ("gradient", -0.1 * -3.0), ("initial", 7.0)])
def test_values_of_new_weights(growth_init, value):
    before = kernel([1, 1, 0, 0], [1, 0.25, 0, 0], [0, 0, -3, 1], initial=[5, 6, 7, 8])
    update = one(updaters.RigL(drop_fraction=HALF, growth_init=growth_init), before)
    assert bits(update.mask) == "1010"
    np.testing.assert_allclose(update.weight, [1, 0, value, 0])


@pytest.mark.parametrize(
    ("growth_init", "value"),
    [
        ("grad_scale", -3.0),
        ("grad_scale_4", -0.75),
        ("grad_scale_.5", -6.0),
        ("grad_sign", -1.0),
        ("grad_sign_10.", -0.1),
        ("initial_dist_2", None),
    ],
)
def test_published_values_of_new_weights(growth_init, value):
    before = kernel([1, 1, 0, 0], [1, 0.25, 0, 0], [0, 0, -3, 1], initial=[5, 6, 7, 8])
    update = one(updaters.RigL(drop_fraction=HALF, growth_init=growth_init), before)
    assert bits(update.mask) == "1010"
    if value is None:
        assert float(update.weight[2]) in (2.5, 3.0, 3.5, 4.0)
    else:
        np.testing.assert_allclose(update.weight, [1, 0, value, 0])


def test_shuffled_initial_values_are_each_taken_once():
    initial = np.arange(1.0, 201.0)
    # The gradient grows all that is off the mask, and the drop fraction of 1 leaves nothing else.
    mask = np.arange(200) < 100
    before = kernel(mask, np.ones(200) * mask, ~mask, initial=initial)
    update = one(updaters.RigL(drop_fraction=schedules.Constant(1.0), growth_init="initial_dist_4"), before)
    new = 4 * update.weight.numpy()[100:]
    assert len(set(new)) == 100 and set(new) <= set(initial)
    assert np.any(new != initial[100:])
    rule = updaters.GrowthValue.parse("initial_dist")
    assert sorted(rule.values(before, CONTEXT, 1).numpy()) == initial.tolist()
    assert np.any(rule.values(before, CONTEXT, 3) != rule.values(before, CONTEXT, 1))


def test_uniform_and_normal_values_are_scaled_by_the_active_weights():
    rng = np.random.default_rng(0)
    mask = np.arange(40_000) < 20_000
    weights = rng.normal(3, 0.5, 40_000) * mask
    before = kernel(mask, weights, ~mask)
    uniform = updaters.GrowthValue.parse("random_uniform_10").values(before, CONTEXT, 1).numpy()
    limit = np.abs(weights[mask]).mean() / 10
    assert abs(uniform).max() <= limit and abs(uniform).max() == pytest.approx(limit, rel=1e-3)
    assert abs(uniform.mean()) < 0.01 * limit and uniform.var() == pytest.approx(limit**2 / 3, rel=0.02)
    one_way, divided = (
        updaters.GrowthValue.parse(name).values(before, CONTEXT, 1) for name in ("random", "random_normal_8")
    )
    np.testing.assert_array_equal(divided, one_way / 8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grad_scal_10", "growth_init='grad_scal_10' is not known; use zeros, .*"),
        ("zeros_3", "takes no number; these do: random_normal_3, random_uniform_3"),
        ("grad_sign_0", "divides by 0; give a positive number, such as grad_sign_10"),
        ("grad_scale_1e3", "is not known"),
        ("grad_scale_-2", "is not known"),
    ],
)
def test_values_of_new_weights_that_are_none(text, message):
    with pytest.raises(ValueError, match=message):
        updaters.RigL(end_step=10, growth_init=text)


def test_static_masks_whose_smallest_weights_start_again():
    # 6 active weights, of which the 3 smallest, -0.1, 0.2 and 0.3, start again at sign(g) / 2.
    mask, weights = [1, 1, 1, 1, 1, 1, 0, 0], [4.0, -0.1, 2.0, 0.3, -3.0, 0.2, 0, 0]
    before = kernel(mask, weights, [9, -9, 9, 9, 9, 0, 9, 9])
    updater = updaters.StaticReinit(drop_fraction=HALF, growth_init="grad_sign_2", reinit_regrown=False)
    update = one(updater, before)
    assert (bits(update.mask), bits(update.grown)) == ("11111100", "01010100")
    np.testing.assert_allclose(update.weight, [4, -0.5, 2, 0.5, -3, 0, 0, 0])
    with pytest.raises(ValueError, match="moves no weight to another kernel: leave redistribute out"):
        updaters.StaticReinit(drop_fraction=HALF, redistribute=True)


def test_random_values_have_the_spread_of_the_active_weights():
    rng = np.random.default_rng(0)
    mask = np.arange(40_000) < 20_000
    weights = rng.normal(3, 0.5, 40_000)
    kernels = [kernel(mask, weights, ~mask)] * 2
    updater = updaters.RigL(drop_fraction=HALF, growth_init="random")
    first, second = updater.update(kernels, CONTEXT)
    grown = first.weight.numpy()[first.grown]
    assert len(grown) == 10_000
    assert abs(grown.mean()) < 0.02
    assert abs(grown.std() - 0.5) < 0.02
    repeated = updater.update(kernels, CONTEXT)[0]
    np.testing.assert_array_equal(repeated.weight, first.weight)
    later = updater.update(kernels, CONTEXT._replace(step=tf.constant(5, tf.int64)))[0]
    other = updater.update(kernels, CONTEXT._replace(seed=1))[0]
    for different in (second, later, other):
        assert np.any(different.weight != first.weight)


def test_random_growth_is_uniform_and_seeded():
    mask = np.arange(20_000) < 10_000
    kernels = [kernel(mask, np.arange(20_000.0) + 1)] * 2
    updater = updaters.SET(drop_fraction=HALF)
    first, second = updater.update(kernels, CONTEXT)
    # 5,000 of the 15,000 that are not kept grow; a third of the 5,000 just dropped are among them.
    assert int(tf.math.count_nonzero(first.mask)) == 10_000
    assert abs(int(tf.math.count_nonzero(first.mask[:5000])) - 5000 / 3) < 150
    np.testing.assert_array_equal(updater.update(kernels, CONTEXT)[0].mask, first.mask)
    for context in (CONTEXT._replace(step=tf.constant(5, tf.int64)), CONTEXT._replace(seed=1)):
        assert np.any(updater.update(kernels, context)[0].mask != first.mask)
    assert np.any(second.mask != first.mask)


def test_random_numbers_are_the_same_in_every_mode():
    def draw():
        return random_uniform(tf.TensorShape([40, 50]), CONTEXT.stateless_seed(3))

    numbers = draw().numpy()
    for compiled in (tf.function(draw), tf.function(draw, jit_compile=True)):
        np.testing.assert_array_equal(compiled(), numbers)
    assert 0 < numbers.min() < 0.01
    assert 0.99 < numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.02
    assert abs(numbers.std() - 12**-0.5) < 0.01


WEIGHTS = {"mask": [1, 1, 1, 0, 0, 0], "weight": [1, -2, 3, 0, 0, 0], "gradient": [5, 1, -1, 1, -2, 0.5]}


@pytest.mark.parametrize(
    ("updater", "expected"),
    [
        # |w| drops 0; the rest by |g| is 5 (0), 2 (4), 1 (3), .5 (5).
        (updaters.RigL(drop_fraction=schedules.Constant(0.34)), "111000"),
        # Two leave (0, 1) and the two best of the rest grow (0, 4).
        (updaters.RigL(drop_fraction=schedules.Constant(0.67)), "101010"),
        (updaters.RigLInverted(drop_fraction=schedules.Constant(0.34)), "011001"),
        # |g w| is 5, 2, 3: 1 leaves, and 4 has the largest |g| of the rest.
        (updaters.RigLSNIP(drop_fraction=schedules.Constant(0.34)), "101010"),
        # |w| + |g| is 6, 3, 4; with lambda = 0 it is |w|.
        (updaters.MEST(drop_fraction=schedules.Constant(0.34)), "101"),
        (updaters.MEST(drop_fraction=schedules.Constant(0.34), gradient_weight=0.0), "011"),
        # Off the mask 0.1 |g| is .1, .2, .05 against |w| = 1, 2, 3 on it; five times that ties, six times does not.
        (updaters.RigLAuto(), "111000"),
        (updaters.RigLAuto(coefficient=5.0), "111000"),
        (updaters.RigLAuto(coefficient=6.0), "011010"),
        (updaters.RigLAuto(coefficient=100.0), "000111"),
    ],
)
def test_scores(updater, expected):
    update = one(updater, kernel(**WEIGHTS))
    if isinstance(updater, updaters.MEST):
        assert int(tf.math.count_nonzero(update.mask)) == 3
        kept = update.mask & ~update.grown
        assert all(k for k, e in zip(kept.numpy(), expected, strict=False) if e == "1")
    else:
        assert bits(update.mask) == expected


def test_grasp_drops_what_gradient_flow_misses_least():
    # w Hg is 2, -6, 3: the highest -w Hg goes first.
    before = kernel(**WEIGHTS)._replace(hessian_gradient=tf.constant([2.0, 3.0, 1.0, 9.0, 9.0, 9.0]))
    assert bits(one(updaters.RigLGraSP(drop_fraction=schedules.Constant(0.34)), before).mask) == "101010"


def test_drop_count_is_cut_in_float32():
    # As published: 0.58 * 50 is 28.999999 in float64 and 29 in float32.
    before = kernel(np.arange(100) < 50, np.arange(100.0) + 1)
    scores = {"drop": np.arange(100.0), "grow": -np.arange(100.0)}
    update = one(Scored(drop_fraction=schedules.Constant(0.58), scores=scores.get, reinit_regrown=True), before)
    assert int(tf.math.count_nonzero(update.grown)) == 29


# --- redistribution ---


@pytest.mark.parametrize(
    ("total", "shares", "rooms", "expected"),
    [
        (10, [1, 1, 2], [99, 99, 99], [3, 2, 5]),
        (10, [1, 1, 2], [1, 99, 99], [1, 3, 6]),
        (10, [9, 1, 1], [2, 3, 99], [2, 3, 5]),
        (5, [1, 7], [2, 3], [2, 3]),
        (7, [0, 0, 0], [99, 99, 99], [3, 2, 2]),
        (4, [0, 1, 1], [99, 1, 1], [2, 1, 1]),
        (0, [1, 2], [5, 5], [0, 0]),
        (3, [1], [3], [3]),
    ],
)
def test_share_out(total, shares, rooms, expected):
    got = share_out(tf.constant(total), [tf.constant(s, tf.float32) for s in shares], [tf.constant(r) for r in rooms])
    assert [int(g) for g in got] == expected


def test_share_out_is_exact_and_fair():
    rng = np.random.default_rng(0)
    for _ in range(60):
        count = rng.integers(1, 9)
        rooms = rng.integers(0, 60, count)
        shares = rng.exponential(size=count) * (rng.random(count) < 0.8)
        total = int(rng.integers(0, rooms.sum() + 1))
        got = np.array([int(g) for g in share_out(tf.constant(total), [tf.constant(s) for s in shares], list(rooms))])
        assert got.sum() == total
        assert np.all((got >= 0) & (got <= rooms))
        free = (got < rooms) & (shares > 0)
        if free.any():
            rates = got[free] / shares[free]
            assert np.all(np.abs(got[free] - rates.max() * shares[free]) <= 1 + shares[free] / shares[free].min())


def test_redistribution_moves_weights_to_where_momentum_is_large():
    # Each drops 2 of 4; mean |M| over active weights is 1 and 3: of the 4 that grow 1 and 3.
    first = kernel([1] * 4 + [0] * 4, np.arange(8) + 1, momentum=[1] * 4 + [4, 3, 2, 1])
    second = kernel([1] * 4 + [0] * 4, np.arange(8) + 1, momentum=[3] * 4 + [4, 5, 6, 7])
    updates = updaters.SNFS(drop_fraction=HALF).update([first, second], CONTEXT)
    assert [bits(u.mask) for u in updates] == ["00111000", "00110111"]
    alone = updaters.SNFS(drop_fraction=HALF, redistribute=False).update([first, second], CONTEXT)
    assert [bits(u.mask) for u in alone] == ["00111100", "00110011"]


def test_redistribution_into_full_kernels():
    # The second kernel can only take back what it dropped.
    first = kernel([1] * 2 + [0] * 6, np.arange(8) + 1, momentum=[0.001] * 8)
    second = kernel([1] * 4, np.arange(4) + 1, momentum=[9] * 4)
    updates = updaters.SNFS(drop_fraction=HALF).update([first, second], CONTEXT)
    # The first drops its smaller weight and takes the first of equals.
    assert [bits(u.mask) for u in updates] == ["11000000", "1111"]


def test_momentum_of_snfs():
    updater = updaters.SNFS(drop_fraction=HALF, momentum=0.75)
    state = {"momentum": tf.constant([1.0, -2.0])}
    np.testing.assert_allclose(updater.accumulate(state, tf.constant([4.0, 4.0]))["momentum"], [1.75, -0.5])


# --- pruning that grows, and the reserve ---


def test_global_pruning_ranks_all_kernels():
    kernels = [kernel([1, 1, 1, 1], [5, 1, 6, 2]), kernel([1, 1, 0, 1], [3, 0.5, 9, 4])]
    updates = updaters.Prune(sparsity=HALF, scope="global").update(kernels, CONTEXT)
    assert [bits(u.mask) for u in updates] == ["1010", "1001"]
    layers = updaters.Prune(sparsity=HALF).update(kernels, CONTEXT)
    assert [bits(u.mask) for u in layers] == ["1010", "1001"]
    assert not np.any(updates[1].weight[2])


def test_pruning_by_a_schedule_per_kernel():
    weights = np.arange(1.0, 11.0)
    kernels = [
        kernel(np.ones(10, bool), weights)._replace(name=name)
        for name in ("conv1/kernel", "conv2/kernel", "head/kernel")
    ]
    ramp = schedules.PolynomialSparsity(0.0, 0.8, begin=0, end=10, power=1.0)
    pruning = updaters.Prune(sparsity={"conv*": ramp, "conv2": 0.2}, frequency=5)
    for step, counts in ((0, [10, 8, 10]), (5, [6, 8, 10]), (10, [2, 8, 10])):
        updates = pruning.update(kernels, CONTEXT._replace(step=tf.constant(step, tf.int64)))
        assert [int(np.sum(update.mask)) for update in updates] == counts
        for update, count in zip(updates, counts, strict=True):
            np.testing.assert_array_equal(update.mask, weights > 10 - count)


def test_pruned_weights_never_come_back():
    before = kernel([1, 1, 0, 0], [1, 2, 0, 0])
    update = one(updaters.Prune(sparsity=schedules.Constant(0.1)), before)
    assert bits(update.mask) == "1100"


def test_pruning_keeps_one_weight():
    assert bits(one(updaters.Prune(sparsity=schedules.Constant(1.0)), kernel([1, 1, 1], [1, 3, 2])).mask) == "010"


def test_granet_prunes_over_all_kernels_then_exchanges_within_each():
    first = kernel([1] * 6, [6, 5, 4, 0.3, 0.2, 0.1], [0, 0, 0, 1, 9, 2])
    second = kernel([1] * 6, [3, 2, 1, 0.6, 0.5, 0.4], [0, 0, 0, 7, 8, 9])
    updater = updaters.GraNet(sparsity=HALF, drop_fraction=schedules.Constant(0.34))
    updates = updater.update([first, second], CONTEXT)
    # 6 of 12 stay: 6 5 4 | 3 2 1. Each gives up its smallest and takes the largest gradient.
    assert [bits(u.mask) for u in updates] == ["110010", "110001"]
    # What was pruned a moment ago starts anew.
    assert [bits(u.grown) for u in updates] == ["000010", "000001"]
    np.testing.assert_allclose(updates[0].weight, [6, 5, 0, 0, 0, 0])
    assert updater.drop_fraction_at(3) == pytest.approx(0.34)


def test_mest_hard_bound_keeps_the_count():
    before = kernel([1] * 4 + [0] * 6, np.arange(10) + 1)
    update = one(updaters.MEST(drop_fraction=HALF), before)
    # The two largest of 1 2 3 4 stay. Two others grow, the dropped ones among the candidates: those keep their value.
    assert bits(update.mask[2:4]) == "11"
    assert int(tf.math.count_nonzero(update.mask)) == 4
    np.testing.assert_array_equal(update.grown, update.mask & ~before.mask)
    np.testing.assert_array_equal(update.weight, tf.where(update.mask, before.weight, 0.0))


def test_mest_soft_bound_shrinks_before_it_mutates():
    updater = updaters.MEST(drop_fraction=HALF, soft_bound=True, frequency=10, end_step=29)
    counts = []
    before = kernel([1] * 4 + [0] * 6, np.arange(10) + 1, extra=np.zeros(10))
    for step in (10, 20):
        update = one(updater, before, context=CONTEXT._replace(step=tf.constant(step, tf.int64)))
        counts.append((int(tf.math.count_nonzero(update.mask)), int(tf.reduce_sum(update.state["extra"]))))
        weight = tf.where(update.grown, 0.5, update.weight)
        before = updaters.Kernel(update.mask, weight, tf.zeros(10), update.state)
    # The budget of 4 takes half of 4 on top; the last update before the end gives them back, the smallest first.
    assert counts == [(6, 2), (4, 0)]
    assert bits(update.mask) == "1111000000"


def test_mest_soft_bound_fills_a_full_kernel_at_most():
    before = kernel([1] * 3 + [0], np.arange(4) + 1, extra=np.zeros(4))
    update = one(updaters.MEST(drop_fraction=schedules.Constant(1.0), soft_bound=True), before)
    assert bits(update.mask) == "1111"
    assert int(tf.reduce_sum(update.state["extra"])) == 1


def test_topkast_sets():
    updater = updaters.TopKAST(extra_density=0.25, penalty=0.0)
    # theta is 5 1 4 3 | 2 .5 6 0 with two active: A = {6, 0}, B adds the next 2 of |theta|, and the rest is forgotten.
    before = kernel([1, 1] + [0] * 6, [5, 1] + [0] * 6, reserve=[0, 0, -4, 3, 2, 0.5, 6, 0], backward=np.zeros(8))
    update = one(updater, before)
    assert bits(update.mask) == "10000010"
    assert update.weight.numpy().tolist() == [5, 0, 0, 0, 0, 0, 6, 0]
    assert update.state["reserve"].numpy().tolist() == [0, 0, -4, 3, 0, 0, 0, 0]
    assert update.state["backward"].numpy().tolist() == [1, 0, 1, 1, 0, 0, 1, 0]


def test_topkast_gradient():
    updater = updaters.TopKAST(penalty=0.1)
    mask = tf.constant([True, False, False, False])
    theta = tf.constant([2.0, 3.0, 4.0, 0.0])
    state = {"backward": tf.constant([1.0, 1.0, 0.0, 0.0])}
    got = updater.training_gradient(tf.ones(4), mask, theta, state)
    # On A 1 + 0.1 * 2, on B 1 + 0.1 * 3 / 0.25, elsewhere nothing.
    np.testing.assert_allclose(got, [1.2, 2.2, 0, 0], rtol=1e-6)


def test_dnw_keeps_every_weight():
    before = kernel([1, 0, 0], [1, 0, 0], reserve=[0, -3, 2], backward=np.ones(3))
    update = one(updaters.DNW(), before)
    assert bits(update.mask) == "010"
    assert update.state["reserve"].numpy().tolist() == [1, 0, 2]
    assert update.state["backward"].numpy().tolist() == [1, 1, 1]


# --- when ---


def test_schedules():
    assert updaters.Static().schedule.never
    assert updaters.RigL(end_step=900).schedule.steps(0, 400) == [100, 200, 300]
    assert updaters.RigL(end_step=900, begin_step=0, frequency=300).schedule.steps(0, 1000) == [0, 300, 600, 900]
    assert updaters.TopKAST().schedule.steps(0, 3) == [0, 1, 2]
    assert [updaters.RigL(end_step=9).replaces_step, updaters.MEST(end_step=9).replaces_step] == [True, False]


def test_number_as_drop_fraction_anneals_to_the_end():
    fraction = updaters.SET(end_step=100, drop_fraction=0.4).fraction
    assert [round(float(fraction(step)), 6) for step in (0, 50, 100, 150)] == [0.4, 0.2, 0.0, 0.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (updaters.RigL, "RigL anneals its drop fraction to zero at end_step: give end_step"),
        (lambda: updaters.GraNet(sparsity=HALF), "GraNet anneals its drop fraction"),
        (lambda: updaters.SET(end_step=10, drop_fraction=1.3), "drop fraction is 1.3"),
        (lambda: updaters.RigL(end_step=10, growth_init="ones"), "growth_init='ones' is not known; use zeros, random"),
        (lambda: updaters.Prune(sparsity={"a": HALF}, scope="global"), "one target for all kernels: give one schedule"),
        (lambda: updaters.Prune(sparsity={"a": 1.5}), "The sparsity of 'a' is 1.5"),
        (
            lambda: updaters.Prune(sparsity={"b*": HALF}).check_names(["a/kernel"]),
            r"names \['b\*'\]; the kernels are a",
        ),
        (lambda: updaters.Prune(sparsity=HALF, scope="model"), "scope='model' is not known; use layer or global"),
        (lambda: updaters.TopKAST(extra_density=2), "extra_density is 2; give a fraction"),
        (lambda: updaters.MEST(end_step=9, soft_bound=True, redistribute=True), "leave redistribute out"),
        (lambda: updaters.RigL(end_step=10, frequency=0).schedule, "update frequency is 0"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- growth by topology, and phases ---


def test_cht_grows_the_end_of_a_path_of_three_links():
    # 4, 3 and 2 form the path b - 0 - a - 1; .1 is dropped, and of all that is left only b - 1 has a score.
    before = kernel([[1, 1, 0], [1, 0, 0], [0, 0, 1]], [[3, 2, 0], [4, 0, 0], [0, 0, 0.1]], np.ones((3, 3)))
    for predictor in ("ch3_l3", "ch2_l3n"):
        update = one(updaters.CHT(drop_fraction=schedules.Constant(0.25), predictor=predictor), before)
        assert (bits(update.mask), bits(update.grown)) == ("110110000", "000010000")
        assert update.weight.numpy().tolist() == [[3, 2, 0], [4, 0, 0], [0, 0, 0]]


def test_cht_breaks_ties_at_random_and_reads_convolutions_as_places_and_channels():
    # No two of these links share an input or an output: all scores are 0.
    mask = np.eye(30, dtype=bool)
    updater = updaters.CHT(drop_fraction=HALF)
    masks = [
        one(updater, kernel(mask, mask + 0.0), context=CONTEXT._replace(seed=seed)).mask.numpy() for seed in (0, 1)
    ]
    assert np.any(masks[0] != masks[1]) and all(np.ptp(np.argwhere(m & ~mask)[:, 0]) > 20 for m in masks)
    # A kernel of 3 places, 1 channel and 3 filters is the graph of the test before.
    flat = [[1, 1, 0], [1, 0, 0], [0, 0, 1]], [[3, 2, 0], [4, 0, 0], [0, 0, 0.1]]
    convolution = kernel(*(np.reshape(part, (3, 1, 3)) for part in flat))
    assert bits(one(updaters.CHT(drop_fraction=schedules.Constant(0.25)), convolution).mask) == "110110000"


@pytest.mark.parametrize(("step", "exponent"), [(0, 1), (100, 3), (900, 3)])
def test_chts_keeps_weights_in_proportion_to_their_importance(step, exponent):
    # Few of 2,000 weights of 1 and as many of 2 are kept, in proportion to |w|^T: 1 to 2, then 1 to 8.
    weights = np.zeros((80, 100))
    weights[:40, ::2], weights[:40, 1::2] = -1, 2
    chts = updaters.CHTs(drop_fraction=schedules.Constant(0.9), end_step=100, reinit_regrown=True)
    assert float(chts.exponent(tf.constant(step))) == exponent
    update = one(chts, kernel(weights != 0, weights), context=CONTEXT._replace(step=tf.constant(step, tf.int64)))
    kept = np.abs(weights[(update.mask & ~update.grown).numpy()])
    assert len(kept) == 400 and int(tf.math.count_nonzero(update.mask)) == 4000
    assert np.mean(kept == 2) == pytest.approx(2**exponent / (1 + 2**exponent), abs=0.06)


def test_chts_grows_links_without_a_path_last():
    before = kernel([[1, 1, 0], [1, 0, 0], [0, 0, 1]], [[3, 2, 0], [4, 0, 0], [0, 0, 1e-12]])
    for seed in range(5):
        update = one(
            updaters.CHTs(drop_fraction=schedules.Constant(0.25), end_step=9),
            before,
            context=CONTEXT._replace(seed=seed),
        )
        assert bits(update.mask) == "110110000"


def test_relative_importance_is_the_share_of_the_input_and_of_the_output():
    before = kernel([[1, 1], [1, 0]], [[1, -3], [2, 0]])
    score = updaters.CHTs(end_step=9, removal="relative_importance").drop_score(before)
    np.testing.assert_allclose(score, [[1 / 3 + 1 / 4, 3 / 3 + 3 / 4], [2 / 3 + 2 / 2, 0]])


@pytest.mark.parametrize(
    ("begin", "frequency", "end", "compressed"),
    [
        # ImageNet and CIFAR-10 of the paper's code, in epochs; the last dense phase of the former has two parts.
        (10, 5, 85, [10, 20, 30, 40, 50, 60, 70, 85]),
        (10, 20, 170, [10, 50, 90, 130, 170]),
        (0, 2, 3, [2]),
        (4, 3, 4, [4]),
    ],
)
def test_phases_of_acdc(begin, frequency, end, compressed):
    acdc = updaters.ACDC(sparsity=HALF, begin_step=begin, frequency=frequency, end_step=end)
    steps = acdc.schedule.steps(0, 200)
    assert [step for step in steps if acdc.is_compressed(step)] == compressed


def test_acdc_prunes_over_all_kernels_and_restores_them_with_new_slots():
    acdc = updaters.ACDC(sparsity=HALF, begin_step=4, frequency=2, end_step=8)
    kernels = [kernel([1, 1, 1, 1], [5, 1, 6, 2]), kernel([1, 1, 1, 1], [3, 0.5, 1.5, 4])]
    first = acdc.update(kernels, CONTEXT)
    assert [bits(u.mask) for u in first] == ["1010", "1001"] and not any(np.any(u.grown) for u in first)
    layers = dataclasses.replace(acdc, scope="layer").update([kernels[0]._replace(weight=kernels[1].weight)], CONTEXT)
    assert bits(layers[0].mask) == "1001"
    later = CONTEXT._replace(step=tf.constant(6, tf.int64))
    kernels = [k._replace(mask=u.mask, weight=u.weight) for k, u in zip(kernels, first, strict=True)]
    again = acdc.update(kernels, later)
    assert [bits(u.mask) for u in again] == [bits(u.grown) for u in again] == ["1111"] * 2
    assert again[0].weight.numpy().tolist() == [5, 0, 6, 0]
    # Where all are active already, nothing starts anew.
    full = kernels[0]._replace(mask=again[0].mask)
    assert bits(one(acdc, full, context=later).grown) == "0000"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: updaters.CHT(end_step=9, predictor="ch4"), "predictor='ch4' is not known; use ch3_l3 or ch2_l3n"),
        (lambda: updaters.CHT(end_step=9, redistribute=True), "CHT scores absent links alone: leave redistribute out"),
        (lambda: updaters.CHTs(drop_fraction=HALF), "give end_step or annealing_end"),
        (lambda: updaters.CHTs(end_step=9, removal="random"), "use magnitude or relative_importance"),
        (lambda: updaters.CHTs(end_step=9, exponents=(1.0, 0.0)), "not two positive numbers"),
        (lambda: updaters.ACDC(sparsity=HALF), "give the step at which it begins as end_step"),
        (lambda: updaters.ACDC(sparsity=HALF, end_step=900, scope="all"), "scope='all' is not known"),
    ],
)
def test_settings_of_topology_and_phases_that_are_none(make, message):
    with pytest.raises(ValueError, match=message):
        make()
