"""Reads checkpoints of the published code of the RigL paper (google-research/rigl, TensorFlow 1).

Names and conventions are those of its graphs. Its networks compute with the kernel `weights * mask`: the stored
weights are not zero where the mask is.
"""

import itertools
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from sparse_lib.experiment.runtime.errors import RunError

# Present in checkpoints of TensorFlow 2 only.
_OBJECTS = "_CHECKPOINTABLE_OBJECT_GRAPH"
_KERNELS = ("weights", "kernel", "depthwise_weights")
_BIASES = ("biases", "bias")
_NORM = ("gamma", "beta", "moving_mean", "moving_variance")
# Training state: counters, slots, thresholds of another pruning method, averages of gradients.
_IGNORED = re.compile(
    r"(^|/)(global_step|last_mask_update_step|is_snipped|threshold|Momentum|ExponentialMovingAverage)$"
)
_MAX_LISTED = 5


class _Layer(NamedTuple):
    """A published layer with our names of the layer and its batch normalisation, in the order of the graph.

    Published normalisation layers are numbered in that order.
    """

    published: str | None
    ours: str | None
    norm: str | None = None


def prefix(path: str | os.PathLike[str]) -> str | None:
    """Finds a published checkpoint.

    Args:
      path: prefix of a checkpoint (`DIR/model.ckpt-32000`), one of its files, or its folder.

    Returns:
      The prefix; None without a checkpoint, or for a checkpoint of this suite.
    """
    text = re.sub(r"(\.index|\.data-\d+-of-\d+)$", "", str(path))
    if pathlib.Path(text).is_dir():
        text = tf.train.latest_checkpoint(text) or ""
    if not text or not pathlib.Path(f"{text}.index").exists():
        return None
    try:
        return None if tf.train.load_checkpoint(text).has_tensor(_OBJECTS) else text
    except (tf.errors.OpError, ValueError, IndexError):
        # The next reader reports the damage.
        return None


class PublishedCheckpoint:
    """Weights, masks and batch-norm statistics of a published checkpoint, under the names of our networks."""

    def __init__(self, path: str) -> None:
        """Opens a checkpoint and identifies its network.

        Args:
          path: prefix, from the function `prefix`.

        Raises:
          RunError: if it does not belong to a published network.
        """
        self._path = path
        self._reader = tf.train.load_checkpoint(path)
        self._shapes = {
            name: tuple(shape)
            for name, shape in self._reader.get_variable_to_shape_map().items()
            if not _IGNORED.search(name)
        }
        # Our variable -> published variable, and our kernel -> published mask.
        self._names: dict[str, str] = {}
        self._masks: dict[str, str] = {}
        self._map_names(*self._parse_names())

    def _parse_names(self) -> tuple[str, dict[str, dict[str, str]]]:
        """Returns the scope, and the variables of each layer in it by kind; layers without masks repeat their name."""
        scope = next((s for s in _LAYERS if any(name.startswith(f"{s}/") for name in self._shapes)), None)
        if scope is None:
            raise RunError(f"Checkpoint {self._path} is of none of the published networks ({', '.join(_LAYERS)}).")
        layers: dict[str, dict[str, str]] = {}
        for name in self._shapes:
            inside, _, kind = name.removeprefix(f"{scope}/").rpartition("/")
            layer = re.sub(r"(^|/)([^/]+)/\2$", r"\1\2", inside)
            layers.setdefault(layer, {})[kind] = name
        return scope, layers

    def _map_names(self, scope: str, layers: Mapping[str, Mapping[str, str]]) -> None:
        norms = itertools.chain(["batch_normalization"], (f"batch_normalization_{k}" for k in itertools.count(1)))
        for layer in _LAYERS[scope](layers):
            if layer.ours is not None:
                found = layers.get(layer.published or "", {})
                for kind, names in (("kernel", _KERNELS), ("bias", _BIASES)):
                    self._names |= {f"{layer.ours}/{kind}": found[name] for name in names if name in found}
                if "mask" in found:
                    self._masks[f"{layer.ours}/kernel"] = found["mask"]
            if layer.norm is not None:
                found = layers.get(next(norms), {})
                self._names |= {f"{layer.norm}/{kind}": found[kind] for kind in _NORM if kind in found}

    def load(self, model: keras.Model) -> None:
        """Loads weights, zero where masked, and statistics into a network.

        Args:
          model: the network; its random state is not in the checkpoint and does not change.

        Raises:
          RunError: lists the variables without a counterpart.
        """
        variables = {v.path: v for v in model.variables if v.dtype.startswith("float")}
        self._check({path: tuple(v.shape) for path, v in variables.items()}, model.name)
        for path, variable in variables.items():
            value = self._reader.get_tensor(self._names[path])
            variable.assign(np.where(self._mask(path), value, 0) if path in self._masks else value)

    def masks(self, model: keras.Model, kernels: Sequence[str]) -> dict[str, np.ndarray]:
        """Reads the masks of kernels.

        Args:
          model: the network.
          kernels: names of the kernels.

        Returns:
          Boolean mask by name, all True for a kernel that the published code left dense.

        Raises:
          RunError: lists the variables without a counterpart.
        """
        self._check({v.path: tuple(v.shape) for v in model.variables if v.dtype.startswith("float")}, model.name)
        lost = [name for name in self._masks if name not in kernels]
        if lost:
            raise RunError(
                f"Checkpoint {self._path} does not fit {model.name}: {_list_first(lost)} would lose their masks."
            )
        return {name: self._mask(name) for name in kernels}

    def _mask(self, kernel: str) -> np.ndarray:
        if kernel not in self._masks:
            return np.ones(self._shapes[self._names[kernel]], bool)
        return self._reader.get_tensor(self._masks[kernel]) != 0

    def _check(self, wanted: Mapping[str, tuple[int, ...]], network: str) -> None:
        used = {*self._names.values(), *self._masks.values()}
        problems = [f"{name} is missing" for name in wanted if name not in self._names]
        problems += [f"{name} is not in the network" for name in sorted(self._shapes) if name not in used]
        for name, published in self._names.items():
            if name not in wanted:
                problems.append(f"{published} is not in the network")
            elif self._shapes[published] != wanted[name]:
                problems.append(f"{published} has shape {self._shapes[published]}, not {wanted[name]}")
        if problems:
            raise RunError(f"Checkpoint {self._path} does not fit {network}: {_list_first(problems, '; ')}.")


