"""Settings: a value of another type, or one that cannot be meant, is told before any work."""

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pytest

from sparse_lib.experiment.config import gin_names
from sparse_lib.experiment.config.analyses import HessianSettings, InterpolateSettings
from sparse_lib.experiment.config.mask_updates import PruningSettings, UpdaterSettings
from sparse_lib.experiment.config.masks import MaskSettings, OneShotSettings
from sparse_lib.experiment.config.network import NetworkSettings
from sparse_lib.experiment.config.optimizer import OptimizerSettings
from sparse_lib.experiment.config.training import TrainingSettings
from sparse_lib.experiment.networks import LeNet5
from sparse_lib.experiment.runtime.errors import SettingError
from sparse_lib.experiment.settings import Settings
from tests.experiment.mutations import error_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Everything(Settings, name="everything"):
    count: int = 1
    number: float = 0.5
    flag: bool = False
    text: str = "a"
    maybe: float | None = None
    choice: Literal["x", "y"] | None = "x"
    counts: Sequence[int] = (1, 2)
    parts: Mapping[str, float] | None = None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("count", 3), ("count", np.int64(3)), ("number", 2), ("number", np.float32(0.5)), ("flag", True),
        ("maybe", None), ("maybe", 0), ("choice", "y"), ("choice", None), ("counts", [5]), ("counts", ()),
        ("parts", {"a": 0}), ("parts", {}),
    ],
)  # fmt: skip
def test_fitting_values_are_taken(field, value):
    assert getattr(Everything(**{field: value}), field) == value


@pytest.mark.parametrize(
    ("field", "value", "demand"),
    [
        ("count", 0.5, "must be an integer"),
        ("count", True, "must be an integer"),
        ("count", None, "must be an integer"),
        ("number", "0.5", "must be a number"),
        ("number", False, "must be a number"),
        ("flag", 1, "must be True or False"),
        ("text", 3, "must be a text in quotes"),
        ("maybe", "no", "must be a number or None"),
        ("choice", "z", "must be 'x' or 'y' or None"),
        ("counts", 5, "must be a list in which each is an integer"),
        ("counts", (1, 0.5), "must be a list in which each is an integer"),
        ("counts", "12", "must be a list in which each is an integer"),
        ("parts", {"a": "b"}, "must be a dict in which each value is a number or None"),
    ],
)
def test_other_types_are_told(field, value, demand):
    with pytest.raises(SettingError) as caught:
        Everything(**{field: value})
    assert str(caught.value) == f"everything.{field}={value!r} {demand}."


@pytest.mark.parametrize(
    ("kind", "values", "name"),
    [
        (TrainingSettings, {"total_steps": 0}, "training.total_steps"),
        (TrainingSettings, {"log_freq": -1}, "training.log_freq"),
        (TrainingSettings, {"keep_checkpoints": 0}, "training.keep_checkpoints"),
        (TrainingSettings, {"oneshot_prune_fraction": 1.0}, "training.oneshot_prune_fraction"),
        (TrainingSettings, {"gradient_regularization": -1.0}, "training.gradient_regularization"),
        (TrainingSettings, {"seed": -1}, "training.seed"),
        (NetworkSettings, {"network_name": "alexnet"}, "network.network_name"),
        (NetworkSettings, {"shuffle_mask": True}, "network.shuffle_mask"),
        (NetworkSettings, {"weight_init_method": "scaled"}, "network.weight_init_method"),
        (
            NetworkSettings,
            {"weight_init_path": "a", "weight_init_method": "unit_scaled"},
            "network.weight_init_method",
        ),
        (LeNet5, {"hidden_sizes": 6}, "lenet5.hidden_sizes"),
        (OptimizerSettings, {"name": "lion"}, "optimizer.name"),
        (OptimizerSettings, {"schedule": "step"}, "optimizer.schedule"),
        (PruningSettings, {"mode": "on"}, "pruning.mode"),
        (PruningSettings, {"scope": "unit"}, "pruning.scope"),
        (UpdaterSettings, {"update_alg": "rigel"}, "mask_updater.update_alg"),
        (UpdaterSettings, {"schedule_alg": "linear"}, "mask_updater.schedule_alg"),
        (UpdaterSettings, {"growth_gradient": "train"}, "mask_updater.growth_gradient"),
        (UpdaterSettings, {"growth_init": "ones"}, "mask_updater.growth_init"),
        (UpdaterSettings, {"last_update_step": -2}, "mask_updater.last_update_step"),
        (MaskSettings, {"distribution": "random"}, "masks.distribution"),
        (MaskSettings, {"custom": {"conv1": 0.5}}, "masks.custom"),
        (OneShotSettings, {"method": "snap"}, "oneshot.method"),
        (HessianSettings, {"rows_at_once": 0}, "hessian.rows_at_once"),
        (InterpolateSettings, {"n_interpolation": 1}, "interpolate.n_interpolation"),
        (InterpolateSettings, {"i_start": 1.2}, "interpolate.i_start"),
    ],
)
def test_what_cannot_be_meant_is_told_by_name(kind, values, name):
    with pytest.raises(SettingError, match=rf"^{name}=.*\.$"):
        kind(**values)


