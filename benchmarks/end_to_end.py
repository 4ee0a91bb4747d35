"""What a run costs around its steps: start-up, logging, saving and measuring at the configs' frequency."""

import json
import pathlib
import subprocess
import sys
import tempfile
import time

import tensorflow as tf

from benchmarks import cases, timing
from sparse_lib.experiment.steps import CHUNK

ROOT = pathlib.Path(__file__).parents[1]
# Configuration, and a short and a long run: their difference leaves tracing and compiling out, which start-up tells.
RUNS = {"LeNet5": ("configs/rigl.gin", 1000, 4000), "MLP": ("mlp_configs/rigl.gin", 2000, 10000)}


def _train(config: str, steps: int, directory: str) -> float:
    started = time.time()
    subprocess.run(
        [
            sys.executable,
            "train.py",
            f"--logdir={directory}",
            f"--gin_config={config}",
            f"--gin_bindings=training.total_steps={steps}",
        ],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return time.time() - started


def _wall(config: str, steps: int) -> float:
    with tempfile.TemporaryDirectory() as directory:
        _train(config, steps, directory)
        return json.loads((pathlib.Path(directory) / "result.json").read_text())["wall_seconds"]


def whole_runs(network: str) -> None:
    """Prints the rate of train.py, with its mask updates, logging and saving, against the bare step."""
    config, short, long = RUNS[network]
    case = cases.suite(network, cases.split(1280))
    calls = max(1, long // CHUNK // 4)

    def bare() -> int:
        for _ in range(calls):
            case.steps.run(0, CHUNK)
        return calls * CHUNK

    before = timing.rates({"bare": bare}, 1)["bare"][0]
    rate = (long - short) / (_wall(config, long) - _wall(config, short))
    floor = (before + timing.rates({"bare": bare}, 1)["bare"][0]) / 2
    print(f"  {network:<8} {config:<22} {rate:>7.0f} steps/s, bare step {floor:.0f}: {rate / floor:.2f}")


def start_up() -> None:
    """Prints the time of a whole run of one step, and of --help."""
    for network, (config, *_) in RUNS.items():
        with tempfile.TemporaryDirectory() as directory:
            _train(config, 1, directory)
            records = (pathlib.Path(directory) / "metrics.jsonl").read_text().splitlines()
        print(f"  {network}: process start to end of a run of one step ({len(records)} log steps)", end=" ")
        with tempfile.TemporaryDirectory() as directory:
            print(f"{_train(config, 1, directory):.1f} s")
    started = time.time()
    subprocess.run([sys.executable, "train.py", "--help"], cwd=ROOT, check=False, capture_output=True)
    print(f"  train.py --help: {time.time() - started:.2f} s")


def main() -> None:
    """Prints end-to-end rates and start-up times."""
    tf.config.list_logical_devices()
    print("\nWhole runs of train.py on the embedded digits")
    for network in RUNS:
        whole_runs(network)
    print("\nStart-up")
    start_up()


if __name__ == "__main__":
    main()
