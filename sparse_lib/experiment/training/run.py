"""Trains an experiment in its run directory, or evaluates one of its checkpoints."""

import os
import pathlib
from typing import Any

from absl import logging

from sparse_lib.experiment.config.experiment import Experiment
from sparse_lib.experiment.config.mask_updates import schedule_warning
from sparse_lib.experiment.runtime.errors import RunError
from sparse_lib.experiment.runtime.progress import Progress
from sparse_lib.experiment.runtime.versions import versions
from sparse_lib.experiment.storage import files, run_directory, sources
from sparse_lib.experiment.storage.checkpoints import list_steps
from sparse_lib.experiment.tracking.tracker import NO_TRACKERS, Trackers
from sparse_lib.experiment.training import multi_worker, outcome
from sparse_lib.experiment.training.build import Plan, build_evaluation_scope, build_model
from sparse_lib.experiment.training.loop import Loop
from sparse_lib.experiment.training.metrics import BatchStatisticsEvaluator, Evaluator

# Entries of result.json that the command line prints.
_RESULTS = ("test_accuracy", "sparsity", "active_parameters", "total_parameters", "steps_per_second")


def train(
    plan: Plan, directory: pathlib.Path, config: str, *, overwrite: bool = False, trackers: Trackers = NO_TRACKERS
) -> dict[str, Any]:
    """Trains a run in its directory, from the start or the last checkpoint; one that has ended is not repeated.

    Args:
      plan: of the run, from `plan_run`.
      directory: of the run; created if missing.
      config: the complete configuration as text; a directory holds one configuration.
      overwrite: whether to delete the existing run, once the new one is built.
      trackers: follow the run; the caller ends them.

    Returns:
      The contents of result.json; of several workers only the writer returns all of it.

    Raises:
      RunError: if the directory holds another run or cannot be written, or the run fails, diverges or has diverged.
      Interrupted: after SIGINT or SIGTERM, once the state is saved.
    """
    with multi_worker.report_lost_worker():
        if multi_worker.is_writer():
            return _write(plan, directory, config, overwrite=overwrite, trackers=trackers)
        return _follow(plan, directory)


def _write(plan: Plan, directory: pathlib.Path, config: str, *, overwrite: bool, trackers: Trackers) -> dict[str, Any]:
    result = directory / files.RESULT
    with run_directory.lock(directory):
        run_directory.check_claim(directory, config, overwrite=overwrite)
        if result.exists() and not overwrite:
            multi_worker.broadcast_step(multi_worker.FINISHED)
            return _require_finite(_read_result(result))
        steps = [] if overwrite else list_steps(directory)
        multi_worker.broadcast_step(steps[-1] if steps else multi_worker.EMPTY)
        built = plan.build(fresh=not steps)
        if warning := schedule_warning(built.optimizer.updater, built.settings.total_steps):
            logging.warning("%s", warning)
        if overwrite:
            run_directory.clear(directory)
        loop = Loop(directory, *built, trackers)
        loop.check()
        if not (directory / files.OPERATIVE_CONFIG).exists():
            files.write_text(directory / files.OPERATIVE_CONFIG, config)
        files.write_json(directory / files.RUN, plan.description._asdict())
        values = {**loop.run(), "data": built.dataset.name, "versions": versions()}
        files.write_json(result, values)
        if text := outcome.warning(_require_finite(values)):
            logging.warning("%s: %s", directory, text)
        return values


def _read_result(path: pathlib.Path) -> dict[str, Any]:
    remedy = "delete it, and it is measured again"
    values = files.read_json(path, remedy)
    with files.report_damage(path, remedy):
        files.require_numbers(values, _RESULTS)
    return values


def _follow(plan: Plan, directory: pathlib.Path) -> dict[str, Any]:
    step = multi_worker.broadcast_step()
    if step == multi_worker.FINISHED:
        return {}
    with multi_worker.scratch_directory(directory, step) as own:
        return _require_finite(Loop(own, *plan.build(fresh=step == multi_worker.EMPTY)).run())


def _require_finite(values: dict[str, Any]) -> dict[str, Any]:
    """Raises the error of a run that has diverged: the same run would diverge again."""
    # Runs of earlier versions have no outcome.
    if values.get("outcome") == outcome.DIVERGED:
        raise RunError(str(values["error"]))
    return values


def evaluate(
    experiment: Experiment, checkpoint: str | os.PathLike[str], *, batch_statistics: bool = False
) -> dict[str, float]:
    """Loss and accuracy of a checkpoint on every split.

    Args:
      experiment: names network and data set.
      checkpoint: prefix, run directory or file of Keras; the latter holds no masks, and its zeros count as masked.
      batch_statistics: whether batch normalisation takes mean and variance of batches of training.batch_size images
        instead of its moving averages.

    Returns:
      `<split>_loss` (nats), `<split>_accuracy` and `sparsity` (fractions).
    """
    model = build_model(experiment)
    sources.load(checkpoint, model)
    splits = {name: split for name, split in experiment.dataset.reported.items() if len(split)}
    progress = Progress("evaluation", sum(map(len, splits.values())), unit="image")
    if batch_statistics:
        evaluator: Evaluator = BatchStatisticsEvaluator(model, experiment.training.batch_size, progress.advance)
    else:
        evaluator = Evaluator(model, progress.advance, build_evaluation_scope(experiment, model))
    values: dict[str, float] = {}
    for name, split in splits.items():
        values[f"{name}_loss"], values[f"{name}_accuracy"] = evaluator.evaluate(split)
    kernels = experiment.network.kernels(model)
    if sources.is_keras_file(checkpoint):
        masks = [kernel.numpy() != 0 for kernel in kernels.values()]
    else:
        masks = list(sources.masks(checkpoint, model, kernels).values())
    return {**values, "sparsity": 1 - sum(int(m.sum()) for m in masks) / sum(m.size for m in masks)}
