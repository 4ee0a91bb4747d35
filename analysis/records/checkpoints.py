"""Weights and masks of a run's checkpoints, as arrays by name."""

import pathlib
from collections.abc import Callable

import numpy as np

from sparse_lib.experiment.runtime.errors import RunError
from sparse_lib.experiment.storage.checkpoints import Reader, list_steps

# Not trained by gradients, hence no coordinates of a solution.
_STATISTICS = ("moving_mean", "moving_variance", "seed_generator_state")

Values = dict[str, np.ndarray]


def read_weights(checkpoint: pathlib.Path) -> Values:
    """Reads the trainable values of a checkpoint.

    Args:
      checkpoint: prefix, or a run directory for its last checkpoint.

    Returns:
      Array by variable name, with dots instead of slashes.

    Raises:
      RunError: if the checkpoint is missing or damaged.
    """
    reader = Reader(checkpoint)
    return {name: reader.read("model", name) for name in reader.names("model") if not name.endswith(_STATISTICS)}


def read_masks(checkpoint: pathlib.Path) -> Values:
    """Reads the masks of a checkpoint.

    Args:
      checkpoint: prefix, or a run directory for its last checkpoint.

    Returns:
      Boolean array by kernel name, with dots instead of slashes.

    Raises:
      RunError: if the checkpoint is missing or damaged.
    """
    reader = Reader(checkpoint)
    return {name: reader.read("masks", name).astype(bool) for name in reader.names("masks")}


class CheckpointReader:
    """Reads checkpoints for tables of many runs; missing and damaged ones are noted and skipped.

    Attributes:
      notes: one sentence per checkpoint that could not be read.
    """

    def __init__(self) -> None:
        """Starts without notes."""
        self.notes: list[str] = []

    def read_weights(self, checkpoint: pathlib.Path) -> Values | None:
        """Reads the trainable values of a checkpoint; None if it cannot be read."""
        return self._read(read_weights, checkpoint)

    def read_masks(self, checkpoint: pathlib.Path) -> Values | None:
        """Reads the masks of a checkpoint; None if it cannot be read."""
        return self._read(read_masks, checkpoint)

    def read_mask_history(self, directory: pathlib.Path) -> tuple[list[int], list[Values]]:
        """Reads steps and masks of all readable checkpoints of a run, in ascending order."""
        found = [(step, self.read_masks(directory / f"ckpt-{step}")) for step in list_steps(directory)]
        kept = [(step, values) for step, values in found if values is not None]
        return [step for step, _ in kept], [values for _, values in kept]

    def _read(self, read: Callable[[pathlib.Path], Values], checkpoint: pathlib.Path) -> Values | None:
        try:
            return read(checkpoint)
        except RunError as error:
            if str(error) not in self.notes:
                self.notes.append(str(error))
            return None
