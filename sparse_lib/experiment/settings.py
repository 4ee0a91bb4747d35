"""What a configuration binds, checked before any work; and the settings of `training.*`."""

import dataclasses
import numbers
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from sparse_lib.experiment.runtime.errors import SettingError

_NOUNS: dict[Any, str] = {
    bool: "True or False",
    int: "an integer",
    float: "a number",
    str: "a text in quotes",
    types.NoneType: "None",
}


class Settings:
    """Base of what a name of the configuration holds: every value must be of the type that its field is annotated with.

    A subclass is a dataclass and says its name in the configuration: `class PruningSettings(Settings, name="pruning")`.

    Attributes:
      config_name: that name.
    """

    config_name: ClassVar[str]

    def __init_subclass__(cls, name: str | None = None) -> None:
        """Remembers the name.

        Args:
          name: in the configuration; None keeps that of the parent.
        """
        super().__init_subclass__()
        if name is not None:
            cls.config_name = name

    def __post_init__(self) -> None:
        """Checks the types.

        Raises:
          SettingError: names the first setting of another type, and what it may be.
        """
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(typing.cast(Any, self)):
            value, hint = getattr(self, field.name), hints[field.name]
            self.require(_fits(value, hint), field.name, f"must be {_said(hint)}")

    def require(self, is_met: bool, field: str, demand: str) -> None:
        """Refuses a value.

        Args:
          is_met: whether the value is what it must be.
          field: whose value it is.
          demand: the rest of the sentence, such as `must be at least 1`.

        Raises:
          SettingError: if it is not.
        """
        if not is_met:
            raise SettingError(f"{self.config_name}.{field}={getattr(self, field)!r} {demand}.")


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value in arguments
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, argument) for argument in arguments)
    if origin is Sequence:
        return isinstance(value, list | tuple) and all(_fits(item, arguments[0]) for item in value)
    if origin is Mapping:
        return isinstance(value, dict) and all(
            _fits(key, arguments[0]) and _fits(item, arguments[1]) for key, item in value.items()
        )
    # For Python, True is the integer 1.
    if isinstance(value, bool) or hint is bool:
        return isinstance(value, bool) and hint is bool
    return isinstance(value, {int: numbers.Integral, float: numbers.Real}.get(hint, hint))


def _said(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " or ".join(repr(argument) for argument in arguments)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_said(argument) for argument in arguments)
    if origin is Sequence:
        return f"a list in which each is {_said(arguments[0])}"
    if origin is Mapping:
        return f"a dict in which each value is {_said(arguments[1])}"
    return _NOUNS[hint]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingSettings(Settings, name="training"):
    """Length and rhythm of a run.

    Attributes:
      seed: of everything random in the run.
      data_seed: of the order and augmentation of the training images alone; None takes that of the run. Copies of a
        run that go on from one checkpoint differ by it (Frankle et al. 2020).
      total_steps: length of the run (step).
      batch_size: examples of a step, over all replicas (count).
      val_batch_size: at most so many validation examples measure the gradient (count); 1000 in the paper's code.
      save_freq: steps between checkpoints (step).
      log_freq: steps between measurements (step); they never change the run.
      use_metainit: whether MetaInit rescales the initial weights (Dauphin & Schoenholz 2019).
      oneshot_prune_fraction: sparsity of one-shot pruning before the first step (fraction); 0 prunes nothing.
      label_smoothing: share of the training target that is spread evenly over all classes (fraction); 0.1 for ImageNet
        in the RigL paper. Reported losses are without it.
      gradient_regularization: lambda of the penalty lambda/2 ||g||^2 on the masked gradient of the loss.
      keep_checkpoints: checkpoints that stay, beside the first (count); None keeps all.
      save_update_pairs: whether each mask update leaves `ckpt--(t-1)` before and `ckpt--t` after it, for spectra.
      jit_compile: whether XLA compiles the training loop; None chooses by network and device.
    """

    seed: int = 0
    data_seed: int | None = None
    total_steps: int = 5000
    batch_size: int = 128
    val_batch_size: int = 1000
    save_freq: int = 500
    log_freq: int = 250
    use_metainit: bool = False
    oneshot_prune_fraction: float = 0.0
    label_smoothing: float = 0.0
    gradient_regularization: float = 0.0
    keep_checkpoints: int | None = 25
    save_update_pairs: bool = False
    jit_compile: bool | None = None

    def __post_init__(self) -> None:
        """Checks the numbers.

        Raises:
          SettingError: names the setting and what it may be.
        """
        super().__post_init__()
        for name in ("total_steps", "batch_size", "val_batch_size", "save_freq", "log_freq"):
            self.require(getattr(self, name) >= 1, name, "must be at least 1")
        keep = self.keep_checkpoints
        self.require(keep is None or keep >= 1, "keep_checkpoints", "must be at least 1, or None to keep all")
        self.require(0 <= self.oneshot_prune_fraction < 1, "oneshot_prune_fraction", "must be at least 0 and below 1")
        self.require(0 <= self.label_smoothing < 1, "label_smoothing", "must be at least 0 and below 1")
        self.require(self.gradient_regularization >= 0, "gradient_regularization", "must be at least 0")
        self.require(self.seed >= 0, "seed", "must be at least 0")
        self.require(self.data_seed is None or self.data_seed >= 0, "data_seed", "must be at least 0, or None")
