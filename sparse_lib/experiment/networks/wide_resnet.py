"""Wide residual networks for small images."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from sparse_lib._utils.errors import InputError
from sparse_lib.experiment.networks.base import Depth, ScalableNetwork, Width
from sparse_lib.experiment.networks.common import Builder, Style
from sparse_lib.experiment.settings import Share

_CHANNELS = (16, 32, 64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WideResNet(ScalableNetwork, name="wide_resnet"):
    """WRN-depth-width (Zagoruyko & Komodakis 2016): WRN-22-2 of the RigL paper, section 4.3, has 1,079,642 parameters.

    Pre-activation blocks of two 3x3 convolutions in three groups of 16, 32 and 64 times `width` channels. Where the
    channels change, a 1x1 convolution of the normalised input is the shortcut, else the input itself.

    Attributes:
      depth: 6 n + 4 for n blocks in each group (count); 22 in the RigL paper.
      width: factor on the channels of the groups; 2 in the RigL paper.
      dropout: share of values dropped between the two convolutions of a block (fraction); 0.3 in the RigL paper's code.
    """

    depth: Depth = 22
    width: Width = 2.0
    dropout: Share = 0.3

    @property
    def label(self) -> str:
        """Name of the network in reports."""
        return "Wide ResNet"

    def build(self, input_shape: Sequence[int], num_classes: int, style: Style) -> keras.Model:
        """Builds the wide residual network."""
        if self.depth < 10 or (self.depth - 4) % 6:
            raise InputError(f"wide_resnet.depth is 6 n + 4, such as 16, 22 or 28; got {self.depth}.")
        build = Builder(style, "glorot_uniform")
        inputs = keras.Input(tuple(input_shape))
        x = build.conv(inputs, _CHANNELS[0], 3, "stem")
        for group, channels in enumerate(_CHANNELS, start=1):
            for block in range((self.depth - 4) // 6):
                stride, name = 2 if group > 1 and block == 0 else 1, f"group{group}_block{block}"
                x = _block(build, x, max(1, int(channels * self.width)), stride, self.dropout, name)
        x = build.norm_act(x, "last")
        x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
        return keras.Model(inputs, build.dense(x, num_classes, "logits"), name="wide_resnet")


def _block(build: Builder, x: Any, channels: int, stride: int, dropout: float, name: str) -> Any:
    normed = build.norm_act(x, f"{name}_pre1")
    shortcut = x
    if stride > 1 or x.shape[-1] != channels:
        shortcut = build.conv(normed, channels, 1, f"{name}_shortcut", stride=stride)
    y = build.conv(normed, channels, 3, f"{name}_conv1", stride=stride)
    y = build.norm_act(y, f"{name}_pre2")
    y = build.dropout(y, dropout, f"{name}_dropout")
    y = build.conv(y, channels, 3, f"{name}_conv2")
    return keras.layers.Add(name=f"{name}_add")([y, shortcut])
