"""Where masks and weights come from, one source at a time and together."""

import re

import numpy as np
import pytest
import tensorflow as tf

from sparse_lib.api import sparsify
from sparse_lib.experiment.config.mask_updates import schedule_warning
from sparse_lib.experiment.config.network import LayerScaledSettings, UnitScaledSettings
from sparse_lib.experiment.modes import held_out_growth
from sparse_lib.experiment.runtime.errors import RunError, SettingError
from sparse_lib.experiment.storage.checkpoints import Reader
from sparse_lib.experiment.training.build import build_model, build_run
from sparse_lib.updaters import GraNet, RigL, RigLAuto, RigLGraSP, Static
from tests.experiment import tiny

SIZES = [784 * 12, 12 * 8, 8 * 10]


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """A finished pruning run with a checkpoint between."""
    directory = tmp_path_factory.mktemp("pruned") / "run"
    pruning = {"mode": "prune", "final_sparsity": 0.8, "begin_step": 4, "end_step": 16, "frequency": 4}
    tiny.train(tiny.experiment(pruning=pruning), directory)
    return directory


def built(**settings):
    return build_run(tiny.experiment(**settings), fresh=True)


def masks_of(made):
    return [mask.numpy() for mask in made.optimizer.masks.values()]


def weights_of(made):
    return {v.path: v.numpy() for v in made.model.variables}


def stored(directory, group):
    reader = Reader(directory)
    names = {"model": [f"mlp/dense{i}/{w}" for i in (1, 2, 3) for w in ("kernel", "bias")]}
    names["masks"] = [f"dense{i}/kernel" for i in (1, 2, 3)]
    return {name: reader.read(group, name) for name in names[group]}


