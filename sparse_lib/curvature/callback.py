"""A Keras callback that follows the largest eigenvalue while a model trains."""

import time
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from sparse_lib._utils.errors import InputError
from sparse_lib.curvature.batches import Batches
from sparse_lib.curvature.lanczos import lanczos, random_start
from sparse_lib.curvature.operators import HessianOperator
from sparse_lib.curvature.subspace import Subspace
from sparse_lib.masks import Masks
from sparse_lib.objective import LossFunction, Objective


class Sharpness(NamedTuple):
    """The largest eigenvalue of the Hessian at one step.

    Attributes:
      step: steps of the optimizer before it (count).
      value: the eigenvalue.
      residual: an eigenvalue of the Hessian lies within this distance of the value.
      seconds: what the measurement took, without compiling.
    """

    step: int
    value: float
    residual: float
    seconds: float


class TopEigenvalue(keras.callbacks.Callback):
    """Follows the largest eigenvalue of the Hessian on the active weights, in a bounded share of the time.

    A measurement is a few Lanczos steps from the eigenvector that the last one found, which hardly moves in between, so
    that the estimate gets better as training goes on; its residual says how good it is. Measurements are taken after
    batches, whenever the time spent on them stays below `share` of the time since training began. The first comes
    after the first batch and compiles its graph: that time counts, and the next waits until it is paid for. Training
    is not touched: no weight, batch-norm average, seed or mask moves.

    The latest value is in the epoch's logs as `lambda_max`, all are in `measurements`.

    Attributes:
      measurements: one `Sharpness` a measurement.
    """

    def __init__(
        self,
        data: Any,
        *,
        batch_size: int = 1000,
        loss: LossFunction | None = None,
        masks: Masks | None = None,
        share: float = 0.05,
        steps: int = 8,
        seed: int = 0,
    ) -> None:
        """Takes what to measure on.

        Args:
          data: examples, in any form that `Batches.of` takes; the same for all measurements.
          batch_size: examples a batch (count).
          loss: maps (y_true, outputs) to one loss an example; None takes cross-entropy of integer labels.
          masks: of the model's sparse kernels; None takes all weights.
          share: largest share of the training time to spend (fraction).
          steps: lanczos steps of a measurement, each a pass over the data (count).
          seed: seed of the first start vector.

        Raises:
          ValueError: for a share outside of (0, 1], no steps, or unusable data.
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
        """Starts the clock."""
        del logs
        self._began, self._spent = time.perf_counter(), 0.0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Measures if there is time for it."""
        del batch, logs
        now = time.perf_counter()
        expected = self.measurements[-1].seconds if self.measurements else 0.0
        if self._spent + expected <= self._share * (now - self._began):
            self.measure(int(self.model.optimizer.iterations.numpy()))
            self._spent += time.perf_counter() - now

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Puts the latest eigenvalue into the logs."""
        del epoch
        if logs is not None and self.measurements:
            logs["lambda_max"] = self.measurements[-1].value

    def measure(self, step: int) -> Sharpness:
        """Takes one measurement now, whatever it costs; for training loops of one's own.

        Args:
          step: steps of the optimizer so far (count), kept with the result.

        Returns:
          The measurement, which is also in `measurements`.
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
        """The largest eigenvalue and its residual, NaN at weights that have no finite loss."""
        start = None
        if self._direction is not None:
            start = operator.subspace.gather(self._direction).numpy()
        if start is None or not np.any(start):
            start = random_start(operator.shape[0], self._seed)
        try:
            found = lanczos(operator, self._steps, start=start, seed=self._seed).ritz()
        except ValueError:
            # Training that diverges is not ours to end.
            return float("nan"), float("nan")
        # Kept in the space of all weights, where it outlives a change of the masks.
        self._direction = operator.subspace.scatter(found.vectors[:, -1])
        return float(found.values[-1]), float(found.residuals[-1])
