"""Rebuilds network and data of a run from its operative configuration."""

import pathlib
from typing import Any, NamedTuple

import keras

from sparse_lib.experiment.config import gin_files
from sparse_lib.experiment.config.experiment import Experiment
from sparse_lib.experiment.storage import files, sources
from sparse_lib.experiment.training.build import build_model


class Built(NamedTuple):
    """A network with the data that it was trained on.

    Attributes:
      model: with initial weights; `at` loads a checkpoint into it.
      dataset: train, validation and test.
    """

    model: keras.Model
    dataset: Any

    def at(self, checkpoint: pathlib.Path) -> keras.Model:
        """Loads the weights and statistics of a checkpoint into the network.

        Args:
          checkpoint: prefix, or a run directory, which means its last one.

        Returns:
          `model`, the same object at every call.
        """
        sources.load(checkpoint, self.model)
        return self.model


def build(directory: pathlib.Path) -> Built:
    """Builds network and data of a run; gin's configuration is empty afterwards.

    Args:
      directory: of the run.

    Returns:
      Network and data.

    Raises:
      RunError: if the configuration has names unknown to this version.
      InputError: if the data set is not available.
    """
    gin_files.forget()
    try:
        # Masks do not move here, and their updater may be from a module that this process has not imported.
        gin_files.parse([str(directory / files.OPERATIVE_CONFIG)], ["mask_updater.update_alg = ''"])
        experiment = Experiment.from_gin()
    finally:
        gin_files.forget()
    return Built(build_model(experiment), experiment.dataset)
