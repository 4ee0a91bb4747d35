"""Structures that keep or drop whole parts of a kernel: blocks and output channels."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from sparse_lib._utils.errors import InputError
from sparse_lib.structures.base import Structure


@dataclasses.dataclass(frozen=True)
class _Parts(Structure):
    """Rectangles of the matrix inputs x outputs, each active or not as one."""

    def _sides(self, shape: Sequence[int]) -> tuple[int, int]:
        """Inputs and outputs of a part (count)."""
        raise NotImplementedError

    def size(self, shape: Sequence[int]) -> int:
        """Number of parts (count)."""
        return math.prod(self._counts(shape))

    def fits(self, mask: tf.Tensor) -> bool:
        """Whether every part is active or inactive as a whole."""
        return bool(tf.reduce_all(self._weights(self._marks(mask), mask.shape) == mask))

    def _counts(self, shape: Sequence[int]) -> tuple[int, int]:
        """Parts side by side along the inputs and the outputs; the last may be cut off."""
        (inputs, outputs), (high, wide) = self._matrix_shape(shape), self._sides(shape)
        return -(-inputs // high), -(-outputs // wide)

    def _tiles(self, kernel: tf.Tensor) -> tf.Tensor:
        """[parts along inputs, inputs of a part, parts along outputs, outputs of a part], filled up with zeros."""
        matrix, (high, wide) = self._matrix(kernel), self._sides(kernel.shape)
        rows, columns = self._counts(kernel.shape)
        beyond = [[0, rows * high - matrix.shape[0]], [0, columns * wide - matrix.shape[1]]]
        return tf.reshape(tf.pad(matrix, beyond), [rows, high, columns, wide])

    def _units(self, scores: tf.Tensor) -> tf.Tensor:
        (inputs, outputs), (high, wide) = self._matrix_shape(scores.shape), self._sides(scores.shape)
        rows, columns = self._counts(scores.shape)
        covered = np.outer(
            np.minimum(high, inputs - high * np.arange(rows)), np.minimum(wide, outputs - wide * np.arange(columns))
        )
        return tf.reduce_sum(self._tiles(scores), axis=[1, 3]) / tf.constant(covered, scores.dtype)

    def _marks(self, mask: tf.Tensor) -> tf.Tensor:
        return tf.reduce_any(self._tiles(mask), axis=[1, 3])

    def _weights(self, marks: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
        (inputs, outputs), (high, wide) = self._matrix_shape(shape), self._sides(shape)
        rows, columns = self._counts(shape)
        tiles = tf.broadcast_to(marks[:, None, :, None], [rows, high, columns, wide])
        return self._kernel(tf.reshape(tiles, [rows * high, columns * wide])[:inputs, :outputs], shape)


@dataclasses.dataclass(frozen=True)
class Block(_Parts):
    """Blocks of the matrix inputs x outputs (Narang et al. 2017), scored by the mean over their weights.

    Blocks at the lower and right edge are cut off where the sides do not divide the matrix; counts are of blocks.

    Attributes:
      inputs: inputs of a block (count).
      columns: outputs of a block (count).
    """

    inputs: int
    columns: int

    def __post_init__(self) -> None:
        """Checks the sides.

        Raises:
          ValueError: if one is below 1.
        """
        if min(self.inputs, self.columns) < 1:
            raise InputError(f"A block has sides of at least 1; got {self}, give for example Block(4, 4).")

    def __str__(self) -> str:
        """Its name in configurations."""
        return f"block:{self.inputs}x{self.columns}"

    def _sides(self, shape: Sequence[int]) -> tuple[int, int]:
        del shape
        return self.inputs, self.columns


@dataclasses.dataclass(frozen=True)
class Channel(_Parts):
    """Output channels: all inputs of an output, or none, scored by the mean over its weights.

    Nothing is known of the layers: a classifier whose last kernel loses channels loses classes, so leave it dense.
    """

    def __str__(self) -> str:
        """Its name in configurations."""
        return "channel"

    @property
    def is_free(self) -> bool:
        """Never: a channel of one kernel has as many weights as that kernel has inputs."""
        return False

    def _sides(self, shape: Sequence[int]) -> tuple[int, int]:
        return self._matrix_shape(shape)[0], 1
