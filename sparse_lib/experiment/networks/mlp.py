"""The multi-layer perceptron 300-100 of the MNIST experiments."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Literal

import keras

from sparse_lib.experiment.networks.base import LayerwiseNetwork
from sparse_lib.experiment.networks.common import Style, dense_stack
from sparse_lib.experiment.settings import Size


@dataclasses.dataclass(frozen=True, kw_only=True)
class MLP(LayerwiseNetwork, name="mlp"):
    """LeNet 300-100 (LeCun et al. 1998): 784-300-100-10 has 266,200 weights.

    Attributes:
      hidden_sizes: widths of the hidden layers (units).
      use_batch_norm: whether a batch normalisation follows each hidden layer.
      initializer: of the kernels: as in Keras, or `glorot_normal` as in the lottery-ticket paper.
    """

    input_axes: ClassVar[int | None] = None

    hidden_sizes: Sequence[Size] = (300, 100)
    use_batch_norm: bool = False
    initializer: Literal["glorot_uniform", "glorot_normal"] = "glorot_uniform"

    def build(self, input_shape: Sequence[int], num_classes: int, style: Style) -> keras.Model:
        """Builds the MLP."""
        hidden = dense_stack(
            style,
            self.hidden_sizes,
            num_classes,
            use_batch_norm=self.use_batch_norm,
            initializer=self.initializer,
        )
        layers = [keras.Input(tuple(input_shape)), keras.layers.Flatten(name="flatten"), *hidden]
        return keras.Sequential(layers, name="mlp")
