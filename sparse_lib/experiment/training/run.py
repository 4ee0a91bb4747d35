"""The roots of the suite: an experiment, built from its settings, trained or evaluated in its directory."""

import dataclasses
import json
import os
import pathlib
import platform
from importlib import metadata
from typing import Any, NamedTuple

import keras
import numpy as np
from absl import logging

from sparse_lib.experiment.config.mask_updates import PruningSettings, UpdaterSettings, foreseen
from sparse_lib.experiment.config.masks import MaskSettings, OneShotSettings
from sparse_lib.experiment.config.network import MetaInitSettings, NetworkSettings
from sparse_lib.experiment.config.optimizer import OptimizerSettings
from sparse_lib.experiment.data import Dataset
from sparse_lib.experiment.modes import MaskInit, WeightSource, held_out_growth
from sparse_lib.experiment.runtime.progress import Progress
from sparse_lib.experiment.settings import TrainingSettings
from sparse_lib.experiment.sizes import Sizes
from sparse_lib.experiment.storage import files, run_directory, sources
from sparse_lib.experiment.storage.checkpoints import list_steps
from sparse_lib.experiment.training import multi_worker
from sparse_lib.experiment.training.loop import Loop
from sparse_lib.experiment.training.metrics import Evaluator, held_out
from sparse_lib.experiment.training.steps import Steps
from sparse_lib.masks import Masks
from sparse_lib.optimizer import SparseOptimizer
from sparse_lib.updaters import Updater


