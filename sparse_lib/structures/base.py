"""What every structure does with scores and masks, and the structure of free weights."""

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
    """A rule for which weights of a kernel may be active together; the base of all.

    It sees the kernel as a matrix of inputs (what a product sums over: the contraction axis) times outputs, and counts
    in units: single weights, or parts that are active as one.

    Attributes:
      outputs: axes of the kernel that count outputs; all others are inputs. The last one is right for dense,
        convolutional and recurrent layers; `views.output_axes` knows the others.
    """

    outputs: tuple[int, ...] = dataclasses.field(default=(-1,), kw_only=True)

    @property
    def fixed_sparsity(self) -> float | None:
        """The only sparsity that the structure has beside 0 (fraction); None where it takes any."""
        return None

    @property
    def is_free(self) -> bool:
        """Whether a kernel may hold any number of units, all of which are of one size in every kernel."""
        return True

    def check_sparsity(self, sparsity: float) -> None:
        """Refuses a sparsity that the structure cannot have.

        Args:
          sparsity: of a whole network or of a kernel (fraction).

        Raises:
          ValueError: says which it can have.
        """
        fixed = self.fixed_sparsity
        if fixed is not None and sparsity and abs(sparsity - fixed) > 1e-6:
            raise InputError(
                f"Structure {self} has a sparsity of {fixed:.6g}, not {sparsity:.6g}: ask for 1 - n/m, or for 0 to "
                "start dense."
            )

    def size(self, shape: Sequence[int]) -> int:
        """Number of units of a kernel of a shape (count)."""
        return math.prod(shape)

    def budget(self, shape: Sequence[int], weights: int) -> int:
        """The number of units that comes nearest to a number of weights.

        Args:
          shape: of the kernel.
          weights: how many are to be active (count).

        Returns:
          Units, at least one where there is a weight (count).

        Raises:
          ValueError: if the structure cannot hold about so many.
        """
        size = self.size(shape)
        return max(round(weights * size / math.prod(shape)), min(weights, 1))

    def count(self, mask: tf.Tensor) -> tf.Tensor:
        """Number of active units of a mask, int32 scalar (count)."""
        return selection.count_active(self._marks(mask))

    def fits(self, mask: tf.Tensor) -> bool:
        """Whether a mask keeps to the structure; a full one always does.

        Args:
          mask: boolean, of the kernel's shape.

        Returns:
          Whether it does.
        """
        del mask
        return True

    def select(self, scores: tf.Tensor, k: int | tf.Tensor, among: tf.Tensor | None = None) -> tf.Tensor:
        """Marks the k units of highest score.

        Args:
          scores: float tensor of the kernel's shape; a unit of several weights has their mean.
          k: units, rounded to what the structure can hold (count).
          among: boolean candidates; None means all.

        Returns:
          Boolean tensor of the kernel's shape. Ties go to the lower index in row-major order.
        """
        candidates = None if among is None and not self._is_padded(scores.shape) else self._candidates(scores, among)
        return self._weights(self._top(self._units(scores), k, candidates, scores.shape), scores.shape)

    def keep(self, scores: tf.Tensor, k: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Marks the k active units of highest score over the whole kernel, before others grow to the structure's rule.

        Args:
          scores: float tensor of the kernel's shape.
          k: units (count).
          mask: boolean, the active weights.

        Returns:
          Boolean tensor, part of the mask.
        """
        return self._weights(selection.top_k_mask(self._units(scores), k, self._marks(mask)), scores.shape)

    def grow(self, scores: tf.Tensor, count: tf.Tensor, kept: tf.Tensor) -> tf.Tensor:
        """Marks the units of highest score that bring a kept set back to the structure's rule.

        Args:
          scores: float tensor of the kernel's shape.
          count: units to add (count).
          kept: boolean, what stays.

        Returns:
          Boolean tensor, disjoint from `kept`.
        """
        chosen = self._top(self._units(scores), count, self._marks(~kept), scores.shape, self._marks(kept))
        return self._weights(chosen, scores.shape)

    def exchange(
        self, inside: tf.Tensor, outside: tf.Tensor, k: tf.Tensor, mask: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Marks the k units of highest score, active units by one score and inactive ones by another.

        Args:
          inside: scores of active weights, of the kernel's shape.
          outside: scores of inactive weights.
          k: units (count).
          mask: boolean, the active weights; of equal scores they win.

        Returns:
          Two boolean tensors: what stays and what grows.
        """
        units = tf.stack([self._units(inside), self._units(outside)])
        among = tf.stack([self._marks(mask), self._marks(~mask)])
        kept, grown = tf.unstack(self._top_of_both(units, k, among, mask.shape))
        return self._weights(kept, mask.shape), self._weights(grown, mask.shape)

    def moved(self, scores: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """A mask with as many active units, wherever scores are highest.

        Args:
          scores: float tensor of the kernel's shape.
          mask: boolean, whose counts are kept: of the kernel, or of each group that has a quota.

        Returns:
          Boolean tensor of the kernel's shape.
        """
        return self.select(scores, self.count(mask))

    def _matrix(self, kernel: tf.Tensor) -> tf.Tensor:
        """The kernel as inputs x outputs."""
        inputs, outputs = self._axes(kernel.shape)
        return tf.reshape(tf.transpose(kernel, [*inputs, *outputs]), self._matrix_shape(kernel.shape))

    def _kernel(self, matrix: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
        """The inverse of `_matrix`."""
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
    def _units(self, scores: tf.Tensor) -> tf.Tensor:
        """Scores of the units."""

    @abc.abstractmethod
    def _marks(self, mask: tf.Tensor) -> tf.Tensor:
        """Which units a mask holds; never what only fills up the last unit or group."""

    @abc.abstractmethod
    def _weights(self, marks: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
        """The weights of marked units."""

    def _is_padded(self, shape: Sequence[int]) -> bool:
        """Whether there are places among the units that are none."""
        del shape
        return False

    def _candidates(self, scores: tf.Tensor, among: tf.Tensor | None) -> tf.Tensor:
        return self._marks(tf.ones(scores.shape, tf.bool) if among is None else among)

    def _top(
        self,
        units: tf.Tensor,
        k: int | tf.Tensor,
        among: tf.Tensor | None,
        shape: Sequence[int],
        held: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """The k best units, beside those that are held anyway."""
        del shape, held
        return selection.top_k_mask(units, k, among)

    def _top_of_both(self, units: tf.Tensor, k: tf.Tensor, among: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
        """The k best of two stacked copies of the units; of equals, the first copy's."""
        del shape
        return selection.top_k_mask(units, k, among)

    def _settled(self, marks: tf.Tensor, scores: tf.Tensor, even: tf.Tensor, among: tf.Tensor | None) -> tf.Tensor:
        """The kernel's mask after a ranking over all kernels; `even` units are its share if all are as sparse."""
        del even, among
        return self._weights(marks, scores.shape)


@dataclasses.dataclass(frozen=True)
class Unstructured(Structure):
    """Any weights: the k highest scores, exactly."""

    def __str__(self) -> str:
        """Its name in configurations."""
        return "unstructured"

    def _units(self, scores: tf.Tensor) -> tf.Tensor:
        return scores

    def _marks(self, mask: tf.Tensor) -> tf.Tensor:
        return mask

    def _weights(self, marks: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
        del shape
        return marks


UNSTRUCTURED = Unstructured()


def select_globally(
    structures: Sequence[Structure],
    scores: Sequence[tf.Tensor],
    k: int | tf.Tensor,
    among: Sequence[tf.Tensor] | None = None,
) -> list[tf.Tensor]:
    """Marks the k units of highest score over all kernels together.

    Where a structure gives quotas to groups of weights, the ranking decides how many weights the kernel has, and the
    structure which; where it fixes the sparsity, every kernel has the same.

    Args:
      structures: one a kernel.
      scores: float tensors of the kernels' shapes.
      k: units in total (count).
      among: boolean candidates, one tensor a kernel; None means all.

    Returns:
      One boolean tensor a kernel. Ties go to the earlier kernel.
    """
    candidates = [None] * len(scores) if among is None else list(among)
    parts = list(zip(structures, scores, candidates, strict=True))
    total = sum(structure.size(score.shape) for structure, score in zip(structures, scores, strict=True))
    padded = among is not None or any(s._is_padded(score.shape) for s, score, _ in parts)
    chosen = selection.global_top_k_masks(
        [structure._units(score) for structure, score, _ in parts],
        k,
        [structure._candidates(score, own) for structure, score, own in parts] if padded else None,
    )

    def even(structure: Structure, score: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.cast(k, tf.int64) * structure.size(score.shape) // total, tf.int32)

    return [s._settled(marks, score, even(s, score), own) for marks, (s, score, own) in zip(chosen, parts, strict=True)]