def assert_equal(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def dense_weights(seed=0):
    return weights_of(built(training={"seed": seed}))


def masked(values, masks):
    """Dense weights by path, the kernels masked."""
    of_kernel = dict(zip([name for name in values if name.endswith("kernel")], masks, strict=True))
    return [np.where(of_kernel[name], v, 0) if name in of_kernel else v for name, v in values.items()]


def test_without_a_source_everything_is_active():
    made = built()
    assert all(mask.all() for mask in masks_of(made)) and isinstance(made.optimizer.updater, Static)


def test_scratch_takes_the_masks_of_a_checkpoint_and_fresh_weights(pruned):
    def scratch(seed):
        return built(network={"mask_init_path": str(pruned)}, training={"seed": seed})

    first, again, other = (list(weights_of(scratch(seed)).values()) for seed in (0, 0, 1))
    masks = list(stored(pruned, "masks").values())
    assert_equal(masks_of(scratch(0)), masks)
    assert_equal(first, again)
    # With the seed of the pruned run, too: else it would be the lottery ticket.
    started = stored(pruned / "ckpt-0", "model")
    for weight, seeded, ticket in zip(first[::2], other[::2], list(started.values())[::2], strict=True):
        mask = weight != 0
        assert mask.mean() == pytest.approx(0.2, abs=0.03)
        assert (weight[mask] != ticket[mask]).all() and (weight[mask] != seeded[mask]).all()


@pytest.mark.parametrize("step", [0, 12, 24])
def test_lottery_takes_weights_of_any_step(step, pruned):
    path = str(pruned / f"ckpt-{step}")
    made = built(network={"mask_init_path": str(pruned), "weight_init_path": path}, training={"seed": 5})
    weights, masks = stored(path, "model"), masks_of(made)
    assert_equal(masks, list(stored(pruned, "masks").values()))
    assert_equal([weights_of(made)[name] for name in weights], masked(weights, masks))


def test_prune_restart_starts_where_pruning_ended(pruned):
    made = built(network={"mask_init_path": str(pruned), "weight_init_path": str(pruned)})
    weights = stored(pruned, "model")
    assert_equal([weights_of(made)[name] for name in weights], list(weights.values()))
    assert int(made.optimizer.iterations.numpy()) == 0
    assert not any(slot.numpy().any() for slots in made.optimizer.slots for slot in slots)


def test_shuffled_masks_keep_the_layers_counts(pruned):
    network = {"mask_init_path": str(pruned), "shuffle_mask": True}
    first, again = masks_of(built(network=network)), masks_of(built(network=network))
    other = masks_of(built(network=network, training={"seed": 1}))
    source = list(stored(pruned, "masks").values())
    assert_equal(first, again)
    for mask, seeded, taken in zip(first, other, source, strict=True):
        assert mask.sum() == taken.sum() and (mask != taken).any() and (mask != seeded).any()


@pytest.mark.parametrize(
    ("settings", "counts"),
    [
        ({"distribution": "uniform", "sparsity": 0.9}, [941, 10, 8]),
        ({"distribution": "uniform", "sparsity": 0.9, "rounding": "ceil"}, [940, 9, 8]),
        ({"distribution": "uniform", "sparsity": 0.9, "first_layer_dense": True}, [9408, 10, 8]),
        ({"distribution": "uniform", "sparsity": 0.9, "custom": {"dense2": 0.0, "dense3/kernel": 0.5}}, [941, 96, 40]),
    ],
)
def test_random_masks_have_the_counts_of_their_distribution(settings, counts):
    first, again = masks_of(built(masks=settings)), masks_of(built(masks=settings))
    assert [int(mask.sum()) for mask in first] == counts
    assert_equal(first, again)
    other = masks_of(built(masks=settings, training={"seed": 1}))
    assert [int(mask.sum()) for mask in other] == counts
    assert (other[0] != first[0]).any() == (counts[0] != SIZES[0])


def test_erk_masks_are_those_of_sparsify():
    made, model = built(masks={"sparsity": 0.9}), build_model(tiny.experiment())
    assert_equal(masks_of(made), [mask.numpy() for mask in sparsify(model, 0.9, seed=0).values()])
    densities = [mask.mean() for mask in masks_of(made)]
    assert densities[0] < densities[1] < densities[2]


def test_a_custom_sparsity_of_no_layer_is_told():
    with pytest.raises(ValueError, match="conv9"):
        built(masks={"sparsity": 0.9, "custom": {"conv9": 0.5}})


@pytest.mark.parametrize("method", ["snip", "grasp", "synflow", "wanda", "magnitude", "random"])
def test_one_shot_pruning_keeps_the_share(method):
    made = built(training={"oneshot_prune_fraction": 0.8}, oneshot={"method": method})
    masks = masks_of(made)
    assert sum(int(mask.sum()) for mask in masks) == sum(SIZES) - int(0.8 * sum(SIZES))
    assert_equal(list(weights_of(made).values()), masked(dense_weights(), masks))
    if method == "magnitude":
        scores = np.concatenate([abs(v).ravel() for name, v in dense_weights().items() if name.endswith("kernel")])
        kept = np.concatenate([mask.ravel() for mask in masks])
        assert scores[kept].min() >= scores[~kept].max()


@pytest.mark.parametrize(("update_alg", "method"), [("rigl_s", "snip"), ("rigl_grasp", "grasp")])
def test_published_files_name_the_score_by_its_updater(update_alg, method):
    training = {"oneshot_prune_fraction": 0.8}
    named = built(training=training, mask_updater={"update_alg": update_alg, "last_update_step": 0})
    assert isinstance(named.optimizer.updater, Static)
    assert_equal(masks_of(named), masks_of(built(training=training, oneshot={"method": method})))


def test_a_checkpoint_wins_over_a_distribution(pruned):
    made = built(network={"mask_init_path": str(pruned)}, masks={"sparsity": 0.5})
    assert_equal(masks_of(made), list(stored(pruned, "masks").values()))


@pytest.mark.parametrize("initializer", [UnitScaledSettings(method="fanin_normal", scale=2.0), LayerScaledSettings()])
def test_sparse_aware_weights_are_drawn_on_the_mask(initializer):
    def kernels(seed):
        made = built(
            masks={"sparsity": 0.9, "distribution": "uniform"}, initializer=initializer, training={"seed": seed}
        )
        return [(k.numpy(), m.numpy()) for k, m in made.optimizer.masks]

    first = kernels(0)
    for (weight, mask), (again, _), (other, _) in zip(first, kernels(0), kernels(1), strict=True):
        np.testing.assert_array_equal(weight, again)
        assert not weight[~mask].any() and (weight[mask] != 0).all() and (weight != other).any()
    weight, mask = first[0]
    scaled = weight * np.sqrt(np.maximum(mask.sum(0), 1)) if isinstance(initializer, UnitScaledSettings) else None
    assert scaled is None or scaled[mask].var() == pytest.approx(2.0, rel=0.2)


def test_init_method_is_another_name_of_method():
    mask = tf.constant(np.random.default_rng(0).random((30, 20)) < 0.2)
    published = UnitScaledSettings(init_method="faninout_uniform")(mask, seed=3)
    np.testing.assert_array_equal(published, UnitScaledSettings(method="fanavg_uniform")(mask, seed=3))


def test_noise_falls_on_every_variable_and_not_off_the_mask():
    quiet, noisy = (built(masks={"sparsity": 0.5}, network={"noise_stddev": s}) for s in (0.0, 0.1))
    assert_equal(masks_of(quiet), masks_of(noisy))
    for kernel, mask in noisy.optimizer.masks:
        assert not kernel.numpy()[~mask.numpy()].any()
    gaps = [b - a for a, b in zip(weights_of(quiet).values(), weights_of(noisy).values(), strict=True)]
    assert all(gap.any() for gap in gaps)
    assert gaps[0][masks_of(quiet)[0]].std() == pytest.approx(0.1, rel=0.1)


def test_metainit_moves_norms_and_nothing_else():
    before, after = (built(masks={"sparsity": 0.5}, training={"use_metainit": use}) for use in (False, True))
    for (a, mask), (b, _) in zip(before.optimizer.masks, after.optimizer.masks, strict=True):
        ratio = b.numpy()[mask.numpy()] / a.numpy()[mask.numpy()]
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)
        assert ratio[0] != 1 and not b.numpy()[~mask.numpy()].any()


