"""Weights and masks of a run's checkpoints, as arrays by name."""

import pathlib
from collections.abc import Callable

import numpy as np

from sparse_lib.experiment.runtime.errors import RunError
from sparse_lib.experiment.storage.checkpoints import Reader, list_steps

# Statistics are no part of a solution: training does not move along them.
_STATISTICS = ("moving_mean", "moving_variance", "seed_generator_state")

Values = dict[str, np.ndarray]


def read_weights(checkpoint: pathlib.Path) -> Values:
    """Trainable values of a checkpoint.

    Args:
      checkpoint: prefix, or a run directory, which means its last one.

    Returns:
      Array by name of the variable, slashes as dots.

    Raises:
      RunError: if there is none, or it is damaged.
    """
    reader = Reader(checkpoint)
    return {name: reader.read("model", name) for name in reader.names("model") if not name.endswith(_STATISTICS)}


def read_masks(checkpoint: pathlib.Path) -> Values:
    """Masks of a checkpoint.

    Args:
      checkpoint: prefix, or a run directory, which means its last one.

    Returns:
      Boolean array by name of the kernel, slashes as dots.

    Raises:
      RunError: if there is none, or it is damaged.
    """
    reader = Reader(checkpoint)
    return {name: reader.read("masks", name).astype(bool) for name in reader.names("masks")}


class CheckpointReader:
    """Reads checkpoints for tables of many runs: what is missing or damaged is noted and left out.

    Attributes:
      notes: one sentence for each checkpoint that could not be read.
    """

    def __init__(self) -> None:
        """Notes nothing yet."""
        self.notes: list[str] = []

    def read_weights(self, checkpoint: pathlib.Path) -> Values | None:
        """Trainable values of a checkpoint, or None."""
        return self._read(read_weights, checkpoint)

    def read_masks(self, checkpoint: pathlib.Path) -> Values | None:
        """Masks of a checkpoint, or None."""
        return self._read(read_masks, checkpoint)

    def mask_history(self, directory: pathlib.Path) -> tuple[list[int], list[Values]]:
        """Steps and masks of all checkpoints of a run that can be read, in ascending order."""
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
