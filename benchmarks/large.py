"""Cost of masks in large networks: the step of a WRN-22-2, and the peak memory of a ResNet-50.

python -m benchmarks.large
"""

import argparse
import resource
import subprocess
import sys

import numpy as np
import tensorflow as tf

from benchmarks import cases, timing
from sparse_lib.experiment.networks import ResNet, Style, WideResNet

SPARSITY, RATE = 0.9, 0.1
CIFAR, IMAGENET = (32, 32, 3), (224, 224, 3)
# Batch size of ResNet-50, small so that the memory of the masks is visible beside the activations.
RESNET_BATCH = 8
KINDS = ("dense", "masked")


def time_steps(rounds: int = 5, taken: int = 2) -> dict[str, list[float]]:
    """Times a WRN-22-2 at batch 128, masked and as a dense compiled Keras step, which take turns.

    Args:
      rounds: counted rounds.
      taken: steps per round (count).

    Returns:
      Steps per second in each round, by kind.
    """
    train = cases.make_noise(4 * cases.BATCH, CIFAR)
    case = cases.make_masked_case(WideResNet().build(CIFAR, 10, Style()), train, sparsity=SPARSITY, rate=RATE)
    dense = cases.make_dense_steps(WideResNet().build(CIFAR, 10, Style()), train, taken, rate=RATE, jit_compile=False)
    indices = tf.constant(case.steps.indices(0, taken))

    def masked_steps() -> int:
        case.steps.run(0, taken)
        return taken

    def dense_steps() -> int:
        dense(indices).numpy()
        return taken

    return timing.measure_rates({"masked": masked_steps, "dense": dense_steps}, rounds)


def measure_peak_memory(kind: str) -> float:
    """Measures the peak memory of a process that takes three training steps of a ResNet-50.

    Args:
      kind: `dense` or `masked`.

    Returns:
      Largest resident set of the process (GB).
    """
    command = [sys.executable, "-m", "benchmarks.large", f"--memory={kind}"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(output.split()[-1])


def _train_resnet(kind: str) -> None:
    train = cases.make_noise(3 * RESNET_BATCH, IMAGENET)
    model = ResNet().build(IMAGENET, 1000, Style())
    if kind == "masked":
        cases.make_masked_case(model, train, sparsity=SPARSITY, rate=RATE, batch=RESNET_BATCH).steps.run(0, 3)
        return
    places = np.arange(3 * RESNET_BATCH, dtype=np.int32).reshape(3, RESNET_BATCH)
    cases.make_dense_steps(model, train, 3, rate=RATE, jit_compile=False)(tf.constant(places)).numpy()


def main() -> None:
    """Prints rates, memory and ratios."""
    measured = time_steps()
    timing.print_rates(f"WRN-22-2 32x32x3, batch {cases.BATCH}, sparsity {SPARSITY}", measured)
    print(f"  masked / dense: {timing.median_ratio(measured, 'masked', 'dense'):.2f}")
    dense, masked = (measure_peak_memory(kind) for kind in KINDS)
    print(f"\nResNet-50 224x224x3, batch {RESNET_BATCH}, three steps: peak memory")
    print(f"  dense {dense:.2f} GB, masked {masked:.2f} GB, ratio {masked / dense:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Cost of masks in large networks")
    parser.add_argument("--memory", choices=KINDS, help="print the peak memory of this kind of ResNet-50 step alone")
    if kind := parser.parse_args().memory:
        _train_resnet(kind)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9)
    else:
        main()
