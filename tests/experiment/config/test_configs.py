"""The modes of configs/ and mlp_configs/: what each binds, and that it trains from end to end on the real digits."""

import dataclasses
import pathlib
import re

import gin
import numpy as np
import pytest

from sparse_lib import updaters
from sparse_lib.experiment.config import gin_files, gin_names
from sparse_lib.experiment.config.experiment import Experiment
from sparse_lib.experiment.storage import files
from sparse_lib.experiment.storage.checkpoints import Reader
from sparse_lib.experiment.training.build import build_model, build_run
from tests.experiment import tiny

ROOT = pathlib.Path(__file__).parents[3]
FOLDERS = {"configs": "lenet5", "mlp_configs": "mlp"}
# What is shared, and what belongs to the other entry points.
NO_TRAINING = ("base", "hessian", "instability", "interpolate", "surface")
PATHS = sorted(path for folder in FOLDERS for path in (ROOT / folder).glob("*.gin") if path.stem not in NO_TRAINING)
NAMES = [f"{path.parent.name}/{path.stem}" for path in PATHS]
# One of each kind of mask source, weight source and updater; the others are left to the slow tests.
FAST = ("mlp_configs/granet", "mlp_configs/lottery", "configs/rigl")

SHORT = [
    "training.total_steps = 24",
    "training.batch_size = 32",
    "training.log_freq = 12",
    "training.save_freq = 12",
    "training.val_batch_size = 64",
    "training.jit_compile = False",
    "oneshot.examples = 64",
    "UPDATE_FREQ = 5",
]
PRUNING = ["pruning.begin_step = 4", "pruning.end_step = 16", "pruning.frequency = 4"]
ACDC = {"begin_step": 4, "update_freq": 4, "last_update_step": 20}
SMALL = {"lenet5": "lenet5.hidden_sizes = (2, 4, 12, 8)", "mlp": "mlp.hidden_sizes = (20, 12)"}
UPDATERS = {
    "acdc": updaters.ACDC,
    "cht": updaters.CHT,
    "chts": updaters.CHTs,
    "dnw": updaters.DNW,
    "granet": updaters.GraNet,
    "mest": updaters.MEST,
    "nm": updaters.RigL,
    "prune": updaters.Prune,
    "prune_global": updaters.Prune,
    "rigl": updaters.RigL,
    "rigl_from_prune": updaters.RigL,
    "rigl_inverted": updaters.RigLInverted,
    "set": updaters.SET,
    "set_from_prune": updaters.SET,
    "snfs": updaters.SNFS,
    "snfs_per_layer": updaters.SNFS,
    "srigl": updaters.SRigL,
    "static_reinit": updaters.StaticReinit,
    "topkast": updaters.TopKAST,
}
FROM_PRUNING = ("lottery", "lottery_rewind", "prune_restart", "rigl_from_prune", "scratch", "scratch_plus")
FROM_PRUNING += ("scratch_shuffled", "set_from_prune")


@pytest.fixture(autouse=True)
def clean_gin():
    gin.clear_config()
    yield
    gin.clear_config()


def experiment(path: pathlib.Path, bindings=()) -> Experiment:
    gin.clear_config()
    gin_files.parse([str(path)], bindings)
    return Experiment.from_gin()


def shortened(path: pathlib.Path, pruned: pathlib.Path | None) -> Experiment:
    """The experiment of a file, on a schedule of 24 steps and, unless its sizes are the point, a small network."""
    bindings = list(SHORT)
    if path.stem == "acdc":
        bindings += [f"mask_updater.{name} = {step}" for name, step in ACDC.items()]
    if path.stem in ("prune", "prune_global", "granet"):
        bindings += PRUNING if path.stem != "granet" else [*PRUNING[:2], "mask_updater.last_update_step = 20"]
    if path.stem != "small_dense":
        bindings.append(SMALL[FOLDERS[path.parent.name]])
    if pruned is not None:
        bindings += [f"PRUNED_RUN = '{pruned}'", f"PRUNED_START = '{pruned}/ckpt-0'"]
    if path.stem == "lottery_rewind":
        bindings.append(f"network.weight_init_path = '{pruned}/ckpt-12'")
    return experiment(path, bindings)


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """Runs of prune.gin, each made when the first test asks for it."""
    made: dict[str, pathlib.Path] = {}

    def of(folder: str) -> pathlib.Path:
        if folder not in made:
            made[folder] = tmp_path_factory.mktemp(folder) / "prune"
            tiny.train(shortened(ROOT / folder / "prune.gin", None), made[folder])
        return made[folder]

    return of


