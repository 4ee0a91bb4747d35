"""What `iterative_pruning.*` configures: a step of iterative magnitude pruning."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import tensorflow as tf

from sparse_lib import distributions, magnitude
from sparse_lib.experiment.settings import Fraction, Settings, Share, Size
from sparse_lib.structures import Structure


@dataclasses.dataclass(frozen=True, kw_only=True)
class IterativePruningSettings(Settings, name="iterative_pruning"):
    """Magnitude pruning of the checkpoint in network.mask_init_path, within its masks, before the first step.

    With network.weight_init_path, this is a level of iterative magnitude pruning with rewinding (Frankle & Carbin 2019,
    Frankle et al. 2020) or, with the weights of the same checkpoint, learning-rate rewinding (Renda et al. 2020).

    Attributes:
      fraction: of the active weights that is removed, those of smallest magnitude (fraction); 0 removes nothing.
      scope: `layer` ranks each kernel by itself, `global` all kernels together.
      output_rate: factor of the fraction in the last sparse kernel, that of the output layer, which is then ranked by
        itself; 0.5 in the paper's small networks.
      custom: fractions by name of a kernel or a layer, which are ranked by themselves (fraction).
      rounds: times that the fractions are removed (count): the number of weights after so many levels, at the weights
        of one checkpoint.
    """

    fraction: Share = 0.0
    scope: Literal["layer", "global"] = "layer"
    output_rate: Fraction = 0.5
    custom: Mapping[str, Share] | None = None
    rounds: Size = 1

    def prune(self, kernels: Mapping[str, tuple[tf.Tensor, tf.Tensor, Structure]]) -> list[tf.Tensor]:
        """Removes the smallest active weights.

        Args:
          kernels: weights, boolean mask and structure of each kernel, by name, in the order of the network.

        Returns:
          One boolean tensor per kernel, a subset of its mask.

        Raises:
          InputError: if a custom fraction is of no kernel.
        """
        shapes = {name: tuple(weight.shape) for name, (weight, _, _) in kernels.items()}
        custom = distributions.custom_by_kernel(shapes, self.custom) or {}
        if self.output_rate != 1:
            custom = {next(reversed(shapes)): self.output_rate * self.fraction, **custom}
        kept = [mask for _, mask, _ in kernels.values()]
        for _ in range(self.rounds):
            parts = zip(kernels.items(), kept, strict=True)
            left = {name: (weight, mask, structure) for (name, (weight, _, structure)), mask in parts}
            kept = magnitude.remove_smallest(left, self.fraction, custom=custom, scope=self.scope)
        return kept
