"""What `small_dense.*` configures: a narrower dense network with the cost of a sparse one."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import keras
from absl import logging

from sparse_lib import counting
from sparse_lib.experiment.config.masks import MaskSettings
from sparse_lib.experiment.config.network import NetworkSettings
from sparse_lib.experiment.networks import Network
from sparse_lib.experiment.settings import Settings, Share


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmallDenseSettings(Settings, name="small_dense"):
    """The dense twin of a sparse network: all widths are scaled by the factor, found by bisection, of equal cost.

    Attributes:
      sparsity: of the sparse network (fraction); None leaves the widths unscaled.
      distribution: of its masks, as masks.distribution; it matters for FLOPs.
      custom: sparsity by name of a kernel or a layer (fraction); 0 makes it dense.
      budget: the cost that is equal: active `parameters`, `bytes` including the masks, or inference `flops`.
    """

    sparsity: Share | None = None
    distribution: Literal["erk", "er", "uniform", "str"] = "erk"
    custom: Mapping[str, Share] | None = None
    budget: Literal["parameters", "bytes", "flops"] = "parameters"

    def __post_init__(self) -> None:
        """Checks that custom sparsities come with an overall sparsity.

        Raises:
          SettingError: if it is missing.
        """
        super().__post_init__()
        needs = "needs small_dense.sparsity, that of all kernels"
        self.require(not self.custom or bool(self.sparsity), "custom", needs)

    def fit(self, network: NetworkSettings, sizes: Network, input_shape: Sequence[int], num_classes: int) -> Network:
        """Narrows a network.

        Args:
          network: activation, regularizer and sparse layers.
          sizes: of the network at full width.
          input_shape: height, width, channels (pixels).
          num_classes: number of logits (count).

        Returns:
          The sizes of the twin; `sizes` without a sparsity.
        """
        if not self.sparsity:
            return sizes
        masks = MaskSettings(sparsity=self.sparsity, distribution=self.distribution, custom=self.custom)

        @functools.cache
        def cost(width: float, *, masked: bool = False) -> int:
            # In this scope variables have shapes and no values, which is much faster.
            with keras.StatelessScope():
                model = network.build(input_shape, num_classes, 0, sizes.scale_width(width))
                kernels = network.kernels(model)
                counts = masks.counts(kernels) if masked else {}
                return self._cost(model, {kernels[name].path: count for name, count in counts.items()})

        budget = cost(1.0, masked=True)
        width = counting.width_multiplier(cost, budget)
        found = sizes.scale_width(width)
        logging.info("Small dense: width x %.3f has %d %s, for %d: %s", width, cost(width), self.budget, budget, found)
        return found

    def _cost(self, model: keras.Model, active: dict[str, int]) -> int:
        if self.budget == "parameters":
            sizes = {v.path: math.prod(v.shape) for v in model.trainable_variables}
            return sum((sizes | active).values())
        costs = counting.CostModel(model).costs(active)
        return counting.size_bytes(costs) if self.budget == "bytes" else counting.inference_flops(costs)
