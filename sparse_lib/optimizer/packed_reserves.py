"""The weights of Top-KAST's set B as vectors: the active ones, which layers multiply by, and the reserve."""

import functools
from collections.abc import Callable, Sequence

import tensorflow as tf

from sparse_lib import selection
from sparse_lib.execution.products import Structure
from sparse_lib.optimizer.packed import PackedKernels
from sparse_lib.optimizer.tracked import TrackedKernel
from sparse_lib.updaters import TopKAST, Updater


class PackedReserves(PackedKernels):
    """Vectors of the weights of set B, theta = kernel + reserve; layers multiply by theta on A, and by 0 elsewhere.

    Attributes:
      tracked: the kernels.
    """

    def __init__(self, tracked: Sequence[TrackedKernel]) -> None:
        """Creates the vectors, empty.

        Args:
          tracked: the kernels.
        """
        super().__init__(tracked)
        self._active = [_make_vector(tf.bool) for _ in tracked]
        self._backward = [_make_vector(t.kernel.dtype) for t in tracked]

    @property
    def factors(self) -> list[Callable[[], tf.Tensor]]:
        """Functions that read theta on A; their gradients by theta are those of the factors, on all of B."""
        pairs = zip(self.weights, self._active, strict=True)
        return [functools.partial(_pass_active, theta, active) for theta, active in pairs]

    @property
    def masks(self) -> list[tf.Variable | None]:
        """Which weights of B belong to A."""
        return list(self._active)

    def count_active(self) -> list[tf.Tensor]:
        """Returns the sizes of A."""
        return [tf.math.count_nonzero(tf.convert_to_tensor(active), dtype=tf.int32) for active in self._active]

    def training_gradients(self, updater: Updater, grads: Sequence[tf.Tensor | None]) -> dict[int, tf.Tensor]:
        """Returns the gradients on B, with the exploration penalty."""
        if not isinstance(updater, TopKAST):
            raise TypeError(f"{updater.label} has no set B.")
        found = {}
        for tracked, theta, active, backward in zip(
            self.tracked, self.weights, self._active, self._backward, strict=True
        ):
            gradient = grads[tracked.position]
            if gradient is not None:
                parts = (tf.convert_to_tensor(part) for part in (active, theta, backward))
                mask, weights, state = parts
                size = tracked.mask.shape.num_elements()
                found[tracked.position] = updater.partial_gradient(gradient, mask, weights, {"backward": state}, size)
        return found

    def project(self) -> None:
        """Sets averages to zero off A."""
        for tracked, vectors, active in zip(self.tracked, self._vectors, self._active, strict=True):
            for slot, vector in zip(tracked.slots, vectors[1:], strict=True):
                if slot is tracked.average:
                    vector.assign(selection.on_mask(tf.convert_to_tensor(active), tf.convert_to_tensor(vector)))

    def pack(self, structures: Sequence[Structure]) -> None:
        """Fills the vectors from the kernels with their reserves, and from their slots."""
        for tracked, active, backward, structure in zip(
            self.tracked, self._active, self._backward, structures, strict=True
        ):
            for vector, dense in ((active, tracked.mask), (backward, tracked.state["backward"].value)):
                vector.assign(tf.gather(tf.reshape(tf.convert_to_tensor(dense), [-1]), structure.index))
            tracked.join_reserve(tf.distribute.get_strategy())
        super().pack(structures)

    def unpack(self, structures: Sequence[Structure]) -> None:
        """Writes the vectors back into kernels, reserves and slots."""
        super().unpack(structures)
        for tracked in self.tracked:
            tracked.split_reserve(tf.distribute.get_strategy())
            tracked.project(tf.distribute.get_strategy())


def _pass_active(theta: tf.Variable, active: tf.Variable) -> tf.Tensor:
    @tf.custom_gradient
    def pass_active(theta: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        return selection.on_mask(tf.convert_to_tensor(active), theta), lambda upstream: upstream

    return pass_active(tf.convert_to_tensor(theta))


def _make_vector(dtype: str | tf.DType) -> tf.Variable:
    return tf.Variable(tf.zeros([0], dtype), trainable=False, shape=[None])
