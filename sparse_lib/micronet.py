"""The MicroNet challenge's counting rule, which the published tables of sparse training follow."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class LayerShape:
    """A layer as the rule sees it: every layer has a bias and a ReLU and half-kernel padding.

    With p the number of output positions and u the number of output units:

    FLOPs = p (2 nnz + u),  p = ceil((input_size - k + 1 + 2 floor(k / 2)) / stride)^2
    bits = 32 nnz + size (only if nnz < size) + 32 u

    Evci et al. 2020 (arXiv 1911.11134), appendix H. The number of active weights may be a real
    number: the published tables do not round size * (1 - sparsity).

    Attributes:
        name: Name of the kernel.
        kernel: tuple[int, ...] of the kernel, [in, out] or [k, k, in, out].
        input_size: Height and width of the input after explicit padding; None for a dense layer.
        stride: Stride of a convolution.
        depthwise: Whether each input channel has its own output, as in a DepthwiseConv2D. The
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
        """FLOPs of one example; an integer if the number of active weights is one.

        Args:
            nnz: Number of active weights.

        Returns:
            Multiplications and additions.
        """
        return self.positions * (2 * nnz + self.bias)

    def bits(self, nnz: float) -> float:
        """Size; an integer if the number of active weights is one.

        Args:
            nnz: Number of active weights.

        Returns:
            Bits of the 32-bit weights, the mask (only if there are zeros) and the bias.
        """
        return 32 * nnz + (self.size if nnz < self.size else 0) + 32 * self.bias


def scale_width(layers: Sequence[LayerShape], width: float) -> list[LayerShape]:
    """Narrows or widens a network, as RigL's small-dense baselines do.

    Args:
        layers: Layers in order; the input of the first and the output of the last stay.
        width: Factor on the number of channels, which are rounded down.

    Returns:
        The layers with their new kernel shapes.
    """
    scaled = []
    for index, layer in enumerate(layers):
        *window, inputs, outputs = layer.kernel
        inputs = inputs if index == 0 else int(inputs * width)
        outputs = outputs if index == len(layers) - 1 else int(outputs * width)
        scaled.append(replace(layer, kernel=(*window, inputs, outputs)))
    return scaled