def test_a_run_that_goes_on_needs_no_source(pruned, tmp_path):
    of = tiny.experiment(network={"mask_init_path": str(tmp_path / "gone"), "weight_init_path": str(tmp_path / "gone")})
    with pytest.raises(RunError, match="no checkpoint"):
        build_run(of, fresh=True)
    build_run(of, fresh=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"training": {"oneshot_prune_fraction": 0.5}},
            r"needs a score: set oneshot\.method to magnitude, random, snip",
        ),
        (
            {"training": {"oneshot_prune_fraction": 0.5}, "oneshot": {"method": "snip"}, "masks": {"sparsity": 0.5}},
            r"would overwrite the masks of masks\.sparsity",
        ),
        ({"mask_updater": {"update_alg": "rigl"}}, r"'rigl' needs sparse masks to begin with: set masks\.sparsity"),
        ({"mask_updater": {"update_alg": "granet"}}, r"'granet' needs its sparsity schedule"),
        (
            {"mask_updater": {"update_alg": "set"}, "pruning": {"mode": "prune"}, "masks": {"sparsity": 0.5}},
            r"both change the masks",
        ),
        ({"network": {"pruned_layer_types": ("Conv2D",)}}, r"pruned_layer_types=\('Conv2D',\) names no layer"),
    ],
)
def test_settings_that_contradict_each_other_are_told(settings, message):
    with pytest.raises(SettingError, match=message):
        built(**settings)


def test_only_named_layer_types_are_sparse():
    made = build_run(
        tiny.experiment("lenet5", network={"pruned_layer_types": ("Conv2D",)}, masks={"sparsity": 0.5}), fresh=True
    )
    assert made.optimizer.masks.names == ["conv1/kernel", "conv2/kernel"]


def updater_of(**settings):
    return built(masks={"sparsity": 0.5}, **settings).optimizer.updater


