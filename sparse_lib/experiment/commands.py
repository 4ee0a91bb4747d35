"""What the command lines do: gin's values become an experiment, and its results a few lines."""

import json
import pathlib

from absl import flags, logging

from sparse_lib import strategies
from sparse_lib.experiment import cli, files, gin_files, gin_names, run
from sparse_lib.experiment.errors import RunError


def experiment() -> run.Experiment:
    """The experiment that the parsed gin configuration describes."""
    network = gin_names.network()
    method = network.weight_init_method
    return run.Experiment(
        training=gin_names.training(),
        network=network,
        sizes=gin_names.SIZES[network.network_name](),
        masks=gin_names.masks(),
        oneshot=gin_names.oneshot(),
        pruning=gin_names.pruning(),
        mask_updater=gin_names.mask_updater(),
        optimizer=gin_names.optimizer(),
        metainit=gin_names.metainit(),
        initializer=gin_names.INITIALIZERS[method]() if method else None,
        dataset=gin_names.data(),
    )


def train(directory: pathlib.Path, *, overwrite: bool) -> None:
    """Trains what the command line says, and tells the result.

    Args:
      directory: of the run.
      overwrite: whether to delete the run that is there.
    """
    cli.parse_gin()
    strategy = strategies.make_strategy(cli.strategy_name(), flags.FLAGS.tpu)
    described = experiment()
    with strategy.scope():
        result = run.train(described, directory, gin_files.operative(), overwrite=overwrite)
    logging.info(
        "%s: test accuracy %.4f, sparsity %.4f, %d active of %d parameters, %.0f steps/s",
        directory,
        result["test_accuracy"],
        result["sparsity"],
        result["active_parameters"],
        result["total_parameters"],
        result["steps_per_second"],
    )


def evaluate(directory: pathlib.Path, checkpoint: str) -> None:
    """Prints loss and accuracy of a checkpoint on every split as JSON.

    Args:
      directory: of the run.
      checkpoint: prefix; empty means the last one of the run.

    Raises:
      RunError: if the directory holds no run.
    """
    config = directory / files.OPERATIVE_CONFIG
    if not config.exists():
        raise RunError(f"{directory} holds no run ({files.OPERATIVE_CONFIG} is missing); give its --logdir.")
    cli.parse_gin(preload=str(config))
    print(json.dumps(run.evaluate(experiment(), checkpoint or directory), indent=2))
