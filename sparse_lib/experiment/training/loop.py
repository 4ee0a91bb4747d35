"""The training loop: chunks of steps between log steps, checkpoints and mask updates."""

import math
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from sparse_lib.experiment.config.training import TrainingSettings
from sparse_lib.experiment.data import Dataset
from sparse_lib.experiment.runtime import signals
from sparse_lib.experiment.runtime.errors import RunError, SettingError
from sparse_lib.experiment.runtime.progress import Progress
from sparse_lib.experiment.runtime.signals import Stop
from sparse_lib.experiment.storage import files
from sparse_lib.experiment.storage.checkpoints import Checkpoints, Reader, list_steps
from sparse_lib.experiment.tracking.tracked_run import read_run
from sparse_lib.experiment.tracking.tracker import NO_TRACKERS, Trackers
from sparse_lib.experiment.training import outcome
from sparse_lib.experiment.training.cost import Cost
from sparse_lib.experiment.training.kept_best import KeptBest
from sparse_lib.experiment.training.mask_logs import MaskLogs, check_chain
from sparse_lib.experiment.training.metrics import SPLITS, Measurements
from sparse_lib.experiment.training.steps import CHUNK, ChunkResult, Steps
from sparse_lib.experiment.training.tally import Tally
from sparse_lib.experiment.training.tensorboard import ScalarWriter
from sparse_lib.optimizer import SparseOptimizer
from sparse_lib.recycling import recycle_dormant


def _count(mask: np.ndarray) -> int:
    # Much faster than summing booleans.
    return int(np.count_nonzero(mask))


def _format_note(values: Mapping[str, float]) -> str:
    split = "validation" if "validation_accuracy" in values else "test"
    loss = f"loss {values['train_loss']:.4f}, " if "train_loss" in values else ""
    return f"{loss}{split} accuracy {values[f'{split}_accuracy']:.4f}"


class Diverged(RunError):
    """Loss or weights are not finite."""