# What the folders differ in: the networks, and numbers and paths that belong to them.
NETWORK_LINE = re.compile(r"^(?:lenet5|mlp)\.hidden_sizes = .*|# (?:20 times fewer|6,416 weights).*$", re.MULTILINE)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.gin")), ids=lambda path: path.stem)
def test_both_folders_have_the_same_files_but_for_the_network(path):
    def normalize(text):
        for word in ("../configs/", "mlp_", "mlp", "MLP", "lenet5", "LeNet5"):
            text = text.replace(word, "")
        return text

    lenet5, mlp = (NETWORK_LINE.sub("", (ROOT / folder / path.name).read_text()) for folder in FOLDERS)
    assert normalize(mlp.replace("the MLP", "MLP")) == normalize(lenet5)
    assert mlp.startswith("# ") and mlp.count("include '../configs/") == lenet5.count("include '") >= 1


def test_there_is_no_other_file_and_every_mode_is_tested():
    names = [{path.name for path in (ROOT / folder).glob("*.gin")} for folder in FOLDERS]
    assert names[0] == names[1]
    assert set(UPDATERS) | set(FROM_PRUNING) <= set(SETTINGS) == {path.stem for path in PATHS}


RANDOM = {"masks.sparsity": 0.95, "network.weight_init_method": "unit_scaled"}
PRUNING_SCHEDULE = {
    "pruning.mode": "prune",
    "pruning.final_sparsity": 0.95,
    "pruning.begin_step": 3000,
    "pruning.end_step": 7000,
    "pruning.frequency": 100,
}
TICKET = {"network.mask_init_path": "runs/prune"}


def updated_by(method, **others):
    settings = {f"mask_updater.{name}": value for name, value in others.items()}
    return {"mask_updater.update_alg": method, "mask_updater.update_freq": 100, **settings}


def one_shot(method):
    return {"training.oneshot_prune_fraction": 0.95, "oneshot.method": method}


# The settings of every LeNet5 mode that are not the default of the setting, next to those that all modes share.
SETTINGS = {
    "dense": {},
    "small_dense": {"lenet5.hidden_sizes": (3, 3, 27, 20)},
    "static": RANDOM,
    "static_reinit": {**RANDOM, **updated_by("static_reinit")},
    "prune": PRUNING_SCHEDULE,
    "prune_global": {**PRUNING_SCHEDULE, "pruning.scope": "global"},
    "lottery": {**TICKET, "network.weight_init_path": "runs/prune/ckpt-0"},
    "lottery_rewind": {**TICKET, "network.weight_init_path": "runs/prune/ckpt-500"},
    "prune_restart": {**TICKET, "network.weight_init_path": "runs/prune"},
    "scratch": TICKET,
    "scratch_plus": {**TICKET, "network.weight_init_method": "unit_scaled"},
    "scratch_shuffled": {**TICKET, "network.weight_init_method": "unit_scaled", "network.shuffle_mask": True},
    "rigl": {**RANDOM, **updated_by("rigl")},
    "rigl_inverted": {**RANDOM, **updated_by("rigl_inverted")},
    "rigl_from_prune": {**TICKET, **updated_by("rigl")},
    "set": {**RANDOM, **updated_by("set")},
    "set_from_prune": {**TICKET, **updated_by("set")},
    "snfs": {**RANDOM, **updated_by("snfs")},
    "snfs_per_layer": {**RANDOM, **updated_by("snfs", redistribute=False)},
    "nm": {**RANDOM, **updated_by("rigl"), "masks.structure": "2:4", "masks.sparsity": 0.5},
    "srigl": {**RANDOM, **updated_by("srigl"), "masks.structure": "constant_fan_in"},
    "mest": {**RANDOM, **updated_by("mest", mest_soft_bound=True)},
    "granet": {
        **RANDOM,
        "masks.sparsity": 0.5,
        "pruning.mode": "prune",
        "pruning.initial_sparsity": 0.5,
        "pruning.final_sparsity": 0.95,
        "pruning.begin_step": 500,
        "pruning.end_step": 7000,
        **updated_by("granet", schedule_alg="cosine", init_drop_fraction=0.5, last_update_step=7000),
    },
    "cht": {**RANDOM, **updated_by("cht")},
    "chts": {**RANDOM, **updated_by("chts")},
    "acdc": {
        "pruning.mode": "constant",
        "pruning.final_sparsity": 0.95,
        "pruning.scope": "global",
        **updated_by("acdc", begin_step=1100, last_update_step=10_100),
        "mask_updater.update_freq": 600,
    },
    "dnw": {"masks.sparsity": 0.95, "masks.distribution": "uniform", "mask_updater.update_alg": "dnw"},
    "topkast": {"masks.sparsity": 0.95, "masks.distribution": "uniform", "mask_updater.update_alg": "topkast"},
    "snip": one_shot("snip"),
    "grasp": one_shot("grasp"),
    "synflow": one_shot("synflow"),
    "wanda": {**one_shot("wanda"), "oneshot.scope": "output"},
    "oneshot_magnitude": one_shot("magnitude"),
    "oneshot_random": one_shot("random"),
}
SHARED = {
    "training.total_steps": 11_719,
    "training.val_batch_size": 1000,
    "training.save_freq": 500,
    "training.log_freq": 200,
    "optimizer.name": "momentum",
    "optimizer.momentum": 0.9,
    "oneshot.examples": 1000,
    "unit_scaled_init.method": "fanin_normal",
    "unit_scaled_init.scale": 2.0,
}
NETWORK_SETTINGS = {
    "configs": {"network.network_name": "lenet5", "network.weight_decay": 0.0005, "optimizer.learning_rate": 0.05},
    "mlp_configs": {"network.network_name": "mlp", "network.weight_decay": 0.0001, "optimizer.learning_rate": 0.2},
}
# Of the MLP in place of LeNet5.
INSTEAD = {
    "runs/prune": "runs/mlp_prune",
    "runs/prune/ckpt-0": "runs/mlp_prune/ckpt-0",
    "runs/prune/ckpt-500": "runs/mlp_prune/ckpt-500",
    (3, 3, 27, 20): (8, 8),
    0.95: 0.98,
}


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_settings_of_every_mode(path):
    gin_files.parse([str(path)], [])
    kinds = ("network", "training", "masks", "oneshot", "pruning", "mask_updater", "optimizer", "small_dense")
    network = FOLDERS[path.parent.name]
    made = {kind: gin_names.CONFIGURABLES[kind]() for kind in (*kinds, "unit_scaled_init", network)}
    gin.clear_config()
    default = {kind: gin_names.CONFIGURABLES[kind]() for kind in made}
    bound = {
        f"{kind}.{name}": value
        for kind, settings in made.items()
        for name, value in dataclasses.asdict(settings).items()
        if value != dataclasses.asdict(default[kind])[name]
    }
    expected = {**NETWORK_SETTINGS[path.parent.name], **SHARED, **SETTINGS[path.stem]}
    if network == "mlp":
        expected = {name: INSTEAD.get(value, value) for name, value in expected.items()}
        expected = {name.replace("lenet5.", "mlp."): value for name, value in expected.items()}
        if expected.get("mask_updater.update_freq") == 100:
            expected["mask_updater.update_freq"] = 500
    defaults = {f"{kind}.{f}": v for kind, made in default.items() for f, v in dataclasses.asdict(made).items()}
    assert bound == {name: value for name, value in expected.items() if value != defaults[name]}


