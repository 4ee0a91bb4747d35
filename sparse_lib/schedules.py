"""Schedules of mask updates, drop fractions and target sparsities.

Every schedule is a pure function of the step, so a resumed run equals the uninterrupted one. A step
may be a Python integer or an integer tensor, in eager mode, in a graph or under XLA.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from sparse_lib._utils.errors import InputError


@dataclasses.dataclass(frozen=True)
class UpdateSchedule:
    """The steps at which masks change: begin, begin + frequency, ..., up to and including end.

    RigL's ImageNet runs (section 4.1) are `UpdateSchedule(end=25_000)`. Annealed drop fractions
    reach 0 at their end, so an update at `end` itself changes nothing, and masks change before
    `end` only, as in RigL's Algorithm 1.

    Attributes:
      begin: the first update (step).
      end: last possible update (step); None never stops.
      frequency: steps from one update to the next; 100 in the RigL paper (section 4).

    Raises:
      ValueError: if a number is out of range or no update lies between begin and end.

    Examples:
      >>> from sparse_lib import UpdateSchedule
      >>> UpdateSchedule(begin=100, end=300, frequency=100).steps(0, 1000)
      [100, 200, 300]
    """

    begin: int = 0
    end: int | None = None
    frequency: int = 100

    def __post_init__(self) -> None:
        if self.frequency < 1:
            raise InputError(f"The update frequency is {self.frequency}; give at least 1 step.")
        if self.begin < 0 or (self.end is not None and self.end < 0):
            raise InputError(
                f"Updates run from step {self.begin} to {self.end}; give steps of at least 0, and "
                "end=None for updates that never stop."
            )
        if self.end is not None and self.end < self.begin and not self.never:
            raise InputError(
                f"No update lies between begin={self.begin} and end={self.end}; give a later end, "
                "or UpdateSchedule.no_updates() if that is what you want."
            )

    @classmethod
    def no_updates(cls) -> "UpdateSchedule":
        """Makes the schedule of a mask that never changes.

        Returns:
          A schedule without updates.
        """
        return cls(begin=1, end=0)

    @classmethod
    def until(cls, last_update_step: int, *, frequency: int = 100) -> "UpdateSchedule":
        """Makes a schedule from step 0 in the convention of rigl_tf2's gin files.

        Args:
          last_update_step: the last step with an update (step); -1 never stops, 0 never updates.
          frequency: steps from one update to the next.

        Returns:
          The schedule.

        Raises:
          ValueError: if `last_update_step` is below -1 or the frequency is below 1.
        """
        if last_update_step == 0:
            return cls.no_updates()
        return cls(end=None if last_update_step == -1 else last_update_step, frequency=frequency)

    @property
    def never(self) -> bool:
        """Whether there are no updates."""
        return self.end == 0 and self.begin > 0

    def is_update_step(self, step: Any) -> Any:
        """Returns whether masks change at a step.

        Args:
          step: a Python integer, an integer tensor or an integer variable (step).

        Returns:
          A bool for a Python integer, else a boolean tensor.
        """
        due = (step >= self.begin) & ((step - self.begin) % self.frequency == 0)
        return due if self.end is None else due & (step <= self.end)

    def steps(self, start: int, stop: int) -> list[int]:
        """Lists the updates in an interval of training.

        Args:
          start: first step of the interval (step).
          stop: first step after the interval (step).

        Returns:
          The update steps in [start, stop), in order.
        """
        intervals = max(0, math.ceil((start - self.begin) / self.frequency))
        first = self.begin + intervals * self.frequency
        last = stop - 1 if self.end is None else min(stop - 1, self.end)
        return list(range(first, last + 1, self.frequency))


@dataclasses.dataclass(frozen=True)
class Constant:
    """The same drop fraction or sparsity at every step.

    Attributes:
      value: the fraction, in [0, 1].

    Raises:
      ValueError: if it is not in [0, 1].
    """

    value: float

    def __post_init__(self) -> None:
        _check_fraction("The constant", self.value)

    def __call__(self, _: Any) -> tf.Tensor:
        """Returns the fraction, a float32 scalar."""
        return tf.constant(self.value, tf.float32)


@dataclasses.dataclass(frozen=True)
class Cosine:
    """A drop fraction annealed by a cosine: `init / 2 * (1 + cos(pi * p))`, p = (step - begin) / (end - begin).

    p is 0 before the begin and 1 after the end.

    The schedule of the RigL paper (section 3), which has init 0.3 and end at three quarters of
    the training steps.

    Attributes:
      init: drop fraction up to begin, in [0, 1].
      end: step at which it reaches 0 (step).
      begin: step at which it starts to fall (step); 0 in RigL's paper and codes.

    Raises:
      ValueError: if the fraction is not in [0, 1], the end is not set or not after the begin.

    Examples:
      >>> from sparse_lib import schedules
      >>> drop_fraction = schedules.Cosine(0.3, end=100)
      >>> [round(float(drop_fraction(step)), 3) for step in (0, 50, 100)]
      [0.3, 0.15, 0.0]
    """

    init: float
    end: int | None
    begin: int = 0

    def __post_init__(self) -> None:
        _check_fraction("The initial drop fraction", self.init)
        _check_interval("A cosine", self.begin, self.end)

    def __call__(self, step: Any) -> tf.Tensor:
        """Returns the drop fraction at a step, a float32 scalar."""
        return self.init * 0.5 * (1.0 + tf.cos(math.pi * _progress(step, self.begin, self.end)))


@dataclasses.dataclass(frozen=True)
class InversePower:
    """A drop fraction annealed by a polynomial: `init * (1 - p)^power`, p = (step - begin) / (end - begin).

    p is 0 before the begin and 1 after the end.

    The "inverse power" of the RigL paper (appendix G), which tries powers 1 and 3; its TF1 code calls it
    `exponential_3` and lets it start at the first mask update.

    Attributes:
      init: drop fraction up to begin, in [0, 1].
      end: step at which it reaches 0 (step).
      power: exponent, above 0.
      begin: step at which it starts to fall (step).

    Raises:
      ValueError: if a number is out of range, the end is not set or not after the begin.
    """

    init: float
    end: int | None
    power: float = 3.0
    begin: int = 0

    def __post_init__(self) -> None:
        _check_fraction("The initial drop fraction", self.init)
        _check_interval("An inverse power", self.begin, self.end)
        _check_power(self.power)

    def __call__(self, step: Any) -> tf.Tensor:
        """Returns the drop fraction at a step, a float32 scalar."""
        return self.init * (1.0 - _progress(step, self.begin, self.end)) ** self.power


@dataclasses.dataclass(frozen=True)
class LearningRateScaled:
    """A drop fraction proportional to the learning rate: `init * rate(step) / reference`, at most 1.

    The schedule "lr" of rigl_tf2's gin files.

    Attributes:
      init: drop fraction at the reference learning rate, in [0, 1].
      learning_rate: maps a step to a learning rate.
      reference: a learning rate above 0; None takes the one at step 0. With a warm-up, which
        starts at 0, give the peak.

    Raises:
      ValueError: if the fraction is not in [0, 1] or the reference is not positive.
    """

    init: float
    learning_rate: Callable[[Any], Any]
    reference: float | None = None

    def __post_init__(self) -> None:
        _check_fraction("The initial drop fraction", self.init)
        reference = self.reference
        if reference is None:
            with tf.init_scope():
                reference = float(self.learning_rate(tf.constant(0, tf.int64)))
            object.__setattr__(self, "reference", reference)
        if not reference > 0:
            raise InputError(
                f"The reference learning rate is {reference}; give reference=, the peak of the learning rate."
            )

    def __call__(self, step: Any) -> tf.Tensor:
        """Returns the drop fraction at a step, a float32 scalar."""
        rate = tf.cast(self.learning_rate(step), tf.float32)
        return tf.minimum(self.init * rate / self.reference, 1.0)


@dataclasses.dataclass(frozen=True)
class PolynomialSparsity:
    """The target sparsity of gradual pruning.

    `final + (initial - final) * (1 - p)^power`, where p rises from 0 at begin to 1 at end
    (Zhu & Gupta 2017, section 3, with power 3).

    Attributes:
      initial: sparsity up to begin, in [0, 1].
      final: sparsity from end on, in [0, 1].
      begin: first step of pruning (step).
      end: last step of pruning (step).
      power: exponent, above 0.

    Raises:
      ValueError: if a number is out of range or the end is not set.

    Examples:
      >>> from sparse_lib import PolynomialSparsity
      >>> target = PolynomialSparsity(initial=0.0, final=0.8, begin=0, end=100)
      >>> [round(float(target(step)), 3) for step in (0, 50, 100)]
      [0.0, 0.7, 0.8]
    """

    initial: float
    final: float
    begin: int
    end: int
    power: float = 3.0

    def __post_init__(self) -> None:
        _check_fraction("The initial sparsity", self.initial)
        _check_fraction("The final sparsity", self.final)
        _check_power(self.power)
        if not 0 <= self.begin < self.end:
            raise InputError(f"Pruning runs from step {self.begin} to {self.end}; give an end after the begin.")

    def __call__(self, step: Any) -> tf.Tensor:
        """Returns the target sparsity at a step, a float32 scalar."""
        rest = (1.0 - _progress(step, self.begin, self.end)) ** self.power
        return self.final + (self.initial - self.final) * rest


def _progress(step: Any, begin: int, end: int | None) -> tf.Tensor:
    """Returns the elapsed share of the interval from begin to end, in [0, 1], float32."""
    assert end is not None
    passed = tf.cast(tf.convert_to_tensor(step) - begin, tf.float32)
    return tf.clip_by_value(passed / (end - begin), 0.0, 1.0)


def _check_fraction(what: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise InputError(f"{what} is {value}; give a fraction in [0, 1].")


def _check_interval(what: str, begin: int, end: int | None) -> None:
    if begin < 0:
        raise InputError(f"{what} starts to fall at step {begin}; give a step of at least 0.")
    if end is not None and 1 <= end <= begin:
        raise InputError(f"{what} falls from step {begin} to {end}; give an end after the begin.")
    if end is None or end < 1:
        raise InputError(
            f"{what} needs the step at which it reaches 0, not {end}: give an end of at least 1, "
            "or choose a constant drop fraction or one scaled by the learning rate."
        )


def _check_power(power: float) -> None:
    if not power > 0:
        raise InputError(f"The power is {power}; give a positive number.")
