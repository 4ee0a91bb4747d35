"""Sources of weights and masks: checkpoints of this suite, published checkpoints, and Keras files."""

import os
import pathlib
import warnings
from collections.abc import Mapping

import keras
import numpy as np

from sparse_lib.experiment.runtime.errors import RunError
from sparse_lib.experiment.storage import rigl_tf1
from sparse_lib.experiment.storage.checkpoints import Reader

_KERAS = (".keras", ".h5")
_Path = str | os.PathLike[str]


def is_keras_file(path: _Path) -> bool:
    """Returns whether a path has the suffix of a model or weights saved by Keras: `.keras`, `.weights.h5` or `.h5`."""
    return str(path).endswith(_KERAS)


def load(path: _Path, model: keras.Model) -> None:
    """Loads weights into a network.

    Args:
      path: anything that `checkpoints.find` accepts, a published checkpoint, or a Keras file whose layers with weights
        are those of the network, in the same order.
      model: the network; all of its variables are assigned.

    Raises:
      RunError: if there is no such file, or it does not fit the network.
    """
    if is_keras_file(path):
        _load_keras_file(pathlib.Path(path), model)
    elif found := rigl_tf1.prefix(path):
        rigl_tf1.PublishedCheckpoint(found).load(model)
    else:
        variables = {v.path: v for v in model.variables}
        stored = Reader(path).read_group("model", {p: tuple(v.shape) for p, v in variables.items()}, model.name)
        for name, variable in variables.items():
            variable.assign(stored[name])


def masks(path: _Path, model: keras.Model, kernels: Mapping[str, keras.Variable]) -> dict[str, np.ndarray]:
    """Reads the masks of a checkpoint.

    Args:
      path: anything that `checkpoints.find` accepts, or a published checkpoint.
      model: the network.
      kernels: of the network, by name.

    Returns:
      Boolean mask by name.

    Raises:
      RunError: if there is no such checkpoint, or it does not fit the network.
    """
    if is_keras_file(path):
        raise RunError(f"{path} holds weights without masks; give a checkpoint of a run.")
    if found := rigl_tf1.prefix(path):
        return rigl_tf1.PublishedCheckpoint(found).masks(model, list(kernels))
    shapes = {name: tuple(kernel.shape) for name, kernel in kernels.items()}
    return Reader(path).read_group("masks", shapes, f"the kernels of {model.name}")


def weights(path: _Path, model: keras.Model, kernels: Mapping[str, keras.Variable]) -> dict[str, np.ndarray]:
    """Reads the kernels of a checkpoint; the network keeps its own weights.

    Args:
      path: anything that `load` accepts.
      model: the network.
      kernels: of the network, by name.

    Returns:
      Value by name.

    Raises:
      RunError: if there is no such file, or it does not fit the network.
    """
    kept = [(variable, variable.numpy()) for variable in model.variables]
    load(path, model)
    found = {name: kernel.numpy() for name, kernel in kernels.items()}
    for variable, value in kept:
        variable.assign(value)
    return found


def _load_keras_file(path: pathlib.Path, model: keras.Model) -> None:
    if not path.is_file():
        raise RunError(f"There is no file {path}; give the weights of a Keras model.")
    try:
        with warnings.catch_warnings():
            # Warnings about containers without weights, which other versions of Keras save.
            warnings.simplefilter("ignore")
            if path.suffix == ".keras":
                model.set_weights(keras.saving.load_model(path, compile=False).get_weights())
            else:
                model.load_weights(path)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0].rstrip(". ")
        raise RunError(f"{path} does not fit {model.name}: {reason}.") from error