def test_drop_fraction_follows_its_schedule():
    at = lambda updater, step: float(updater.fraction(tf.constant(step, tf.int64)))  # noqa: E731
    rate = updater_of(mask_updater={"update_alg": "rigl"})
    assert isinstance(rate, RigL) and [at(rate, s) for s in (0, 12, 24)] == pytest.approx([0.3, 0.15, 0], abs=1e-6)
    # The published cosine is 0 at every step where the last update is -1; here it ends with the run.
    cosine = updater_of(mask_updater={"update_alg": "set", "schedule_alg": "cosine"})
    assert [at(cosine, s) for s in (0, 12, 24)] == pytest.approx([0.3, 0.15, 0], abs=1e-6)
    power = updater_of(
        mask_updater={"update_alg": "snfs", "schedule_alg": "power", "last_update_step": 20, "update_freq": 5}
    )
    assert at(power, 10) == pytest.approx(0.3 * 0.5**3)
    constant = updater_of(mask_updater={"update_alg": "mest", "schedule_alg": "constant", "init_drop_fraction": 0.2})
    assert [at(constant, s) for s in (0, 24)] == pytest.approx([0.2, 0.2])


def test_drop_fraction_warms_up_with_the_learning_rate():
    updater = updater_of(mask_updater={"update_alg": "rigl"}, optimizer={"warmup_steps": 4})
    fractions = [float(updater.fraction(tf.constant(step, tf.int64))) for step in (0, 2, 4)]
    assert fractions == pytest.approx([0, 0.15, 0.3], abs=1e-6)


def test_each_method_takes_its_own_settings():
    updater = updater_of(mask_updater={"update_alg": "riglauto", "autorigl_lrcoef": 2.0, "update_freq": 7})
    assert isinstance(updater, RigLAuto) and (updater.coefficient, updater.frequency) == (2.0, 7)
    pruning = {"mode": "prune", "initial_sparsity": 0.5, "begin_step": 2, "end_step": 9}
    granet = {"update_alg": "granet", "last_update_step": 9, "update_freq": 3}
    made = updater_of(mask_updater=granet, pruning=pruning)
    assert isinstance(made, GraNet) and float(made.sparsity(9)) == pytest.approx(0.8)
    once = {"mode": "constant", "final_sparsity": 0.9}
    made = updater_of(mask_updater={**granet, "update_alg": "acdc"}, pruning={**once, "scope": "global"})
    assert (float(made.sparsity(9)), made.scope, made.end_step) == (pytest.approx(0.9), "global", 9)
    assert updater_of(mask_updater={"update_alg": "chts(exponents=(1.0, 9.0))"}).exponent(24) == 9.0
    assert updater_of(mask_updater={"update_alg": "snfs", "redistribute": False}).redistribute is False
    assert updater_of(mask_updater={"update_alg": "rigl", "replaces_step": False}).replaces_step is False
    once = updater_of(pruning={"mode": "constant", "final_sparsity": 0.9, "begin_step": 6})
    assert once.schedule.steps(0, 24) == [6]
    assert isinstance(updater_of(pruning={"mode": "constant", "final_sparsity": 0.0}), Static)


