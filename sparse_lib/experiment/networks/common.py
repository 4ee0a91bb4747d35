"""Layers shared by the networks: seeded, with one activation and one regularizer."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import keras
import tensorflow as tf

from sparse_lib._utils.errors import InputError

# Of batch normalisation in the published large networks; their fused kernels replaced 1e-5 by 1.001e-5.
_NORM_MOMENTUM, _NORM_EPSILON = 0.9, 1.001e-5

Initializer = Literal["glorot_uniform", "glorot_normal", "lecun", "he"]
_INITIALIZERS: dict[Initializer, Callable[[int], keras.initializers.Initializer]] = {
    "glorot_uniform": lambda seed: keras.initializers.GlorotUniform(seed=seed),
    "glorot_normal": lambda seed: keras.initializers.GlorotNormal(seed=seed),
    "lecun": lambda seed: keras.initializers.VarianceScaling(1.0, seed=seed),
    "he": lambda seed: keras.initializers.VarianceScaling(2.0, seed=seed),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Style:
    """How the layers of a network are made.

    Attributes:
      activation: name of the activation of the hidden layers.
      weight_decay: L2 coefficient: the loss takes weight_decay * sum(w^2) of every kernel (fraction).
      sync_batch_norm: whether batch normalisation takes the statistics of the batches of all replicas together.
      seed: seed of the initial weights; a layer's weights depend on it and on the layer's place alone.
    """

    activation: str = "relu"
    weight_decay: float = 0.0
    sync_batch_norm: bool = False
    seed: int = 0

    def kernel_arguments(self, place: int, initializer: Initializer = "glorot_uniform") -> dict:
        """Arguments of a layer with a kernel.

        Args:
          place: index of the layer in the network.
          initializer: of the kernel; Glorot uniform as in Keras and in rigl_tf2.

        Returns:
          The initializer and the regularizer.
        """
        return {
            "kernel_initializer": _INITIALIZERS[initializer](self.seed_of(place)),
            "kernel_regularizer": self.regularizer(),
        }

    def seed_of(self, place: int) -> int:
        """Seed of the layer at a place."""
        return self.seed * 1_000 + place

    def regularizer(self) -> keras.regularizers.Regularizer | None:
        """L2 regularizer for kernels, or None."""
        return keras.regularizers.L2(self.weight_decay) if self.weight_decay else None

    def norm(self, name: str) -> keras.Layer:
        """Batch normalisation after the layer of that name."""
        return keras.layers.BatchNormalization(synchronized=self.sync_batch_norm, name=f"{name}_norm")


def dense_stack(
    style: Style,
    widths: Sequence[int],
    num_classes: int,
    *,
    use_batch_norm: bool,
    first_place: int = 0,
    initializer: Initializer = "glorot_uniform",
) -> list[keras.Layer]:
    """Hidden dense layers `dense1`, `dense2`, ... and the layer of the logits.

    Args:
      style: activation, regularizer and seed.
      widths: of the hidden layers (units).
      num_classes: number of logits (count).
      use_batch_norm: whether a batch normalisation follows each hidden layer.
      first_place: index of the first of these layers in the network.
      initializer: of the kernels.

    Returns:
      The layers.
    """
    layers: list[keras.Layer] = []
    for index, units in enumerate([*widths, num_classes]):
        is_hidden, name = index < len(widths), f"dense{index + 1}"
        kernel = style.kernel_arguments(first_place + index, initializer)
        layers.append(
            keras.layers.Dense(units, activation=style.activation if is_hidden else None, name=name, **kernel)
        )
        if is_hidden and use_batch_norm:
            layers.append(style.norm(name))
    return layers


class Builder:
    """Adds named layers to a functional network; the weights of each depend only on the seed and its place."""

    def __init__(self, style: Style, initializer: Initializer, *, use_bias: bool = False) -> None:
        """Starts at place 0.

        Args:
          style: activation, regularizer and seed.
          initializer: of the kernels: Glorot uniform, or truncated normal of Glorot's variance, 1 / fan-in (`lecun`) or
            2 / fan-in (`he`).
          use_bias: whether convolutions have biases.
        """
        self._style, self._initializer, self._use_bias, self._place = style, initializer, use_bias, 0

    def seed(self) -> int:
        """Seed of the next place."""
        self._place += 1
        return self._style.seed_of(self._place - 1)

    def kernel(self, initializer: keras.initializers.Initializer | None = None) -> dict[str, Any]:
        """Arguments of a layer with a kernel: the given initializer, or the network's, and the regularizer."""
        seed = self.seed()
        return {
            "kernel_initializer": initializer or _INITIALIZERS[self._initializer](seed),
            "kernel_regularizer": self._style.regularizer(),
        }

    def conv(
        self, x: Any, channels: int, size: int, name: str, *, stride: int = 1, explicit_padding: bool = False
    ) -> Any:
        """Adds a convolution.

        Args:
          x: input.
          channels: of the output (count).
          size: of the window (pixels).
          name: of the layer.
          stride: of the window (pixels).
          explicit_padding: whether a stride above 1 pads both sides equally, as the published ImageNet networks do;
            "same" padding pads more at the end.

        Returns:
          The output.
        """
        if size == 1 and stride > 1:
            # The same pixels, selected beforehand: the weight gradient of a strided 1x1 convolution of fewer than 16
            # channels writes past its memory on a CPU where the batch is odd (TensorFlow 2.21 with oneDNN).
            x, stride = keras.layers.AveragePooling2D(1, strides=stride, name=f"{name}_pixels")(x), 1
        x, padding = _pad_input(x, size, stride, name, explicit=explicit_padding)
        layer = keras.layers.Conv2D(
            channels, size, strides=stride, padding=padding, use_bias=self._use_bias, name=name, **self.kernel()
        )
        return layer(x)

    def depthwise(self, x: Any, size: int, name: str, *, stride: int = 1) -> Any:
        """Adds a depthwise convolution, explicitly padded, without L2: it has few weights, and is dense by default."""
        x, padding = _pad_input(x, size, stride, name, explicit=True)
        layer = keras.layers.DepthwiseConv2D(
            size,
            strides=stride,
            padding=padding,
            use_bias=False,
            depthwise_initializer=keras.initializers.GlorotUniform(seed=self.seed()),
            name=name,
        )
        return layer(x)

    def dense(self, x: Any, units: int, name: str, initializer: keras.initializers.Initializer | None = None) -> Any:
        """Adds a dense layer with biases, without activation."""
        return keras.layers.Dense(units, name=name, **self.kernel(initializer))(x)

    def norm(self, x: Any, name: str, *, zero_gamma: bool = False) -> Any:
        """Adds a batch normalisation, whose scale starts from 0 or 1."""
        layer = keras.layers.BatchNormalization(
            momentum=_NORM_MOMENTUM,
            epsilon=_NORM_EPSILON,
            gamma_initializer="zeros" if zero_gamma else "ones",
            synchronized=self._style.sync_batch_norm,
            name=name,
        )
        return layer(x)

    def activation(self, x: Any, name: str) -> Any:
        """Adds the activation of the style."""
        return keras.layers.Activation(self._style.activation, name=name)(x)

    def norm_act(self, x: Any, name: str) -> Any:
        """Adds batch normalisation, then activation, named after the layer of that name."""
        return self.activation(self.norm(x, f"{name}_norm"), f"{name}_act")

    def dropout(self, x: Any, rate: float, name: str) -> Any:
        """Adds dropout; a rate of 0 adds nothing and leaves the places of the other layers as they are."""
        if not 0 <= rate < 1:
            raise InputError(f"The dropout is {rate}; give a fraction that is at least 0 and below 1.")
        seed = self.seed()
        return Dropout(rate, seed, name=name)(x) if rate else x


