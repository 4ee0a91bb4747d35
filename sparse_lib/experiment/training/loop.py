"""The training loop: chunks of steps between the moments at which a run logs, saves or changes its masks."""

import dataclasses
import math
import pathlib
import time
from collections.abc import Mapping
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf

from sparse_lib.experiment.data import Dataset
from sparse_lib.experiment.runtime import signals
from sparse_lib.experiment.runtime.errors import RunError
from sparse_lib.experiment.runtime.progress import Progress
from sparse_lib.experiment.runtime.signals import Stop
from sparse_lib.experiment.settings import TrainingSettings
from sparse_lib.experiment.storage import files
from sparse_lib.experiment.storage.checkpoints import Checkpoints, Reader
from sparse_lib.experiment.training.cost import Cost
from sparse_lib.experiment.training.metrics import Measurements
from sparse_lib.experiment.training.steps import CHUNK, ChunkResult, Steps
from sparse_lib.experiment.training.tensorboard import ScalarWriter
from sparse_lib.optimizer import SparseOptimizer
from sparse_lib.updaters import DropAndGrow, GraNet, RigLAuto

# A long run takes more FLOPs than an integer of 64 bits can count; two can.
_LOW_FLOPS = 10**18


def _stored(name: str, value: float) -> tf.Tensor:
    if name == "flops":
        return tf.constant(divmod(int(value), _LOW_FLOPS), tf.int64)
    return tf.constant(value, tf.int64 if isinstance(value, int) else tf.float64)


def _count(mask: np.ndarray) -> int:
    # Much faster than a sum of booleans.
    return int(np.count_nonzero(mask))


