"""The LeNet5 of the gradient-flow paper."""

import dataclasses
from collections.abc import Sequence

import keras

from sparse_lib._utils.errors import InputError
from sparse_lib.experiment.networks.base import LayerwiseNetwork
from sparse_lib.experiment.networks.common import Style, dense_stack
from sparse_lib.experiment.settings import Size


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeNet5(LayerwiseNetwork, name="lenet5"):
    """LeNet5 (LeCun et al. 1998) with ReLU and max-pooling: 44,190 weights on 28x28x1.

    Attributes:
      hidden_sizes: channels of the two 5x5 convolutions, then widths of the two hidden dense layers.
      use_batch_norm: whether a batch normalisation follows each hidden layer.
    """

    hidden_sizes: Sequence[Size] = (6, 16, 120, 84)
    use_batch_norm: bool = False

    def build(self, input_shape: Sequence[int], num_classes: int, style: Style) -> keras.Model:
        """Builds LeNet5."""
        if len(self.hidden_sizes) != 4:
            raise InputError(
                f"lenet5.hidden_sizes takes four numbers, such as (6, 16, 120, 84); got {self.hidden_sizes}."
            )
        layers: list[keras.Layer] = [keras.Input(tuple(input_shape))]
        for place, channels in enumerate(self.hidden_sizes[:2]):
            name, kernel = f"conv{place + 1}", style.kernel_arguments(place)
            layers.append(keras.layers.Conv2D(channels, 5, activation=style.activation, name=name, **kernel))
            layers.append(keras.layers.MaxPooling2D(2, name=f"pool{place + 1}"))
            if self.use_batch_norm:
                layers.append(style.norm(name))
        layers.append(keras.layers.Flatten(name="flatten"))
        widths = self.hidden_sizes[2:]
        layers += dense_stack(style, widths, num_classes, use_batch_norm=self.use_batch_norm, first_place=2)
        return keras.Sequential(layers, name="lenet5")
