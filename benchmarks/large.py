"""Peak memory of a ResNet-50's training step, dense and with masks.

python -m benchmarks.large
"""

import argparse
import resource
import subprocess
import sys

import numpy as np
import tensorflow as tf

from benchmarks import cases
from benchmarks.sparse_training import IMAGENET
from sparse_lib.experiment.networks import ResNet, Style

SPARSITY, RATE = 0.9, 0.1
# Batch size of ResNet-50, small so that the memory of the masks is visible beside the activations.
RESNET_BATCH = 8
# Without masks, with masks in dense arrays, and sparse at some sparsities (fraction).
DENSE, MASKED = "dense", "masked"
KINDS = (DENSE, MASKED, "0.8", "0.9", "0.95", "0.98")


def measure_peak_memory(kind: str) -> float:
    """Measures the peak memory of a process that takes three training steps of a ResNet-50.

    Args:
      kind: one of `KINDS`.

    Returns:
      Largest resident set of the process (GB).
    """
    command = [sys.executable, "-m", "benchmarks.large", f"--memory={kind}"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(output.split()[-1])


def _train_resnet(kind: str) -> None:
    train = cases.make_noise(3 * RESNET_BATCH, IMAGENET)
    model = ResNet().build(IMAGENET, 1000, Style())
    if kind == DENSE:
        places = np.arange(3 * RESNET_BATCH, dtype=np.int32).reshape(3, RESNET_BATCH)
        cases.make_dense_steps(model, train, 3, rate=RATE, jit_compile=False)(tf.constant(places)).numpy()
        return
    sparsity = SPARSITY if kind == MASKED else float(kind)
    case = cases.make_masked_case(
        model,
        train,
        sparsity=sparsity,
        rate=RATE,
        batch=RESNET_BATCH,
        execution="dense" if kind == MASKED else "auto",
        distribution="uniform",
    )
    case.steps.run(0, 3)


def main() -> None:
    """Prints memory and ratios."""
    print(f"\nResNet-50 224x224x3, batch {RESNET_BATCH}, three steps: peak memory")
    dense = measure_peak_memory(DENSE)
    print(f"  {DENSE:<8} {dense:.2f} GB", flush=True)
    for kind in KINDS[1:]:
        memory = measure_peak_memory(kind)
        print(f"  {kind:<8} {memory:.2f} GB, ratio {memory / dense:.2f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Memory of masks in a large network")
    parser.add_argument("--memory", choices=KINDS, help="print the peak memory of this kind of ResNet-50 step alone")
    if kind := parser.parse_args().memory:
        _train_resnet(kind)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9)
    else:
        main()
