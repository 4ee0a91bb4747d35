"""A run goes on beyond its last step, where that makes no difference to the steps before it."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from sparse_lib.experiment.config.experiment import Experiment
from sparse_lib.experiment.runtime.errors import RunError, SettingError
from sparse_lib.experiment.storage import files, gin_text, run_directory
from sparse_lib.experiment.training.build import build_updater
from sparse_lib.updaters import Updater

_LENGTH = "training.total_steps"
# Steps at which schedules are compared, at most (count).
_COMPARED = 100


def extend(experiment: Experiment, directory: pathlib.Path, config: str) -> None:
    """Makes a run longer, so that training goes on from its last checkpoint; does nothing where it has that length.

    Args:
      experiment: the run with its new length.
      directory: of the run.
      config: the complete configuration of the longer run as text.

    Raises:
      SettingError: if the run is not made longer.
      RunError: if `check` refuses it, or another process works in the directory.
    """
    path = directory / files.OPERATIVE_CONFIG
    with run_directory.lock(directory):
        if check(experiment, directory, config):
            with files.translate_os_error(directory):
                # First: without a result, a process that dies here leaves an unfinished run.
                (directory / files.RESULT).unlink(missing_ok=True)
            files.write_text(path, config)


def check(experiment: Experiment, directory: pathlib.Path, config: str) -> bool:
    """Checks that a run can be made longer; changes nothing.

    A run is a function of its configuration and seed, and stays one: the longer run is, bit for bit, the one that would
    have been that long from the start. A schedule that ends with the run, such as a cosine, makes this impossible.

    Args:
      experiment: the run with its new length.
      directory: of the run.
      config: the complete configuration of the longer run as text.

    Returns:
      Whether the run does not have that length already.

    Raises:
      SettingError: if the run is not made longer.
      RunError: if a schedule depends on the length, or the configuration differs in more than the length.
    """
    stored = files.read_text(directory / files.OPERATIVE_CONFIG, "give the --logdir of a run")
    before = gin_text.parse(stored).get(_LENGTH)
    after = experiment.training.total_steps
    if before == after:
        return False
    if not isinstance(before, int) or after < before:
        raise SettingError(f"--extend={after} must be more than the {before} steps that {directory} has.")
    if schedules := find_dependent_schedules(experiment, before):
        raise RunError(
            f"{directory} cannot go on as the same run: {' and '.join(schedules)} depends on its length, so that a run "
            f"of {after} steps would have been another one from the start. Start it in another --logdir, or train on "
            f"from these weights there, by network.mask_init_path='{directory}' and "
            f"network.weight_init_path='{directory}'."
        )
    same_length = config.replace(f"{_LENGTH} = {after}\n", f"{_LENGTH} = {before}\n")
    run_directory.check_claim(directory, same_length, overwrite=False)
    return True


def find_dependent_schedules(experiment: Experiment, steps: int) -> Sequence[str]:
    """Finds the schedules of a run that would have been others, had the run been shorter.

    Args:
      experiment: the run.
      steps: the shorter length (step).

    Returns:
      Each as the subject of a sentence.
    """
    shorter = dataclasses.replace(experiment, training=dataclasses.replace(experiment.training, total_steps=steps))
    both, found = (experiment, shorter), []
    at = range(0, steps, -(-steps // _COMPARED))
    rates = [[float(one.optimizer.rate(one.training.total_steps)(step)) for step in at] for one in both]
    if rates[0] != rates[1]:
        found.append(f"the learning rate (optimizer.schedule={experiment.optimizer.schedule!r})")
    updaters = [build_updater(one) for one in both]
    drops = [[updater.drop_fraction_at(step) for step in at] for updater in updaters]
    if drops[0] != drops[1]:
        found.append(f"the drop fraction (mask_updater.schedule_alg={experiment.mask_updater.schedule_alg!r})")
    own = [_read_plain_fields(updater) for updater in updaters]
    differing = (name for name in own[0] if own[0][name] != own[1][name])
    return [*found, *(f"{name} of {type(updaters[0]).__name__}" for name in differing)]


def _read_plain_fields(updater: Updater) -> dict[str, Any]:
    """Returns the fields of a method that are no schedules, by name."""
    fields = {field.name: getattr(updater, field.name) for field in dataclasses.fields(updater)}
    return {name: value for name, value in fields.items() if not callable(value)}
