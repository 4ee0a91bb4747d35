"""Active weights and their slots as vectors, on which an inner optimizer steps between mask updates."""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import keras
import tensorflow as tf

from sparse_lib._keras.stand_ins import replace_variables
from sparse_lib.execution.products import Structure
from sparse_lib.optimizer.tracked import TrackedKernel
from sparse_lib.updaters import Updater


class PackedKernels:
    """Vectors of the active weights of some kernels, and of their optimizer slots.

    `pack` fills them, steps inside of `in_place` change them, and `unpack` writes them back. Kernels and slots are out
    of date in between.

    Attributes:
      tracked: the kernels.
    """

    def __init__(self, tracked: Sequence[TrackedKernel]) -> None:
        """Creates the vectors, empty.

        Args:
          tracked: the kernels.
        """
        self.tracked = list(tracked)
        self._variables = [[t.kernel, *t.slots] for t in tracked]
        self._vectors = [[_make_vector(v) for v in variables] for variables in self._variables]

    @property
    def weights(self) -> list[tf.Variable]:
        """The vector of the active weights of each kernel, trainable."""
        return [vectors[0] for vectors in self._vectors]

    @property
    def factors(self) -> list[Callable[[], tf.Tensor]]:
        """Functions that read what each layer multiplies by, a vector that depends on `weights`."""
        return [functools.partial(tf.convert_to_tensor, vector) for vector in self.weights]

    @property
    def masks(self) -> list[tf.Variable | None]:
        """Which of `weights` are active, boolean vectors; None where all are."""
        return [None] * len(self.tracked)

    def count_active(self) -> list[tf.Tensor]:
        """Returns the number of active weights of each kernel, integer scalars (count)."""
        return [tf.size(tf.convert_to_tensor(vector)) for vector in self.weights]

    def training_gradients(self, updater: Updater, grads: Sequence[tf.Tensor | None]) -> dict[int, tf.Tensor]:
        """Returns the gradients for the inner optimizer where they differ from those of the loss.

        Args:
          updater: decides which weights train.
          grads: of all trainable variables; those of packed kernels are vectors.

        Returns:
          Vectors by position among the trainable variables.
        """
        del updater, grads
        return {}

    def project(self) -> None:
        """Sets to zero, after a step, what is zero in a kernel with its slots, but is not in the vectors."""

    def pack(self, structures: Sequence[Structure]) -> None:
        """Fills the vectors from the kernels and their slots.

        Args:
          structures: of the weights that train.
        """
        for variables, vectors, structure in zip(self._variables, self._vectors, structures, strict=True):
            for variable, vector in zip(variables, vectors, strict=True):
                vector.assign(tf.gather(tf.reshape(variable.value, [-1]), structure.index))

    def unpack(self, structures: Sequence[Structure]) -> None:
        """Writes the vectors back; what is off the mask stays.

        Args:
          structures: as given to `pack`.
        """
        for variables, vectors, structure in zip(self._variables, self._vectors, structures, strict=True):
            for variable, vector in zip(variables, vectors, strict=True):
                flat = tf.reshape(variable.value, [-1])
                flat = tf.tensor_scatter_nd_update(flat, structure.index[:, None], vector)
                variable.value.assign(tf.reshape(flat, variable.shape))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Lets kernels and slots stand for their vectors inside the context."""
        variables = [v for group in self._variables for v in group]
        vectors = [v for group in self._vectors for v in group]
        with replace_variables(variables, vectors):
            yield


def _make_vector(variable: keras.Variable) -> tf.Variable:
    # Of the same name, by which Keras excludes variables from weight decay.
    return tf.Variable(tf.zeros([0], variable.dtype), trainable=True, shape=[None], name=variable.name)
