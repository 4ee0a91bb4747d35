"""VGG networks, with their own classifier and with the small one of the sparse-training papers."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import keras

from sparse_lib.experiment.networks.base import ScalableNetwork, Width
from sparse_lib.experiment.networks.common import Builder, Style
from sparse_lib.experiment.settings import Share

_UNITS = 4096
_CHANNELS = (64, 128, 256, 512, 512)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VGG16(ScalableNetwork, name="vgg16"):
    """VGG16 (Simonyan & Zisserman 2015): 138,357,544 parameters with 1,000 classes at 224 pixels.

    Attributes:
      width: factor on all channels and units.
      classifier: `dense` has two hidden layers of 4,096 units. `pooled` has none: as in the published code of the RigL
        and gradient-flow papers, the last group is averaged over the image instead of max-pooled, and there are no
        biases: 15,222,464 parameters of VGG16.
      dropout: share of the values dropped after each hidden dense layer (fraction); 0.5 in the paper, section 3.1.
      use_batch_norm: whether a batch normalisation follows each convolution.
      convolutions: in each of the five groups (Simonyan & Zisserman 2015, table 1).
    """

    convolutions: ClassVar[Sequence[int]] = (2, 2, 3, 3, 3)

    width: Width = 1.0
    classifier: Literal["dense", "pooled"] = "dense"
    dropout: Share = 0.5
    use_batch_norm: bool = False

    def build(self, input_shape: Sequence[int], num_classes: int, style: Style) -> keras.Model:
        """Builds the VGG network."""
        is_dense = self.classifier == "dense"
        build = Builder(style, "he", use_bias=is_dense)
        inputs = keras.Input(tuple(input_shape))
        x: Any = inputs
        for group, (channels, convolutions) in enumerate(zip(_CHANNELS, self.convolutions, strict=True), start=1):
            for index in range(1, convolutions + 1):
                name = f"conv{group}_{index}"
                x = build.conv(x, max(1, int(channels * self.width)), 3, name)
                x = build.norm_act(x, name) if self.use_batch_norm else build.activation(x, f"{name}_act")
            if is_dense or group < len(_CHANNELS):
                x = keras.layers.MaxPooling2D(2, name=f"pool{group}")(x)
        if is_dense:
            x = _hidden_layers(build, x, max(1, int(_UNITS * self.width)), self.dropout)
            return keras.Model(inputs, build.dense(x, num_classes, "logits"), name=self.config_name)
        x = keras.layers.GlobalAveragePooling2D(keepdims=True, name="pool")(x)
        logits = keras.layers.Flatten(name="flatten")(build.conv(x, num_classes, 1, "logits"))
        return keras.Model(inputs, logits, name=self.config_name)


class VGG11(VGG16, name="vgg11"):
    """VGG-A with 11 weighted layers: 132,863,336 parameters with 1,000 classes at 224 pixels."""

    convolutions: ClassVar[Sequence[int]] = (1, 1, 2, 2, 2)


class VGG19(VGG16, name="vgg19"):
    """VGG-E with 19 weighted layers: 143,667,240 parameters with 1,000 classes at 224 pixels."""

    convolutions: ClassVar[Sequence[int]] = (2, 2, 4, 4, 4)


def _hidden_layers(build: Builder, x: Any, units: int, dropout: float) -> Any:
    x = keras.layers.Flatten(name="flatten")(x)
    for name in ("dense1", "dense2"):
        x = build.activation(build.dense(x, units, name), f"{name}_act")
        x = build.dropout(x, dropout, f"{name}_dropout")
    return x
