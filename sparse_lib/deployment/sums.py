"""Layers whose output channels are sums over all input channels."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from sparse_lib._keras import layer_types
from sparse_lib.deployment.rule import Constants, Masks, Rule, no_constants

_layers = keras.layers


class Sums(Rule):
    """Dense and convolution layers: every output channel sums over all input channels."""

    reads_all = False
    sized = True

    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        # A softmax mixes channels.
        self.makes = layer_types.is_elementwise(layer.activation)
        self.kernel, self.bias = self._read_kernel()
        windows = self.kernel.reshape(-1, *self.kernel.shape[-2:])
        self.summed = windows.sum(0, dtype=np.float64)
        self.read: np.ndarray = np.any(windows, axis=0)

    def _read_kernel(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Kernel that ends in inputs and outputs, and bias."""
        return kernel_and_bias(self.layer)

    def _is_foldable(self, inputs: Constants) -> np.ndarray:
        """Input channels whose contribution is constant, at the borders too."""
        return inputs.known & ((inputs.values == 0) | (not pads(self.layer)))

    def constants(self, inputs: Sequence[Constants], width: int) -> Constants:
        """Outputs that only constant channels reach."""
        if not self.makes:
            return no_constants(width)
        known = ~self.read[~self._is_foldable(inputs[0])].any(0)
        sums = inputs[0].values @ self.summed + (0 if self.bias is None else self.bias)
        return Constants(known, np.where(known, apply(self.layer.activation, sums), 0.0))

    def needs(self, inputs: Sequence[Constants], dropped: np.ndarray) -> list[np.ndarray]:
        """Inputs that a kept output reads."""
        return [self.read[:, ~dropped].any(1) & ~self._is_foldable(inputs[0])]

    def _fold(self, kept_inputs: np.ndarray, inputs: Constants) -> np.ndarray:
        """The contribution of dropped input channels to the bias, [outputs]."""
        gone = self._is_foldable(inputs) & ~kept_inputs
        return inputs.values[gone] @ self.summed[gone]

    def config(self, kept_inputs: Masks, kept: np.ndarray, inputs: Sequence[Constants]) -> dict[str, Any]:
        """The number of outputs, and a bias where a constant needs one."""
        size = "units" if isinstance(self.layer, _layers.Dense) else "filters"
        return {size: int(kept.sum()), "use_bias": self._has_bias(kept_inputs, kept, inputs)}

    def _has_bias(self, kept_inputs: Masks, kept: np.ndarray, inputs: Sequence[Constants]) -> bool:
        return self.bias is not None or bool(self._fold(kept_inputs[0], inputs[0])[kept].any())

    def weights(self, kept_inputs: Masks, kept: np.ndarray, inputs: Sequence[Constants]) -> list[np.ndarray]:
        """The kernel on kept channels, and the bias with the constants of the others."""
        kernel = self.kernel[..., kept_inputs[0], :][..., kept]
        if not self._has_bias(kept_inputs, kept, inputs):
            return [kernel]
        folded = self._fold(kept_inputs[0], inputs[0]) + (0 if self.bias is None else self.bias)
        return [kernel, folded[kept].astype(kernel.dtype)]


class EinsumSums(Sums):
    """EinsumDense layers that compute what a dense layer computes."""

    def config(self, kept_inputs: Masks, kept: np.ndarray, inputs: Sequence[Constants]) -> dict[str, Any]:
        """The same in the terms of an equation."""
        has_bias = self._has_bias(kept_inputs, kept, inputs)
        shape = (*self.layer.partial_output_shape[:-1], int(kept.sum()))
        return {"output_shape": shape, "bias_axes": self.layer.equation[-1] if has_bias else None}


class SeparableSums(Sums):
    """Depthwise and pointwise convolutions in one layer."""

    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        self._depthwise, self._pointwise, *_ = layer.get_weights()

    def _read_kernel(self) -> tuple[np.ndarray, np.ndarray | None]:
        depthwise, pointwise, *bias = self.layer.get_weights()
        # The outputs of an input channel are adjacent.
        columns = pointwise.reshape(*depthwise.shape[-2:], -1)
        return np.einsum("...im,imo->...io", depthwise, columns), bias[0] if bias else None

    def weights(self, kept_inputs: Masks, kept: np.ndarray, inputs: Sequence[Constants]) -> list[np.ndarray]:
        """Both kernels on kept channels."""
        _, *bias = super().weights(kept_inputs, kept, inputs)
        rows = np.repeat(kept_inputs[0], self._depthwise.shape[-1])
        return [self._depthwise[..., kept_inputs[0], :], self._pointwise[..., rows, :][..., kept], *bias]

    def clear(self, weights: Sequence[np.ndarray], channels: np.ndarray) -> list[np.ndarray]:
        """Zeroes columns of the pointwise kernel."""
        return [weights[0], *super().clear(weights[1:], channels)]

    def _makers(self) -> list[np.ndarray]:
        return [self._pointwise]


class TransposedSums(Sums):
    """Transposed convolutions, whose kernels end in outputs and inputs; a constant has another sum at every phase."""

    def _read_kernel(self) -> tuple[np.ndarray, np.ndarray | None]:
        kernel, bias = super()._read_kernel()
        return kernel.swapaxes(-1, -2), bias

    def _is_foldable(self, inputs: Constants) -> np.ndarray:
        return inputs.known & (inputs.values == 0)

    def weights(self, kept_inputs: Masks, kept: np.ndarray, inputs: Sequence[Constants]) -> list[np.ndarray]:
        """The same with the kernel's axes swapped back."""
        kernel, *bias = super().weights(kept_inputs, kept, inputs)
        return [kernel.swapaxes(-1, -2), *bias]

    def clear(self, weights: Sequence[np.ndarray], channels: np.ndarray) -> list[np.ndarray]:
        """Zeroes rows of the kernel."""
        return [np.where(channels[:, None], 0, weights[0]), *super().clear(weights[1:], channels)]

    def _makers(self) -> list[np.ndarray]:
        return [self.kernel]


def pads(layer: Any) -> bool:
    """Whether windows at the borders include padded zeros."""
    return getattr(layer, "padding", "valid") != "valid" and max(layer.kernel_size) > 1


def kernel_and_bias(layer: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """The two weights of a layer; None for a layer without bias."""
    kernel, *bias = layer.get_weights()
    return kernel, bias[0] if bias else None


def apply(activation: Any, values: np.ndarray) -> np.ndarray:
    """Applies an elementwise function to constants, in float32."""
    if activation is None:
        return values
    return keras.ops.convert_to_numpy(activation(keras.ops.convert_to_tensor(values[None], "float32")))[0]
