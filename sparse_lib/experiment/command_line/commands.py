"""What the command lines do: gin's values become an experiment, and its results a few lines."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags, logging

from sparse_lib._utils import distribute
from sparse_lib.experiment.analyses import instability as copies
from sparse_lib.experiment.analyses import interpolation, spectra, surfaces
from sparse_lib.experiment.command_line import cli
from sparse_lib.experiment.config import gin_files, gin_names
from sparse_lib.experiment.data import load_dataset
from sparse_lib.experiment.runtime.errors import RunError, SettingError
from sparse_lib.experiment.storage import checkpoints, files
from sparse_lib.experiment.training import multi_worker, run


def experiment() -> run.Experiment:
    """The experiment that the parsed gin configuration describes."""
    network = gin_names.network()
    method = network.weight_init_method
    described = run.Experiment(
        training=gin_names.training(),
        network=network,
        sizes=gin_names.NETWORKS[network.network_name](),
        masks=gin_names.masks(),
        oneshot=gin_names.oneshot(),
        pruning=gin_names.pruning(),
        mask_updater=gin_names.mask_updater(),
        optimizer=gin_names.optimizer(),
        metainit=gin_names.metainit(),
        initializer=gin_names.INITIALIZERS[method]() if method else None,
        dataset=load_dataset(gin_names.data()),
    )
    data = described.dataset
    sizes = gin_names.small_dense().fit(network, described.sizes, data.input_shape, data.num_classes)
    return dataclasses.replace(described, sizes=sizes)


def train(directory: pathlib.Path, *, overwrite: bool) -> None:
    """Trains what the command line says, and tells the result.

    Args:
      directory: of the run.
      overwrite: whether to delete the run that is there.
    """
    cli.parse_gin()
    strategy = distribute.make_strategy(cli.strategy_name(), flags.FLAGS.tpu)
    described = experiment()
    with strategy.scope():
        result = run.train(described, directory, gin_files.operative(), overwrite=overwrite)
        if not multi_worker.is_writer():
            return
    logging.info(
        "%s: test accuracy %.4f, sparsity %.4f, %d active of %d parameters, %.0f steps/s",
        directory,
        result["test_accuracy"],
        result["sparsity"],
        result["active_parameters"],
        result["total_parameters"],
        result["steps_per_second"],
    )


def _analysis(command: Callable[..., None]) -> Callable[..., None]:
    """Runs a command that looks at what training has left on the devices of --strategy.

    Several workers would all compute the same: the first one does it, on its own devices.
    """

    @functools.wraps(command)
    def on_devices(*args: Any, **kwargs: Any) -> None:
        name = cli.strategy_name()
        if name == "multiworker":
            if not multi_worker.is_first():
                logging.info("The first worker does this, on its own devices; there is nothing to do for this one.")
                return
            name = "mirrored"
        with distribute.make_strategy(name, flags.FLAGS.tpu).scope():
            command(*args, **kwargs)

    return on_devices


@_analysis
def evaluate(directory: pathlib.Path, checkpoint: str) -> None:
    """Prints loss and accuracy of a checkpoint on every split as JSON.

    Args:
      directory: of the run; it may be none where a checkpoint and a configuration of its own are given, such as a
        published checkpoint and the configuration of its network.
      checkpoint: prefix; empty means the last one of the run.

    Raises:
      RunError: if the directory holds no run.
    """
    said = flags.FLAGS.gin_config or flags.FLAGS.preload_gin_config or flags.FLAGS.gin_bindings
    if checkpoint and said and not (directory / files.OPERATIVE_CONFIG).exists():
        cli.parse_gin()
    else:
        _parse_with_own(directory)
    print(json.dumps(run.evaluate(experiment(), checkpoint or directory), indent=2))


@_analysis
def interpolate(
    directory: pathlib.Path, *, start: str, end: str, operative: str, masks: str | None, overwrite: bool
) -> None:
    """Evaluates the path between two checkpoints, and tells the barrier of each split.

    Args:
      directory: of the results.
      start: checkpoint at coefficient 0.
      end: checkpoint at coefficient 1.
      operative: gin file that describes network and data; empty means that of --preload_gin_config, or the one beside
        the end.
      masks: wins over interpolate.masks; None leaves it.
      overwrite: whether to delete an interpolation that is there.

    Raises:
      SettingError: if a checkpoint is not given, or network and data are described twice.
      RunError: if there is no operative configuration.
    """
    for flag, value in (("ckpt_start", start), ("ckpt_end", end)):
        if not value:
            raise SettingError(f"--{flag} is missing; give a checkpoint (runs/prune/ckpt-500) or a run directory.")
    _parse_with_operative(end, operative)
    said = {"masks": masks, "seed": flags.FLAGS.seed}
    settings = dataclasses.replace(gin_names.interpolate(), **{k: v for k, v in said.items() if v is not None})
    result = interpolation.interpolate(
        experiment(), settings, start=start, end=end, directory=directory, overwrite=overwrite
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
def hessian(directory: pathlib.Path) -> None:
    """Computes the spectra of a run's checkpoints.

    Args:
      directory: of the run.

    Raises:
      RunError: if the directory holds no run.
    """
    _parse_with_own(directory)
    spectra.compute(experiment(), directory, gin_names.hessian())


def _parse_with_own(directory: pathlib.Path) -> None:
    """Reads the configuration of the run in a directory, then that of the command line."""
    config = directory / files.OPERATIVE_CONFIG
    if not config.exists():
        raise RunError(f"{directory} holds no run ({files.OPERATIVE_CONFIG} is missing); give its --logdir.")
    cli.parse_gin(preload=str(config))


def _parse_with_operative(checkpoint: str | pathlib.Path, operative: str) -> None:
    """Reads the complete configuration that network and data are described by, then that of the command line."""
    if operative and flags.FLAGS.preload_gin_config:
        raise SettingError("--operative_gin and --preload_gin_config mean the same here; give one of them.")
    beside = pathlib.Path(checkpoints.find(checkpoint)).parent / files.OPERATIVE_CONFIG
    config = pathlib.Path(operative or flags.FLAGS.preload_gin_config or beside)
    if not config.is_file():
        raise RunError(f"There is no {config}; give the {files.OPERATIVE_CONFIG} of a run as --operative_gin.")
    cli.parse_gin(preload=str(config))


@_analysis
def picture(
    kind: str, directory: pathlib.Path, *, solutions: Sequence[str], run_directory: str, operative: str, overwrite: bool
) -> None:
    """Evaluates the loss on a grid around one solution, through three, or on the plane that a run moves in.

    Args:
      kind: `surface`, `plane` or `trajectory`.
      directory: of the results.
      solutions: one checkpoint for a surface, three for a plane, none for a trajectory.
      run_directory: of the run for a trajectory; empty for the others.
      operative: gin file that describes network and data; empty means that of --preload_gin_config, or the one beside
        the first checkpoint.
      overwrite: whether to delete a picture of that kind that is there.

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
    _parse_with_operative(solutions[0] if solutions else run_directory, operative)
    seed = {} if flags.FLAGS.seed is None else {"seed": flags.FLAGS.seed}
    settings = dataclasses.replace(gin_names.surface(), **seed)
    what: dict[str, Any] = {"directory": directory, "overwrite": overwrite}
    if kind == "surface":
        result = surfaces.surface(experiment(), settings, checkpoint=solutions[0], **what)
    elif kind == "plane":
        result = surfaces.plane(experiment(), settings, three=solutions, **what)
    else:
        result = surfaces.trajectory(experiment(), settings, run=pathlib.Path(run_directory), **what)
        first, second = result["explained_variance"][:2]
        logging.info("%s: the plane has %.1f%% of the variance of the run", directory, 100 * (first + second))
    for split, lowest in result["lowest"].items():
        logging.info("%s: lowest %s loss %.4f at (%.3g, %.3g)", directory, split, *lowest.values())


@_analysis
def instability(directory: pathlib.Path, *, run_directory: str, operative: str, overwrite: bool) -> None:
    """Trains copies of a run with other data orders, and tells how far apart each checkpoint lets them get.

    Args:
      directory: of copies and results.
      run_directory: of the run that is copied.
      operative: gin file that describes the run; empty means that of --preload_gin_config, or its own.
      overwrite: whether to delete copies and results that are there.

    Raises:
      SettingError: if the run is not given, or a seed is.
    """
    if not run_directory:
        raise SettingError("--run is missing; give the directory of the run to copy.")
    if flags.FLAGS.seed is not None:
        raise SettingError("--seed belongs to the run that is copied; the copies differ by instability.data_seeds.")
    _parse_with_operative(run_directory, operative)
    described = experiment()
    # Before the settings of this analysis are asked for, which are no part of a copy's configuration.
    config = gin_files.operative()
    result = copies.instability(
        described,
        gin_names.instability(),
        line=gin_names.interpolate(),
        parent=pathlib.Path(run_directory),
        directory=directory,
        config=config,
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
