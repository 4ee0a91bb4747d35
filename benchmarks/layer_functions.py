"""Max pooling, batch normalization and bias against TensorFlow's operations: time of a call, and ratio.

`python -m benchmarks.layer_functions [--threads N] [--rounds N] [--only TEXT]`
"""

import argparse
import functools
import time
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from sparse_lib.execution import layer_functions, library

Function = Callable[[tf.Tensor], tf.Tensor]
Shape = tuple[int, ...]

# Name, shape of the images, pool size, strides, padding.
POOLINGS: tuple[tuple[str, Shape, int, int, str], ...] = (
    ("LeNet5, pool 1", (128, 28, 28, 6), 2, 2, "same"),
    ("LeNet5, pool 2", (128, 10, 10, 16), 2, 2, "same"),
    ("VGG-16, first pool", (64, 32, 32, 64), 2, 2, "valid"),
    ("ResNet-50, stem", (8, 112, 112, 64), 3, 2, "same"),
)
NORMALIZED: tuple[tuple[str, Shape], ...] = (
    ("WRN-22-2, 32x32", (128, 32, 32, 32)),
    ("WRN-22-2, 16x16", (128, 16, 16, 64)),
    ("WRN-22-2, 8x8", (128, 8, 8, 128)),
    ("ResNet-50, 14x14", (8, 14, 14, 1024)),
    ("rows", (128, 300)),
)
BIASED: tuple[tuple[str, Shape], ...] = (
    ("LeNet5, conv 1", (128, 28, 28, 6)),
    ("LeNet5, conv 2", (128, 10, 10, 16)),
    ("VGG-16, first conv", (64, 32, 32, 64)),
    ("300 units", (128, 300)),
)


def make_contestants() -> Iterator[tuple[str, Shape, Function, Function]]:
    """Yields name, shape of the input, TensorFlow's function and ours."""
    for name, shape, size, stride, padding in POOLINGS:
        pool = keras.layers.MaxPooling2D(size, stride, padding)
        yield f"max pooling: {name}", shape, pool.call, layer_functions.replace_pooling(pool) or pool.call
    for name, shape in NORMALIZED:
        layer = keras.layers.BatchNormalization()
        layer.build((None, *shape[1:]))
        ours = layer_functions.replace_normalization(layer) or layer.call
        both = [functools.partial(call, training=True) for call in (layer.call, ours)]
        yield f"normalization: {name}", shape, both[0], both[1]
    for name, shape in BIASED:
        bias = tf.Variable(tf.random.normal(shape[-1:]))
        both = [functools.partial(add, bias=bias) for add in (tf.nn.bias_add, layer_functions.add_bias)]
        yield f"bias: {name}", shape, both[0], both[1]


def compile_both(function: Function, x: tf.Tensor) -> tuple[Callable[[], None], Callable[[], None]]:
    """Returns the function, and the function with its gradient, as graphs without inputs and outputs.

    Args:
      function: of x.
      x: a tensor.
    """
    upstream = tf.random.normal(function(x).shape)

    @tf.function(autograph=False)
    def forward() -> tf.Tensor:
        return tf.reshape(function(tf.identity(x)), [-1])[0]

    @tf.function(autograph=False)
    def both() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        watched = [x, *tape.watched_variables()]
        gradients = tape.gradient(y, watched, output_gradients=upstream)
        return [tf.reshape(g, [-1])[0] for g in gradients if g is not None]

    return forward, both


def time_in_turns(functions: list[Callable[[], object]], rounds: int, clock: Callable[[], float]) -> list[float]:
    """Returns the shortest time of each of some functions (seconds).

    Args:
      functions: without arguments.
      rounds: how often each runs.
      clock: which time counts.
    """
    shortest = [float("inf")] * len(functions)
    for round_ in range(rounds + 2):
        for i, function in enumerate(functions):
            started = clock()
            function()
            if round_ > 1:
                shortest[i] = min(shortest[i], clock() - started)
    return shortest


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    library.use_threads(options.threads)
    # The processor's time where there is one thread: other processes disturb it less.
    clock = time.process_time if options.threads == 1 else time.perf_counter
    print(f"{'':36}{'forward':>30}{'with gradient':>30}")
    for name, shape, theirs, ours in make_contestants():
        if options.only not in name:
            continue
        x = tf.constant(np.random.default_rng(0).normal(size=shape), tf.float32)
        pairs = zip(compile_both(theirs, x), compile_both(ours, x), strict=True)
        cells = []
        for pair in pairs:
            dense, native = time_in_turns(list(pair), options.rounds, clock)
            cells.append(f"{dense * 1e3:9.3f} {native * 1e3:9.3f} ms {dense / native:5.1f}x")
        print(f"{name:36}" + "  ".join(f"{cell:>28}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
