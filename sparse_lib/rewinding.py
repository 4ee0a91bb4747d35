"""Rewinding: a model that is already compiled goes back to the weights of an earlier moment, under new masks or old."""

from typing import Any

import keras

from sparse_lib._keras.optimizers import unwrap
from sparse_lib._utils.errors import InputError
from sparse_lib.kernels import check_model
from sparse_lib.optimizer import SparseOptimizer


class Snapshot:
    """Copies of a model's weights, averages and seeds, and of its masks.

    Attributes:
      weights: one array per variable of the model.
      masks: one boolean array per sparse kernel.
      step: steps that the optimizer had taken (step).
    """

    def __init__(self, model: keras.Model, optimizer: SparseOptimizer | None = None) -> None:
        """Copies the state of this moment.

        Args:
          model: a built model.
          optimizer: that trains it in a loop of your own; None takes the one that the model is compiled with.

        Raises:
          ValueError: if the model is not built, or has no SparseOptimizer.
        """
        check_model(model)
        found = _find_optimizer(model, optimizer)
        self.weights = [variable.numpy() for variable in _variables(model)]
        self.masks = [mask.numpy() for mask in found.masks.values()]
        self.step = int(found.iterations.numpy())
        self._state = found.copy_masks() if found.built else None

    def restore(self, model: keras.Model, optimizer: SparseOptimizer, *, masks: bool, step: int) -> None:
        """Writes the copies back; `rewind` explains the arguments."""
        variables = _variables(model)
        if [tuple(v.shape) for v in variables] != [array.shape for array in self.weights]:
            raise InputError("The snapshot is of another model: take it from the model that is rewound.")
        for variable, array in zip(variables, self.weights, strict=True):
            variable.assign(array)
        if masks:
            optimizer.masks.assign(self.masks)
        optimizer.masks.project()
        if optimizer.built:
            optimizer.restart(step)
            if masks and self._state is not None:
                optimizer.restore_masks(self._state)


def rewind(
    model: keras.Model,
    snapshot: Snapshot,
    *,
    optimizer: SparseOptimizer | None = None,
    restore_masks: bool = False,
    step: int = 0,
) -> None:
    """Takes a model back to a snapshot, to train it again under its masks of now.

    The weights are those of the snapshot, zero off the masks, and the optimizer starts anew: slots, averages, the state
    of the updater and the step count are those of a new one. Nothing is compiled again, so that iterative magnitude
    pruning (Frankle & Carbin 2019, arXiv 1803.03635) costs its training alone. The learning rate stays, and schedules
    follow the step count.

    Args:
      model: a built model.
      snapshot: of this model.
      optimizer: that trains it in a loop of your own; None takes the one that the model is compiled with.
      restore_masks: whether the masks, and the state of the updater that belongs to them, go back as well.
      step: the step count afterwards (step): 0 starts schedules anew; `snapshot.step` goes on from a later moment, as
        in weight rewinding (Frankle et al. 2020, arXiv 1912.05671).

    Raises:
      ValueError: if the snapshot is of another model, or the model has no SparseOptimizer.

    Examples:
      >>> import keras
      >>> import numpy as np
      >>> import sparse_lib
      >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(10)])
      >>> masks = sparse_lib.sparsify(model, 0.0)
      >>> model.compile(sparse_lib.SparseOptimizer(keras.optimizers.Adam(), masks), "mse")
      >>> start = sparse_lib.Snapshot(model)
      >>> for sparsity in (0.5, 0.75):
      ...     _ = model.fit(np.eye(20), np.eye(20)[:, :10], verbose=0)
      ...     masks.prune(sparsity)
      ...     sparse_lib.rewind(model, start)
      >>> masks.active()
      [50]
    """
    check_model(model)
    if not isinstance(snapshot, Snapshot):
        raise InputError(f"The second argument is a Snapshot(model), got {snapshot!r}.")
    snapshot.restore(model, _find_optimizer(model, optimizer), masks=restore_masks, step=step)


def _find_optimizer(model: keras.Model, optimizer: Any) -> SparseOptimizer:
    found = unwrap(getattr(model, "optimizer", None) if optimizer is None else optimizer)
    if not isinstance(found, SparseOptimizer):
        raise InputError(
            "Rewinding needs the SparseOptimizer of the model: compile the model with one, or give optimizer=."
        )
    return found


def _variables(model: keras.Model) -> list[Any]:
    """Weights, averages and seeds; no metrics."""
    metrics = {id(variable) for variable in getattr(model, "metrics_variables", [])}
    found = [variable for variable in model.variables if id(variable) not in metrics]
    if not model.built or not found:
        raise InputError(f"Model {model.name} has no weights yet: call it once on a batch, or build it, first.")
    return found
