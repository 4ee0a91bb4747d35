"""The two benchmark networks and their data, as the suite builds them."""

import dataclasses
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from sparse_lib.api import sparsify
from sparse_lib.execution import Execution, Mode
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


def make_noise(examples: int = EXAMPLES, image: tuple[int, ...] = (28, 28, 1)) -> Split:
    """Returns random images and labels, shaped like MNIST by default; the cost of a step does not depend on values."""
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


def make_case(network: str, train: Split) -> Case:
    """Returns a benchmark network with ERK masks and the training steps of the suite.

    Args:
      network: `LeNet5` or `MLP`.
      train: training data.
    """
    return make_masked_case(build_network(network), train, sparsity=SPARSITIES[network], rate=RATES[network])


def build_network(network: str) -> keras.Model:
    """Builds `LeNet5` or `MLP` with the settings of its gin files."""
    return NETWORKS[network].build((28, 28, 1), 10, Style(weight_decay=WEIGHT_DECAY[network]))


def make_masked_case(
    model: keras.Model,
    train: Split,
    *,
    sparsity: float,
    rate: float,
    batch: int = BATCH,
    execution: Mode = "auto",
    distribution: str = "erk",
) -> Case:
    """Returns a network with random masks and the training steps of the suite.

    Args:
      model: network.
      train: training data.
      sparsity: of all kernels together (fraction).
      rate: learning rate.
      batch: batch size (count).
      execution: of the steps.
      distribution: of the sparsity over kernels.
    """
    masks = sparsify(model, sparsity, distribution)
    optimizer = SparseOptimizer(keras.optimizers.SGD(rate, momentum=0.9), masks)
    optimizer.build(model.trainable_variables)
    steps = Steps(model, optimizer, train, batch_size=batch, seed=0, execution=Execution(model, masks, execution))
    return Case(model, optimizer, steps)


def make_dense_steps(model: keras.Model, train: Split, chunk: int, *, rate: float, jit_compile: bool) -> Any:
    """Compiles Keras training steps without masks, many steps per call, with the data in memory.

    Args:
      model: network.
      train: training data.
      chunk: steps per call (count).
      rate: learning rate.
      jit_compile: whether XLA compiles the loop.

    Returns:
      A function that trains on the examples of given indices, [chunk, batch].
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
