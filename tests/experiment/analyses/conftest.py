"""The command line of `interpolate.py` in this process, and runs as `train.py` leaves them."""

import sys

import gin
import pytest
from absl.testing import flagsaver

import interpolate as entry_point
from sparse_lib.experiment.command_line import cli, commands
from sparse_lib.experiment.command_line.options import Options


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs the command line in this process and returns its exit status and error line."""

    def run_main(*arguments):
        monkeypatch.setattr(sys, "argv", ["interpolate.py", *map(str, arguments)])
        gin.clear_config()
        capsys.readouterr()
        entry_point.define_mode()
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as caught:
            cli.run(entry_point.main)
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        return caught.value.code, errors[0].removeprefix("error: ") if errors else ""

    yield run_main
    gin.clear_config()


@pytest.fixture(scope="session")
def train_by_command():
    """Trains from bindings alone, as the command line does."""

    def train(directory, bindings, **options):
        gin.clear_config()
        entry_point.define_mode()
        commands.train(Options(gin_bindings=bindings, **options), directory, overwrite=False)
        gin.clear_config()

    return train
