r"""The exact Hessian against the ancestor's way and peers, and what a Hessian-vector product costs.

  python -m benchmarks.hessian --samples=1000

PyTorch and JAX are optional. What goes row by row is timed on some rows of the first batch and extrapolated to all rows
and batches.
"""

import argparse
import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import partial

import keras
import numpy as np
import tensorflow as tf
from scipy.sparse.linalg import aslinearoperator, eigsh

from benchmarks import cases, hessian_peers, timing
from sparse_lib import curvature
from sparse_lib.api import sparsify
from sparse_lib.curvature import Batches, Subspace, exact
from sparse_lib.experiment.data import Split
from sparse_lib.experiment.networks import Style, WideResNet
from sparse_lib.objective import Objective

# Examples of a batch (count).
BATCH = 1000
# Rows in a call, as the ancestor's gin file has it, and calls that are timed, of which the fastest counts (count).
ROWS_AT_ONCE = 10
CALLS = 2


@dataclasses.dataclass
class Case:
    """A sparse network, the coordinates of its active weights, and data.

    Attributes:
      name: of the network.
      model: at its initial weights.
      subspace: its active weights and biases.
      data: noise.
    """

    name: str
    model: keras.Model
    subspace: Subspace
    data: Split

    @property
    def objective(self) -> Objective:
        """Its loss."""
        return Objective(self.model)

    @property
    def batch(self) -> tuple[np.ndarray, np.ndarray]:
        """The first batch."""
        return self.data.images[:BATCH], self.data.labels[:BATCH]


def case(network: str, samples: int) -> Case:
    """A network of the suite with ERK masks.

    Args:
      network: `LeNet5` or `MLP`.
      samples: examples of noise (count).

    Returns:
      The case.
    """
    model = cases.NETWORKS[network]((28, 28, 1), 10, Style())
    masks = sparsify(model, cases.SPARSITIES[network])
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables[1::2]:
        # With biases of zero, units without active inputs would lie exactly on their kink.
        variable.assign(0.1 * rng.standard_normal(variable.shape))
    return Case(network, model, Subspace.active(model, masks), cases.split(samples))


def ancestor(case: Case) -> tuple[float, np.ndarray, np.ndarray]:
    """Rows as the gradient-flow paper's code takes them: `jacobian` of slices of the masked gradient, in a loop.

    Args:
      case: the network.

    Returns:
      Seconds that all rows take on the first batch, from some of each variable; indices of some rows; these rows.
    """
    variables = [v.value for v in case.model.trainable_variables]
    x, y = map(tf.constant, case.batch)
    indices = case.subspace.indices

    def rows(place: int, first: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape(persistent=True) as outer:
            with tf.GradientTape() as inner:
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, case.model(x, training=True))
                loss = tf.reduce_mean(losses)
            gradient = tf.reshape(inner.gradient(loss, variables)[place], [-1])
            part = tf.gather(gradient, indices[place])[first : first + ROWS_AT_ONCE]
        parts = outer.jacobian(part, variables, experimental_use_pfor=False)
        flat = [tf.reshape(p, [tf.shape(part)[0], -1]) for p in parts]
        return tf.concat([tf.gather(p, index, axis=1) for p, index in zip(flat, indices, strict=True)], axis=1)

    seconds, found = 0.0, []
    for place, index in enumerate(indices):
        of_variable = tf.function(partial(rows, place))
        first = tf.constant(0)
        found.append(of_variable(first).numpy()[0])
        seconds += _seconds(partial(of_variable, first)) * len(index) / len(index[:ROWS_AT_ONCE])
    return seconds, np.array([part.start for part in case.subspace.slices]), np.stack(found)


def peer(case: Case, make: Callable[..., hessian_peers.RowsOf]) -> tuple[float, np.ndarray, np.ndarray]:
    """Rows by another framework, in which all rows cost the same.

    Args:
      case: the network.
      make: one of `hessian_peers.PEERS`.

    Returns:
      Seconds that all rows take on the first batch, from some of them; indices of some rows; these rows.

    Raises:
      ImportError: if the framework is not installed.
    """
    weights = case.subspace.gather(case.objective.params()).numpy()
    rows = make(case.name, weights, case.subspace, *case.batch)
    wanted = np.linspace(0, case.subspace.size - 1, ROWS_AT_ONCE).astype(int)
    found = rows(wanted)
    return _seconds(lambda: rows(wanted)) * case.subspace.size / len(wanted), wanted, found


