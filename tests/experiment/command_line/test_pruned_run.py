"""A missing pruned run is told with the command that makes it."""

import pathlib

import gin
import pytest

from sparse_lib.experiment.command_line import pruned_run
from sparse_lib.experiment.command_line.options import Options
from sparse_lib.experiment.config import gin_files
from sparse_lib.experiment.runtime.errors import RunError

ROOT = pathlib.Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("configs", "bindings", "command"),
    [
        ([], ["network.mask_init_path='/nowhere/p'"], "--gin_config=mlp_configs/prune.gin"),
        (
            ["configs/lottery.gin"],
            ["SPARSITY=0.95", "PRUNED_RUN='/nowhere/p'", "training.seed=3"],
            "--gin_config=configs/prune.gin --gin_bindings=SPARSITY=0.95",
        ),
        (
            ["configs/networks/wrn_22_2.gin", "configs/methods/rigl_from_prune.gin"],
            ["network.weight_init_method='unit_scaled'", "UPDATE_FREQ=5"],
            "--gin_config=configs/networks/wrn_22_2.gin --gin_config=configs/methods/prune.gin",
        ),
    ],
)
def test_the_command_prunes_the_network_of_the_command_line(configs, bindings, command, monkeypatch):
    monkeypatch.chdir(ROOT)
    gin.clear_config()
    try:
        gin_files.parse([], ["network.mask_init_path='/nowhere/p'", "network.network_name='mlp'"])
        with pytest.raises(RunError) as caught:
            pruned_run.check_sources(Options(gin_config=configs, gin_bindings=bindings))
    finally:
        gin.clear_config()
    assert str(caught.value) == (
        "There is no checkpoint /nowhere/p; /nowhere has none. Make the run by: python train.py "
        f"--logdir=/nowhere/p {command}"
    )
