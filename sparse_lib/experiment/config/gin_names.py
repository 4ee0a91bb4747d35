"""The gin names of the suite: every setting that a configuration file may bind.

Importing this module registers the names. Names and parameters of rigl_tf2 keep their meaning; the suite adds others.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import gin

from sparse_lib.experiment import networks
from sparse_lib.experiment.config.analyses import (
    HessianSettings,
    InstabilitySettings,
    InterpolateSettings,
    SurfaceSettings,
)
from sparse_lib.experiment.config.iterative_pruning import IterativePruningSettings
from sparse_lib.experiment.config.mask_updates import PruningSettings, UpdaterSettings
from sparse_lib.experiment.config.masks import MaskSettings, OneShotSettings
from sparse_lib.experiment.config.network import (
    LayerScaledSettings,
    MetaInitSettings,
    NetworkSettings,
    UnitScaledSettings,
)
from sparse_lib.experiment.config.optimizer import OptimizerSettings
from sparse_lib.experiment.config.small_dense import SmallDenseSettings
from sparse_lib.experiment.config.training import TrainingSettings
from sparse_lib.experiment.data import DataSettings
from sparse_lib.experiment.settings import Settings

Kind = TypeVar("Kind", bound=Settings)

# Settings by gin name, in the order of docs/configuration.md.
CONFIGURABLES: dict[str, Any] = {}


def _register(settings: type[Kind]) -> Callable[[], Kind]:
    made: Callable[[], Kind] = gin.external_configurable(settings, settings.config_name)
    CONFIGURABLES[settings.config_name] = made
    return made


training = _register(TrainingSettings)
network = _register(NetworkSettings)
NETWORKS = {name: _register(settings) for name, settings in networks.NETWORKS.items()}
small_dense = _register(SmallDenseSettings)
unit_scaled_init = _register(UnitScaledSettings)
layer_scaled_init = _register(LayerScaledSettings)
metainit = _register(MetaInitSettings)
masks = _register(MaskSettings)
oneshot = _register(OneShotSettings)
iterative_pruning = _register(IterativePruningSettings)
pruning = _register(PruningSettings)
mask_updater = _register(UpdaterSettings)
optimizer = _register(OptimizerSettings)
hessian = _register(HessianSettings)
interpolate = _register(InterpolateSettings)
surface = _register(SurfaceSettings)
instability = _register(InstabilitySettings)
data = _register(DataSettings)

INITIALIZERS: dict[str, Callable[[], UnitScaledSettings | LayerScaledSettings]] = {
    "unit_scaled": unit_scaled_init,
    "layer_scaled": layer_scaled_init,
}


def parameters() -> dict[str, list[str]]:
    """Parameters that may be bound, by gin name."""
    return {name: [field.name for field in dataclasses.fields(made)] for name, made in CONFIGURABLES.items()}
