"""Cost of a run beside its steps: start-up, logging, saving and measuring, as often as the configurations say."""

import collections
import functools
import pathlib
import subprocess
import sys
import tempfile
import time

from sparse_lib.experiment.config import gin_files
from sparse_lib.experiment.config.experiment import Experiment
from sparse_lib.experiment.training import run
from sparse_lib.experiment.training.build import plan_run
from sparse_lib.experiment.training.loop import Loop
from sparse_lib.experiment.training.steps import Steps

ROOT = pathlib.Path(__file__).parents[1]
RUNS = {"LeNet5": ("configs/rigl.gin", 4000), "MLP": ("mlp_configs/rigl.gin", 8000)}
# Parts of the loop. The first two calls of each trace and compile, which counts as start-up.
PARTS = ((Steps, "run"), (Loop, "_log"), (Loop, "_save"), (Loop, "_update_masks"))
_TRACING_CALLS = 2


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


def _time_calls(owner: type, name: str, seconds: dict[str, list[float]]) -> None:
    original = getattr(owner, name)

    @functools.wraps(original)
    def time_call(*args: object, **kwargs: object) -> object:
        started = time.perf_counter()
        value = original(*args, **kwargs)
        seconds[name].append(time.perf_counter() - started)
        return value

    setattr(owner, name, time_call)


def print_whole_runs(network: str, seconds: dict[str, list[float]]) -> None:
    """Prints the share of the bare steps in the time of a run, with and without mask updates.

    Args:
      network: key of `RUNS`.
      seconds: durations of the calls of each part (s), filled by `_time_calls`.
    """
    config, steps = RUNS[network]
    seconds.clear()
    gin_files.forget()
    gin_files.parse([str(ROOT / config)], [f"training.total_steps={steps}"])
    with tempfile.TemporaryDirectory() as directory:
        run.train(plan_run(Experiment.from_gin()), pathlib.Path(directory), gin_files.operative())
    spent = {name: sum(calls[_TRACING_CALLS:]) for name, calls in seconds.items()}
    whole = sum(spent.values())
    share, with_updates = spent["run"] / whole, (spent["run"] + spent["_update_masks"]) / whole
    rest = ", ".join(f"{name.strip('_')} {value:.2f} s" for name, value in spent.items() if name != "run")
    print(f"  {network:<8} {config:<22} bare steps {spent['run']:.2f} s, {rest}: {share:.2f}", end="")
    print(f", with the mask updates {with_updates:.2f}")


def print_start_up() -> None:
    """Prints the durations of a run of one step and of --help."""
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
    """Prints the share of bare steps in whole runs, and start-up times."""
    seconds: dict[str, list[float]] = collections.defaultdict(list)
    for owner, name in PARTS:
        _time_calls(owner, name, seconds)
    print("\nWhole runs of train.py on the embedded digits: share of the bare steps")
    for network in RUNS:
        print_whole_runs(network, seconds)
    print("\nStart-up")
    print_start_up()


if __name__ == "__main__":
    main()
