"""Structures with a fixed number of active weights per group: N:M and constant fan-in."""

import abc
import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from sparse_lib import selection
from sparse_lib._utils.errors import InputError
from sparse_lib.structures.base import Structure


@dataclasses.dataclass(frozen=True)
class Grouped(Structure):
    """Base of structures whose groups, consecutive inputs of one output, all have the same number of active weights."""

    @abc.abstractmethod
    def group_size(self, inputs: int) -> int:
        """Number of consecutive inputs in a group (count).

        Args:
          inputs: number of inputs of the kernel (count).

        Returns:
          The group size.
        """

    @abc.abstractmethod
    def quota(self, k: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
        """Active weights per group for about k active weights in the kernel.

        Args:
          k: desired number of active weights, int32 scalar (count).
          shape: shape of the kernel.

        Returns:
          int32 scalar (count).
        """

    @property
    def is_free(self) -> bool:
        """False: the number of active weights is a quota times the number of groups."""
        return False

    def fill(self, scores: tf.Tensor, quotas: tf.Tensor, kept: tf.Tensor) -> tf.Tensor:
        """Selects the inactive weights with the highest scores that fill each group up to its quota.

        Args:
          scores: float tensor of the kernel's shape.
          quotas: int32, broadcastable to [groups per output, 1, outputs] (count).
          kept: boolean, the weights that stay active.

        Returns:
          Boolean tensor, disjoint from `kept`.
        """
        missing = quotas - self.group_counts(kept)
        chosen = selection.top_k_of_columns(self._to_units(scores), missing, self._units_of(~kept))
        return self._expand(chosen, scores.shape)

    def group_counts(self, mask: tf.Tensor) -> tf.Tensor:
        """Counts the active weights of each group.

        Args:
          mask: boolean, of the kernel's shape.

        Returns:
          int32, [groups per output, 1, outputs] (count).
        """
        return _counts(self._units_of(mask))

    def broadcast(self, groups: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
        """Broadcasts one value per group to the weights of the group.

        Args:
          groups: tensor [groups per output, 1, outputs], as from `group_counts`.
          shape: shape of the kernel.

        Returns:
          Tensor of the kernel's shape.
        """
        return self._expand(tf.broadcast_to(groups, self._groups(shape)), shape)

    def reshuffle(self, scores: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Selects a mask with the same number of active weights per group, at the highest scores."""
        return self.fill(scores, self.group_counts(mask), tf.zeros_like(mask))

    def _groups(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """Groups per output, group size and outputs (counts)."""
        inputs, outputs = self._matrix_shape(shape)
        size = self.group_size(inputs)
        return -(-inputs // size), size, outputs

    def _is_padded(self, shape: Sequence[int]) -> bool:
        return bool(self._matrix_shape(shape)[0] % self._groups(shape)[1])

    def _to_units(self, scores: tf.Tensor) -> tf.Tensor:
        matrix, (groups, size, outputs) = self.to_matrix(scores), self._groups(scores.shape)
        padded = tf.pad(matrix, [[0, groups * size - matrix.shape[0]], [0, 0]])
        return tf.reshape(padded, [groups, size, outputs])

    def _units_of(self, mask: tf.Tensor) -> tf.Tensor:
        return self._to_units(mask)

    def _expand(self, marks: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
        inputs, outputs = self._matrix_shape(shape)
        return self.from_matrix(tf.reshape(marks, [-1, outputs])[:inputs], shape)

    def _top(
        self,
        units: tf.Tensor,
        k: int | tf.Tensor,
        among: tf.Tensor | None,
        shape: Sequence[int],
        held: tf.Tensor | None = None,
    ) -> tf.Tensor:
        k = tf.cast(k, tf.int32)
        if held is None:
            return selection.top_k_of_columns(units, self.quota(k, shape), among)
        quota = self.quota(k + selection.count_active(held), shape)
        return selection.top_k_of_columns(units, quota - _counts(held), among)

    def _top_of_both(self, units: tf.Tensor, k: tf.Tensor, among: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
        # Active weights first: equal scores go to the lower row.
        both, candidates = (tf.concat(tf.unstack(stacked), axis=1) for stacked in (units, among))
        return tf.stack(tf.split(self._top(both, k, candidates, shape), 2, axis=1))

    def _after_global_ranking(
        self, marks: tf.Tensor, scores: tf.Tensor, uniform_share: tf.Tensor, among: tf.Tensor | None
    ) -> tf.Tensor:
        count = selection.count_active(marks) if self.fixed_sparsity is None else uniform_share
        return self.select(scores, count, among)


@dataclasses.dataclass(frozen=True)
class NM(Grouped):
    """N:M sparsity (Zhou et al. 2021): n of every m consecutive inputs of an output are active.

    Inputs are in the order of the matrix product: for a convolution height, width, input channel, the last fastest, as
    in implicit-GEMM kernels on channels-last data. A last group of fewer than m inputs has at most n active weights.
    Gradual pruning passes from m through m - 1, m - 2, ... to n active weights per group (Kao et al. 2022).

    Attributes:
      n: active weights per group (count).
      m: group size (count); sparse tensor cores execute 2:4.

    Examples:
      >>> import tensorflow as tf
      >>> from sparse_lib import NM
      >>> scores = tf.constant([[1.0], [4.0], [3.0], [2.0]])  # [inputs, outputs]
      >>> NM(2, 4).select(scores, 2).numpy().ravel().tolist()
      [False, True, True, False]
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        """Checks the counts.

        Raises:
          ValueError: unless 0 < n < m.
        """
        if not 0 < self.n < self.m:
            raise InputError(f"N:M sparsity keeps n of m weights, 0 < n < m; got {self}, give for example NM(2, 4).")

    def __str__(self) -> str:
        """Name in configurations and mask files."""
        return f"{self.n}:{self.m}"

    @property
    def fixed_sparsity(self) -> float:
        """1 - n / m (fraction)."""
        return 1 - self.n / self.m

    def group_size(self, inputs: int) -> int:
        """m, for every kernel."""
        del inputs
        return self.m

    def budget(self, shape: Sequence[int], weights: int) -> int:
        """All weights if dense, else n per group (count)."""
        size = self.size(shape)
        if abs(weights - size * self.n / self.m) > 1 and weights != size:
            raise InputError(
                f"{self} sparsity leaves {self.n / self.m:.4f} of the weights, not {weights / size:.4f}: make the "
                f"sparsity {self.fixed_sparsity:.4g} and the distribution uniform, or the layer dense with 0."
            )
        return size if weights == size else self._total(shape, self.n)

    def quota(self, k: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
        """The smallest quota in n..m at which the kernel has at least k active weights."""
        # Targets are computed in float32, hence the allowance.
        totals = [int(self._total(shape, quota) * (1 + 1e-6)) for quota in range(self.n, self.m)]
        return (self.n + selection.count_active(k > tf.constant(totals))) * tf.minimum(k, 1)

    def fits(self, mask: tf.Tensor) -> bool:
        """Whether no group has more than n active weights, or the mask is full."""
        return bool(tf.reduce_all(mask)) or int(tf.reduce_max(self.group_counts(mask))) <= self.n

    def _total(self, shape: Sequence[int], quota: int) -> int:
        inputs, outputs = self._matrix_shape(shape)
        whole, rest = divmod(inputs, self.m)
        return outputs * (whole * quota + min(rest, quota))


@dataclasses.dataclass(frozen=True)
class ConstantFanIn(Grouped):
    """Constant fan-in (Lasby et al. 2024): all outputs have the same number of active inputs, or none if ablated."""

    def __str__(self) -> str:
        """Name in configurations and mask files."""
        return "constant_fan_in"

    def group_size(self, inputs: int) -> int:
        """All inputs: one group per output."""
        return inputs

    def budget(self, shape: Sequence[int], weights: int) -> int:
        """Number of outputs x the nearest fan-in, which is at least 1 (count)."""
        outputs = self._matrix_shape(shape)[1]
        return outputs * max(round(weights / outputs), min(weights, 1))

    def quota(self, k: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
        """round(k / outputs), at least 1 for positive k."""
        outputs = self._matrix_shape(shape)[1]
        return tf.maximum((2 * k + outputs) // (2 * outputs), tf.minimum(k, 1))

    def fits(self, mask: tf.Tensor) -> bool:
        """Whether all outputs have the same fan-in or fan-in 0."""
        fan_in = self.group_counts(mask)
        return bool(tf.reduce_all((fan_in == 0) | (fan_in == tf.reduce_max(fan_in))))


def _counts(marks: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(marks, tf.int32), axis=1, keepdims=True)
