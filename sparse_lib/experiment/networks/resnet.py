"""Residual networks for ImageNet and CIFAR."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import keras

from sparse_lib._utils.errors import InputError
from sparse_lib.experiment.networks.base import Depth, ScalableNetwork, Width
from sparse_lib.experiment.networks.common import Builder, Style

# Blocks of the four groups by depth (He et al. 2016, table 1), and whether they are bottlenecks.
_IMAGENET = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
    200: ((3, 24, 36, 3), True),
}
_LARGEST_SMALL_IMAGE = 64


class _Plan(NamedTuple):
    """Blocks of each group (count), channels of the first group, and the kind of block."""

    blocks: tuple[int, ...]
    channels: int
    bottleneck: bool
    projects: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNet(ScalableNetwork, name="resnet"):
    """ResNet-18, 34, 50, 101, 152 or 200, or the CIFAR networks ResNet-20, 32, 44, ... (He et al. 2016).

    ResNet-50 with 1,000 classes has 25,557,032 parameters and the geometry of the RigL paper's. The CIFAR networks have
    three groups of 16, 32 and 64 channels, and shortcuts without weights.

    Attributes:
      depth: weighted layers (count): 18, 34, 50, 101, 152, 200, or 6 n + 2 for a CIFAR network.
      width: factor on all channels.
      stem: `imagenet` is a 7x7 convolution of stride 2 and max-pooling, `cifar` a 3x3 convolution; None takes the
        latter for images of at most 64 pixels and in CIFAR networks.
      version: whether the 3x3 convolution of a bottleneck has its stride (`v1.5`, the RigL paper) or the first 1x1
        convolution (`v1`, He et al.); `v2` is v1.5 with pre-activation blocks (He et al. 2016, arXiv 1603.05027):
        normalisation and activation come before each convolution, and nothing follows the addition.
      zero_gamma: whether the last normalisation of each block starts from scale 0 (Goyal et al. 2017, section 5.1), so
        that blocks start as identities; True in the RigL paper. A block of `v2` ends with a convolution and has none.
    """

    depth: Depth = 50
    width: Width = 1.0
    stem: Literal["imagenet", "cifar"] | None = None
    version: Literal["v1", "v1.5", "v2"] = "v1.5"
    zero_gamma: bool = True

    def build(self, input_shape: Sequence[int], num_classes: int, style: Style) -> keras.Model:
        """Builds the residual network."""
        plan = _plan(self.depth)
        build = Builder(style, "lecun")
        inputs = keras.Input(tuple(input_shape))
        small = self.stem == "cifar" if self.stem else not plan.projects or max(input_shape[:2]) <= _LARGEST_SMALL_IMAGE
        is_v2 = self.version == "v2"
        x = _stem(build, inputs, max(1, int(plan.channels * self.width)), small=small, has_norm=not is_v2)
        for group, blocks in enumerate(plan.blocks, start=1):
            channels = max(1, int(plan.channels * 2 ** (group - 1) * self.width))
            for block in range(blocks):
                stride = 2 if group > 1 and block == 0 else 1
                name = f"group{group}_block{block}"
                if is_v2:
                    x = _preactivated_block(build, x, channels, stride, name, plan)
                else:
                    x = self._block(build, x, channels, stride, name, plan)
        if is_v2:
            x = build.norm_act(x, "last")
        x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
        initializer = keras.initializers.RandomNormal(stddev=0.01, seed=build.seed())
        return keras.Model(inputs, build.dense(x, num_classes, "logits", initializer), name="resnet")

    def _block(self, build: Builder, x: Any, channels: int, stride: int, name: str, plan: _Plan) -> Any:
        outputs = 4 * channels if plan.bottleneck else channels
        shortcut = _shortcut(build, x, outputs, stride, name, projects=plan.projects)
        if plan.bottleneck:
            y = _bottleneck(build, x, channels, stride, name, stride_first=self.version == "v1")
        else:
            y = _basic(build, x, channels, stride, name)
        y = build.norm(y, f"{name}_last_norm", zero_gamma=self.zero_gamma)
        return build.activation(keras.layers.Add(name=f"{name}_add")([y, shortcut]), f"{name}_act")


def _plan(depth: int) -> _Plan:
    if depth in _IMAGENET:
        blocks, bottleneck = _IMAGENET[depth]
        return _Plan(blocks, 64, bottleneck, projects=True)
    if depth < 8 or (depth - 2) % 6:
        raise InputError(f"resnet.depth is one of {', '.join(map(str, _IMAGENET))}, or 6 n + 2 for CIFAR; got {depth}.")
    return _Plan(((depth - 2) // 6,) * 3, 16, bottleneck=False, projects=False)


def _stem(build: Builder, x: Any, channels: int, *, small: bool, has_norm: bool) -> Any:
    size, stride = (3, 1) if small else (7, 2)
    x = build.conv(x, channels, size, "stem", stride=stride, explicit_padding=True)
    if has_norm:
        x = build.norm_act(x, "stem")
    if small:
        return x
    return keras.layers.MaxPooling2D(3, strides=2, padding="same", name="stem_pool")(x)


def _shortcut(build: Builder, x: Any, channels: int, stride: int, name: str, *, projects: bool) -> Any:
    if x.shape[-1] == channels and stride == 1:
        return x
    if not projects:
        return PaddedShortcut(channels, stride, name=f"{name}_shortcut")(x)
    y = build.conv(x, channels, 1, f"{name}_shortcut", stride=stride)
    return build.norm(y, f"{name}_shortcut_norm")


def _preactivated_block(build: Builder, x: Any, channels: int, stride: int, name: str, plan: _Plan) -> Any:
    """A block of He et al. 2016 (arXiv 1603.05027), figure 1b; a shortcut that changes shape takes the activation."""
    normed, outputs = build.norm_act(x, f"{name}_pre"), 4 * channels if plan.bottleneck else channels
    shortcut = x
    if stride > 1 or x.shape[-1] != outputs:
        if plan.projects:
            shortcut = build.conv(normed, outputs, 1, f"{name}_shortcut", stride=stride)
        else:
            shortcut = PaddedShortcut(outputs, stride, name=f"{name}_shortcut")(normed)
    block = functools.partial(_bottleneck, stride_first=False) if plan.bottleneck else _basic
    return keras.layers.Add(name=f"{name}_add")([block(build, normed, channels, stride, name), shortcut])


def _basic(build: Builder, x: Any, channels: int, stride: int, name: str) -> Any:
    y = build.conv(x, channels, 3, f"{name}_conv1", stride=stride, explicit_padding=True)
    return build.conv(build.norm_act(y, f"{name}_conv1"), channels, 3, f"{name}_conv2")


def _bottleneck(build: Builder, x: Any, channels: int, stride: int, name: str, *, stride_first: bool) -> Any:
    first, second = (stride, 1) if stride_first else (1, stride)
    y = build.norm_act(build.conv(x, channels, 1, f"{name}_conv1", stride=first), f"{name}_conv1")
    y = build.conv(y, channels, 3, f"{name}_conv2", stride=second, explicit_padding=True)
    return build.conv(build.norm_act(y, f"{name}_conv2"), 4 * channels, 1, f"{name}_conv3")


@keras.saving.register_keras_serializable("sparse_lib")
class PaddedShortcut(keras.layers.Layer):
    """A shortcut without weights: strided pixels, and zeros for the new channels (He et al. 2016, option A)."""

    def __init__(self, channels: int, stride: int, **kwargs: Any) -> None:
        """Stores the sizes.

        Args:
          channels: of the output, at least those of the input (count).
          stride: between the pixels that are kept (pixels).
          **kwargs: of `keras.layers.Layer`, such as its name.
        """
        super().__init__(**kwargs)
        self.channels, self.stride = channels, stride

    def call(self, inputs: Any) -> Any:
        """Subsamples and pads."""
        kept = inputs[:, :: self.stride, :: self.stride]
        return keras.ops.pad(kept, [[0, 0], [0, 0], [0, 0], [0, self.channels - inputs.shape[-1]]])

    def get_config(self) -> dict[str, Any]:
        """Arguments that rebuild the layer."""
        return {**super().get_config(), "channels": self.channels, "stride": self.stride}
