"""What `pruning.*` and `mask_updater.*` say: how the masks of a run change."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

from sparse_lib import schedules, updaters
from sparse_lib.experiment.runtime.errors import SettingError
from sparse_lib.experiment.settings import Settings

UPDATERS: dict[str, type[updaters.Updater]] = {
    "static": updaters.Static,
    "set": updaters.SET,
    "rigl": updaters.RigL,
    "rigl_inverted": updaters.RigLInverted,
    "rigl_s": updaters.RigLSNIP,
    "rigl_grasp": updaters.RigLGraSP,
    "riglauto": updaters.RigLAuto,
    "srigl": updaters.SRigL,
    "snfs": updaters.SNFS,
    "mest": updaters.MEST,
    "granet": updaters.GraNet,
    "topkast": updaters.TopKAST,
    "dnw": updaters.DNW,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PruningSettings(Settings, name="pruning"):
    """Gradual magnitude pruning.

    Attributes:
      mode: `prune` follows the polynomial schedule, `constant` prunes once, at begin_step, `off` never.
      initial_sparsity: at begin_step (fraction).
      final_sparsity: at end_step (fraction); 0 never prunes.
      begin_step: first update (step).
      end_step: last update (step).
      frequency: steps between updates (step).
      power: of the polynomial; 3 in Zhu & Gupta 2017.
      scope: `layer` prunes every layer to the target, `global` ranks all weights together.
    """

    mode: Literal["off", "prune", "constant"] = "off"
    initial_sparsity: float = 0.0
    final_sparsity: float = 0.8
    begin_step: int = 2000
    end_step: int = 4000
    frequency: int = 200
    power: float = 3.0
    scope: Literal["layer", "global"] = "layer"

    def build(self) -> updaters.Prune | None:
        """Makes the updater.

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
    """How masks change while training.

    Attributes:
      update_alg: `set`, `rigl`, `rigl_inverted`, `rigl_s`, `rigl_grasp`, `riglauto`, `srigl`, `snfs`, `mest`,
        `granet`, `topkast`, `dnw`; empty leaves the masks to `pruning.*`.
      schedule_alg: drop fraction proportional to the learning rate (`lr`), `cosine`, `constant`, or inverse `power`.
      update_freq: steps between updates (step); None takes the method's own, 1 for `topkast` and `dnw`, else 100.
      init_drop_fraction: drop fraction at the start (fraction).
      last_update_step: last update (step); -1 never stops, and annealing then ends with the run; 0 never updates.
      begin_step: first update (step); None means update_freq.
      drop_power: exponent of `power`.
      growth_init: value of new weights: zeros, random, initial or gradient.
      reinit_regrown: whether a weight dropped and grown at once counts as new.
      redistribute: whether growth is shared out over layers; None takes the method's own.
      replaces_step: whether an update replaces the optimizer step; None takes the method's own.
      growth_gradient: 1 is the current batch (paper), k the mean over k batches, `held_out` a fixed batch (ancestor).
      autorigl_lrcoef: gradient steps a new weight is credited with in `riglauto`.
      srigl_ablation_threshold: share of a neuron's fan-in that has to be salient in `srigl`, or it is ablated; 0.3 for
        convolutional networks, 0.95 for vision transformers in the paper.
      snfs_momentum: beta of the dense momentum of `snfs`.
      mest_gradient_weight: lambda of |w| + lambda |g| in `mest`.
      mest_soft_bound: whether `mest` holds its grown weights on top of the budget until the next update.
      topkast_extra_density: density of the trained set above the used one in `topkast`.
      topkast_penalty: exploration penalty of `topkast`.
    """

    update_alg: str = ""
    schedule_alg: Literal["lr", "cosine", "constant", "power"] = "lr"
    update_freq: int | None = None
    init_drop_fraction: float = 0.3
    last_update_step: int = -1
    begin_step: int | None = None
    drop_power: float = 3.0
    growth_init: updaters.GrowthInit = "zeros"
    reinit_regrown: bool = False
    redistribute: bool | None = None
    replaces_step: bool | None = None
    growth_gradient: int | Literal["held_out"] = 1
    autorigl_lrcoef: float = 1.0
    srigl_ablation_threshold: float = 0.3
    snfs_momentum: float = 0.9
    mest_gradient_weight: float = 1.0
    mest_soft_bound: bool = False
    topkast_extra_density: float = 0.1
    topkast_penalty: float = 1e-4

    def __post_init__(self) -> None:
        """Checks the method.

        Raises:
          SettingError: for an unknown method, or a step before -1.
        """
        super().__post_init__()
        known = f"is not known; use one of {', '.join(UPDATERS)}, or '' for none"
        self.require(not self.update_alg or self.update_alg in UPDATERS, "update_alg", known)
        self.require(self.last_update_step >= -1, "last_update_step", "must be a step, 0 for never or -1 for no end")

    @property
    def is_off(self) -> bool:
        """Whether masks stay, or change by `pruning.*` alone."""
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
        """Makes the updater.

        Args:
          prune: from `pruning.*`.
          learning_rate: step -> learning rate.
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
        method = UPDATERS[self.update_alg]
        prunes = method is updaters.GraNet
        if prunes and prune is None:
            raise SettingError(
                "mask_updater.update_alg='granet' needs its sparsity schedule: set pruning.mode='prune' and its steps."
            )
        if prune and not prunes:
            raise SettingError(
                f"pruning.mode and mask_updater.update_alg={self.update_alg!r} both change the masks; set one of them "
                "off."
            )
        if dense_start and not prunes and method is not updaters.Static:
            raise SettingError(
                f"mask_updater.update_alg={self.update_alg!r} needs sparse masks to begin with: set masks.sparsity, "
                "network.mask_init_path or training.oneshot_prune_fraction."
            )
        settings = self._common(method)
        if issubclass(method, updaters.DropAndGrow | updaters.GraNet) and method is not updaters.RigLAuto:
            end = total_steps if self._end is None else self._end
            settings["drop_fraction"] = self._drop_fraction(end, learning_rate, peak_rate)
        if prunes and prune is not None:
            settings["sparsity"] = prune.sparsity
        return method(**settings)

    @property
    def _end(self) -> int | None:
        return None if self.last_update_step < 0 else self.last_update_step

    def _common(self, method: type[updaters.Updater]) -> dict[str, Any]:
        own: dict[type[updaters.Updater], dict[str, Any]] = {
            updaters.RigLAuto: {"coefficient": self.autorigl_lrcoef},
            updaters.SRigL: {"ablation_threshold": self.srigl_ablation_threshold},
            updaters.SNFS: {"momentum": self.snfs_momentum},
            updaters.MEST: {"gradient_weight": self.mest_gradient_weight, "soft_bound": self.mest_soft_bound},
            updaters.TopKAST: {"extra_density": self.topkast_extra_density, "penalty": self.topkast_penalty},
        }
        settings = {"end_step": self._end, **own.get(method, {})}
        optional = {
            "frequency": self.update_freq,
            "begin_step": self.begin_step,
            "replaces_step": self.replaces_step,
        }
        if issubclass(method, updaters.DropAndGrow):
            settings |= {"growth_init": self.growth_init, "reinit_regrown": self.reinit_regrown}
            optional["redistribute"] = self.redistribute
        return settings | {name: value for name, value in optional.items() if value is not None}

    def _drop_fraction(self, end: int, learning_rate: Callable[[Any], Any], peak_rate: float) -> Callable[[Any], Any]:
        if self.schedule_alg == "lr":
            return schedules.LearningRateScaled(self.init_drop_fraction, learning_rate, reference=peak_rate)
        if self.schedule_alg == "cosine":
            return schedules.Cosine(self.init_drop_fraction, end)
        if self.schedule_alg == "power":
            return schedules.InversePower(self.init_drop_fraction, end, self.drop_power)
        return schedules.Constant(self.init_drop_fraction)


def foreseen(updater: updaters.Updater, total_steps: int) -> str:
    """What a run will not do although its configuration seems to ask for it.

    Args:
      updater: of the run.
      total_steps: length of the run (step).

    Returns:
      A sentence, or nothing.
    """
    if updater.schedule.never:
        return ""
    steps = updater.schedule.steps(0, total_steps)
    if not steps:
        return f"Masks never change: their first update, at step {updater.schedule.begin}, comes after the run."
    target = getattr(updater, "sparsity", None)
    if isinstance(target, schedules.PolynomialSparsity) and steps[-1] < target.end:
        return (
            f"Pruning gets to a sparsity of {float(target(steps[-1])):.4f}, not {target.final}: its last update is at "
            f"step {steps[-1]}, and pruning.end_step is {target.end}."
        )
    return ""
