"""A finite data set as batches that can be iterated repeatedly."""

import math
from collections.abc import Iterable, Iterator
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf

from sparse_lib._utils.errors import InputError

_ADVICE = "pass (x, y) arrays, a tf.data.Dataset of (x, y) batches, or a list of (x, y) batches"

# Examples per pass of every measurement that is not told otherwise (count).
BATCH_SIZE = 1000


class Batches:
    """Batches (x, y) of a finite data set, identical in every pass.

    Attributes:
      examples: examples in all batches (count).
      batch_size: examples per batch, except the last (count).
    """

    def __init__(self, source: Iterable[tuple[Any, Any]], examples: int, batch_size: int) -> None:
        """Creates batches from an iterable; use `of` for arrays and datasets.

        Args:
          source: iterable that yields the same batches in every pass.
          examples: examples in all batches (count).
          batch_size: examples per batch, except the last (count).
        """
        self._source = source
        self.examples = examples
        self.batch_size = batch_size
        self._count = math.ceil(examples / batch_size)

    @classmethod
    def of(cls, data: Any, batch_size: int = BATCH_SIZE) -> Self:
        """Batches of arrays, of a dataset, or of other batches.

        Args:
          data: a tuple (x, y) of arrays or nested structures of arrays; a finite `tf.data.Dataset` of such batches; a
            `keras.utils.PyDataset`; a list or other iterable of such batches, which is read into memory, once; or
            `Batches`, which stay as they are.
          batch_size: examples per batch (count); the last batch may be smaller. Given batches of different shapes, such
            as sentences padded to the longest in the batch, are not joined, only split.

        Returns:
          The batches. A dataset is read once to count its examples, and again in every pass.

        Raises:
          ValueError: for an empty or infinite data set, arrays of unequal length, or data of another kind.
        """
        if batch_size < 1:
            raise InputError(f"The batch size must be at least 1, got {batch_size}.")
        if isinstance(data, cls):
            return data
        if isinstance(data, tf.data.Dataset):
            return cls._of_dataset(data, batch_size)
        if isinstance(data, keras.utils.PyDataset):
            data = [data[index] for index in range(_count_batches(data))]
        parts = [_Arrays(part, batch_size) for part in ([data] if isinstance(data, tuple) else _concatenate(data))]
        batches = cls(_Chained(parts), sum(part.examples for part in parts), batch_size)
        batches._count = sum(math.ceil(part.examples / batch_size) for part in parts)
        return batches

    @classmethod
    def _of_dataset(cls, data: tf.data.Dataset, batch_size: int) -> Self:
        if data.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise InputError("The dataset is infinite: take a finite number of batches of it, `dataset.take(n)`.")
        if not isinstance(data.element_spec, tuple) or len(data.element_spec) != 2:
            raise InputError(f"The dataset yields {data.element_spec}: {_ADVICE}.")
        if any(spec.shape.rank == 0 for spec in keras.tree.flatten(data.element_spec)):
            raise InputError("The dataset yields single examples: give batches, `dataset.batch(n)`.")
        source = _rebatch(data, batch_size).prefetch(1)
        counts = [count_examples(x) for x, _ in source]
        if not sum(counts):
            raise InputError(f"The data set is empty: {_ADVICE}.")
        batches = cls(source, sum(counts), batch_size)
        batches._count = len(counts)
        return batches

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        """Iterates over batches (x, y) of tensors or nested structures of tensors, examples along the first axis."""
        for x, y in self._source:
            yield keras.tree.map_structure(tf.convert_to_tensor, (x, y))

    def __len__(self) -> int:
        """Number of batches (count)."""
        return self._count


def count_examples(x: Any) -> int:
    """Counts the examples of a batch.

    Args:
      x: a tensor or nested structure of tensors, examples along the first axis.

    Returns:
      Length of the first tensor (count).
    """
    return int(keras.tree.flatten(x)[0].shape[0])


def _count_batches(data: keras.utils.PyDataset) -> int:
    count = data.num_batches
    if count is None:
        raise InputError("The PyDataset has no number of batches: give it one, or pass a list of its batches.")
    return int(count)


def _rebatch(data: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
    """Batches of the given size; those of a dataset whose batches may differ in shape are split, not joined."""
    specs = keras.tree.flatten(data.element_spec)
    if all(spec.shape.rank and None not in spec.shape[1:] for spec in specs):
        return data.rebatch(batch_size)
    return data.flat_map(lambda x, y: tf.data.Dataset.from_tensor_slices((x, y)).batch(batch_size))


def _concatenate(data: Any) -> list[tuple[Any, Any]]:
    """Concatenates a list of batches to arrays, one pair; the batches as they are if their shapes do not allow it."""
    pairs = list(data) if isinstance(data, Iterable) else []
    if not pairs or not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in pairs):
        raise InputError(f"Batches cannot be made of {type(data).__name__}: {_ADVICE}.")
    batches = [keras.tree.map_structure(np.asarray, (x, y)) for x, y in pairs]
    shapes = {tuple(part.shape[1:] for part in keras.tree.flatten(batch)) for batch in batches}
    if len(shapes) > 1:
        return batches
    joined = keras.tree.map_structure(lambda *parts: np.concatenate(parts), *batches)
    return [joined]


class _Chained:
    """Iterates over the batches of several parts."""

    def __init__(self, parts: "list[_Arrays]") -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for part in self._parts:
            yield from part


class _Arrays:
    """Iterates over slices of arrays, in order."""

    def __init__(self, data: tuple[Any, ...], batch_size: int) -> None:
        if len(data) != 2:
            raise InputError(f"Got a tuple of {len(data)} parts: {_ADVICE}.")
        self._data = keras.tree.map_structure(lambda a: a if hasattr(a, "shape") else np.asarray(a), data)
        lengths = [array.shape[0] if len(array.shape) else 0 for array in keras.tree.flatten(self._data)]
        if len(set(lengths)) != 1 or not lengths[0]:
            raise InputError(f"Arrays have {', '.join(map(str, lengths))} examples: pass equally many of each, not 0.")
        self.examples = int(lengths[0])
        self._batch_size = batch_size

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for start in range(0, self.examples, self._batch_size):
            part = slice(start, start + self._batch_size)
            yield keras.tree.map_structure(lambda array, part=part: array[part], self._data)
