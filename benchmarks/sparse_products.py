"""Sparse products against TensorFlow's dense operations, layer by layer.

Prints the time, the ratio to dense, GFLOP/s on active weights, and which share that is of what a large dense matrix
product reaches. `python -m benchmarks.sparse_products --threads 2 --densities 0.1 0.05 --only 3x3`
"""

import argparse
import dataclasses
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from sparse_lib.execution import library, products


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer: its kernel, and the images or rows that it sees."""

    name: str
    batch: int
    size: int  # of images; 0 for a dense layer
    kernel: int
    channels: int
    outputs: int
    stride: int = 1

    def macs(self) -> float:
        """Returns multiplications of one product with all weights."""
        positions = (-(-self.size // self.stride)) ** 2 if self.size else 1
        return self.batch * positions * self.kernel**2 * self.channels * self.outputs


LAYERS = (
    Layer("3x3, 32x32, 32 to 32", 128, 32, 3, 32, 32),
    Layer("3x3, 16x16, 64 to 64", 128, 16, 3, 64, 64),
    Layer("3x3, 8x8, 128 to 128", 128, 8, 3, 128, 128),
    Layer("3x3/2, 32x32, 32 to 64", 128, 32, 3, 32, 64, 2),
    Layer("1x1, 32x32, 32 to 64", 64, 32, 1, 32, 64),
    Layer("1x1, 8x8, 128 to 128", 128, 8, 1, 128, 128),
    Layer("1x1/2, 32x32, 32 to 64", 128, 32, 1, 32, 64, 2),
    Layer("784 to 300", 128, 0, 1, 784, 300),
    Layer("300 to 100", 128, 0, 1, 300, 100),
    Layer("7x7/2, 224x224, 3 to 64", 8, 224, 7, 3, 64, 2),
    Layer("3x3, 56x56, 64 to 64", 8, 56, 3, 64, 64),
    Layer("1x1, 56x56, 64 to 256", 8, 56, 1, 64, 256),
    Layer("3x3, 28x28, 128 to 128", 8, 28, 3, 128, 128),
    Layer("3x3, 14x14, 256 to 256", 8, 14, 3, 256, 256),
    Layer("1x1, 14x14, 1024 to 256", 8, 14, 1, 1024, 256),
    Layer("3x3, 7x7, 512 to 512", 8, 7, 3, 512, 512),
)
PRODUCTS = ("outputs", "inputs", "weights")


def make_products(layer: Layer, density: float) -> tuple[dict[str, Callable[[], tf.Tensor]], ...]:
    """Returns the three sparse and the three dense products of a layer, by name."""
    rng = np.random.default_rng(0)
    shape = (
        [layer.kernel, layer.kernel, layer.channels, layer.outputs] if layer.size else [layer.channels, layer.outputs]
    )
    structure = products.find_structure(rng.random(shape) < density)
    kernel = tf.constant(rng.normal(size=shape), tf.float32)
    values = tf.gather(tf.reshape(kernel, [-1]), structure.index)
    if not layer.size:
        x = tf.constant(rng.normal(size=[layer.batch, layer.channels]), tf.float32)
        dy = tf.constant(rng.normal(size=[layer.batch, layer.outputs]), tf.float32)
        return {
            "outputs": lambda: products.matmul(x, values, structure),
            "inputs": lambda: products.matmul_transposed(dy, values, structure),
            "weights": lambda: products.matmul_values(x, dy, structure),
        }, {
            "outputs": lambda: tf.matmul(x, kernel),
            "inputs": lambda: tf.matmul(dy, kernel, transpose_b=True),
            "weights": lambda: tf.matmul(x, dy, transpose_a=True),
        }
    x = tf.constant(rng.normal(size=[layer.batch, layer.size, layer.size, layer.channels]), tf.float32)
    out = -(-layer.size // layer.stride)
    dy = tf.constant(rng.normal(size=[layer.batch, out, out, layer.outputs]), tf.float32)
    options = {"kernel_size": layer.kernel, "strides": layer.stride, "padding": "same"}
    dense = {"strides": [1, layer.stride, layer.stride, 1], "padding": "SAME"}
    sizes = tf.constant([layer.size, layer.size])
    return {
        "outputs": lambda: products.conv2d(x, values, structure, **options),
        "inputs": lambda: products.conv2d_transposed(dy, values, structure, sizes, **options),
        "weights": lambda: products.conv2d_values(x, dy, structure, **options),
    }, {
        "outputs": lambda: tf.raw_ops.Conv2D(input=x, filter=kernel, **dense),
        "inputs": lambda: tf.raw_ops.Conv2DBackpropInput(
            input_sizes=tf.shape(x), filter=kernel, out_backprop=dy, **dense
        ),
        "weights": lambda: tf.raw_ops.Conv2DBackpropFilter(input=x, filter_sizes=shape, out_backprop=dy, **dense),
    }


def _repeat(function: Callable[[], tf.Tensor], times: int) -> Callable[[], None]:
    """Returns a graph that runs a product again and again: the cost of a call from Python does not count."""

    @tf.function(autograph=False)
    def run() -> tf.Tensor:
        def body(i: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            with tf.control_dependencies([total]):
                return i + 1, tf.reshape(function(), [-1])[0]

        return tf.while_loop(lambda i, _: i < times, body, (0, 0.0), parallel_iterations=1)[1]

    return run


def time_products(functions: list[Callable[[], tf.Tensor]], rounds: int, clock: Callable[[], float]) -> list[float]:
    """Returns the shortest time of each of some functions that take turns (seconds)."""
    shortest = [float("inf")] * len(functions)
    for _ in range(rounds + 1):
        for i, function in enumerate(functions):
            started = clock()
            function()
            shortest[i] = min(shortest[i], clock() - started)
    return shortest


def main() -> None:
    """Prints a line for each product of each layer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--densities", type=float, nargs="+", default=[0.2, 0.1, 0.05])
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    library.use_threads(options.threads)
    # The processor's time where there is one thread: other processes disturb it less.
    clock = time.process_time if options.threads == 1 else time.perf_counter
    square = tf.random.normal([1024, 1024])
    peak = 2e-9 * 1024**3 / time_products([lambda: square @ square], 20, clock)[0]
    print(f"A dense product of 1024 x 1024 matrices: {peak:.0f} GFLOP/s")
    heads = "".join(f"{f'at {density:.0%}':>31}" for density in options.densities)
    print(f"{'layer':24} {'product':8} {'dense':>9} {heads}")
    for layer in LAYERS:
        if options.only in layer.name:
            _print_layer(layer, options, clock, peak)


def _print_layer(layer: Layer, options: argparse.Namespace, clock: Callable[[], float], peak: float) -> None:
    dense = make_products(layer, 0.1)[1]
    sparse = [make_products(layer, density)[0] for density in options.densities]
    times = 1 if layer.size else 100
    for product in PRODUCTS:
        functions = [dense[product], *(contestant[product] for contestant in sparse)]
        seconds = time_products([_repeat(f, times) if times > 1 else f for f in functions], options.rounds, clock)
        cells = ""
        for density, second in zip(options.densities, seconds[1:], strict=True):
            rate = 2e-9 * density * layer.macs() / second * times
            cells += f"{second / times * 1e3:10.3f} ms {seconds[0] / second:5.2f}x {rate:5.1f} {rate / peak:4.0%}"
        print(f"{layer.name:24} {product:8} {seconds[0] / times * 1e3:6.2f} ms {cells}", flush=True)


if __name__ == "__main__":
    main()
