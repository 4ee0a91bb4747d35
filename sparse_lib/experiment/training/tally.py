"""Running totals of a run: loss, accuracy, FLOPs and wall time."""

import dataclasses
from collections.abc import Mapping
from typing import Self

import tensorflow as tf

from sparse_lib.experiment.training.steps import ChunkResult

# The FLOPs of a long run exceed an integer of 64 bits, so a checkpoint stores them in two.
_LOW_FLOPS = 10**18


def _to_tensor(name: str, value: float) -> tf.Tensor:
    if name == "flops":
        return tf.constant(divmod(int(value), _LOW_FLOPS), tf.int64)
    return tf.constant(value, tf.int64 if isinstance(value, int) else tf.float64)


@dataclasses.dataclass
class Tally:
    """Totals since the last log step and over the whole run; part of every checkpoint.

    Attributes:
      loss: sum of the batch losses since the last log step (nats).
      batches: batches since the last log step (count).
      correct: correctly classified training examples since the last log step (count).
      flops: training FLOPs so far, exact.
      seconds: wall time of the loop so far (seconds).
    """

    loss: float = 0.0
    batches: int = 0
    correct: int = 0
    flops: int = 0
    seconds: float = 0.0

    def variables(self) -> dict[str, tf.Variable]:
        """Creates variables for a checkpoint, of types that several workers can exchange."""
        return {
            name: tf.Variable(_to_tensor(name, value), trainable=False)
            for name, value in dataclasses.asdict(self).items()
        }

    def store(self, variables: Mapping[str, tf.Variable]) -> None:
        """Assigns the totals to variables from `variables`."""
        for name, value in dataclasses.asdict(self).items():
            variables[name].assign(_to_tensor(name, value))

    @classmethod
    def from_variables(cls, variables: Mapping[str, tf.Variable]) -> Self:
        """Reads the totals from restored variables."""
        values = {name: variable.numpy().tolist() for name, variable in variables.items()}
        high, low = values.pop("flops")
        return cls(**values, flops=high * _LOW_FLOPS + low)

    def add(self, result: ChunkResult, flops: int) -> None:
        """Adds the steps of a chunk, one by one, so that its length does not change the sum."""
        for loss in result.losses:
            self.loss += float(loss)
        self.batches += len(result.losses)
        self.correct += int(result.correct.sum())
        self.flops += flops

    def training_scalars(self, batch_size: int) -> dict[str, float]:
        """Returns mean training loss and accuracy since the last log step, and resets them."""
        if not self.batches:
            return {}
        values = {
            "train_loss": self.loss / self.batches,
            "train_accuracy": self.correct / (self.batches * batch_size),
        }
        self.loss, self.batches, self.correct = 0.0, 0, 0
        return values
