"""The multi-layer perceptron 300-100 of the MNIST experiments."""

from collections.abc import Sequence

import keras

from sparse_lib.experiment.networks.common import Style, dense_stack


def mlp(
    input_shape: Sequence[int],
    num_classes: int,
    style: Style,
    hidden_sizes: Sequence[int] = (300, 100),
) -> keras.Model:
    """LeNet 300-100 (LeCun et al. 1998): 784-300-100-10 has 266,200 weights.

    Args:
      input_shape: height, width, channels of an image (pixels).
      num_classes: number of logits (count).
      style: activation, regulariser, normalisation and seed.
      hidden_sizes: widths of the hidden layers (units).

    Returns:
      The built network; it returns logits, [n, num_classes].
    """
    return keras.Sequential(
        [
            keras.Input(tuple(input_shape)),
            keras.layers.Flatten(name="flatten"),
            *dense_stack(style, hidden_sizes, num_classes),
        ],
        name="mlp",
    )
