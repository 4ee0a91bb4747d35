"""Every gin file of configs/ and mlp_configs/ is read, and trains from end to end on the real digits."""

import pathlib

import gin
import numpy as np
import pytest

from sparse_lib import updaters
from sparse_lib.experiment.config import gin_files
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
SMALL = {"lenet5": "lenet5.hidden_sizes = (2, 4, 12, 8)", "mlp": "mlp.hidden_sizes = (20, 12)"}
UPDATERS = {
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


def test_both_folders_have_the_same_modes():
    modes = [{path.stem for path in PATHS if path.parent.name == folder} for folder in FOLDERS]
    assert modes[0] == modes[1] and set(UPDATERS) | set(FROM_PRUNING) <= modes[0]


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_is_read(path):
    made = experiment(path)
    assert made.network.network_name == FOLDERS[path.parent.name]
    assert made.training.total_steps == 11_719
    header = path.read_text().splitlines()[:2]
    assert header[0].startswith("# ") and f"--gin_config={path.parent.name}/{path.name}" in header[1]


@pytest.mark.parametrize("folder", FOLDERS)
def test_modes_differ_in_what_they_are_about_alone(folder):
    dense = experiment(ROOT / folder / "dense.gin")
    for path in PATHS:
        if path.parent.name == folder:
            made = experiment(path)
            assert made.optimizer == dense.optimizer
            assert made.network.weight_decay == dense.network.weight_decay
            assert (made.training.batch_size, made.training.seed) == (dense.training.batch_size, 0)


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
    assert (moved > 0) == (path.stem in UPDATERS)
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
