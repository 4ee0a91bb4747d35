"""Channels that can only be removed together: across residual connections, concatenations and normalizations."""

import fnmatch
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import keras
import numpy as np

from sparse_lib._keras.graph import graph
from sparse_lib._utils.errors import InputError
from sparse_lib.deployment.attention import Attention
from sparse_lib.deployment.plan import Plan


class ChannelGroup(NamedTuple):
    """Channels, or attention heads, that can only be removed together.

    Attributes:
      members: numbers of the output channels of each layer, or of its heads; by the name of the layer, by its path
        where names repeat.
      size: root of the sum of squares of the weights that make them.
      is_heads: whether the members are heads.
    """

    members: Mapping[str, tuple[int, ...]]
    size: float
    is_heads: bool = False


def channel_groups(model: keras.Model) -> list[ChannelGroup]:
    """Lists the channels of a model that can be removed, in the groups that can only go together.

    The channels of a residual stream are made by every layer that adds to it, and go from all or none. Channels that
    reach an input, an output or a layer without a rule are in no group, see `remove_dead_channels`. Each head of a
    `MultiHeadAttention` layer is a group of its own.

    Args:
      model: built, functional or sequential.

    Returns:
      The groups, those of channels first.

    Raises:
      ValueError: if the model is subclassed or unbuilt.

    Examples:
      >>> import keras
      >>> from sparse_lib import deployment
      >>> inputs = keras.Input((8,))
      >>> x = keras.layers.Dense(4, name="stem")(inputs)
      >>> x = keras.layers.add([x, keras.layers.Dense(4, name="branch")(x)])
      >>> model = keras.Model(inputs, keras.layers.Dense(2, name="logits")(x))
      >>> [dict(group.members) for group in deployment.channel_groups(model)][0]
      {'stem': (0,), 'branch': (0,)}
    """
    return _groups(Plan(graph(model)))


def prune_channels(
    model: keras.Model,
    fraction: float,
    *,
    exclude: str | Sequence[str] = (),
    score: Callable[[ChannelGroup], float] | None = None,
) -> list[ChannelGroup]:
    """Sets the weights of the groups of channels with the lowest scores to zero, so that they can be removed.

    Among the groups of the same layers, the given fraction is zeroed, rounded down. `remove_dead_channels` then makes
    the model smaller with the outputs that the zeroed model has; train on afterwards.

    Args:
      model: built, functional or sequential; its weights are changed in place.
      fraction: of the groups of the same layers (fraction).
      exclude: names of layers, or glob patterns, whose channels and heads stay.
      score: of a group; None means `size`, as Li et al. (2017, arXiv 1608.08710) rank filters by their norms and Fang
        et al. (2023, arXiv 2301.12900) groups.

    Returns:
      The groups that are zero now.

    Raises:
      ValueError: for a fraction outside of [0, 1), or a model whose channels cannot be removed.

    Examples:
      >>> import keras
      >>> from sparse_lib import deployment
      >>> layers = [keras.layers.Dense(4, "relu", name="hidden"), keras.layers.Dense(2, name="logits")]
      >>> model = keras.Sequential([keras.Input((3,)), *layers])
      >>> zeroed = deployment.prune_channels(model, 0.5)
      >>> deployment.remove_dead_channels(model).widths
      {'hidden': (4, 2)}
    """
    if not 0 <= fraction < 1:
        raise InputError(f"The fraction of channels must be at least 0 and below 1, got {fraction}.")
    patterns = (exclude,) if isinstance(exclude, str) else tuple(exclude)
    plan = Plan(graph(model))
    families: dict[tuple[bool, tuple[str, ...]], list[ChannelGroup]] = defaultdict(list)
    for group in _groups(plan):
        if not any(fnmatch.fnmatchcase(name, pattern) for name in group.members for pattern in patterns):
            families[group.is_heads, tuple(group.members)].append(group)
    if not families:
        raise InputError(
            f"No channel of model {model.name!r} can be removed: all reach an output or a layer without a rule, or are "
            "excluded."
        )
    chosen = []
    for groups in families.values():
        ranked = sorted(groups, key=score or (lambda group: group.size))
        # Products such as 0.7 * 10 are a little less than the integer that they stand for.
        chosen += ranked[: int(fraction * len(groups) + 1e-9)]
    _clear(plan, chosen)
    return chosen


def _groups(plan: Plan) -> list[ChannelGroup]:
    layers = plan.layers()
    is_fixed = np.zeros(plan.groups.max() + 1, bool)
    is_fixed[plan.groups[plan.fixed]] = True
    members: dict[int, dict[str, list[int]]] = defaultdict(dict)
    sizes: dict[int, float] = defaultdict(float)
    for name, call, its in layers:
        if not its.makes:
            continue
        groups, squares = plan.groups[plan.ids[call.outputs[0]]], its.sizes()
        for channel, (group, square) in enumerate(zip(groups.tolist(), squares.tolist(), strict=True)):
            if not is_fixed[group]:
                members[group].setdefault(name, []).append(channel)
                sizes[group] += square
    found = [
        ChannelGroup({name: tuple(own) for name, own in channels.items()}, sizes[group] ** 0.5)
        for group, channels in members.items()
    ]
    for name, call, its in layers:
        if isinstance(its, Attention) and all(isinstance(other, Attention) for _, other in plan.calls[id(call.layer)]):
            sizes_of_heads = enumerate(its.head_sizes().tolist())
            found += [ChannelGroup({name: (head,)}, square**0.5, is_heads=True) for head, square in sizes_of_heads]
    return found


def _clear(plan: Plan, groups: Sequence[ChannelGroup]) -> None:
    for name, call, its in plan.layers():
        own = [group for group in groups if name in group.members]
        channels, heads = (
            [number for group in own if group.is_heads == is_heads for number in group.members[name]]
            for is_heads in (False, True)
        )
        weights = call.layer.get_weights()
        if channels:
            weights = its.clear(weights, np.isin(np.arange(len(plan.ids[call.outputs[0]])), channels))
        if heads and isinstance(its, Attention):
            weights = its.clear_heads(weights, heads)
        call.layer.set_weights(weights)
