"""The gin names of the suite: every setting that a configuration file may bind.

Importing this module registers the names. The names and parameters of rigl_tf2 keep their meaning; those that it does
not have stand beside them.
"""

import dataclasses
import inspect
from typing import Any

import gin

from sparse_lib.experiment import data as data_sets
from sparse_lib.experiment.config.analyses import HessianSettings, InterpolateSettings
from sparse_lib.experiment.config.landscape import InstabilitySettings, SurfaceSettings
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
from sparse_lib.experiment.settings import Settings, TrainingSettings
from sparse_lib.experiment.sizes import SIZES as _SIZES

_PARAMETERS: dict[str, list[str]] = {}


def _named(settings: type[Settings]) -> Any:
    _PARAMETERS[settings.config_name] = [field.name for field in dataclasses.fields(settings)]  # type: ignore[arg-type]
    return gin.external_configurable(settings, settings.config_name)


training = _named(TrainingSettings)
network = _named(NetworkSettings)
lenet5 = _named(_SIZES["lenet5"])
mlp = _named(_SIZES["mlp"])
wide_resnet = _named(_SIZES["wide_resnet"])
resnet = _named(_SIZES["resnet"])
vgg16 = _named(_SIZES["vgg16"])
mobilenet = _named(_SIZES["mobilenet"])
vit = _named(_SIZES["vit"])
gru = _named(_SIZES["gru"])
keras_model = _named(_SIZES["keras_model"])
small_dense = _named(SmallDenseSettings)
unit_scaled_init = _named(UnitScaledSettings)
layer_scaled_init = _named(LayerScaledSettings)
metainit = _named(MetaInitSettings)
masks = _named(MaskSettings)
oneshot = _named(OneShotSettings)
pruning = _named(PruningSettings)
mask_updater = _named(UpdaterSettings)
optimizer = _named(OptimizerSettings)
hessian = _named(HessianSettings)
interpolate = _named(InterpolateSettings)
surface = _named(SurfaceSettings)
instability = _named(InstabilitySettings)

SIZES = {kind.config_name: kind for kind in (lenet5, mlp, wide_resnet, resnet, vgg16, mobilenet, vit, gru, keras_model)}
INITIALIZERS = {"unit_scaled": unit_scaled_init, "layer_scaled": layer_scaled_init}


@gin.configurable
def data(
    name: str = "digits",
    validation_size: int | None = None,
    data_dir: str | None = None,
    cache_dir: str | None = None,
    download: bool = False,
    image_size: int | None = None,
    preprocessing: str = "auto",
    augmentation: str | None = "auto",
    on_disk: bool | None = None,
) -> data_sets.Dataset:
    """Loads the data set; see `sparse_lib.experiment.data.load_dataset`."""
    return data_sets.load_dataset(
        name=name,
        validation_size=validation_size,
        data_dir=data_dir,
        cache_dir=cache_dir,
        download=download,
        image_size=image_size,
        preprocessing=preprocessing,
        augmentation=augmentation,
        on_disk=on_disk,
    )


def parameters() -> dict[str, list[str]]:
    """What may be bound: parameters by gin name."""
    return {**_PARAMETERS, "data": list(inspect.signature(data).parameters)}
