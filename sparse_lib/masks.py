"""Boolean masks bound to the kernels of a model."""

import contextlib
import os
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from sparse_lib import mask_files, mask_report, selection
from sparse_lib._utils import distribute
from sparse_lib._utils.errors import InputError
from sparse_lib.magnitude import keep_largest
from sparse_lib.structures import UNSTRUCTURED, Structure, Unstructured


def _mask_variable(kernel: keras.Variable, value: tf.Tensor, name: str) -> tf.Variable:
    """Creates a boolean variable on the devices that hold the kernel."""
    with getattr(distribute.owner(kernel.value), "scope", contextlib.nullcontext)():
        return tf.Variable(
            value,
            trainable=False,
            dtype=tf.bool,
            name=name,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )


def random_masks(
    shapes: Sequence[Sequence[int]],
    active: Sequence[int],
    seed: int,
    structures: Sequence[Structure] | None = None,
) -> list[np.ndarray]:
    """Draws uniformly random masks with given numbers of active weights.

    Args:
      shapes: one shape per kernel.
      active: number of active weights of each kernel (count).
      seed: random seed; kernel i draws from (seed, i).
      structures: one structure per kernel, which gets the nearest number of weights that it allows; None means
        unstructured.

    Returns:
      One boolean array per kernel.

    Raises:
      ValueError: if a structure allows no mask close to the number of active weights.
    """
    structures = [UNSTRUCTURED] * len(shapes) if structures is None else structures
    masks = []
    for index, (shape, count, structure) in enumerate(zip(shapes, active, structures, strict=True)):
        rng = np.random.default_rng([seed, index])
        if isinstance(structure, Unstructured):
            masks.append(_shuffle(rng, shape, count))
        else:
            masks.append(structure.select(_noise(rng, shape), structure.budget(shape, count)).numpy())
    return masks


def _shuffle(rng: np.random.Generator, shape: Sequence[int], count: int) -> np.ndarray:
    flat = np.zeros(int(np.prod(shape)), bool)
    flat[:count] = True
    return rng.permutation(flat).reshape(shape)


def _noise(rng: np.random.Generator, shape: Sequence[int]) -> tf.Tensor:
    return tf.constant(rng.random(tuple(shape), np.float32))


