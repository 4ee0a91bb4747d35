"""FLOPs and sizes of a run, as exact integers."""

import math

import keras

from sparse_lib import counting
from sparse_lib.optimizer import SparseOptimizer


class Cost:
    """Counts the FLOPs of training steps, with a cache of the costs under the current masks."""

    def __init__(self, model: keras.Model, optimizer: SparseOptimizer) -> None:
        """Counts the dense network.

        Args:
          model: the network.
          optimizer: with masks and updater.
        """
        self._model, self._masks, self._updater = model, optimizer.masks, optimizer.updater
        self._counter = counting.CostModel(model)
        self._dense = counting.inference_flops(self._counter.costs())
        self._current: list[counting.LayerCost] | None = None

    def invalidate(self) -> None:
        """Invalidates the cached FLOP counts, after the masks changed."""
        self._current = None

    def _costs(self) -> list[counting.LayerCost]:
        if self._current is None:
            self._current = self._count()
        return self._current

    def _count(self, extra_density: float = 0.0) -> list[counting.LayerCost]:
        masks = self._masks
        active = {
            kernel.path: min(count + int(extra_density * size), size)
            for kernel, count, size in zip(masks.kernels, masks.active(), masks.sizes(), strict=True)
        }
        return self._counter.costs(active)

    def training_flops(self, steps: int, batch_size: int, *, mask_update: bool = False) -> int:
        """Counts the FLOPs of training steps with the current masks (RigL paper, appendix H).

        Args:
          steps: number of steps (count).
          batch_size: examples per step (count).
          mask_update: whether the steps are mask updates.

        Returns:
          Multiplications and additions.
        """
        kind, backward = self._updater.weight_gradient, None
        if kind == "backward_set":
            backward = counting.inference_flops(self._count(self._updater.extra_density))
        per_example = counting.step_flops(
            kind,
            self._dense,
            counting.inference_flops(self._costs()),
            is_mask_update=mask_update,
            backward_flops=backward,
        )
        return int(per_example) * steps * batch_size

    def sizes(self) -> dict[str, int]:
        """Returns trainable parameters, inference FLOPs and bytes under the current masks."""
        total = sum(math.prod(variable.shape) for variable in self._model.trainable_variables)
        return {
            "active_parameters": total - sum(self._masks.sizes()) + sum(self._masks.active()),
            "total_parameters": total,
            "inference_flops": counting.inference_flops(self._costs()),
            "dense_inference_flops": self._dense,
            "size_bytes": counting.size_bytes(self._costs()),
        }
