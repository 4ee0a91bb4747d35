"""MobileNet-v1 and v2, with the geometry of the RigL paper's."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import keras

from sparse_lib.experiment.networks.base import ScalableNetwork, Width
from sparse_lib.experiment.networks.common import Builder, Style

# Channels and stride of each block.
_V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
_V2 = (
    *((16, 1), (24, 2), (24, 1), (32, 2), (32, 1), (32, 1), (64, 2), (64, 1), (64, 1), (64, 1)),
    *((96, 1), (96, 1), (96, 1), (160, 2), (160, 1), (160, 1), (320, 1)),
)
_EXPANSION = 6
_LAST_CHANNELS = 1280


@dataclasses.dataclass(frozen=True, kw_only=True)
class MobileNet(ScalableNetwork, name="mobilenet"):
    """MobileNet-v1 (Howard et al. 2017) or v2 (Sandler et al. 2018): 4,231,976 and 3,504,872 parameters.

    As in the RigL paper's code, activations are ReLU where the MobileNet papers have ReLU6 (`network.activation`
    chooses), and there is no dropout. The kernels of depthwise convolutions stay dense by default (RigL paper, section
    4.1.2).

    Attributes:
      version: 1 or 2.
      width: factor on all channels, which are rounded to multiples of 8; the last layer of v2 never gets narrower.
    """

    version: Literal[1, 2] = 1
    width: Width = 1.0

    def build(self, input_shape: Sequence[int], num_classes: int, style: Style) -> keras.Model:
        """Builds MobileNet."""
        build = Builder(style, "lecun")
        inputs = keras.Input(tuple(input_shape))
        x = build.conv(inputs, _round_channels(32 * self.width), 3, "stem", stride=2, explicit_padding=True)
        x = build.norm_act(x, "stem")
        for index, (channels, stride) in enumerate(_V1 if self.version == 1 else _V2):
            # The published code does not round the first block.
            rounded = _round_channels(int(channels * self.width), 8 if index else 1)
            x = (_separable if self.version == 1 else _inverted_residual)(build, x, rounded, stride, index)
        if self.version == 2:
            last = max(_LAST_CHANNELS, _round_channels(_LAST_CHANNELS * self.width))
            x = build.norm_act(build.conv(x, last, 1, "last"), "last")
        x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
        return keras.Model(inputs, build.dense(x, num_classes, "logits"), name=f"mobilenet_v{self.version}")


def _separable(build: Builder, x: Any, channels: int, stride: int, index: int) -> Any:
    x = build.norm_act(build.depthwise(x, 3, f"block{index}_depthwise", stride=stride), f"block{index}_depthwise")
    return build.norm_act(build.conv(x, channels, 1, f"block{index}_contraction"), f"block{index}_contraction")


def _inverted_residual(build: Builder, x: Any, channels: int, stride: int, index: int) -> Any:
    y = x
    if index:
        name = f"block{index}_expansion"
        y = build.norm_act(build.conv(y, _EXPANSION * x.shape[-1], 1, name), name)
    y = build.norm_act(build.depthwise(y, 3, f"block{index}_depthwise", stride=stride), f"block{index}_depthwise")
    name = f"block{index}_contraction"
    y = build.norm(build.conv(y, channels, 1, name), f"{name}_norm")
    is_residual = stride == 1 and x.shape[-1] == channels
    return keras.layers.Add(name=f"block{index}_add")([x, y]) if is_residual else y


def _round_channels(channels: float, multiple: int = 8) -> int:
    """Rounds to the nearest multiple, at least one multiple and at least nine tenths of the channels."""
    nearest = max(multiple, int(channels + multiple / 2) // multiple * multiple)
    return nearest if nearest >= 0.9 * channels else nearest + multiple
