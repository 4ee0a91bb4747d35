"""The two networks of the benchmarks with their data, as the suite builds them."""

import dataclasses
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from sparse_lib.api import sparsify
from sparse_lib.experiment.data import Split
from sparse_lib.experiment.networks import MLP, LeNet5, Style
from sparse_lib.experiment.training.steps import Steps
from sparse_lib.optimizer import SparseOptimizer

BATCH = 128
EXAMPLES = 12_800
NETWORKS = {"LeNet5": LeNet5(), "MLP": MLP()}
SPARSITIES = {"LeNet5": 0.95, "MLP": 0.98}
RATES = {"LeNet5": 0.05, "MLP": 0.2}
WEIGHT_DECAY = {"LeNet5": 5e-4, "MLP": 1e-4}


def split(examples: int = EXAMPLES, image: tuple[int, ...] = (28, 28, 1)) -> Split:
    """Noise, in the shape of MNIST if no other is given; what is in the images does not change what a step costs."""
    rng = np.random.default_rng(0)
    return Split(
        images=rng.random((examples, *image), np.float32),
        labels=rng.integers(0, 10, examples).astype(np.int32),
    )


@dataclasses.dataclass
class Case:
    """A network with its optimizer and compiled steps."""

    model: keras.Model
    optimizer: SparseOptimizer
    steps: Steps


def suite(network: str, train: Split) -> Case:
    """The suite's own steps on a network with ERK masks.

    Args:
      network: `LeNet5` or `MLP`.
      train: the data.

    Returns:
      The case.
    """
    return masked(build(network), train, sparsity=SPARSITIES[network], rate=RATES[network])


def build(network: str) -> keras.Model:
    """`LeNet5` or `MLP`, as its gin files have it."""
    return NETWORKS[network].build((28, 28, 1), 10, Style(weight_decay=WEIGHT_DECAY[network]))


def masked(model: keras.Model, train: Split, *, sparsity: float, rate: float, batch: int = BATCH) -> Case:
    """The suite's own steps on any network with ERK masks.

    Args:
      model: the network.
      train: the data.
      sparsity: of all kernels together (fraction).
      rate: learning rate.
      batch: examples of a step (count).

    Returns:
      The case.
    """
    masks = sparsify(model, sparsity)
    optimizer = SparseOptimizer(keras.optimizers.SGD(rate, momentum=0.9), masks)
    optimizer.build(model.trainable_variables)
    return Case(model, optimizer, Steps(model, optimizer, train, batch_size=batch, seed=0))


def dense_steps(model: keras.Model, train: Split, chunk: int, *, rate: float, jit_compile: bool) -> Any:
    """A compiled Keras step without masks, many steps in a call, data in memory.

    Args:
      model: the network.
      train: the data.
      chunk: steps in a call.
      rate: learning rate.
      jit_compile: whether XLA compiles the loop.

    Returns:
      A function of indices [chunk, batch] that trains.
    """
    optimizer = keras.optimizers.SGD(rate, momentum=0.9)
    optimizer.build(model.trainable_variables)
    images, labels = tf.constant(train.images), tf.constant(train.labels)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function(jit_compile=jit_compile)
    def train_chunk(indices: tf.Tensor) -> tf.Tensor:
        def body(i: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            x, y = tf.gather(images, indices[i]), tf.gather(labels, indices[i])
            with tf.GradientTape() as tape:
                loss = loss_of(y, model(x, training=True)) + sum(model.losses)
            optimizer.apply(tape.gradient(loss, model.trainable_variables))
            return i + 1, total + loss

        return tf.while_loop(lambda i, _: i < chunk, body, (0, 0.0), parallel_iterations=1)[1]

    return train_chunk
