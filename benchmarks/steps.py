"""Training steps per second: the sparse step compared with the dense one and with other frameworks."""

import functools
import importlib.util
from collections.abc import Callable

import tensorflow as tf

from benchmarks import cases, peers, timing
from sparse_lib.experiment.training.steps import CHUNK

# Calls of a chunk per round, so that a round of each contestant takes one to three seconds.
_CALLS = {"LeNet5": 3, "MLP": 12}
SUITE, DENSE = "sparse_lib, sparse", "Keras, dense compiled step"
# Package of the other framework, and its training loop.
PEERS = {"LeNet5": ("torch", peers.torch_lenet5), "MLP": ("jax", peers.jax_mlp)}


def make_contestant(network: str, name: str) -> Callable[[], int]:
    """Returns the work of a contestant in a round.

    Args:
      network: `LeNet5` or `MLP`.
      name: `SUITE`, `DENSE`, or any other for the other framework.

    Returns:
      A function that trains and returns the number of steps.
    """
    train, calls = cases.make_noise(), _CALLS[network]
    case = cases.make_case(network, train)
    if name == SUITE:
        return lambda: _repeat(calls, lambda: case.steps.run(0, CHUNK))
    indices = case.steps.indices(0, CHUNK)
    if name == DENSE:
        rate = cases.RATES[network]
        dense = cases.make_dense_steps(
            cases.build_network(network), train, CHUNK, rate=rate, jit_compile=network == "MLP"
        )
        return lambda: _repeat(calls, lambda: dense(tf.constant(indices)).numpy())
    loop = PEERS[network][1](train, [m.numpy() for m in case.optimizer.masks.values()], CHUNK)
    return lambda: _repeat(calls, lambda: loop(indices))


def measure(network: str, processes: int = 3, rounds: int = 4) -> dict[str, list[float]]:
    """Times the suite, the dense compiled Keras step and the other framework, if installed, which take turns.

    Args:
      network: `LeNet5` or `MLP`.
      processes: processes per contestant, in sequence: those of PyTorch differ by 10% (count).
      rounds: counted rounds per process.

    Returns:
      Steps per second in each round, by contestant.
    """
    package, _ = PEERS[network]
    names = [SUITE, DENSE, *([f"{package}, masked loop"] if importlib.util.find_spec(package) else [])]
    measured: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(processes):
        with timing.start_processes(functools.partial(make_contestant, network), names) as contestants:
            for name, values in timing.measure_rates(contestants, rounds).items():
                measured[name] += values
    return measured


def _repeat(calls: int, work: Callable[[], object]) -> int:
    for _ in range(calls):
        work()
    return calls * CHUNK


def main() -> None:
    """Prints the rates and ratios of both networks."""
    for network in cases.NETWORKS:
        measured = measure(network)
        timing.print_rates(f"{network} 28x28x1, batch {cases.BATCH}, sparsity {cases.SPARSITIES[network]}", measured)
        for other in list(measured)[1:]:
            print(f"  sparse_lib / {other}: {timing.median_ratio(measured, SUITE, other):.2f}")


if __name__ == "__main__":
    main()
