"""Symmetry of masks: the permutations of neurons that leave the masks of a chain of layers as they are."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from sparse_lib._utils.errors import InputError


class Symmetry(NamedTuple):
    """Counts of neurons, and of the permutations among those with equal connections.

    Attributes:
      neurons: units or filters (count).
      zeroed: neurons without active incoming weights (count).
      unique: different sets of connections among the active neurons (count).
      permutations: of active neurons that leave all masks as they are, an exact integer; 0 where a layer has no active
        neuron.
    """

    neurons: int
    zeroed: int
    unique: int
    permutations: int

    @property
    def log10_permutations(self) -> float:
        """Decimal logarithm of the permutations; 0 without any."""
        return math.log10(max(self.permutations, 1))


def count_symmetry(masks: Sequence[Any]) -> list[Symmetry]:
    """Counts, per kernel of a chain, how many of its neurons are interchangeable.

    permutations = product over the different sets of connections of (number of neurons that have it)!

    A neuron is active if it has an incoming and, but for the last kernel, an outgoing weight. Its connections are its
    incoming weights and those by which the next kernel reads it. The statistics of google-research/rigl's study of
    weight symmetry; the neurons of the last kernel count as well, although they are the classes.

    Args:
      masks: boolean masks [..., in, out] of consecutive kernels. Where a kernel has k times as many inputs as the
        kernel before has outputs, k positions per channel are assumed to be flattened, channels last.

    Returns:
      One count per kernel.

    Raises:
      ValueError: if the masks do not fit together as a chain.

    Examples:
      >>> import numpy as np
      >>> from sparse_lib import mask_symmetry
      >>> dense = [np.ones((5, 3), bool), np.ones((3, 2), bool)]
      >>> [layer.permutations for layer in mask_symmetry.count_symmetry(dense)]  # 3! and 2!
      [6, 2]
    """
    arrays = [np.asarray(mask, bool) for mask in masks]
    return [_count(mask, *arrays[index + 1 : index + 2], index=index) for index, mask in enumerate(arrays)]


def sum_symmetry(counts: Sequence[Symmetry]) -> Symmetry:
    """Combines the kernels of a network: sums of the neurons, product of the permutations.

    Args:
      counts: from `count_symmetry`.

    Returns:
      The counts of the whole network.
    """
    neurons, zeroed, unique, permutations = zip(*counts, strict=True)
    return Symmetry(sum(neurons), sum(zeroed), sum(unique), math.prod(permutations))


def _count(mask: np.ndarray, following: np.ndarray | None = None, *, index: int) -> Symmetry:
    units = mask.shape[-1]
    connections = mask.reshape(-1, units).T
    has_inputs = connections.any(axis=1)
    active = has_inputs
    if following is not None:
        inputs = following.shape[-2]
        if inputs % units:
            raise InputError(
                f"Kernel {index + 1} has {inputs} inputs, which does not fit the {units} neurons of kernel {index}: "
                "give the masks of consecutive layers in order."
            )
        readers = np.moveaxis(following, -2, 0).reshape(inputs // units, units, -1)
        outgoing = readers.transpose(1, 0, 2).reshape(units, -1)
        active = active & outgoing.any(axis=1)
        connections = np.concatenate([connections, outgoing], axis=1)
    zeroed = units - int(has_inputs.sum())
    if not active.any():
        return Symmetry(units, zeroed, 0, 0)
    _, multiplicities = np.unique(np.packbits(connections[active], axis=1), axis=0, return_counts=True)
    permutations = math.prod(math.factorial(int(count)) for count in multiplicities)
    return Symmetry(units, zeroed, len(multiplicities), permutations)
