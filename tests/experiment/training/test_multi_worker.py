"""Two worker processes over the loopback interface train one run."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from sparse_lib.experiment.storage.checkpoints import Reader

ROOT = pathlib.Path(__file__).parents[3]
BINDINGS = {
    "training.total_steps": 40,
    "training.save_freq": 10,
    "training.log_freq": 20,
    "training.batch_size": 64,
    "mlp.hidden_sizes": (20, 12),
    "UPDATE_FREQ": 15,
}


def command(directory: pathlib.Path, strategy: str, **more: object) -> list[str]:
    bindings = [f"--gin_bindings={name}={value}" for name, value in {**BINDINGS, **more}.items()]
    config = f"--gin_config={ROOT / 'mlp_configs' / 'rigl.gin'}"
    return [
        sys.executable,
        "train.py",
        f"--logdir={directory}",
        "--seed=3",
        f"--strategy={strategy}",
        config,
        *bindings,
    ]


def free_ports() -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def start(directory: pathlib.Path, log: pathlib.Path, **more: object) -> list[subprocess.Popen]:
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports()]}
    started = []
    for index in range(2):
        task = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
        with (log / f"log{index}").open("w") as output:
            arguments = command(directory, "multiworker", **more)
            environment = {**os.environ, "TF_CONFIG": task}
            started.append(
                subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
            )
    return started


def finish(processes: list[subprocess.Popen], timeout: float = 180) -> list[int]:
    try:
        return [process.wait(timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()


def state(directory: pathlib.Path, group: str) -> dict[str, np.ndarray]:
    reader = Reader(directory)
    return {name: reader.read(group, name) for name in reader.names(group)}


def check_equal(one: pathlib.Path, other: pathlib.Path) -> None:
    """Same masks; weights as close as sums in another order are."""
    masks, model = state(one, "masks"), state(one, "model")
    for name, value in state(other, "masks").items():
        np.testing.assert_array_equal(value, masks[name])
    for name, value in state(other, "model").items():
        np.testing.assert_allclose(value, model[name], rtol=1e-3, atol=1e-5)
    assert masks and model


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    directory = tmp_path_factory.mktemp("single") / "run"
    subprocess.run(command(directory, "cpu"), cwd=ROOT, check=True, capture_output=True)
    return directory


@pytest.mark.slow
def test_two_workers_equal_one_device(single, tmp_path):
    directory = tmp_path / "run"
    assert finish(start(directory, tmp_path)) == [0, 0], (tmp_path / "log0").read_text()
    check_equal(single, directory)
    result = json.loads((directory / "result.json").read_text())
    assert result["steps"] == 40
    updates = [json.loads(line)["step"] for line in (directory / "mask_updates.jsonl").read_text().splitlines()]
    assert updates == [15, 30]
    # A finished run stays as it is, and no worker waits for the others.
    before = {path.name: path.stat().st_mtime_ns for path in directory.iterdir()}
    assert finish(start(directory, tmp_path)) == [0, 0]
    assert {path.name: path.stat().st_mtime_ns for path in directory.iterdir()} == before


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_killed_worker(tmp_path, killed):
    length = {"training.total_steps": 400}
    directory, whole = tmp_path / "run", tmp_path / "whole"
    subprocess.run(command(whole, "cpu", **length), cwd=ROOT, check=True, capture_output=True)
    processes = start(directory, tmp_path, **length)
    deadline = time.monotonic() + 120
    while not (directory / "ckpt-20.index").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    processes[killed].send_signal(signal.SIGKILL)
    codes = finish(processes)
    assert codes[killed] == -signal.SIGKILL and codes[1 - killed] == 1
    told = (tmp_path / f"log{1 - killed}").read_text().splitlines()[-1]
    assert told.startswith("error: Another worker of this run is gone; start all workers again")
    assert not (directory / "result.json").exists()
    assert finish(start(directory, tmp_path, **length)) == [0, 0], (tmp_path / "log0").read_text()
    check_equal(whole, directory)