def _pad_input(x: Any, size: int, stride: int, name: str, *, explicit: bool) -> tuple[Any, str]:
    """Pads the input of a convolution; returns it with the padding that is left to the layer."""
    if stride == 1 or not explicit:
        return x, "same"
    before = (size - 1) // 2
    sides = (before, size - 1 - before)
    return keras.layers.ZeroPadding2D((sides, sides), name=f"{name}_pad")(x), "valid"


@keras.saving.register_keras_serializable("sparse_lib")
class Dropout(keras.layers.Layer):
    """Dropout whose noise is a function of (seed, call, replica), and whose call counter has a stable name.

    The counter of Keras' own layer is named after the number of layers that the process has made, so that a checkpoint
    could not be restored elsewhere.
    """

    def __init__(self, rate: float, seed: int, **kwargs: Any) -> None:
        """Starts the counter.

        Args:
          rate: share of the values that become zero (fraction).
          seed: of the noise.
          **kwargs: of `keras.layers.Layer`, such as its name.
        """
        super().__init__(**kwargs)
        self.rate, self.seed = rate, seed
        self.noise = keras.random.SeedGenerator(seed, name=f"{self.name}_noise")

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Drops values in training, and scales the others by 1 / (1 - rate)."""
        if not training:
            return inputs
        context = tf.distribute.get_replica_context()
        replica = context.replica_id_in_sync_group if context else 0
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        seed, calls = tf.unstack(tf.cast(self.noise.next(), tf.int64))
        pair = tf.stack([seed, calls * replicas + tf.cast(replica, tf.int64)])
        # TensorFlow and XLA draw the same bits, but convert them to different floats.
        bits = tf.random.stateless_uniform(tf.shape(inputs), pair, None, None, tf.uint32, alg="philox")
        kept = bits >= tf.constant(int(self.rate * 2**32), tf.uint32)
        return tf.where(kept, inputs / (1 - self.rate), tf.zeros([], inputs.dtype))

    def get_config(self) -> dict[str, Any]:
        """Arguments that rebuild the layer."""
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}
