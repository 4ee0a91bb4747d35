"""The largest weights among those that are left: a step of iterative magnitude pruning."""

from collections.abc import Mapping
from typing import Literal

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


def remove_smallest(
    kernels: Mapping[str, tuple[tf.Tensor, tf.Tensor, Structure]],
    fraction: float,
    *,
    custom: Mapping[str, float] | None = None,
    scope: Literal["layer", "global"] = "layer",
) -> list[tf.Tensor]:
    """Removes a fraction of the active weights, those of smallest magnitude.

    Of n active weights n - floor(fraction * n) stay: of each kernel in scope `layer`, of all kernels together in scope
    `global`. Frankle & Carbin (2019, arXiv 1803.03635) rank each layer by itself in small networks (section 2) and all
    layers together in deep ones (section 4).

    Args:
      kernels: weights, boolean mask and structure of each kernel, by name.
      fraction: of the active weights to remove (fraction).
      custom: fractions of single kernels by name, which are ranked by themselves (fraction).
      scope: which weights are ranked together.

    Returns:
      One boolean tensor per kernel, a subset of its mask. Ties go to the earlier weight.

    Raises:
      InputError: for a fraction out of range.

    Examples:
      >>> import tensorflow as tf
      >>> from sparse_lib.magnitude import remove_smallest
      >>> from sparse_lib.structures import UNSTRUCTURED
      >>> weights, mask = tf.constant([0.3, -0.1, 0.2, 9.0]), tf.constant([True, True, True, False])
      >>> remove_smallest({"dense": (weights, mask, UNSTRUCTURED)}, 0.4)[0].numpy().tolist()
      [True, False, True, False]
    """
    fractions = {name: (custom or {}).get(name, fraction) for name in kernels}
    for name, value in fractions.items():
        if not 0 <= value < 1:
            raise InputError(f"The fraction to remove from {name} is {value}: give one in [0, 1).")
    together = [name for name in kernels if scope == "global" and name not in (custom or {})]
    groups = [together] * bool(together) + [[name] for name in kernels if name not in together]
    chosen: dict[str, tf.Tensor] = {}
    for group in groups:
        weights, masks, structures = zip(*(kernels[name] for name in group), strict=True)
        there = sum(int(structure.count(mask)) for structure, mask in zip(structures, masks, strict=True))
        kept = there - distributions.n_zeros(there, fractions[group[0]])
        best = select_globally(structures, [tf.abs(weight) for weight in weights], kept, masks)
        chosen |= zip(group, best, strict=True)
    return [chosen[name] for name in kernels]


def _check_shrinks(name: str, active: int, kept: int) -> None:
    if kept > active:
        raise InputError(
            f"At this sparsity {name} would keep {kept:,} weights, and {active:,} are left: give a higher sparsity, or "
            "restore the masks first."
        )