class Masks(tf.Module):
    """Boolean masks bound to the kernels of a model, in the order of `model.trainable_variables`.

    True marks an active weight. Inactive weights are exactly 0 in the kernel, so evaluation, export and curvature see a
    plain Keras model.

    Attributes:
      kernels: the sparse kernels, Keras variables.
      names: one name per kernel, such as `conv1/kernel`.
      structures: one structure per kernel, which all its masks satisfy.
      variables_by_kernel: one boolean mask variable per kernel, of the kernel's shape.
      initial: NumPy values of the kernels before masking, for methods that grow weights back to them.
      explored: one boolean variable per kernel, True for weights that were ever active (in-time over-parameterisation,
        ITOP).
      execution: the `Execution` of the model, from `sparsify`; None where all products are dense.

    Examples:
      >>> import keras
      >>> from sparse_lib import Masks
      >>> layer = keras.layers.Dense(2)
      >>> layer.build((None, 2))
      >>> masks = Masks([layer.kernel], [[[True, False], [False, True]]])
      >>> masks.sparsity()
      0.5
      >>> [float(w) for w in layer.kernel.numpy()[~masks.values()[0].numpy()]]  # inactive weights are 0
      [0.0, 0.0]
    """

    def __init__(
        self,
        kernels: Sequence[keras.Variable],
        values: Sequence[tf.Tensor] | None = None,
        names: Sequence[str] | None = None,
        structures: Sequence[Structure] | None = None,
        *,
        model: keras.Model | None = None,
        keep: "Masks | None" = None,
    ) -> None:
        """Creates the masks and zeroes the inactive weights.

        Args:
          kernels: Keras variables of any shape.
          values: boolean tensors of the kernels' shapes; None means all active.
          names: one name per kernel; None takes the variables' paths.
          structures: one per kernel, see `sparse_lib.structures`; None means unstructured.
          model: of the kernels, whose other weights `report` lists; it is not kept alive.
          keep: earlier masks, which share their variables with these: a kernel that is in both keeps its mask, its
            initial values and what it has explored.

        Raises:
          ValueError: for a repeated kernel, or a mask that has the wrong dtype or shape or violates its structure.
        """
        super().__init__(name="masks")
        # No strong reference: a checkpoint of the masks would contain the model.
        self._model = None if model is None else weakref.ref(model)
        self.kernels = list(kernels)
        self.names = list(names) if names is not None else [k.path for k in self.kernels]
        if len({id(k) for k in self.kernels}) != len(self.kernels):
            raise InputError(f"Each kernel takes one mask; got a kernel twice among {', '.join(self.names)}.")
        self.structures = [UNSTRUCTURED] * len(self.kernels) if structures is None else list(structures)
        values = self._validate([tf.ones(k.shape, tf.bool) for k in self.kernels] if values is None else values)
        self.initial = [kernel.numpy() for kernel in self.kernels]
        parts = list(zip(self.kernels, values, self.names, strict=True))
        self.variables_by_kernel = [_mask_variable(k, v, f"{n}/mask") for k, v, n in parts]
        self.explored = [_mask_variable(k, v, f"{n}/explored") for k, v, n in parts]
        self.execution: Any = None
        if keep is not None:
            self._share(keep)
        self.project()

    def _share(self, keep: "Masks") -> None:
        places = {id(kernel): index for index, kernel in enumerate(keep.kernels)}
        for mine, kernel in enumerate(self.kernels):
            if (theirs := places.get(id(kernel))) is not None:
                self.initial[mine] = keep.initial[theirs]
                self.variables_by_kernel[mine] = keep.variables_by_kernel[theirs]
                self.explored[mine] = keep.explored[theirs]

    def _validate(self, values: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        if len(values) != len(self.kernels):
            raise InputError(f"Got {len(values)} masks for {len(self.kernels)} kernels; give one per kernel.")
        tensors = [tf.convert_to_tensor(value) for value in values]
        parts = zip(self.names, self.kernels, tensors, self.structures, strict=True)
        for name, kernel, value, structure in parts:
            if value.dtype != tf.bool or tuple(value.shape) != tuple(kernel.shape):
                raise InputError(
                    f"The mask of {name} must be boolean of shape {tuple(kernel.shape)}; got {value.dtype.name} of "
                    f"shape {tuple(value.shape)}."
                )
            if not structure.fits(value):
                raise InputError(
                    f"The mask of {name} does not keep to structure {structure}: make it with that structure, or leave "
                    "the structure out."
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
        """Masks in the order of the given variables, with None for dense ones.

        Args:
          variables: Keras variables, for example `model.trainable_variables`.

        Returns:
          One boolean tensor or None per variable.
        """
        by_id = {id(kernel): mask for kernel, mask in self}
        return [tf.convert_to_tensor(by_id[id(v)]) if id(v) in by_id else None for v in variables]

    def assign(self, values: Sequence[tf.Tensor]) -> None:
        """Replaces all masks, zeroes the inactive weights and resets `explored`.

        Meant for use before training: optimizer slots are left unchanged.

        Args:
          values: boolean tensors of the kernels' shapes.

        Raises:
          ValueError: for a mask that has the wrong dtype or shape or violates its structure.
        """
        values = self._validate(values)
        for mask, explored, value in zip(self.variables_by_kernel, self.explored, values, strict=True):
            mask.assign(value)
            explored.assign(value)
        self.project()

    def prune(self, sparsity: float, distribution: str = "global") -> None:
        """Removes the active weights of smallest magnitude, in place, until the masks have a sparsity.

        Weights that were removed before stay removed: the step of iterative magnitude pruning (Frankle & Carbin 2019),
        between two rounds of training. Like `assign`, it leaves the slots of an optimizer as they are.

        Args:
          sparsity: share of zeros over all sparse kernels (fraction), in [0, 1).
          distribution: `global` ranks the weights of all kernels together; `uniform`, `erk` and the others of
            `sparse_lib.distributions` rank each kernel by itself, to its own sparsity.

        Raises:
          ValueError: for a sparsity out of range, or a kernel that has fewer active weights than it is to keep.
        """
        weights = [tf.convert_to_tensor(kernel) for kernel in self.kernels]
        candidates = dict(zip(self.names, zip(weights, self.values(), self.structures, strict=True), strict=True))
        for mask, value in zip(self.variables_by_kernel, keep_largest(candidates, sparsity, distribution), strict=True):
            mask.assign(value)
        self.project()

    def project(self) -> None:
        """Sets every inactive weight to exactly zero: w <- where(mask, w, 0).

        Weights that were restored from before a mask update lose what the masks of now do not have: restore their masks
        instead (`sparse_lib.EarlyStopping`, `SparseOptimizer.restore_masks`).
        """

        def zero_inactive(strategy: tf.distribute.Strategy) -> None:
            for kernel, mask in self:
                distribute.update(strategy, kernel.value, lambda k, m: selection.on_mask(m, k), mask)

        distribute.merge(zero_inactive)

    def shuffled(self, seed: int) -> list[tf.Tensor]:
        """Randomly shuffles each kernel's mask, a sanity check for pruning at initialisation (Frankle et al. 2021).

        Args:
          seed: random seed; kernel i draws from (seed, i).

        Returns:
          One boolean tensor per kernel, with the same number of active weights; the masks themselves do not change.
        """
        result = []
        for index, (mask, count, structure) in enumerate(
            zip(self.values(), self.active(), self.structures, strict=True)
        ):
            rng = np.random.default_rng([seed, index])
            if isinstance(structure, Unstructured):
                result.append(tf.constant(_shuffle(rng, mask.shape, count)))
            else:
                result.append(structure.reshuffle(_noise(rng, mask.shape), mask))
        return result

    def stored(self) -> mask_files.StoredMasks:
        """Names, arrays and structures of the masks, as `save` writes them."""
        values = [np.array(value) for value in self.values()]
        return mask_files.StoredMasks(list(self.names), values, [str(structure) for structure in self.structures])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the masks to a file atomically, one bit per weight.

        Args:
          path: a NumPy archive (`.npz`).
        """
        mask_files.write(path, self.stored())

    def load(self, path: str | os.PathLike[str]) -> None:
        """Assigns the masks of a file, matched to the kernels by order, and checked by shape and name.

        Args:
          path: a file from `save`.

        Raises:
          ValueError: if the file contains no masks, or masks of other kernels, or they violate the structures.
        """
        stored = mask_files.read(path)
        shapes = [kernel.shape for kernel in self.kernels]
        mask_files.check_same_kernels(str(path), stored.names, [v.shape for v in stored.values], self.names, shapes)
        self.assign(stored.values)

    def active(self) -> list[int]:
        """Number of active weights of each kernel (count)."""
        return [int(np.count_nonzero(mask.numpy())) for mask in self.variables_by_kernel]

    def sizes(self) -> list[int]:
        """Number of weights of each kernel, active or not (count)."""
        return [int(np.prod(kernel.shape)) for kernel in self.kernels]

    def sparsity(self) -> float:
        """1 - active / size over all sparse kernels (fraction); 0 without kernels."""
        size = sum(self.sizes())
        return 1.0 - sum(self.active()) / size if size else 0.0

    def exploration_rate(self) -> list[float]:
        """Share of each kernel's weights that were ever active (fraction); R_s of ITOP (Liu et al. 2021)."""
        explored = [variable.numpy() for variable in self.explored]
        return [int(np.count_nonzero(ever)) / ever.size for ever in explored]

    def check(self) -> None:
        """Asserts that every inactive weight is exactly zero.

        Raises:
          AssertionError: names the kernels with other values.
        """
        broken = [
            name
            for name, (kernel, mask) in zip(self.names, self, strict=True)
            if np.any((kernel.numpy() != 0) & ~mask.numpy())
        ]
        if broken:
            raise AssertionError(
                f"Masked weights of {', '.join(broken)} are not zero: something other than SparseOptimizer wrote the "
                "kernels. If earlier weights were restored, restore their masks too (sparse_lib.EarlyStopping, "
                "optimizer.restore_masks, masks.load); if the masks are right, masks.project() zeroes those weights."
            )

    def report(self) -> str:
        """Formats a table of the weights: kernels with masks, then what stays dense and why, and the total of both.

        A kernel that LoRA makes dense in effect counts as dense. Masks that were created without their model
        (`Masks(kernels)`) list the kernels alone.

        Examples:
          >>> import keras
          >>> import sparse_lib
          >>> layers = [keras.layers.Dense(50, name="hidden"), keras.layers.Dense(10, name="logits")]
          >>> model = keras.Sequential([keras.Input((100,)), *layers])
          >>> print(sparse_lib.sparsify(model, 0.9).report())
          kernel           shape       active           of  sparsity  dense because
          hidden/kernel   100x50          393        5,000    0.9214
          logits/kernel    50x10          158          500    0.6840
          sparse kernels                  551        5,500    0.8998
          biases                           60           60    0.0000  no matrix
          total                           611        5,560    0.8901
        """
        parts = zip(self.names, self.kernels, self.active(), self.sizes(), self.structures, strict=True)
        rows = [mask_report.Row(name, tuple(k.shape), active, size, rule) for name, k, active, size, rule in parts]
        model = None if self._model is None else self._model()
        return mask_report.format_table(rows, self.kernels, model, self.execution)
