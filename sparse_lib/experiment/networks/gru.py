"""The character model of the RigL paper."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import keras

from sparse_lib._keras.patches import remove_dropout_seed
from sparse_lib.experiment.networks.base import ScalableNetwork, Width
from sparse_lib.experiment.networks.common import Builder, Style


@dataclasses.dataclass(frozen=True, kw_only=True)
class GRU(ScalableNetwork, name="gru"):
    """A GRU of 512 units that predicts the next character (RigL paper, section 4.2 and appendix I).

    Characters are embedded in 128 dimensions; the state is read out by dense layers of 256 and 128 units, and the
    logits are the products with the same embedding: 1,183,104 parameters for 256 characters. The paper does not say
    whether an activation stands between the two dense layers; here it is `network.activation`.

    Attributes:
      width: factor on all units.
    """

    # Characters with any further axes of one.
    input_axes: ClassVar[int | None] = None

    width: Width = 1.0

    def build(
        self, input_shape: Sequence[int], num_classes: int, style: Style, *, every_position: bool = False
    ) -> keras.Model:
        """Builds the character model.

        Args:
          input_shape: number of characters that are read, then any sizes of 1; the values are character codes (count).
          num_classes: number of different characters (count).
          style: activation, regularizer and seed.
          every_position: whether there are logits for the character after every one, as the paper trains, or after the
            last one alone, which makes the text a set of labelled examples.

        Returns:
          The built network; it returns logits, [n, num_classes], or [n, characters, num_classes] for every position.
        """
        build = Builder(style, "glorot_uniform")
        embedded, state, read_out = (max(1, int(units * self.width)) for units in (128, 512, 256))
        inputs = keras.Input(tuple(input_shape))
        characters = keras.layers.Reshape((-1,), name="characters")(inputs)
        uniform = keras.initializers.RandomUniform(seed=build.seed())
        embedding = keras.layers.ReversibleEmbedding(
            num_classes, embedded, embeddings_initializer=uniform, name="embedding"
        )
        arguments = build.kernel()
        layer = keras.layers.GRU(
            state,
            return_sequences=every_position,
            recurrent_initializer=keras.initializers.Orthogonal(seed=build.seed()),
            recurrent_regularizer=arguments["kernel_regularizer"],
            name="state",
            **arguments,
        )
        # Without dropout the counter of its noise is unused, and its name would depend on what was built before.
        remove_dropout_seed(layer.cell)
        x = layer(embedding(characters))
        x = build.activation(build.dense(x, read_out, "dense1"), "dense1_act")
        logits = embedding(build.dense(x, embedded, "dense2"), reverse=True)
        return keras.Model(inputs, logits, name="gru")