def _seconds(work: Callable[[], object]) -> float:
    """The shortest time of some calls."""
    times = []
    for _ in range(CALLS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def seconds_of_suite(case: Case, dtype: exact.Dtype) -> tuple[float, exact.ExactHessian]:
    """Time of the suite's exact Hessian, compiling included.

    Args:
      case: the network.
      dtype: the arithmetic.

    Returns:
      Seconds, and the Hessian.
    """
    started = time.perf_counter()
    batches = Batches.of((case.data.images, case.data.labels), BATCH)
    found = exact.hessian(case.objective, case.objective.params(), batches, case.subspace, dtype=dtype)
    return time.perf_counter() - started, found


def product_over_gradient(model: keras.Model, x: np.ndarray, y: np.ndarray, rounds: int = 5) -> float:
    """What a Hessian-vector product costs.

    Args:
      model: a network.
      x: images.
      y: labels.
      rounds: counted rounds; both run in turn.

    Returns:
      Median of time of a product / time of a gradient.
    """
    objective = Objective(model)
    params = objective.params()
    x, y = tf.constant(x), tf.constant(y)
    gradient = tf.function(lambda: objective.gradient(params, x, y), autograph=False)
    product = tf.function(lambda: objective.hvp(params, x, y, params), autograph=False)

    def once(function: Callable[[], list[tf.Tensor]]) -> int:
        function()[0].numpy()
        return 1

    contestants = {"gradient": lambda: once(gradient), "product": lambda: once(product)}
    return timing.ratio(timing.rates(contestants, rounds), "gradient", "product")


def products_of_both_ends(matrix: np.ndarray, k: int = 10) -> tuple[int, int]:
    """Products that the k largest and k smallest eigenvalues of a matrix take, at one tolerance.

    Args:
      matrix: symmetric, [n, n].
      k: eigenvalues at each end (count).

    Returns:
      Counts of the suite, its check for repeated eigenvalues included, and of ARPACK's restarts with either end.
    """
    operator = aslinearoperator(matrix)
    arpack = curvature.Counted(operator)
    for end in ("LA", "SA"):
        eigsh(arpack, k, which=end, tol=1e-5, v0=np.random.default_rng(0).normal(size=len(matrix)))
    return curvature.both_ends(operator, k)[0].products, arpack.products


def report(case: Case) -> None:
    """Prints times and ratios for one network.

    Args:
      case: the network.
    """
    print(f"\nExact Hessian of {case.name}: {case.subspace.size:,} active parameters, {len(case.data):,} samples")
    seconds, single = seconds_of_suite(case, "float32")
    _line(f"suite, {single.method}, float32", seconds)
    double_seconds, double = seconds_of_suite(case, "float64")
    _line(f"suite, {double.method}, float64", double_seconds)
    started = time.perf_counter()
    exact.eigenvalues(double.matrix)
    _line("its eigenvalues", time.perf_counter() - started)
    ours, arpack = products_of_both_ends(double.matrix)
    print(f"  its ten largest and ten smallest by products alone: {ours} products, {arpack} by ARPACK")
    contestants = {"the ancestor's rows": partial(ancestor, case)}
    contestants |= {name: partial(peer, case, make) for name, make in hessian_peers.PEERS.items()}
    for name, timed in contestants.items():
        try:
            theirs, places, rows = timed()
        except ImportError:
            print(f"  {name} is not installed")
            continue
        theirs *= max(1.0, len(case.data) / BATCH)
        note = f"{theirs / seconds:.1f} times the suite's float32"
        if len(case.data) <= BATCH:
            apart = np.abs(rows - double.matrix[places]).max() / np.abs(double.matrix).max()
            note += f"; its rows differ by {apart:.0e} of the largest entry"
        _line(f"{name}, extrapolated", theirs, note)
    print(f"  a Hessian-vector product costs {product_over_gradient(case.model, *case.batch):.1f} gradients")


def _line(name: str, seconds: float, note: str = "") -> None:
    print(f"  {name:<40} {seconds:>9.1f} s  {note}", flush=True)


def main(samples: int = 1000, networks: Sequence[str] = ("LeNet5", "MLP")) -> None:
    """Prints times and ratios.

    Args:
      samples: examples (count).
      networks: names among `cases.NETWORKS`.
    """
    for network in networks:
        report(case(network, samples))
    images = np.random.default_rng(0).random((128, 32, 32, 3), np.float32)
    ratio = product_over_gradient(
        WideResNet().build((32, 32, 3), 10, Style()), images, cases.split(128).labels, rounds=2
    )
    print(f"\nWRN-22-2, 128 images: a Hessian-vector product costs {ratio:.1f} gradients")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The exact Hessian against the ancestor's way and peers")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--networks", nargs="*", choices=sorted(cases.NETWORKS), default=sorted(cases.NETWORKS))
    main(**vars(parser.parse_args()))
