"""Networks built again from their runs, and what is compared with them."""

import pathlib

import gin
import numpy as np
import pytest

from analysis.records import checkpoints, networks
from analysis.records.runs import load_runs
from analysis.similarity import cka, tables, weights
from sparse_lib.experiment.config import gin_files
from sparse_lib.experiment.config.experiment import Experiment
from sparse_lib.experiment.runtime.errors import RunError
from sparse_lib.experiment.training import run
from sparse_lib.experiment.training.build import plan_run

COMMON = [
    "network.network_name='mlp'",
    "mlp.hidden_sizes=(12, 8)",
    "mlp.use_batch_norm=True",
    "training.total_steps=30",
    "training.log_freq=10",
    "training.batch_size=32",
    "optimizer.name='momentum'",
]
PRUNE = ["pruning.mode='prune'", "pruning.final_sparsity=0.5", "pruning.begin_step=5", "pruning.end_step=20"]


def train(directory: pathlib.Path, bindings: list[str]) -> None:
    gin.clear_config()
    try:
        gin_files.parse([], [*COMMON, *bindings])
        run.train(plan_run(Experiment.from_gin()), directory, gin_files.operative())
    finally:
        gin.clear_config()


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> pathlib.Path:
    """Returns a directory with a pruned network and its lottery ticket, both with batch norm."""
    top = tmp_path_factory.mktemp("trained")
    train(top / "prune", [*PRUNE, "pruning.frequency=5"])
    paths = [f"network.mask_init_path='{top}/prune'", f"network.weight_init_path='{top}/prune/ckpt-0'"]
    train(top / "lottery", paths)
    return top


def test_a_built_network_computes_what_the_run_did(trained):
    built = networks.build(trained / "prune")
    logits = built.at(trained / "prune")(built.dataset.test.images, training=False)
    with np.load(trained / "prune" / "predictions.npz") as stored:
        np.testing.assert_allclose(logits, stored["logits"], rtol=1e-4, atol=1e-4)


def test_representations(trained):
    ((_, _, case),) = load_runs(trained).cases()
    (row,) = tables.representations(case).to_dict("records")
    (distance,) = tables.distances(case).to_dict("records")
    assert row["run"] == "lottery"
    assert 0 < row["matched_l2"] <= distance["end_l2"] + 1e-6
    built = networks.build(trained / "prune")
    images = built.dataset.test.images
    one, other = (cka.activations(built.at(trained / name), images) for name in ("lottery", "prune"))
    assert row["cka/dense3"] == pytest.approx(cka.linear_cka(one["dense3"], other["dense3"]))
    assert 0 < row["cka/dense1"] < 1


def test_solutions_are_trainable_values_alone(trained):
    values = checkpoints.read_weights(trained / "prune")
    assert {name.rpartition(".")[2] for name in values} == {"kernel", "bias", "gamma", "beta"}
    active = checkpoints.read_masks(trained / "prune")
    assert active["dense1.kernel"].mean() == pytest.approx(0.5, abs=1e-3)
    assert not values["mlp.dense1.kernel"][~active["dense1.kernel"]].any()
    assert weights.l2(values, checkpoints.read_weights(trained / "prune" / "ckpt-0")) > 0


def test_a_configuration_of_another_version_is_one_sentence(trained, tmp_path):
    (tmp_path / "operative_config.gin").write_text("training.not_there = 1")
    with pytest.raises(RunError, match="not_there"):
        networks.build(tmp_path)
