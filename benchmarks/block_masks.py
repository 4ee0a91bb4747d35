"""Graphcore's dynamic sparse MNIST, 784-320-10: a training step with masks in blocks, against the dense step.

`python -m benchmarks.block_masks --batch 16`
"""

import argparse
import time

import keras
import numpy as np
import tensorflow as tf

import sparse_lib
from sparse_lib.execution import Execution, Mode
from sparse_lib.experiment.data import Split
from sparse_lib.experiment.training.steps import CHUNK, Steps

SIZES, DENSITIES = (1, 4, 8, 16), (0.01, 0.1, 0.3)


def make_steps(batch_size: int, density: float, size: int, mode: Mode) -> Steps:
    """Makes the compiled steps of a network whose first layer is sparse in blocks.

    Args:
      batch_size: examples per step (count).
      density: of the first layer (fraction).
      size: height and width of a block (weights).
      mode: of execution.

    Returns:
      The steps, on random images.
    """
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(320, "relu", name="hidden"), keras.layers.Dense(10)]
    model = keras.Sequential([keras.Input((784,)), *layers])
    structure = sparse_lib.Block(size, size)
    masks = sparse_lib.sparsify(model, 1 - density, structure=structure, include="hidden")
    optimizer = sparse_lib.SparseOptimizer(keras.optimizers.SGD(0.02, momentum=1e-4, nesterov=True), masks)
    optimizer.build(model.trainable_variables)
    execution = Execution(model, masks, mode)
    optimizer.lead(execution)
    rng = np.random.default_rng(0)
    data = Split(rng.random((1024, 784), np.float32), rng.integers(0, 10, 1024).astype(np.int32))
    return Steps(model, optimizer, data, batch_size=batch_size, seed=0, execution=execution)


def time_steps(steps: list[Steps], rounds: int) -> list[float]:
    """Returns the shortest time of a step of each, which take turns (seconds).

    Args:
      steps: to time.
      rounds: chunks of each (count).
    """
    shortest = [float("inf")] * len(steps)
    for turn in range(rounds + 1):
        for i, one in enumerate(steps):
            started = time.process_time()
            one.run(turn * CHUNK, CHUNK)
            if turn:
                shortest[i] = min(shortest[i], (time.process_time() - started) / CHUNK)
    return shortest


def main() -> None:
    """Prints a line for each density and size of blocks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    dense = make_steps(options.batch, 0.1, 1, "dense")
    print(f"Batch {options.batch}, one thread; the dense step is compiled by XLA.")
    print(f"{'density':>7} {'block':>6} {'dense steps/s':>14} {'sparse steps/s':>15} {'ratio':>6}")
    for density in DENSITIES:
        for size in SIZES:
            sparse = make_steps(options.batch, density, size, "sparse")
            before, after = time_steps([dense, sparse], options.rounds)
            print(
                f"{density:7.2f} {f'{size}x{size}':>6} {1 / before:14.0f} {1 / after:15.0f} {before / after:6.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
