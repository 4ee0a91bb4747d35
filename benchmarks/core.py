"""Cost of sparsity: a mask update of a large network, and the training step of a small one."""

import statistics
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from benchmarks import cases, timing
from sparse_lib.counting import micronet
from sparse_lib.masks import Masks, random_masks
from sparse_lib.optimizer import SparseOptimizer
from sparse_lib.updaters import RigL

DENSITY = 0.1
# Steps per compiled call, enough to hide the overhead of the call.
CHUNK = {"LeNet5": 50, "MLP": 250}


def _make_masks(kernels: list[keras.Variable]) -> Masks:
    values = random_masks([k.shape for k in kernels], [int(DENSITY * np.prod(k.shape)) for k in kernels], seed=0)
    return Masks(kernels, [tf.constant(value) for value in values])


def time_mask_update(rounds: int = 5) -> dict[str, float]:
    """Times a RigL update of ResNet-50 kernels with SGD momentum against sorting each kernel once.

    Args:
      rounds: counted rounds, in which both take turns.

    Returns:
      `weights` (count), `first_call` including tracing, `update` and `sort` (s), and `update / sort`; medians.
    """
    shapes = [layer.kernel for layer in micronet.resnet50()]
    rng = np.random.default_rng(0)
    kernels = [keras.Variable(rng.standard_normal(shape, "float32"), name=f"k{i}") for i, shape in enumerate(shapes)]
    optimizer = SparseOptimizer(keras.optimizers.SGD(0.1, momentum=0.9), _make_masks(kernels), RigL(end_step=25_000))
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
    measured = timing.measure_rates(
        {
            "update": timing.time_turns(lambda: _call_once(update, gradients)),
            "sort": timing.time_turns(lambda: _call_once(sort, gradients)),
        },
        rounds,
    )
    return {
        "weights": sum(optimizer.masks.sizes()),
        "first_call": first_call,
        "update": 1 / statistics.median(measured["update"]),
        "sort": 1 / statistics.median(measured["sort"]),
        "update / sort": timing.median_ratio(measured, "sort", "update"),
    }


def _call_once(function: Callable[[list[tf.Tensor]], object], gradients: list[tf.Tensor]) -> int:
    function(gradients)
    return 1


def _make_steps(name: str, kind: str) -> Callable[[], int]:
    """Returns a function that runs a chunk of compiled training steps of a kind, see `time_steps`."""
    model, inner = cases.build_network(name), keras.optimizers.SGD(0.01, momentum=0.9)
    variables = model.trainable_variables
    if kind == "dense":
        inner.build(variables)
        take: Callable[[list[tf.Tensor]], None] = inner.apply
    else:
        masks = _make_masks([v for v in variables if len(v.shape) > 1])
        # Updates begin after the last step of any benchmark; their condition is evaluated at every step all the same.
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


def time_steps(name: str, rounds: int = 15) -> dict[str, list[float]]:
    """Times the dense compiled step of a network and its sparse steps, which take turns.

    Args:
      name: `LeNet5` or `MLP`.
      rounds: counted rounds.

    Returns:
      Steps per second in each round, of `dense` (the inner optimizer alone), `train_step` (masking, inner optimizer,
      projection) and `apply` (the same, with the condition on a mask update).
    """
    keras.utils.set_random_seed(0)
    kinds = ("dense", "train_step", "apply")
    return timing.measure_rates({kind: timing.time_turns(_make_steps(name, kind)) for kind in kinds}, rounds)


def main() -> None:
    """Prints the cost of steps and of a mask update."""
    for name in CHUNK:
        measured = time_steps(name)
        timing.print_rates(f"{name} 28x28x1, batch {cases.BATCH}, SGD momentum, {1 - DENSITY:.0%} sparse", measured)
        for kind in ("train_step", "apply"):
            print(f"  time of {kind} / dense step: {timing.median_ratio(measured, 'dense', kind):.3f}")
    update = time_mask_update()
    print(f"\nRigL update of ResNet-50, {update['weights']:,} weights, {1 - DENSITY:.0%} sparse")
    print(
        f"  {update['update']:.2f} s, {update['update'] / update['weights'] * 1e9:.0f} ns per weight; first call ",
        end="",
    )
    print(f"{update['first_call']:.1f} s; sorting every kernel once {update['sort']:.2f} s")
    print(f"  time of an update / sorting once: {update['update / sort']:.3f}")


if __name__ == "__main__":
    main()
