"""Structures of whole tiles: blocks and output channels."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from sparse_lib._utils.errors import InputError
from sparse_lib.structures.base import Structure


@dataclasses.dataclass(frozen=True)
class _Tiled(Structure):
    """Rectangular tiles of the matrix [inputs, outputs], each active or inactive as a whole."""

    def _sides(self, shape: Sequence[int]) -> tuple[int, int]:
        """Height (inputs) and width (outputs) of a tile (count)."""
        raise NotImplementedError

    def size(self, shape: Sequence[int]) -> int:
        """Number of tiles (count)."""
        return math.prod(self._counts(shape))

    def fits(self, mask: tf.Tensor) -> bool:
        """Whether every tile is active or inactive as a whole."""
        return bool(tf.reduce_all(self._expand(self._units_of(mask), mask.shape) == mask))

    def _counts(self, shape: Sequence[int]) -> tuple[int, int]:
        """Number of tiles along the inputs and the outputs, including partial ones at the edges."""
        (inputs, outputs), (high, wide) = self._matrix_shape(shape), self._sides(shape)
        return -(-inputs // high), -(-outputs // wide)

    def _tiles(self, kernel: tf.Tensor, padding: float = 0) -> tf.Tensor:
        """The kernel as [tile rows, tile height, tile columns, tile width], filled up at its edges."""
        matrix, (high, wide) = self.to_matrix(kernel), self._sides(kernel.shape)
        rows, columns = self._counts(kernel.shape)
        beyond = [[0, rows * high - matrix.shape[0]], [0, columns * wide - matrix.shape[1]]]
        padded = tf.pad(matrix, beyond, constant_values=padding)
        return tf.reshape(padded, [rows, high, columns, wide])

    def _to_units(self, scores: tf.Tensor) -> tf.Tensor:
        (inputs, outputs), (high, wide) = self._matrix_shape(scores.shape), self._sides(scores.shape)
        rows, columns = self._counts(scores.shape)
        covered = np.outer(
            np.minimum(high, inputs - high * np.arange(rows)), np.minimum(wide, outputs - wide * np.arange(columns))
        )
        return tf.reduce_sum(self._tiles(scores), axis=[1, 3]) / tf.constant(covered, scores.dtype)

    def _units_of(self, mask: tf.Tensor) -> tf.Tensor:
        return tf.reduce_any(self._tiles(mask), axis=[1, 3])

    def _expand(self, marks: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
        (inputs, outputs), (high, wide) = self._matrix_shape(shape), self._sides(shape)
        rows, columns = self._counts(shape)
        tiles = tf.broadcast_to(marks[:, None, :, None], [rows, high, columns, wide])
        return self.from_matrix(tf.reshape(tiles, [rows * high, columns * wide])[:inputs, :outputs], shape)


@dataclasses.dataclass(frozen=True)
class Block(_Tiled):
    """Block sparsity (Narang et al. 2017): rectangular blocks of the matrix [inputs, outputs] are active or inactive.

    The score of a block is the mean or the maximum over its weights. Blocks at the lower and right edges are smaller
    where the block size does not divide the matrix.

    Attributes:
      inputs: height of a block, along the inputs (count).
      columns: width of a block, along the outputs (count).
      pooling: of scores, `mean` or `max` (the poolings AVG and MAX of Graphcore's dynamic sparse MNIST).

    Examples:
      >>> import tensorflow as tf
      >>> from sparse_lib import Block
      >>> scores = tf.constant([[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 3.0]])  # means 1 and 0.75, maxima 1 and 3
      >>> Block(2, 2).select(scores, 1)[0].numpy().tolist()
      [True, True, False, False]
      >>> Block(2, 2, pooling="max").select(scores, 1)[0].numpy().tolist()
      [False, False, True, True]
    """

    inputs: int
    columns: int
    pooling: str = "mean"

    def __post_init__(self) -> None:
        """Checks the block size and the pooling.

        Raises:
          ValueError: if a side is below 1, or the pooling is unknown.
        """
        if self.pooling not in ("mean", "max"):
            raise InputError(f"The scores of a block are pooled by 'mean' or 'max'; got {self.pooling!r}.")
        if min(self.inputs, self.columns) < 1:
            raise InputError(f"A block has sides of at least 1; got {self}, give for example Block(4, 4).")

    def __str__(self) -> str:
        """Name in configurations and mask files."""
        return f"block:{self.inputs}x{self.columns}" + ("" if self.pooling == "mean" else f":{self.pooling}")

    def _sides(self, shape: Sequence[int]) -> tuple[int, int]:
        del shape
        return self.inputs, self.columns

    def _to_units(self, scores: tf.Tensor) -> tf.Tensor:
        if self.pooling == "mean":
            return super()._to_units(scores)
        return tf.reduce_max(self._tiles(scores, padding=scores.dtype.min), axis=[1, 3])


@dataclasses.dataclass(frozen=True)
class Channel(_Tiled):
    """Output-channel sparsity: all weights of an output are active, or none.

    The score of a channel is the mean over its weights. A classifier whose last kernel loses channels loses classes:
    exclude that kernel.

    Examples:
      >>> import tensorflow as tf
      >>> from sparse_lib import Channel
      >>> scores = tf.constant([[1.0, 5.0], [2.0, 0.0]])  # [inputs, outputs]
      >>> Channel().select(scores, 1).numpy().tolist()  # the second output has the higher mean
      [[False, True], [False, True]]
    """

    def __str__(self) -> str:
        """Name in configurations and mask files."""
        return "channel"

    @property
    def is_free(self) -> bool:
        """False: the size of a channel differs between kernels, it is the number of inputs."""
        return False

    def _sides(self, shape: Sequence[int]) -> tuple[int, int]:
        return self._matrix_shape(shape)[0], 1