class Loop:
    """Trains a run to its last step, from the last checkpoint in its directory."""

    def __init__(
        self,
        directory: pathlib.Path,
        model: keras.Model,
        optimizer: SparseOptimizer,
        steps: Steps,
        dataset: Dataset,
        settings: TrainingSettings,
        trackers: Trackers = NO_TRACKERS,
    ) -> None:
        """Sets up checkpoints, logs and measurements; reads and writes no file.

        Args:
          directory: existing run directory.
          model: the network.
          optimizer: built, with masks and updater.
          steps: the compiled steps.
          dataset: train, validation and test.
          settings: total steps, and intervals of logs and checkpoints.
          trackers: get the measurements of log steps.

        Raises:
          SettingError: if the best log step is to be kept, and there are no validation images.
        """
        self._directory, self._model, self._optimizer = directory, model, optimizer
        self._dataset, self._steps, self._settings = dataset, steps, settings
        self._masks = optimizer.masks
        self._trackers = trackers
        self._tally = Tally()
        self._stored_tally = self._tally.variables()
        self._best = KeptBest() if settings.keep_best else None
        if self._best and not len(dataset.validation):
            raise SettingError(
                "training.keep_best=True needs validation images, and the data set has none; leave it out."
            )
        self._logged = [tf.Variable(m, trainable=False) for m in self._masks.values()]
        self._save_steps = frozenset(settings.save_steps)
        self._checkpoints = Checkpoints(
            directory,
            self._state(),
            keep=settings.keep_checkpoints,
            keep_steps=self._save_steps,
            network=model.name,
        )
        self._metrics = files.JsonLines(directory / files.METRICS)
        self._updates = files.JsonLines(directory / files.MASK_UPDATES)
        self._schedule = optimizer.updater.schedule
        # A record with two gradient norms at every step would take most of the time of the run.
        self._is_continuous = optimizer.updater.changes_every_step
        self._cost = Cost(model, optimizer)
        if settings.recycle_freq:
            check_chain(model, f"training.recycle_freq={settings.recycle_freq}")
        self._mask_logs = MaskLogs(model, optimizer.masks, settings)
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
            **({"best": self._best.variables} if self._best else {}),
        }

    def run(self) -> dict[str, Any]:
        """Trains, measures and saves until the last step.

        Returns:
          The entries of result.json that describe the training; `error` among them if the run has diverged.

        Raises:
          RunError: if a checkpoint does not fit, or a file cannot be written.
          Interrupted: after SIGINT or SIGTERM, once the state is saved.
        """
        self.check()
        restored = self._restore()
        self._measurements = Measurements(
            self._model,
            self._optimizer,
            self._dataset,
            held_size=self._settings.val_batch_size,
            initial=self._initial_weights(),
            scope=self._steps.evaluation_scope,
            dormant_threshold=self._settings.dormant_threshold,
        )
        step = restored or 0
        self._scalars = ScalarWriter(self._directory / files.TENSORBOARD, 0 if restored is None else step + 1)
        self._progress = Progress(self._directory.resolve().name, self._settings.total_steps, step)
        tracked = read_run(self._directory, step)
        self._scalars.describe(tracked)
        try:
            self._trackers.start(tracked)
            with signals.graceful_shutdown() as stop:
                self._train(step, stop, is_new=restored is None)
                return self._result()
        except Diverged as error:
            return self._result(str(error))
        finally:
            self._progress.close()
            self._scalars.close()

    def check(self) -> None:
        """Reads every file that a resumed run goes on from, before any of them changes.

        Raises:
          RunError: if a checkpoint or a log is damaged, or of another network.
        """
        if self._checkpoints.read_latest() is not None:
            self._initial_weights()
        self._metrics.read()
        self._updates.read()

    def _restore(self) -> int | None:
        """Restores the last checkpoint and returns its step; None where nothing has been logged yet."""
        step = self._checkpoints.restore_latest()
        if step is None:
            self._save(0)
        # A log line is written before the checkpoint of its step, except at step 0; a mask update belongs to the step
        # after it.
        self._metrics.keep_until(step or 0, inclusive=bool(step))
        self._updates.keep_until(step or 0, inclusive=False)
        if not step:
            return None
        self._tally = Tally.from_variables(self._stored_tally)
        self._delete_superseded()
        return step

    def _initial_weights(self) -> list[np.ndarray]:
        reader = Reader(self._directory / "ckpt-0")
        return [reader.read("model", v.path) for v in self._model.trainable_variables]

    def _train(self, step: int, stop: Stop, *, is_new: bool) -> None:
        started, before = time.monotonic(), self._tally.seconds
        note = self._log_and_save(step) if is_new else ""
        while step < self._settings.total_steps:
            self._progress.update(step, note)
            if stop:
                self._save(step)
                stop.raise_if_requested(step)
            step = self._advance(step)
            self._tally.seconds = before + time.monotonic() - started
            note = self._log_and_save(step) or note
        self._progress.update(step, note)

    def _log_and_save(self, step: int) -> str:
        """Logs, then saves, if due before a step; returns a note for the progress line."""
        last, note, is_best = step == self._settings.total_steps, "", False
        if step % self._settings.log_freq == 0 or last:
            values = self._log(step)
            note = _format_note(values)
            is_best = self._best is not None and self._best.takes({"step": step, **values})
        if step and (step % self._settings.save_freq == 0 or step in self._save_steps or last or is_best):
            self._save(step)
        if is_best:
            self._delete_superseded()
        return note

    def _delete_superseded(self) -> None:
        """Deletes the checkpoints before the best log step that were saved for being the best so far."""
        best = self._best.step if self._best else 0
        for step in list_steps(self._directory):
            if 0 < step < best and step % self._settings.save_freq and step not in self._save_steps:
                self._checkpoints.delete(step)

    def _advance(self, step: int) -> int:
        """Trains up to the next event and returns its step."""
        freq = self._settings.recycle_freq
        if freq and step and step % freq == 0:
            self._recycle(step)
        if not self._is_continuous and self._schedule.is_update_step(step):
            self._update_masks(step)
            return step + 1
        stop = min(
            self._settings.total_steps,
            *(n - step % n + step for n in (self._settings.log_freq, self._settings.save_freq, CHUNK, freq or CHUNK)),
            *(save for save in self._save_steps if save > step),
        )
        if not self._is_continuous:
            stop = min([stop, *self._schedule.steps(step, stop)[:1]])
        result = self._steps.run(step, stop - step, with_updates=self._is_continuous)
        self._check_finite(step, result)
        self._tally.add(result, self._cost.training_flops(stop - step, self._settings.batch_size))
        return stop

    def _recycle(self, step: int) -> None:
        """Recycles dormant units, by their activity on the first training images."""
        images = self._dataset.train.images[: self._settings.val_batch_size]
        seed = self._settings.seed * 1_000_003 + step
        recycle_dormant(self._model, self._optimizer, images, tau=self._settings.dormant_threshold, seed=seed)

    def _check_finite(self, step: int, result: ChunkResult) -> None:
        bad = np.flatnonzero(~np.isfinite(result.losses))
        if bad.size:
            raise self._divergence_error(f"The training loss is {result.losses[bad[0]]} at step {step + bad[0]}")

    def _check(self, step: int) -> None:
        """Raises if weights are not finite, or not zero off their masks."""
        bad = [v.path for v in self._model.trainable_variables if not np.isfinite(v.numpy()).all()]
        if bad:
            raise self._divergence_error(f"Weights of {bad[0]} are not finite before step {step}")
        self._masks.check()

    def _divergence_error(self, what: str) -> Diverged:
        return Diverged(
            f"{what}: lower optimizer.learning_rate, set optimizer.clipnorm or warm up; the last checkpoint in "
            f"{self._directory} is from before it."
        )

    def _update_masks(self, step: int) -> None:
        old = [m.numpy() for m in self._masks.variables_by_kernel]
        result, gradients = self._steps.begin_mask_update(step)
        self._check_finite(step, result)
        self._tally.add(result, self._cost.training_flops(1, self._settings.batch_size, mask_update=True))
        before = self._measurements.gradient_norm()
        # The checkpoints before and after are named by -(step - 1) and -step; 0 is taken by the start of the run.
        saves_pair = self._settings.save_update_pairs and step > 1
        if saves_pair:
            self._save(-step + 1)
        self._steps.finish_mask_update(gradients)
        if saves_pair:
            self._save(-step)
        self._check(step)
        self._cost.invalidate()
        new = [m.numpy() for m in self._masks.variables_by_kernel]
        dropped = sum(_count(a & ~b) for a, b in zip(old, new, strict=True))
        active = sum(map(_count, old))
        scheduled = self._optimizer.updater.drop_fraction_at(step)
        self._updates.append(
            {
                "step": step,
                "drop_fraction": dropped / max(active, 1) if scheduled is None else scheduled,
                "grown": sum(_count(b & ~a) for a, b in zip(old, new, strict=True)),
                "dropped": dropped,
                "sparsity": self._masks.sparsity(),
                "gradient_norm_before": before,
                "gradient_norm_after": self._measurements.gradient_norm(),
            }
        )

    def _log(self, step: int) -> dict[str, float]:
        self._check(step)
        values = self._tally.training_scalars(self._settings.batch_size)
        values |= self._measurements.scalars()
        values |= self._churn() | self._mask_logs.scalars()
        values["training_flops"] = self._tally.flops
        self._metrics.append({"step": step, **values})
        self._scalars.write(step, values, self._mask_logs.images(), self._mask_logs.active_weights())
        self._trackers.log(step, values)
        return values

    def _churn(self) -> dict[str, float]:
        """Measures the share of the weights active at the last log step that are inactive now (fraction)."""
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
        self._checkpoints.save(step, spared=self._best.step if self._best else None)

    def _result(self, error: str = "") -> dict[str, Any]:
        if error:
            losses = {f"{split}_{what}": math.nan for split in SPLITS for what in ("loss", "accuracy")}
        else:
            losses = self._measurements.final_losses()
            with files.atomic_path(self._directory / files.PREDICTIONS) as temporary:
                np.savez_compressed(temporary, **self._measurements.predictions())
        split = "validation" if len(self._dataset.validation) else "train"
        guess = outcome.Guess.of(self._dataset.reported[split].labels)
        seconds = self._tally.seconds
        return {
            **losses,
            **outcome.describe(self._metrics.read(), guess, losses[f"{split}_accuracy"]),
            **({"error": error} if error else {}),
            "steps": self._settings.total_steps,
            "seed": self._settings.seed,
            "sparsity": self._masks.sparsity(),
            **self._cost.sizes(),
            "execution": self._steps.explain_execution(),
            "training_flops": self._tally.flops,
            "steps_per_second": self._settings.total_steps / seconds if seconds else math.nan,
            "wall_seconds": seconds,
        }
