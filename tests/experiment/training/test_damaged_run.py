"""A damaged run is refused in one line before any of its files changes, and the advice of that line leads on."""

import json
import math
import shutil

import gin
import numpy as np
import pytest

from sparse_lib.experiment.command_line import commands
from sparse_lib.experiment.command_line.options import Options
from sparse_lib.experiment.runtime.errors import RunError
from sparse_lib.experiment.storage import files
from sparse_lib.experiment.training import run
from tests.experiment import tiny
from tests.experiment.mutations import error_of


@pytest.fixture(scope="module")
def experiment():
    updates = {"update_alg": "rigl", "update_freq": 5}
    return tiny.experiment(masks={"sparsity": 0.8}, mask_updater=updates)


@pytest.fixture(scope="module")
def trained(experiment, tmp_path_factory):
    directory = tmp_path_factory.mktemp("trained") / "run"
    return directory, tiny.train(experiment, directory)


@pytest.fixture
def finished(trained, tmp_path):
    """A run of 24 steps, and its result."""
    directory, result = trained
    return shutil.copytree(directory, tmp_path / "run"), result


@pytest.fixture
def stopped(finished):
    """The same run with step 12 as its last checkpoint."""
    directory, result = finished
    for path in [*directory.glob("ckpt-24.*"), directory / files.RESULT]:
        path.unlink()
    return directory, result


def snapshot(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def damage(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3] + b"\xff\0" + content[len(content) // 3 + 40 :])


@pytest.mark.parametrize("name", [files.METRICS, files.MASK_UPDATES, "ckpt-0.index", "ckpt-12.index"])
def test_a_damaged_file_stops_a_resumed_run_before_it_changes_anything(name, stopped, experiment):
    directory, result = stopped
    damage(directory / name)
    before = snapshot(directory)
    message = error_of(lambda: tiny.train(experiment, directory))
    assert name.removesuffix(".index") in message and "\n" not in message
    assert snapshot(directory) == before
    if name == "ckpt-0.index":
        assert "put back a copy of it, or --overwrite the run" in message
        assert tiny.train(experiment, directory, overwrite=True)["test_loss"] == result["test_loss"]
        return
    assert f"delete {directory / name.removesuffix('.index')}.*" in message or "delete it to go on" in message
    for path in directory.glob(f"{name.removesuffix('.index')}*"):
        path.unlink()
    assert tiny.train(experiment, directory)["test_loss"] == result["test_loss"]


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b'{"test_accuracy": []}', b"\xff", b"[" * 100_000])
def test_a_damaged_result_is_named_and_measured_again(content, finished, experiment):
    directory, result = finished
    path = directory / files.RESULT
    path.write_bytes(content)
    message = error_of(lambda: tiny.train(experiment, directory))
    assert message.startswith(f"{path} cannot be read (") and message.endswith("; delete it, and it is measured again.")
    path.unlink()
    assert tiny.train(experiment, directory)["test_loss"] == result["test_loss"]


def test_a_configuration_that_is_no_text_is_named(stopped, experiment):
    directory, _ = stopped
    path = directory / files.OPERATIVE_CONFIG
    path.write_bytes(b"\xff\xfe")
    assert str(path) in error_of(lambda: tiny.train(experiment, directory))
    path.unlink()
    path.mkdir()
    assert str(path) in error_of(lambda: tiny.train(experiment, directory))


def test_evaluation_that_is_not_finite_prints_json_and_fails(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(run, "evaluate", lambda *_, **__: {"test_loss": math.nan, "test_accuracy": np.float64(0.25)})
    (tmp_path / files.OPERATIVE_CONFIG).write_text("")
    gin.clear_config()
    monkeypatch.setattr(commands.Experiment, "from_gin", lambda: None)
    with pytest.raises(RunError, match="test_loss of .* is not finite; evaluate an earlier checkpoint by --ckpt"):
        commands.evaluate(Options(strategy="cpu"), tmp_path, "")
    assert json.loads(capsys.readouterr().out) == {"test_loss": None, "test_accuracy": 0.25}
