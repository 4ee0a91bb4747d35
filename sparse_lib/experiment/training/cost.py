"""FLOPs and sizes of a run, exact integers."""

import math

import keras

from sparse_lib import counting
from sparse_lib.optimizer import SparseOptimizer
from sparse_lib.updaters import TopKAST


class Cost:
    """Counts what the steps of a run cost; counts anew only after the masks changed."""

    def __init__(self, model: keras.Model, optimizer: SparseOptimizer) -> None:
        """Counts nothing yet.

        Args:
          model: the network.
          optimizer: with masks and updater.
        """
        self._model, self._masks, self._updater = model, optimizer.masks, optimizer.updater
        self._counter = counting.CostModel(model)
        self._dense = counting.inference_flops(self._counter.costs())
        self._current: list[counting.LayerCost] | None = None

    def masks_changed(self) -> None:
        """Has the next question counted anew."""
        self._current = None

    def _costs(self, extra: float = 0.0) -> list[counting.LayerCost]:
        if self._current is None or extra:
            active = {
                kernel.path: min(count + int(extra * size), size)
                for kernel, count, size in zip(
                    self._masks.kernels, self._masks.active(), self._masks.sizes(), strict=True
                )
            }
            costs = self._counter.costs(active)
            if extra:
                return costs
            self._current = costs
        return self._current

    def training_flops(self, steps: int, batch_size: int, *, mask_update: bool = False) -> int:
        """FLOPs of training steps with the current masks (RigL paper, appendix H).

        Args:
          steps: how many (count).
          batch_size: examples of a step (count).
          mask_update: whether they are mask updates.

        Returns:
          Multiplications and additions.
        """
        backward = None
        if isinstance(self._updater, TopKAST):
            backward = counting.inference_flops(self._costs(extra=self._updater.extra_density))
        per_example = counting.step_flops(
            type(self._updater).__name__,
            self._dense,
            counting.inference_flops(self._costs()),
            is_mask_update=mask_update,
            backward_flops=backward,
        )
        return int(per_example) * steps * batch_size

    def sizes(self) -> dict[str, int]:
        """Trainable parameters, inference FLOPs and bytes of the network as it stands."""
        total = sum(math.prod(variable.shape) for variable in self._model.trainable_variables)
        return {
            "active_parameters": total - sum(self._masks.sizes()) + sum(self._masks.active()),
            "total_parameters": total,
            "inference_flops": counting.inference_flops(self._costs()),
            "dense_inference_flops": self._dense,
            "size_bytes": counting.size_bytes(self._costs()),
        }
