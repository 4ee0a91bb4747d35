"""Where masks come from: random numbers, scores of the weights, a file, a checkpoint, or other masks."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from sparse_lib import distributions, mask_checkpoints, mask_files, oneshot
from sparse_lib._keras.losses import Loss
from sparse_lib._utils.did_you_mean import suggest
from sparse_lib._utils.errors import InputError
from sparse_lib.kernels import kernel_structures
from sparse_lib.masks import Masks, random_masks
from sparse_lib.objective import Objective
from sparse_lib.structures import UNSTRUCTURED, Structure, parse

GLOBAL = "global"
Method: TypeAlias = Literal["random", "magnitude", "snip", "grasp", "synflow", "wanda"]


@dataclasses.dataclass(frozen=True)
class Budget:
    """How many weights each kernel keeps.

    Attributes:
      sparsity: share of zeros over all kernels but those of `custom` (fraction).
      distribution: `global` for a ranking over all kernels together, or one of `distributions`.
      custom: sparsity of single kernels by name (fraction).
      power_scale: see `distributions.sparsities`.
      first_layer_dense: see `distributions.sparsities`.
    """

    sparsity: float
    distribution: str
    custom: Mapping[str, float]
    power_scale: float
    first_layer_dense: bool

    def counts(self, shapes: Mapping[str, tuple[int, ...]]) -> list[int]:
        """Number of active weights of each kernel, for masks that need no ranking (count)."""
        counts = distributions.nnz(shapes, self.sparsity, distribution=self.distribution, **self._settings())
        return [counts[name] for name in shapes]

    def sparsities(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, float]:
        """Sparsity of each kernel that is ranked by itself (fraction)."""
        if self.distribution != GLOBAL:
            return distributions.sparsities(shapes, self.sparsity, distribution=self.distribution, **self._settings())
        # Checks names and values.
        distributions.sparsities(shapes, self.sparsity, distribution="uniform", **self._settings())
        first = {next(iter(shapes)): 0.0} if self.first_layer_dense else {}
        return {**first, **self.custom}

    def _settings(self) -> dict[str, Any]:
        return {
            "custom": self.custom,
            "power_scale": self.power_scale,
            "first_layer_dense": self.first_layer_dense,
        }


def is_method(source: Any) -> bool:
    """Whether a source of masks is the name of a method, which needs a sparsity.

    Args:
      source: of a user.

    Raises:
      InputError: if it is a text that is neither a method nor the path of something.
    """
    if not isinstance(source, str) or source in oneshot.METHODS:
        return isinstance(source, str)
    if os.path.exists(source) or mask_checkpoints.is_checkpoint(source):
        return False
    methods = ", ".join(oneshot.METHODS)
    raise InputError(
        f"masks={source!r} is neither a method ({methods}) nor a file that is there{suggest(source, oneshot.METHODS)}: "
        "give one of them, or masks."
    )


def distribution_of(method: str) -> str:
    """The distribution of the sparsity over kernels that the paper of a score has.

    Args:
      method: a name of `oneshot.METHODS`.

    Returns:
      `global`, or `uniform` where outputs are ranked by themselves.
    """
    return GLOBAL if oneshot.METHODS[method].scope == GLOBAL else "uniform"


def select(
    method: str,
    model: keras.Model,
    kernels: Mapping[str, keras.Variable],
    structures: list[Structure],
    budget: Budget,
    *,
    data: Any,
    loss: Loss | None,
    seed: int,
) -> list[tf.Tensor]:
    """Selects the weights of the highest scores.

    Args:
      method: a name of `oneshot.METHODS`.
      model: scored at its weights of now.
      kernels: to select in, by name.
      structures: one per kernel.
      budget: how many weights each kernel keeps.
      data: for the methods that need it, in any form that `Batches.of` takes; None for the others.
      loss: as `Objective` takes it.
      seed: of random masks.

    Returns:
      One boolean tensor per kernel.
    """
    shapes = {name: tuple(kernel.shape) for name, kernel in kernels.items()}
    if method == "random" and budget.distribution != GLOBAL:
        values = random_masks(list(shapes.values()), budget.counts(shapes), seed, structures)
        return [tf.constant(value) for value in values]
    if data is None and oneshot.METHODS[method].needs_data:
        raise InputError(f"masks={method!r} scores weights on examples: give data=(x, y), or a dataset of batches.")
    default = oneshot.METHODS[method].scope
    scope: Literal["global", "layer", "output"] = "layer" if default == "global" else default
    if budget.distribution == GLOBAL:
        scope = "global"
    fixed = budget.sparsities(shapes)
    chosen = oneshot.METHODS[method](sparsity=budget.sparsity, scope=scope, layer_sparsities=fixed)
    return chosen.masks(Objective(model, loss), kernels, data, structures=structures, seed=seed)


def read(
    source: Masks | str | os.PathLike[str],
    model: keras.Model,
    kernels: Mapping[str, keras.Variable],
    structure: Structure = UNSTRUCTURED,
) -> tuple[list[np.ndarray], list[Structure]]:
    """Reads masks of a model of the same architecture.

    Args:
      source: masks, a file of `Masks.save`, or a checkpoint, see `mask_checkpoints.read`.
      model: that the masks are for.
      kernels: of the model, by name.
      structure: of the masks; the default takes that of a file or of the other masks. A checkpoint stores none.

    Returns:
      One boolean array per kernel, and their structures.

    Raises:
      InputError: if the kernels do not match; the message names the first that differs.
    """
    shapes = {name: tuple(kernel.shape) for name, kernel in kernels.items()}
    if not isinstance(source, Masks) and mask_checkpoints.is_checkpoint(source):
        values = mask_checkpoints.read(source, shapes)
        return values, kernel_structures(model, kernels.values(), structure)
    stored = source.stored() if isinstance(source, Masks) else mask_files.read(source)
    origin = "another model" if isinstance(source, Masks) else str(source)
    own = list(shapes.values())
    mask_files.check_same_kernels(origin, stored.names, [v.shape for v in stored.values], list(kernels), own)
    if structure != UNSTRUCTURED:
        return stored.values, kernel_structures(model, kernels.values(), structure)
    structures = [
        kernel_structures(model, [kernel], parse(text))[0]
        for kernel, text in zip(kernels.values(), stored.structures, strict=True)
    ]
    return stored.values, structures
