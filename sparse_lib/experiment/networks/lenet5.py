"""The LeNet5 of the gradient-flow paper."""

from collections.abc import Sequence

import keras

from sparse_lib._utils.errors import InputError
from sparse_lib.experiment.networks.common import Style, dense_stack


def lenet5(
    input_shape: Sequence[int],
    num_classes: int,
    style: Style,
    hidden_sizes: Sequence[int] = (6, 16, 120, 84),
) -> keras.Model:
    """LeNet5 (LeCun et al. 1998) with ReLU and max-pooling: 44,190 weights on 28x28x1.

    Args:
      input_shape: height, width, channels of an image (pixels).
      num_classes: number of logits (count).
      style: activation, regulariser, normalisation and seed.
      hidden_sizes: channels of the two 5x5 convolutions, then widths of the two hidden dense layers.

    Returns:
      The built network; it returns logits, [n, num_classes].

    Raises:
      ValueError: unless there are four hidden sizes.
    """
    if len(hidden_sizes) != 4:
        raise InputError(f"lenet5.hidden_sizes takes four numbers, such as (6, 16, 120, 84); got {hidden_sizes}.")
    layers: list[keras.Layer] = [keras.Input(tuple(input_shape))]
    for place, channels in enumerate(hidden_sizes[:2]):
        name = f"conv{place + 1}"
        layers += [
            keras.layers.Conv2D(channels, 5, activation=style.activation, name=name, **style.kernel_arguments(place)),
            keras.layers.MaxPooling2D(2, name=f"pool{place + 1}"),
            *style.norm(name),
        ]
    layers.append(keras.layers.Flatten(name="flatten"))
    layers += dense_stack(style, hidden_sizes[2:], num_classes, first_place=2)
    return keras.Sequential(layers, name="lenet5")
