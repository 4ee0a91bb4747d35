"""Subspaces of a model's trainable variables, as the coordinates of curvature matrices."""

import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Self

import keras
import numpy as np
import tensorflow as tf

from sparse_lib._utils.errors import InputError
from sparse_lib.masks import Masks


@dataclass(frozen=True, eq=False)
class Subspace:
    """A selection of n entries of the trainable variables, read as a vector in the order of the variables.

    Lists of tensors are in the order of `model.trainable_variables`.

    Attributes:
      shapes: shape of each variable.
      names: path of each variable inside the model, such as `conv1/kernel`.
      indices: sorted flat indices of the selected entries of each variable, int64; may be empty.
    """

    shapes: tuple[tuple[int, ...], ...]
    names: tuple[str, ...]
    indices: tuple[np.ndarray, ...]

    def __post_init__(self) -> None:
        """Checks that the subspace is not empty.

        Raises:
          ValueError: if no entry is selected.
        """
        if self.size == 0:
            raise InputError(f"No weight of {', '.join(self.names)} is active: choose variables with active weights.")

    @classmethod
    def active(cls, model: keras.Model, masks: Masks | None = None) -> Self:
        """Active weights of sparse kernels and all entries of other trainable variables (biases, norms).

        Args:
          model: a built model.
          masks: masks of its kernels; None means that all weights are active.

        Returns:
          The subspace.

        Raises:
          ValueError: if the masks belong to another model, or the model has no trainable variables.
        """
        variables = model.trainable_variables
        if not variables:
            raise InputError(f"Model {model.name!r} has no trainable variables: build it, or unfreeze a layer.")
        if masks is not None and not {id(k) for k in masks.kernels} <= {id(v) for v in model.variables}:
            raise InputError(f"The masks are not those of model {model.name!r}: pass the masks of its own kernels.")
        aligned = masks.aligned(variables) if masks is not None else [None] * len(variables)
        chosen = [
            np.arange(np.prod(v.shape), dtype=np.int64) if m is None else np.flatnonzero(m.numpy())
            for v, m in zip(variables, aligned, strict=True)
        ]
        # Sequential and subclassed models put their own name before the paths of their variables.
        names = tuple(v.path.removeprefix(f"{model.name}/") for v in variables)
        return cls(tuple(tuple(v.shape) for v in variables), names, tuple(chosen))

    @classmethod
    def all(cls, model: keras.Model) -> Self:
        """All trainable weights, active or not.

        Args:
          model: a built model.

        Returns:
          The subspace.

        Raises:
          ValueError: if the model has no trainable variables.
        """
        return cls.active(model)

    def only(self, which: str | Callable[[str], bool]) -> Self:
        """Restricts the subspace to some variables, such as one layer.

        Args:
          which: path of a variable or layer, a glob pattern of either, or a predicate of variable paths.

        Returns:
          A subspace with the same variables, of which those that do not match have no coordinates.

        Raises:
          ValueError: if no variable with coordinates matches.
        """
        if isinstance(which, str):
            patterns = (which, f"{which}/*")
            matches = [any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns) for name in self.names]
        else:
            matches = [bool(which(name)) for name in self.names]
        if not any(len(index) for index, match in zip(self.indices, matches, strict=True) if match):
            choices = ", ".join(name for name, index in zip(self.names, self.indices, strict=True) if len(index))
            raise InputError(f"No active weight is in a variable that matches {which!r}: choose among {choices}.")
        empty = np.zeros(0, np.int64)
        chosen = [index if match else empty for index, match in zip(self.indices, matches, strict=True)]
        return type(self)(self.shapes, self.names, tuple(chosen))

    @cached_property
    def size(self) -> int:
        """Number of coordinates n (count)."""
        return sum(len(index) for index in self.indices)

    @cached_property
    def slices(self) -> tuple[slice, ...]:
        """Slice of the vector with the coordinates of each variable."""
        ends = accumulate((len(index) for index in self.indices), initial=0)
        return tuple(slice(start, stop) for start, stop in pairwise(ends))

    def positions(self, part: "Subspace") -> np.ndarray:
        """Positions in this subspace's vector of the coordinates of a smaller subspace.

        Args:
          part: a subspace of the same variables, contained in this one.

        Returns:
          Sorted positions, int64, [part.size].

        Raises:
          ValueError: if the part has other variables or coordinates outside this subspace.
        """
        if part.shapes != self.shapes:
            raise InputError("The two subspaces are of different models: take both from one.")
        own, wanted = self._flat_indices, part._flat_indices
        found = np.searchsorted(own, wanted)
        if not np.array_equal(own[np.minimum(found, self.size - 1)], wanted):
            raise InputError("The part has coordinates outside of this subspace: take it from `only`.")
        return found

    def gather(self, tensors: Sequence[tf.Tensor]) -> tf.Tensor:
        """Collects the selected entries of tensors in a vector.

        Args:
          tensors: one per variable, of its shape, or batched, [k, *shape].

        Returns:
          Vector [n], or batch of vectors [k, n]; float64 if the tensors differ in dtype.
        """
        tensors = [tf.convert_to_tensor(tensor) for tensor in tensors]
        dtypes = {tensor.dtype for tensor in tensors}
        dtype = tensors[0].dtype if len(dtypes) == 1 else tf.float64
        parts = []
        for tensor, shape, entries in zip(tensors, self.shapes, self._entries, strict=True):
            many = [tf.shape(tensor)[0]] if tensor.shape.rank > len(shape) else []
            flat = tf.reshape(tf.cast(tensor, dtype), [*many, int(np.prod(shape))])
            parts.append(flat if entries is None else tf.gather(flat, entries, axis=-1))
        return tf.concat(parts, axis=-1)

    def scatter(self, vector: tf.Tensor) -> list[tf.Tensor]:
        """Writes a vector to the selected entries of tensors that are zero elsewhere; the adjoint of `gather`.

        Args:
          vector: vector [n], or batch of vectors [k, n].

        Returns:
          One tensor per variable, of its shape or [k, *shape], in the vector's dtype.
        """
        vector = tf.convert_to_tensor(vector)
        many = [tf.shape(vector)[0]] if vector.shape.rank > 1 else []
        tensors = []
        for where, shape, source in zip(self.slices, self.shapes, self._sources, strict=True):
            part = vector[..., where]
            if source is not None:
                # Entries that are not selected read the zero appended at the end.
                zero = tf.zeros([*many, 1], vector.dtype)
                part = tf.gather(tf.concat([part, zero], axis=-1), source, axis=-1)
            tensors.append(tf.reshape(part, [*many, *shape]))
        return tensors

    @cached_property
    def _flat_indices(self) -> np.ndarray:
        """Sorted indices of the selected entries in the concatenation of all variables."""
        starts = accumulate((int(np.prod(shape)) for shape in self.shapes), initial=0)
        return np.concatenate([start + index for start, index in zip(starts, self.indices, strict=False)])

    @cached_property
    def _entries(self) -> list[tf.Tensor | None]:
        """Flat indices as tensors; None for a variable that is selected as a whole."""
        whole = [len(index) == np.prod(shape) for index, shape in zip(self.indices, self.shapes, strict=True)]
        with tf.init_scope():
            return [None if w else tf.constant(index) for w, index in zip(whole, self.indices, strict=True)]

    @cached_property
    def _sources(self) -> list[tf.Tensor | None]:
        """Position of each entry of a variable among the selected ones, or their number if not selected."""
        sources: list[tf.Tensor | None] = []
        with tf.init_scope():
            for index, shape, entries in zip(self.indices, self.shapes, self._entries, strict=True):
                source = np.full(int(np.prod(shape)), len(index), np.int32)
                source[index] = np.arange(len(index), dtype=np.int32)
                sources.append(None if entries is None else tf.constant(source))
        return sources
