"""The recurrent network of the MNIST-1D paper."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import keras

from sparse_lib._keras.patches import remove_dropout_seed
from sparse_lib.experiment.networks.base import LayerwiseNetwork
from sparse_lib.experiment.networks.common import Builder, Style
from sparse_lib.experiment.settings import Size


@dataclasses.dataclass(frozen=True, kw_only=True)
class BidirectionalGRU(LayerwiseNetwork, name="bidirectional_gru"):
    """GRUs in both directions, whose states at all places feed a dense layer (Greydanus & Kobak 2024, and its code).

    On sequences of 40 values: 5,134 parameters, as printed there, of which 4,810 are in the dense layer. Input kernels
    start from Glorot's uniform distribution and recurrent ones from orthogonal matrices, as in Keras; PyTorch's start
    from a uniform distribution of variance 1 / (3 units). `network.activation` does not apply.

    Attributes:
      hidden_sizes: units of each direction, for one layer or several.
    """

    input_axes: ClassVar[int | None] = 2

    hidden_sizes: Sequence[Size] = (6,)

    def build(self, input_shape: Sequence[int], num_classes: int, style: Style) -> keras.Model:
        """Builds the network."""
        build = Builder(style, "glorot_uniform")
        layers: list[keras.Layer] = [keras.Input(tuple(input_shape))]
        for number, units in enumerate(self.hidden_sizes, start=1):
            # Keras would give both directions the same initial weights.
            forward, backward = (
                _make_direction(build, units, f"{direction}_gru{number}", go_backwards=direction == "backward")
                for direction in ("forward", "backward")
            )
            both = keras.layers.Bidirectional(forward, backward_layer=backward, name=f"gru{number}")
            for layer in (both.forward_layer, both.backward_layer):
                # The counter of its noise is unused, and its name would depend on what was built before.
                remove_dropout_seed(layer.cell)
            layers.append(both)
        layers += [
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(num_classes, name="dense1", **build.kernel()),
        ]
        return keras.Sequential(layers, name="bidirectional_gru")


def _make_direction(build: Builder, units: int, name: str, *, go_backwards: bool) -> keras.layers.GRU:
    arguments = build.kernel()
    return keras.layers.GRU(
        units,
        return_sequences=True,
        go_backwards=go_backwards,
        recurrent_initializer=keras.initializers.Orthogonal(seed=build.seed()),
        recurrent_regularizer=arguments["kernel_regularizer"],
        name=name,
        **arguments,
    )
