"""What sparse execution saves where a user meets it: runs of train.py, `fit` in three lines, Hessian-vector products.

  python -m benchmarks.sparse_uses

One thread each; the processor's time counts, which other processes disturb less.
"""

import argparse
import functools
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable

import keras
import numpy as np

from benchmarks import cases, timing
from benchmarks.sparse_training import CIFAR, RATE, use_threads
from sparse_lib.api import sparsify
from sparse_lib.execution import Mode
from sparse_lib.experiment.networks import Style, WideResNet
from sparse_lib.measure.problem import Problem
from sparse_lib.optimizer import SparseOptimizer

ROOT = pathlib.Path(__file__).parents[1]
# Gin files of runs: masks that stay, as in a lottery ticket's run, and masks that change every 100 steps.
RUNS = ("configs/static.gin", "configs/rigl.gin", "mlp_configs/static.gin", "mlp_configs/rigl.gin")
STEPS = 3000
# Of an epoch of `fit` (count).
_EXAMPLES = 50 * cases.BATCH
MODES: tuple[Mode, Mode] = ("auto", "dense")


def time_run(config: str, execution: Mode, steps: int) -> float:
    """Returns the processor's time of a run of train.py with all its logging, saving and mask updates (s).

    Args:
      config: gin file.
      execution: of the run.
      steps: of the run (count).
    """
    settings = {"training.total_steps": steps, "training.execution": repr(execution), "SPARSITY": 0.95}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "train.py", f"--logdir={folder}", f"--gin_config={config}"]
        command += [f"--gin_bindings={name}={value}" for name, value in settings.items()]
        threads = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env=os.environ | threads)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def print_run(config: str, steps: int) -> None:
    """Prints the ratio of a dense and a sparse run, with start-up and without.

    Args:
      config: gin file.
      steps: of the runs (count).
    """
    whole = {mode: time_run(config, mode, steps) for mode in MODES}
    start = {mode: time_run(config, mode, 1) for mode in MODES}
    rest = {mode: whole[mode] - start[mode] for mode in MODES}
    print(f"  {config:<24} dense {whole['dense']:6.1f} s, sparse {whole['auto']:6.1f} s:", end=" ")
    print(f"{whole['dense'] / whole['auto']:.2f}x; without start-up {rest['dense'] / rest['auto']:.2f}x", flush=True)


def make_fit(network: str, contestant: str) -> Callable[[], int]:
    """Returns an epoch of `fit`.

    Args:
      network: `LeNet5` or `MLP`.
      contestant: `Keras`, without masks, or a sparsity (fraction).
    """
    use_threads(1)
    model, inner = cases.build_network(network), keras.optimizers.SGD(RATE, momentum=0.9)
    optimizer = inner if contestant == "Keras" else SparseOptimizer(inner, sparsify(model, float(contestant)))
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    train = cases.make_noise(_EXAMPLES)

    def take_turn() -> int:
        model.fit(train.images, train.labels, batch_size=cases.BATCH, verbose=0)
        return _EXAMPLES // cases.BATCH

    return take_turn


def make_product(contestant: str) -> Callable[[], int]:
    """Returns a Hessian-vector product of a WRN-22-2 with uniform masks at 90%, over 128 images.

    Args:
      contestant: execution of the product.
    """
    use_threads(1)
    model = WideResNet().build(CIFAR, 10, Style())
    masks = sparsify(model, 0.9, "uniform")
    train = cases.make_noise(cases.BATCH, CIFAR)
    mode: Mode = "dense" if contestant == "dense" else "auto"
    hessian = Problem(model, (train.images, train.labels), masks, None, cases.BATCH, mode).hessian()
    vector = np.random.default_rng(0).standard_normal(hessian.shape[1])

    def take_turn() -> int:
        hessian @ vector
        return 1

    return take_turn


def print_turns(title: str, build: Callable[[str], Callable[[], int]], names: list[str], rounds: int) -> None:
    """Prints how many times faster each contestant is than the first.

    Args:
      title: of the line.
      build: returns the turn of a contestant.
      names: of the contestants.
      rounds: counted rounds.
    """
    with timing.start_processes(build, names, "processor") as contestants:
        measured = timing.measure_rates(contestants, rounds)
    first, *others = names
    cells = [f"{name} {timing.median_ratio(measured, name, first):.2f}x" for name in others]
    print(
        f"  {title:<24} {first} {1e3 * timing.median_seconds(measured[first]):.2f} ms; {', '.join(cells)}", flush=True
    )


def main() -> None:
    """Prints the ratios of products, epochs of `fit`, and runs."""
    parser = argparse.ArgumentParser(description="Sparse execution in runs, fit and Hessian-vector products")
    parser.add_argument("--only", nargs="+", default=["products", "fit", *RUNS], help="of these")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    print(f"\nOne thread; load of the machine {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores", flush=True)
    if "products" in options.only:
        print_turns("HVP of a WRN-22-2, 90%", make_product, list(reversed(MODES)), options.rounds)
    if "fit" in options.only:
        for network in cases.NETWORKS:
            names = ["Keras", "0.9", "0.95", "0.98"]
            print_turns(f"fit, {network}", functools.partial(make_fit, network), names, options.rounds)
    for config in RUNS:
        if config in options.only:
            print_run(config, options.steps)


if __name__ == "__main__":
    main()
