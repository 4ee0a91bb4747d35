"""Which channels of a model are kept, and what keeps them."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from sparse_lib._keras.graph import Call, Graph
from sparse_lib.deployment.attention import Attention
from sparse_lib.deployment.rule import Constants, Rule, intersect, no_constants
from sparse_lib.deployment.rules import rule


class Plan:
    """The channels to keep of every tensor.

    The channels of all tensors are numbered consecutively. Channels that can only be removed together form a group; a
    group is dropped if none of its channels is needed.

    Attributes:
      calls: with their rules, by the `id` of the layer.
      ids: numbers of the channels of each tensor.
      groups: group of each channel.
      fixed: channels that nothing can remove.
      kept: channels that are kept.
    """

    def __init__(self, found: Graph) -> None:
        """Decides for a graph."""
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
        self._boundary = found.boundary()
        self.groups = self._group_channels()
        self.kept = self._choose_kept()

    def _add(self, call: Call, found: Graph) -> None:
        shapes = [found.shapes[tensor] for tensor in call.inputs]
        counts = {len(other.inputs) for other in found.calls if other.layer is call.layer}
        its = Rule(call.layer)
        if call.is_plain and len(call.outputs) == 1 and len(counts) == 1:
            its = rule(call.layer, shapes, found.shapes[call.outputs[0]])
        elif type(call.layer) is keras.layers.MultiHeadAttention and len(call.outputs) == 1:
            its = Attention(call.layer, is_followed=False)
        if its.sized and not call.layer.weights and found.times_called(call.layer) > 1:
            # A reshape has one target shape for all its calls, whatever their inputs.
            its = Rule(call.layer)
        self.calls[id(call.layer)].append((call, its))
        for tensor in call.inputs if its.reads_all else ():
            self.fixed[self.ids[tensor]] = True
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
                both = [*zip(first.inputs, call.inputs, strict=False), (first.outputs[0], call.outputs[0])]
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
                    for tensor, need in zip(call.inputs, self._needs(calls, call, its, kept), strict=True):
                        needed[self.ids[tensor]] |= need
            of_groups = np.zeros(self.groups.max() + 1, bool)
            of_groups[self.groups[needed]] = True
            following = of_groups[self.groups]
            if (following == kept).all():
                return kept
            kept = following

    def _needs(
        self, calls: Sequence[tuple[Call, Rule]], call: Call, its: Rule, kept: np.ndarray
    ) -> Sequence[np.ndarray]:
        constants = self._common_constants(calls) if its.sized else [self.constants[i] for i in call.inputs]
        if len(constants) < len(call.inputs):
            constants = [self.constants[i] for i in call.inputs]
        return its.needs(constants, ~kept[self.ids[call.outputs[0]]])

    def _common_constants(self, calls: Sequence[tuple[Call, Rule]]) -> list[Constants]:
        """Constants of each input of a layer that hold in all its calls."""
        by_input = zip(*(call.inputs for call, _ in calls), strict=False)
        return [intersect([self.constants[tensor] for tensor in tensors]) for tensors in by_input]

    def _sides(self, layer: Any) -> tuple[Rule, list[np.ndarray], np.ndarray, list[Constants]] | None:
        calls = self.calls.get(id(layer))
        if not calls or len({type(its) for _, its in calls}) > 1:
            return None
        call, its = calls[0]
        kept_inputs = [self.kept[self.ids[tensor]] for tensor in call.inputs]
        kept = self.kept[self.ids[call.outputs[0]]]
        return its, kept_inputs, kept, self._common_constants(calls if its.sized else calls[:1])

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
        masks = {name: self.kept[self.ids[call.outputs[0]]] for name, call, _ in self.layers()}
        return {name: (len(kept), int(kept.sum())) for name, kept in masks.items() if not kept.all()}

    def heads(self) -> dict[str, tuple[int, int]]:
        """Attention heads before and after, of the layers that lost some."""
        found = {}
        for name, call, _ in self.layers():
            its, _, kept, constants = self._sides(call.layer) or (Rule(call.layer), [], np.zeros(0, bool), [])
            heads = its.heads(kept, constants)
            if not heads.all():
                found[name] = (len(heads), int(heads.sum()))
        return found

    def layers(self) -> list[tuple[str, Call, Rule]]:
        """Name, first call and rule of each layer with weights; its path where names repeat."""
        firsts = [calls[0] for calls in self.calls.values()]
        named = Counter(call.layer.name for call, _ in firsts)
        return [
            (call.layer.name if named[call.layer.name] == 1 else call.layer.path, call, its)
            for call, its in firsts
            if getattr(call.layer, "weights", None)
        ]

    def remaining(self) -> dict[str, str]:
        """Channels of each layer with weights that do nothing by themselves and stay: how many, and what keeps them."""
        reasons = self._reasons()
        by_group = {self.groups[channel]: reason for channel, reason in sorted(reasons.items(), reverse=True)}
        is_used = self._find_used()
        found = {}
        for name, call, its in self.layers():
            ids = self.ids[call.outputs[0]]
            idle = self.kept[ids] & (~is_used[ids] | self.constants[call.outputs[0]].known)
            if not its.makes or not idle.any():
                continue
            why = [
                reasons.get(channel)
                or f"coupled with others: {by_group.get(self.groups[channel], 'one channel stays')}"
                for channel in ids[idle]
            ]
            found[name] = "; ".join(f"{count} of {len(ids)}: {reason}" for reason, count in Counter(why).items())
        return found

    def _reasons(self) -> dict[int, str]:
        """What needs a channel, for those that something needs."""
        found: dict[int, str] = {}
        for tensor in self._boundary:
            found |= dict.fromkeys(self.ids[tensor].tolist(), "an input or output of a model")
        for calls in self.calls.values():
            for call, its in calls:
                name = f"{call.layer.name!r} ({type(call.layer).__name__})"
                if not its.makes:
                    for channel in self.ids[call.outputs[0]].tolist():
                        found.setdefault(channel, f"{name} keeps all its outputs")
                texts = (
                    (f"{name} reads it" if its.makes else f"{name} needs all its inputs"),
                    f"no bias of {name} can replace its constant",
                )
                for tensor, need in zip(call.inputs, self._needs(calls, call, its, self.kept), strict=True):
                    known = self.constants[tensor].known & its.makes
                    for channel, is_constant in zip(self.ids[tensor][need].tolist(), known[need], strict=True):
                        found.setdefault(channel, texts[int(is_constant)])
        return found

    def _find_used(self) -> np.ndarray:
        """Channels that reach an output, as if each tensor of a sum could lose channels by itself."""
        used = self.fixed.copy()
        while True:
            following = used.copy()
            for calls in self.calls.values():
                for call, its in calls:
                    for tensor, need in zip(call.inputs, self._needs(calls, call, its, used), strict=True):
                        following[self.ids[tensor]] |= need
                    for inputs, output in its.ties([self.ids[i] for i in call.inputs], self.ids[call.outputs[0]]):
                        np.logical_or.at(following, inputs, used[output])
            if (following == used).all():
                return used
            used = following
