"""The two networks of the benchmarks with their data, as the suite builds them."""

import dataclasses
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from sparse_lib.api import sparsify
from sparse_lib.experiment.data import Split
from sparse_lib.experiment.networks import lenet5, mlp
from sparse_lib.experiment.networks.common import Style
from sparse_lib.experiment.steps import Steps
from sparse_lib.optimizer import SparseOptimizer

BATCH = 128
EXAMPLES = 12_800
NETWORKS = {"LeNet5": lenet5, "MLP": mlp}
SPARSITIES = {"LeNet5": 0.95, "MLP": 0.98}
RATES = {"LeNet5": 0.05, "MLP": 0.2}
WEIGHT_DECAY = {"LeNet5": 5e-4, "MLP": 1e-4}


def split(examples: int = EXAMPLES) -> Split:
    """Noise in the shape of MNIST; what is in the images does not change what a step costs."""
    rng = np.random.default_rng(0)
    return Split(
        images=rng.random((examples, 28, 28, 1), np.float32),
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
    style = Style(weight_decay=WEIGHT_DECAY[network])
    model = NETWORKS[network]((28, 28, 1), 10, style)
    masks = sparsify(model, SPARSITIES[network])
    optimizer = SparseOptimizer(keras.optimizers.SGD(RATES[network], momentum=0.9), masks)
    optimizer.build(model.trainable_variables)
    return Case(model, optimizer, Steps(model, optimizer, train, batch_size=BATCH, seed=0))


def dense_steps(network: str, train: Split, chunk: int, *, jit_compile: bool) -> Any:
    """The same network as a compiled Keras step without masks, many steps in a call, data in memory.

    Args:
      network: `LeNet5` or `MLP`.
      train: the data.
      chunk: steps in a call.
      jit_compile: whether XLA compiles the loop.

    Returns:
      A function of indices [chunk, batch] that trains.
    """
    model = NETWORKS[network]((28, 28, 1), 10, Style(weight_decay=WEIGHT_DECAY[network]))
    optimizer = keras.optimizers.SGD(RATES[network], momentum=0.9)
    optimizer.build(model.trainable_variables)
    images, labels = tf.constant(train.images), tf.constant(train.labels)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function(jit_compile=jit_compile)
    def train_chunk(indices: tf.Tensor) -> tf.Tensor:
        def body(i: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            x, y = tf.gather(images, indices[i]), tf.gather(labels, indices[i])
            with tf.GradientTape() as tape:
                loss = loss_of(y, model(x, training=True)) + tf.add_n(model.losses)
            optimizer.apply(tape.gradient(loss, model.trainable_variables))
            return i + 1, total + loss

        return tf.while_loop(lambda i, _: i < chunk, body, (0, 0.0), parallel_iterations=1)[1]

    return train_chunk
