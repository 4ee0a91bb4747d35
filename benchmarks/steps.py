"""Training steps a second: the sparse step against the dense one and against the peers."""

import importlib.util
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from benchmarks import cases, peers, timing
from sparse_lib.experiment.steps import CHUNK

# Calls of a chunk in a round: a round of each contestant takes one to three seconds.
_CALLS = {"LeNet5": 3, "MLP": 12}


def measure(network: str, rounds: int = 9) -> dict[str, list[float]]:
    """Times the suite, the dense compiled Keras step and the installed peers in turn.

    Args:
      network: `LeNet5` or `MLP`.
      rounds: counted rounds.

    Returns:
      Steps a second by contestant.
    """
    train, calls = cases.split(), _CALLS[network]
    case = cases.suite(network, train)
    masks = [m.numpy() for m in case.optimizer.masks.values()]
    indices = case.steps.indices(0, CHUNK)
    dense = cases.dense_steps(
        cases.build(network), train, CHUNK, rate=cases.RATES[network], jit_compile=network == "MLP"
    )
    contestants: dict[str, Callable[[], int]] = {
        "sparse_lib, masked": lambda: _repeat(calls, lambda: case.steps.run(0, CHUNK)),
        "Keras, dense compiled step": lambda: _repeat(calls, lambda: dense(tf.constant(indices)).numpy()),
    }
    peer = {"LeNet5": ("torch", peers.torch_lenet5), "MLP": ("jax", peers.jax_mlp)}[network]
    if importlib.util.find_spec(peer[0]):
        loop = peer[1](train, masks, CHUNK)
        contestants[f"{peer[0]}, masked loop"] = lambda: _repeat(calls, lambda: loop(np.asarray(indices)))
    return timing.rates(contestants, rounds)


def _repeat(calls: int, work: Callable[[], object]) -> int:
    for _ in range(calls):
        work()
    return calls * CHUNK


def main() -> None:
    """Prints the rates and ratios of both networks."""
    for network in cases.NETWORKS:
        measured = measure(network)
        timing.report(f"{network} 28x28x1, batch {cases.BATCH}, sparsity {cases.SPARSITIES[network]}", measured)
        for other in list(measured)[1:]:
            print(f"  sparse_lib / {other}: {timing.ratio(measured, 'sparse_lib, masked', other):.2f}")


if __name__ == "__main__":
    main()
