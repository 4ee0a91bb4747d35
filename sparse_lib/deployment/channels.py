"""Removal of dead channels: a smaller dense model with the same outputs."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from sparse_lib._keras.graph import Call, Graph, graph, rebuild
from sparse_lib._utils.errors import InputError
from sparse_lib._utils.tables import text_table
from sparse_lib.deployment.rules import Constants, Rule, intersect, no_constants, rule


@dataclass(frozen=True, eq=False)
class Compacted:
    """A model without its dead channels.

    Attributes:
      model: a plain Keras model, not compiled.
      widths: output channels before and after, of each layer that lost some (count); by the name of the layer, by its
        path where names repeat.
      parameters: weights of the whole model before and after (count).
    """

    model: keras.Model
    widths: Mapping[str, tuple[int, int]]
    parameters: tuple[int, int]

    def report(self) -> str:
        """Formats a table: layer, output channels before and after."""
        rows = [(name, *both) for name, both in self.widths.items()] + [("parameters", *self.parameters)]
        header = ("layer", f"{'channels':>11}", f"{'kept':>11}")
        return text_table([header], [(name, f"{before:,}", f"{after:,}") for name, before, after in rows])


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
    plan = _Plan(graph(model))
    fresh: list[tuple[Any, Any]] = []

    def replace(layer: Any) -> Any:
        made = _recreate(layer, plan.config(layer))
        fresh.append((layer, made))
        return made

    smaller = rebuild(model, replace)
    for layer, made in fresh:
        if isinstance(layer, keras.Layer) and layer.weights:
            made.set_weights(plan.weights(layer))
    return Compacted(smaller, plan.widths(), (model.count_params(), smaller.count_params()))


def _recreate(layer: Any, changes: Mapping[str, Any]) -> Any:
    try:
        return type(layer).from_config({**layer.get_config(), **changes})
    except (NotImplementedError, TypeError) as error:
        raise InputError(
            f"Layer {layer.name!r} of type {type(layer).__name__} cannot be made from its configuration: give it "
            "get_config() and from_config()."
        ) from error


class _Plan:
    """The channels to keep of every tensor.

    The channels of all tensors are numbered consecutively. Channels that can only be removed together form a group; a
    group is dropped if none of its channels is needed.
    """

    def __init__(self, found: Graph) -> None:
        self.calls: dict[int, list[tuple[Call, Rule]]] = defaultdict(list)
        # A tensor with an unknown number of channels counts as one channel.
        self.sizes = [shape[-1] if shape and shape[-1] else 1 for shape in found.shapes]
        starts = np.cumsum([0, *self.sizes])
        self.ids = [np.arange(*ends) for ends in itertools.pairwise(starts)]
        self.constants = [no_constants(size) for size in self.sizes]
        self.fixed = np.zeros(starts[-1], bool)
        for call in found.calls:
            self._add(call, found)
        for tensor in found.boundary():
            self.fixed[self.ids[tensor]] = True
        self.groups = self._group_channels()
        self.kept = self._choose_kept()

    def _add(self, call: Call, found: Graph) -> None:
        shapes = [found.shapes[tensor] for tensor in call.inputs]
        is_simple = call.is_plain and len(call.outputs) == 1
        its = rule(call.layer, shapes, found.shapes[call.outputs[0]]) if is_simple else Rule(call.layer)
        if its.sized and not call.layer.weights and found.times_called(call.layer) > 1:
            # A reshape has one target shape for all its calls, whatever their inputs.
            its = Rule(call.layer)
        self.calls[id(call.layer)].append((call, its))
        for tensor in call.outputs:
            self.constants[tensor] = its.constants([self.constants[i] for i in call.inputs], self.sizes[tensor])
            if not its.makes:
                self.fixed[self.ids[tensor]] = True

    def _group_channels(self) -> np.ndarray:
        """Numbers the groups of channels; returns the group of every channel."""
        pairs = [(np.zeros(0, int), np.zeros(0, int))]
        for calls in self.calls.values():
            for call, its in calls:
                pairs += its.ties([self.ids[i] for i in call.inputs], self.ids[call.outputs[0]])
            first = calls[0][0]
            # All calls of a layer share its kernel.
            for call, _ in calls[1:] if calls[0][1].sized else ():
                both = zip((*first.inputs, *first.outputs), (*call.inputs, *call.outputs), strict=True)
                pairs += [(self.ids[a], self.ids[b]) for a, b in both]
        one, other = (np.concatenate(side) for side in zip(*pairs, strict=True))
        size = len(self.fixed)
        return connected_components(coo_matrix((np.ones(len(one)), (one, other)), (size, size)), directed=False)[1]

    def _choose_kept(self) -> np.ndarray:
        """Drops as many groups as possible; a tensor that would lose all its channels keeps the first."""
        fixed = self.fixed.copy()
        while True:
            kept = self._drop_unneeded(fixed)
            empty = [ids[0] for ids in self.ids if not kept[ids].any()]
            if not empty:
                return kept
            fixed[empty] = True

    def _drop_unneeded(self, fixed: np.ndarray) -> np.ndarray:
        kept = np.ones_like(fixed)
        while True:
            needed = fixed.copy()
            for calls in self.calls.values():
                for call, its in calls:
                    constants = self._common_constants(calls) if its.sized else [self.constants[i] for i in call.inputs]
                    dropped = ~kept[self.ids[call.outputs[0]]]
                    for tensor, need in zip(call.inputs, its.needs(constants, dropped), strict=True):
                        needed[self.ids[tensor]] |= need
            of_groups = np.zeros(self.groups.max() + 1, bool)
            of_groups[self.groups[needed]] = True
            following = of_groups[self.groups]
            if (following == kept).all():
                return kept
            kept = following

    def _common_constants(self, calls: Sequence[tuple[Call, Rule]]) -> list[Constants]:
        """Constants of each input of a layer that hold in all its calls."""
        by_input = zip(*(call.inputs for call, _ in calls), strict=True)
        return [intersect([self.constants[tensor] for tensor in tensors]) for tensors in by_input]

    def _sides(self, layer: Any) -> tuple[Rule, np.ndarray, np.ndarray, Constants] | None:
        calls = self.calls.get(id(layer))
        if not calls or len(calls[0][0].inputs) != 1:
            return None
        call, its = calls[0]
        kept_inputs, kept = (self.kept[self.ids[tensor]] for tensor in (call.inputs[0], call.outputs[0]))
        return its, kept_inputs, kept, self._common_constants(calls if its.sized else calls[:1])[0]

    def config(self, layer: Any) -> dict[str, Any]:
        """Changes to the configuration of a layer."""
        sides = self._sides(layer)
        return sides[0].config(*sides[1:]) if sides else {}

    def weights(self, layer: Any) -> list[np.ndarray]:
        """The weights of a layer restricted to kept channels."""
        sides = self._sides(layer)
        return sides[0].weights(*sides[1:]) if sides else layer.get_weights()

    def widths(self) -> dict[str, tuple[int, int]]:
        """Output channels before and after, of the layers with weights that lost some."""
        firsts = [calls[0][0] for calls in self.calls.values()]
        named = Counter(call.layer.name for call in firsts)
        found = {}
        for call in firsts:
            kept = self.kept[self.ids[call.outputs[0]]]
            if getattr(call.layer, "weights", None) and not kept.all():
                name = call.layer.name if named[call.layer.name] == 1 else call.layer.path
                found[name] = (len(kept), int(kept.sum()))
        return found
