"""Removing channels that say nothing: a smaller dense model with the same outputs."""

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
from sparse_lib.deployment.rules import Constants, Rule, agreed, rule, unknown


@dataclass(frozen=True, eq=False)
class Compacted:
    """A model without the channels that said nothing.

    Attributes:
      model: a plain Keras model, not compiled.
      widths: output channels before and after of each layer that lost some, by its name; by its path where names
        repeat (count).
      parameters: weights of the whole model before and after (count).
    """

    model: keras.Model
    widths: Mapping[str, tuple[int, int]]
    parameters: tuple[int, int]

    def report(self) -> str:
        """A table: layer, output channels before and after."""
        rows = [(name, *both) for name, both in self.widths.items()] + [("parameters", *self.parameters)]
        header = ("layer", f"{'channels':>11}", f"{'kept':>11}")
        return text_table([header], [(name, f"{before:,}", f"{after:,}") for name, before, after in rows])


def remove_dead_channels(model: keras.Model) -> Compacted:
    """Removes units and channels that are constant or that nobody reads, and leaves the outputs as they are.

    y = act(W x + b),  x_i = c for every input and position:  b <- b + W_i c, and row i of W goes

    A channel is constant if its kernel has no weight that is not zero, or only on constant channels; what it emits,
    its bias through normalisation and activation, moves into the bias of the layer that reads it. A channel is
    unread if all weights on it are zero. Both are followed through the whole graph: convolutions (grouped ones
    excepted), depthwise convolutions, batch normalisation, activations, pooling, padding, flattening, concatenation,
    and sums and products, where a channel goes only if it can go from all branches. With zero padding a constant
    other than 0 is no constant at the borders, and its channel stays. Channels that reach any other layer, an output
    or a nested model stay; each layer keeps at least one.

    The outputs agree up to rounding, in inference: batch normalisation that trains sees fewer channels, too.

    Args:
      model: built, functional or sequential; it stays as it is. The zeros of its kernels count, not their masks.

    Returns:
      The smaller model and what was removed.

    Raises:
      ValueError: if the model is subclassed or unbuilt, or a layer cannot be made anew from its configuration.
    """
    plan = _Plan(graph(model))
    fresh: list[tuple[Any, Any]] = []

    def replace(layer: Any) -> Any:
        made = _made_anew(layer, plan.config(layer))
        fresh.append((layer, made))
        return made

    smaller = rebuild(model, replace)
    for layer, made in fresh:
        if isinstance(layer, keras.Layer) and layer.weights:
            made.set_weights(plan.weights(layer))
    return Compacted(smaller, plan.widths(), (model.count_params(), smaller.count_params()))


def _made_anew(layer: Any, changes: Mapping[str, Any]) -> Any:
    try:
        return type(layer).from_config({**layer.get_config(), **changes})
    except (NotImplementedError, TypeError) as error:
        raise InputError(
            f"Layer {layer.name!r} of type {type(layer).__name__} cannot be made from its configuration: give it "
            "get_config() and from_config()."
        ) from error


