"""The callback that logs gradient flow."""

from typing import Any

import keras

from sparse_lib import curvature
from sparse_lib.masks import Masks
from sparse_lib.measure.flow import measure_flow
from sparse_lib.measure.problem import Loss, Problem


class GradientFlowLogger(keras.callbacks.Callback):
    """Keras callback that adds gradient flow and sparsity to the logs at the end of an epoch.

    The logs get `gradient_norm`, `gradient_norm_off_mask`, and with masks `effective_gradient_flow` and `sparsity`; the
    history and later callbacks such as TensorBoard or CSVLogger record them.
    """

    def __init__(
        self, data: Any, masks: Masks | None = None, *, loss: Loss = None, batch_size: int = 1000, every: int = 1
    ) -> None:
        """Creates the callback.

        Args:
          data: examples, see `sparse_lib.measure`; the same at every measurement.
          masks: of the sparse kernels, see `sparse_lib.measure`.
          loss: see `sparse_lib.measure`.
          batch_size: examples per pass (count).
          every: epochs between measurements (count).
        """
        super().__init__()
        self._batches, self._masks, self._loss, self._every = curvature.Batches.of(data, batch_size), masks, loss, every
        self._problem: Problem

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Prepares the measurement.

        Args:
          logs: not used.
        """
        del logs
        self._problem = Problem(self.model, self._batches, self._masks, self._loss, self._batches.batch_size)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Measures and logs.

        Args:
          epoch: index of the epoch, from 0.
          logs: metrics of the epoch, to which the values are added.
        """
        if logs is None or (epoch + 1) % self._every:
            return
        found = measure_flow(self._problem)
        logs["gradient_norm"] = found.norm
        logs["gradient_norm_off_mask"] = found.norm_off_mask
        if self._masks is not None and found.effective is not None:
            logs["effective_gradient_flow"] = found.effective
            logs["sparsity"] = self._masks.sparsity()
