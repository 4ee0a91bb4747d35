"""What a configuration is called."""

import json
import math
import pathlib
import re

import pytest

from analysis.figures import palette
from analysis.records import methods
from sparse_lib import updaters
from sparse_lib.experiment.storage import gin_text
from sparse_lib.experiment.storage.checkpoints import split_checkpoint
from sparse_lib.oneshot import METHODS

ROOT = pathlib.Path(__file__).parents[3]
MASKS = {"network.mask_init_path": "runs/prune"}
TICKET = {**MASKS, "network.weight_init_path": "runs/prune/ckpt-0"}
# What is shared, and what belongs to the other entry points.
NO_TRAINING = ("base", "hessian", "instability", "interpolate", "surface")
RIGL = {"mask_updater.update_alg": "rigl"}


@pytest.mark.parametrize(
    ("values", "method", "label"),
    [
        ({}, "dense", "Dense"),
        ({"network.network_name": "mlp", "mlp.hidden_sizes": (8, 8)}, "small_dense", "Small dense"),
        ({"small_dense.sparsity": 0.9}, "small_dense", "Small dense"),
        ({"pruning.mode": "prune"}, "prune", "Pruning"),
        ({"pruning.mode": "prune", "pruning.scope": "global"}, "prune_global", "Global pruning"),
        ({"pruning.mode": "prune", "pruning.final_sparsity": 0}, "dense", "Dense"),
        ({**MASKS, "network.weight_init_path": "runs/prune/ckpt-0"}, "lottery", "Lottery"),
        ({**MASKS, "network.weight_init_path": "a/cp-00000.ckpt"}, "lottery", "Lottery"),
        ({**MASKS, "network.weight_init_path": "runs/prune/ckpt-500"}, "lottery_rewind", "Rewound lottery"),
        ({**MASKS, "network.weight_init_path": "runs/prune"}, "prune_restart", "Prune-restart"),
        (MASKS, "scratch", "Scratch"),
        ({**MASKS, "network.weight_init_method": "unit_scaled"}, "scratch.plus", "Scratch+"),
        ({**MASKS, "network.weight_init_method": "layer_scaled"}, "scratch.liu", "Scratch (Liu init)"),
        ({**MASKS, "network.shuffle_mask": True}, "scratch_shuffled", "Shuffled scratch"),
        (
            {**TICKET, "network.shuffle_mask": True},
            "lottery.shuffled",
            "Lottery (shuffled masks)",
        ),
        ({**MASKS, "network.invert_mask": True}, "scratch.inverted", "Scratch (inverted masks)"),
        (
            {**TICKET, "network.weight_init_signs": "flip:0.1"},
            "lottery.flip_signs",
            "Lottery (signs flipped)",
        ),
        (
            {**TICKET, "network.mask_init_path": "runs/dense/ckpt-0", "iterative_pruning.fraction": 0.2},
            "magnitude",
            "Magnitude at init",
        ),
        ({**MASKS, **RIGL}, "rigl", "RigL"),
        ({**MASKS, **RIGL, "mask_updater.last_update_step": 0}, "scratch", "Scratch"),
        ({**MASKS, **RIGL, "network.weight_init_path": "runs/prune/ckpt-0"}, "rigl.ticket", "RigL (ticket weights)"),
        ({**RIGL, "masks.sparsity": 0.9}, "rigl.erk", "RigL (ERK)"),
        (
            {**RIGL, "masks.sparsity": 0.9, "network.weight_init_method": "unit_scaled"},
            "rigl.plus.erk",
            "RigL+ (ERK)",
        ),
        ({**RIGL, "masks.sparsity": 0.5, "masks.structure": "2:4"}, "rigl.2:4", "RigL (2:4)"),
        (
            {**RIGL, "masks.sparsity": 0.5, "masks.structure": "constant_fan_in"},
            "rigl.constant_fan_in",
            "RigL (constant fan in)",
        ),
        (
            {"mask_updater.update_alg": "srigl", "masks.sparsity": 0.5, "masks.structure": "constant_fan_in"},
            "srigl.erk",
            "SRigL (ERK)",
        ),
        ({"masks.sparsity": 0.9, "masks.distribution": "uniform"}, "static.uniform", "Static (uniform)"),
        ({"training.oneshot_prune_fraction": 0.9, "oneshot.method": "synflow"}, "synflow", "SynFlow"),
        (
            {"training.oneshot_prune_fraction": 0.9, "mask_updater.update_alg": "rigl_grasp"}
            | {"mask_updater.last_update_step": 0},
            "grasp",
            "GraSP",
        ),
        ({"training.oneshot_prune_fraction": 0.9, "oneshot.method": "snip", **RIGL}, "rigl.snip", "RigL (SNIP masks)"),
    ],
)
def test_name_and_label(values, method, label):
    assert methods.identify(values).method == method
    assert methods.label(method) == label


