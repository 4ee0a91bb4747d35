"""What `optimizer.*` configures: the inner optimizer and its learning rate."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import keras

from sparse_lib import learning_rates
from sparse_lib._utils.did_you_mean import suggest
from sparse_lib.experiment.settings import Length, NonNegative, Positive, Range, Settings, Share, Step
from sparse_lib.optimizer import SignIn, SuPar

_NAMES = ("sgd", "momentum", "adam", "adamw", "rmsprop", "sign_in")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerSettings(Settings, name="optimizer"):
    """The inner optimizer and its learning rate.

    Attributes:
      name: `sgd`, `momentum`, `adam`, `adamw`, `rmsprop`, or `sign_in`, see `sparse_lib.SignIn`.
      learning_rate: peak of the schedule.
      clipnorm: largest norm of each variable's masked gradient.
      clipvalue: largest magnitude of a gradient entry.
      global_clipnorm: largest norm of the whole masked gradient.
      momentum: of `momentum` and `sign_in` (None means 0.9) and `rmsprop` (None means 0); ignored by the others.
      nesterov: whether `momentum` is Nesterov's.
      weight_decay: decoupled: w <- w - learning rate * weight_decay * w; L2 in the loss is network.weight_decay.
      schedule: cosine to 0 at the end of the run, as in the gradient-flow paper's code; constant; piecewise; `sgdr`, a
        cosine with warm restarts.
      warmup_steps: of a linear rise from 0 (step).
      boundaries: of `piecewise` (step).
      factors: of the peak after each boundary.
      sgdr_steps: first cycle of `sgdr` (step); 5 epochs in RigL's TF1 code.
      sgdr_t_mul: length of a cycle of `sgdr` relative to the one before.
      sgdr_m_mul: learning rate at the start of a cycle of `sgdr` relative to the one before (fraction).
      supar_base_density: density at which the learning rate was tuned (fraction), for SµPar: the learning rate of a
        sparse kernel is multiplied by this over its density; None multiplies nothing.
      supar_widths: of SµPar: width of hidden layers as a multiple of that at which the learning rate was tuned, by name
        or pattern of a layer.
      sign_in_scale: of `sign_in`: m^2 - w^2 of the factors of a weight at the start and after each reset.
      sign_in_reset: of `sign_in`: interval between resets (step); None never resets.
    """

    name: str = "adam"
    learning_rate: Positive = 0.001
    clipnorm: Positive | None = None
    clipvalue: Positive | None = None
    global_clipnorm: Positive | None = None
    momentum: Share | None = None
    nesterov: bool = False
    weight_decay: NonNegative | None = None
    schedule: Literal["cosine", "constant", "piecewise", "sgdr"] = "cosine"
    warmup_steps: Step = 0
    boundaries: Sequence[Step] = ()
    factors: Sequence[NonNegative] = ()
    sgdr_steps: Length | None = None
    sgdr_t_mul: Annotated[float, Range(at_least=1, at_most=1_000)] = 1.5
    sgdr_m_mul: Annotated[float, Range(above=0, at_most=1)] = 0.5
    supar_base_density: Annotated[float, Range(above=0, at_most=1)] | None = None
    supar_widths: Mapping[str, Positive] | None = None
    sign_in_scale: Positive = 1.0
    sign_in_reset: Length | None = None

    def __post_init__(self) -> None:
        """Checks the name, and that the settings go together.

        Raises:
          SettingError: for an unknown optimizer, two kinds of clipping, or factors without boundaries.
        """
        super().__post_init__()
        known = f"is not known; use one of {', '.join(_NAMES)}{suggest(self.name.lower(), _NAMES)}"
        self.require(self.name.lower() in _NAMES, "name", known)
        clips = [name for name in ("clipnorm", "clipvalue", "global_clipnorm") if getattr(self, name) is not None]
        for name in clips[1:]:
            self.require(False, name, f"clips, as does optimizer.{clips[0]}; leave one of them out")
        one_each = len(self.factors) == len(self.boundaries)
        self.require(one_each, "boundaries", f"needs one factor each, and optimizer.factors is {self.factors}")
        rising = all(one < other for one, other in itertools.pairwise(self.boundaries))
        self.require(rising, "boundaries", "must be steps that rise")
        has_cycle = self.schedule != "sgdr" or self.sgdr_steps is not None
        self.require(has_cycle, "schedule", "needs optimizer.sgdr_steps, the length of the first cycle")
        is_used = self.schedule == "sgdr" or self.sgdr_steps is None
        self.require(is_used, "sgdr_steps", "is of optimizer.schedule='sgdr'; set that too")
        scales = self.supar_base_density is not None or not self.supar_widths
        self.require(scales, "supar_widths", "is of SµPar; set optimizer.supar_base_density too")
        depends = self.name.lower() not in ("sgd", "momentum", "sign_in") or not self.supar_widths
        self.require(depends, "supar_widths", f"has no effect on optimizer.name={self.name!r}; leave it out")
        signs = self.name.lower() == "sign_in"
        self.require(
            signs or self.sign_in_reset is None, "sign_in_reset", "is of optimizer.name='sign_in'; set that too"
        )
        self.require(not (signs and self.nesterov), "nesterov", "is of optimizer.name='momentum'; leave it out")

    @property
    def rate_scaling(self) -> SuPar | None:
        """The learning rates of the sparse kernels by density; None for one learning rate."""
        if self.supar_base_density is None:
            return None
        return SuPar(self.supar_base_density, self.supar_widths or {})

    def rate(self, total_steps: int) -> Callable[[Any], Any]:
        """Learning rate as a function of the step.

        Args:
          total_steps: length of the run (step).

        Returns:
          A Keras schedule.
        """
        cycles = {"cycle": self.sgdr_steps, "growth": self.sgdr_t_mul, "factor": self.sgdr_m_mul}
        return learning_rates.learning_rate_schedule(
            self.schedule,
            self.learning_rate,
            total_steps=total_steps,
            warmup_steps=self.warmup_steps,
            boundaries=self.boundaries,
            factors=self.factors,
            restarts=cycles if self.schedule == "sgdr" else None,
        )

    def build(self, rate: Callable[[Any], Any]) -> keras.optimizers.Optimizer:
        """Creates a new optimizer.

        Args:
          rate: from `rate`.

        Returns:
          The Keras optimizer, not built.
        """
        common: dict[str, Any] = {
            "clipnorm": self.clipnorm,
            "clipvalue": self.clipvalue,
            "global_clipnorm": self.global_clipnorm,
        }
        if self.weight_decay is not None:
            common["weight_decay"] = self.weight_decay
        name = self.name.lower()
        if name == "momentum":
            momentum = 0.9 if self.momentum is None else self.momentum
            return keras.optimizers.SGD(rate, momentum=momentum, nesterov=self.nesterov, **common)
        if name == "sign_in":
            momentum = 0.9 if self.momentum is None else self.momentum
            return SignIn(rate, momentum, self.sign_in_scale, self.sign_in_reset, **common)
        if name == "rmsprop":
            return keras.optimizers.RMSprop(rate, momentum=self.momentum or 0.0, **common)
        makers = {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW}
        return makers[name](rate, **common)
