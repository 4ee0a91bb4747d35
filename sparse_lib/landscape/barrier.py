"""Barriers of an evaluated path between two solutions."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sparse_lib._utils.errors import InputError


class Peak(NamedTuple):
    """The maximum of a path above a reference.

    Attributes:
      height: in the units of the values; NaN if a value on the path is not finite.
      coefficient: position on the path, the first of equal ones; NaN as above.
    """

    height: float
    coefficient: float


class Rise(NamedTuple):
    """The largest rise from an earlier to a later point; height 0 means that the path never rises.

    Attributes:
      height: max over i < j of value_j - value_i, at least 0; NaN if a value on the path is not finite.
      start: coefficient at the bottom of the rise; NaN as above.
      end: coefficient at its top; NaN as above.
    """

    height: float
    start: float
    end: float


class Barrier(NamedTuple):
    """Barrier measures of a path over coefficients from 0 to 1.

    Attributes:
      above_mean: above the mean of the two ends, the barrier of Frankle et al. (2020, section 2). If the ends
        differ, it is positive at the higher one.
      above_line: above the straight line from one end's value to the other's (Entezari et al. 2022), at least 0.
      above_higher_end: above the higher of the two ends, at least 0.
      largest_rise: the distance from a monotonic fall.
    """

    above_mean: Peak
    above_line: Peak
    above_higher_end: Peak
    largest_rise: Rise


def barrier(coefficients: Sequence[float], values: Sequence[float]) -> Barrier:
    """Measures the barrier of a path.

    Args:
      coefficients: positions on the path, in any order, with 0 and 1, its ends; those below 0 or above 1 are ignored.
      values: loss or error at each coefficient.

    Returns:
      Heights with their positions.

    Raises:
      ValueError: if 0 or 1 is missing, or the lengths differ.

    Examples:
      >>> from sparse_lib import landscape
      >>> found = landscape.barrier([0.0, 0.5, 1.0], [1.0, 4.0, 2.0])
      >>> found.above_line
      Peak(height=2.5, coefficient=0.5)
      >>> found.largest_rise
      Rise(height=3.0, start=0.0, end=0.5)
    """
    places, heights = np.asarray(coefficients, np.float64), np.asarray(values, np.float64)
    if places.shape != heights.shape or places.ndim != 1:
        raise InputError(f"Give one value per coefficient; got shapes {heights.shape} and {places.shape}.")
    if not {0.0, 1.0} <= set(places.tolist()):
        raise InputError("A barrier is measured from the ends of the path: have 0 and 1 among the coefficients.")
    order = np.argsort(places, kind="stable")
    order = order[(places[order] >= 0) & (places[order] <= 1)]
    places, heights = places[order], heights[order]
    if not np.isfinite(heights).all():
        nowhere = Peak(np.nan, np.nan)
        return Barrier(nowhere, nowhere, nowhere, Rise(np.nan, np.nan, np.nan))
    first, last = heights[0], heights[-1]
    # The line equals both ends to the bit, and is constant between equal ends.
    line = np.where(places == 1, last, first + places * (last - first))
    return Barrier(
        above_mean=_peak(places, heights - (first + last) / 2),
        above_line=_peak(places, heights - line),
        above_higher_end=_peak(places, heights - max(first, last)),
        largest_rise=_rise(places, heights),
    )


def _peak(places: np.ndarray, heights: np.ndarray) -> Peak:
    index = int(np.argmax(heights))
    return Peak(float(heights[index]), float(places[index]))


def _rise(places: np.ndarray, heights: np.ndarray) -> Rise:
    rises = heights - np.minimum.accumulate(heights)
    end = int(np.argmax(rises))
    start = int(np.argmin(heights[: end + 1]))
    return Rise(float(rises[end]), float(places[start]), float(places[end]))
