"""Similarity of masks: overlap against chance, and survival times of grown weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sparse_lib._utils.errors import InputError

Masks = Mapping[str, np.ndarray]


def overlap(one: Masks, other: Masks) -> pd.DataFrame:
    """Overlap of two sets of masks per layer and in total, against chance.

    Chance means independent random masks with as many active weights in every layer. The intersection x of a layer is
    then hypergeometric, with mean m = a b / n and variance v = m (1 - b / n) (n - a) / (n - 1). With s = a + b the
    expected ratio is E[x / (s - x)] = m / (s - m) + v s / (s - m)^3 to second order. The same formula with m, v and s
    summed over the layers gives the total.

    Args:
      one: boolean masks by layer name.
      other: boolean masks of the same names and shapes.

    Returns:
      One row per layer and a last one called `all`: `iou`, the intersection over union, its value by chance `chance`
      (fractions), and `above_chance`, (iou - chance) / (1 - chance), which is 0 for chance and 1 for equal masks.

    Raises:
      InputError: if the masks are of different networks.
    """
    _check([one, other])
    counts = np.array([_counts(one[name], other[name]) for name in one], np.float64)
    names = [*one, "all"]
    counts = np.concatenate([counts, counts.sum(0, keepdims=True)])
    both, total, mean, variance = counts.T
    measured = _ratio(both, total - both)
    chance = _ratio(mean, total - mean) + _ratio(variance * total, (total - mean) ** 3)
    frame = pd.DataFrame({"layer": names, "iou": measured, "chance": chance})
    frame["above_chance"] = _ratio(frame["iou"] - frame["chance"], 1 - frame["chance"])
    return frame


def survival(steps: Sequence[int], masks: Sequence[Masks], *, grown: bool = True) -> pd.DataFrame:
    """Survival of active weights, estimated from the checkpoints of a run (Kaplan & Meier 1958).

    S(t) = product over ages a <= t of (1 - left(a) / at_risk(a))

    A weight that is active at consecutive checkpoints has lived for the steps between them. A weight that is active in
    the last checkpoint is censored there: it is at risk until then, and never leaves. A weight that is grown again
    begins a new life.

    Args:
      steps: of the checkpoints, ascending (step).
      masks: boolean masks by layer name, at each step.
      grown: whether to follow only weights grown after the first checkpoint; otherwise, weights of the first checkpoint
        count as grown there.

    Returns:
      One row per age at which weights leave or are censored: age (step), at_risk, left (counts), survival (fraction).

    Raises:
      InputError: if steps and masks do not match.
    """
    _check(masks, steps)
    flat = np.stack([np.concatenate([mask.ravel() for mask in m.values()]) for m in masks])
    moments = np.asarray(steps, np.int64)
    never = -1
    born = np.where(flat[0] & (not grown), moments[0], never)
    alive_since_start = flat[0] & grown
    lives: list[tuple[np.ndarray, bool]] = []
    for step, before, now in zip(moments[1:], flat, flat[1:], strict=False):
        left = before & ~now & ~alive_since_start
        lives.append((step - born[left], True))
        alive_since_start &= now
        born[now & ~before] = step
        born[~now] = never
    lives.append((moments[-1] - born[born != never], False))
    return _kaplan_meier(lives)


def _kaplan_meier(lives: Sequence[tuple[np.ndarray, bool]]) -> pd.DataFrame:
    every = np.concatenate([ages for ages, _ in lives])
    ages, total = np.unique(every, return_counts=True)
    left = np.zeros(len(ages), np.int64)
    for own, has_left in lives:
        if has_left:
            np.add.at(left, np.searchsorted(ages, own), 1)
    at_risk = total[::-1].cumsum()[::-1]
    kept = ages > 0
    frame = pd.DataFrame({"age": ages[kept], "at_risk": at_risk[kept], "left": left[kept]})
    frame["survival"] = np.cumprod(1 - _ratio(frame["left"], frame["at_risk"]))
    return frame


def _counts(one: np.ndarray, other: np.ndarray) -> tuple[float, float, float, float]:
    """Returns intersection, sum of both counts, and mean and variance of the intersection by chance."""
    a, b, n = int(np.count_nonzero(one)), int(np.count_nonzero(other)), one.size
    mean = a * b / max(n, 1)
    variance = mean * (1 - b / n) * (n - a) / (n - 1) if n > 1 else 0.0
    return float(np.count_nonzero(one & other)), float(a + b), float(mean), float(variance)


def _ratio(top: Any, bottom: Any) -> Any:
    """Divides; NaN where the denominator is 0."""
    bottom = np.asarray(bottom, np.float64)
    quotient = np.divide(top, bottom, out=np.full(np.shape(bottom), np.nan), where=bottom != 0)
    return quotient if quotient.ndim else float(quotient)


def _check(masks: Sequence[Masks], steps: Sequence[int] | None = None) -> None:
    shapes = [{name: np.shape(mask) for name, mask in one.items()} for one in masks]
    if not shapes or not shapes[0] or any(other != shapes[0] for other in shapes[1:]):
        raise InputError("Only masks of one network can be compared: give the same layers with the same shapes.")
    if steps is not None and (len(steps) != len(masks) or list(steps) != sorted(set(steps))):
        raise InputError(f"Give one step for each of the {len(masks)} masks, in ascending order; got {list(steps)}.")