def test_held_out_growth_is_the_gradient_of_its_batch():
    made = built(masks={"sparsity": 0.5})
    validation = tiny.dataset().validation
    growth = held_out_growth(made.model, made.optimizer.masks, validation, 20, RigLGraSP(end_step=20))()
    x, y = validation.images[-20:], validation.labels[-20:]
    variables = made.model.trainable_variables
    with tf.GradientTape() as outer:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.keras.losses.sparse_categorical_crossentropy(y, made.model(x), from_logits=True))
        gradients = tape.gradient(loss, variables)
        aligned = made.optimizer.masks.aligned(variables)
        active = [g if m is None else tf.where(m, g, 0.0) for g, m in zip(gradients, aligned, strict=True)]
        inner = tf.add_n([tf.reduce_sum(g * tf.stop_gradient(a)) for g, a in zip(gradients, active, strict=True)])
    products = outer.gradient(inner, variables)
    kernels = [i for i, m in enumerate(aligned) if m is not None]
    for place, gradient, product in zip(kernels, growth.gradients, growth.hessian_gradients, strict=True):
        np.testing.assert_allclose(gradient, gradients[place], rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(product, products[place], rtol=1e-3, atol=1e-6)


ACDC = {
    "pruning": {"mode": "constant"},
    "mask_updater": {"update_alg": "acdc", "begin_step": 2, "update_freq": 2, "last_update_step": 8},
}


@pytest.mark.parametrize(
    ("settings", "total_steps", "sentence"),
    [
        ({"masks": {"sparsity": 0.5}, "mask_updater": {"update_alg": "rigl", "update_freq": 8}}, 9, ""),
        ({"masks": {"sparsity": 0.5}, "mask_updater": {"update_alg": "rigl", "update_freq": 8}}, 8, "at step 8, comes"),
        ({"pruning": {"mode": "prune", "begin_step": 2, "end_step": 6, "frequency": 2}}, 7, ""),
        (
            {"pruning": {"mode": "prune", "begin_step": 2, "end_step": 6, "frequency": 2}},
            6,
            r"0\.7000, not 0\.8: .* 4,",
        ),
        (
            {"pruning": {"mode": "prune", "begin_step": 2, "end_step": 6, "frequency": 3}},
            20,
            r"0\.7875, not 0\.8: .* 5,",
        ),
        ({"pruning": {"mode": "constant", "begin_step": 2}}, 2, "at step 2, comes"),
        (ACDC, 9, ""),
        (ACDC, 8, "all weights active: .* at step 6, decompressed"),
        ({}, 20, ""),
    ],
)
def test_a_schedule_that_outlasts_the_run_is_foreseen(settings, total_steps, sentence):
    found = schedule_warning(built(**settings).optimizer.updater, total_steps)
    assert re.search(sentence, found) if sentence else not found


def test_a_level_keeps_the_largest_trained_weights_of_the_level_before(pruned):
    made = built(
        network={"mask_init_path": str(pruned), "weight_init_path": str(pruned / "ckpt-0")},
        iterative_pruning={"fraction": 0.2},
    )
    start = stored(pruned / "ckpt-0", "model")
    trained = [value for name, value in stored(pruned, "model").items() if name.endswith("kernel")]
    before = list(stored(pruned, "masks").values())
    masks = masks_of(made)
    for mask, old, weight, fraction in zip(masks, before, trained, (0.2, 0.2, 0.1), strict=True):
        assert mask.sum() == old.sum() - int(fraction * old.sum()) and not (mask & ~old).any()
        assert abs(weight[mask]).min() >= abs(weight[old & ~mask]).max()
    # The weights are those of the start, the trained ones only rank.
    assert_equal([weights_of(made)[name] for name in start], masked(start, masks))


def test_rounds_remove_as_many_weights_as_so_many_levels(pruned):
    settings = {"fraction": 0.2, "rounds": 3, "output_rate": 1.0, "custom": {"dense2": 0.5}}
    masks = masks_of(built(network={"mask_init_path": str(pruned / "ckpt-0")}, iterative_pruning=settings))
    counts = list(SIZES)
    for _ in range(3):
        counts = [n - int(f * n) for n, f in zip(counts, (0.2, 0.5, 0.2), strict=True)]
    assert [int(mask.sum()) for mask in masks] == counts


def test_iterative_pruning_needs_a_checkpoint_to_prune():
    with pytest.raises(SettingError, match="mask_init_path"):
        built(iterative_pruning={"fraction": 0.2})


def test_inverted_masks_are_the_complement(pruned):
    masks = masks_of(built(network={"mask_init_path": str(pruned), "invert_mask": True}))
    assert_equal(masks, [~mask for mask in stored(pruned, "masks").values()])


def test_signs_change_on_the_masks_of_the_ticket(pruned):
    network = {"mask_init_path": str(pruned), "weight_init_path": str(pruned / "ckpt-0")}
    tickets, flipped, constant = (
        [kernel.numpy() for kernel, _ in built(network={**network, "weight_init_signs": how}).optimizer.masks]
        for how in (None, "flip:0.25", "constant")
    )
    start = [value for name, value in stored(pruned / "ckpt-0", "model").items() if name.endswith("kernel")]
    for ticket, other, one, dense in zip(tickets, flipped, constant, start, strict=True):
        np.testing.assert_array_equal(abs(ticket), abs(other))
        assert (ticket != other).sum() == int(0.25 * np.count_nonzero(ticket))
        np.testing.assert_array_equal(np.sign(one), np.sign(ticket))
        np.testing.assert_allclose(abs(one[ticket != 0]), dense.std(), rtol=1e-6)
