"""Layers without coordinates as linear maps at one batch, with fixed activation patterns."""

import keras
import tensorflow as tf


class Map:
    """One layer at one batch as a linear map: pulls cotangents back and pushes tangents forward.

    Cotangents have shape [k, n, *outputs], k per example. Tangents have shape [n, *inputs]. Tangents in one channel
    store that channel alone, with a last axis of size 1, and `channel` is its index. Once flattened they have one entry
    per position: entry p is entry p * channels + channel of the whole.

    Attributes:
      inputs: the layer's input, [n, *inputs].
      outputs: its output, [n, *outputs].
    """

    inputs: tf.Tensor
    outputs: tf.Tensor

    def pull(self, cotangents: tf.Tensor) -> tf.Tensor:
        """Maps cotangents of the output to cotangents of the input."""
        raise NotImplementedError

    def push(self, tangents: tf.Tensor, channel: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Maps tangents of the input to tangents of the output, with their channel or None for all."""
        raise NotImplementedError


class Slope(Map):
    """A piecewise linear activation."""

    def __init__(self, layer: keras.Layer, inputs: tf.Tensor) -> None:
        """Computes the slope at each input, by TensorFlow's convention at kinks.

        Args:
          layer: an activation layer, or any elementwise function.
          inputs: its input.
        """
        self.inputs = inputs
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(inputs)
            self.outputs = layer(inputs)
        self._slope = tape.gradient(self.outputs, inputs)

    def pull(self, cotangents: tf.Tensor) -> tf.Tensor:
        """Multiplies by the slope."""
        return cotangents * self._slope

    def push(self, tangents: tf.Tensor, channel: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Multiplies by the slope."""
        return tangents * one_channel(self._slope, channel, tangents.shape[-1]), channel


class MaxPool(Map):
    """Max-pooling of images, channels last: selects the maximum of each window, by TensorFlow's choice among ties."""

    def __init__(self, layer: keras.Layer, inputs: tf.Tensor) -> None:
        """Pools the input.

        Args:
          layer: a MaxPooling2D layer.
          inputs: its input.
        """
        self.inputs, self.outputs = inputs, layer(inputs)
        self._window = {"ksize": [1, *layer.pool_size, 1], "strides": [1, *layer.strides, 1], "padding": "VALID"}
        # Padded explicitly: MaxPoolGradGrad overwrites its input where input and output have the same shape.
        self._padding = [(0, 0), (0, 0), (0, 0), (0, 0)]
        if layer.padding == "same":
            for axis in (1, 2):
                self._padding[axis] = padding(
                    inputs.shape[axis], self.outputs.shape[axis], layer.pool_size[axis - 1], layer.strides[axis - 1]
                )
        self._padded = tf.pad(inputs, self._padding, constant_values=inputs.dtype.min)

    def pull(self, cotangents: tf.Tensor) -> tf.Tensor:
        """Routes cotangents to the maximum of each window."""
        copies = [tf.shape(cotangents)[0], 1, 1, 1]
        merged, count = merge(cotangents)
        padded, outputs = (tf.tile(t, copies) for t in (self._padded, self.outputs))
        pulled = tf.raw_ops.MaxPoolGrad(orig_input=padded, orig_output=outputs, grad=merged, **self._window)
        (top, _), (left, _) = self._padding[1:3]
        height, width = self.inputs.shape[1:3]
        return split(pulled[:, top : top + height, left : left + width], count)

    def push(self, tangents: tf.Tensor, channel: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Selects tangents at the maximum of each window."""
        padded, outputs = (one_channel(t, channel) for t in (self._padded, self.outputs))
        tangents = tf.pad(tangents, self._padding)
        pushed = tf.raw_ops.MaxPoolGradGrad(orig_input=padded, orig_output=outputs, grad=tangents, **self._window)
        return pushed, channel


class DisjointMaxPool(Map):
    """Max-pooling with windows that do not overlap: a mask of the maxima, and sums over windows."""

    def __init__(self, layer: keras.Layer, inputs: tf.Tensor) -> None:
        """Pools the input.

        Args:
          layer: a MaxPooling2D layer without padding whose strides are its pool size.
          inputs: its input.
        """
        self.inputs, self.outputs, self._size = inputs, layer(inputs), layer.pool_size
        window = [1, *layer.pool_size, 1]
        self._winners = tf.raw_ops.MaxPoolGrad(
            orig_input=inputs,
            orig_output=self.outputs,
            grad=tf.ones_like(self.outputs),
            ksize=window,
            strides=window,
            padding="VALID",
        )

    def _sum(self, images: tf.Tensor) -> tf.Tensor:
        """Sums over windows."""
        return tf.nn.avg_pool2d(images, self._size, self._size, "VALID") * (self._size[0] * self._size[1])

    def pull(self, cotangents: tf.Tensor) -> tf.Tensor:
        """Routes cotangents to the maximum of each window."""
        return transpose_map(self._sum, self.inputs, cotangents) * self._winners

    def push(self, tangents: tf.Tensor, channel: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Selects tangents at the maximum of each window."""
        return self._sum(tangents * one_channel(self._winners, channel)), channel


def max_pool(layer: keras.Layer, inputs: tf.Tensor) -> Map:
    """Creates the map of a MaxPooling2D layer, channels last.

    Args:
      layer: the layer.
      inputs: its input.

    Returns:
      The fastest map for its windows.
    """
    size = layer.pool_size
    is_whole = layer.padding == "valid" or all(n % k == 0 for n, k in zip(inputs.shape[1:3], size, strict=True))
    is_disjoint = is_whole and tuple(layer.strides) == tuple(size)
    return (DisjointMaxPool if is_disjoint else MaxPool)(layer, inputs)


class Linear(Map):
    """A linear layer without weights that acts on every channel in the same way, or flattens."""

    def __init__(self, layer: keras.Layer, inputs: tf.Tensor) -> None:
        """Calls the layer.

        Args:
          layer: the layer.
          inputs: its input.
        """
        self.inputs, self.outputs, self._layer = inputs, layer(inputs), layer

    def pull(self, cotangents: tf.Tensor) -> tf.Tensor:
        """Applies the transposed map."""
        return transpose_map(self._layer, self.inputs, cotangents)

    def push(self, tangents: tf.Tensor, channel: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Applies the layer."""
        return self._layer(tangents), channel


def one_channel(values: tf.Tensor, channel: tf.Tensor | None, places: int = 1) -> tf.Tensor:
    """Selects one channel.

    Args:
      values: shape [..., places * channels], channels fastest.
      channel: index of the channel, or None for all.
      places: positions flattened into the last axis (count).

    Returns:
      Shape [..., places], or the values for None.
    """
    if channel is None:
        return values
    step = values.shape[-1] // places
    part = values[..., channel::step] if places > 1 else values[..., channel : channel + 1]
    return tf.ensure_shape(part, [*values.shape[:-1], places])


def padding(inputs: int, outputs: int, window: int, stride: int) -> tuple[int, int]:
    """TensorFlow's `same` padding along one axis.

    Args:
      inputs: size of the input along the axis (count).
      outputs: size of the output.
      window: extent of the window, dilation included (count).
      stride: stride of the window (count).

    Returns:
      Padding before and after (count).
    """
    missing = max((outputs - 1) * stride + window - inputs, 0)
    return missing // 2, missing - missing // 2


def merge(cotangents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Reshapes cotangents [k, n, ...] to one batch [k * n, ...]; returns it and k."""
    shape = tf.shape(cotangents)
    return tf.reshape(cotangents, [-1, *cotangents.shape[2:]]), shape[0]


def split(merged: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Inverts `merge`."""
    return tf.reshape(merged, [count, tf.shape(merged)[0] // count, *merged.shape[1:]])


def transpose_map(linear: object, inputs: tf.Tensor, cotangents: tf.Tensor) -> tf.Tensor:
    """Applies the transposed linear part of an affine function of a batch.

    Args:
      linear: affine function.
      inputs: a batch of its inputs, for the shape, [n, ...].
      cotangents: cotangents of its outputs, [k, n, ...].

    Returns:
      Cotangents of its inputs, [k, n, ...].
    """
    merged, count = merge(cotangents)
    anywhere = tf.zeros([tf.shape(merged)[0], *inputs.shape[1:]], inputs.dtype)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(anywhere)
        outputs = linear(anywhere)  # type: ignore[operator]
    return split(tape.gradient(outputs, anywhere, output_gradients=merged), count)
