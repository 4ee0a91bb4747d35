"""What sparsity costs: a mask update of a large network, and the step of a small one."""

import statistics
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from benchmarks import cases, timing
from sparse_lib.masks import Masks, random_masks
from sparse_lib.optimizer import SparseOptimizer
from sparse_lib.updaters import RigL

DENSITY = 0.1
# Steps of one compiled call, which hide what the call itself costs.
CHUNK = {"LeNet5": 50, "MLP": 250}


def resnet50_shapes() -> list[tuple[int, ...]]:
    """Shapes of the 54 kernels of ResNet-50, 25,502,912 weights."""
    shapes: list[tuple[int, ...]] = [(7, 7, 3, 64)]
    channels = 64
    for blocks, width in ((3, 64), (4, 128), (6, 256), (3, 512)):
        for block in range(blocks):
            if block == 0:
                shapes.append((1, 1, channels, 4 * width))
            shapes += [(1, 1, channels, width), (3, 3, width, width), (1, 1, width, 4 * width)]
            channels = 4 * width
    return [*shapes, (2048, 1000)]


def _masks(kernels: list[keras.Variable]) -> Masks:
    values = random_masks([k.shape for k in kernels], [int(DENSITY * np.prod(k.shape)) for k in kernels], seed=0)
    return Masks(kernels, [tf.constant(value) for value in values])


def mask_update(rounds: int = 5) -> dict[str, float]:
    """Times a RigL update of ResNet-50 kernels with SGD momentum against sorting each kernel once.

    Args:
      rounds: counted rounds; the two run in turn.

    Returns:
      `weights` (count), `first_call` with its tracing, `update`, `sort` (seconds) and `update / sort`, medians.
    """
    shapes = resnet50_shapes()
    rng = np.random.default_rng(0)
    kernels = [keras.Variable(rng.standard_normal(shape, "float32"), name=f"k{i}") for i, shape in enumerate(shapes)]
    optimizer = SparseOptimizer(keras.optimizers.SGD(0.1, momentum=0.9), _masks(kernels), RigL(end_step=25_000))
    optimizer.build(kernels)
    gradients = [tf.constant(rng.standard_normal(shape, "float32")) for shape in shapes]

    @tf.function
    def update(gradients: list[tf.Tensor]) -> None:
        optimizer.mask_step(optimizer.reduce(gradients))

    @tf.function
    def sort(gradients: list[tf.Tensor]) -> tf.Tensor:
        return tf.add_n([tf.argsort(tf.reshape(g, [-1]))[0] for g in gradients])

    started = time.perf_counter()
    update(gradients)
    first_call = time.perf_counter() - started
    measured = timing.rates(
        {"update": lambda: _once(update, gradients), "sort": lambda: _once(sort, gradients)}, rounds
    )
    return {
        "weights": sum(optimizer.masks.sizes()),
        "first_call": first_call,
        "update": 1 / statistics.median(measured["update"]),
        "sort": 1 / statistics.median(measured["sort"]),
        "update / sort": timing.ratio(measured, "sort", "update"),
    }


def _once(function: Callable[[list[tf.Tensor]], object], gradients: list[tf.Tensor]) -> int:
    function(gradients)
    return 1


def _steps(name: str, kind: str) -> Callable[[], int]:
    """A function that takes a chunk of compiled training steps, the dense one or a sparse one."""
    model, inner = cases.build(name), keras.optimizers.SGD(0.01, momentum=0.9)
    variables = model.trainable_variables
    if kind == "dense":
        inner.build(variables)
        take: Callable[[list[tf.Tensor]], None] = inner.apply
    else:
        masks = _masks([v for v in variables if len(v.shape) > 1])
        # An update is due at a step that no benchmark reaches: its condition is asked at every step all the same.
        optimizer = SparseOptimizer(inner, masks, RigL(end_step=10**9, begin_step=10**8, frequency=100))
        optimizer.build(variables)
        take = optimizer.apply if kind == "apply" else lambda grads: optimizer.train_step(optimizer.reduce(grads))
    rng = np.random.default_rng(0)
    x = tf.constant(rng.standard_normal((cases.BATCH, 28, 28, 1), "float32"))
    y = tf.constant(rng.integers(0, 10, cases.BATCH))

    def body(i: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, model(x, training=True))
            loss = tf.reduce_mean(losses)
        take(tape.gradient(loss, variables))
        return i + 1, loss

    # XLA makes dense stacks faster on a CPU and small convolutions slower.
    @tf.function(jit_compile=name == "MLP")
    def chunk() -> tf.Tensor:
        return tf.while_loop(lambda i, _: i < CHUNK[name], body, (0, 0.0), parallel_iterations=1)[1]

    def work() -> int:
        chunk().numpy()
        return CHUNK[name]

    return work


def step(name: str, rounds: int = 15) -> dict[str, list[float]]:
    """Times the dense compiled step of a network against its sparse step, in turn.

    Args:
      name: `LeNet5` or `MLP`.
      rounds: counted rounds.

    Returns:
      Steps a second, one a round, of `dense` (the inner optimizer alone), `train_step` (masking, inner optimizer,
      projection) and `apply` (the same, and the condition on a mask update).
    """
    keras.utils.set_random_seed(0)
    return timing.rates({kind: _steps(name, kind) for kind in ("dense", "train_step", "apply")}, rounds)


def main() -> None:
    """Prints what the core costs."""
    for name in CHUNK:
        measured = step(name)
        timing.report(f"{name} 28x28x1, batch {cases.BATCH}, SGD momentum, {1 - DENSITY:.0%} sparse", measured)
        for kind in ("train_step", "apply"):
            print(f"  time of {kind} / dense step: {timing.ratio(measured, 'dense', kind):.3f}")
    update = mask_update()
    print(f"\nRigL update of ResNet-50, {update['weights']:,} weights, {1 - DENSITY:.0%} sparse")
    print(
        f"  {update['update']:.2f} s, {update['update'] / update['weights'] * 1e9:.0f} ns a weight; first call ", end=""
    )
    print(f"{update['first_call']:.1f} s; sorting every kernel once {update['sort']:.2f} s")
    print(f"  time of an update / sorting once: {update['update / sort']:.3f}")


if __name__ == "__main__":
    main()
