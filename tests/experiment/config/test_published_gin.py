"""The gin files that rigl_tf2 publishes are understood as they are: what each binds, without its comments."""

import dataclasses

import gin
import numpy as np
import pytest

from sparse_lib import oneshot, updaters
from sparse_lib.experiment.config import gin_files, gin_names
from sparse_lib.experiment.config.experiment import Experiment
from sparse_lib.experiment.runtime.errors import SettingError
from sparse_lib.experiment.storage import files
from sparse_lib.experiment.training.build import build_run
from tests.experiment import tiny

NO_PRUNING = """
pruning.mode = 'constant'
pruning.final_sparsity = 0.
pruning.begin_step = 100000000
"""
LENGTH = """
training.total_steps = 11719
training.batch_size = 128
training.save_freq = 500
training.log_freq = 200
"""
MOMENTUM = """
optimizer.name = "momentum"
optimizer.learning_rate = {rate}
optimizer.momentum = 0.9
optimizer.clipvalue = None
optimizer.clipnorm = None
"""
PLAIN = """
training.use_metainit = False
training.gradient_regularization=0
"""
MASKS = """
network.mask_init_path = '/tmp/sparse_spectrum/ckpt-11719'
network.weight_init_method = None
"""
TICKET = """
network.mask_init_path = '/tmp/sparse_spectrum/ckpt-11719'
network.weight_init_path = '/tmp/sparse_spectrum/ckpt-0'
"""
UPDATES = """
unit_scaled_init.method='fanin_normal'
mask_updater.update_alg = '{name}'
mask_updater.schedule_alg = 'lr'
mask_updater.update_freq = {frequency}
mask_updater.init_drop_fraction = {drop}
mask_updater.last_update_step=-1
"""
LENET5 = """
network.network_name = 'lenet5'
network.weight_decay = 0.0005
lenet5.hidden_sizes = {sizes}
lenet5.use_batch_norm = False
"""
MLP = """
network.network_name = 'mlp'
network.weight_decay = 0.0001
"""
PRUNE = """
network.mask_init_path = None
pruning.mode = 'prune'
pruning.initial_sparsity = 0.0
pruning.final_sparsity = {sparsity}
pruning.begin_step = 3000
pruning.end_step = 7000
pruning.frequency = 100
"""
ONE_SHOT = """
network.weight_decay = 0.0002
pruning.mode = 'constant'
pruning.final_sparsity = 0.
training.oneshot_prune_fraction = 0.95
training.val_batch_size = 5000
pruning.begin_step = 100000000
mask_updater.update_alg = '{name}'
mask_updater.last_update_step=0
"""


def dynamic(name, rate, decay, drop):
    updates = UPDATES.format(name=name, frequency=100, drop=drop)
    settings = f"network.weight_decay = {decay}\n"
    return PLAIN + LENGTH + MOMENTUM.format(rate=rate) + MASKS + settings + NO_PRUNING + updates


def mlp_dynamic(name):
    updates = UPDATES.format(name=name, frequency=500, drop=0.3)
    return "training.use_metainit = False\n" + MASKS + NO_PRUNING + updates


def one_shot(name):
    return PLAIN + LENGTH + MOMENTUM.format(rate=0.1) + ONE_SHOT.format(name=name)


