"""Learning-rate schedules: constant, cosine, with or without restarts, and piecewise, with a linear warm-up."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from sparse_lib._utils.errors import InputError


@keras.saving.register_keras_serializable("sparse_lib")
class PiecewiseFactors(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate of `peak`, then of `peak * factors[i]` from step `boundaries[i]` on.

    Without boundaries it is constant. A warm-up multiplies it by `min(1, step / warmup_steps)`.

    Attributes:
      peak: learning rate before the first boundary.
      boundaries: steps at which it changes, ascending, counted from the start of training.
      factors: value after each boundary as a multiple of the peak.
      warmup_steps: length of the warm-up (steps); 0 has none.

    Raises:
      ValueError: if boundaries do not rise, or there is not one factor for each.
    """

    def __init__(
        self,
        peak: float,
        boundaries: Sequence[int] = (),
        factors: Sequence[float] = (),
        warmup_steps: int = 0,
    ) -> None:
        if len(boundaries) != len(factors):
            raise InputError(
                f"There are {len(boundaries)} boundaries and {len(factors)} factors; give one factor for each boundary."
            )
        if any(later <= earlier for earlier, later in itertools.pairwise(boundaries)):
            raise InputError(f"The boundaries {list(boundaries)} do not rise; sort them.")
        self.peak = float(peak)
        self.boundaries = [int(step) for step in boundaries]
        self.factors = [float(factor) for factor in factors]
        self.warmup_steps = int(warmup_steps)

    def __call__(self, step: Any) -> tf.Tensor:
        """Returns the learning rate at a step, a float32 scalar."""
        rates = tf.constant([self.peak, *(self.peak * f for f in self.factors)], tf.float32)
        passed = tf.cast(step, tf.int64) >= tf.constant(self.boundaries, tf.int64)
        rate = tf.gather(rates, tf.reduce_sum(tf.cast(passed, tf.int32)))
        if not self.warmup_steps:
            return rate
        return rate * tf.minimum(tf.cast(step, tf.float32) / self.warmup_steps, 1.0)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        return {
            "peak": self.peak,
            "boundaries": self.boundaries,
            "factors": self.factors,
            "warmup_steps": self.warmup_steps,
        }


@keras.saving.register_keras_serializable("sparse_lib")
class WarmRestarts(keras.optimizers.schedules.LearningRateSchedule):
    """A cosine that starts again and again: SGDR (Loshchilov & Hutter 2017, arXiv 1608.03983, equation 5).

    rate(t) = peak * factor^i / 2 * (1 + cos(pi * (t - t_i) / T_i)),  T_i = cycle * growth^i

    in the i-th cycle, which begins at step t_i = T_0 + ... + T_(i-1) after a warm-up that rises linearly to the peak.

    Attributes:
      peak: learning rate at the start of the first cycle.
      cycle: length of the first cycle (steps).
      growth: length of a cycle relative to the one before, at least 1; 1.5 in RigL's TF1 code, 1 or 2 in the paper.
      factor: height of a cycle relative to the one before, in (0, 1]; 0.5 in RigL's TF1 code, 1 in the paper.
      warmup_steps: length of the warm-up (steps); 0 has none.

    Raises:
      ValueError: if a number is out of range.

    Examples:
      >>> from sparse_lib.learning_rates import WarmRestarts
      >>> rate = WarmRestarts(0.1, cycle=10, growth=2.0, factor=0.5)
      >>> [round(float(rate(step)), 4) for step in (0, 5, 10, 20, 30)]
      [0.1, 0.05, 0.05, 0.025, 0.025]
    """

    def __init__(
        self, peak: float, cycle: int, growth: float = 1.5, factor: float = 0.5, warmup_steps: int = 0
    ) -> None:
        if cycle < 1:
            raise InputError(f"The first cycle has {cycle} steps; give at least 1.")
        if not growth >= 1:
            raise InputError(f"Cycles grow by {growth}; give a factor of at least 1.")
        if not 0 < factor <= 1:
            raise InputError(f"Each cycle is {factor} times as high as the one before; give a factor in (0, 1].")
        self.peak, self.growth, self.factor = float(peak), float(growth), float(factor)
        self.cycle, self.warmup_steps = int(cycle), int(warmup_steps)
        self._restarts = keras.optimizers.schedules.CosineDecayRestarts(
            self.peak, self.cycle, t_mul=self.growth, m_mul=self.factor
        )

    def __call__(self, step: Any) -> tf.Tensor:
        """Returns the learning rate at a step, a float32 scalar."""
        after = tf.cast(tf.convert_to_tensor(step) - self.warmup_steps, tf.float32)
        rate = self._restarts(tf.maximum(after, 0.0))
        if not self.warmup_steps:
            return rate
        return tf.where(after < 0, self.peak * (after / self.warmup_steps + 1.0), rate)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments."""
        names = ("peak", "cycle", "growth", "factor", "warmup_steps")
        return {name: getattr(self, name) for name in names}


def learning_rate_schedule(
    kind: str,
    peak: float,
    *,
    total_steps: int | None = None,
    warmup_steps: int = 0,
    boundaries: Sequence[int] = (),
    factors: Sequence[float] = (),
    restarts: Mapping[str, Any] | None = None,
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Makes a learning-rate schedule, with an optional linear warm-up from 0.

    RigL's ResNet-50 (section 4.1) uses "piecewise" with factors 0.1, 0.01, 0.001 at epochs 30, 70
    and 90 and a warm-up of 5 epochs; the gradient-flow paper's MNIST runs use "cosine".

    Args:
      kind: "constant"; "cosine", which falls to 0 between the end of the warm-up and
        `total_steps`; "sgdr", see `WarmRestarts`; or "piecewise", see `PiecewiseFactors`.
      peak: the highest learning rate.
      total_steps: length of training (steps); required by "cosine" only.
      warmup_steps: length of the warm-up (steps); 0 has none.
      boundaries: steps from the start of training at which "piecewise" changes.
      factors: multiples of the peak, one for each boundary.
      restarts: `cycle`, `growth` and `factor` of `WarmRestarts`, for "sgdr" only.

    Returns:
      A Keras schedule: maps a step to a float32 scalar.

    Raises:
      ValueError: if the kind is unknown, or its numbers are missing or out of range.
    """
    if kind not in ("constant", "cosine", "piecewise", "sgdr"):
        raise InputError(f"Unknown learning-rate schedule {kind!r}; use 'constant', 'cosine', 'sgdr' or 'piecewise'.")
    if not peak > 0:
        raise InputError(f"The peak learning rate is {peak}; give a positive number.")
    if warmup_steps < 0:
        raise InputError(f"The warm-up has {warmup_steps} steps; give 0 or more.")
    if (kind == "piecewise") != bool(boundaries or factors):
        raise InputError("Give boundaries and factors to the piecewise schedule, and only to it.")
    if (kind == "sgdr") != bool(restarts):
        raise InputError("Give restarts, with the length of the first cycle, to the schedule 'sgdr', and only to it.")
    if restarts:
        return WarmRestarts(peak, **restarts, warmup_steps=warmup_steps)
    if kind == "cosine":
        if total_steps is None or total_steps <= warmup_steps:
            raise InputError(
                f"A cosine needs total_steps after its {warmup_steps} steps of warm-up, not {total_steps}."
            )
        return keras.optimizers.schedules.CosineDecay(
            0.0 if warmup_steps else peak,
            total_steps - warmup_steps,
            warmup_target=peak if warmup_steps else None,
            warmup_steps=warmup_steps,
        )
    return PiecewiseFactors(peak, boundaries, factors, warmup_steps)
