"""A Keras callback that tracks the largest Hessian eigenvalue during training."""

import time
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from sparse_lib._utils.errors import InputError
from sparse_lib.batches import Batches
from sparse_lib.curvature.lanczos import lanczos, random_start
from sparse_lib.curvature.operators import HessianOperator
from sparse_lib.curvature.subspace import Subspace
from sparse_lib.masks import Masks
from sparse_lib.objective import Loss, Objective


class Sharpness(NamedTuple):
    """A measurement of the largest Hessian eigenvalue.

    Attributes:
      step: optimizer steps before the measurement (count).
      value: estimate of the eigenvalue.
      residual: upper bound on the distance to the nearest eigenvalue of the Hessian.
      seconds: duration without compilation (s).
    """

    step: int
    value: float
    residual: float
    seconds: float


class TopEigenvalue(keras.callbacks.Callback):
    """Tracks the largest Hessian eigenvalue of the active weights, within a fixed share of the training time.

    A measurement is a few Lanczos steps that start from the last eigenvector found. That eigenvector changes slowly, so
    estimates improve during training; the residual bounds their error. Measurements are taken after batches, whenever
    the time spent on them stays below `share` of the time since training began. The first one follows the first batch
    and compiles the graph, which counts as time spent. Training is not affected: weights, batch-norm averages, seeds
    and masks do not change.

    The latest value is logged at the end of an epoch as `lambda_max`; `measurements` has all of them.

    Attributes:
      measurements: one `Sharpness` per measurement.
    """

    def __init__(
        self,
        data: Any,
        *,
        batch_size: int = 1000,
        loss: Loss | None = None,
        masks: Masks | None = None,
        share: float = 0.05,
        steps: int = 8,
        seed: int = 0,
    ) -> None:
        """Creates the callback.

        Args:
          data: examples in any form that `Batches.of` takes; the same for all measurements.
          batch_size: examples per batch (count).
          loss: a Keras loss, or (y_true, outputs) -> one loss per example; None means cross-entropy of integer labels
            and logits.
          masks: masks of the model's sparse kernels; None means that all weights are active.
          share: largest share of the training time spent on measurements (fraction).
          steps: Lanczos steps per measurement (count); each is a pass over the data.
          seed: seed of the first start vector.

        Raises:
          ValueError: for a share outside (0, 1], no steps, or unusable data.
        """
        super().__init__()
        if not 0 < share <= 1 or steps < 1:
            raise InputError(f"share must be in (0, 1] and steps at least 1; got {share} and {steps}.")
        self.measurements: list[Sharpness] = []
        self._batches = Batches.of(data, batch_size)
        self._loss = loss
        self._masks = masks
        self._share = share
        self._steps = steps
        self._seed = seed
        self._operator: HessianOperator | None = None
        self._direction: list[tf.Tensor] | None = None
        self._began = self._spent = 0.0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Starts the clock.

        Args:
          logs: not used.
        """
        del logs
        self._began, self._spent = time.perf_counter(), 0.0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Measures if the share of time allows it.

        Args:
          batch: not used.
          logs: not used.
        """
        del batch, logs
        now = time.perf_counter()
        expected = self.measurements[-1].seconds if self.measurements else 0.0
        if self._spent + expected <= self._share * (now - self._began):
            self.measure(int(self.model.optimizer.iterations.numpy()))
            self._spent += time.perf_counter() - now

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Logs the latest eigenvalue.

        Args:
          epoch: not used.
          logs: metrics of the epoch, to which `lambda_max` is added.
        """
        del epoch
        if logs is not None and self.measurements:
            logs["lambda_max"] = self.measurements[-1].value

    def measure(self, step: int) -> Sharpness:
        """Measures now, regardless of the share of time; for custom training loops.

        Args:
          step: optimizer steps so far (count), stored with the result.

        Returns:
          The measurement, also appended to `measurements`.
        """
        subspace = Subspace.active(self.model, self._masks)
        if self._operator is None or self._operator.objective.model is not self.model:
            objective = Objective(self.model, self._loss)
            self._operator = HessianOperator(objective, objective.params(), self._batches, subspace)
            self._operator.matvec(np.zeros(subspace.size))
        began = time.perf_counter()
        operator = self._operator.at(self._operator.objective.params(), subspace=subspace)
        value, residual = self._largest(operator)
        self.measurements.append(Sharpness(step, value, residual, time.perf_counter() - began))
        return self.measurements[-1]

    def _largest(self, operator: HessianOperator) -> tuple[float, float]:
        """Largest eigenvalue and its residual; NaN where the loss is not finite."""
        start = None
        if self._direction is not None:
            start = operator.subspace.gather(self._direction).numpy()
        if start is None or not np.any(start):
            start = random_start(operator.shape[0], self._seed)
        try:
            found = lanczos(operator, self._steps, start=start, seed=self._seed).ritz()
        except ValueError:
            # A diverging run is not for a callback to end.
            return float("nan"), float("nan")
        # Stored in the space of all weights, where it survives a change of the masks.
        self._direction = operator.subspace.scatter(found.vectors[:, -1])
        return float(found.values[-1]), float(found.residuals[-1])
