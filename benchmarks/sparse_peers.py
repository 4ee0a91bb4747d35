"""Sparse layers and a sparse training step beside those of other libraries, on one thread.

  python -m benchmarks.sparse_peers

Every contestant has a process of its own, and they take turns; the processor's time counts. PyTorch, JAX and sparselab
(`pip install torch jax sparselab`) are optional: who is not installed, or fails, is named on standard error.
"""

import argparse
import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import sparse_peer_steps, timing
from benchmarks.sparse_peer_steps import BATCH, LAYERS, MLP_SIZES, Layer

SPARSITIES = (0.9, 0.95, 0.98)
# Of a turn (s).
_TURN = 0.3
DENSE = "TensorFlow"


def keras_layer(layer: Layer, sparsity: float) -> Callable[[], object]:
    """Returns forward pass and both gradients of TensorFlow's dense product."""
    del sparsity
    import tensorflow as tf

    x, dy, kernel = map(tf.constant, layer.arrays())

    @tf.function
    def both(x: tf.Tensor, kernel: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            y = tf.nn.conv2d(x, kernel, 1, "SAME") if layer.is_convolution else x @ kernel
        return [y, *tape.gradient(y, [x, kernel], output_gradients=dy)]

    return functools.partial(_run, both, x, kernel)


def sparse_lib_layer(layer: Layer, sparsity: float) -> Callable[[], object]:
    """Returns forward pass and both gradients of this library's product."""
    import tensorflow as tf

    from sparse_lib.execution import library, products

    library.use_threads(1)
    x, dy, kernel = map(tf.constant, layer.arrays())
    mask = layer.mask(sparsity)
    structure, values = products.find_structure(mask), tf.constant(kernel.numpy()[mask])

    @tf.function
    def both(x: tf.Tensor, values: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch([x, values])
            if layer.is_convolution:
                y = products.conv2d(
                    x, values, structure, kernel_size=(3, 3), strides=(1, 1), padding="same", dilations=(1, 1)
                )
            else:
                y = products.matmul(x, values, structure)
        return [y, *tape.gradient(y, [x, values], output_gradients=dy)]

    return functools.partial(_run, both, x, values)


def tensorflow_csr_layer(layer: Layer, sparsity: float) -> Callable[[], object]:
    """Returns forward pass and both gradients of TensorFlow's CSR operations."""
    import tensorflow as tf

    x, dy, kernel = layer.arrays()
    mask = layer.mask(sparsity).T
    places, shape = np.argwhere(mask), mask.shape
    values = tf.constant(kernel.T[mask])

    @tf.function
    def both(x: tf.Tensor, dy: tf.Tensor, values: tf.Tensor) -> list[tf.Tensor]:
        weights = tf.raw_ops.SparseTensorToCSRSparseMatrix(indices=places, values=values, dense_shape=shape)
        y = tf.raw_ops.SparseMatrixMatMul(a=weights, b=x, transpose_b=True, transpose_output=True)
        dx = tf.raw_ops.SparseMatrixMatMul(a=weights, b=dy, transpose_a=True, transpose_b=True, transpose_output=True)
        # There is no sampled product: the dense one, and its active entries.
        return [y, dx, tf.gather_nd(tf.matmul(dy, x, transpose_a=True), places)]

    return functools.partial(_run, both, tf.constant(x), tf.constant(dy), values)


def _run(function: Callable[..., Any], *arguments: Any) -> None:
    # Asynchronous until somebody looks.
    function(*arguments)[0].numpy()


def scipy_layer(layer: Layer, sparsity: float) -> Callable[[], object]:
    """Returns forward pass and both gradients of SciPy's CSR matrix."""
    from scipy import sparse

    x, dy, kernel = layer.arrays()
    mask = layer.mask(sparsity).T
    weights = sparse.csr_array(np.where(mask, kernel.T, 0))
    rows, columns = np.nonzero(mask)
    # SciPy has no sampled product either.
    return lambda: (weights @ x.T, weights.T @ dy.T, (dy.T @ x)[rows, columns])


# By name: the forward pass and both gradients of a layer, and whether it has convolutions.
LAYER_STEPS: dict[str, tuple[Callable[[Layer, float], Callable[[], object]], bool]] = {
    DENSE: (keras_layer, True),
    "sparse_lib": (sparse_lib_layer, True),
    "TensorFlow CSR": (tensorflow_csr_layer, False),
    "SciPy CSR": (scipy_layer, False),
    "PyTorch": (sparse_peer_steps.torch_layer, True),
    "PyTorch CSR": (sparse_peer_steps.torch_csr_layer, False),
    "sparselab": (sparse_peer_steps.sparselab_layer, False),
    "JAX": (sparse_peer_steps.jax_layer, True),
    "JAX BCOO": (sparse_peer_steps.jax_bcoo_layer, False),
}
# By name: a training step of the MLP.
MLP_STEPS: dict[str, Callable[[float], Callable[[], object]]] = {
    DENSE: sparse_peer_steps.keras_mlp,
    "sparse_lib": sparse_peer_steps.sparse_lib_mlp,
    "PyTorch": sparse_peer_steps.torch_mlp,
    "PyTorch CSR": sparse_peer_steps.torch_csr_mlp,
    "sparselab": sparse_peer_steps.sparselab_mlp,
    "JAX": sparse_peer_steps.jax_mlp,
}
# Their time does not depend on the sparsity.
_ALWAYS_DENSE = (DENSE, "PyTorch", "JAX")


def make_contestant(task: str, contestant: str) -> Callable[[], int]:
    """Returns the turn of a contestant.

    Args:
      task: key of `LAYERS`, or `MLP`.
      contestant: such as `sparselab 0.9`.
    """
    name, sparsity = contestant.rsplit(" ", 1)
    if name in (DENSE, "sparse_lib", "TensorFlow CSR"):
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    make = MLP_STEPS[name] if task == "MLP" else functools.partial(LAYER_STEPS[name][0], LAYERS[task])
    return functools.partial(_take_turn, make(float(sparsity)))


def _take_turn(step: Callable[[], object]) -> int:
    started = timing.CLOCKS["processor"]()
    count = 0
    while timing.CLOCKS["processor"]() - started < _TURN:
        # The MLP's steps come in chunks.
        done = step()
        count += done if isinstance(done, int) else 1
    return count


def print_task(task: str, rounds: int) -> None:
    """Prints the time of every contestant by sparsity, and the ratio to TensorFlow's dense time.

    Args:
      task: key of `LAYERS`, or `MLP`.
      rounds: counted rounds.
    """
    if task == "MLP":
        names = list(MLP_STEPS)
    else:
        names = [name for name, (_, convolves) in LAYER_STEPS.items() if convolves or not LAYERS[task].is_convolution]
    contestants = [f"{n} {s}" for n in names for s in ((0.0,) if n in _ALWAYS_DENSE else SPARSITIES)]
    build = functools.partial(make_contestant, task)
    with timing.start_processes(build, contestants, "processor") as processes:
        measured = timing.measure_rates(processes, rounds)
    print(f"\n{task}, batch {BATCH}\n| | dense | 90% | 95% | 98% |\n|---|---|---|---|---|")
    for name in names:
        cells = [_format_cell(measured, f"{name} {sparsity}") for sparsity in (0.0, *SPARSITIES)]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def _format_cell(measured: dict[str, list[float]], name: str) -> str:
    if name not in measured:
        return ""
    ratio = timing.median_ratio(measured, name, f"{DENSE} 0.0")
    return f"{1e3 * timing.median_seconds(measured[name]):.2f} ms ({ratio:.2f}x)"


def main() -> None:
    """Prints a table per task."""
    parser = argparse.ArgumentParser(description="Sparse layers and steps of several libraries")
    parser.add_argument("--only", default="", help="tasks whose name contains this")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    # Of the contestants' processes, which inherit it.
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    print(f"One thread; load of the machine {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores", flush=True)
    for task in (*LAYERS, "MLP"):
        if options.only in task:
            print_task(task, options.rounds)
    print(f"\nThe MLP is {'-'.join(map(str, MLP_SIZES))}; load of the machine {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
