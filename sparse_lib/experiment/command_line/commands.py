"""Commands of the entry points: build an experiment from gin, train or analyse it, log the results."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, ParamSpec

from absl import logging

from sparse_lib._utils import distribute
from sparse_lib.experiment.analyses import instability as copies
from sparse_lib.experiment.analyses import interpolation, spectra, surfaces
from sparse_lib.experiment.command_line import extension, pruned_run, summary
from sparse_lib.experiment.command_line.options import Options
from sparse_lib.experiment.config import gin_files, gin_names, mask_updates
from sparse_lib.experiment.config.analyses import InstabilitySettings
from sparse_lib.experiment.config.experiment import Experiment
from sparse_lib.experiment.runtime.errors import RunError, SettingError
from sparse_lib.experiment.storage import checkpoints, files, run_directory
from sparse_lib.experiment.tracking.named import make_trackers
from sparse_lib.experiment.training import multi_worker, run
from sparse_lib.experiment.training.build import plan_run

Parameters = ParamSpec("Parameters")


def parse_gin(options: Options, preload: str = "") -> None:
    """Reads the gin files and bindings of a command line into gin's configuration.

    Args:
      options: of the command line.
      preload: a gin file to read first, instead of that of --preload_gin_config.

    Raises:
      SettingError: for a missing file, an unknown name or a line that is not gin.
    """
    mask_updates.import_modules(options.updater_module)
    first = preload or options.preload_gin_config
    seed = [] if options.seed is None else [f"training.seed = {options.seed}"]
    gin_files.parse([*([first] if first else []), *options.gin_config], [*options.gin_bindings, *seed])


def train(
    options: Options,
    directory: pathlib.Path,
    *,
    overwrite: bool,
    extend: int | None = None,
    trackers: Sequence[str] = (),
) -> None:
    """Trains the configured experiment and logs the result.

    Args:
      options: common flags of the command line.
      directory: of the run.
      overwrite: whether to delete an existing run.
      extend: new length of the run in the directory, whose configuration is taken (step); None is a run of its own.
      trackers: names for `make_trackers`.

    Raises:
      SettingError: if a run is to be both extended and deleted, or there is no such tracker.
    """
    following = make_trackers(trackers)
    experiment, strategy = _prepare_training(options, directory, overwrite=overwrite, extend=extend)
    with strategy.scope():
        config, plan = gin_files.operative(), plan_run(experiment)
        if multi_worker.is_writer():
            if extend is not None:
                extension.extend(experiment, directory, config)
            _log_lines(summary.format_start(experiment, plan.description, directory, overwrite=overwrite))
        try:
            result = run.train(plan, directory, config, overwrite=overwrite, trackers=following)
            following.finish(result)
        finally:
            following.finish(None)
        if multi_worker.is_writer():
            _log_lines(summary.format_end(plan.description, directory, result))


def plan_training(options: Options, directory: pathlib.Path, *, overwrite: bool, extend: int | None = None) -> None:
    """Prints what `train` would do with the same arguments: configuration, network, masks, cost, device and directory.

    Args:
      options: common flags of the command line.
      directory: of the run; it is neither made nor changed.
      overwrite: whether an existing run would be deleted.
      extend: new length of the run in the directory (step); None is a run of its own.

    Raises:
      RunError: if `train` would refuse the directory.
    """
    experiment, strategy = _prepare_training(options, directory, overwrite=overwrite, extend=extend)
    with strategy.scope():
        config, plan = gin_files.operative(), plan_run(experiment)
        if extend is not None:
            extension.check(experiment, directory, config)
        elif directory.is_dir():
            run_directory.check_claim(directory, config, overwrite=overwrite)
        print(summary.format_plan(plan.build(fresh=True), config))
        print(f"\n{summary.format_start(experiment, plan.description, directory, overwrite=overwrite)}")


def _prepare_training(
    options: Options, directory: pathlib.Path, *, overwrite: bool, extend: int | None
) -> tuple[Experiment, Any]:
    """Reads the configuration, and returns the experiment and the strategy; changes nothing."""
    if extend is not None and overwrite:
        raise SettingError("--extend goes on with a run and --overwrite deletes it; leave one of them out.")
    if extend is None:
        parse_gin(options)
        pruned_run.redirect(options, directory, overwrite=overwrite)
        if overwrite or not (directory.is_dir() and checkpoints.list_steps(directory)):
            pruned_run.check_sources(options)
    else:
        _parse_with_run(options, directory)
        gin_files.rebind("training", "total_steps", extend)
    return Experiment.from_gin(), distribute.make_strategy(options.strategy, options.tpu)


def _log_lines(text: str) -> None:
    for line in text.splitlines():
        logging.info("%s", line)


def _analysis(
    command: Callable[Concatenate[Options, Parameters], None],
) -> Callable[Concatenate[Options, Parameters], None]:
    """Runs an analysis of a finished run under the strategy of the options.

    Several workers would all compute the same: the first one does it, on its own devices.
    """

    @functools.wraps(command)
    def on_devices(options: Options, *args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        name = options.strategy
        if name == "multiworker":
            if not multi_worker.is_first():
                logging.info("The first worker does this, on its own devices; there is nothing to do for this one.")
                return
            name = "mirrored"
        with distribute.make_strategy(name, options.tpu).scope():
            command(options, *args, **kwargs)

    return on_devices


@_analysis
def evaluate(options: Options, directory: pathlib.Path, checkpoint: str, *, batch_statistics: bool = False) -> None:
    """Prints loss and accuracy of a checkpoint on every split as JSON.

    Args:
      options: common flags of the command line.
      directory: of the run; it need not hold one where a checkpoint and a configuration are given, such as a published
        checkpoint and the configuration of its network.
      checkpoint: prefix; empty means the last one of the run.
      batch_statistics: whether batch normalisation takes mean and variance of each batch.

    Raises:
      RunError: if the directory holds no run, or a loss is not finite.
    """
    files.check_path(checkpoint or directory)
    if checkpoint and options.has_configuration and not (directory / files.OPERATIVE_CONFIG).exists():
        parse_gin(options)
    else:
        _parse_with_run(options, directory)
    values = run.evaluate(Experiment.from_gin(), checkpoint or directory, batch_statistics=batch_statistics)
    print(files.format_json(values))
    if bad := [name for name, value in values.items() if not math.isfinite(value)]:
        raise RunError(
            f"{', '.join(bad)} of {checkpoint or directory} is not finite; evaluate an earlier checkpoint by --ckpt."
        )


@_analysis
def interpolate(
    options: Options,
    directory: pathlib.Path,
    *,
    start: str,
    end: str,
    operative: str,
    masks: str | None,
    overwrite: bool,
) -> None:
    """Evaluates the path between two checkpoints, and logs the barrier of each split.

    Args:
      options: common flags of the command line.
      directory: of the results.
      start: checkpoint at coefficient 0.
      end: checkpoint at coefficient 1.
      operative: gin file that describes network and data; empty means that of --preload_gin_config, or the one beside
        the end.
      masks: wins over interpolate.masks; None leaves it.
      overwrite: whether to delete an existing interpolation.

    Raises:
      SettingError: if a checkpoint is not given, or network and data are described twice.
      RunError: if there is no operative configuration.
    """
    for flag, value in (("ckpt_start", start), ("ckpt_end", end)):
        if not value:
            raise SettingError(f"--{flag} is missing; give a checkpoint (runs/prune/ckpt-500) or a run directory.")
    _parse_with_operative(options, end, operative)
    flags: dict[str, Any] = {"masks": masks, "seed": options.seed}
    chosen = {name: value for name, value in flags.items() if value is not None}
    settings = dataclasses.replace(gin_names.interpolate(), **chosen)
    result = interpolation.interpolate(
        Experiment.from_gin(), settings, start=start, end=end, directory=directory, overwrite=overwrite
    )
    for split, barrier in result["barrier"].items():
        loss, error = barrier["loss"]["above_line"], barrier["error"]["above_line"]
        logging.info(
            "%s: %s barrier above the line %.4f nats at %g, error %.4f at %g; largest rise %.4f nats",
            directory,
            split,
            loss["height"],
            loss["coefficient"],
            error["height"],
            error["coefficient"],
            barrier["loss"]["largest_rise"]["height"],
        )


@_analysis
def hessian(options: Options, directory: pathlib.Path) -> None:
    """Computes the spectra of a run's checkpoints.

    Args:
      options: common flags of the command line.
      directory: of the run.

    Raises:
      RunError: if the directory holds no run.
    """
    _parse_with_run(options, directory)
    spectra.compute(Experiment.from_gin(), directory, gin_names.hessian())


def _parse_with_run(options: Options, directory: pathlib.Path) -> None:
    """Reads the configuration of the run in a directory, then that of the command line."""
    config = directory / files.OPERATIVE_CONFIG
    if not config.is_file():
        raise RunError(f"{directory} holds no run ({files.OPERATIVE_CONFIG} is missing); give its --logdir.")
    parse_gin(options, preload=str(config))


def _parse_with_operative(options: Options, checkpoint: str, operative: str) -> None:
    """Reads the complete configuration of network and data, then that of the command line."""
    if operative and options.preload_gin_config:
        raise SettingError("--operative_gin and --preload_gin_config mean the same here; give one of them.")
    beside = pathlib.Path(checkpoints.find(checkpoint)).parent / files.OPERATIVE_CONFIG
    config = pathlib.Path(operative or options.preload_gin_config or beside)
    if not config.is_file():
        raise RunError(f"There is no {config}; give the {files.OPERATIVE_CONFIG} of a run as --operative_gin.")
    parse_gin(options, preload=str(config))


@_analysis
def picture(
    options: Options,
    kind: str,
    directory: pathlib.Path,
    *,
    solutions: Sequence[str],
    run_directory: str,
    operative: str,
    overwrite: bool,
) -> None:
    """Evaluates the loss on a grid around one solution, through three, or on the plane of a run's trajectory.

    Args:
      options: common flags of the command line.
      kind: `surface`, `plane` or `trajectory`.
      directory: of the results.
      solutions: one checkpoint for a surface, three for a plane, none for a trajectory.
      run_directory: of the run for a trajectory; empty for the others.
      operative: gin file that describes network and data; empty means that of --preload_gin_config, or the one beside
        the first checkpoint.
      overwrite: whether to delete an existing grid of that kind.

    Raises:
      SettingError: if there are too many or too few checkpoints.
    """
    wanted, asked = {
        "surface": (1, "--solution=CKPT once"),
        "plane": (3, "--solution=CKPT three times"),
        "trajectory": (0, "--run=DIR"),
    }[kind]
    if len(solutions) != wanted or bool(run_directory) != (kind == "trajectory"):
        raise SettingError(f"--mode={kind} takes {asked}, and nothing else.")
    _parse_with_operative(options, solutions[0] if solutions else run_directory, operative)
    settings = gin_names.surface()
    if options.seed is not None:
        settings = dataclasses.replace(settings, seed=options.seed)
    what: dict[str, Any] = {"directory": directory, "overwrite": overwrite}
    if kind == "surface":
        result = surfaces.surface(Experiment.from_gin(), settings, checkpoint=solutions[0], **what)
    elif kind == "plane":
        result = surfaces.plane(Experiment.from_gin(), settings, three=solutions, **what)
    else:
        result = surfaces.trajectory(Experiment.from_gin(), settings, run=pathlib.Path(run_directory), **what)
        first, second = result["explained_variance"][:2]
        logging.info("%s: the plane has %.1f%% of the variance of the run", directory, 100 * (first + second))
    for split, lowest in result["lowest"].items():
        logging.info("%s: lowest %s loss %.4f at (%.3g, %.3g)", directory, split, *lowest.values())


@_analysis
def instability(
    options: Options, directory: pathlib.Path, *, run_directory: str, operative: str, overwrite: bool
) -> None:
    """Trains copies of a run with other data orders, and logs the error barrier between them at each checkpoint.

    Args:
      options: common flags of the command line.
      directory: of copies and results.
      run_directory: of the run that is copied.
      operative: gin file that describes the run; empty means that of --preload_gin_config, or its own.
      overwrite: whether to delete copies and results that are there.

    Raises:
      SettingError: if the run is not given, or a seed is.
    """
    if not run_directory:
        raise SettingError("--run is missing; give the directory of the run to copy.")
    if options.seed is not None:
        raise SettingError("--seed belongs to the run that is copied; the copies differ by instability.data_seeds.")
    _parse_with_operative(options, run_directory, operative)
    experiment = Experiment.from_gin()
    # Unrecorded, since the settings of this analysis are no part of a copy's configuration.
    settings = gin_files.read_unrecorded(InstabilitySettings)
    configs = gin_files.operative_by_data_seed(settings.data_seeds)
    result = copies.instability(
        experiment,
        settings,
        line=gin_names.interpolate(),
        parent=pathlib.Path(run_directory),
        directory=directory,
        configs=configs,
        overwrite=overwrite,
    )
    for at in result["instability"]:
        verdict = "stable" if at["is_stable"] else "unstable"
        logging.info(
            "%s: from step %d, %s error barrier %.4f (%s)",
            directory,
            at["step"],
            at["split"],
            at["error_barrier"],
            verdict,
        )
