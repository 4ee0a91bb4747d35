"""Structures as a configuration asks for them."""

import pytest

from sparse_lib import structures
from sparse_lib.experiment.runtime.errors import SettingError
from sparse_lib.experiment.training.build import build_run
from sparse_lib.updaters import SRigL
from tests.experiment import tiny

SRIGL = {
    "masks": {"sparsity": 0.8, "structure": "constant_fan_in"},
    "mask_updater": {"update_alg": "srigl", "update_freq": 4, "srigl_ablation_threshold": 0.9},
}


def built(**settings):
    return build_run(tiny.experiment(**settings), fresh=True)


@pytest.mark.parametrize(
    ("structure", "sparsity", "active"),
    [
        ("2:4", 0.5, [4704, 48, 40]),
        # A tenth of 588, 6 and 6 blocks: 59, 1 and 1.
        ("block:4x4", 0.9, [944, 16, 16]),
        ("channel", 0.75, [2352, 24, 16]),
        ("constant_fan_in", 0.9, [936, 8, 10]),
    ],
)
def test_random_masks_keep_to_a_structure(structure, sparsity, active):
    masks = {"structure": structure, "sparsity": sparsity, "distribution": "uniform"}
    made = built(masks=masks).optimizer.masks
    assert [str(rule) for rule in made.structures] == [structure] * 3
    assert all(rule.fits(mask) for rule, mask in zip(made.structures, made.values(), strict=True))
    assert made.active() == active


def test_n_of_m_ignores_the_distribution():
    assert built(masks={"structure": "2:4", "sparsity": 0.5}).optimizer.masks.sparsity() == pytest.approx(0.5)


def test_one_shot_pruning_keeps_to_a_structure():
    made = built(
        training={"oneshot_prune_fraction": 0.75}, oneshot={"method": "magnitude"}, masks={"structure": "1:4"}
    ).optimizer.masks
    assert made.sparsity() == 0.75 and made.structures[0].fits(made.values()[0])


def test_a_structured_run_trains_and_goes_on(tmp_path):
    experiment = tiny.experiment(**SRIGL)
    result = tiny.train(experiment, tmp_path)
    assert result["sparsity"] == pytest.approx(0.8, abs=0.03)
    resumed = build_run(experiment, fresh=False).optimizer
    assert isinstance(resumed.updater, SRigL) and resumed.updater.ablation_threshold == 0.9
    assert all(isinstance(rule, structures.ConstantFanIn) for rule in resumed.masks.structures)


def test_masks_of_a_checkpoint_have_to_fit(tmp_path):
    tiny.train(tiny.experiment(masks={"sparsity": 0.5}), tmp_path)
    with pytest.raises(ValueError, match="The mask of dense1/kernel does not keep to structure 2:4"):
        built(network={"mask_init_path": str(tmp_path)}, masks={"structure": "2:4"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"masks": {"structure": "4x4"}}, "masks.structure='4x4': Unknown structure '4x4': use N:M such as"),
        ({"masks": {"structure": "2:4", "sparsity": 0.9}}, "masks.structure='2:4': .* a sparsity of 0.5, not 0.9"),
        ({"masks": {"sparsity": 0.9}, "mask_updater": {"update_alg": "srigl"}}, "SRigL needs a constant fan-in"),
        (
            {"masks": {"structure": "2:4"}, "pruning": {"mode": "prune", "begin_step": 2, "end_step": 9}},
            "Structure 2:4 has a sparsity of 0.5, not 0.8",
        ),
    ],
)
def test_what_cannot_be(settings, message):
    with pytest.raises((SettingError, ValueError), match=message):
        built(**settings)