def _list_first(items: Sequence[str], separator: str = ", ") -> str:
    rest = f" and {len(items) - _MAX_LISTED} more" if len(items) > _MAX_LISTED else ""
    return separator.join(items[:_MAX_LISTED]) + rest


def _resnet_model(layers: Mapping[str, Mapping[str, str]]) -> Iterator[_Layer]:
    """Lists the layers of the networks that share a scope: ResNet-50, MobileNets, wide residual networks of CIFAR."""
    if "logits" in layers:
        return _wide_resnet(layers)
    return _mobilenet(layers) if "depthwise_nxn_0" in layers else _resnet(layers)


def _resnet(layers: Mapping[str, Mapping[str, str]]) -> Iterator[_Layer]:
    yield _Layer("initial_conv", "stem", "stem_norm")
    for group in itertools.count(1):
        if f"bottleneck_1_block_group_projection_block_group{group}" not in layers:
            break
        for block in itertools.count():
            place = f"block_group{group}_{block}_1" if block else f"block_group_projection_block_group{group}"
            if f"bottleneck_1_{place}" not in layers:
                break
            name = f"group{group}_block{block}"
            if not block:
                yield _Layer(f"bottleneck_projection_{place}", f"{name}_shortcut", f"{name}_shortcut_norm")
            yield _Layer(f"bottleneck_1_{place}", f"{name}_conv1", f"{name}_conv1_norm")
            yield _Layer(f"bottleneck_2_{place}", f"{name}_conv2", f"{name}_conv2_norm")
            yield _Layer(f"bottleneck_3_{place}", f"{name}_conv3", f"{name}_last_norm")
    yield _Layer("final_dense", "logits")


def _mobilenet(layers: Mapping[str, Mapping[str, str]]) -> Iterator[_Layer]:
    yield _Layer("initial_conv", "stem", "stem_norm")
    for index in itertools.count():
        if f"depthwise_nxn_{index}" not in layers:
            break
        parts = {"expand_1x1": "expansion", "depthwise_nxn": "depthwise", "contraction_1x1": "contraction"}
        for published, part in parts.items():
            name = f"block{index}_{part}"
            if f"{published}_{index}" in layers:
                yield _Layer(f"{published}_{index}", name, f"{name}_norm")
    if "final_1x1_conv" in layers:
        yield _Layer("final_1x1_conv", "last", "last_norm")
    yield _Layer("final_dense", "logits")


def _wide_resnet(layers: Mapping[str, Mapping[str, str]]) -> Iterator[_Layer]:
    yield _Layer("conv_1", "stem")
    for group in (2, 3, 4):
        for block in itertools.count():
            if f"conv_{group}_{block}_1" not in layers:
                break
            name = f"group{group - 1}_block{block}"
            yield _Layer(None, None, f"{name}_pre1_norm")
            if not block and f"skip_conv_{group}" in layers:
                yield _Layer(f"skip_conv_{group}", f"{name}_shortcut")
            yield _Layer(f"conv_{group}_{block}_1", f"{name}_conv1", f"{name}_pre2_norm")
            yield _Layer(f"conv_{group}_{block}_2", f"{name}_conv2")
    yield _Layer(None, None, "last_norm")
    yield _Layer("logits", "logits")


def _vgg16(layers: Mapping[str, Mapping[str, str]]) -> Iterator[_Layer]:
    for layer in layers:
        if match := re.fullmatch(r"conv\d/(conv\d_\d)", layer):
            yield _Layer(layer, match.group(1))
    yield _Layer("fc8", "logits")


_LAYERS: dict[str, Callable[[Mapping[str, Mapping[str, str]]], Iterator[_Layer]]] = {
    "resnet_model": _resnet_model,
    "vgg_16": _vgg16,
}
