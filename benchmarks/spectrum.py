"""The top ten Hessian eigenvalues and the spectral density of a WRN-22-2, by the command lines of a user.

  python -m benchmarks.spectrum

It takes half an hour on two cores, mostly for Hessian-vector products, and so is not part of `make bench`.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import numpy as np

from benchmarks import cases, large
from benchmarks.sparse_training import CIFAR

ROOT = pathlib.Path(__file__).parents[1]
IMAGES, STEPS = 512, 20
_TRAINING = (
    "--gin_config=configs/networks/wrn_22_2.gin",
    "--gin_config=configs/methods/rigl.gin",
    f"--gin_bindings=SPARSITY={large.SPARSITY}",
    f"--gin_bindings=training.total_steps={STEPS}",
    "--gin_bindings=training.log_freq=10",
    "--gin_bindings=UPDATE_FREQ=10",
    "--gin_bindings=LAST_UPDATE=20",
    "--gin_bindings=BATCH_SIZE=64",
    "--gin_bindings=optimizer.schedule='constant'",
    "--gin_bindings=optimizer.boundaries=()",
    "--gin_bindings=optimizer.factors=()",
)


class Cost(NamedTuple):
    """Cost of a process.

    Attributes:
      seconds: wall time (s).
      peak: largest resident set (GB).
    """

    seconds: float
    peak: float


def _run(script: str, *arguments: str) -> Cost:
    """Runs an entry point, whose output goes to the output of this process."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, script, *arguments], cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{script} failed.")
    return Cost(time.perf_counter() - started, usage.ru_maxrss * 1024 / 1e9)


def main(probes: int, steps: int) -> None:
    """Trains for some steps, computes the spectrum, and prints its cost.

    Args:
      probes: maximal random vectors of the density (count).
      steps: Lanczos steps per vector (count).
    """
    with tempfile.TemporaryDirectory() as folder:
        data, run = pathlib.Path(folder) / "noise.npz", pathlib.Path(folder) / "run"
        split = cases.make_noise(2 * IMAGES, CIFAR)
        images, labels = (255 * split.images).astype(np.uint8), split.labels
        np.savez(data, x_train=images, y_train=labels, x_test=images[:64], y_test=labels[:64])
        _run("train.py", f"--logdir={run}", *_TRAINING, f"--gin_bindings=data.name='{data}'")
        settings = {"ckpt_ids": [STEPS], "batch_size": IMAGES, "method": "'lanczos'"}
        settings |= {"max_probes": probes, "lanczos_steps": steps}
        bindings = [f"--gin_bindings=hessian.{name}={value}" for name, value in settings.items()]
        cost = _run("hessian.py", f"--logdir={run}", "--gin_config=configs/hessian.gin", *bindings)
        found = json.loads((run / "hessian" / f"ckpt-{STEPS}.json").read_text(encoding="utf8"))
        with np.load(run / "hessian" / f"ckpt-{STEPS}.npz") as arrays:
            largest = arrays["largest"]
    count, errors = found["products"], found["errors"]
    print(f"\nSpectrum of a WRN-22-2, {found['parameters']:,} active parameters, {IMAGES} images")
    print(
        f"  {count} products, {found['probes']} probes: {cost.seconds:.0f} s, {cost.seconds / count:.2f} s per product"
    )
    print(f"  peak memory {cost.peak:.2f} GB")
    print(f"  the ten largest: {', '.join(f'{value:.4g}' for value in largest)}")
    print(f"  smallest {found['lambda_min']:.4g}, trace {found['trace']:.4g} ± {errors['trace']:.1g}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The spectrum of a WRN-22-2")
    parser.add_argument("--probes", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20)
    main(**vars(parser.parse_args()))
