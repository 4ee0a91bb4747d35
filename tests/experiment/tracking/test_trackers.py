"""Trackers of runs: what they are told, and that a run does not depend on them."""

import json
import os
import signal
import sys
import time
from typing import ClassVar

import gin
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from sparse_lib.experiment.command_line import commands
from sparse_lib.experiment.command_line.options import Options
from sparse_lib.experiment.runtime.errors import Interrupted, RunError, SettingError
from sparse_lib.experiment.storage import files
from sparse_lib.experiment.storage.checkpoints import Reader
from sparse_lib.experiment.tracking.named import make_trackers
from sparse_lib.experiment.tracking.tags import group_name
from sparse_lib.experiment.tracking.tracker import Trackers
from tests.experiment import tiny

BINDINGS = [
    "network.network_name='mlp'",
    "mlp.hidden_sizes=(8,)",
    "training.total_steps=4",
    "training.batch_size=16",
    "training.log_freq=2",
    "training.save_freq=2",
    "training.jit_compile=False",
    "masks.sparsity=0.5",
]


class Recorder:
    """Notes what it is told; fails where it is asked to."""

    told: ClassVar[list] = []
    fails_at: str = ""
    stops_at: int | None = None

    def _note(self, name, *what):
        if name == self.fails_at:
            raise OSError("the network is down")
        self.told.append((name, *what))

    def start(self, run):
        self._note("start", run)
        return "id-7"

    def log(self, step, values):
        self._note("log", step, values)
        if step == self.stops_at:
            os.kill(os.getpid(), signal.SIGTERM)

    def finish(self, result):
        self._note("finish", result)


@pytest.fixture
def recorder(monkeypatch):
    """The class of a tracker that a user has written, in a module that Python finds."""
    module = type(sys)("my_trackers")
    module.Recorder = type("Recorder", (Recorder,), {"told": []})
    monkeypatch.setitem(sys.modules, "my_trackers", module)
    return module.Recorder


def train(directory, *bindings, trackers=("my_trackers.Recorder",)):
    gin.clear_config()
    try:
        commands.train(Options(gin_bindings=[*BINDINGS, *bindings]), directory, overwrite=False, trackers=trackers)
    finally:
        gin.clear_config()


def test_a_tracker_of_ones_own_follows_a_run_and_its_second_process(recorder, tmp_path):
    directory = tmp_path / "sweep" / "run"
    recorder.stops_at = 2
    with pytest.raises(Interrupted):
        train(directory)
    recorder.stops_at = None
    train(directory)
    assert [name for name, *_ in recorder.told] == ["start", "log", "log", "finish", "start", "log", "finish"]
    first, second = (what[1] for what in recorder.told if what[0] == "start")
    assert (first.name, first.step, first.id) == ("sweep/run", 0, None)
    assert (second.step, second.id) == (2, "id-7")
    assert first.settings["masks.sparsity"] == 0.5 and first.description["method"] == "static.erk"
    assert first.config == (directory / files.OPERATIVE_CONFIG).read_text()
    records = tiny.lines(directory)
    logged = {step: values for name, step, values in (what for what in recorder.told if what[0] == "log")}
    for record in records:
        step = record.pop("step")
        assert logged[step] == {group_name(name): value for name, value in record.items()}
    ends = [what[1] for what in recorder.told if what[0] == "finish"]
    assert ends[0] is None and ends[1]["steps"] == 4
    # A finished run is told again, and not tracked.
    train(directory)
    assert len(recorder.told) == 7


def test_a_run_does_not_depend_on_its_tracker(recorder, events, tmp_path):
    recorder.fails_at = "log"
    train(tmp_path / "run")
    assert [name for name, *_ in recorder.told] == ["start"]
    one, other = (Reader(directory / "ckpt-4") for directory in (tmp_path / "run", events[0]))
    assert all((one.read("model", name) == other.read("model", name)).all() for name in one.names("model"))
    recorder.fails_at = "start"
    with pytest.raises(RunError, match=r"--tracker=my_trackers\.Recorder cannot start \(the network is down\)"):
        train(tmp_path / "none")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wandbb", r"--tracker=wandbb is not known \(did you mean 'wandb'\?\); use wandb, mlflow, or MODULE\.CLASS"),
        ("nowhere.Tracker", "there is no module nowhere; give one that Python finds"),
        ("json.Tracker", "json has no Tracker"),
        ("json.JSONDecoder", "has no method start; a tracker has start, log, finish"),
    ],
)
def test_a_tracker_that_is_none_is_told_before_any_work(name, message):
    with pytest.raises(SettingError, match=message):
        make_trackers([name])


def test_finishing_twice_tells_the_first_result(recorder, tmp_path):
    trackers = Trackers({"a": recorder()})
    trackers.finish({})
    assert recorder.told == []


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "run"
    train(directory, trackers=())
    return directory, EventAccumulator(str(directory / files.TENSORBOARD), size_guidance={"histograms": 0}).Reload()


def test_tensorboard_has_the_configuration_and_the_hyperparameters(events):
    directory, found = events
    (text,) = found.Tensors("configuration")
    config = (directory / files.OPERATIVE_CONFIG).read_text()
    assert text.tensor_proto.string_val[0].decode() == f"```\n{config}\n```"
    content = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    start = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    assert start.hparams["optimizer.learning_rate"].number_value == 0.001
    assert start.hparams["method"].string_value == "static.erk"
    assert "data.download" not in start.hparams


def test_tensorboard_has_histograms_of_the_active_weights_alone(events):
    directory, found = events
    reader = Reader(directory / "ckpt-4")
    weights = {name: reader.read("model", f"mlp.{name}") for name in reader.names("masks")}
    for name, values in weights.items():
        active = values[reader.read("masks", name)]
        last = found.Histograms(f"active_weights/{name.replace('.', '/')}")[-1]
        histogram = last.histogram_value
        assert last.step == 4 and histogram.num == active.size == sum(histogram.bucket)
        assert histogram.min == active.min() and histogram.max == active.max()
        assert histogram.sum == pytest.approx(float(active.sum()), abs=1e-4)
        low = sum(histogram.bucket[:15])
        assert low == pytest.approx((active <= histogram.bucket_limit[14]).sum(), abs=1)


def test_wandb_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    train(tmp_path / "run", trackers=["wandb"])
    stored = json.loads((tmp_path / "run" / files.TRACKING).read_text())["wandb"]
    (log,) = (tmp_path / "run" / "wandb").glob(f"offline-run-*-{stored}/run-{stored}.wandb")
    words = (b"accuracy/test", b"masks.sparsity", b"steps_per_second")
    # Its own process writes the last records.
    for _ in range(100):
        missing = [word for word in words if word not in log.read_bytes()]
        if not missing:
            break
        time.sleep(0.1)
    assert not missing


def test_mlflow_in_sqlite(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    train(tmp_path / "run", trackers=["mlflow"])
    stored = json.loads((tmp_path / "run" / files.TRACKING).read_text())["mlflow"]
    client = mlflow.MlflowClient()
    data = client.get_run(stored).data
    assert data.params["masks.sparsity"] == "0.5" and data.params["method"] == "static.erk"
    history = client.get_metric_history(stored, "accuracy/test")
    records = tiny.lines(tmp_path / "run")
    assert [(entry.step, entry.value) for entry in history] == [(r["step"], r["test_accuracy"]) for r in records]
    assert client.get_run(stored).info.status == "FINISHED"
