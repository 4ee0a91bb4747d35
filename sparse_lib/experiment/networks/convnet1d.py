"""The convolutional network of the MNIST-1D paper."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import keras

from sparse_lib.experiment.networks.base import LayerwiseNetwork
from sparse_lib.experiment.networks.common import Style, dense_stack
from sparse_lib.experiment.settings import Size


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvNet1D(LayerwiseNetwork, name="convnet1d"):
    """Convolutions over a sequence, and a dense layer (Greydanus & Kobak 2024, arXiv 2011.14439, and its code).

    The window of the first convolution has 5 values, that of the others 3; each has stride 2 and one zero on both
    sides. On sequences of 40 values: 5,210 parameters, as printed there. The weights start from Glorot's uniform
    distribution, PyTorch's from one of variance 1 / (3 fan-in).

    Attributes:
      hidden_sizes: channels of the convolutions.
    """

    input_axes: ClassVar[int | None] = 2

    hidden_sizes: Sequence[Size] = (25, 25, 25)

    def build(self, input_shape: Sequence[int], num_classes: int, style: Style) -> keras.Model:
        """Builds the network."""
        layers: list[keras.Layer] = [keras.Input(tuple(input_shape))]
        for place, channels in enumerate(self.hidden_sizes):
            name, window = f"conv{place + 1}", 3 if place else 5
            layers.append(keras.layers.ZeroPadding1D(1, name=f"{name}_pad"))
            layers.append(
                keras.layers.Conv1D(
                    channels,
                    window,
                    strides=2,
                    activation=style.activation,
                    name=name,
                    **style.kernel_arguments(place),
                )
            )
        layers.append(keras.layers.Flatten(name="flatten"))
        layers += dense_stack(style, (), num_classes, use_batch_norm=False, first_place=len(self.hidden_sizes))
        return keras.Sequential(layers, name="convnet1d")
