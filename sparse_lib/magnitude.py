"""The largest weights among those that are left: a step of iterative magnitude pruning."""

from collections.abc import Mapping

import tensorflow as tf

from sparse_lib import distributions
from sparse_lib._utils.errors import InputError
from sparse_lib.structures import Structure, select_globally


def keep_largest(
    kernels: Mapping[str, tuple[tf.Tensor, tf.Tensor, Structure]], sparsity: float, distribution: str
) -> list[tf.Tensor]:
    """Selects the active weights of largest magnitude.

    Args:
      kernels: weights, boolean mask and structure of each kernel, by name.
      sparsity: share of zeros over all kernels (fraction).
      distribution: `global` for a ranking over all kernels together, or one of `distributions`.

    Returns:
      One boolean tensor per kernel, a subset of its mask.

    Raises:
      ValueError: for a sparsity out of range, or a kernel with fewer active weights than it is to keep.
    """
    weights, masks, structures = zip(*kernels.values(), strict=True) if kernels else ((), (), ())
    scores, shapes = [tf.abs(weight) for weight in weights], [tuple(weight.shape) for weight in weights]
    there = [int(structure.count(mask)) for structure, mask in zip(structures, masks, strict=True)]
    if distribution == "global":
        distributions.check_sparsity("The sparsity", sparsity)
        size = sum(structure.size(shape) for structure, shape in zip(structures, shapes, strict=True))
        kept = size - distributions.n_zeros(size, sparsity)
        _check_shrinks("all kernels together", sum(there), kept)
        return select_globally(structures, scores, kept, masks)
    counts = distributions.nnz(dict(zip(kernels, shapes, strict=True)), sparsity, distribution=distribution)
    units = [s.budget(shape, counts[name]) for name, s, shape in zip(kernels, structures, shapes, strict=True)]
    for name, before, kept in zip(kernels, there, units, strict=True):
        _check_shrinks(name, before, kept)
    parts = zip(structures, scores, units, masks, strict=True)
    return [structure.select(score, kept, mask) for structure, score, kept, mask in parts]


def _check_shrinks(name: str, active: int, kept: int) -> None:
    if kept > active:
        raise InputError(
            f"At this sparsity {name} would keep {kept:,} weights, and {active:,} are left: give a higher sparsity, or "
            "restore the masks first."
        )