SLOW_RATE, FAST_RATE = MOMENTUM.format(rate=0.05), MOMENTUM.format(rate=0.2)
AUTO = """
unit_scaled_init.method='fanin_normal'
mask_updater.update_alg = 'riglauto'
mask_updater.autorigl_lrcoef = 1
mask_updater.update_freq = 100
mask_updater.last_update_step=-1
"""
PUBLISHED = {
    "dense": LENGTH + LENET5.format(sizes=(6, 16, 120, 84)) + SLOW_RATE + NO_PRUNING,
    "small_dense": LENGTH + LENET5.format(sizes=(3, 3, 27, 20)) + SLOW_RATE + NO_PRUNING,
    "prune": LENGTH + LENET5.format(sizes=(6, 16, 120, 84)) + SLOW_RATE + PRUNE.format(sparsity=0.95),
    "lottery": LENGTH + SLOW_RATE + TICKET + NO_PRUNING,
    "scratch": PLAIN
    + LENGTH
    + SLOW_RATE
    + MASKS
    + "network.shuffle_mask = False\nnetwork.weight_decay = 0.0005\n"
    + NO_PRUNING,
    "rigl": dynamic("rigl", 0.05, 0.0005, 0.3),
    "set": dynamic("set", 0.05, 0.0005, 0.3),
    "rigl_s": dynamic("rigl_s", 0.1, 0.0002, 0.1),
    "rigl_grasp": dynamic("rigl_grasp", 0.1, 0.0002, 0.05),
    "rigl_auto": PLAIN
    + LENGTH
    + MOMENTUM.format(rate=0.1)
    + MASKS
    + "network.weight_decay = 0.0002\n"
    + NO_PRUNING
    + AUTO,
    "snip": one_shot("rigl_s"),
    "grasp": one_shot("rigl_grasp"),
    "mlp_dense": LENGTH + MLP + FAST_RATE + NO_PRUNING,
    "mlp_small_dense": LENGTH + MLP + "mlp.hidden_sizes = (8, 8)\n" + FAST_RATE + NO_PRUNING,
    "mlp_prune": LENGTH + MLP + FAST_RATE + PRUNE.format(sparsity=0.98),
    "mlp_lottery": TICKET + NO_PRUNING,
    "mlp_scratch": "training.use_metainit = False\n" + MASKS + "network.shuffle_mask = False\n" + NO_PRUNING,
    "mlp_rigl": mlp_dynamic("rigl"),
    "mlp_set": mlp_dynamic("set"),
}
HESSIAN = """
hessian.batch_size = 60000
hessian.rows_at_once = 2
hessian.ckpt_ids = [100, 200, 300, 400, 500, 600, 700, 800, 900, 1000, 1100, 1200, 1300, 1400, 1500, 1600, 1700, 1800,
  1900, 2000, 2500, 3000, 3500, 4000, 4500, 5000, 5500, 6000, 6500, 7000, 7500, 8000, 8500, 9000, 9500, 10000, 10500,
  11000, 11500]
hessian.overwrite = True
"""
INTERPOLATE = """
interpolate.i_start = -0.20
interpolate.i_end = 1.20
interpolate.n_interpolation = 29
"""
METHODS = {
    "prune": updaters.Prune,
    "rigl": updaters.RigL,
    "set": updaters.SET,
    "rigl_s": updaters.RigLSNIP,
    "rigl_grasp": updaters.RigLGraSP,
    "rigl_auto": updaters.RigLAuto,
}
# What the test shortens; everything else of a file stays as it is published.
SHORT = ["training.total_steps = 12", "training.log_freq = 12", "training.save_freq = 12", "training.batch_size = 16"]
SHORT += ["training.val_batch_size = 60", "oneshot.examples = 60", "training.jit_compile = False"]
SHORT_UPDATES = ["mask_updater.update_freq = 4"]
SHORT_PRUNING = ["pruning.begin_step = 2", "pruning.end_step = 8", "pruning.frequency = 2"]
FAST = ("mlp_rigl", "mlp_lottery", "snip")


@pytest.fixture(autouse=True)
def clean_gin():
    gin.clear_config()
    yield
    gin.clear_config()


def described(folder, text, bindings=()):
    """The experiment of a file that holds this text, as it lies on a user's disk."""
    folder.mkdir(exist_ok=True)
    file = folder / "published.gin"
    file.write_text(text)
    gin.clear_config()
    gin_files.parse([str(file)], bindings)
    return Experiment.from_gin()


@pytest.mark.parametrize("name", PUBLISHED)
def test_is_understood_unmodified(name, tmp_path):
    made = described(tmp_path, PUBLISHED[name])
    # The published MLP files that name no network rely on the configuration of the pruning run.
    assert made.network.network_name == ("mlp" if "network_name = 'mlp'" in PUBLISHED[name] else "lenet5")
    assert made.training.total_steps == (11_719 if "total_steps" in PUBLISHED[name] else 5_000)
    assert made.pruning.build() is None or "prune" in name


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """Tiny runs of the published prune.gin, with their operative configurations, made when they are asked for."""
    made = {}

    def of(prefix):
        if prefix not in made:
            folder = tmp_path_factory.mktemp(f"{prefix}prune")
            tiny.train(described(folder, PUBLISHED[f"{prefix}prune"], [*SHORT, *SHORT_PRUNING]), folder / "run")
            (folder / "operative_config.gin").write_text(gin.operative_config_str())
            made[prefix] = folder
        return made[prefix]

    return of


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in FAST else pytest.mark.slow) for n in PUBLISHED])
def test_trains(name, pruned, tmp_path):
    prefix = "mlp_" if name.startswith("mlp_") else ""
    mode, text = name.removeprefix("mlp_"), PUBLISHED[name]
    bindings = list(SHORT)
    if "frequency" in text:
        bindings += SHORT_PRUNING
    if "update_freq" in text:
        bindings += SHORT_UPDATES
    preload = []
    for path, checkpoint in (("mask_init_path", "ckpt-12"), ("weight_init_path", "ckpt-0")):
        if f"network.{path} = '/tmp" in text:
            bindings.append(f"network.{path} = '{pruned(prefix) / 'run' / checkpoint}'")
            preload = [str(pruned(prefix) / "operative_config.gin")]
    file = tmp_path / "published.gin"
    file.write_text(text)
    gin.clear_config()
    gin_files.parse([*preload, str(file)], bindings)
    made = Experiment.from_gin()
    assert made.network.network_name == ("mlp" if prefix else "lenet5")
    result = tiny.train(made, tmp_path / "run")
    assert np.isfinite(result["test_loss"])

    method = METHODS.get(mode, updaters.Static)
    assert type(build_run(made, fresh=False).optimizer.updater) is method
    assert (tmp_path / "run" / files.MASK_UPDATES).exists() == (method is not updaters.Static)
    is_dense = mode in ("dense", "small_dense")
    assert result["sparsity"] == pytest.approx(0 if is_dense else 0.98 if prefix else 0.95, abs=1e-3)


