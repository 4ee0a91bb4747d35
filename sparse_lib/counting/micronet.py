"""The counting rule of the MicroNet challenge, used by the published tables of sparse training."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple


@dataclass(frozen=True)
class LayerShape:
    """A layer for the MicroNet rule, which assumes a bias, a ReLU and half-kernel padding everywhere.

    With p the number of output positions and u the number of output units:

    FLOPs = p (2 nnz + u),  p = ceil((input_size - k + 1 + 2 floor(k / 2)) / stride)^2
    bits = 32 nnz + size (only if nnz < size) + 32 u

    Evci et al. 2020 (arXiv 1911.11134), appendix H. The number of active weights may be a real
    number: the published tables do not round size * (1 - sparsity).

    Attributes:
      name: name of the kernel.
      kernel: tuple[int, ...] of the kernel, [in, out] or [k, k, in, out].
      input_size: height and width of the input after explicit padding; None for a dense layer.
      stride: stride of a convolution.
      depthwise: whether each input channel has its own output, as in a DepthwiseConv2D. The
        published MobileNet-v1 tables leave it False for depthwise layers too.
    """

    name: str
    kernel: tuple[int, ...]
    input_size: int | None = None
    stride: int = 1
    depthwise: bool = False

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.kernel)

    @property
    def bias(self) -> int:
        """Number of output units, each with one bias."""
        return self.kernel[-2] * self.kernel[-1] if self.depthwise else self.kernel[-1]

    @property
    def positions(self) -> int:
        """Number of output positions."""
        if self.input_size is None:
            return 1
        width = self.kernel[0]
        return (-(-(self.input_size - width + 1 + 2 * (width // 2)) // self.stride)) ** 2

    def flops(self, nnz: float) -> float:
        """FLOPs of one example; an integer if the number of active weights is an integer.

        Args:
          nnz: number of active weights.

        Returns:
          Multiplications and additions.
        """
        return self.positions * (2 * nnz + self.bias)

    def bits(self, nnz: float) -> float:
        """Size; an integer if the number of active weights is an integer.

        Args:
          nnz: number of active weights.

        Returns:
          Bits of the 32-bit weights, the mask (only if there are zeros) and the bias.
        """
        return 32 * nnz + (self.size if nnz < self.size else 0) + 32 * self.bias


def scale_width(layers: Sequence[LayerShape], width: float) -> list[LayerShape]:
    """Scales the widths of a network, as for RigL's small-dense baselines.

    Args:
      layers: layers in order; the input of the first and the output of the last keep their size.
      width: factor on the number of channels, which are rounded down.

    Returns:
      The layers with their new kernel shapes.
    """
    scaled = []
    for index, layer in enumerate(layers):
        *window, inputs, outputs = layer.kernel
        inputs = inputs if index == 0 else int(inputs * width)
        # Depthwise layers keep one output per input channel.
        outputs = outputs if index == len(layers) - 1 or outputs == 1 else int(outputs * width)
        scaled.append(replace(layer, kernel=(*window, inputs, outputs)))
    return scaled


class Totals(NamedTuple):
    """Cost of a network.

    Attributes:
      flops: multiplications and additions of one example.
      bits: size of weights, masks and biases.
    """

    flops: float
    bits: float

    @property
    def megabytes(self) -> float:
        """Size in 10^6 bytes, as the published tables give it."""
        return self.bits / 8e6


def totals(layers: Sequence[LayerShape], sparsities: Mapping[str, float] | None = None, width: float = 1.0) -> Totals:
    """Sums the cost of a network as the published tables do, without rounding to whole weights.

    Args:
      layers: layers in order.
      sparsities: sparsity by name (fraction), as from `distributions.sparsities`; 0 where
        missing. They apply to the unscaled shapes, whatever the width.
      width: as for `scale_width`.

    Returns:
      FLOPs and bits.
    """
    scaled = scale_width(layers, width)
    active = [layer.size * (1 - (sparsities or {}).get(layer.name, 0.0)) for layer in scaled]
    pairs = list(zip(scaled, active, strict=True))
    return Totals(sum(layer.flops(nnz) for layer, nnz in pairs), sum(layer.bits(nnz) for layer, nnz in pairs))


def resnet50() -> list[LayerShape]:
    """The layers of ResNet-50 v1.5 at 224 pixels as the published tables count them.

    Returns:
      54 layers; `conv1` sees its padded input of 230 pixels, `fc1000` is the last.
    """
    layers = [LayerShape("conv1", (7, 7, 3, 64), 230, 2)]
    channels, size = 64, 56
    for group, blocks in enumerate((3, 4, 6, 3)):
        inner = 64 * 2**group
        for block in range(blocks):
            stride = 2 if group and not block else 1
            name = f"group{group + 1}_block{block}"
            layers += [
                LayerShape(f"{name}_conv1", (1, 1, channels, inner), size),
                LayerShape(f"{name}_conv2", (3, 3, inner, inner), size, stride),
                LayerShape(f"{name}_conv3", (1, 1, inner, 4 * inner), size // stride),
            ]
            if not block:
                layers.append(LayerShape(f"{name}_shortcut", (1, 1, channels, 4 * inner), size, stride))
            channels, size = 4 * inner, size // stride
    return [*layers, LayerShape("fc1000", (channels, 1000))]


def mobilenet_v1(*, modern: bool = False) -> list[LayerShape]:
    """The layers of MobileNet-v1 at 224 pixels.

    Args:
      modern: whether depthwise layers have a bias and a ReLU for each channel, and the first layer
        an unpadded input. The published tables have neither.

    Returns:
      28 layers: `conv1`, `depthwise1`, `pointwise1`, ..., `logits`.
    """
    layers = [LayerShape("conv1", (3, 3, 3, 32), 224 if modern else 225, 2)]
    channels, size = 32, 112
    strides_and_outputs = zip((1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1), (1, 2, 2, 4, 4, *[8] * 6, 16, 16), strict=True)
    for index, (stride, factor) in enumerate(strides_and_outputs, start=1):
        padded = size + 1 if stride > 1 else size
        layers.append(LayerShape(f"depthwise{index}", (3, 3, channels, 1), padded, stride, depthwise=modern))
        size //= stride
        layers.append(LayerShape(f"pointwise{index}", (1, 1, channels, 64 * factor), size))
        channels = 64 * factor
    return [*layers, LayerShape("logits", (1, 1, channels, 1000), 1)]
