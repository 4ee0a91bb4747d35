"""Models as chains of piecewise linear layers, and the maps of these layers at a batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from sparse_lib._keras import layer_types
from sparse_lib._keras.graph import NoChainError, graph, is_graph
from sparse_lib._keras.patches import exact_derivatives
from sparse_lib.curvature.exact.coordinates import Coordinates
from sparse_lib.curvature.exact.linear_maps import Linear, Map, Slope, max_pool
from sparse_lib.curvature.exact.weighted_layers import Conv, Dense, Norm
from sparse_lib.curvature.subspace import Subspace
from sparse_lib.objective import Objective, cross_entropy

_LAYERS = keras.layers
_LINEAR = (_LAYERS.AveragePooling2D, _LAYERS.Flatten, _LAYERS.GlobalAveragePooling2D, _LAYERS.ZeroPadding2D)
_WEIGHTS = {_LAYERS.Dense: Dense, _LAYERS.Conv2D: Conv, _LAYERS.BatchNormalization: Norm}


@dataclass(frozen=True)
class Chain:
    """A model as a chain of maps.

    Attributes:
      model: the model.
      prefix: layers below the first with coordinates, which are not differentiated.
      stages: constructors of the maps from their inputs, from the first layer with coordinates to the logits.
      coordinates: of each layer that has any, in the order of the chain.
    """

    model: keras.Model
    prefix: tuple[keras.Layer, ...]
    stages: tuple[Callable[[tf.Tensor], Map], ...]
    coordinates: tuple[Coordinates, ...]

    @classmethod
    def of(cls, objective: Objective, subspace: Subspace, x: Any, *, training: bool = False) -> "Chain":
        """Reads the chain of a model.

        Args:
          objective: a model with softmax cross-entropy.
          subspace: the coordinates.
          x: any batch of inputs, for its shape.
          training: whether layers behave as in training.

        Returns:
          The chain.

        Raises:
          NoChainError: if the model, the loss or the mode is not supported; the message names the reason.
        """
        model = objective.model
        if objective.loss not in (None, cross_entropy):
            raise NoChainError("the loss is not objective.cross_entropy")
        layers = _layers_in_order(model)
        if not tf.is_tensor(x) or x.shape.rank != len(model.input_shape):
            raise NoChainError("the inputs are not one tensor of the rank that the model takes")
        if training and any(
            isinstance(layer, (*layer_types.IDENTITIES, _LAYERS.BatchNormalization)) for layer in layers
        ):
            raise NoChainError("layers behave as in training")
        chosen = [_coordinates(layer, model, subspace) for layer in layers]
        first = next((i for i, at in enumerate(chosen) if at is not None and at.size), None)
        found = [at for at in chosen if at is not None and at.size]
        if first is None or sum(at.size for at in found) != subspace.size:
            raise NoChainError("a layer of another kind than Dense, Conv2D and BatchNormalization has coordinates")
        stages = [s for layer, at in zip(layers[first:], chosen[first:], strict=True) for s in _stages(layer, at)]
        return cls(model, tuple(layers[:first]), tuple(stages), tuple(found))

    @property
    def where(self) -> np.ndarray:
        """Position of each coordinate in the vector of the subspace, in the order of the chain, [n]."""
        return np.concatenate([at.where for at in self.coordinates])

    @property
    def rows(self) -> list[tuple[int, int]]:
        """Range of coordinates, [start, stop), of each layer that has any."""
        ends = list(accumulate((at.size for at in self.coordinates), initial=0))
        return list(pairwise(ends))

    def maps(self, params: Sequence[tf.Tensor], x: tf.Tensor) -> list[Map]:
        """Computes the maps at a batch; the last one outputs the logits.

        Args:
          params: trainable values, in the order of `model.trainable_variables`.
          x: inputs of the model.

        Returns:
          One map per stage, in the dtype of the model.

        Raises:
          NoChainError: if the input of a layer has an unsupported shape.
        """
        values = list(zip(self.model.trainable_variables, params, strict=True))
        maps: list[Map] = []
        x = tf.cast(x, self.model.inputs[0].dtype)
        with exact_derivatives(), keras.StatelessScope(state_mapping=values):
            for layer in self.prefix:
                x = layer(x, training=False)
            for stage in self.stages:
                maps.append(stage(x))
                x = maps[-1].outputs
        return maps


def _layers_in_order(model: keras.Model) -> list[keras.Layer]:
    """The layers from input to output, nested models opened.

    Raises:
      NoChainError: if they do not follow one another.
    """
    if not is_graph(model):
        raise NoChainError(f"model {model.name!r} is neither sequential nor functional")
    return [call.layer for call in graph(model).chain()]


def _coordinates(layer: keras.Layer, model: keras.Model, subspace: Subspace) -> Coordinates | None:
    """The coordinates of a layer with weights, None for other types of layers."""
    if type(layer) not in _WEIGHTS:
        return None
    return Coordinates.of(layer, model.trainable_variables, subspace)


def _stages(layer: keras.Layer, coordinates: Coordinates | None) -> list[Callable[[tf.Tensor], Map]]:
    """Constructors of the maps of a layer and of its activation.

    Raises:
      NoChainError: if the layer is not known to be piecewise linear.
    """
    kind = type(layer)
    if kind in layer_types.IDENTITIES:
        return []
    if kind in layer_types.ELEMENTWISE_LAYERS and layer_types.is_piecewise_linear(layer):
        return [partial(Slope, layer)]
    if kind in _LINEAR and layer_types.is_channels_last(layer):
        return [partial(Linear, layer)]
    if kind is _LAYERS.MaxPooling2D and layer_types.is_channels_last(layer):
        return [partial(max_pool, layer)]
    if kind is _LAYERS.Activation:
        return _activation(layer)
    if coordinates is None or not (layer_types.is_plain(layer) and layer_types.is_channels_last(layer)):
        raise NoChainError(f"layer {layer.name!r} of type {kind.__name__} is not piecewise linear in a known way")
    return [partial(_WEIGHTS[kind], layer, coordinates), *_activation(layer)]


def _activation(layer: keras.Layer) -> list[Callable[[tf.Tensor], Map]]:
    function = getattr(layer, "activation", None)
    if not layer_types.is_piecewise_linear(function):
        raise NoChainError(f"the activation of layer {layer.name!r} is not piecewise linear in a known way")
    return [] if layer_types.is_linear(function) else [partial(Slope, function)]