def text_of(path: pathlib.Path) -> str:
    """Returns a gin file with its includes filled in."""
    include = re.compile(r"^include '(.*)'$", re.MULTILINE)
    return include.sub(lambda match: text_of(path.parent / match[1]), path.read_text())


@pytest.mark.parametrize("folder", ["configs", "mlp_configs"])
def test_every_configuration_of_the_suite_has_a_name_of_its_own(folder):
    paths = [path for path in sorted((ROOT / folder).glob("*.gin")) if path.stem not in NO_TRAINING]
    names = {path.stem: methods.identify(gin_text.parse(text_of(path))).method for path in paths}
    assert len(names) > 25
    assert names["rigl"] == "rigl.plus.erk"
    assert names["rigl_from_prune"] == "rigl"
    assert names["lottery_rewind"] == "lottery_rewind"
    assert names["small_dense"] == "small_dense"
    assert names["snip"] == "snip"
    alike = {("snfs", "snfs_per_layer")}
    pairs = {(a, b) for a in names for b in names if a < b and names[a] == names[b]}
    assert pairs <= alike


@pytest.mark.parametrize(
    ("values", "sparsity"),
    [
        ({}, 0.0),
        ({"pruning.mode": "prune", "pruning.final_sparsity": 0.98}, 0.98),
        ({"masks.sparsity": 0.5}, 0.5),
        ({"training.oneshot_prune_fraction": 0.7, "oneshot.method": "snip"}, 0.7),
        ({"small_dense.sparsity": 0.9}, 0.9),
    ],
)
def test_sparsity_that_is_aimed_at(values, sparsity):
    assert methods.identify(values).target_sparsity == sparsity


def test_data_order_is_the_seed_where_it_is_set_apart():
    assert methods.identify({"training.seed": 3}).seed == 3
    assert methods.identify({"training.seed": 3, "training.data_seed": 0}).seed == 0


def test_settings_that_are_compared():
    assert methods.identify({}).setting == "LeNet5 on digits"
    normed = {"network.network_name": "mlp", "mlp.use_batch_norm": True, "data.name": "mnist"}
    assert methods.identify(normed).setting == "MLP with batch norm on mnist"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("runs/a", ("runs/a", None)),
        ("runs/a/ckpt-500", ("runs/a", 500)),
        ("runs/a/ckpt--19", ("runs/a", -19)),
        ("runs/a/ckpt-500.index", ("runs/a", 500)),
        ("runs/a/cp-00500.ckpt", ("runs/a", 500)),
    ],
)
def test_checkpoint_paths(path, expected):
    assert split_checkpoint(path) == expected


def test_order_is_that_of_the_tables():
    names = ["rigl.plus.erk", "rigl", "unheard_of", "dense", "rigl.plus", "scratch.plus", "scratch"]
    expected = ["dense", "scratch", "scratch.plus", "rigl", "rigl.plus", "rigl.plus.erk", "unheard_of"]
    assert sorted(names, key=methods.order) == expected


def test_every_updater_and_score_has_a_label_and_a_look():
    bases = {*updaters.REGISTRY, *METHODS}
    assert bases <= set(methods.BASES)
    looks = {base: palette.look(base) for base in methods.BASES}
    assert len({(look.colour, look.marker) for look in looks.values()}) == len(looks)
    assert palette.look("noisy_rigl") == palette.look("noisy_rigl") != palette.look("dense")


@pytest.mark.parametrize(
    ("widths", "method"), [((6, 16, 120, 84), "dense"), ((6, 16, 120, 83), "small_dense"), ((7, 16, 120, 84), "dense")]
)
def test_a_dense_network_is_small_if_it_is_narrower_than_the_paper_s(widths, method):
    assert methods.identify({"lenet5.hidden_sizes": widths}).method == method


def test_a_run_says_what_it_is(tmp_path):
    stored = {
        **methods.identify({"masks.sparsity": 0.8})._asdict(),
        "method": "noisy_rigl.erk",
        "label": "Noisy RigL",
        "target_sparsity": None,
    }
    (tmp_path / "run.json").write_text(json.dumps(stored))
    # The configuration names an updater that this process has not imported.
    found = methods.identify({"mask_updater.update_alg": "noisy_rigl(temperature=2)"}, tmp_path)
    assert methods.label(found.method, found.label) == "Noisy RigL (ERK)" and math.isnan(found.target_sparsity)
    (tmp_path / "run.json").write_text("{")
    assert methods.identify(RIGL, tmp_path).method == "rigl"


def test_a_configuration_that_cannot_be_understood_is_unknown():
    assert methods.identify({"mask_updater.update_alg": "noisy_rigl"}).method == "unknown"
