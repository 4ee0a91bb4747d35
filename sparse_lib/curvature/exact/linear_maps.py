"""Layers without coordinates as linear maps of one batch, at fixed activation patterns."""

import keras
import tensorflow as tf


class Map:
    """What one layer does to a batch, as a linear map: pulls cotangents back and pushes tangents on.

    Cotangents have shape [k, n, *outputs], k of them an example. Tangents have shape [n, *inputs]. Those that live in
    one channel alone have that channel alone, a last axis of 1, and `channel` says which it is. Once flattened they
    have as many entries as there are places: entry p is entry p * channels + channel of the whole.

    Attributes:
      inputs: the layer's input, [n, *inputs].
      outputs: its output, [n, *outputs].
    """

    inputs: tf.Tensor
    outputs: tf.Tensor

    def pull(self, cotangents: tf.Tensor) -> tf.Tensor:
        """Cotangents of the output to those of the input."""
        raise NotImplementedError

    def push(self, tangents: tf.Tensor, channel: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Tangents of the input to those of the output, with their channel or None for all."""
        raise NotImplementedError


class Slope(Map):
    """A piecewise linear activation."""

    def __init__(self, layer: keras.Layer, inputs: tf.Tensor) -> None:
        """Takes the slope at each input, by TensorFlow's convention where there are two.

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
        """Times the slope."""
        return cotangents * self._slope

    def push(self, tangents: tf.Tensor, channel: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Times the slope."""
        return tangents * one_channel(self._slope, channel, tangents.shape[-1]), channel


class MaxPool(Map):
    """A max-pooling layer of images, channels last: each window passes on its winner, TensorFlow's if several tie."""

    def __init__(self, layer: keras.Layer, inputs: tf.Tensor) -> None:
        """Pools.

        Args:
          layer: a MaxPooling2D layer.
          inputs: its input.
        """
        self.inputs, self.outputs = inputs, layer(inputs)
        self._window = {"ksize": [1, *layer.pool_size, 1], "strides": [1, *layer.strides, 1], "padding": "VALID"}
        # Padded here and not by the operations: MaxPoolGradGrad overwrites what it reads where both have one shape.
        self._padding = [(0, 0), (0, 0), (0, 0), (0, 0)]
        if layer.padding == "same":
            for axis in (1, 2):
                self._padding[axis] = padding(
                    inputs.shape[axis], self.outputs.shape[axis], layer.pool_size[axis - 1], layer.strides[axis - 1]
                )
        self._padded = tf.pad(inputs, self._padding, constant_values=inputs.dtype.min)

    def pull(self, cotangents: tf.Tensor) -> tf.Tensor:
        """To the winner of each window."""
        copies = [tf.shape(cotangents)[0], 1, 1, 1]
        merged, count = merge(cotangents)
        padded, outputs = (tf.tile(t, copies) for t in (self._padded, self.outputs))
        pulled = tf.raw_ops.MaxPoolGrad(orig_input=padded, orig_output=outputs, grad=merged, **self._window)
        (top, _), (left, _) = self._padding[1:3]
        height, width = self.inputs.shape[1:3]
        return split(pulled[:, top : top + height, left : left + width], count)

    def push(self, tangents: tf.Tensor, channel: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor | None]:
        """From the winner of each window."""
        padded, outputs = (one_channel(t, channel) for t in (self._padded, self.outputs))
        tangents = tf.pad(tangents, self._padding)
        pushed = tf.raw_ops.MaxPoolGradGrad(orig_input=padded, orig_output=outputs, grad=tangents, **self._window)
        return pushed, channel


class DisjointMaxPool(Map):
    """A max-pooling layer whose windows do not overlap: a mask of winners, and sums over windows."""

    def __init__(self, layer: keras.Layer, inputs: tf.Tensor) -> None:
        """Pools.

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
        """To the winner of each window."""
        return transposed(self._sum, self.inputs, cotangents) * self._winners

    def push(self, tangents: tf.Tensor, channel: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor | None]:
        """From the winner of each window."""
        return self._sum(tangents * one_channel(self._winners, channel)), channel


def max_pool(layer: keras.Layer, inputs: tf.Tensor) -> Map:
    """The map of a MaxPooling2D layer, channels last.

    Args:
      layer: the layer.
      inputs: its input.

    Returns:
      The map that is fastest for its windows.
    """
    size = layer.pool_size
    is_whole = layer.padding == "valid" or all(n % k == 0 for n, k in zip(inputs.shape[1:3], size, strict=True))
    is_disjoint = is_whole and tuple(layer.strides) == tuple(size)
    return (DisjointMaxPool if is_disjoint else MaxPool)(layer, inputs)


class Linear(Map):
    """A linear layer without weights that treats all channels alike, or flattens."""

    def __init__(self, layer: keras.Layer, inputs: tf.Tensor) -> None:
        """Calls the layer.

        Args:
          layer: the layer.
          inputs: its input.
        """
        self.inputs, self.outputs, self._layer = inputs, layer(inputs), layer

    def pull(self, cotangents: tf.Tensor) -> tf.Tensor:
        """By the transposed map."""
        return transposed(self._layer, self.inputs, cotangents)

    def push(self, tangents: tf.Tensor, channel: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor | None]:
        """By the layer itself."""
        return self._layer(tangents), channel


def one_channel(values: tf.Tensor, channel: tf.Tensor | None, places: int = 1) -> tf.Tensor:
    """What belongs to one channel.

    Args:
      values: shape [..., places * channels], the places outside.
      channel: the channel, or None for all.
      places: places that are flattened into the last axis (count).

    Returns:
      Shape [..., places], or the values for None.
    """
    if channel is None:
        return values
    step = values.shape[-1] // places
    part = values[..., channel::step] if places > 1 else values[..., channel : channel + 1]
    return tf.ensure_shape(part, [*values.shape[:-1], places])


def padding(inputs: int, outputs: int, window: int, stride: int) -> tuple[int, int]:
    """What `same` padding adds before and after one axis, as TensorFlow has it.

    Args:
      inputs: size of the input along the axis (count).
      outputs: size of the output.
      window: reach of the window, dilation included.
      stride: step of the window.

    Returns:
      Places before and after (count).
    """
    missing = max((outputs - 1) * stride + window - inputs, 0)
    return missing // 2, missing - missing // 2


def merge(cotangents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Cotangents [k, n, ...] as one batch [k * n, ...], and k."""
    shape = tf.shape(cotangents)
    return tf.reshape(cotangents, [-1, *cotangents.shape[2:]]), shape[0]


def split(merged: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """The inverse of `merge`."""
    return tf.reshape(merged, [count, tf.shape(merged)[0] // count, *merged.shape[1:]])


def transposed(linear: object, inputs: tf.Tensor, cotangents: tf.Tensor) -> tf.Tensor:
    """The transposed map of an affine function of a batch.

    Args:
      linear: the function, affine in its input.
      inputs: a batch that it takes, for its shape, [n, ...].
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