class _Plan:
    """Which channels of every tensor are kept.

    The channels of all tensors have consecutive numbers. Those that only go together form a group; a group is dropped
    if none of its channels is needed.
    """

    def __init__(self, found: Graph) -> None:
        self.calls: dict[int, list[tuple[Call, Rule]]] = defaultdict(list)
        # Only channels of a size that is known can be told apart.
        self.sizes = [shape[-1] if shape and shape[-1] else 1 for shape in found.shapes]
        starts = np.cumsum([0, *self.sizes])
        self.ids = [np.arange(*ends) for ends in itertools.pairwise(starts)]
        self.constants = [unknown(size) for size in self.sizes]
        self.fixed = np.zeros(starts[-1], bool)
        for call in found.calls:
            self._add(call, found)
        for tensor in found.boundary():
            self.fixed[self.ids[tensor]] = True
        self.groups = self._tied()
        self.kept = self._solved()

    def _add(self, call: Call, found: Graph) -> None:
        shapes = [found.shapes[tensor] for tensor in call.inputs]
        is_simple = call.is_plain and len(call.outputs) == 1
        its = rule(call.layer, shapes, found.shapes[call.outputs[0]]) if is_simple else Rule(call.layer)
        if its.sized and not call.layer.weights and found.times_called(call.layer) > 1:
            # A reshape has one size for all of its calls, which may be on tensors of any.
            its = Rule(call.layer)
        self.calls[id(call.layer)].append((call, its))
        for tensor in call.outputs:
            self.constants[tensor] = its.constants([self.constants[i] for i in call.inputs], self.sizes[tensor])
            if not its.makes:
                self.fixed[self.ids[tensor]] = True

    def _tied(self) -> np.ndarray:
        """The number of the group of every channel."""
        pairs = [(np.zeros(0, int), np.zeros(0, int))]
        for calls in self.calls.values():
            for call, its in calls:
                pairs += its.ties([self.ids[i] for i in call.inputs], self.ids[call.outputs[0]])
            first = calls[0][0]
            # A layer has one kernel for all of its calls.
            for call, _ in calls[1:] if calls[0][1].sized else ():
                both = zip((*first.inputs, *first.outputs), (*call.inputs, *call.outputs), strict=True)
                pairs += [(self.ids[a], self.ids[b]) for a, b in both]
        one, other = (np.concatenate(side) for side in zip(*pairs, strict=True))
        size = len(self.fixed)
        return connected_components(coo_matrix((np.ones(len(one)), (one, other)), (size, size)), directed=False)[1]

    def _solved(self) -> np.ndarray:
        """Drops groups until no more can go; a tensor that would lose all its channels keeps the first."""
        fixed = self.fixed.copy()
        while True:
            kept = self._dropped_from(fixed)
            empty = [ids[0] for ids in self.ids if not kept[ids].any()]
            if not empty:
                return kept
            fixed[empty] = True

    def _dropped_from(self, fixed: np.ndarray) -> np.ndarray:
        kept = np.ones_like(fixed)
        while True:
            needed = fixed.copy()
            for calls in self.calls.values():
                for call, its in calls:
                    constants = self._inputs(calls) if its.sized else [self.constants[i] for i in call.inputs]
                    dropped = ~kept[self.ids[call.outputs[0]]]
                    for tensor, need in zip(call.inputs, its.needs(constants, dropped), strict=True):
                        needed[self.ids[tensor]] |= need
            of_groups = np.zeros(self.groups.max() + 1, bool)
            of_groups[self.groups[needed]] = True
            following = of_groups[self.groups]
            if (following == kept).all():
                return kept
            kept = following

    def _inputs(self, calls: Sequence[tuple[Call, Rule]]) -> list[Constants]:
        """What is constant in each input of a layer, over all of its calls."""
        by_input = zip(*(call.inputs for call, _ in calls), strict=True)
        return [agreed([self.constants[tensor] for tensor in tensors]) for tensors in by_input]

    def _sides(self, layer: Any) -> tuple[Rule, np.ndarray, np.ndarray, Constants] | None:
        calls = self.calls.get(id(layer))
        if not calls or len(calls[0][0].inputs) != 1:
            return None
        call, its = calls[0]
        kept_inputs, kept = (self.kept[self.ids[tensor]] for tensor in (call.inputs[0], call.outputs[0]))
        return its, kept_inputs, kept, self._inputs(calls if its.sized else calls[:1])[0]

    def config(self, layer: Any) -> dict[str, Any]:
        """What changes in the configuration of a layer."""
        sides = self._sides(layer)
        return sides[0].config(*sides[1:]) if sides else {}

    def weights(self, layer: Any) -> list[np.ndarray]:
        """The weights of a layer on the channels that are kept."""
        sides = self._sides(layer)
        return sides[0].weights(*sides[1:]) if sides else layer.get_weights()

    def widths(self) -> dict[str, tuple[int, int]]:
        """Output channels before and after, of layers with weights that lost some."""
        firsts = [calls[0][0] for calls in self.calls.values()]
        named = Counter(call.layer.name for call in firsts)
        found = {}
        for call in firsts:
            kept = self.kept[self.ids[call.outputs[0]]]
            if getattr(call.layer, "weights", None) and not kept.all():
                name = call.layer.name if named[call.layer.name] == 1 else call.layer.path
                found[name] = (len(kept), int(kept.sum()))
        return found