class Built(NamedTuple):
    """What an experiment trains with.

    Attributes:
      model: the network.
      optimizer: with masks and updater.
      steps: the compiled steps.
    """

    model: keras.Model
    optimizer: SparseOptimizer
    steps: Steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that decides the outcome of a run.

    Attributes:
      dataset: train, validation and test.
      training: length and rhythm.
      network: which network, whose masks and weights.
      sizes: of the network that is named.
      masks: random masks.
      oneshot: one-shot pruning.
      pruning: gradual pruning.
      mask_updater: dynamic sparse training.
      optimizer: the inner optimizer.
      metainit: its settings, used where training.use_metainit.
      initializer: (mask, seed, inputs, outputs) -> kernel, or None for the dense initialisation.
    """

    dataset: Dataset
    training: TrainingSettings
    network: NetworkSettings
    sizes: Sizes
    masks: MaskSettings
    oneshot: OneShotSettings
    pruning: PruningSettings
    mask_updater: UpdaterSettings
    optimizer: OptimizerSettings
    metainit: MetaInitSettings
    initializer: MaskInit | None = None

    def model(self) -> keras.Model:
        """The network with its dense initial weights.

        Fresh weights under the masks of another run come from a stream of their own: with the seed of that run they
        would else be the weights that it started from, and scratch would be the lottery ticket.
        """
        fresh = bool(self.network.mask_init_path) and not self.network.weight_init_path
        stream = 2 * self.training.seed + fresh
        return self.network.build(self.dataset.input_shape, self.dataset.num_classes, stream, self.sizes)

    def built(self, *, fresh: bool) -> Built:
        """Builds network, masks, weights, optimizer and compiled steps, under the current strategy.

        Args:
          fresh: whether the run starts; a run that goes on takes masks and weights from its checkpoint, so that
            one-shot pruning, MetaInit and the checkpoints of other runs are not needed again.

        Returns:
          What trains.
        """
        training, seed = self.training, self.training.seed
        model = self.model()
        kernels = self.network.kernels(model)
        oneshot = self.oneshot.build(training.oneshot_prune_fraction, self.mask_updater.update_alg)
        mask_source = self.masks.source(self.network, oneshot, self.oneshot.examples)
        weights = self.network.weight_source(self.initializer, self.metainit if training.use_metainit else None)
        rate = self.optimizer.rate(training.total_steps)
        updater = self.mask_updater.build(
            self.pruning.build(),
            rate,
            peak_rate=self.optimizer.learning_rate,
            total_steps=training.total_steps,
            dense_start=mask_source.is_dense,
        )
        if fresh:
            weights.load(model)
            masks = mask_source.masks(model, kernels, self.dataset, seed)
            weights.initialize(model, masks, self.dataset.num_classes, seed)
        else:
            masks = mask_source.full(model, kernels)
        optimizer = SparseOptimizer(
            self.optimizer.build(rate),
            masks,
            updater,
            growth_gradient=self._growth(model, masks, updater),
            seed=seed,
        )
        optimizer.build(model.trainable_variables)
        steps = Steps(
            model,
            optimizer,
            self.dataset.train,
            batch_size=training.batch_size,
            seed=seed if training.data_seed is None else training.data_seed,
            augmentation=self.dataset.augmentation,
            label_smoothing=training.label_smoothing,
            gradient_regularization=training.gradient_regularization,
            jit_compile=training.jit_compile,
        )
        return Built(model, optimizer, steps)

    def _growth(self, model: keras.Model, masks: Masks, updater: Updater) -> Any:
        growth = self.mask_updater.growth_gradient
        if growth == "held_out" or updater.needs_hessian:
            return held_out_growth(model, masks, held_out(self.dataset), self.training.val_batch_size, updater)
        return growth


def train(experiment: Experiment, directory: pathlib.Path, config: str, *, overwrite: bool = False) -> dict[str, Any]:
    """Trains an experiment in its directory, from the start or from where it stands; a finished run stays as it is.

    Args:
      experiment: what to train.
      directory: of the run; it is made if need be.
      config: the complete configuration as text; a directory holds runs of one configuration.
      overwrite: whether to delete the run that is there, once the new one is built.

    Returns:
      What result.json holds; of several workers only the writer knows all of it.

    Raises:
      RunError: if the directory belongs to somebody else or cannot be written, or the run fails.
      Interrupted: after SIGINT or SIGTERM, once the state is saved.
    """
    with multi_worker.report_lost_worker():
        if multi_worker.is_writer():
            return _write(experiment, directory, config, overwrite=overwrite)
        return _follow(experiment, directory)


def _write(experiment: Experiment, directory: pathlib.Path, config: str, *, overwrite: bool) -> dict[str, Any]:
    result = directory / files.RESULT
    with run_directory.lock(directory):
        run_directory.check_claim(directory, config, overwrite=overwrite)
        if result.exists() and not overwrite:
            multi_worker.broadcast_step(multi_worker.FINISHED)
            return json.loads(result.read_text(encoding="utf8"))
        steps = [] if overwrite else list_steps(directory)
        multi_worker.broadcast_step(steps[-1] if steps else multi_worker.EMPTY)
        built = experiment.built(fresh=not steps)
        if warning := foreseen(built.optimizer.updater, experiment.training.total_steps):
            logging.warning("%s", warning)
        if overwrite:
            run_directory.clear(directory)
        if not (directory / files.OPERATIVE_CONFIG).exists():
            files.write_text(directory / files.OPERATIVE_CONFIG, config)
        loop = Loop(directory=directory, dataset=experiment.dataset, settings=experiment.training, **built._asdict())
        values = {**loop.run(), "data": experiment.dataset.name, "versions": versions()}
        files.write_json(result, values)
        return values


def _follow(experiment: Experiment, directory: pathlib.Path) -> dict[str, Any]:
    step = multi_worker.broadcast_step()
    if step == multi_worker.FINISHED:
        return {}
    with multi_worker.scratch_directory(directory, step) as own:
        built = experiment.built(fresh=step == multi_worker.EMPTY)
        loop = Loop(directory=own, dataset=experiment.dataset, settings=experiment.training, **built._asdict())
        return loop.run()


def evaluate(experiment: Experiment, checkpoint: str | os.PathLike[str]) -> dict[str, float]:
    """Loss and accuracy of a checkpoint on every split.

    Args:
      experiment: names network and data set.
      checkpoint: whose weights to take; a file of Keras holds no masks, and its zeros count as such.

    Returns:
      `<split>_loss` (nats), `<split>_accuracy` and `sparsity` (fractions).
    """
    model = experiment.model()
    WeightSource(checkpoint=checkpoint).load(model)
    splits = {name: split for name, split in experiment.dataset.reported.items() if len(split)}
    progress = Progress("evaluation", sum(map(len, splits.values())), unit="image")
    evaluator = Evaluator(model, progress.advance)
    values: dict[str, float] = {}
    for name, split in splits.items():
        values[f"{name}_loss"], values[f"{name}_accuracy"] = evaluator.evaluate(split)
    kernels = experiment.network.kernels(model)
    if sources.is_keras_file(checkpoint):
        masks = [kernel.numpy() != 0 for kernel in kernels.values()]
    else:
        masks = list(sources.masks(checkpoint, model, kernels).values())
    return {**values, "sparsity": 1 - sum(int(m.sum()) for m in masks) / sum(m.size for m in masks)}


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    packages = ("tensorflow", "keras", "numpy")
    found = {name: metadata.version(name) for name in packages}
    return {"python": platform.python_version(), **found}


def early_gradient_norm(metrics: list[dict[str, Any]], share: float = 0.1) -> float:
    """Mean gradient norm over the first part of training, the start left out.

    Args:
      metrics: records of metrics.jsonl.
      share: of the steps that count as early (fraction).

    Returns:
      The mean of `gradient_norm`, NaN without records.
    """
    last = metrics[-1]["step"] if metrics else 0
    early = [m["gradient_norm"] for m in metrics if 0 < m["step"] <= share * last]
    # A number that is not finite is null in JSON.
    return float(np.mean([np.nan if norm is None else norm for norm in early])) if early else float("nan")