# Of every type, and of every size that hangs, overflows or is no number.
HOSTILE = [
    *(float("nan"), float("inf"), float("-inf"), 1e380, -1e380, 10**22, -(10**22), 2**70, 10**400, 10**5000, -1, 0, 1),
    *(0.5, 1.0, "many", "", "rulu", "a\0b", "\udc80", None, True, [], {}, (1,), ("a",), (10**22,), (float("nan"),)),
    *({"a": float("nan")}, {"a": 10**400}, {"a": 1.0}, {1: 0.5}, object(), b"x", 3j),
]


@pytest.mark.parametrize("name", gin_names.CONFIGURABLES)
def test_every_field_of_every_setting_takes_a_value_or_refuses_it_in_one_line(name):
    kind = gin_names.CONFIGURABLES[name]
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        largest = 1e38 if "float" in str(hints[field.name]) else 2**31
        for value in HOSTILE:
            message = error_of(lambda given={field.name: value}: kind(**given))
            if message is not None:
                message = message.partition("\n")[0]
                assert f"{name}.{field.name}" in message and message.endswith(".") and len(message) < 700
            else:
                parts = list(value) if isinstance(value, tuple) else [value]
                numbers = [part for part in parts if isinstance(part, int | float)]
                assert all(abs(number) <= largest for number in numbers), (field.name, value)
                assert all("\0" not in part and part.isascii() for part in parts if isinstance(part, str))


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (OptimizerSettings, {"momentum": 2}, "optimizer.momentum=2 must be at least 0 and below 1, or None."),
        (OptimizerSettings, {"weight_decay": -0.1}, "optimizer.weight_decay=-0.1 must be at least 0, or None."),
        (OptimizerSettings, {"clipnorm": -1.0}, "optimizer.clipnorm=-1.0 must be above 0, or None."),
        (OptimizerSettings, {"schedule": "cosin"}, "(did you mean 'cosine'?)."),
        (OptimizerSettings, {"name": "adm"}, "(did you mean 'adam'?)."),
        (
            OptimizerSettings,
            {"clipnorm": 1.0, "clipvalue": 1.0},
            "optimizer.clipvalue=1.0 clips, as does optimizer.",
        ),
        (OptimizerSettings, {"boundaries": (3,)}, "optimizer.boundaries=(3,) needs one factor each"),
        (NetworkSettings, {"activation": "rulu"}, "network.activation='rulu' is not known; use one of relu"),
        (NetworkSettings, {"network_name": "lenet"}, "(did you mean 'lenet5'?)"),
        (LeNet5, {"hidden_sizes": (6, 0, 1, 1)}, "must be a list in which each is at least 1 and at most 1,000,000."),
        (TrainingSettings, {"seed": 2**70}, "must be at most 2,147,483,647."),
        (TrainingSettings, {"batch_size": 10**22}, "must be at least 1 and at most 1,000,000."),
        (PruningSettings, {"final_sparsity": 1.0}, "pruning.final_sparsity=1.0 must be at least 0 and below 1."),
        (UpdaterSettings, {"update_alg": "rigl(frequency='x')"}, "sets frequency, which must be an integer."),
        (UpdaterSettings, {"update_alg": "rigl(frequency=nan)"}, "cannot be read; write it like"),
        (UpdaterSettings, {"update_alg": "rigle"}, "(did you mean 'rigl'?)"),
        (PruningSettings, {"power": float("nan")}, "pruning.power=nan must be above 0 and at most 100."),
    ],
)
def test_messages_name_the_setting_and_the_nearest_valid_value(kind, values, message):
    with pytest.raises(SettingError) as caught:
        kind(**values)
    assert message in str(caught.value)
