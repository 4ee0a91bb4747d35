"""Training steps with sparse execution, against the same network's dense compiled Keras step.

  python -m benchmarks.sparse_training
  python -m benchmarks.sparse_training --networks LeNet5 WRN-22-2 --threads 2
  python -m benchmarks.sparse_training --auto

Every contestant has a process of its own, and they take turns. With one thread the processor's time counts, which other
processes disturb less. A cell is the median over rounds of (time of the dense step / time of the sparse step). `--auto`
compares `execution='auto'` with `execution='dense'` of the suite, where `auto` must not lose.
"""

import argparse
import dataclasses
import functools
import os
from collections.abc import Callable

import keras
import tensorflow as tf

from benchmarks import cases, timing
from sparse_lib.execution import Mode, library
from sparse_lib.experiment.data import Split
from sparse_lib.experiment.networks import ResNet, Style, WideResNet

CIFAR, IMAGENET, MNIST = (32, 32, 3), (224, 224, 3), (28, 28, 1)
RATE = 0.01


@dataclasses.dataclass(frozen=True)
class Network:
    """A network and how it is timed.

    Attributes:
      build: returns it.
      image: shape of an example.
      taken: steps per turn (count).
      distribution: of the sparsity over kernels.
      batch: batch size (count).
      compilers: of the dense step; the fastest is the one to beat.
    """

    build: Callable[[], keras.Model]
    image: tuple[int, int, int]
    taken: int
    distribution: str = "erk"
    batch: int = cases.BATCH
    compilers: tuple[str, ...] = ("graph",)

    def make_noise(self) -> Split:
        """Returns random images for some batches."""
        return cases.make_noise(max(2, min(self.taken, 100)) * self.batch, self.image)


def _wide() -> keras.Model:
    return WideResNet().build(CIFAR, 10, Style())


NETWORKS = {
    "MLP": Network(functools.partial(cases.build_network, "MLP"), MNIST, 400, compilers=("graph", "XLA")),
    "LeNet5": Network(functools.partial(cases.build_network, "LeNet5"), MNIST, 100),
    "WRN-22-2": Network(_wide, CIFAR, 2, "uniform"),
    "WRN-22-2, ERK": Network(_wide, CIFAR, 2),
    "ResNet-50": Network(lambda: ResNet().build(IMAGENET, 1000, Style()), IMAGENET, 1, "uniform", batch=8),
}
# Of the table, and of the comparison of `auto` with dense execution (fraction).
SPARSITIES, LOW_SPARSITIES = (0.8, 0.9, 0.95, 0.98), (0.0, 0.3, 0.5, 0.7)


def use_threads(count: int) -> None:
    """Limits the threads of this process, before its first operation.

    Args:
      count: of TensorFlow and of the sparse products.
    """
    tf.config.threading.set_intra_op_parallelism_threads(count)
    tf.config.threading.set_inter_op_parallelism_threads(count)
    library.use_threads(count)


def make_dense(name: str, threads: int, compiler: str) -> Callable[[], int]:
    """Returns the turn of a dense compiled Keras step.

    Args:
      name: key of `NETWORKS`.
      threads: of the process (count).
      compiler: `graph` or `XLA`.
    """
    use_threads(threads)
    network = NETWORKS[name]
    train = network.make_noise()
    steps = cases.make_dense_steps(network.build(), train, network.taken, rate=RATE, jit_compile=compiler == "XLA")
    places = tf.reshape(tf.range(network.taken * network.batch) % len(train), [network.taken, network.batch])

    def take_turn() -> int:
        steps(places).numpy()
        return network.taken

    return take_turn


def make_suite(name: str, threads: int, sparsity: float, execution: Mode) -> Callable[[], int]:
    """Returns the turn of the suite's training steps.

    Args:
      name: key of `NETWORKS`.
      threads: of the process (count).
      sparsity: of all kernels (fraction).
      execution: of the steps.
    """
    use_threads(threads)
    network = NETWORKS[name]
    case = cases.make_masked_case(
        network.build(),
        network.make_noise(),
        sparsity=sparsity,
        rate=RATE,
        batch=network.batch,
        execution=execution,
        distribution=network.distribution,
    )

    def take_turn() -> int:
        for first in range(0, network.taken, 100):
            case.steps.run(0, min(100, network.taken - first))
        return network.taken

    return take_turn


