"""Base of the networks: a network is a frozen dataclass of its sizes that builds the Keras model."""

import abc
import dataclasses
from collections.abc import Sequence
from typing import Annotated, ClassVar, Self

import keras

from sparse_lib._utils.errors import InputError
from sparse_lib.experiment.networks.common import Style
from sparse_lib.experiment.settings import Range, Settings, Size

# Factor on all widths.
Width = Annotated[float, Range(above=0, at_most=1_000)]
Depth = Annotated[int, Range(at_least=1, at_most=10_000)]


class Network(Settings, abc.ABC):
    """Sizes of a network, bound in gin under the name of the network, and the model of these sizes.

    Attributes:
      input_axes: of an example: 3 of an image, 2 of a sequence; None if the network takes both (count).
    """

    input_axes: ClassVar[int | None] = 3

    @property
    def label(self) -> str:
        """Name of the network in reports."""
        return type(self).__name__

    @abc.abstractmethod
    def build(self, input_shape: Sequence[int], num_classes: int, style: Style) -> keras.Model:
        """Builds the network with its dense initial weights.

        Args:
          input_shape: height, width, channels of an image (pixels), or length and channels of a sequence.
          num_classes: number of logits (count).
          style: activation, regularizer, seed and kind of batch normalisation.

        Returns:
          The built network; it returns logits, [n, num_classes].

        Raises:
          InputError: if there is no such network for these images.
        """

    def check_input(self, input_shape: Sequence[int]) -> None:
        """Checks the kind of the examples.

        Args:
          input_shape: of an example.

        Raises:
          InputError: if the network takes images and these are sequences, or the other way round.
        """
        if self.input_axes not in (None, len(input_shape)):
            kind = "images [height, width, channels]" if self.input_axes == 3 else "sequences [length, channels]"
            raise InputError(
                f"The network '{self.config_name}' takes {kind}, and examples of the data set have the shape "
                f"{list(input_shape)}: choose another network.network_name or data.name."
            )

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
