"""Layers that multiply their inputs by a matrix of weights: what they multiply, and the gradients of their sums."""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from sparse_lib._keras import layer_types, tracing
from sparse_lib.curvature.operators import Tensors, pull_back
from sparse_lib.curvature.output_factors import at_least_float32, require_tensor
from sparse_lib.objective import Objective

_layers = keras.layers
# Relative difference of two gradients of the same weights; sums in another order stay far below.
_GRADIENT_TOLERANCE = 1e-3
_HALF_TOLERANCE = 0.1
# What happens inside of these stays in a loop.
_LOOPS = (_layers.RNN, _layers.TimeDistributed)
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class LinearLayer(NamedTuple):
    """A layer whose sums, before the activation, are s_r = W^T a_r at each of its places r.

    The places are positions of a convolution, tokens of a sequence, and calls of the layer. If there is a bias, it is
    the last row of W, and the last entry of a_r is 1.

    Attributes:
      layer: the layer.
      kernel: number of the kernel among the trainable variables.
      bias: number of the bias; None for a layer without, or with a bias of another shape or that is frozen.
      axes: permutation of the kernel's axes after which its first axes are rows of W, and the others columns.
      rows: rows of W (count), without that of the bias.
      columns: columns of W (count).
      unfold: from the inputs of the layer to [n, places, rows].
      arrange: from sums of the layer to [n, places, columns].
    """

    layer: keras.Layer
    kernel: int
    bias: int | None
    axes: tuple[int, ...]
    rows: int
    columns: int
    unfold: Callable[[tf.Tensor], tf.Tensor]
    arrange: Callable[[tf.Tensor], tf.Tensor]

    @property
    def height(self) -> int:
        """Rows of W, with that of the bias (count)."""
        return self.rows + (self.bias is not None)

    def coordinates(self) -> np.ndarray:
        """Where W stores each entry of the kernel, flat indices [entries of the kernel]."""
        shape = self.layer.kernel.shape
        return np.argsort(np.transpose(np.arange(self.rows * self.columns).reshape(shape), self.axes), axis=None)

    def split(self, matrix: tf.Tensor) -> dict[int, tf.Tensor]:
        """Splits a matrix of the shape of W into kernel and bias, by the number of the variable."""
        shape = [self.layer.kernel.shape[axis] for axis in self.axes]
        kernel = tf.transpose(tf.reshape(matrix[: self.rows], shape), np.argsort(self.axes))
        if self.bias is None:
            return {self.kernel: kernel}
        return {self.kernel: kernel, self.bias: tf.reshape(matrix[self.rows], self.layer.bias.shape)}


