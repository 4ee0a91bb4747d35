"""The base class of sparsity structures, and unstructured sparsity."""

import abc
import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from sparse_lib import selection
from sparse_lib._utils.errors import InputError


@dataclasses.dataclass(frozen=True)
class Structure(abc.ABC):
    """A constraint on which weights of a kernel may be active together; base class of all structures.

    The kernel is read as a matrix [inputs, outputs], where the inputs are the axes that the product contracts. Counts
    are in units: single weights, or tiles of weights that are active or inactive as a whole.

    Attributes:
      outputs: output axes of the kernel; all others are input axes. The default fits dense, convolutional and
        recurrent layers; `output_axes(layer, kernel)` gives those of other layers.
    """

    outputs: tuple[int, ...] = dataclasses.field(default=(-1,), kw_only=True)

    @property
    def fixed_sparsity(self) -> float | None:
        """The only sparsity allowed besides 0 (fraction); None if any is allowed."""
        return None

    @property
    def is_free(self) -> bool:
        """Whether any number of units can be active, and units have the same size in every kernel."""
        return True

    def check_sparsity(self, sparsity: float) -> None:
        """Raises if no mask of this structure has the given sparsity.

        Args:
          sparsity: share of zeros in a network or kernel (fraction).

        Raises:
          ValueError: if the structure fixes another sparsity.
        """
        fixed = self.fixed_sparsity
        if fixed is not None and sparsity and abs(sparsity - fixed) > 1e-6:
            raise InputError(
                f"Structure {self} has a sparsity of {fixed:.6g}, not {sparsity:.6g}: use 1 - n/m, or 0 to start dense."
            )

    def size(self, shape: Sequence[int]) -> int:
        """Number of units in a kernel (count).

        Args:
          shape: shape of the kernel.

        Returns:
          The number of weights, or of tiles.
        """
        return math.prod(shape)

    def budget(self, shape: Sequence[int], weights: int) -> int:
        """Converts a number of active weights to the nearest number of units.

        Args:
          shape: shape of the kernel.
          weights: desired number of active weights (count).

        Returns:
          Number of units (count), at least one for one weight or more.

        Raises:
          ValueError: if no mask of this structure is close to that number.
        """
        size = self.size(shape)
        return max(round(weights * size / math.prod(shape)), min(weights, 1))

    def count(self, mask: tf.Tensor) -> tf.Tensor:
        """Counts the active units of a mask.

        Args:
          mask: boolean, of the kernel's shape.

        Returns:
          int32 scalar (count).
        """
        return selection.count_active(self._units_of(mask))

    def fits(self, mask: tf.Tensor) -> bool:
        """Whether a mask satisfies the constraint; a full mask always does.

        Args:
          mask: boolean, of the kernel's shape.

        Returns:
          True if it does.
        """
        del mask
        return True

    def select(self, scores: tf.Tensor, k: int | tf.Tensor, among: tf.Tensor | None = None) -> tf.Tensor:
        """Selects the k units with the highest scores.

        Args:
          scores: float tensor of the kernel's shape; the score of a tile is the mean over its weights.
          k: number of units (count), rounded to the nearest number that the structure allows.
          among: boolean candidates, of the kernel's shape; None means all weights.

        Returns:
          Boolean mask of the kernel's shape. Ties go to the lower index in row-major order.
        """
        candidates = None if among is None and not self._is_padded(scores.shape) else self._candidates(scores, among)
        return self._expand(self._top(self._to_units(scores), k, candidates, scores.shape), scores.shape)

    def keep(self, scores: tf.Tensor, k: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Selects the k active units with the highest scores; `grow` then restores the constraint.

        Args:
          scores: float tensor of the kernel's shape.
          k: number of units (count).
          mask: boolean, the active weights.

        Returns:
          Boolean tensor, a subset of the mask.
        """
        return self._expand(selection.top_k_mask(self._to_units(scores), k, self._units_of(mask)), scores.shape)

    def grow(self, scores: tf.Tensor, count: tf.Tensor, kept: tf.Tensor) -> tf.Tensor:
        """Selects the inactive units with the highest scores that complete a mask of this structure.

        Args:
          scores: float tensor of the kernel's shape.
          count: number of units to add (count).
          kept: boolean, the weights that stay active.

        Returns:
          Boolean tensor, disjoint from `kept`.
        """
        chosen = self._top(self._to_units(scores), count, self._units_of(~kept), scores.shape, self._units_of(kept))
        return self._expand(chosen, scores.shape)

    def exchange(
        self, inside: tf.Tensor, outside: tf.Tensor, k: tf.Tensor, mask: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Selects the k units with the highest scores, with separate scores for active and inactive weights.

        Args:
          inside: scores of active weights, of the kernel's shape.
          outside: scores of inactive weights, of the kernel's shape.
          k: number of units (count).
          mask: boolean, the active weights; at equal scores they win.

        Returns:
          Two boolean tensors: the weights that stay active, and those that grow.
        """
        units = tf.stack([self._to_units(inside), self._to_units(outside)])
        among = tf.stack([self._units_of(mask), self._units_of(~mask)])
        kept, grown = tf.unstack(self._top_of_both(units, k, among, mask.shape))
        return self._expand(kept, mask.shape), self._expand(grown, mask.shape)

    def reshuffle(self, scores: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Selects a mask with the same counts as another one, at the highest scores.

        Args:
          scores: float tensor of the kernel's shape; random scores shuffle the mask.
          mask: boolean; the number of active units is preserved, per group where groups have quotas.

        Returns:
          Boolean mask of the kernel's shape.
        """
        return self.select(scores, self.count(mask))

    def to_matrix(self, kernel: tf.Tensor) -> tf.Tensor:
        """Reshapes a kernel to [inputs, outputs].

        Args:
          kernel: tensor of the kernel's shape.

        Returns:
          Matrix; a convolution has one input per place of its window and channel.
        """
        inputs, outputs = self._axes(kernel.shape)
        return tf.reshape(tf.transpose(kernel, [*inputs, *outputs]), self._matrix_shape(kernel.shape))

    def from_matrix(self, matrix: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
        """Reshapes a matrix back to the kernel's shape; the inverse of `to_matrix`.

        Args:
          matrix: [inputs, outputs].
          shape: shape of the kernel.

        Returns:
          Tensor of that shape.
        """
        order = [axis for part in self._axes(shape) for axis in part]
        turned = tf.reshape(matrix, [shape[axis] for axis in order])
        return tf.transpose(turned, [int(axis) for axis in np.argsort(order)])

    def _axes(self, shape: Sequence[int]) -> tuple[list[int], list[int]]:
        rank = len(shape)
        outputs = [axis % rank for axis in self.outputs]
        return [axis for axis in range(rank) if axis not in outputs], outputs

    def _matrix_shape(self, shape: Sequence[int]) -> tuple[int, int]:
        inputs, outputs = self._axes(shape)
        return math.prod(shape[axis] for axis in inputs), math.prod(shape[axis] for axis in outputs)

    @abc.abstractmethod
    def _to_units(self, scores: tf.Tensor) -> tf.Tensor:
        """Scores of the units, in the layout that `_expand` reverses."""

    @abc.abstractmethod
    def _units_of(self, mask: tf.Tensor) -> tf.Tensor:
        """Active units of a mask, in the layout of `_to_units`; padding is never active."""

    @abc.abstractmethod
    def _expand(self, marks: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
        """Expands a mask of units to a mask of the kernel's shape."""

    def _is_padded(self, shape: Sequence[int]) -> bool:
        """Whether the layout of the units contains padding."""
        del shape
        return False

    def _candidates(self, scores: tf.Tensor, among: tf.Tensor | None) -> tf.Tensor:
        return self._units_of(tf.ones(scores.shape, tf.bool) if among is None else among)

    def _top(
        self,
        units: tf.Tensor,
        k: int | tf.Tensor,
        among: tf.Tensor | None,
        shape: Sequence[int],
        held: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Selects the k best units, in addition to those already held."""
        del shape, held
        return selection.top_k_mask(units, k, among)

    def _top_of_both(self, units: tf.Tensor, k: tf.Tensor, among: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
        """Selects the k best over two stacked layouts of units; ties go to the first."""
        del shape
        return selection.top_k_mask(units, k, among)

    def _after_global_ranking(
        self, marks: tf.Tensor, scores: tf.Tensor, uniform_share: tf.Tensor, among: tf.Tensor | None
    ) -> tf.Tensor:
        """The kernel's mask after a ranking over all kernels, which chose the units `marks`.

        `uniform_share` is the number of units that the kernel gets if all kernels have the same sparsity.
        """
        del uniform_share, among
        return self._expand(marks, scores.shape)


@dataclasses.dataclass(frozen=True)
class Unstructured(Structure):
    """Unstructured sparsity: exactly the k weights with the highest scores."""

    def __str__(self) -> str:
        """Name in configurations and mask files."""
        return "unstructured"

    def _to_units(self, scores: tf.Tensor) -> tf.Tensor:
        return scores

    def _units_of(self, mask: tf.Tensor) -> tf.Tensor:
        return mask

    def _expand(self, marks: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
        del shape
        return marks


UNSTRUCTURED = Unstructured()


def select_globally(
    structures: Sequence[Structure],
    scores: Sequence[tf.Tensor],
    k: int | tf.Tensor,
    among: Sequence[tf.Tensor] | None = None,
) -> list[tf.Tensor]:
    """Selects the k units with the highest scores over all kernels together.

    With quotas per group, the global ranking sets the number of active weights of each kernel, and the structure
    selects them; with a fixed sparsity, every kernel has that sparsity.

    Args:
      structures: one per kernel.
      scores: one float tensor per kernel, of its shape.
      k: total number of units (count).
      among: boolean candidates, one tensor per kernel; None means all weights.

    Returns:
      One boolean mask per kernel. Ties go to the earlier kernel.
    """
    candidates = [None] * len(scores) if among is None else list(among)
    parts = list(zip(structures, scores, candidates, strict=True))
    total = sum(structure.size(score.shape) for structure, score in zip(structures, scores, strict=True))
    padded = among is not None or any(s._is_padded(score.shape) for s, score, _ in parts)
    chosen = selection.global_top_k_masks(
        [structure._to_units(score) for structure, score, _ in parts],
        k,
        [structure._candidates(score, own) for structure, score, own in parts] if padded else None,
    )

    def uniform_share(structure: Structure, score: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.cast(k, tf.int64) * structure.size(score.shape) // total, tf.int32)

    return [
        s._after_global_ranking(marks, score, uniform_share(s, score), own)
        for marks, (s, score, own) in zip(chosen, parts, strict=True)
    ]
