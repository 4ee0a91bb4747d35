"""Trains an experiment in its run directory, or evaluates one of its checkpoints."""

import os
import pathlib
from typing import Any

from absl import logging

from sparse_lib.experiment.config.description import describe
from sparse_lib.experiment.config.experiment import Experiment
from sparse_lib.experiment.config.mask_updates import schedule_warning
from sparse_lib.experiment.runtime.progress import Progress
from sparse_lib.experiment.runtime.versions import versions
from sparse_lib.experiment.storage import files, run_directory, sources
from sparse_lib.experiment.storage.checkpoints import list_steps
from sparse_lib.experiment.training import multi_worker
from sparse_lib.experiment.training.build import build_model, build_run
from sparse_lib.experiment.training.loop import Loop
from sparse_lib.experiment.training.metrics import Evaluator

# Entries of result.json that the command line prints.
_RESULTS = ("test_accuracy", "sparsity", "active_parameters", "total_parameters", "steps_per_second")


def train(experiment: Experiment, directory: pathlib.Path, config: str, *, overwrite: bool = False) -> dict[str, Any]:
    """Trains an experiment in its directory, from the start or the last checkpoint; a finished run is not repeated.

    Args:
      experiment: what to train.
      directory: of the run; it is created if it does not exist.
      config: the complete configuration as text; a directory holds one configuration.
      overwrite: whether to delete the existing run, once the new one is built.

    Returns:
      The contents of result.json; of several workers only the writer returns all of it.

    Raises:
      RunError: if the directory holds another run or cannot be written, or the run fails.
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
            return _read_result(result)
        steps = [] if overwrite else list_steps(directory)
        multi_worker.broadcast_step(steps[-1] if steps else multi_worker.EMPTY)
        built = build_run(experiment, fresh=not steps)
        if warning := schedule_warning(built.optimizer.updater, experiment.training.total_steps):
            logging.warning("%s", warning)
        if overwrite:
            run_directory.clear(directory)
        loop = Loop(directory=directory, dataset=experiment.dataset, settings=experiment.training, **built._asdict())
        loop.check()
        if not (directory / files.OPERATIVE_CONFIG).exists():
            files.write_text(directory / files.OPERATIVE_CONFIG, config)
        files.write_json(directory / files.RUN, describe(experiment, experiment.dataset.name)._asdict())
        values = {**loop.run(), "data": experiment.dataset.name, "versions": versions()}
        files.write_json(result, values)
        return values


def _read_result(path: pathlib.Path) -> dict[str, Any]:
    remedy = "delete it, and it is measured again"
    values = files.read_json(path, remedy)
    with files.report_damage(path, remedy):
        files.require_numbers(values, _RESULTS)
    return values


def _follow(experiment: Experiment, directory: pathlib.Path) -> dict[str, Any]:
    step = multi_worker.broadcast_step()
    if step == multi_worker.FINISHED:
        return {}
    with multi_worker.scratch_directory(directory, step) as own:
        built = build_run(experiment, fresh=step == multi_worker.EMPTY)
        loop = Loop(directory=own, dataset=experiment.dataset, settings=experiment.training, **built._asdict())
        return loop.run()


def evaluate(experiment: Experiment, checkpoint: str | os.PathLike[str]) -> dict[str, float]:
    """Loss and accuracy of a checkpoint on every split.

    Args:
      experiment: names network and data set.
      checkpoint: prefix, run directory or file of Keras; the latter holds no masks, and its zeros count as masked.

    Returns:
      `<split>_loss` (nats), `<split>_accuracy` and `sparsity` (fractions).
    """
    model = build_model(experiment)
    sources.load(checkpoint, model)
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
