"""The convolutional networks of the lottery-ticket paper."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import keras

from sparse_lib.experiment.networks.base import ScalableNetwork, Width
from sparse_lib.experiment.networks.common import Style, dense_stack

# Of the first block and of the hidden dense layers (count).
_CHANNELS, _UNITS = 64, 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvN(ScalableNetwork, name="conv_n"):
    """Conv-2, Conv-4 and Conv-6 (Frankle & Carbin 2019, figure 2): VGG at the scale of CIFAR-10.

    Blocks of two 3x3 convolutions of 64, 128 and 256 channels, each block followed by 2x2 max-pooling, then dense
    layers of 256, 256 and 10 units, without batch normalisation, initialised by Glorot's normal distribution. On
    32x32x3: 4,300,992 weights (Conv-2), 2,425,024 (Conv-4) and 2,261,184 (Conv-6), of which 38,592, 259,776 and
    1,144,512 are in convolutions. The paper has the same numbers but for the total of Conv-6, where it prints 1.7
    million.

    Attributes:
      depth: number of convolutions (count).
      width: factor on all channels and hidden units.
    """

    depth: Literal[2, 4, 6] = 2
    width: Width = 1.0

    @property
    def label(self) -> str:
        """Name of the network in reports."""
        return f"Conv-{self.depth}"

    def build(self, input_shape: Sequence[int], num_classes: int, style: Style) -> keras.Model:
        """Builds the network."""
        layers: list[keras.Layer] = [keras.Input(tuple(input_shape))]
        for place in range(self.depth):
            block, name = place // 2 + 1, f"conv{place + 1}"
            layers.append(
                keras.layers.Conv2D(
                    self._scale(_CHANNELS * 2 ** (block - 1)),
                    3,
                    padding="same",
                    activation=style.activation,
                    name=name,
                    **style.kernel_arguments(place, "glorot_normal"),
                )
            )
            if place % 2:
                layers.append(keras.layers.MaxPooling2D(2, name=f"pool{block}"))
        layers.append(keras.layers.Flatten(name="flatten"))
        layers += dense_stack(
            style,
            [self._scale(_UNITS)] * 2,
            num_classes,
            use_batch_norm=False,
            first_place=self.depth,
            initializer="glorot_normal",
        )
        return keras.Sequential(layers, name=f"conv{self.depth}")

    def _scale(self, units: int) -> int:
        return max(1, int(units * self.width))
