"""The command lines of rigl_tf2's README, one after the other, with the gin files of this project."""

import json
import pathlib
import sys

import gin
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

import interpolate
import train
from sparse_lib.experiment.command_line import cli, pruned_run
from sparse_lib.experiment.command_line.options import DEFAULT_LOGDIR, Options
from sparse_lib.experiment.storage import files
from sparse_lib.experiment.storage.checkpoints import Reader

ROOT = pathlib.Path(__file__).parents[3]
CONFIGS = ROOT / "configs"
# What a test shortens; everything else stands as in the README.
SHORT = {
    "training.total_steps": 8,
    "training.batch_size": 16,
    "training.save_freq": 4,
    "training.log_freq": 8,
    "training.val_batch_size": 40,
    "training.jit_compile": False,
    "lenet5.hidden_sizes": (2, 3, 10, 8),
}
PRUNING = {"pruning.begin_step": 2, "pruning.end_step": 6, "pruning.frequency": 2}
HESSIAN = {"hessian.batch_size": 40, "hessian.method": "'lanczos'", "hessian.max_probes": 2, "hessian.lanczos_steps": 4}


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Runs an entry point in this process, from an empty working directory."""
    monkeypatch.chdir(tmp_path)

    def run(entry, *arguments, bindings=None):
        shortened = [f"--gin_bindings={name}={value}" for name, value in (bindings or {}).items()]
        # Either script may have been imported first.
        entry.define_mode()
        monkeypatch.setattr(sys, "argv", ["script.py", *arguments, *shortened])
        gin.clear_config()
        capsys.readouterr()
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as caught:
            cli.run(entry.main)
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        return caught.value.code, errors[0] if errors else ""

    yield run
    gin.clear_config()
    train.define_mode()


def masks_of(checkpoint):
    reader = Reader(checkpoint)
    return {name: reader.read("masks", name) for name in reader.names("masks")}


@pytest.mark.slow
def test_the_commands_of_the_readme_work_one_after_the_other(call):
    pruned = pathlib.Path(DEFAULT_LOGDIR)
    assert call(train, f"--gin_config={CONFIGS}/prune.gin", bindings=SHORT | PRUNING) == (0, "")
    lottery = ["logdir=runs/lottery", "--seed=8", f"--gin_config={CONFIGS}/lottery.gin"]
    assert call(train, *lottery, bindings=SHORT) == (0, "")
    scratch = ["--logdir=runs/scratch", "--seed=8", f"--gin_config={CONFIGS}/scratch.gin", "--tpu_job_name=tpu_worker"]
    assert call(train, *scratch, bindings=SHORT) == (0, "")

    final = masks_of(pruned)
    for name in ("lottery", "scratch"):
        description = json.loads((pathlib.Path("runs") / name / files.RUN).read_text())
        assert (description["method"], description["mask_source"]) == (name, DEFAULT_LOGDIR)
        for kernel, mask in masks_of(f"runs/{name}/ckpt-8").items():
            np.testing.assert_array_equal(mask, final[kernel])
    first, ticket = Reader(pruned / "ckpt-0"), Reader("runs/lottery/ckpt-0")
    weights = first.read("model", "lenet5/dense1/kernel")
    np.testing.assert_array_equal(
        ticket.read("model", "lenet5/dense1/kernel"), np.where(final["dense1.kernel"], weights, 0)
    )

    # A run goes on from its own masks, and is finished; the pruned run may be gone.
    (pruned / files.RUN).unlink()
    assert call(train, *lottery, bindings=SHORT) == (0, "")

    assert call(train, "--mode=hessian", f"--gin_config={CONFIGS}/hessian.gin", bindings=HESSIAN) == (0, "")
    assert (pruned / files.HESSIAN / "ckpt-8.json").is_file()

    line = [
        "--logdir=runs/scratch",
        f"--gin_config={CONFIGS}/interpolate.gin",
        "--ckpt_start=runs/lottery/cp-0008.ckpt",
        f"--ckpt_end={pruned}/cp-0008.ckpt",
        "--operative_gin=runs/lottery/operative_config.gin",
        "--logdir=runs/ltsolution2prune",
        "--mode=train_eval",
        "--eval_on_train",
        "--master=local",
    ]
    assert call(interpolate, *line, bindings={"interpolate.n_interpolation": 2}) == (0, "")
    splits = json.loads(pathlib.Path("runs/ltsolution2prune/interpolation.json").read_text())["barrier"]
    assert {"train", "test"} <= set(splits)

    status, error = call(train, f"--gin_config={ROOT}/mlp_configs/prune.gin", bindings=SHORT)
    assert status == 1 and "holds a run of another configuration" in error and "another --logdir" in error


def test_a_ticket_without_a_pruned_run_names_the_command_that_makes_it(call):
    arguments = ["--logdir=runs/lottery", f"--gin_config={CONFIGS}/lottery.gin"]
    status, error = call(train, *arguments, bindings=SHORT)
    command = "python train.py --logdir=runs/prune --gin_config=configs/prune.gin"
    assert (status, error) == (1, f"error: There is no pruned run runs/prune; make it by: {command}")
    assert not pathlib.Path("runs").exists()

    assert call(train, bindings=SHORT)[0] == 0
    status, error = call(train, *arguments, bindings=SHORT)
    assert (status, f"{DEFAULT_LOGDIR} holds small_dense of lenet5; make it by: {command}" in error) == (1, True)
    # What the command line names is taken by its word.
    status, error = call(train, *arguments, bindings=SHORT | {"PRUNED_RUN": "'runs/prune'"})
    assert status == 1 and "There is no checkpoint runs/prune" in error


def test_a_pruned_run_that_is_not_finished_is_no_source(call):
    pruned = pathlib.Path(DEFAULT_LOGDIR)
    pruned.mkdir(parents=True)
    (pruned / files.RUN).write_text(json.dumps({"method": "prune", "network": "lenet5"}))
    status, error = call(train, "--logdir=runs/lottery", f"--gin_config={CONFIGS}/lottery.gin", bindings=SHORT)
    assert status == 1 and f"The pruned run in {DEFAULT_LOGDIR} is not finished" in error
    (pruned / files.RESULT).write_text("{}")
    status, error = call(train, "--logdir=runs/mlp", f"--gin_config={ROOT}/mlp_configs/lottery.gin")
    assert status == 1 and f"{DEFAULT_LOGDIR} holds prune of lenet5" in error


def test_the_default_directory_of_rigl_tf2_is_ours(call):
    if pathlib.Path("/tmp/sparse_spectrum").exists():
        pytest.skip("/tmp/sparse_spectrum exists on this machine")
    pruned = pathlib.Path(DEFAULT_LOGDIR)
    pruned.mkdir(parents=True)
    (pruned / files.RUN).write_text(json.dumps({"method": "prune", "network": "lenet5"}))
    (pruned / files.RESULT).write_text("{}")
    published = pathlib.Path("scratch.gin")
    published.write_text("network.mask_init_path = '/tmp/sparse_spectrum/ckpt-11719'\n")
    status, error = call(train, "--logdir=runs/scratch", f"--gin_config={published}", bindings=SHORT)
    assert status == 1 and f"There is no checkpoint {DEFAULT_LOGDIR}/ckpt-11719" in error


def test_the_runs_that_may_be_missing_are_those_that_the_files_name():
    for folder, network in (("configs", "lenet5"), ("mlp_configs", "mlp")):
        text = (CONFIGS / "networks" / f"{network}.gin").read_text()
        (run,) = [run for run, file in pruned_run.NAMED.items() if file.startswith(f"{folder}/") and run[0] != "/"]
        assert f"PRUNED_RUN = '{run}'" in text and f"PRUNED_START = '{run}/ckpt-0'" in text


def test_the_address_of_a_tpu_may_be_called_master():
    cli.define_common_flags()
    with flagsaver.flagsaver():
        flags.FLAGS(["train.py", "--master=grpc://10.0.0.2:8470", "--use_tpu"])
        assert (Options.from_flags().tpu, Options.from_flags().strategy) == ("grpc://10.0.0.2:8470", "tpu")
        flags.FLAGS(["train.py", "--tpu=grpc://10.0.0.3:8470"])
        assert Options.from_flags().tpu == "grpc://10.0.0.3:8470"