def make_contestant(network: str, threads: int, contestant: str) -> Callable[[], int]:
    """Returns the turn of a contestant.

    Args:
      network: key of `NETWORKS`.
      threads: of the process (count).
      contestant: such as `Keras graph`, `auto 0.9` or `dense 0.5`.
    """
    kind, detail = contestant.split()
    if kind == "Keras":
        return make_dense(network, threads, detail)
    return make_suite(network, threads, float(detail), "dense" if kind == "dense" else "auto")


def measure(network: str, threads: int, names: list[str], rounds: int) -> dict[str, list[float]]:
    """Times contestants that take turns, each in a process of its own.

    Args:
      network: key of `NETWORKS`.
      threads: of each process (count).
      names: contestants, see `make_contestant`.
      rounds: counted rounds.

    Returns:
      Steps per second in each round, by contestant.
    """
    build = functools.partial(make_contestant, network, threads)
    clock: timing.Clock = "processor" if threads == 1 else "wall"
    with timing.start_processes(build, names, clock) as contestants:
        return timing.measure_rates(contestants, rounds)


def print_training(network: str, threads: int, rounds: int, sparsities: tuple[float, ...]) -> None:
    """Prints the times of the dense and the sparse steps of a network, and their ratios.

    Args:
      network: key of `NETWORKS`.
      threads: of each process (count).
      rounds: counted rounds.
      sparsities: to measure (fraction).
    """
    sparse = [f"auto {sparsity}" for sparsity in sparsities]
    dense = [f"Keras {compiler}" for compiler in NETWORKS[network].compilers]
    measured = measure(network, threads, [*dense, *sparse], rounds)
    best = min(dense, key=lambda name: timing.median_seconds(measured[name]))
    cells = [f"{network}, {threads} thread{'s' * (threads > 1)}", _milliseconds(measured[best])]
    for name in sparse:
        cells.append(f"{timing.median_ratio(measured, name, best):.2f}x ({_milliseconds(measured[name])})")
    print(f"| {' | '.join(cells)} |", flush=True)


def print_auto(network: str, threads: int, rounds: int, sparsities: tuple[float, ...]) -> None:
    """Prints how much faster `auto` is than `dense` where sparse products pay little or not at all.

    Args:
      network: key of `NETWORKS`.
      threads: of each process (count).
      rounds: counted rounds.
      sparsities: to measure (fraction).
    """
    cells = [f"{network}, {threads} thread{'s' * (threads > 1)}"]
    for sparsity in sparsities:
        names = [f"{mode} {sparsity}" for mode in ("auto", "dense")]
        cells.append(f"{timing.median_ratio(measure(network, threads, names, rounds), *names):.2f}x")
    print(f"| {' | '.join(cells)} |", flush=True)


def _milliseconds(rates: list[float]) -> str:
    value = 1e3 * timing.median_seconds(rates)
    return f"{value:.2f} ms" if value < 10 else f"{value:,.0f} ms"


def main() -> None:
    """Prints a row per network."""
    parser = argparse.ArgumentParser(description="Training steps, sparse against dense")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--sparsities", nargs="+", type=float)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--auto", action="store_true", help="compare 'auto' with 'dense' at low sparsities")
    options = parser.parse_args()
    sparsities = tuple(options.sparsities or (LOW_SPARSITIES if options.auto else SPARSITIES))
    columns = ["network", *([] if options.auto else ["dense"]), *(f"{sparsity:.0%}" for sparsity in sparsities)]
    print(f"\nLoad of the machine {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    for network in options.networks:
        (print_auto if options.auto else print_training)(network, options.threads, options.rounds, sparsities)
    print(f"Load of the machine {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