@dataclasses.dataclass
class Tally:
    """What a run sums up between log steps and over its length; part of every checkpoint.

    Attributes:
      loss: sum of the batch losses since the last log step (nats).
      batches: their number (count).
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
        """Variables for a checkpoint, of types that several workers can exchange."""
        return {
            name: tf.Variable(_stored(name, value), trainable=False) for name, value in dataclasses.asdict(self).items()
        }

    def store(self, variables: Mapping[str, tf.Variable]) -> None:
        """Assigns the numbers to variables from `variables`."""
        for name, value in dataclasses.asdict(self).items():
            variables[name].assign(_stored(name, value))

    @classmethod
    def of(cls, variables: Mapping[str, tf.Variable]) -> Self:
        """Takes the numbers from variables that a checkpoint has restored."""
        values = {name: variable.numpy().tolist() for name, variable in variables.items()}
        high, low = values.pop("flops")
        return cls(**values, flops=high * _LOW_FLOPS + low)

    def add(self, result: ChunkResult, flops: int) -> None:
        """Counts the steps of a chunk in, one by one, so that its length does not change the sum."""
        for loss in result.losses:
            self.loss += float(loss)
        self.batches += len(result.losses)
        self.correct += int(result.correct.sum())
        self.flops += flops

    def training_scalars(self, batch_size: int) -> dict[str, float]:
        """Mean training loss and accuracy since the last log step, and starts over."""
        if not self.batches:
            return {}
        values = {
            "train_loss": self.loss / self.batches,
            "train_accuracy": self.correct / (self.batches * batch_size),
        }
        self.loss, self.batches, self.correct = 0.0, 0, 0
        return values


class Loop:
    """Trains a built run to its last step, from wherever its directory stands."""

    def __init__(
        self,
        *,
        directory: pathlib.Path,
        model: keras.Model,
        optimizer: SparseOptimizer,
        dataset: Dataset,
        steps: Steps,
        settings: TrainingSettings,
    ) -> None:
        """Names what the checkpoints hold; reads and writes nothing.

        Args:
          directory: of the run; it exists.
          model: the network.
          optimizer: built, with masks and updater.
          dataset: train, validation and test.
          steps: the compiled steps.
          settings: how long, how often.
        """
        self._directory, self._model, self._optimizer = directory, model, optimizer
        self._dataset, self._steps, self._settings = dataset, steps, settings
        self._masks = optimizer.masks
        self._tally = Tally()
        self._stored_tally = self._tally.variables()
        self._logged = [tf.Variable(m, trainable=False) for m in self._masks.values()]
        self._checkpoints = Checkpoints(directory, self._state(), keep=settings.keep_checkpoints, network=model.name)
        self._metrics = files.JsonLines(directory / files.METRICS)
        self._updates = files.JsonLines(directory / files.MASK_UPDATES)
        self._schedule = optimizer.updater.schedule
        # These methods keep the number of active weights of a kernel and change its mask at every step; a record and
        # two gradient norms for each of a thousand steps would be all that the run does.
        self._continuous = optimizer.updater.has_reserve and self._schedule.frequency == 1
        self._cost = Cost(model, optimizer)
        self._measurements: Measurements
        self._scalars: ScalarWriter
        self._progress: Progress

    def _state(self) -> dict[str, dict[str, tf.Variable]]:
        named = self._masks.names
        return {
            "model": {v.path: v.value for v in self._model.variables},
            "masks": dict(zip(named, self._masks.variables_by_kernel, strict=True)),
            "explored": dict(zip(named, self._masks.explored, strict=True)),
            "logged": dict(zip(named, self._logged, strict=True)),
            "optimizer": {f"{i}.{v.name}": v.value for i, v in enumerate(self._optimizer.variables)},
            "tally": self._stored_tally,
        }

    def run(self) -> dict[str, Any]:
        """Trains, measures and saves until the last step.

        Returns:
          What result.json holds of the training.

        Raises:
          RunError: if the loss is not finite, or a checkpoint does not fit.
          Interrupted: after SIGINT or SIGTERM, once the state is saved.
        """
        restored = self._restore()
        self._measurements = Measurements(
            self._model,
            self._optimizer,
            self._dataset,
            held_size=self._settings.val_batch_size,
            initial=self._initial_weights(),
        )
        step = restored or 0
        self._scalars = ScalarWriter(self._directory / files.TENSORBOARD, 0 if restored is None else step + 1)
        self._progress = Progress(self._directory.resolve().name, self._settings.total_steps, step)
        try:
            with signals.graceful_shutdown() as stop:
                self._train(step, stop, is_new=restored is None)
                return self._result()
        finally:
            self._progress.close()
            self._scalars.close()

    def _restore(self) -> int | None:
        """Takes up the last checkpoint; None where nothing has been logged yet."""
        step = self._checkpoints.restore_latest()
        if step is None:
            self._save(0)
        # A log line is written before the checkpoint of its step, but for the first one; a mask update belongs to the
        # step after it.
        self._metrics.keep_until(step or 0, inclusive=bool(step))
        self._updates.keep_until(step or 0, inclusive=False)
        if not step:
            return None
        self._tally = Tally.of(self._stored_tally)
        return step

    def _initial_weights(self) -> list[np.ndarray]:
        reader = Reader(self._directory / "ckpt-0")
        return [reader.read("model", v.path) for v in self._model.trainable_variables]

    def _train(self, step: int, stop: Stop, *, is_new: bool) -> None:
        started, before = time.monotonic(), self._tally.seconds
        note = self._at(step) if is_new else ""
        while step < self._settings.total_steps:
            self._progress.update(step, note)
            if stop:
                self._save(step)
                stop.raise_if_requested(step)
            step = self._advance(step)
            self._tally.seconds = before + time.monotonic() - started
            note = self._at(step) or note
        self._progress.update(step, note)

    def _at(self, step: int) -> str:
        """What happens before a step: a log line, then a checkpoint; returns what is worth a word."""
        last, note = step == self._settings.total_steps, ""
        if step % self._settings.log_freq == 0 or last:
            note = self._log(step)
        if step and (step % self._settings.save_freq == 0 or last):
            self._save(step)
        return note

    def _advance(self, step: int) -> int:
        """Takes the steps up to the next event and returns where that is."""
        if not self._continuous and self._schedule.is_update_step(step):
            self._update_masks(step)
            return step + 1
        stop = min(
            self._settings.total_steps,
            *(n - step % n + step for n in (self._settings.log_freq, self._settings.save_freq, CHUNK)),
        )
        if not self._continuous:
            stop = min([stop, *self._schedule.steps(step, stop)[:1]])
        result = self._steps.run(step, stop - step, with_updates=self._continuous)
        self._check_finite(step, result)
        self._tally.add(result, self._cost.training_flops(stop - step, self._settings.batch_size))
        return stop

    def _check_finite(self, step: int, result: ChunkResult) -> None:
        bad = np.flatnonzero(~np.isfinite(result.losses))
        if bad.size:
            raise self._diverged(f"The training loss is {result.losses[bad[0]]} at step {step + bad[0]}")

    def _check(self, step: int) -> None:
        """Refuses to log or save what is broken: weights that are not finite, or not zero off their masks."""
        bad = [v.path for v in self._model.trainable_variables if not np.isfinite(v.numpy()).all()]
        if bad:
            raise self._diverged(f"Weights of {bad[0]} are not finite before step {step}")
        self._masks.check()

    def _diverged(self, what: str) -> RunError:
        return RunError(
            f"{what}: lower optimizer.learning_rate, set optimizer.clipnorm or warm up; the last checkpoint in "
            f"{self._directory} is from before it."
        )

    def _update_masks(self, step: int) -> None:
        old = [m.numpy() for m in self._masks.variables_by_kernel]
        result, gradients = self._steps.begin_mask_update(step)
        self._check_finite(step, result)
        self._tally.add(result, self._cost.training_flops(1, self._settings.batch_size, mask_update=True))
        before = self._measurements.gradient_norm()
        # The numbers 0 and 1 are taken by the checkpoints of the run.
        pairs = self._settings.save_update_pairs and step > 1
        if pairs:
            self._save(-step + 1)
        self._steps.finish_mask_update(gradients)
        if pairs:
            self._save(-step)
        self._check(step)
        self._cost.masks_changed()
        new = [m.numpy() for m in self._masks.variables_by_kernel]
        dropped = sum(_count(a & ~b) for a, b in zip(old, new, strict=True))
        active = sum(map(_count, old))
        self._updates.append(
            {
                "step": step,
                "drop_fraction": self._drop_fraction(step, dropped / active if active else 0.0),
                "grown": sum(_count(b & ~a) for a, b in zip(old, new, strict=True)),
                "dropped": dropped,
                "sparsity": self._masks.sparsity(),
                "gradient_norm_before": before,
                "gradient_norm_after": self._measurements.gradient_norm(),
            }
        )

    def _drop_fraction(self, step: int, measured: float) -> float:
        """That of the schedule, where the method has one that it obeys."""
        updater = self._optimizer.updater
        if isinstance(updater, DropAndGrow | GraNet) and not isinstance(updater, RigLAuto):
            return float(updater.fraction(tf.constant(step, tf.int64)))
        return measured

    def _log(self, step: int) -> str:
        self._check(step)
        values = self._tally.training_scalars(self._settings.batch_size)
        values |= self._measurements.scalars()
        values |= self._churn()
        values["training_flops"] = self._tally.flops
        self._metrics.append({"step": step, **values})
        self._scalars.write(step, values)
        return f"test accuracy {values['test_accuracy']:.4f}"

    def _churn(self) -> dict[str, float]:
        """Share of the weights active at the last log step that left since (fraction)."""
        left = active = 0
        for logged, mask in zip(self._logged, self._masks.variables_by_kernel, strict=True):
            old = logged.numpy()
            left += _count(old & ~mask.numpy())
            active += _count(old)
            logged.assign(mask)
        return {"mask_churn": left / active if active else 0.0}

    def _save(self, step: int) -> None:
        self._check(abs(step))
        self._tally.store(self._stored_tally)
        self._checkpoints.save(step)

    def _result(self) -> dict[str, Any]:
        predictions = self._measurements.predictions()
        with files.atomic_path(self._directory / files.PREDICTIONS) as temporary:
            np.savez_compressed(temporary, **predictions)
        seconds = self._tally.seconds
        return {
            **self._measurements.final_losses(),
            "steps": self._settings.total_steps,
            "seed": self._settings.seed,
            "sparsity": self._masks.sparsity(),
            **self._cost.sizes(),
            "training_flops": self._tally.flops,
            "steps_per_second": self._settings.total_steps / seconds if seconds else math.nan,
            "wall_seconds": seconds,
        }
