"""Structures against their definition in plain Python, and every method of changing masks on them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from sparse_lib import api, oneshot, schedules, structures, updaters
from sparse_lib.masks import Masks, random_masks
from sparse_lib.objective import Objective
from sparse_lib.optimizer import SparseOptimizer
from sparse_lib.structures import NM, UNSTRUCTURED, Block, Channel, ConstantFanIn, parse, select_globally
from tests.kernels import CONTEXT, kernel

layers = keras.layers
ALL = [UNSTRUCTURED, NM(2, 4), NM(1, 5), NM(3, 4), Block(2, 3), Block(4, 4), Channel(), ConstantFanIn()]
SHAPES = [(12, 6), (10, 7), (2, 3, 4, 5)]


# --- the definition, by loops ---


def units_of(structure, inputs: int, outputs: int) -> list[list[tuple[int, int]]]:
    """Places of each unit of a matrix, in order."""
    if isinstance(structure, Channel):
        return [[(i, o) for i in range(inputs)] for o in range(outputs)]
    high, wide = (structure.inputs, structure.columns) if isinstance(structure, Block) else (1, 1)
    return [
        [(i, o) for i in range(a, min(a + high, inputs)) for o in range(b, min(b + wide, outputs))]
        for a in range(0, inputs, high)
        for b in range(0, outputs, wide)
    ]


def groups_of(structure, inputs: int, outputs: int) -> list[list[tuple[int, int]]]:
    """Places of each group that has a quota."""
    size = structure.m if isinstance(structure, NM) else inputs
    return [[(i, o) for i in range(a, min(a + size, inputs))] for a in range(0, inputs, size) for o in range(outputs)]


def best(places, scores, k):
    return sorted(places, key=lambda place: -scores[place])[: max(k, 0)]


def by_definition(structure, scores: np.ndarray, k: int, among: np.ndarray) -> np.ndarray:
    """The k best units of a matrix of scores without ties."""
    mask = np.zeros(scores.shape, bool)
    inputs, outputs = scores.shape
    if isinstance(structure, NM | ConstantFanIn):
        if isinstance(structure, NM):
            sizes = [len(group) for group in groups_of(structure, inputs, outputs)]
            quota = next(q for q in range(structure.n, structure.m + 1) if sum(min(q, s) for s in sizes) >= k)
        else:
            quota = max(1, int(np.floor(k / outputs + 0.5)))
        for group in groups_of(structure, inputs, outputs):
            for place in best([p for p in group if among[p]], scores, quota):
                mask[place] = True
        return mask
    means = {i: np.mean([scores[p] for p in unit]) for i, unit in enumerate(units_of(structure, inputs, outputs))}
    free = [i for i, unit in enumerate(units_of(structure, inputs, outputs)) if among[unit[0]]]
    for i in best(free, means, k):
        for place in units_of(structure, inputs, outputs)[i]:
            mask[place] = True
    return mask


def matrix(kernel: np.ndarray) -> np.ndarray:
    return kernel.reshape(-1, kernel.shape[-1])


def scores_for(shape, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape).astype("float32")


# --- selecting ---


@pytest.mark.parametrize(
    ("structure", "shape", "mode"),
    [(s, shape, "eager") for s in ALL for shape in SHAPES]
    + [(s, (10, 7), "xla") for s in (NM(2, 4), Block(2, 3), ConstantFanIn())],
    ids=str,
)
def test_select_is_the_definition(structure, shape, mode):
    select = tf.function(structure.select, jit_compile=True) if mode == "xla" else structure.select
    scores, size = scores_for(shape), structure.size(shape)
    half = structure.select(tf.constant(scores_for(shape, 1)), size // 2).numpy()
    for k in (1, size // 3, size // 2, size):
        for among in (np.ones(shape, bool), half):
            got = select(tf.constant(scores), tf.constant(k), tf.constant(among)).numpy()
            expected = by_definition(structure, matrix(scores), k, matrix(among))
            np.testing.assert_array_equal(matrix(got), expected, f"k={k}")
    np.testing.assert_array_equal(structure.select(tf.constant(scores), 2), select(scores, 2, np.ones(shape, bool)))


@pytest.mark.parametrize("structure", ALL, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_what_is_selected_fits_and_counts(structure, shape):
    scores = tf.constant(scores_for(shape))
    for k in (1, structure.size(shape) // 2, structure.size(shape)):
        mask = structure.select(scores, k)
        full = np.ones(shape, bool)
        if not isinstance(structure, NM) or structure.quota(tf.constant(k), shape) == structure.n:
            assert structure.fits(mask)
        assert structure.fits(tf.constant(full))
        np.testing.assert_array_equal(structure.select(scores, structure.count(mask)), mask)
        if structure.is_free or isinstance(structure, Channel):
            assert int(structure.count(mask)) == k
        lower = scores - tf.cast(mask, tf.float32)
        moved = structure.reshuffle(lower, mask)
        assert int(structure.count(moved)) == int(structure.count(mask))
        assert np.any(moved != mask) or np.all(mask) or isinstance(structure, NM)


@pytest.mark.parametrize(
    ("structure", "broken"),
    [
        (NM(2, 4), [[1, 1], [1, 0], [1, 0], [0, 0]]),
        (Block(2, 2), [[1, 1], [1, 0], [0, 0], [0, 0]]),
        (Channel(), [[1, 1], [1, 1], [1, 1], [1, 0]]),
        (ConstantFanIn(), [[1, 1], [1, 0], [0, 0], [0, 0]]),
    ],
    ids=str,
)
def test_what_does_not_fit(structure, broken):
    broken = np.array(broken, bool)
    assert not structure.fits(tf.constant(broken))
    weights = keras.Variable(np.ones(broken.shape, "float32"))
    with pytest.raises(ValueError, match=f"mask of head does not keep to structure {structure}: make it"):
        Masks([weights], [tf.constant(broken)], ["head"], [structure])


def test_ablated_outputs_fit_a_constant_fan_in():
    assert ConstantFanIn().fits(tf.constant([[True, False, False], [False, False, True]]))


@pytest.mark.parametrize("structure", ALL, ids=str)
def test_growing_brings_back_to_the_rule(structure):
    shape = (12, 6)
    start = structure.select(tf.constant(scores_for(shape)), structure.size(shape) // 2)
    count = structure.count(start)
    kept = structure.keep(tf.constant(scores_for(shape, 1)), count - count // 3, start)
    grown = structure.grow(tf.constant(scores_for(shape, 2)), count // 3, kept)
    assert int(structure.count(kept)) == int(count - count // 3)
    assert not np.any(kept & grown) and np.all(~kept | start)
    assert structure.fits(kept | grown) or isinstance(structure, NM)
    assert int(structure.count(kept | grown)) == int(count)


@pytest.mark.parametrize("structure", ALL, ids=str)
def test_exchange_ranks_both_and_ties_stay(structure):
    shape = (12, 6)
    start = structure.select(tf.constant(scores_for(shape)), structure.size(shape) // 2)
    inside, outside = (tf.constant(scores_for(shape, seed)) for seed in (1, 2))
    kept, grown = structure.exchange(inside, outside, structure.count(start), start)
    both = structure.select(tf.where(start, inside, outside), structure.count(start))
    np.testing.assert_array_equal(kept | grown, both)
    np.testing.assert_array_equal(kept, both & start)
    zeros = tf.zeros(shape)
    kept, grown = structure.exchange(zeros, zeros, structure.count(start), start)
    np.testing.assert_array_equal(kept, start)
    assert not np.any(grown)


# --- over all kernels ---


def test_blocks_are_ranked_over_all_kernels():
    a, b = scores_for((8, 4)), scores_for((4, 8), 1) + 0.2
    masks = select_globally([Block(2, 2)] * 2, [tf.constant(a), tf.constant(b)], 5)
    means = {
        (name, i): np.mean([m[p] for p in unit])
        for name, m in (("a", a), ("b", b))
        for i, unit in enumerate(units_of(Block(2, 2), *m.shape))
    }
    for place in best(list(means), means, 5):
        name, i = place
        mask = masks[0 if name == "a" else 1].numpy()
        assert all(mask[p] for p in units_of(Block(2, 2), *mask.shape)[i])
    assert sum(int(tf.math.count_nonzero(m)) for m in masks) == 5 * 4


def test_maximum_of_a_truncated_block_is_over_its_own_weights():
    # Negative scores: what a block at the edge is filled up with must not win.
    scores = tf.constant([[-1.0, -5.0, -4.0], [-6.0, -2.0, -3.0]])
    assert Block(2, 2, pooling="max").select(scores, 1).numpy().tolist() == [[True, True, False]] * 2
    assert Block(2, 2).select(scores, 1).numpy().tolist() == [[True, True, False]] * 2
    assert Block(1, 2, pooling="max").select(scores, 2).numpy().tolist() == [[True, True, False], [True, True, False]]


def test_the_ranking_gives_a_constant_fan_in_its_number():
    # 30 of 48 weights: the ranking gives 9 to the first and 21 to the second, which is a fan-in of 2 and of 5.
    low, high = np.arange(24.0).reshape(6, 4), np.arange(24.0).reshape(6, 4) + 12
    masks = select_globally([ConstantFanIn()] * 2, [tf.constant(low), tf.constant(high)], 30)
    assert [np.sum(m, axis=0).tolist() for m in masks] == [[2] * 4, [5] * 4]


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_n_of_m_has_one_sparsity_in_all_kernels(share):
    scores = [tf.constant(scores_for((8, 4)) * 1e-3), tf.constant(scores_for((12, 6)))]
    masks = select_globally([NM(2, 4)] * 2, scores, int(share * 104))
    assert [float(np.mean(m)) for m in masks] == [share, share]


# --- axes ---


@pytest.mark.parametrize(
    ("layer", "shape", "axes"),
    [
        (lambda: layers.Dense(3), (4, 5), (1,)),
        (lambda: layers.Conv2D(3, 2), (4, 8, 8, 5), (3,)),
        (lambda: layers.Conv2DTranspose(3, 2), (4, 8, 8, 5), (2,)),
        (lambda: layers.Conv1DTranspose(3, 2), (4, 8, 5), (1,)),
        (lambda: layers.DepthwiseConv2D(2, depth_multiplier=2), (4, 8, 8, 5), (2, 3)),
        (lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 3)), (4, 6, 5), (1, 2)),
        (lambda: layers.EinsumDense("...ab,abc->...c", (3,)), (4, 6, 5), (2,)),
    ],
)
def test_output_axes(layer, shape, axes):
    layer = layer()
    layer.build(shape)
    assert structures.output_axes(layer, layer.kernel) == axes


def test_channels_of_a_transposed_convolution():
    layer = layers.Conv2DTranspose(4, 3, use_bias=False)
    model = keras.Sequential([keras.Input((5, 5, 3)), layer])
    masks = api.sparsify(model, 0.5, structure=Channel())
    x = np.random.default_rng(0).normal(size=(2, 5, 5, 3)).astype("float32")
    silent = np.all(model(x).numpy() == 0, axis=(0, 1, 2))
    np.testing.assert_array_equal(silent, ~np.any(masks.values()[0], axis=(0, 1, 3)))
    assert silent.sum() == 2


def test_n_of_m_runs_along_what_a_product_sums_over():
    tokens = keras.Input((5, 8))
    model = keras.Model(tokens, layers.MultiHeadAttention(2, 6, name="attention")(tokens, tokens))
    masks = api.sparsify(model, structure=NM(2, 4))
    by_name = dict(zip(masks.names, masks.values(), strict=True))
    query, output = (by_name[f"{name}/kernel"].numpy() for name in ("query", "attention_output"))
    # [inputs, heads, size] and [heads, size, outputs].
    assert np.all(query.reshape(2, 4, 12).sum(axis=1) == 2)
    assert np.all(output.reshape(3, 4, 8).sum(axis=1) == 2)


# --- masks at the start ---


@pytest.mark.parametrize("structure", ALL, ids=str)
def test_sparsify(structure, tiny_model):
    model = tiny_model("convnet")
    masks = api.sparsify(model, structure=structure, custom={"logits": 0.0})
    assert masks.active()[1] == masks.sizes()[1]
    assert all(s.fits(v) for s, v in zip(masks.structures, masks.values(), strict=True))
    expected = structure.fixed_sparsity or 0.9
    assert 1 - masks.active()[0] / masks.sizes()[0] == pytest.approx(expected, abs=0.16)
    again = api.sparsify(tiny_model("convnet"), structure=structure, custom={"logits": 0.0})
    np.testing.assert_array_equal(masks.values()[0], again.values()[0])
    other = api.sparsify(tiny_model("convnet"), structure=structure, custom={"logits": 0.0}, seed=3)
    assert np.any(masks.values()[0] != other.values()[0])


@pytest.mark.parametrize("structure", ALL[1:], ids=str)
def test_shuffled_masks_keep_the_structure(structure):
    weights = keras.Variable(np.ones((24, 8), "float32"))
    count = round(192 * (1 - (structure.fixed_sparsity or 0.5)))
    values = random_masks([(24, 8)], [count], 0, [structure])
    masks = Masks([weights], [tf.constant(v) for v in values], ["w"], [structure])
    (shuffled,) = masks.shuffled(seed=1)
    assert structure.fits(shuffled)
    assert int(tf.math.count_nonzero(shuffled)) == masks.active()[0]
    assert np.any(shuffled != masks.values()[0])


def test_random_n_of_m_is_uniform():
    (mask,) = random_masks([(4, 6000)], [12_000], 0, [NM(2, 4)])
    pairs = np.unique(mask.astype(int), axis=1, return_counts=True)[1]
    assert len(pairs) == 6 and np.all(np.abs(pairs - 1000) < 150)


# --- updaters ---


def rigl_on(structure, mask, weight, gradient, fraction=0.5) -> np.ndarray:
    before = kernel(np.array(mask, bool), weight, gradient)._replace(structure=structure)
    return updaters.RigL(drop_fraction=schedules.Constant(fraction)).update([before], CONTEXT)[0]


def test_rigl_drops_over_the_kernel_and_fills_every_group():
    mask = [[1, 1], [1, 1], [0, 0], [0, 0]]
    weight = [[4, 1], [5, 2], [0, 0], [0, 0]]
    gradient = [[1, 1], [2, 9], [3, 1], [4, 2]]
    # The two smallest, both of the second output, leave; of its rows 1 (9) and 3 (2) grow.
    update = rigl_on(NM(2, 4), mask, weight, gradient)
    assert update.mask.numpy().astype(int).tolist() == [[1, 0], [1, 1], [0, 0], [0, 1]]
    # The weight that came back kept its value.
    assert update.weight.numpy()[1, 1] == 2
    assert update.grown.numpy().sum() == 1
    # With a constant fan-in it is the same, as 4 inputs are one group.
    same = rigl_on(ConstantFanIn(), mask, weight, gradient)
    np.testing.assert_array_equal(same.mask, update.mask)


def test_rigl_exchanges_blocks():
    mask = np.kron([[1, 1], [0, 0]], np.ones((2, 2)))
    weight = np.kron([[3, 0.5], [0, 0]], np.ones((2, 2)))
    gradient = np.kron([[0, 0], [1, 2]], [[1, 1], [1, 1.5]])
    update = rigl_on(Block(2, 2), mask, weight, gradient)
    np.testing.assert_array_equal(update.mask, np.kron([[1, 0], [0, 1]], np.ones((2, 2))) > 0)


def test_gradual_pruning_goes_through_wider_groups():
    weights = scores_for((8, 5)) + 0.1
    before, seen = kernel(np.ones((8, 5), bool), weights)._replace(structure=NM(2, 4)), []
    for sparsity in (0.0, 0.2, 0.25, 0.4, 0.5):
        prune = updaters.Prune(sparsity=schedules.Constant(sparsity))
        update = prune.update([before], CONTEXT)[0]
        counts = np.unique(update.mask.numpy().reshape(2, 4, 5).sum(axis=1))
        seen.append(counts.tolist())
        before = before._replace(mask=update.mask, weight=update.weight)
    assert seen == [[4], [4], [3], [3], [2]]
    np.testing.assert_array_equal(before.mask, by_definition(NM(2, 4), weights, 20, np.ones((8, 5), bool)))


def test_redistribution_moves_blocks():
    structure = Block(2, 2)
    mask = np.kron([[1, 1], [0, 0]], np.ones((2, 2))) > 0
    kernels = [
        kernel(mask, scores_for((4, 4)) + 1, momentum=np.full((4, 4), size))._replace(structure=structure)
        for size in (1.0, 3.0)
    ]
    updates = updaters.SNFS(drop_fraction=schedules.Constant(1.0)).update(kernels, CONTEXT)
    assert [int(structure.count(u.mask)) for u in updates] == [1, 3]


# --- SRigL ---


def srigl(mask, weight, gradient, fraction, threshold=0.5, spare=0, never_ablated=(0,)) -> updaters.Update:
    mask = np.array(mask, bool)
    marks = (np.arange(mask.size) < spare).reshape(mask.shape)
    before = kernel(mask, weight, gradient, spare=marks)._replace(structure=ConstantFanIn())
    updater = updaters.SRigL(
        drop_fraction=schedules.Constant(fraction), ablation_threshold=threshold, never_ablated=never_ablated
    )
    # The second kernel is there so that one is never ablated.
    return updater.update([before, before] if never_ablated == (1,) else [before], CONTEXT)[0]


MASK = [[1, 1, 0], [1, 1, 0], [0, 0, 1], [0, 0, 1]]
WEIGHT = [[5, 1, 0], [6, 2, 0], [0, 0, 7], [0, 0, 8]]
GRADIENT = [[1, 1, 9], [1, 1, 1], [5, 2, 1], [4, 3, 1]]


def test_a_neuron_without_salient_weights_is_ablated():
    # The second neuron's weights are the smallest and leave; the best gradients outside are 9 (of the third) and 5.
    update = srigl(MASK, WEIGHT, GRADIENT, 0.34, never_ablated=(1,))
    # Its two weights go to the others: fan-in 3. The first takes row 2 (5), the third row 0 (9).
    assert update.mask.numpy().astype(int).T.tolist() == [[1, 1, 1, 0], [0, 0, 0, 0], [1, 0, 1, 1]]
    np.testing.assert_array_equal(update.grown, update.mask & ~np.array(MASK, bool))
    assert int(tf.reduce_sum(update.state["spare"])) == 0


def test_without_ablation_every_neuron_keeps_its_fan_in():
    for update in (
        srigl(MASK, WEIGHT, GRADIENT, 0.34),
        srigl(MASK, WEIGHT, GRADIENT, 0.34, threshold=0.0, never_ablated=(1,)),
    ):
        # The second takes the two best of its gradients, rows 3 and 2.
        assert update.mask.numpy().astype(int).T.tolist() == [[1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]


def test_what_a_division_leaves_is_remembered_and_used():
    mask = np.zeros((6, 4), bool)
    mask[:2] = True
    weight = np.where(mask, [[9, 9, 9, 0.1]] * 6, 0)
    gradient = np.zeros((6, 4))
    gradient[2:4, 0] = 1
    update = srigl(mask, weight, gradient, 0.25, never_ablated=(1,))
    # 8 weights over 3 neurons: a fan-in of 2, and 2 over.
    assert update.mask.numpy().sum(axis=0).tolist() == [2, 2, 2, 0]
    assert int(tf.reduce_sum(update.state["spare"])) == 2
    again = srigl(update.mask.numpy(), weight * 1.0, gradient, 0.0, spare=3, never_ablated=(1,))
    # 6 and 3 over are a fan-in of 3.
    assert again.mask.numpy().sum(axis=0).tolist() == [3, 3, 3, 0]
    assert int(tf.reduce_sum(again.state["spare"])) == 0


def test_ablated_neurons_stay_away_and_full_ones_take_no_more():
    mask = np.array([[1, 0], [1, 0], [1, 0]], bool)
    gradient = [[0, 99], [0, 99], [0, 99]]
    update = srigl(mask, np.where(mask, 1.0, 0.0), gradient, 0.5, spare=3, never_ablated=(1,))
    np.testing.assert_array_equal(update.mask, mask)
    assert int(tf.reduce_sum(update.state["spare"])) == 3


def test_never_all_neurons_are_ablated():
    mask = np.array([[1, 1], [1, 1], [0, 0], [0, 0]], bool)
    update = srigl(mask, np.ones((4, 2)), -np.ones((4, 2)), 1.0, threshold=1.0, never_ablated=(1,))
    assert np.all(update.mask.numpy().sum(axis=0) == 2)


# --- names, and what cannot be ---


@pytest.mark.parametrize("structure", [*ALL, NM(1, 16), Block(1, 8), Block(2, 4, pooling="max")], ids=str)
def test_names_are_read_back(structure):
    assert parse(str(structure)) == structure


def model_with(structure, sparsity=None, **settings) -> Masks:
    model = keras.Sequential([keras.Input((8,)), layers.Dense(6, name="a"), layers.Dense(4, name="b")])
    return api.sparsify(model, sparsity, structure=structure, **settings)


def optimizer_of(structure, updater) -> SparseOptimizer:
    return SparseOptimizer(keras.optimizers.SGD(0.1), model_with(structure), updater)


CUBIC = schedules.PolynomialSparsity(initial=0.0, final=0.8, begin=2, end=8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NM(4, 4), r"0 < n < m; got 4:4, give for example NM\(2, 4\)"),
        (lambda: Block(0, 4), "sides of at least 1; got block:0x4"),
        (lambda: Block(4, 4, pooling="min"), "pooled by 'mean' or 'max'; got 'min'"),
        (lambda: parse("2/4"), "Unknown structure '2/4': use N:M such as '2:4'"),
        (lambda: model_with(NM(2, 4), 0.9), "Structure 2:4 has a sparsity of 0.5, not 0.9"),
        (lambda: model_with(NM(2, 4), custom={"a": 0.75}), "2:4 sparsity leaves 0.5000 of the weights, not 0.2500"),
        (lambda: optimizer_of(NM(2, 4), updaters.SNFS(end_step=9)), "SNFS with redistribute=True changes .* 2:4"),
        (lambda: optimizer_of(Channel(), updaters.RigL(end_step=9, redistribute=True)), "pass redistribute=False"),
        (lambda: optimizer_of(NM(2, 4), updaters.MEST(end_step=9, soft_bound=True)), "pass soft_bound=False"),
        (lambda: optimizer_of(NM(2, 4), updaters.Prune(sparsity=CUBIC, end_step=8)), "sparsity of 0.5, not 0.8"),
        (lambda: optimizer_of(NM(2, 4), updaters.GraNet(sparsity=CUBIC, end_step=8)), "sparsity of 0.5, not 0.8"),
        (lambda: optimizer_of(UNSTRUCTURED, updaters.SRigL(end_step=9)), "needs a constant fan-in and the masks are"),
        (
            lambda: optimizer_of(ConstantFanIn(), updaters.SRigL(end_step=9, never_ablated=(2,))),
            r"never_ablated=\(2,\) names no",
        ),
        (lambda: updaters.SRigL(end_step=9, ablation_threshold=3), "ablation_threshold is 3; give a fraction"),
    ],
)
def test_what_cannot_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_one_shot_pruning_to_a_sparsity_that_cannot_be(tiny_model):
    model = tiny_model("mlp")
    kernels = api.sparse_kernels(model)
    rules = api.kernel_structures(model, kernels.values(), NM(2, 4))
    with pytest.raises(ValueError, match="Structure 2:4 has a sparsity of 0.5, not 0.8"):
        oneshot.Magnitude(sparsity=0.8).masks(Objective(model), kernels, structures=rules)
