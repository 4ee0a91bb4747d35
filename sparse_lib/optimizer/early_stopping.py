"""Early stopping that restores the masks with the weights."""

from typing import Any

import keras
import numpy as np

from sparse_lib._keras.optimizers import unwrap
from sparse_lib._utils.errors import InputError
from sparse_lib.optimizer.sparse_optimizer import SparseOptimizer


class EarlyStopping(keras.callbacks.EarlyStopping):
    """`keras.callbacks.EarlyStopping` whose `restore_best_weights` also restores the masks of those weights.

    Masks change while training goes on; the best weights under later masks would be other weights. Takes the arguments
    of Keras' callback.

    Examples:
      >>> import keras
      >>> import numpy as np
      >>> import sparse_lib
      >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(10)])
      >>> masks = sparse_lib.sparsify(model, 0.8)
      >>> updater = sparse_lib.RigL(frequency=2, end_step=100)
      >>> model.compile(sparse_lib.SparseOptimizer(keras.optimizers.Adam(), masks, updater), "mse")
      >>> stopping = sparse_lib.EarlyStopping("loss", patience=2, restore_best_weights=True)
      >>> _ = model.fit(np.eye(20), np.eye(20)[:, :10], epochs=5, verbose=0, callbacks=[stopping])
      >>> masks.check()
    """

    _best_masks: list[np.ndarray] | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Forgets the best masks of an earlier call of `fit`.

        Args:
          logs: unused.

        Raises:
          ValueError: if the model is not compiled with a `SparseOptimizer`.
        """
        self._optimizer()
        super().on_train_begin(logs)
        self._best_masks = None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Copies weights and masks where the monitored value is the best so far.

        Args:
          epoch: number of the epoch, from 0.
          logs: the monitored values.
        """
        before = self.best_weights
        super().on_epoch_end(epoch, logs)
        if self.best_weights is not before:
            self._best_masks = self._optimizer().copy_masks()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Restores the best weights and their masks.

        Args:
          logs: unused.
        """
        super().on_train_end(logs)
        if self.restore_best_weights and self._best_masks is not None:
            self._optimizer().restore_masks(self._best_masks)

    def _optimizer(self) -> SparseOptimizer:
        optimizer = unwrap(self.model.optimizer)
        if not isinstance(optimizer, SparseOptimizer):
            raise InputError(
                "sparse_lib.EarlyStopping restores the masks of a SparseOptimizer: compile the model with one, or use "
                "keras.callbacks.EarlyStopping."
            )
        return optimizer
