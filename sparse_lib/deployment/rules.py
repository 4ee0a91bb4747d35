"""How each type of layer treats channels: constants, ties between channels, and removable ones."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from sparse_lib._keras import layer_types
from sparse_lib._keras.graph import Shape
from sparse_lib.deployment.attention import Attention
from sparse_lib.deployment.rule import Constants, Masks, Pairs, Rule
from sparse_lib.deployment.sums import EinsumSums, SeparableSums, Sums, TransposedSums, apply, kernel_and_bias, pads

_layers = keras.layers


class _Embedding(Rule):
    """Embeddings: every channel is a column of the table."""

    makes = True
    sized = True

    def constants(self, inputs: Sequence[Constants], width: int) -> Constants:
        (table,) = self.layer.get_weights()
        known = (table == table[0]).all(0)
        return Constants(known, np.where(known, table[0], 0.0))

    def config(self, kept_inputs: Masks, kept: np.ndarray, inputs: Sequence[Constants]) -> dict[str, Any]:
        return {"output_dim": int(kept.sum())}

    def weights(self, kept_inputs: Masks, kept: np.ndarray, inputs: Sequence[Constants]) -> list[np.ndarray]:
        return [table[:, kept] for table in self.layer.get_weights()]


class _Tied(Rule):
    """Every output channel depends on the input channel of the same index alone."""

    reads_all = False
    makes = True

    def ties(self, inputs: Sequence[np.ndarray], output: np.ndarray) -> list[Pairs]:
        return [(each, output) for each in inputs]

    def needs(self, inputs: Sequence[Constants], dropped: np.ndarray) -> list[np.ndarray]:
        del dropped
        return [np.zeros_like(each.known) for each in inputs]


class _Depthwise(_Tied):
    """Depthwise convolution: the outputs of an input channel are adjacent."""

    sized = True

    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        self.kernel, self.bias = kernel_and_bias(layer)
        self.multiplier = self.kernel.shape[-1]

    def constants(self, inputs: Sequence[Constants], width: int) -> Constants:
        windows = self.kernel.reshape(-1, width)
        known, values = (np.repeat(each, self.multiplier) for each in inputs[0])
        known = (known & ((values == 0) | (not pads(self.layer)))) | ~windows.any(0)
        sums = values * windows.sum(0, dtype=np.float64) + (0 if self.bias is None else self.bias)
        return Constants(known, np.where(known, apply(self.layer.activation, sums), 0.0))

    def ties(self, inputs: Sequence[np.ndarray], output: np.ndarray) -> list[Pairs]:
        return [(np.repeat(inputs[0], self.multiplier), output)]

    def weights(self, kept_inputs: Masks, kept: np.ndarray, inputs: Sequence[Constants]) -> list[np.ndarray]:
        kernel = self.kernel[..., kept_inputs[0], :]
        return [kernel] if self.bias is None else [kernel, self.bias[kept]]

    def clear(self, weights: Sequence[np.ndarray], channels: np.ndarray) -> list[np.ndarray]:
        kernel, *bias = weights
        return [np.where(channels.reshape(kernel.shape[-2:]), 0, kernel), *(np.where(channels, 0, b) for b in bias)]

    def _makers(self) -> list[np.ndarray]:
        return [self.kernel.reshape(*self.kernel.shape[:-2], -1)]


class _Norm(_Tied):
    """Batch normalization at inference: an affine map per channel."""

    sized = True

    def constants(self, inputs: Sequence[Constants], width: int) -> Constants:
        layer = self.layer
        gamma = layer.gamma.numpy().astype(np.float64) if layer.scale else np.ones(width)
        beta = layer.beta.numpy() if layer.center else np.zeros(width)
        mean, variance = (v.numpy().astype(np.float64) for v in (layer.moving_mean, layer.moving_variance))
        known = inputs[0].known | (gamma == 0)
        values = (inputs[0].values - mean) * gamma / np.sqrt(variance + layer.epsilon) + beta
        return Constants(known, np.where(known, values, 0.0))

    def weights(self, kept_inputs: Masks, kept: np.ndarray, inputs: Sequence[Constants]) -> list[np.ndarray]:
        return [weight[kept] for weight in self.layer.get_weights()]

    def clear(self, weights: Sequence[np.ndarray], channels: np.ndarray) -> list[np.ndarray]:
        trained = self.layer.scale + self.layer.center
        return [*super().clear(weights[:trained], channels), *weights[trained:]]

    def _makers(self) -> list[np.ndarray]:
        return [self.layer.gamma.numpy()] if self.layer.scale else [np.zeros(self.layer.moving_mean.shape)]


class _RootMeanSquare(_Tied):
    """Normalization by the root mean square over the channels: only channels of 0 leave the sum of squares as it is.

    x g / sqrt(sum x^2 / n + e) = x g' / sqrt(sum x^2 / m + e'),  g' = g sqrt(n / m),  e' = e n / m
    """

    sized = True

    def constants(self, inputs: Sequence[Constants], width: int) -> Constants:
        scale = self.layer.scale.numpy()
        return Constants((inputs[0].known & (inputs[0].values == 0)) | (scale == 0), np.zeros(width))

    def needs(self, inputs: Sequence[Constants], dropped: np.ndarray) -> list[np.ndarray]:
        return [~(inputs[0].known & (inputs[0].values == 0))]

    def config(self, kept_inputs: Masks, kept: np.ndarray, inputs: Sequence[Constants]) -> dict[str, Any]:
        return {"epsilon": self.layer.epsilon * len(kept) / int(kept.sum()), "axis": -1}

    def weights(self, kept_inputs: Masks, kept: np.ndarray, inputs: Sequence[Constants]) -> list[np.ndarray]:
        (scale,) = self.layer.get_weights()
        return [(scale[kept] * np.sqrt(len(kept) / kept.sum())).astype(scale.dtype)]


class _Elementwise(_Tied):
    """Activations: map constants to constants."""

    def constants(self, inputs: Sequence[Constants], width: int) -> Constants:
        return Constants(inputs[0].known, np.where(inputs[0].known, apply(self.layer, inputs[0].values), 0.0))


class _Same(_Tied):
    """Pooling, dropout, cropping: keep constants as they are."""

    def constants(self, inputs: Sequence[Constants], width: int) -> Constants:
        return inputs[0]


class _Padding(_Tied):
    """Zero padding: only 0 stays constant."""

    def constants(self, inputs: Sequence[Constants], width: int) -> Constants:
        return Constants(inputs[0].known & (inputs[0].values == 0), np.zeros(width))


class _Flatten(_Tied):
    """Flattening of positions and channels, channels fastest."""

    def constants(self, inputs: Sequence[Constants], width: int) -> Constants:
        return Constants(*(np.tile(each, width // len(each)) for each in inputs[0]))

    def ties(self, inputs: Sequence[np.ndarray], output: np.ndarray) -> list[Pairs]:
        return [(np.tile(inputs[0], len(output) // len(inputs[0])), output)]


class _Reshape(_Flatten):
    """A reshape that keeps the channels last, or flattens."""

    sized = True

    def config(self, kept_inputs: Masks, kept: np.ndarray, inputs: Sequence[Constants]) -> dict[str, Any]:
        *others, last = self.layer.target_shape
        return {"target_shape": (*others, last if last == -1 else int(kept.sum()))}


class _Merge(_Tied):
    """Sums, products and extrema of tensors with equal numbers of channels."""

    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        self.name = layer_types.merge_name(layer) or ""

    def constants(self, inputs: Sequence[Constants], width: int) -> Constants:
        known = np.logical_and.reduce([each.known for each in inputs])
        if self.name == "Multiply":
            known |= np.logical_or.reduce([each.known & (each.values == 0) for each in inputs])
        return Constants(known, np.where(known, _MERGES[self.name]([each.values for each in inputs]), 0.0))


class _Concatenate(_Tied):
    """Concatenation along the channels."""

    def constants(self, inputs: Sequence[Constants], width: int) -> Constants:
        return Constants(*(np.concatenate(parts) for parts in zip(*inputs, strict=True)))

    def ties(self, inputs: Sequence[np.ndarray], output: np.ndarray) -> list[Pairs]:
        return [(np.concatenate(inputs), output)]


_MERGES: dict[str, Callable[..., np.ndarray]] = {
    "Add": np.add.reduce,
    "Subtract": np.subtract.reduce,
    "Multiply": np.multiply.reduce,
    "Maximum": np.maximum.reduce,
    "Minimum": np.minimum.reduce,
    "Average": lambda values: np.mean(values, axis=0),
}


def _always(*_: Any) -> bool:
    return True


def _is_plain(layer: Any, *_: Shape) -> bool:
    return layer_types.is_plain(layer)


def _is_dense_einsum(layer: Any, *_: Shape) -> bool:
    sides, outputs = layer.equation.replace(" ", "").split("->")
    inputs, kernel = sides.split(",")
    is_dense = len(kernel) == 2 and (inputs, outputs) == (outputs[:-1] + kernel[0], inputs[:-1] + kernel[1])
    return is_dense and layer.bias_axes in (None, kernel[1]) and layer_types.is_plain(layer)


def _is_plain_and_elementwise(layer: Any, *_: Shape) -> bool:
    return layer_types.is_plain(layer) and layer_types.is_elementwise(layer.activation)


_Fits = Callable[[Any, Shape, Shape], bool]
# For each type of layer with one input: a test on layer, input and output shape, and the rule if it passes.
_SINGLE: dict[type, tuple[_Fits, type[Rule]]] = {
    **dict.fromkeys(layer_types.DENSE_OR_CONVOLUTION, (_is_plain, Sums)),
    **dict.fromkeys(layer_types.SEPARABLE_CONVOLUTIONS, (_is_plain, SeparableSums)),
    **dict.fromkeys(layer_types.TRANSPOSED_CONVOLUTIONS, (_is_plain, TransposedSums)),
    **dict.fromkeys(layer_types.DEPTHWISE_CONVOLUTIONS, (_is_plain_and_elementwise, _Depthwise)),
    **dict.fromkeys(layer_types.ELEMENTWISE_LAYERS, (_always, _Elementwise)),
    **dict.fromkeys(layer_types.CONSTANT_PRESERVING, (_always, _Same)),
    **dict.fromkeys(layer_types.PADDINGS, (_always, _Padding)),
    _layers.Activation: (lambda layer, *_: layer_types.is_elementwise(layer.activation), _Elementwise),
    _layers.BatchNormalization: (lambda layer, x, _: layer.axis in (-1, len(x) - 1), _Norm),
    _layers.EinsumDense: (_is_dense_einsum, EinsumSums),
    _layers.Flatten: (_always, _Flatten),
    _layers.RMSNormalization: (lambda layer, x, _: layer.axis in ([-1], [len(x) - 1]), _RootMeanSquare),
    _layers.Reshape: (lambda _, x, y: len(y) == 2 or y[-1] == x[-1], _Reshape),
}


def rule(layer: Any, inputs: Sequence[Shape], output: Shape) -> Rule:
    """Chooses the rule for one call; unknown layers are barriers.

    Only Keras' own classes have rules, since a subclass may compute something else.

    Args:
      layer: a layer or operation.
      inputs: shapes of its inputs, the batch included.
      output: shape of its output, the batch included.

    Returns:
      The rule.
    """
    kind = type(layer)
    if kind is _layers.Embedding and layer_types.is_plain(layer) and len(inputs) == 1:
        return _Embedding(layer)
    widths = {shape[-1] if len(shape) > 1 else None for shape in (*inputs, output)}
    if None in widths or not layer_types.is_channels_last(layer):
        return Rule(layer)
    if layer_types.merge_name(layer):
        return _Merge(layer) if len(inputs) > 1 and len(widths) == 1 else Rule(layer)
    if kind is _layers.MultiHeadAttention:
        return Attention(layer, is_followed=len(inputs) in (2, 3))
    if kind is _layers.Concatenate:
        return _Concatenate(layer) if layer.axis in (-1, len(output) - 1) else Rule(layer)
    fits, made = _SINGLE.get(kind, (None, Rule))
    return made(layer) if fits and len(inputs) == 1 and fits(layer, inputs[0], output) else Rule(layer)