@pytest.mark.parametrize("folder", FOLDERS)
def test_macros_may_be_bound_on_the_command_line(folder):
    bindings = ["SPARSITY = 0.9", "UPDATE_FREQ = 7", "PRUNED_RUN = 'a'", "PRUNED_START = 'b'"]
    gin_files.parse([str(ROOT / folder / "rigl.gin")], bindings)
    assert (gin_names.masks().sparsity, gin_names.mask_updater().update_freq) == (0.9, 7)
    gin.clear_config()
    gin_files.parse([str(ROOT / folder / "lottery.gin")], bindings)
    assert (gin_names.network().mask_init_path, gin_names.network().weight_init_path) == ("a", "b")


CASES = [
    pytest.param(path, id=name, marks=[] if name in FAST else pytest.mark.slow)
    for path, name in zip(PATHS, NAMES, strict=True)
]


@pytest.mark.parametrize("path", CASES)
def test_trains(path, pruned, tmp_path):
    needs = path.stem in FROM_PRUNING
    made = shortened(path, pruned(path.parent.name) if needs else None)
    result = tiny.train(made, tmp_path)
    assert result["steps"] == 24 and np.isfinite(result["test_loss"])

    updater = build_run(made, fresh=False).optimizer.updater
    assert type(updater) is UPDATERS.get(path.stem, updaters.Static)
    updates = tmp_path / files.MASK_UPDATES
    continuous = isinstance(updater, updaters.TopKAST)
    assert updates.exists() == (path.stem in UPDATERS and not continuous)
    if updates.exists():
        assert len(tiny.lines(tmp_path, files.MASK_UPDATES)) == len(updater.schedule.steps(0, 24)) > 1

    first, last = (Reader(tmp_path / f"ckpt-{step}") for step in (0, 24))
    names = first.names("masks")
    moved = sum(int((first.read("masks", n) != last.read("masks", n)).sum()) for n in names)
    assert (moved > 0) == (path.stem in UPDATERS and path.stem != "static_reinit")
    if path.stem in ("dense", "small_dense"):
        assert result["sparsity"] == 0
    elif path.stem != "mest":
        target = 0.5 if path.stem == "nm" else 0.95 if path.parent.name == "configs" else 0.98
        # A fan-in is a whole number, and that of small layers is small.
        assert result["sparsity"] == pytest.approx(target, abs=0.05 if path.stem == "srigl" else 0.01)
    if needs:
        source = Reader(pruned(path.parent.name))
        active = [int(source.read("masks", n).sum()) for n in names]
        assert [int(first.read("masks", n).sum()) for n in names] == active


def test_small_dense_has_about_the_active_weights_of_the_sparse_ones():
    for folder, weights in (("configs", 2_336), ("mlp_configs", 6_416)):
        model = build_model(experiment(ROOT / folder / "small_dense.gin"))
        assert sum(np.prod(v.shape) for v in model.trainable_variables if v.name == "kernel") == weights
