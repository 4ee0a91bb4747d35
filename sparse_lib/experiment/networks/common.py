"""What the networks share: seeded layers with one activation and one regulariser."""

import dataclasses
from collections.abc import Sequence

import keras


@dataclasses.dataclass(frozen=True, kw_only=True)
class Style:
    """How the layers of a network are made.

    Attributes:
      activation: name of the activation of the hidden layers.
      weight_decay: L2 coefficient: the loss takes weight_decay * sum(w^2) of every kernel (fraction).
      use_batch_norm: whether a batch normalisation follows each hidden layer.
      seed: seed of the initial weights; a layer's weights depend on it and on the layer's place alone.
    """

    activation: str = "relu"
    weight_decay: float = 0.0
    use_batch_norm: bool = False
    seed: int = 0

    def kernel_arguments(self, place: int) -> dict:
        """Arguments of a layer with a kernel.

        Args:
          place: index of the layer in the network (count).

        Returns:
          The initialiser (Glorot uniform, as in Keras and in the ancestor) and the regulariser.
        """
        return {
            "kernel_initializer": keras.initializers.GlorotUniform(seed=self.seed * 1_000 + place),
            "kernel_regularizer": keras.regularizers.L2(self.weight_decay) if self.weight_decay else None,
        }

    def dense(self, place: int, units: int, name: str, *, last: bool = False) -> list[keras.Layer]:
        """A dense layer, and its batch normalisation unless it is the last one."""
        layer = keras.layers.Dense(
            units, activation=None if last else self.activation, name=name, **self.kernel_arguments(place)
        )
        return [layer] if last else [layer, *self.norm(name)]

    def norm(self, name: str) -> list[keras.Layer]:
        """A batch normalisation after the layer of that name, where the style asks for it."""
        return [keras.layers.BatchNormalization(name=f"{name}_norm")] if self.use_batch_norm else []


def dense_stack(style: Style, widths: Sequence[int], num_classes: int, first_place: int = 0) -> list[keras.Layer]:
    """Dense layers `dense1`, `dense2`, ... of the given widths (units), then the layer of the logits."""
    layers: list[keras.Layer] = []
    for index, width in enumerate([*widths, num_classes]):
        last = index == len(widths)
        layers += style.dense(first_place + index, width, f"dense{index + 1}", last=last)
    return layers
