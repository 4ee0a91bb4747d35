"""The exact Hessian compared with the code of the gradient-flow paper and other frameworks, and the cost of an HVP.

  python -m benchmarks.hessian --samples=1000

PyTorch and JAX are optional. Methods that compute row by row are timed on some rows of the first batch, and
extrapolated to all rows and batches.
"""

import argparse
import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

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
# Rows per call, as in the gin file of the paper's code, and timed calls, of which the fastest counts (count).
ROWS_AT_ONCE = 10
CALLS = 2


@dataclasses.dataclass
class Case:
    """A sparse network, the coordinates of its active weights, and data.

    Attributes:
      name: of the network.
      model: network at its initial weights.
      subspace: active weights and biases.
      data: random images.
    """

    name: str
    model: keras.Model
    subspace: Subspace
    data: Split

    @property
    def objective(self) -> Objective:
        """The loss of the network."""
        return Objective(self.model)

    @property
    def batch(self) -> tuple[np.ndarray, np.ndarray]:
        """The first batch."""
        return self.data.images[:BATCH], self.data.labels[:BATCH]


def make_case(network: str, samples: int) -> Case:
    """Returns a network of the suite with ERK masks.

    Args:
      network: `LeNet5` or `MLP`.
      samples: random examples (count).
    """
    model = cases.NETWORKS[network].build((28, 28, 1), 10, Style())
    masks = sparsify(model, cases.SPARSITIES[network])
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables[1::2]:
        # With zero biases, units without active inputs would be exactly at the kink of the ReLU.
        variable.assign(0.1 * rng.standard_normal(variable.shape))
    return Case(network, model, Subspace.active(model, masks), cases.make_noise(samples))


def time_ancestor(case: Case) -> tuple[float, np.ndarray, np.ndarray]:
    """Times rows as in the code of the gradient-flow paper: `jacobian` of slices of the masked gradient, in a loop.

    Args:
      case: network.

    Returns:
      Time of all rows on the first batch, extrapolated from some of each variable (s); indices of some rows; and
      these rows.
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
        seconds += _time_fastest(partial(of_variable, first)) * len(index) / len(index[:ROWS_AT_ONCE])
    return seconds, np.array([part.start for part in case.subspace.slices]), np.stack(found)


def time_peer(case: Case, make: Callable[..., hessian_peers.RowsOf]) -> tuple[float, np.ndarray, np.ndarray]:
    """Times rows in another framework, in which all rows cost the same.

    Args:
      case: network.
      make: one of `hessian_peers.PEERS`.

    Returns:
      Time of all rows on the first batch, extrapolated from some (s); indices of these rows; and these rows.

    Raises:
      ImportError: if the framework is not installed.
    """
    weights = case.subspace.gather(case.objective.params()).numpy()
    rows = make(case.name, weights, case.subspace, *case.batch)
    wanted = np.linspace(0, case.subspace.size - 1, ROWS_AT_ONCE).astype(int)
    found = rows(wanted)
    return _time_fastest(lambda: rows(wanted)) * case.subspace.size / len(wanted), wanted, found


def _time_fastest(work: Callable[[], object]) -> float:
    """Returns the time of the fastest of some calls (s)."""
    times = []
    for _ in range(CALLS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def time_suite(case: Case, dtype: Literal["float32", "float64"]) -> tuple[float, exact.ExactHessian]:
    """Times the exact Hessian of the suite, compilation included.

    Args:
      case: network.
      dtype: of the arithmetic.

    Returns:
      Time (s), and the Hessian.
    """
    started = time.perf_counter()
    batches = Batches.of((case.data.images, case.data.labels), BATCH)
    found = exact.hessian(case.objective, case.objective.params(), batches, case.subspace, dtype=dtype)
    return time.perf_counter() - started, found


def measure_product_cost(model: keras.Model, x: np.ndarray, y: np.ndarray, rounds: int = 5) -> float:
    """Measures the cost of a Hessian-vector product in gradients.

    Args:
      model: network.
      x: images.
      y: labels.
      rounds: counted rounds, in which both take turns.

    Returns:
      Median of (time of a product / time of a gradient).
    """
    objective = Objective(model)
    params = objective.params()
    x, y = tf.constant(x), tf.constant(y)
    gradient = tf.function(lambda: objective.gradient(params, x, y), autograph=False)
    product = tf.function(lambda: objective.hvp(params, x, y, params), autograph=False)

    def once(function: Callable[[], list[tf.Tensor]]) -> int:
        function()[0].numpy()
        return 1

    contestants = {
        "gradient": timing.time_turns(lambda: once(gradient)),
        "product": timing.time_turns(lambda: once(product)),
    }
    return timing.median_ratio(timing.measure_rates(contestants, rounds), "gradient", "product")


def count_products(matrix: np.ndarray, k: int = 10) -> tuple[int, int]:
    """Counts the products that the k largest and k smallest eigenvalues of a matrix need, at the same tolerance.

    Args:
      matrix: symmetric, [n, n].
      k: eigenvalues at each end (count).

    Returns:
      Products of the suite, with its check for repeated eigenvalues, and of ARPACK, called once per end (count).
    """
    operator = aslinearoperator(matrix)
    arpack = curvature.Counted(operator)
    for end in ("LA", "SA"):
        eigsh(arpack, k, which=end, tol=1e-5, v0=np.random.default_rng(0).normal(size=len(matrix)))
    return curvature.both_ends(operator, k)[0].products, arpack.products


def print_report(case: Case) -> None:
    """Prints times and ratios of one network.

    Args:
      case: network.
    """
    print(f"\nExact Hessian of {case.name}: {case.subspace.size:,} active parameters, {len(case.data):,} samples")
    seconds, single = time_suite(case, "float32")
    _print_line(f"suite, {single.method}, float32", seconds)
    double_seconds, double = time_suite(case, "float64")
    _print_line(f"suite, {double.method}, float64", double_seconds)
    started = time.perf_counter()
    exact.eigenvalues(double.matrix)
    _print_line("its eigenvalues", time.perf_counter() - started)
    ours, arpack = count_products(double.matrix)
    print(f"  its ten largest and ten smallest by products alone: {ours} products, {arpack} by ARPACK")
    contestants = {"rows of the paper's code": partial(time_ancestor, case)}
    contestants |= {name: partial(time_peer, case, make) for name, make in hessian_peers.PEERS.items()}
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
        _print_line(f"{name}, extrapolated", theirs, note)
    print(f"  a Hessian-vector product costs {measure_product_cost(case.model, *case.batch):.1f} gradients")


def _print_line(name: str, seconds: float, note: str = "") -> None:
    print(f"  {name:<40} {seconds:>9.1f} s  {note}", flush=True)


def main(samples: int = 1000, networks: Sequence[str] = ("LeNet5", "MLP")) -> None:
    """Prints times and ratios.

    Args:
      samples: examples (count).
      networks: names among `cases.NETWORKS`.
    """
    for network in networks:
        print_report(make_case(network, samples))
    images = np.random.default_rng(0).random((128, 32, 32, 3), np.float32)
    ratio = measure_product_cost(
        WideResNet().build((32, 32, 3), 10, Style()), images, cases.make_noise(128).labels, rounds=2
    )
    print(f"\nWRN-22-2, 128 images: a Hessian-vector product costs {ratio:.1f} gradients")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The exact Hessian compared with other code")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--networks", nargs="*", choices=sorted(cases.NETWORKS), default=sorted(cases.NETWORKS))
    main(**vars(parser.parse_args()))