@pytest.mark.parametrize("name", PUBLISHED)
def test_pairs_around_updates_are_saved_as_there(name, tmp_path):
    made = described(tmp_path, PUBLISHED[name])
    updates = name.removeprefix("mlp_") in ("rigl", "set", "rigl_s", "rigl_grasp", "rigl_auto")
    assert made.training.save_update_pairs == updates
    assert not described(tmp_path, PUBLISHED[name], ["training.save_update_pairs = False"]).training.save_update_pairs


@pytest.mark.parametrize("name", ["snip", "grasp"])
def test_one_shot_scores_are_of_as_many_images_as_there(name, tmp_path, monkeypatch):
    made = described(tmp_path, PUBLISHED[name], ["lenet5.hidden_sizes = (2, 3, 10, 8)"])
    seen = []

    def scored(self, objective, kernels, batches, **_):
        seen.append(sum(len(y) for _, y in batches))
        return [np.ones(kernel.shape, bool) for kernel in kernels.values()]

    for method in oneshot.METHODS.values():
        monkeypatch.setattr(method, "masks", scored)
    for bound in (100, 700, 5000):
        made = dataclasses.replace(made, training=dataclasses.replace(made.training, val_batch_size=bound))
        build_run(made, fresh=True)
    # The digits have 1,257 training images.
    assert seen == [100, 700, 1257]
    named = dataclasses.replace(made, oneshot=dataclasses.replace(made.oneshot, method=name))
    build_run(named, fresh=True)
    assert seen[-1] == 1000


def test_seeds_may_be_called_stateless(tmp_path):
    for value in (True, False):
        made = described(tmp_path, PUBLISHED["set"], [f"mask_updater.use_stateless = {value}"])
        assert made.mask_updater.use_stateless is value


def test_growth_and_schedules_of_the_tf1_code(tmp_path):
    """`--drop_fraction_anneal=exponential_3 --grow_init=grad_scale_10` and its schedule from step 200 to 1,000."""
    bindings = ["mask_updater.growth_init = 'grad_scale_10'", "mask_updater.init_drop_fraction = 0.4"]
    bindings += ["mask_updater.begin_step = 200", "mask_updater.last_update_step = 1000", "masks.sparsity = 0.5"]
    # Half-way: (1/2)^3 of the fraction, half of it, and (1/2)^(1/2).
    for schedule, begins, half in (
        ("exponential_3", "0", 0.05),
        ("exponential_.5", "0", 0.4 * 0.5**0.5),
        ("exponential", "0", 0.2),
        ("cosine", "'begin_step'", 0.2),
        ("power", "'begin_step'", 0.05),
        ("power", "200", 0.05),
    ):
        made = described(
            tmp_path,
            "mask_updater.update_alg = 'rigl'\n",
            [*bindings, f"mask_updater.schedule_alg = '{schedule}'", f"mask_updater.anneal_begin = {begins}"],
        )
        updater = made.mask_updater.build(None, lambda _: 0.1, peak_rate=0.1, total_steps=2000, dense_start=False)
        assert updater.growth_init == "grad_scale_10"
        found = [updater.drop_fraction_at(step) for step in (0, 200, 600, 1000)]
        np.testing.assert_allclose(found, [0.4, 0.4, half, 0], rtol=1e-5, atol=1e-7)
    for binding in ("schedule_alg = 'exponential_0'", "schedule_alg = 'cosine_3'", "growth_init = 'grad_scal_3'"):
        with pytest.raises(SettingError, match=binding.split(" ")[0]):
            described(tmp_path, "", [f"mask_updater.{binding}"])


def test_analyses_are_understood(tmp_path):
    described(tmp_path, HESSIAN + INTERPOLATE)
    hessian, interpolate = gin_names.hessian(), gin_names.interpolate()
    assert (hessian.batch_size, hessian.rows_at_once, hessian.overwrite) == (60_000, 2, True)
    assert hessian.is_dense_spectrum is False
    assert list(hessian.ckpt_ids) == [*range(100, 2000, 100), *range(2000, 11_719, 500)]
    assert (interpolate.i_start, interpolate.i_end, interpolate.n_interpolation) == (-0.2, 1.2, 29)


def test_the_published_readme_is_understood(tmp_path):
    bindings = ['network.weight_init_method="unit_scaled"', 'unit_scaled_init.init_method="faninout_uniform"']
    made = described(tmp_path, PUBLISHED["mlp_dense"], [*bindings, "masks.sparsity = 0.5"])
    build_run(made, fresh=True)
    assert made.initializer.init_method == "faninout_uniform"
