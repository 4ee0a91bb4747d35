"""A finite data set as batches that can be iterated repeatedly."""

import math
from collections.abc import Iterable, Iterator
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf

from sparse_lib._utils.errors import InputError

_ADVICE = "pass (x, y) arrays, a tf.data.Dataset of (x, y) batches, or a list of (x, y) batches"


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

    @classmethod
    def of(cls, data: Any, batch_size: int) -> Self:
        """Batches of arrays, of a dataset, or of other batches.

        Args:
          data: a tuple (x, y) of arrays or nested structures of arrays; a finite `tf.data.Dataset` of such batches; or
            a list or other iterable of such batches, which is read into memory.
          batch_size: examples per batch (count); the last batch may be smaller.

        Returns:
          The batches. A dataset is read once to count its examples, and again in every pass.

        Raises:
          ValueError: for an empty or infinite data set, arrays of unequal length, or data of another kind.
        """
        if batch_size < 1:
            raise InputError(f"The batch size must be at least 1, got {batch_size}.")
        if isinstance(data, tf.data.Dataset):
            return cls._of_dataset(data, batch_size)
        if not isinstance(data, tuple):
            data = _concatenate(data)
        arrays = _Arrays(data, batch_size)
        return cls(arrays, arrays.examples, batch_size)

    @classmethod
    def _of_dataset(cls, data: tf.data.Dataset, batch_size: int) -> Self:
        if data.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise InputError("The dataset is infinite: take a finite number of batches of it, `dataset.take(n)`.")
        if not isinstance(data.element_spec, tuple) or len(data.element_spec) != 2:
            raise InputError(f"The dataset yields {data.element_spec}: {_ADVICE}.")
        source = data.rebatch(batch_size).prefetch(1)
        examples = sum(count_examples(x) for x, _ in source)
        if examples == 0:
            raise InputError(f"The data set is empty: {_ADVICE}.")
        return cls(source, examples, batch_size)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        """Iterates over batches (x, y) of tensors or nested structures of tensors, examples along the first axis."""
        for x, y in self._source:
            yield keras.tree.map_structure(tf.convert_to_tensor, (x, y))

    def __len__(self) -> int:
        """Number of batches (count)."""
        return math.ceil(self.examples / self.batch_size)


def count_examples(x: Any) -> int:
    """Counts the examples of a batch.

    Args:
      x: a tensor or nested structure of tensors, examples along the first axis.

    Returns:
      Length of the first tensor (count).
    """
    return int(keras.tree.flatten(x)[0].shape[0])


def _concatenate(data: Any) -> tuple[Any, Any]:
    """Concatenates a list of batches to arrays."""
    pairs = list(data) if isinstance(data, Iterable) else []
    if not pairs or not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in pairs):
        raise InputError(f"Batches cannot be made of {type(data).__name__}: {_ADVICE}.")
    batches = [(x, y) for x, y in pairs]
    return keras.tree.map_structure(lambda *parts: np.concatenate([np.asarray(part) for part in parts]), *batches)


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
