"""An optimizer whose masks and state are copied, restored, stored and started anew."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from sparse_lib._utils.errors import InputError
from sparse_lib.masks import Masks
from sparse_lib.optimizer.delegation import DelegatingOptimizer
from sparse_lib.optimizer.restart import FreshState
from sparse_lib.optimizer.tracked import TrackedKernel


class RestorableOptimizer(DelegatingOptimizer):
    """The variables of masked kernels, and what takes them back to an earlier state.

    A subclass sets `_kernels`, `_slots_by_name` and `_fresh` when it is built.

    Attributes:
      masks: of the sparse kernels.
    """

    def __init__(self, inner: keras.optimizers.Optimizer, masks: Masks, name: str) -> None:
        """Wraps an optimizer.

        Args:
          inner: a Keras optimizer, not yet built.
          masks: of the sparse kernels.
          name: name of this optimizer.
        """
        super().__init__(inner, name)
        self.masks = masks
        self._unbuilt_size = len(inner.variables) + 2 * len(masks)
        self._kernels: list[TrackedKernel] = []
        self._slots_by_name: dict[str, list[keras.Variable | None]]
        self._fresh: FreshState

    @property
    def variables(self) -> list[keras.Variable]:
        """The inner optimizer's variables and the updater's state."""
        own = [v for tracked in self._kernels for v in [*tracked.state.values(), tracked.growth] if v is not None]
        return self.inner.variables + own

    @property
    def slots(self) -> list[list[keras.Variable]]:
        """The inner optimizer's slots of each sparse kernel, in the order of the masks."""
        return [list(tracked.slots) for tracked in self._kernels]

    def restart(self, step: int = 0) -> None:
        """Gives slots and the state of the updater the values of a new optimizer; masks and learning rate stay.

        Compiled graphs go on as they are: see `sparse_lib.rewind`.

        Args:
          step: the step count afterwards, where schedules go on (step).

        Raises:
          ValueError: if the optimizer is not built.
        """
        self._check_built("optimizer.restart")
        self._fresh.restore(self._kernels, step)

    def reset_slots(self, changed: Sequence[np.ndarray]) -> None:
        """Gives the slots of some weights their initial values, after these weights were assigned.

        Averages (EMA) take the weights themselves. Slots of another shape, such as the factors of Adafactor, stay.

        Args:
          changed: booleans, one array per variable of `build`, of its shape.

        Raises:
          ValueError: if the optimizer is not built.
        """
        self._check_built("optimizer.reset_slots")
        for name, slots in self._slots_by_name.items():
            for slot, variable, marks in zip(slots, self._trainable_variables, changed, strict=True):
                if slot is not None and slot.shape == variable.shape and marks.any():
                    start = variable.numpy() if name == "average" else self._fresh.start_of(slot)
                    slot.assign(np.where(marks, start, slot.numpy()))

    def copy_masks(self) -> list[np.ndarray]:
        """Copies the masks and the state of the updater, which belong to the weights of this moment.

        Returns:
          Arrays for `restore_masks`.

        Raises:
          ValueError: if the optimizer is not built.
        """
        self._check_built("optimizer.copy_masks")
        return [variable.numpy() for tracked in self._kernels for variable in tracked.mask_state()]

    def restore_masks(self, copied: Sequence[np.ndarray]) -> None:
        """Restores masks together with weights, as in `weights = model.get_weights(); copied = optimizer.copy_masks()`.

        Restore the weights first, by `model.set_weights(weights)`. The step count and the slots of weights that are
        active in both masks stay; the slots of all others are reset.

        Args:
          copied: from `copy_masks` of this optimizer.

        Raises:
          ValueError: if the copy is of other masks.
        """
        self._check_built("optimizer.restore_masks")
        states = [tracked.mask_state() for tracked in self._kernels]
        shapes = [tuple(variable.shape) for state in states for variable in state]
        if shapes != [array.shape for array in copied]:
            raise InputError("The copy is of other masks: give what optimizer.copy_masks of this optimizer returned.")
        arrays = iter(copied)
        for tracked, state in zip(self._kernels, states, strict=True):
            tracked.restore([next(arrays) for _ in state])
        self.masks.project()

    def _check_built(self, what: str) -> None:
        if not self.built:
            raise InputError(f"Call optimizer.build(model.trainable_variables) before {what}.")

    def _saved_variables(self) -> list[Any]:
        return [*self.variables, *self.masks.variables_by_kernel, *self.masks.explored]

    def save_own_variables(self, store: Any) -> None:
        """Stores optimizer and masks in a Keras weights file.

        Args:
          store: maps names to arrays.
        """
        for i, variable in enumerate(self._saved_variables()):
            store[str(i)] = variable.numpy()

    def load_own_variables(self, store: Any) -> None:
        """Restores optimizer and masks from a Keras weights file.

        Args:
          store: maps names to arrays.

        Raises:
          ValueError: if the file is of another optimizer, updater or set of sparse kernels.
        """
        saved = self._saved_variables()
        if len(store.keys()) != len(saved):
            raise InputError(self._explain_difference(len(store.keys()), len(saved)))
        for i, variable in enumerate(saved):
            variable.assign(store[str(i)])

    def get_config(self) -> dict[str, Any]:
        """Returns the configuration of the inner optimizer; masks and updater belong to a live model."""
        return {"inner": keras.optimizers.serialize(self.inner), "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "RestorableOptimizer":
        """Refuses to load, since masks belong to a live model.

        Raises:
          ValueError: always, with the way to load the model.
        """
        raise InputError(
            "A SparseOptimizer holds the masks of a live model: load it with load_model(path, compile=False), put the "
            "masks on it with sparse_lib.sparsify(model, masks=path), from the same file, one of masks.save or masks "
            "at hand, and compile with a new SparseOptimizer."
        )

    def _explain_difference(self, stored: int, own: int) -> str:
        if not self.built:
            return (
                "The weights are loaded and their masks are not, since the optimizer has no slots yet: call "
                "optimizer.build(model.trainable_variables), then load the file once more."
            )
        if stored == self._unbuilt_size:
            return (
                "The file was saved before its optimizer was built, so it has masks and no slots: load it before "
                "optimizer.build(...), into a new SparseOptimizer."
            )
        return (
            f"The file holds {stored} optimizer variables and masks, this SparseOptimizer {own}; "
            "build it as the saved one was: same kernels, inner optimizer and updater."
        )
