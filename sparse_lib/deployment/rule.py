"""What the removal of channels has to know of a layer.

The channels of a tensor are the entries of its last axis. A channel is constant if it has the same value at every
position for every input.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np

Masks: TypeAlias = Sequence[np.ndarray]
Pairs = tuple[np.ndarray, np.ndarray]


class Constants(NamedTuple):
    """Which channels of a tensor are constant.

    Attributes:
      known: booleans [channels], true for constant channels.
      values: floats [channels], 0 for all others.
    """

    known: np.ndarray
    values: np.ndarray


def no_constants(width: int) -> Constants:
    """Constants of a tensor without any known constant channel."""
    return Constants(np.zeros(width, bool), np.zeros(width))


def intersect(several: Sequence[Constants]) -> Constants:
    """Channels that are constant with the same value in every call of a layer."""
    first, *others = several
    known = first.known.copy()
    for other in others:
        known &= other.known & (other.values == first.values)
    return Constants(known, np.where(known, first.values, 0.0))


class Rule:
    """A barrier: reads all its input channels and keeps all its output channels.

    Attributes:
      layer: the layer or operation.
      reads_all: whether all its input channels have to stay, whatever its weights.
      makes: whether the layer allows the removal of its output channels.
      sized: whether weights or settings of the layer depend on its number of channels.
    """

    reads_all = True
    makes = False
    sized = False

    def __init__(self, layer: Any) -> None:
        """Reads the weights of a layer."""
        self.layer = layer

    def constants(self, inputs: Sequence[Constants], width: int) -> Constants:
        """Constants among the `width` output channels."""
        del inputs
        return no_constants(width)

    def ties(self, inputs: Sequence[np.ndarray], output: np.ndarray) -> list[Pairs]:
        """Pairs of channels that can only be removed together."""
        del inputs, output
        return []

    def needs(self, inputs: Sequence[Constants], dropped: np.ndarray) -> list[np.ndarray]:
        """The input channels that are still read after some output channels are dropped."""
        del dropped
        return [np.ones_like(each.known) for each in inputs]

    def config(self, kept_inputs: Masks, kept: np.ndarray, inputs: Sequence[Constants]) -> dict[str, Any]:
        """Changes to the layer's configuration."""
        del kept_inputs, kept, inputs
        return {}

    def weights(self, kept_inputs: Masks, kept: np.ndarray, inputs: Sequence[Constants]) -> list[np.ndarray]:
        """The weights of the layer restricted to kept channels."""
        del kept_inputs, kept, inputs
        return self.layer.get_weights() if isinstance(self.layer, keras.Layer) else []

    def heads(self, kept: np.ndarray, inputs: Sequence[Constants]) -> np.ndarray:
        """Which attention heads are kept, given the kept output channels; none for other layers."""
        del kept, inputs
        return np.zeros(0, bool)

    def clear(self, weights: Sequence[np.ndarray], channels: np.ndarray) -> list[np.ndarray]:
        """Weights of the layer with those zero that make some output channels, booleans."""
        return [np.where(channels, 0, weight).astype(weight.dtype) for weight in weights]

    def sizes(self) -> np.ndarray:
        """Squared norms of the weights that make each output channel."""
        return np.sum([np.sum(np.square(w.reshape(-1, w.shape[-1])), axis=0) for w in self._makers()], axis=0)

    def _makers(self) -> list[np.ndarray]:
        """Weights, output channels last, by which the channels are ranked."""
        return self.layer.get_weights()[:1]
