"""Base of the networks: a network is a frozen dataclass of its sizes that builds the Keras model."""

import abc
import dataclasses
from collections.abc import Sequence
from typing import Annotated, Self

import keras

from sparse_lib.experiment.networks.common import Style
from sparse_lib.experiment.settings import Range, Settings, Size

# Factor on all widths.
Width = Annotated[float, Range(above=0, at_most=1_000)]
Depth = Annotated[int, Range(at_least=1, at_most=10_000)]


class Network(Settings, abc.ABC):
    """Sizes of a network, bound in gin under the name of the network, and the model of these sizes."""

    @property
    def label(self) -> str:
        """Name of the network in reports."""
        return type(self).__name__

    @abc.abstractmethod
    def build(self, input_shape: Sequence[int], num_classes: int, style: Style) -> keras.Model:
        """Builds the network with its dense initial weights.

        Args:
          input_shape: height, width, channels of an image (pixels).
          num_classes: number of logits (count).
          style: activation, regularizer, seed and kind of batch normalisation.

        Returns:
          The built network; it returns logits, [n, num_classes].

        Raises:
          InputError: if there is no such network for these images.
        """

    @abc.abstractmethod
    def scale_width(self, width: float) -> Self:
        """Scales the widths of all hidden layers.

        Args:
          width: factor on channels and units.

        Returns:
          The scaled network.
        """


class LayerwiseNetwork(Network):
    """A network whose sizes name the width of each hidden layer."""

    hidden_sizes: Sequence[Size]

    def scale_width(self, width: float) -> Self:
        """Scales each width, rounded down, to at least 1."""
        narrowed = tuple(max(1, int(size * width)) for size in self.hidden_sizes)
        return dataclasses.replace(self, hidden_sizes=narrowed)  # type: ignore[type-var]


class ScalableNetwork(Network):
    """A network with one factor on all of its widths."""

    width: Width

    def scale_width(self, width: float) -> Self:
        """Multiplies the width."""
        return dataclasses.replace(self, width=self.width * width)  # type: ignore[type-var]
