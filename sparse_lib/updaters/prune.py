"""Gradual magnitude pruning."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import tensorflow as tf

from sparse_lib import selection
from sparse_lib.updaters.base import Kernel, Moment, Update, Updater, shrink


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prune(Updater):
    """Gradual magnitude pruning (Zhu & Gupta 2017): keep the largest |w|, follow a target sparsity.

    kept = round(size * (1 - s(t))), at least 1 a kernel

    Weights never come back. The update follows the optimizer step, as in the method's published code; that code
    keeps more than it should where magnitudes tie, here the count is exact.

    Attributes:
      sparsity: the target sparsity at a step (fraction).
      scope: `layer` prunes every kernel to the target (the paper, section 3), `global` ranks the weights of all
        kernels together.
    """

    sparsity: Callable[[tf.Tensor], tf.Tensor]
    scope: Literal["layer", "global"] = "layer"

    def __post_init__(self) -> None:
        """Checks the scope.

        Raises:
          ValueError: for an unknown scope.
        """
        if self.scope not in ("layer", "global"):
            raise ValueError(f"scope={self.scope!r} is not known; use layer or global.")

    def update(self, kernels: Sequence[Kernel], moment: Moment) -> list[Update]:
        """New masks: the largest active magnitudes."""
        # In float32, as the reference computes it: 10 weights at sparsity 0.35 keep round(6.5) = 6.
        density = 1.0 - tf.cast(self.sparsity(moment.step), tf.float32)

        def kept(size: int) -> tf.Tensor:
            return tf.maximum(tf.cast(tf.round(tf.cast(size, tf.float32) * density), tf.int32), 1)

        scores = [tf.abs(kernel.weight) for kernel in kernels]
        active = [kernel.mask for kernel in kernels]
        sizes = [kernel.weight.shape.num_elements() for kernel in kernels]
        if self.scope == "global":
            masks = selection.global_top_k_masks(scores, kept(sum(sizes)), active)
        else:
            masks = [
                selection.top_k_mask(score, kept(size), mask)
                for score, size, mask in zip(scores, sizes, active, strict=True)
            ]
        return [shrink(kernel, mask) for kernel, mask in zip(kernels, masks, strict=True)]
