"""Vision transformers."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras

from sparse_lib._utils.errors import InputError
from sparse_lib.experiment.networks.base import Depth, ScalableNetwork, Width
from sparse_lib.experiment.networks.common import Builder, Style
from sparse_lib.experiment.settings import Share, Size

_EPSILON = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViT(ScalableNetwork, name="vit"):
    """ViT-Ti (Touvron et al. 2021, table 1): 5,717,416 parameters at 224 pixels with 1,000 classes.

    Pre-normalised blocks of attention and of a perceptron four times as wide; a class token and learned positions. The
    papers' activation is `gelu`, to be set as `network.activation`.

    Attributes:
      patch_size: height and width of a patch (pixels).
      depth: blocks (count).
      heads: attention heads of 64 units each (count).
      width: factor on the units of each head, and thereby on all units.
      dropout: share of the values dropped after each part of a block (fraction); 0 in DeiT.
    """

    patch_size: Size = 16
    depth: Depth = 12
    heads: Depth = 3
    width: Width = 1.0
    dropout: Share = 0.0

    def build(self, input_shape: Sequence[int], num_classes: int, style: Style) -> keras.Model:
        """Builds the vision transformer."""
        if any(side % self.patch_size for side in input_shape[:2]):
            raise InputError(
                f"vit.patch_size={self.patch_size} does not divide images of {input_shape[0]}x{input_shape[1]}."
            )
        build = Builder(style, "glorot_uniform")
        head = max(1, int(64 * self.width))
        units = self.heads * head
        inputs = keras.Input(tuple(input_shape))
        patches = keras.layers.Conv2D(units, self.patch_size, strides=self.patch_size, name="patches", **build.kernel())
        x = keras.layers.Reshape((-1, units), name="tokens")(patches(inputs))
        x = ClassTokenAndPositions(build.seed(), name="positions")(x)
        for block in range(self.depth):
            name = f"block{block}"
            y = _norm(x, f"{name}_attention_norm")
            y = _attention(build, y, self.heads, head, f"{name}_attention")
            y = build.dropout(y, self.dropout, f"{name}_attention_dropout")
            x = keras.layers.Add(name=f"{name}_attention_add")([x, y])
            y = build.dense(_norm(x, f"{name}_dense_norm"), 4 * units, f"{name}_dense1")
            y = build.dense(build.activation(y, f"{name}_act"), units, f"{name}_dense2")
            y = build.dropout(y, self.dropout, f"{name}_dense_dropout")
            x = keras.layers.Add(name=f"{name}_dense_add")([x, y])
        x = FirstToken(name="class_token")(_norm(x, "last_norm"))
        return keras.Model(inputs, build.dense(x, num_classes, "logits"), name="vit")


def _norm(x: Any, name: str) -> Any:
    return keras.layers.LayerNormalization(epsilon=_EPSILON, name=name)(x)


def _attention(build: Builder, x: Any, heads: int, head: int, name: str) -> Any:
    """Adds self-attention. Its four kernels are drawn here: Keras would give kernels of one shape the same values."""
    units = heads * head
    arguments = build.kernel()
    layer = keras.layers.MultiHeadAttention(
        heads, head, kernel_regularizer=arguments["kernel_regularizer"], flash_attention=False, name=name
    )
    y = layer(x, x)
    limit = math.sqrt(6 / (2 * units))
    for kernel in (variable for variable in layer.trainable_variables if variable.name == "kernel"):
        kernel.assign(keras.initializers.RandomUniform(-limit, limit, seed=build.seed())(kernel.shape))
    return y


@keras.saving.register_keras_serializable("sparse_lib")
class ClassTokenAndPositions(keras.layers.Layer):
    """Prepends a learned class token, then adds learned position embeddings."""

    def __init__(self, seed: int, **kwargs: Any) -> None:
        """Stores the seed.

        Args:
          seed: of the initial values, normal with standard deviation 0.02.
          **kwargs: of `keras.layers.Layer`, such as its name.
        """
        super().__init__(**kwargs)
        self.seed = seed

    def build(self, input_shape: Sequence[int]) -> None:
        """Creates the token, initially zero, and the positions."""
        _, tokens, units = input_shape
        positions = keras.initializers.RandomNormal(stddev=0.02, seed=self.seed)
        self.token = self.add_weight(shape=(1, 1, units), initializer="zeros", name="token")
        self.positions = self.add_weight(shape=(1, tokens + 1, units), initializer=positions, name="positions")

    def call(self, inputs: Any) -> Any:
        """[n, tokens, units] -> [n, tokens + 1, units]."""
        token = keras.ops.broadcast_to(self.token, (keras.ops.shape(inputs)[0], 1, inputs.shape[-1]))
        return keras.ops.concatenate([token, inputs], axis=1) + self.positions

    def get_config(self) -> dict[str, Any]:
        """Arguments that rebuild the layer."""
        return {**super().get_config(), "seed": self.seed}


@keras.saving.register_keras_serializable("sparse_lib")
class FirstToken(keras.layers.Layer):
    """Selects the first token."""

    def call(self, inputs: Any) -> Any:
        """[n, tokens, units] -> [n, units]."""
        return inputs[:, 0]
