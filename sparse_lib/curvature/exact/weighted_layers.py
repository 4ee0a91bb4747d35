"""Layers with coordinates: linear in their weights, and linear in their inputs."""

from typing import Any

import keras
import tensorflow as tf

from sparse_lib._keras.graph import NoChainError
from sparse_lib.curvature.exact.coordinates import Coordinates
from sparse_lib.curvature.exact.linear_maps import Map, one_channel, padding, transpose_map


class Weights(Map):
    """A layer z[p, o] = sum_q taps[p, q] kernel[q, o] + bias[o] at one batch.

    Attributes:
      coordinates: the weights that are coordinates.
      has_places: whether p runs over several positions, as in images.
    """

    has_places: bool

    def __init__(self, layer: keras.Layer, coordinates: Coordinates, inputs: tf.Tensor) -> None:
        """Stores the layer and its input.

        Args:
          layer: the layer.
          coordinates: its coordinates.
          inputs: its input.
        """
        self.inputs, self.coordinates, self._layer = inputs, coordinates, layer

    def _value(self, variable: Any) -> tf.Tensor:
        """A variable's value in the dtype of the inputs."""
        return tf.cast(tf.convert_to_tensor(variable), self.inputs.dtype)

    def columns(self, cotangents: tf.Tensor) -> tf.Tensor:
        """Derivatives of sum_po z[p, o] cotangent[p, o] with respect to each coordinate.

        Args:
          cotangents: shape [k, n, *outputs].

        Returns:
          Shape [coordinates, k, n].
        """
        raise NotImplementedError

    def tangent(self, tap: tf.Tensor) -> tf.Tensor:
        """Derivative of z with respect to a kernel entry, in the channel of that entry.

        Args:
          tap: tap of the entry, a scalar.

        Returns:
          Shape [n, *places, 1].
        """
        raise NotImplementedError

    def mixed_derivatives(
        self, left: tf.Tensor, tangents: tf.Tensor, cotangents: tf.Tensor, channel: tf.Tensor | None
    ) -> tf.Tensor:
        """Derivatives with respect to each kernel coordinate along a tangent of the inputs, summed over examples.

        m[c, i] = sum_n left[c, n] d/dw_i <z(w, tangent_n), cotangent_n>

        Args:
          left: factors per example, [c, n].
          tangents: tangents of the inputs.
          cotangents: shape [n, *outputs].
          channel: the channel of the tangents, or None for all.

        Returns:
          Shape [c, coordinates]; zero for bias coordinates, whose derivatives do not depend on the inputs.
        """
        raise NotImplementedError

    def _with_bias(self, kernel: tf.Tensor) -> tf.Tensor:
        return tf.pad(kernel, [[0, 0], [0, len(self.coordinates.bias)]])

    def _entries(self, table: tf.Tensor, channel: tf.Tensor | None, channels: int) -> tf.Tensor:
        """Gathers the kernel coordinates from a table [c, taps, outputs], or from the taps of one channel.

        The table has one output where each tap has its own.
        """
        taps, width = self.coordinates.taps, table.shape[-1]
        outputs = self.coordinates.outputs % width
        flat = tf.reshape(table, [tf.shape(table)[0], -1])
        if channel is None:
            return self._with_bias(tf.gather(flat, taps * width + outputs, axis=1))
        read = tf.gather(flat, taps // channels * width + outputs, axis=1)
        return self._with_bias(tf.where(tf.equal(taps % channels, tf.cast(channel, tf.int64)), read, 0))


class Dense(Weights):
    """A dense layer on vectors, without its activation."""

    has_places = False

    def __init__(self, layer: keras.Layer, coordinates: Coordinates, inputs: tf.Tensor) -> None:
        """Computes the outputs.

        Raises:
          NoChainError: if the inputs are not vectors.
        """
        super().__init__(layer, coordinates, inputs)
        if inputs.shape.rank != 2:
            raise NoChainError(f"layer {layer.name!r} is not applied to vectors")
        self._kernel = self._value(layer.kernel)
        self.outputs = tf.matmul(inputs, self._kernel)
        if layer.use_bias:
            self.outputs += self._value(layer.bias)

    def pull(self, cotangents: tf.Tensor) -> tf.Tensor:
        """Multiplies by the transposed kernel."""
        return tf.tensordot(cotangents, self._kernel, [[2], [1]])

    def push(self, tangents: tf.Tensor, channel: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Multiplies by the kernel, or by the rows that read the channel."""
        if channel is None:
            return tf.matmul(tangents, self._kernel), None
        rows = tf.reshape(self._kernel, [tangents.shape[1], -1, self._kernel.shape[1]])[:, channel]
        return tf.matmul(tangents, rows), None

    def columns(self, cotangents: tf.Tensor) -> tf.Tensor:
        """Multiplies inputs by cotangents."""
        at = self.coordinates
        # Examples last, so that gathering copies whole rows.
        outer = tf.transpose(cotangents, [2, 0, 1])
        kernel = tf.gather(tf.transpose(self.inputs), at.taps)[:, tf.newaxis] * tf.gather(outer, at.outputs)
        return tf.concat([kernel, tf.gather(outer, at.bias)], axis=0)

    def tangent(self, tap: tf.Tensor) -> tf.Tensor:
        """Selects the input unit."""
        return one_channel(self.inputs, tap)

    def mixed_derivatives(
        self, left: tf.Tensor, tangents: tf.Tensor, cotangents: tf.Tensor, channel: tf.Tensor | None
    ) -> tf.Tensor:
        """Multiplies tangents by cotangents."""
        if channel is None and left.shape[0] != 1:
            at = self.coordinates
            products = tf.gather(tf.transpose(tangents), at.taps) * tf.gather(tf.transpose(cotangents), at.outputs)
            return self._with_bias(tf.matmul(left, products, transpose_b=True))
        width = tangents.shape[1]
        weighted = left[:, tf.newaxis] * tf.transpose(tangents)
        table = tf.matmul(tf.reshape(weighted, [-1, tf.shape(left)[1]]), cotangents)
        table = tf.reshape(table, [-1, width, cotangents.shape[1]])
        return self._entries(table, channel, self.inputs.shape[1] // width)


class Conv(Weights):
    """A convolution of images, channels last, without its activation."""

    has_places = True

    def __init__(self, layer: keras.Layer, coordinates: Coordinates, inputs: tf.Tensor) -> None:
        """Computes the outputs."""
        super().__init__(layer, coordinates, inputs)
        self._kernel = self._value(layer.kernel)
        self.outputs = layer.convolution_op(inputs, self._kernel)
        if layer.use_bias:
            self.outputs += self._value(layer.bias)
        edges = [(0, 0), (0, 0)]
        if layer.padding == "same":
            reach = [(size - 1) * rate + 1 for size, rate in zip(layer.kernel_size, layer.dilation_rate, strict=True)]
            edges = list(map(padding, inputs.shape[1:3], self.outputs.shape[1:3], reach, layer.strides))
        self._padded = tf.pad(inputs, [(0, 0), *edges, (0, 0)])

    def pull(self, cotangents: tf.Tensor) -> tf.Tensor:
        """Applies the transposed convolution."""
        return transpose_map(lambda x: self._layer.convolution_op(x, self._kernel), self.inputs, cotangents)

    def push(self, tangents: tf.Tensor, channel: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Applies the convolution, or the part that reads the channel."""
        kernel = self._kernel
        if channel is not None:
            kernel = tf.ensure_shape(kernel[:, :, channel : channel + 1], [*kernel.shape[:2], 1, kernel.shape[3]])
        return self._layer.convolution_op(tangents, kernel), None

    def columns(self, cotangents: tf.Tensor) -> tf.Tensor:
        """Multiplies patches by cotangents and sums over positions."""
        at = self.coordinates
        count, examples = tf.shape(cotangents)[0], tf.shape(cotangents)[1]
        bias = tf.gather(tf.transpose(tf.reduce_sum(cotangents, [2, 3]), [2, 0, 1]), at.bias)
        if not at.taps.size:
            return bias
        places, channels = cotangents.shape[2] * cotangents.shape[3], cotangents.shape[4]
        size, depth = self._layer.kernel_size, self._kernel.shape[2]
        patches = tf.stack([self._shift(i, j, self._padded) for i in range(size[0]) for j in range(size[1])], axis=1)
        patches = tf.reshape(patches, [examples, -1, places, depth])
        outer = tf.reshape(tf.transpose(cotangents, [1, 2, 3, 0, 4]), [examples, 1, places, count * channels])
        table = tf.reshape(tf.matmul(patches, outer, transpose_a=True), [examples, -1, count, channels])
        table = tf.reshape(tf.transpose(table, [1, 3, 2, 0]), [-1, count, examples])
        return tf.concat([tf.gather(table, at.taps * channels + at.outputs), bias], axis=0)

    def tangent(self, tap: tf.Tensor) -> tf.Tensor:
        """Shifts the input channel."""
        entry, channel = tap // self._kernel.shape[2], tap % self._kernel.shape[2]
        width = self._layer.kernel_size[1]
        return self._shift(entry // width, entry % width, one_channel(self._padded, channel))

    def _shift(self, i: int | tf.Tensor, j: int | tf.Tensor, padded: tf.Tensor) -> tf.Tensor:
        """The inputs that the kernel entries at (i, j) multiply, [n, height, width, channels]."""
        layer = self._layer
        starts = (i * layer.dilation_rate[0], j * layer.dilation_rate[1])
        rows, columns = (
            slice(start, start + (size - 1) * stride + 1, stride)
            for start, size, stride in zip(starts, self.outputs.shape[1:3], layer.strides, strict=True)
        )
        return tf.ensure_shape(padded[:, rows, columns], [None, *self.outputs.shape[1:3], padded.shape[3]])

    def mixed_derivatives(
        self, left: tf.Tensor, tangents: tf.Tensor, cotangents: tf.Tensor, channel: tf.Tensor | None
    ) -> tf.Tensor:
        """Multiplies patches of the tangent by cotangents and sums over positions: a kernel gradient."""
        weighted = tf.reshape(left, [-1, 1, 1, 1]) * tangents
        kernel = tf.zeros([*self._kernel.shape[:2], tangents.shape[-1], self._kernel.shape[-1]], self.inputs.dtype)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(kernel)
            outputs = self._layer.convolution_op(weighted, kernel)
        table = tape.gradient(outputs, kernel, output_gradients=cotangents)
        table = tf.reshape(table, [1, -1, self._kernel.shape[-1]])
        return self._entries(table, channel, self._kernel.shape[2])


class Norm(Weights):
    """Batch normalization at inference, an affine map per channel; channels last."""

    def __init__(self, layer: keras.Layer, coordinates: Coordinates, inputs: tf.Tensor) -> None:
        """Computes the outputs.

        Raises:
          NoChainError: if another axis than the last is normalized.
        """
        super().__init__(layer, coordinates, inputs)
        if layer.axis not in (-1, inputs.shape.rank - 1):
            raise NoChainError(f"layer {layer.name!r} does not normalize the last axis")
        self.has_places = inputs.shape.rank > 2
        self.outputs = layer(inputs, training=False)
        self._inverse = tf.math.rsqrt(self._value(layer.moving_variance) + layer.epsilon)
        self._normal = (inputs - self._value(layer.moving_mean)) * self._inverse
        self._scale = self._inverse * self._value(layer.gamma) if layer.scale else self._inverse

    def pull(self, cotangents: tf.Tensor) -> tf.Tensor:
        """Multiplies by the scale."""
        return cotangents * self._scale

    def push(self, tangents: tf.Tensor, channel: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Multiplies by the scale."""
        return tangents * one_channel(self._scale, channel, tangents.shape[-1]), channel

    def columns(self, cotangents: tf.Tensor) -> tf.Tensor:
        """Multiplies normalized inputs by cotangents and sums over positions."""
        at, places = self.coordinates, list(range(2, cotangents.shape.rank - 1))
        sums = [tf.reduce_sum(part, places) for part in (cotangents * self._normal, cotangents)]
        gamma, beta = (tf.transpose(part, [2, 0, 1]) for part in sums)
        return tf.concat([tf.gather(gamma, at.outputs), tf.gather(beta, at.bias)], axis=0)

    def tangent(self, tap: tf.Tensor) -> tf.Tensor:
        """Selects the normalized channel."""
        return one_channel(self._normal, tap)

    def mixed_derivatives(
        self, left: tf.Tensor, tangents: tf.Tensor, cotangents: tf.Tensor, channel: tf.Tensor | None
    ) -> tf.Tensor:
        """Multiplies scaled tangents by cotangents and sums over positions."""
        places = tangents.shape[-1]
        inverse, cotangents = (one_channel(t, channel, places) for t in (self._inverse, cotangents))
        products = tf.reduce_sum(tangents * inverse * cotangents, list(range(1, tangents.shape.rank - 1)))
        # Each normalized channel is a tap of the same channel alone.
        return self._entries(tf.matmul(left, products)[..., tf.newaxis], channel, self._inverse.shape[0] // places)
