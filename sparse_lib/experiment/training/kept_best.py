"""The log step with the best validation so far, whose checkpoint a run keeps."""

import math
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from sparse_lib.experiment.training.outcome import Best, read_validation


class KeptBest:
    """The best log step so far; part of every checkpoint, so that a resumed run keeps what an uninterrupted one does.

    Attributes:
      variables: of the checkpoint, by name.
    """

    def __init__(self) -> None:
        """Begins at the start of the run, which every log step beats."""
        self.variables = {
            "step": tf.Variable(0, dtype=tf.int64, trainable=False),
            "accuracy": tf.Variable(-1.0, dtype=tf.float64, trainable=False),
            "loss": tf.Variable(math.inf, dtype=tf.float64, trainable=False),
        }

    @property
    def step(self) -> int:
        """The best log step so far; 0 before the first (step)."""
        return int(self.variables["step"].numpy())

    def takes(self, record: Mapping[str, Any]) -> bool:
        """Takes a log step if it is better than all before.

        Args:
          record: step, and the measurements of the log step.

        Returns:
          Whether it was better.
        """
        best = Best(*(variable.numpy().item() for variable in self.variables.values()))
        found = read_validation(record)
        if found is None or not best.is_beaten_by(found):
            return False
        for variable, value in zip(self.variables.values(), found, strict=True):
            variable.assign(value)
        return True
