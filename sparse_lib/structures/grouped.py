"""Structures that give every group of weights the same quota: N:M and constant fan-in."""

import abc
import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from sparse_lib import selection
from sparse_lib._utils.errors import InputError
from sparse_lib.structures.base import Structure


@dataclasses.dataclass(frozen=True)
class Grouped(Structure):
    """Consecutive inputs of one output make a group, and each group has as many active weights."""

    @abc.abstractmethod
    def group_size(self, inputs: int) -> int:
        """Number of consecutive inputs in a group (count)."""

    @abc.abstractmethod
    def quota(self, k: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
        """Active weights of each group where the kernel is to have about k, int32 scalar (count)."""

    @property
    def is_free(self) -> bool:
        """Never: a kernel holds its quota of every group."""
        return False

    def fill(self, scores: tf.Tensor, quotas: tf.Tensor, kept: tf.Tensor) -> tf.Tensor:
        """Marks the weights of highest score that bring each group to a quota of its own.

        Args:
          scores: float tensor of the kernel's shape.
          quotas: int32, of a shape that broadcasts to [groups of an output, 1, outputs] (count).
          kept: boolean, what stays.

        Returns:
          Boolean tensor, disjoint from `kept`.
        """
        missing = quotas - self.group_counts(kept)
        chosen = selection.top_k_of_columns(self._units(scores), missing, self._marks(~kept))
        return self._weights(chosen, scores.shape)

    def group_counts(self, mask: tf.Tensor) -> tf.Tensor:
        """Active weights of each group, int32 [groups of an output, 1, outputs] (count)."""
        return _counts(self._marks(mask))

    def broadcast(self, groups: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
        """What is said of groups, said of their weights.

        Args:
          groups: of the shape of `group_counts`.
          shape: of the kernel.

        Returns:
          Tensor of the kernel's shape.
        """
        return self._weights(tf.broadcast_to(groups, self._groups(shape)), shape)

    def moved(self, scores: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """A mask with as many active weights in each group, wherever scores are highest."""
        return self.fill(scores, self.group_counts(mask), tf.zeros_like(mask))

    def _groups(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """Groups of an output, inputs of a group, and outputs."""
        inputs, outputs = self._matrix_shape(shape)
        size = self.group_size(inputs)
        return -(-inputs // size), size, outputs

    def _is_padded(self, shape: Sequence[int]) -> bool:
        return bool(self._matrix_shape(shape)[0] % self._groups(shape)[1])

    def _units(self, scores: tf.Tensor) -> tf.Tensor:
        matrix, (groups, size, outputs) = self._matrix(scores), self._groups(scores.shape)
        padded = tf.pad(matrix, [[0, groups * size - matrix.shape[0]], [0, 0]])
        return tf.reshape(padded, [groups, size, outputs])

    def _marks(self, mask: tf.Tensor) -> tf.Tensor:
        return self._units(mask)

    def _weights(self, marks: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
        inputs, outputs = self._matrix_shape(shape)
        return self._kernel(tf.reshape(marks, [-1, outputs])[:inputs], shape)

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

    def _settled(self, marks: tf.Tensor, scores: tf.Tensor, even: tf.Tensor, among: tf.Tensor | None) -> tf.Tensor:
        count = selection.count_active(marks) if self.fixed_sparsity is None else even
        return self.select(scores, count, among)


@dataclasses.dataclass(frozen=True)
class NM(Grouped):
    """N:M sparsity (Zhou et al. 2021): n active weights of every m consecutive inputs of an output.

    Inputs are consecutive as a matrix product sums over them: for a convolution height, width, input channel, of which
    the last runs fastest, as implicit-GEMM kernels on channels-last data have it. A last group of less than m inputs
    has at most n active weights. Gradual pruning goes through n + x of m to n of m (Kao et al. 2022).

    Attributes:
      n: active weights of a group (count).
      m: weights of a group (count); 2:4 is what sparse tensor cores execute.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        """Checks the counts.

        Raises:
          ValueError: if there are not 0 < n < m.
        """
        if not 0 < self.n < self.m:
            raise InputError(f"N:M sparsity keeps n of m weights, 0 < n < m; got {self}, give for example NM(2, 4).")

    def __str__(self) -> str:
        """Its name in configurations."""
        return f"{self.n}:{self.m}"

    @property
    def fixed_sparsity(self) -> float:
        """1 - n / m (fraction)."""
        return 1 - self.n / self.m

    def group_size(self, inputs: int) -> int:
        """m, whatever the kernel."""
        del inputs
        return self.m

    def budget(self, shape: Sequence[int], weights: int) -> int:
        """All weights, or n of each m."""
        size = self.size(shape)
        if abs(weights - size * self.n / self.m) > 1 and weights != size:
            raise InputError(
                f"{self} sparsity leaves {self.n / self.m:.4f} of the weights, {weights / size:.4f} was asked for: "
                f"make the sparsity {self.fixed_sparsity:.4g} and the distribution uniform, or the layer dense with 0."
            )
        return size if weights == size else self._total(shape, self.n)

    def quota(self, k: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
        """The least from n to m at which the kernel has k weights."""
        # Targets are computed in float32, hence the allowance.
        totals = [int(self._total(shape, quota) * (1 + 1e-6)) for quota in range(self.n, self.m)]
        return (self.n + selection.count_active(k > tf.constant(totals))) * tf.minimum(k, 1)

    def fits(self, mask: tf.Tensor) -> bool:
        """Whether no group has more than n, or all are full."""
        return bool(tf.reduce_all(mask)) or int(tf.reduce_max(self.group_counts(mask))) <= self.n

    def _total(self, shape: Sequence[int], quota: int) -> int:
        inputs, outputs = self._matrix_shape(shape)
        whole, rest = divmod(inputs, self.m)
        return outputs * (whole * quota + min(rest, quota))


@dataclasses.dataclass(frozen=True)
class ConstantFanIn(Grouped):
    """Constant fan-in (Lasby et al. 2024): every output has as many active inputs, or none if it was ablated."""

    def __str__(self) -> str:
        """Its name in configurations."""
        return "constant_fan_in"

    def group_size(self, inputs: int) -> int:
        """All inputs of an output."""
        return inputs

    def budget(self, shape: Sequence[int], weights: int) -> int:
        """The fan-in that comes nearest, at least 1, for every output."""
        outputs = self._matrix_shape(shape)[1]
        return outputs * max(round(weights / outputs), min(weights, 1))

    def quota(self, k: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
        """round(k / outputs), at least 1 of any k."""
        outputs = self._matrix_shape(shape)[1]
        return tf.maximum((2 * k + outputs) // (2 * outputs), tf.minimum(k, 1))

    def fits(self, mask: tf.Tensor) -> bool:
        """Whether all outputs have the same fan-in, or none."""
        fan_in = self.group_counts(mask)
        return bool(tf.reduce_all((fan_in == 0) | (fan_in == tf.reduce_max(fan_in))))


def _counts(marks: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(marks, tf.int32), axis=1, keepdims=True)
