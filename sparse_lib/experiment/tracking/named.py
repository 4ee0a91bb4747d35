"""Trackers by the names of the command line."""

import importlib
from collections.abc import Sequence
from typing import Any

from sparse_lib._utils.did_you_mean import suggest
from sparse_lib.experiment.runtime.errors import SettingError
from sparse_lib.experiment.tracking.tracker import Tracker, Trackers

_KNOWN = {
    "wandb": "sparse_lib.experiment.tracking.wandb.WandbTracker",
    "mlflow": "sparse_lib.experiment.tracking.mlflow.MlflowTracker",
}
_METHODS = ("start", "log", "finish")


def make_trackers(names: Sequence[str]) -> Trackers:
    """Makes the trackers of a command line.

    Only the command line names them: a gin file, which may be the configuration of a stranger's run, imports nothing,
    and sends nothing anywhere.

    Args:
      names: `wandb`, `mlflow`, or `MODULE.CLASS` of one's own.

    Returns:
      The trackers, not started.

    Raises:
      SettingError: if there is no such tracker, or its package is not installed.
    """
    return Trackers({name: _make_tracker(name) for name in names})


def _make_tracker(name: str) -> Tracker:
    module, _, attribute = _KNOWN.get(name, name).rpartition(".")
    if not module:
        known = ", ".join(_KNOWN)
        raise SettingError(f"--tracker={name} is not known{suggest(name, _KNOWN)}; use {known}, or MODULE.CLASS.")
    try:
        made: Any = getattr(importlib.import_module(module), attribute)()
    except ModuleNotFoundError as error:
        if name in _KNOWN:
            install = "pip install wandb mlflow"
            raise SettingError(f"--tracker={name} needs the package {error.name}: {install}") from error
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise SettingError(
            f"--tracker={name}: there is no module {error.name}; give one that Python finds, such as my_trackers for "
            "my_trackers.py in a folder of PYTHONPATH."
        ) from error
    except AttributeError as error:
        raise SettingError(f"--tracker={name}: {module} has no {attribute}.") from error
    if missing := [method for method in _METHODS if not callable(getattr(made, method, None))]:
        raise SettingError(f"--tracker={name} has no method {missing[0]}; a tracker has {', '.join(_METHODS)}.")
    return made
