"""What `lenet5.*`, `resnet.*` and the like say: the sizes of each network."""

import abc
import dataclasses
from collections.abc import Sequence
from typing import Literal, Self

import keras

from sparse_lib.experiment import networks
from sparse_lib.experiment.networks.common import Style
from sparse_lib.experiment.runtime.errors import SettingError
from sparse_lib.experiment.settings import Settings


class Sizes(Settings, abc.ABC):
    """Base of the sizes of a network, which bears the name of the settings."""

    @abc.abstractmethod
    def build(self, input_shape: Sequence[int], num_classes: int, style: Style) -> keras.Model:
        """Builds the network with its dense initial weights.

        Args:
          input_shape: height, width, channels (pixels).
          num_classes: number of logits (count).
          style: activation, regulariser and seed.

        Returns:
          The network.
        """

    @abc.abstractmethod
    def scaled(self, width: float) -> Self:
        """The same network with other widths.

        Args:
          width: factor on the channels and units of all hidden layers.

        Returns:
          The sizes.
        """


class _Layered(Sizes):
    """Sizes that name the width of each hidden layer."""

    hidden_sizes: Sequence[int]

    def scaled(self, width: float) -> Self:
        """The same network with other widths, rounded down, at least 1."""
        narrowed = tuple(max(1, int(size * width)) for size in self.hidden_sizes)
        return dataclasses.replace(self, hidden_sizes=narrowed)  # type: ignore[type-var]


class _Multiplied(Sizes):
    """Sizes with a factor on all widths."""

    width: float

    def __post_init__(self) -> None:
        """Checks the width.

        Raises:
          SettingError: unless it is above 0.
        """
        super().__post_init__()
        self.require(self.width > 0, "width", "must be above 0")

    def scaled(self, width: float) -> Self:
        """The same network with other widths."""
        return dataclasses.replace(self, width=self.width * width)  # type: ignore[type-var]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeNet5Settings(_Layered, name="lenet5"):
    """LeNet5: channels of its convolutions and widths of its dense layers, and whether batch normalisation follows."""

    hidden_sizes: Sequence[int] = (6, 16, 120, 84)
    use_batch_norm: bool = False

    def build(self, input_shape: Sequence[int], num_classes: int, style: Style) -> keras.Model:
        """Builds LeNet5."""
        normed = dataclasses.replace(style, use_batch_norm=self.use_batch_norm)
        return networks.lenet5(input_shape, num_classes, normed, self.hidden_sizes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MLPSettings(_Layered, name="mlp"):
    """The MLP: widths of its hidden layers, and whether batch normalisation follows."""

    hidden_sizes: Sequence[int] = (300, 100)
    use_batch_norm: bool = False

    def build(self, input_shape: Sequence[int], num_classes: int, style: Style) -> keras.Model:
        """Builds the MLP."""
        normed = dataclasses.replace(style, use_batch_norm=self.use_batch_norm)
        return networks.mlp(input_shape, num_classes, normed, self.hidden_sizes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WideResNetSettings(_Multiplied, name="wide_resnet"):
    """The wide residual network, WRN-22-2 unless told otherwise."""

    depth: int = 22
    width: float = 2.0
    dropout: float = 0.3

    def build(self, input_shape: Sequence[int], num_classes: int, style: Style) -> keras.Model:
        """Builds the wide residual network."""
        return networks.wide_resnet(
            input_shape, num_classes, style, depth=self.depth, width=self.width, dropout=self.dropout
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNetSettings(_Multiplied, name="resnet"):
    """The residual networks, ResNet-50 unless told otherwise."""

    depth: int = 50
    width: float = 1.0
    stem: Literal["imagenet", "cifar"] | None = None
    version: Literal["v1", "v1.5"] = "v1.5"
    zero_gamma: bool = True

    def build(self, input_shape: Sequence[int], num_classes: int, style: Style) -> keras.Model:
        """Builds the residual network."""
        return networks.resnet(
            input_shape,
            num_classes,
            style,
            depth=self.depth,
            width=self.width,
            stem=self.stem,
            version=self.version,
            zero_gamma=self.zero_gamma,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class VGG16Settings(_Multiplied, name="vgg16"):
    """VGG16, with or without batch normalisation."""

    width: float = 1.0
    classifier: Literal["dense", "pooled"] = "dense"
    dropout: float = 0.5
    use_batch_norm: bool = False

    def build(self, input_shape: Sequence[int], num_classes: int, style: Style) -> keras.Model:
        """Builds VGG16."""
        normed = dataclasses.replace(style, use_batch_norm=self.use_batch_norm)
        return networks.vgg16(
            input_shape, num_classes, normed, width=self.width, classifier=self.classifier, dropout=self.dropout
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MobileNetSettings(_Multiplied, name="mobilenet"):
    """MobileNet, v1 unless told otherwise."""

    version: Literal[1, 2] = 1
    width: float = 1.0

    def build(self, input_shape: Sequence[int], num_classes: int, style: Style) -> keras.Model:
        """Builds MobileNet."""
        return networks.mobilenet(input_shape, num_classes, style, version=self.version, width=self.width)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTSettings(_Multiplied, name="vit"):
    """The vision transformer, ViT-Ti unless told otherwise."""

    patch_size: int = 16
    depth: int = 12
    heads: int = 3
    width: float = 1.0
    dropout: float = 0.0

    def build(self, input_shape: Sequence[int], num_classes: int, style: Style) -> keras.Model:
        """Builds the vision transformer."""
        return networks.vit(
            input_shape,
            num_classes,
            style,
            patch_size=self.patch_size,
            depth=self.depth,
            heads=self.heads,
            width=self.width,
            dropout=self.dropout,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class GRUSettings(_Multiplied, name="gru"):
    """The character model; in the suite it predicts the character after each example of a text."""

    width: float = 1.0

    def build(self, input_shape: Sequence[int], num_classes: int, style: Style) -> keras.Model:
        """Builds the character model."""
        return networks.gru(input_shape, num_classes, style, width=self.width)


@dataclasses.dataclass(frozen=True, kw_only=True)
class KerasModelSettings(Sizes, name="keras_model"):
    """A classifier that Keras has saved, with the weights that it has there.

    Attributes:
      path: of the model, `.keras`.
    """

    path: str = ""

    def build(self, input_shape: Sequence[int], num_classes: int, style: Style) -> keras.Model:
        """Loads the network."""
        return networks.keras_model(input_shape, num_classes, style, path=self.path)

    def scaled(self, width: float) -> Self:
        """Refuses: a saved network has the widths that it has."""
        del width
        raise SettingError("network.network_name='keras_model' has no widths to scale; choose a network of the suite.")


SIZES: dict[str, type[Sizes]] = {
    kind.config_name: kind
    for kind in (
        LeNet5Settings,
        MLPSettings,
        WideResNetSettings,
        ResNetSettings,
        VGG16Settings,
        MobileNetSettings,
        ViTSettings,
        GRUSettings,
        KerasModelSettings,
    )
}