class Pass:
    """One pass through a model that records what its linear layers multiply.

    Attributes:
      outputs: of the model.
      inputs: a_r of each layer that has been called, [n, places, height]; in at least float32.
    """

    def __init__(self, objective: Objective, params: Tensors, x: Any, layers: Sequence[LinearLayer]) -> None:
        """Calls the model.

        Args:
          objective: the loss.
          params: trainable values.
          x: inputs of a batch.
          layers: those to record.
        """
        self._layers, self._params = layers, params
        wanted = [each.layer for each in layers]
        with tf.GradientTape(watch_accessed_variables=False, persistent=True) as self._tape:
            self._tape.watch(params)
            with tracing.watch_activations(wanted) as sums, tracing.watch(wanted) as calls:
                self.outputs = require_tensor(objective.outputs(params, x, training=False))
        inputs: dict[int, list[tf.Tensor]] = {id(layer): [] for layer in wanted}
        for call in calls:
            inputs[id(call.layer)].append(call.inputs)
        self._sums = [sums[id(layer)] for layer in wanted]
        self.inputs = [self._unfold(each, inputs[id(each.layer)]) for each in layers if inputs[id(each.layer)]]

    def is_called(self) -> list[bool]:
        """Whether each layer has been called, and all its sums have been seen."""
        return [bool(sums) for sums in self._sums]

    def gradients(self, weights: tf.Tensor) -> list[tf.Tensor]:
        """Gradients of <outputs, weights> in the sums of each layer, [n, places, columns]."""
        flat = pull_back(self._tape, self.outputs, list(chain(*self._sums)), tf.cast(weights, self.outputs.dtype))
        parts = iter(flat)
        return [
            tf.concat([at_least_float32(each.arrange(next(parts))) for _ in sums], axis=1)
            for each, sums in zip(self._layers, self._sums, strict=True)
        ]

    def gradients_of_params(self, weights: tf.Tensor) -> list[tf.Tensor]:
        """Gradients of <outputs, weights> in the trainable values."""
        return pull_back(self._tape, self.outputs, self._params, tf.cast(weights, self.outputs.dtype))

    def _unfold(self, each: LinearLayer, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        unfolded = tf.concat([at_least_float32(each.unfold(x)) for x in inputs], axis=1)
        return unfolded if each.bias is None else tf.pad(unfolded, [(0, 0), (0, 0), (0, 1)], constant_values=1)


def linear_layers(objective: Objective, params: Tensors, x: Any) -> list[LinearLayer]:
    """Finds the linear layers of a model and checks them on a batch.

    Dense, Conv1D, Conv2D without groups, channels last, and EinsumDense without axes that all three factors share, also
    inside attention. A layer counts only if the gradient of its weights is the sum over places of the outer products of
    inputs and gradients of the sums: a subclass that computes something else does not, nor a kernel that is also used
    elsewhere.

    Args:
      objective: the loss.
      params: trainable values.
      x: inputs of a batch.

    Returns:
      The layers, in the order of the model.
    """
    model = objective.model
    numbers = {id(v): i for i, v in enumerate(model.trainable_variables)}
    layers = (model, *tracing.all_layers(model))
    hidden = {id(part) for layer in layers if isinstance(layer, _LOOPS) for part in tracing.all_layers(layer)}
    found = [_read(layer, numbers) for layer in layers if id(layer) not in hidden]
    uses = Counter(each.kernel for each in found if each)
    candidates = [each for each in found if each and uses[each.kernel] == 1]
    was_called = Pass(objective, params, x, candidates).is_called()
    called = [each for each, was in zip(candidates, was_called, strict=True) if was]
    seen = Pass(objective, params, x, called)
    generator = np.random.default_rng(0)
    weights = tf.constant(generator.normal(size=seen.outputs.shape), seen.outputs.dtype)
    gradients, expected = seen.gradients(weights), seen.gradients_of_params(weights)
    return [
        each
        for each, inputs, gradient in zip(called, seen.inputs, gradients, strict=True)
        if _agrees(each, each.split(tf.einsum("nri,nro->io", inputs, gradient)), expected)
    ]


def _agrees(each: LinearLayer, found: dict[int, tf.Tensor], expected: Sequence[tf.Tensor]) -> bool:
    dtype = expected[0].dtype
    own = [expected[number] for number in found]
    error = tf.linalg.global_norm([tf.cast(g, dtype) - e for g, e in zip(found.values(), own, strict=True)])
    is_half = tf.as_dtype(each.layer.compute_dtype).size < tf.float32.size
    tolerance = _HALF_TOLERANCE if is_half else _GRADIENT_TOLERANCE
    # Gradients that cancel, such as those of the biases of keys, are nothing but rounding errors of the others.
    scale = max(float(tf.linalg.global_norm(own)), _GRADIENT_TOLERANCE * float(tf.linalg.global_norm(expected)))
    return float(error) <= tolerance * scale


def _read(layer: Any, numbers: dict[int, int]) -> LinearLayer | None:
    """The linear map of a layer, or None if it has none."""
    reader = next((read for kind, read in _READERS.items() if isinstance(layer, kind)), None)
    if reader is None or not (layer_types.is_plain(layer) and layer_types.is_channels_last(layer)):
        return None
    if not callable(layer.activation) or id(layer.kernel) not in numbers:
        return None
    return reader(layer, numbers[id(layer.kernel)], numbers.get(id(getattr(layer, "bias", None))))


def _places(x: tf.Tensor) -> tf.Tensor:
    """Joins the axes between the first and the last."""
    places = x.shape[1:-1].num_elements()
    return tf.reshape(x, [tf.shape(x)[0] if places is None else -1, -1 if places is None else places, x.shape[-1]])


def _dense(layer: keras.Layer, kernel: int, bias: int | None) -> LinearLayer:
    rows, columns = layer.kernel.shape
    return LinearLayer(layer, kernel, bias, (0, 1), rows, columns, _places, _places)


def _convolution(layer: keras.Layer, kernel: int, bias: int | None) -> LinearLayer:
    *window, depth, columns = layer.kernel.shape
    is_line = len(window) == 1

    def unfold(x: tf.Tensor) -> tf.Tensor:
        padding = layer.padding.upper()
        if padding == "CAUSAL":
            x = tf.pad(x, [(0, 0), (layer.dilation_rate[0] * (window[0] - 1), 0), (0, 0)])
            padding = "VALID"
        image = x[:, tf.newaxis] if is_line else x
        sizes, strides, rates = (
            [1, *([1] if is_line else []), *each, 1] for each in (window, layer.strides, layer.dilation_rate)
        )
        return _places(tf.image.extract_patches(image, sizes, strides, rates, padding))

    axes = tuple(range(len(window) + 2))
    return LinearLayer(layer, kernel, bias, axes, int(np.prod(window)) * depth, columns, unfold, _places)


def _einsum(layer: keras.Layer, kernel: int, bias: int | None) -> LinearLayer | None:
    """Reads "inputs,kernel->outputs": the kernel's axes are those that are summed over and those of the outputs."""
    sides, outputs = layer.equation.replace(" ", "").split("->")
    inputs, weights = sides.split(",")
    if "..." in inputs:
        free = _LETTERS[: layer.input_spec.ndim - len(inputs.replace("...", ""))]
        inputs, outputs = inputs.replace("...", free), outputs.replace("...", free)
    rows = "".join(axis for axis in weights if axis in inputs and axis not in outputs)
    columns = "".join(axis for axis in weights if axis in outputs and axis not in inputs)
    places = "".join(axis for axis in inputs if axis in outputs and axis not in weights)
    is_product = {*rows, *columns} == {*weights} and {*rows, *places} == {*inputs} and {*columns, *places} == {*outputs}
    if not is_product or inputs[0] not in places or len({*weights}) < len(weights):
        return None
    if bias is not None and "".join(layer.bias_axes) != columns:
        bias = None
    sizes = dict(zip(weights, layer.kernel.shape, strict=True))

    def arrange_as(source: str, last: str) -> Callable[[tf.Tensor], tf.Tensor]:
        order = [source.index(axis) for axis in places + last]
        count = int(np.prod([sizes[axis] for axis in last]))

        def arrange(x: tf.Tensor) -> tf.Tensor:
            moved = tf.transpose(x, order)
            return _places(tf.reshape(moved, tf.concat([tf.shape(moved)[: len(places)], [count]], axis=0)))

        return arrange

    axes = tuple(weights.index(axis) for axis in rows + columns)
    height, width = (int(np.prod([sizes[axis] for axis in side])) for side in (rows, columns))
    return LinearLayer(layer, kernel, bias, axes, height, width, arrange_as(inputs, rows), arrange_as(outputs, columns))


_READERS: dict[type, Callable[..., LinearLayer | None]] = {
    _layers.Dense: _dense,
    _layers.Conv1D: _convolution,
    _layers.Conv2D: _convolution,
    _layers.EinsumDense: _einsum,
}
