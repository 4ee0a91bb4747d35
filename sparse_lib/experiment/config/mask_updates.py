"""Settings of mask updates: `pruning.*` and `mask_updater.*`."""

import ast
import contextlib
import dataclasses
import importlib
import typing
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from sparse_lib import schedules, updaters
from sparse_lib._utils.did_you_mean import suggest
from sparse_lib._utils.errors import InputError
from sparse_lib._utils.numbered_names import split_number
from sparse_lib.experiment.runtime.errors import SettingError
from sparse_lib.experiment.settings import Count, Fraction, NonNegative, Range, Settings, Share, Step, find_demand

_Exponent = Annotated[float, Range(above=0, at_most=100)]

_SCHEDULES = ("lr", "cosine", "constant", "power", "exponential")

# A field `x` of method `m` is bound as `mask_updater.m_x`, where rigl_tf2 has no other name for it.
_NAMES_IN_RIGL_TF2 = {"riglauto_coefficient": "autorigl_lrcoef"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PruningSettings(Settings, name="pruning"):
    """Gradual magnitude pruning.

    Attributes:
      mode: `prune` follows the polynomial schedule, `constant` prunes once, at begin_step, `off` never.
      initial_sparsity: sparsity at begin_step (fraction).
      final_sparsity: sparsity at end_step (fraction); 0 never prunes.
      begin_step: first update (step).
      end_step: last update (step).
      frequency: steps between updates (step).
      power: exponent of the polynomial; 3 in Zhu & Gupta 2017.
      scope: `layer` prunes every layer to the target, `global` ranks all weights together.
    """

    mode: Literal["off", "prune", "constant"] = "off"
    initial_sparsity: Share = 0.0
    final_sparsity: Share = 0.8
    begin_step: Step = 2000
    end_step: Step = 4000
    frequency: Count = 200
    power: _Exponent = 3.0
    scope: Literal["layer", "global"] = "layer"

    @property
    def is_off_as_in_rigl_tf2(self) -> bool:
        """Whether pruning is off in the way of rigl_tf2's gin files, which know no other."""
        return self.mode == "constant" and not self.final_sparsity

    def build(self) -> updaters.Prune | None:
        """Builds the updater.

        Returns:
          The updater, or None where nothing is pruned.
        """
        if self.mode == "off" or not self.final_sparsity:
            return None
        if self.mode == "constant":
            return updaters.Prune(
                sparsity=schedules.Constant(self.final_sparsity),
                begin_step=self.begin_step,
                end_step=self.begin_step,
                scope=self.scope,
            )
        target = schedules.PolynomialSparsity(
            initial=self.initial_sparsity,
            final=self.final_sparsity,
            begin=self.begin_step,
            end=self.end_step,
            power=self.power,
        )
        return updaters.Prune(
            sparsity=target,
            begin_step=self.begin_step,
            end_step=self.end_step,
            frequency=self.frequency,
            scope=self.scope,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class UpdaterSettings(Settings, name="mask_updater"):
    """Dynamic sparse training.

    Attributes:
      update_alg: `set`, `rigl`, `rigl_inverted`, `rigl_s`, `rigl_grasp`, `riglauto`, `srigl`, `snfs`, `mest`,
        `cht`, `chts`, `granet`, `acdc`, `topkast`, `dnw`, or a method registered by --updater_module; empty leaves the
        masks to `pruning.*`. Further fields of a method go in parentheses, such as `srigl(never_ablated=(0, -1))`.
      schedule_alg: drop fraction proportional to the learning rate (`lr`), `cosine`, `constant`, or inverse `power`;
        `exponential_K` of RigL's TF1 code is `power` with exponent K, from begin_step on.
      update_freq: steps between updates (step); None is the method's default, 1 for `topkast` and `dnw`, else 100.
      init_drop_fraction: drop fraction at the start (fraction).
      last_update_step: last update (step); -1 never stops, and annealing ends with the run; 0 never updates.
      begin_step: first update (step); None means update_freq.
      drop_power: exponent of `power`.
      anneal_begin: step at which `cosine` and `power` start to fall (step); `begin_step` is the first update.
      growth_init: value of new weights: `zeros`, `random`, `initial`, `gradient`, or one of RigL's TF1 code:
        `grad_scale_K`, `grad_sign_K`, `initial_dist_K`, `random_normal_K`, `random_uniform_K`, divided by K.
      reinit_regrown: whether a weight dropped and grown in one update counts as new.
      redistribute: whether growth is redistributed over layers; None is the method's default.
      replaces_step: whether an update replaces the optimizer step; None is the method's default.
      growth_gradient: 1 is the current batch (paper), k the mean over k batches, `held_out` a fixed batch (rigl_tf2).
      autorigl_lrcoef: gradient steps that a new weight is credited with in `riglauto` (count).
      srigl_ablation_threshold: share of a neuron's fan-in that has to be salient in `srigl`, or it is ablated; 0.3 for
        convolutional networks, 0.95 for vision transformers in the paper.
      snfs_momentum: beta of the dense momentum of `snfs`.
      mest_gradient_weight: lambda of |w| + lambda |g| in `mest`.
      mest_soft_bound: whether the weights that `mest` grows come on top of the budget until the next update.
      topkast_extra_density: density of the trained set minus that of the used one in `topkast` (fraction).
      topkast_penalty: exploration penalty of `topkast`.
      use_stateless: of rigl_tf2; changes nothing, since random numbers are always a function of seed and step.
    """

    update_alg: str = ""
    schedule_alg: str = "lr"
    update_freq: Count | None = None
    init_drop_fraction: Fraction = 0.3
    last_update_step: Annotated[int, Range(at_least=-1)] = -1
    begin_step: Step | None = None
    drop_power: _Exponent = 3.0
    anneal_begin: Step | Literal["begin_step"] = 0
    growth_init: str = "zeros"
    reinit_regrown: bool = False
    redistribute: bool | None = None
    replaces_step: bool | None = None
    growth_gradient: Count | Literal["held_out"] = 1
    autorigl_lrcoef: NonNegative = 1.0
    srigl_ablation_threshold: Fraction = 0.3
    snfs_momentum: Share = 0.9
    mest_gradient_weight: NonNegative = 1.0
    mest_soft_bound: bool = False
    topkast_extra_density: Fraction = 0.1
    topkast_penalty: NonNegative = 1e-4
    use_stateless: bool = True

    def __post_init__(self) -> None:
        """Checks the method, and the names that a number may follow.

        Raises:
          SettingError: for an unknown method or field of it, schedule or value of new weights.
        """
        super().__post_init__()
        self._check_names()
        known = (
            f"is not known; use one of {', '.join(updaters.REGISTRY)}{suggest(self.method, updaters.REGISTRY)}, or "
            "--updater_module for one of your own"
        )
        self.require(not self.update_alg or self.method in updaters.REGISTRY, "update_alg", known)
        if self.update_alg:
            fields = _field_names(updaters.REGISTRY[self.method])
            has_fields = f"sets a field that the method does not have; it has {', '.join(fields)}"
            self.require(self._options.keys() <= set(fields), "update_alg", has_fields)
            hints = typing.get_type_hints(updaters.REGISTRY[self.method])
            for name, value in self._options.items():
                # A type that gin cannot write, such as that of a function, is left to the method.
                with contextlib.suppress(KeyError, TypeError):
                    demand = find_demand(value, hints[name])
                    self.require(demand is None, "update_alg", f"sets {name}, which must be {demand}")

    def _check_names(self) -> None:
        name, exponent = split_number(self.schedule_alg)
        known = f"is not known; use one of {', '.join(_SCHEDULES)}, exponential_3{suggest(name, _SCHEDULES)}"
        self.require(name in _SCHEDULES, "schedule_alg", known)
        is_plain = exponent is None or (name == "exponential" and 0 < exponent <= 100)
        self.require(is_plain, "schedule_alg", "has a number that it cannot have; exponential_3 may, from 0 to 100")
        try:
            updaters.GrowthValue.parse(self.growth_init)
        except InputError as error:
            raise SettingError(f"{self.config_name}.{error}") from error

    @property
    def method(self) -> str:
        """Name of the updater, without the fields in parentheses."""
        return self.update_alg.partition("(")[0].strip()

    @property
    def _options(self) -> dict[str, Any]:
        """The fields in parentheses."""
        if "(" not in self.update_alg:
            return {}
        options: dict[Any, Any] = {}
        try:
            call: Any = ast.parse(self.update_alg.strip(), mode="eval").body
            options = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
            is_valid = isinstance(call.func, ast.Name) and not call.args and None not in options
        except (SyntaxError, ValueError, AttributeError, RecursionError, MemoryError):
            is_valid = False
        self.require(is_valid, "update_alg", "cannot be read; write it like 'rigl(reinit_regrown=True)'")
        return options

    @property
    def is_off(self) -> bool:
        """Whether masks stay as they are or change by `pruning.*` alone."""
        return not self.update_alg or self.last_update_step == 0

    def build(
        self,
        prune: updaters.Prune | None,
        learning_rate: Callable[[Any], Any],
        *,
        peak_rate: float,
        total_steps: int,
        dense_start: bool,
    ) -> updaters.Updater:
        """Builds the updater.

        Args:
          prune: from `pruning.*`.
          learning_rate: maps a step to the learning rate.
          peak_rate: learning rate that the drop fraction of schedule `lr` is relative to.
          total_steps: length of the run (step).
          dense_start: whether every weight starts active.

        Returns:
          The updater.

        Raises:
          SettingError: for settings that contradict each other.
        """
        if self.is_off:
            return prune or updaters.Static()
        method = updaters.REGISTRY[self.method]
        fields = _field_names(method)
        prunes = "sparsity" in fields
        if prunes and prune is None:
            raise SettingError(
                f"mask_updater.update_alg={self.update_alg!r} needs its sparsity schedule: set pruning.mode='prune' "
                "and its steps."
            )
        if prune and not prunes:
            raise SettingError(
                f"pruning.mode and mask_updater.update_alg={self.update_alg!r} both change the masks; set one of them "
                "off."
            )
        settings: dict[str, Any] = {name: self._own(name) for name in fields} | self._common_fields()
        end = total_steps if self._end is None else self._end
        if "drop_fraction" in fields:
            settings["drop_fraction"] = self._drop_fraction(end, learning_rate, peak_rate)
        settings["annealing_end"] = end
        if prune is not None:
            settings |= {"sparsity": prune.sparsity, "scope": prune.scope}
        given = {name: value for name, value in settings.items() if name in fields and value is not None}
        updater = method(**(given | self._options))
        if dense_start and not prunes and not updater.schedule.never:
            raise SettingError(
                f"mask_updater.update_alg={self.update_alg!r} needs sparse masks to begin with: set masks.sparsity, "
                "network.mask_init_path or training.oneshot_prune_fraction."
            )
        return updater

    @property
    def _end(self) -> int | None:
        return None if self.last_update_step < 0 else self.last_update_step

    def _common_fields(self) -> dict[str, Any]:
        """Values of the fields that many methods have; None is the method's default."""
        return {
            "begin_step": self.begin_step,
            "end_step": self._end,
            "frequency": self.update_freq,
            "replaces_step": self.replaces_step,
            "growth_init": self.growth_init,
            "reinit_regrown": self.reinit_regrown,
            "redistribute": self.redistribute,
        }

    def _own(self, field: str) -> Any:
        """Value of a field that has a parameter for this method alone, or None."""
        name = f"{self.method}_{field}"
        return getattr(self, _NAMES_IN_RIGL_TF2.get(name, name), None)

    def _drop_fraction(self, end: int, learning_rate: Callable[[Any], Any], peak_rate: float) -> Callable[[Any], Any]:
        name, exponent = split_number(self.schedule_alg)
        if name == "lr":
            return schedules.LearningRateScaled(self.init_drop_fraction, learning_rate, reference=peak_rate)
        if name == "constant":
            return schedules.Constant(self.init_drop_fraction)
        interval = self.update_freq or updaters.REGISTRY[self.method].frequency
        first = interval if self.begin_step is None else self.begin_step
        is_delayed = name == "exponential" or self.anneal_begin == "begin_step"
        begin = first if is_delayed else int(self.anneal_begin)
        if name == "cosine":
            return schedules.Cosine(self.init_drop_fraction, end, begin)
        power = self.drop_power if name == "power" else 1.0 if exponent is None else exponent
        return schedules.InversePower(self.init_drop_fraction, end, power, begin)


def import_modules(names: Sequence[str]) -> None:
    """Imports modules that register updaters, see `updaters.register`.

    Only the command line names them: a gin file, which may be the configuration of a stranger's run, imports nothing.

    Args:
      names: dotted names.

    Raises:
      SettingError: if there is no such module.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
            raise SettingError(
                f"--updater_module={name}: there is no module {error.name}; give one that Python finds, such as "
                "my_methods for my_methods.py in a folder of PYTHONPATH."
            ) from error


def schedule_warning(updater: updaters.Updater, total_steps: int) -> str:
    """Explains which mask updates a run is too short for.

    Args:
      updater: of the run.
      total_steps: length of the run (step).

    Returns:
      A sentence, or an empty text if the run reaches them all.
    """
    if updater.schedule.never:
        return ""
    schedule = updater.schedule
    if schedule.begin >= total_steps:
        return f"Masks never change: their first update, at step {schedule.begin}, comes after the run."
    end = total_steps - 1 if schedule.end is None else min(schedule.end, total_steps - 1)
    last = end - (end - schedule.begin) % schedule.frequency
    if isinstance(updater, updaters.ACDC) and not bool(updater.is_compressed(last)):
        return f"The run ends with all weights active: its last phase of AC/DC begins at step {last}, decompressed."
    target = getattr(updater, "sparsity", None)
    if isinstance(target, schedules.PolynomialSparsity) and last < target.end:
        return (
            f"Pruning gets to a sparsity of {float(target(last)):.4f}, not {target.final}: its last update is at "
            f"step {last}, and pruning.end_step is {target.end}."
        )
    return ""


def _field_names(method: type[updaters.Updater]) -> list[str]:
    return [field.name for field in dataclasses.fields(method)]
