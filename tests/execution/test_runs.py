"""Runs under sparse execution: killed and resumed, with another execution in the middle, and what they record."""

import dataclasses
import json
import pathlib

import gin
import numpy as np
import pytest
import tensorflow as tf

from sparse_lib.execution import library, rule
from sparse_lib.experiment.config import gin_files
from sparse_lib.experiment.config.experiment import Experiment
from sparse_lib.experiment.storage.checkpoints import Reader
from sparse_lib.experiment.training import run
from sparse_lib.experiment.training.build import plan_run
from sparse_lib.experiment.training.steps import Steps
from tests.experiment import tiny
from tests.experiment.interruptions import power_cut

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
UPDATES = {"update_alg": "rigl", "update_freq": 5}
KINDS = {
    "rigl": {"masks": {"sparsity": 0.8}, "mask_updater": UPDATES},
    "topkast": {"masks": {"sparsity": 0.8, "distribution": "uniform"}, "mask_updater": {"update_alg": "topkast"}},
}


@pytest.fixture
def set_threads(monkeypatch):
    """Sets the number of threads for the rest of a test, which `library.operations` would set anew at each call."""
    module = library.operations()
    monkeypatch.setattr(library, "operations", lambda: module)
    yield library.use_threads
    library.use_threads(tf.config.threading.get_intra_op_parallelism_threads())


def make(kind="rigl", execution="sparse", network="lenet5", **training):
    return tiny.experiment(network, training={**tiny.TRAINING, "execution": execution, **training}, **KINDS[kind])


def read(directory):
    reader = Reader(directory)
    groups = ("model", "masks", "explored", "optimizer")
    return {(g, name): reader.read(g, name) for g in groups for name in reader.names(g)}


def assert_same(one, other, **tolerance):
    first, second = read(one), read(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        if value.dtype == bool or not tolerance:
            np.testing.assert_array_equal(value, second[name], err_msg=str(name))
        else:
            np.testing.assert_allclose(value, second[name], err_msg=str(name), **tolerance)


def train(experiment, directory):
    # A gin configuration has one line for each setting.
    config = f"training.total_steps = 24\ntraining.execution = '{experiment.training.execution}'\n"
    return run.train(plan_run(experiment), directory, config)


def kill_and_resume(experiment, directory, monkeypatch, *, call, other=None, before_resuming=lambda: None):
    take, calls = Steps.run, []

    def deadly(self, step, steps, **options):
        calls.append(step)
        if len(calls) == call:
            power_cut()
        return take(self, step, steps, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Steps, "run", deadly)
        with pytest.raises(ZeroDivisionError):
            train(experiment, directory)
    before_resuming()
    return train(other or experiment, directory)


@pytest.mark.parametrize(
    ("kind", "network"),
    [
        ("rigl", "mlp"),
        pytest.param("rigl", "lenet5", marks=pytest.mark.slow),
        pytest.param("topkast", "lenet5", marks=pytest.mark.slow),
    ],
)
def test_killed_runs_are_bit_identical_for_any_number_of_threads(kind, network, tmp_path, monkeypatch, set_threads):
    made = make(kind, network=network)
    set_threads(1)
    # Saved at step 12 alone.
    result = train(made, tmp_path / "whole")
    assert all(text.startswith("sparse: ") for text in result["execution"].values())
    set_threads(2)
    # In step 16 or later, after the checkpoint of step 12.
    call = 6 if kind == "rigl" else 4
    kill_and_resume(made, tmp_path / "broken", monkeypatch, call=call, before_resuming=lambda: set_threads(3))
    assert_same(tmp_path / "whole", tmp_path / "broken")
    assert tiny.lines(tmp_path / "whole") == tiny.lines(tmp_path / "broken")


def test_a_run_goes_on_with_another_execution(tmp_path, monkeypatch):
    dense, sparse = (make(execution=mode, network="mlp") for mode in ("dense", "sparse"))
    whole = train(dense, tmp_path / "dense")
    assert set(whole["execution"].values()) == {"dense: execution is 'dense'"}
    switched = kill_and_resume(dense, tmp_path / "switched", monkeypatch, call=6, other=sparse)
    assert all(text.startswith("sparse: ") for text in switched["execution"].values())
    assert_same(tmp_path / "dense", tmp_path / "switched", rtol=0, atol=1e-5)
    assert json.loads((tmp_path / "switched" / "result.json").read_text())["execution"] == switched["execution"]


@pytest.mark.slow
def test_two_runs_in_one_process(tmp_path, monkeypatch):
    monkeypatch.setattr(rule, "find_limit", lambda *_: 0.9)
    experiment = make(execution="auto", network="mlp", total_steps=12)
    train(experiment, tmp_path / "first")
    other = dataclasses.replace(experiment, masks=dataclasses.replace(experiment.masks, sparsity=0.9))
    train(other, tmp_path / "other")
    train(experiment, tmp_path / "again")
    assert_same(tmp_path / "first", tmp_path / "again")


def test_masks_that_change_at_every_step_stay_dense_where_xla_compiles_that():
    made = make("topkast", execution="auto", network="mlp", jit_compile=None)
    explained = plan_run(made).build(fresh=True).steps.explain_execution()
    assert set(explained.values()) == {"dense: masks change at every step, which is faster where XLA compiles it"}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["static", "set", "rigl"])
def test_dynamic_sparse_mnist_in_blocks(method, tmp_path):
    paths = [str(CONFIGS / f"{name}.gin") for name in ("networks/mlp", f"methods/{method}", "protocols/mnist_blocks")]
    short = ["total_steps = 200", "log_freq = 100", "save_freq = 100", "execution = 'sparse'"]
    bindings = [f"training.{line}" for line in short]
    try:
        gin_files.parse(paths, [*bindings, "BLOCK = 'block:16x16'", "mask_updater.update_freq = 60"])
        experiment = Experiment.from_gin()
        result = run.train(plan_run(experiment), tmp_path / "run", "training.total_steps = 200\n")
    finally:
        gin.clear_config()
    updates = tmp_path / "run" / "mask_updates.jsonl"
    assert (len(updates.read_text().splitlines()) if updates.exists() else 0) == (0 if method == "static" else 3)
    assert result["execution"]["dense1/kernel"].startswith("sparse: density 0.0")
    hidden, last = (value for (group, _), value in read(tmp_path / "run").items() if group == "masks")
    blocks = hidden.reshape(49, 16, 20, 16).swapaxes(1, 2).reshape(980, 256)
    # One in a hundred, rounded as the settings say.
    assert (blocks.all(1) == blocks.any(1)).all() and blocks.any(1).sum() in (9, 10)
    assert last.all()
