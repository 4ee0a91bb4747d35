"""Boolean masks bound to the kernels of a model."""

import contextlib
from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from sparse_lib import selection, strategies


def _mask_variable(kernel: keras.Variable, value: tf.Tensor, name: str) -> tf.Variable:
    """A boolean variable with a copy wherever the kernel has one."""
    with getattr(strategies.owner(kernel.value), "scope", contextlib.nullcontext)():
        return tf.Variable(
            value,
            trainable=False,
            dtype=tf.bool,
            name=name,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )


def random_masks(shapes: Sequence[Sequence[int]], active: Sequence[int], seed: int) -> list[np.ndarray]:
    """Masks with given numbers of active weights at random places.

    Args:
      shapes: shape of each kernel.
      active: number of active weights of each kernel (count).
      seed: seed of the places; kernel i draws from (seed, i).

    Returns:
      One boolean array a kernel.
    """
    masks = []
    for index, (shape, count) in enumerate(zip(shapes, active, strict=True)):
        flat = np.zeros(int(np.prod(shape)), bool)
        flat[:count] = True
        masks.append(np.random.default_rng([seed, index]).permutation(flat).reshape(shape))
    return masks


class Masks(tf.Module):
    """Boolean masks bound to kernels, each kernel once, in the order of `model.trainable_variables`.

    A mask entry says whether a weight is active. The kernel of a masked weight holds exactly 0, so that
    evaluation, export and curvature all see a plain Keras model.

    Attributes:
      kernels: the sparse kernels, Keras variables.
      names: a name for each kernel, such as `conv1/kernel`.
      variables_by_kernel: the boolean mask variable of each kernel, of the kernel's shape.
      initial: numpy values of the kernels before anything was masked, for growth that returns to them.
      explored: boolean variables, every weight that was ever active (in-time over-parameterisation, ITOP).
    """

    def __init__(
        self,
        kernels: Sequence[keras.Variable],
        values: Sequence[tf.Tensor] | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        """Creates the masks and zeroes what they leave out.

        Args:
          kernels: Keras variables of any shape.
          values: boolean tensors of the kernels' shapes; None means all active.
          names: one name a kernel; None takes the variables' paths.

        Raises:
          ValueError: for a repeated kernel, or a mask of another dtype or shape than its kernel's.
        """
        super().__init__(name="masks")
        self.kernels = list(kernels)
        self.names = list(names) if names is not None else [k.path for k in self.kernels]
        if len({id(k) for k in self.kernels}) != len(self.kernels):
            raise ValueError(f"Each kernel takes one mask; got a kernel twice among {', '.join(self.names)}.")
        checked = self._checked([tf.ones(k.shape, tf.bool) for k in self.kernels] if values is None else values)
        self.initial = [kernel.numpy() for kernel in self.kernels]
        parts = list(zip(self.kernels, checked, self.names, strict=True))
        self.variables_by_kernel = [_mask_variable(k, v, f"{n}/mask") for k, v, n in parts]
        self.explored = [_mask_variable(k, v, f"{n}/explored") for k, v, n in parts]
        self.project()

    def _checked(self, values: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        if len(values) != len(self.kernels):
            raise ValueError(f"Got {len(values)} masks for {len(self.kernels)} kernels; give one for each.")
        tensors = [tf.convert_to_tensor(value) for value in values]
        for name, kernel, value in zip(self.names, self.kernels, tensors, strict=True):
            if value.dtype != tf.bool or tuple(value.shape) != tuple(kernel.shape):
                raise ValueError(
                    f"The mask of {name} must be boolean of shape {tuple(kernel.shape)}; got {value.dtype.name} of "
                    f"shape {tuple(value.shape)}."
                )
        return tensors

    def __len__(self) -> int:
        """Number of sparse kernels (count)."""
        return len(self.kernels)

    def __iter__(self) -> Iterator[tuple[keras.Variable, tf.Variable]]:
        """Pairs of kernel and mask variable."""
        return iter(zip(self.kernels, self.variables_by_kernel, strict=True))

    def values(self) -> list[tf.Tensor]:
        """The masks as boolean tensors of the kernels' shapes."""
        return [tf.convert_to_tensor(mask) for mask in self.variables_by_kernel]

    def aligned(self, variables: Sequence[keras.Variable]) -> list[tf.Tensor | None]:
        """The mask of each variable, None for a dense one.

        Args:
          variables: Keras variables, for example `model.trainable_variables`.

        Returns:
          One boolean tensor or None a variable.
        """
        by_id = {id(kernel): mask for kernel, mask in self}
        return [tf.convert_to_tensor(by_id[id(v)]) if id(v) in by_id else None for v in variables]

    def assign(self, values: Sequence[tf.Tensor]) -> None:
        """Replaces all masks, zeroes what they leave out and starts the exploration record anew.

        For the time before training: the slots of an optimizer stay as they are.

        Args:
          values: boolean tensors of the kernels' shapes.

        Raises:
          ValueError: for a mask of another dtype or shape than its kernel's.
        """
        checked = self._checked(values)
        for mask, explored, value in zip(self.variables_by_kernel, self.explored, checked, strict=True):
            mask.assign(value)
            explored.assign(value)
        self.project()

    def project(self) -> None:
        """Sets every masked weight to exactly zero: w <- where(mask, w, 0)."""

        def zero_masked(strategy: tf.distribute.Strategy) -> None:
            for kernel, mask in self:
                strategies.update(strategy, kernel.value, lambda k, m: tf.where(m, k, tf.zeros_like(k)), mask)

        strategies.merge(zero_masked)

    def shuffled(self, seed: int) -> list[tf.Tensor]:
        """Masks with the same number of active weights a layer at random places (Frankle et al. 2021).

        Args:
          seed: seed of the permutations.

        Returns:
          One boolean tensor a kernel; the masks themselves stay as they are.
        """
        shapes = [kernel.shape for kernel in self.kernels]
        return [tf.constant(value) for value in random_masks(shapes, self.active(), seed)]

    def active(self) -> list[int]:
        """Exact number of active weights of each kernel (count)."""
        return [int(selection.count_active(mask)) for mask in self.values()]

    def sizes(self) -> list[int]:
        """Number of weights of each kernel, active or not (count)."""
        return [int(np.prod(kernel.shape)) for kernel in self.kernels]

    def sparsity(self) -> float:
        """1 - active / size over all sparse kernels (fraction); 0 without kernels."""
        size = sum(self.sizes())
        return 1.0 - sum(self.active()) / size if size else 0.0

    def exploration_rate(self) -> list[float]:
        """Share of each kernel's weights that were ever active, R_s of ITOP (Liu et al. 2021) (fraction)."""
        return [float(np.mean(explored.numpy())) for explored in self.explored]

    def check(self) -> None:
        """Asserts that every masked weight is exactly zero.

        Raises:
          AssertionError: names the kernels that are not.
        """
        broken = [
            name
            for name, (kernel, mask) in zip(self.names, self, strict=True)
            if bool(tf.reduce_any((kernel.value != 0) & ~tf.convert_to_tensor(mask)))
        ]
        if broken:
            raise AssertionError(
                f"Masked weights of {', '.join(broken)} are not zero; something changed the kernels "
                "outside of SparseOptimizer: call masks.project() after it."
            )

    def report(self) -> str:
        """A table: kernel, shape, active weights, sparsity."""
        rows = [
            (name, "x".join(map(str, kernel.shape)), active, size)
            for name, kernel, active, size in zip(self.names, self.kernels, self.active(), self.sizes(), strict=True)
        ]
        rows.append(("total", "", sum(self.active()), sum(self.sizes())))
        width = max(len(row[0]) for row in rows)
        lines = [f"{'kernel':<{width}}  {'shape':>14}  {'active':>10}  {'of':>10}  sparsity"]
        lines += [
            f"{name:<{width}}  {shape:>14}  {active:>10,}  {size:>10,}  {1 - active / max(size, 1):>8.4f}"
            for name, shape, active, size in rows
        ]
        return "\n".join(lines)
