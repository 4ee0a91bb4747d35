"""An updater in a file outside the package: by gin alone it trains, is counted, logged and reported."""

import json
import sys

import gin
import numpy as np
import pytest
from absl.testing import flagsaver

import train
from analysis.records import networks, runs
from sparse_lib import updaters
from sparse_lib.experiment.command_line import cli
from sparse_lib.experiment.config.mask_updates import UpdaterSettings
from sparse_lib.experiment.runtime.errors import SettingError
from sparse_lib.experiment.storage import files
from sparse_lib.experiment.storage.checkpoints import Reader
from tests.experiment import tiny

MODULE = """
import dataclasses
from typing import ClassVar

import tensorflow as tf

from sparse_lib.updaters import DropAndGrow, register


@register("throwaway")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Throwaway(DropAndGrow):
    label: ClassVar[str] = "Thrown away"
    weight_gradient: ClassVar[str] = "dense"
    sign: float = 1.0

    def grow_score(self, kernel, seed):
        places = tf.range(tf.size(kernel.weight), dtype=tf.float32)
        return self.sign * tf.reshape(places, tf.shape(kernel.weight))
"""
CONFIG = """
network.network_name = 'mlp'
mlp.hidden_sizes = (8,)
masks.sparsity = 0.75
mask_updater.update_alg = 'throwaway(sign=-1.0)'
mask_updater.update_freq = 4
mask_updater.schedule_alg = 'constant'
mask_updater.init_drop_fraction = 0.25
training.total_steps = 10
training.batch_size = 16
training.log_freq = 5
training.jit_compile = False
training.save_update_pairs = True
"""
KERNELS = ("dense1/kernel", "dense2/kernel")
DENSE_FLOPS = 2 * (784 * 8 + 8 * 10) + 8


@pytest.fixture(scope="module", autouse=True)
def modes_of_training():
    """Other tests of the process may have defined those of interpolate.py."""
    train.define_mode()


@pytest.fixture
def forget():
    """Returns a function that makes the process one that has not imported the module."""

    def forget_module():
        updaters.REGISTRY.pop("throwaway", None)
        sys.modules.pop("throwaway_updater", None)
        gin.clear_config()

    yield forget_module
    forget_module()


@pytest.fixture
def call(tmp_path, monkeypatch, capsys, forget):
    """Runs train.py's command line in this process, which can find the module; returns exit status and error line."""
    (tmp_path / "throwaway_updater.py").write_text(MODULE)
    (tmp_path / "own.gin").write_text(CONFIG)
    monkeypatch.syspath_prepend(str(tmp_path))

    def run_main(*arguments):
        forget()
        monkeypatch.setattr(sys, "argv", ["train.py", f"--logdir={tmp_path / 'run'}", *arguments])
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as caught:
            cli.run(train.main)
        return caught.value.code, capsys.readouterr().err

    return run_main


def test_an_updater_outside_the_package(call, tmp_path, forget):
    directory, own = tmp_path / "run", ["--updater_module=throwaway_updater"]
    assert call(*own, f"--gin_config={tmp_path / 'own.gin'}")[0] == 0

    updates = tiny.lines(directory, files.MASK_UPDATES)
    assert [(record["step"], record["drop_fraction"]) for record in updates] == [(4, 0.25), (8, 0.25)]
    before, after = Reader(directory / "ckpt--3"), Reader(directory / "ckpt--4")
    for name in KERNELS:
        old, new = before.read("masks", name), after.read("masks", name)
        # The first positions grow, since the sign in the configuration is negative.
        grown = np.flatnonzero(new & ~old)
        assert grown.size and not np.any(~new.ravel()[: grown.max()]) and old.sum() == new.sum()
    assert updates[0]["grown"] > 0

    active = sum(int(Reader(directory).read("masks", name).sum()) for name in KERNELS)
    result = json.loads((directory / files.RESULT).read_text())
    assert result["training_flops"] == 10 * 16 * (2 * (2 * active + 8) + DENSE_FLOPS)

    forget()
    row = runs.load_runs(tmp_path).runs.iloc[0]
    assert (row["method"], row["label"]) == ("throwaway.erk", "Thrown away (ERK)")
    assert (row["target_sparsity"], row["setting"], row["state"]) == (0.75, "MLP on digits", "finished")
    assert networks.build(directory).model.count_params() == 784 * 8 + 8 + 8 * 10 + 10
    assert "throwaway_updater" not in sys.modules

    # The configuration of a run, which may be a stranger's, imports nothing by itself.
    status, error = call("--mode=eval")
    assert status == 2 and "update_alg='throwaway(sign=-1.0)' is not known; use one of static, static_reinit" in error
    assert "--updater_module" in error and "throwaway_updater" not in sys.modules
    assert call("--mode=eval", *own)[0] == 0


def test_a_module_that_is_not_there(call):
    status, error = call("--updater_module=no_such_module")
    assert status == 2 and "--updater_module=no_such_module: there is no module no_such_module" in error


@pytest.mark.parametrize(
    ("update_alg", "message"),
    [
        ("rigl(speed=2)", r"sets a field that the method does not have; it has begin_step, end_step,"),
        ("rigl(2)", "cannot be read; write it like"),
        ("rigl(end_step=open('x'))", "cannot be read; write it like"),
        ("rigl(end_step=3", "cannot be read; write it like"),
        ("os.system('true')", "is not known"),
    ],
)
def test_fields_in_parentheses_are_literals_of_the_method(update_alg, message):
    with pytest.raises(SettingError, match=message):
        UpdaterSettings(update_alg=update_alg)


def test_fields_in_parentheses_win():
    settings = UpdaterSettings(update_alg="rigl(reinit_regrown=True, frequency=7)", update_freq=3)
    made = settings.build(None, lambda step: 0.1, peak_rate=0.1, total_steps=100, dense_start=False)
    assert made == updaters.RigL(frequency=7, reinit_regrown=True, drop_fraction=made.drop_fraction)


def test_a_name_belongs_to_one_class():
    class Other(updaters.SET):
        pass

    with pytest.raises(ValueError, match=r"'rigl' is the name of sparse_lib\.updaters\.rigl\.RigL: choose another"):
        updaters.register("rigl")(Other)
    with pytest.raises(ValueError, match="use letters, digits and underscores"):
        updaters.register("my.rigl")
    assert updaters.REGISTRY["rigl"] is updaters.RigL and Other.label == "Other"
