"""Removal of dead channels: a smaller dense model with the same outputs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import keras

from sparse_lib._keras.graph import graph, rebuild
from sparse_lib._utils.errors import InputError
from sparse_lib._utils.tables import text_table
from sparse_lib.deployment.plan import Plan


@dataclass(frozen=True, eq=False)
class Compacted:
    """A model without its dead channels.

    Attributes:
      model: a plain Keras model, not compiled.
      widths: output channels before and after, of each layer that lost some (count); by the name of the layer, by its
        path where names repeat.
      parameters: weights of the whole model before and after (count).
      heads: attention heads before and after, of each layer that lost some (count).
      remaining: for each layer with channels that are constant or that nothing uses, and that stay all the same: how
        many, and what keeps them.
    """

    model: keras.Model
    widths: Mapping[str, tuple[int, int]]
    parameters: tuple[int, int]
    heads: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    remaining: Mapping[str, str] = field(default_factory=dict)

    def report(self) -> str:
        """Formats a table: layer, output channels before and after; heads; and what could not be removed."""
        rows = [(name, *both) for name, both in self.widths.items()]
        rows += [(f"{name}, heads", *both) for name, both in self.heads.items()]
        rows += [("parameters", *self.parameters)]
        header = ("layer", f"{'channels':>11}", f"{'kept':>11}")
        table = text_table([header], [(name, f"{before:,}", f"{after:,}") for name, before, after in rows])
        if not self.remaining:
            return table
        lines = [f"  {name}: {reason}" for name, reason in self.remaining.items()]
        return "\n".join([table, "channels that do nothing and stay", *lines])


def remove_dead_channels(model: keras.Model) -> Compacted:
    """Removes units and channels that are constant or unread; the outputs stay the same.

    y = act(W x + b),  x_i = c for every input and position:  b <- b + W_i c, and row i of W is removed

    A channel is constant if all its nonzero weights are on constant channels; its value, the bias after normalization
    and activation, is folded into the bias of the next layer. A channel is unread if all weights on it are zero. Both
    are propagated through the whole graph: convolutions without groups, depthwise convolutions, batch normalization,
    activations, pooling, padding, flattening, concatenation, and sums and products, where a channel is removed from
    all branches or none. Zero padding makes a constant other than 0 vary at the borders, and its channel stays.
    Channels that reach any other layer, an output, a nested model or a layer called with further arguments stay; each
    layer keeps at least one.

    The outputs agree at inference, up to rounding; continued training differs, since batch norm sees fewer channels.

    Args:
      model: built, functional or sequential; it is not changed. The zeros of its kernels decide, not their masks.

    Returns:
      The smaller model with its widths.

    Raises:
      ValueError: if the model is subclassed or unbuilt, or a layer cannot be recreated from its configuration.

    Examples:
      >>> import keras
      >>> import tensorflow as tf
      >>> from sparse_lib import deployment
      >>> layers = [keras.layers.Dense(3, "relu", name="hidden"), keras.layers.Dense(2, name="logits")]
      >>> model = keras.Sequential([keras.Input((2,)), *layers])
      >>> kernel = tf.constant([[1.0, 0.0, 2.0], [3.0, 0.0, 4.0]])  # nothing feeds the second unit
      >>> layers[0].set_weights([kernel, tf.constant([0.0, 0.5, 0.0])])
      >>> deployment.remove_dead_channels(model).widths
      {'hidden': (3, 2)}
    """
    plan = Plan(graph(model))
    fresh: list[tuple[Any, Any]] = []

    def replace(layer: Any) -> Any:
        made = _recreate(layer, plan.config(layer))
        fresh.append((layer, made))
        return made

    smaller = rebuild(model, replace)
    for layer, made in fresh:
        if isinstance(layer, keras.Layer) and layer.weights:
            made.set_weights(plan.weights(layer))
    parameters = model.count_params(), smaller.count_params()
    return Compacted(smaller, plan.widths(), parameters, plan.heads(), plan.remaining())


def _recreate(layer: Any, changes: Mapping[str, Any]) -> Any:
    try:
        return type(layer).from_config({**layer.get_config(), **changes})
    except (NotImplementedError, TypeError) as error:
        raise InputError(
            f"Layer {layer.name!r} of type {type(layer).__name__} cannot be made from its configuration: give it "
            "get_config() and from_config()."
        ) from error
