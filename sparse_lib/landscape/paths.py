"""Paths between two solutions, straight lines and Bezier curves, and their sparse subspaces."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, NamedTuple

import numpy as np

from sparse_lib._utils.errors import InputError

Values = Sequence[np.ndarray]
MaskMode = Literal["own", "start", "end", "union", "none"]
# Gauss-Legendre nodes of `Bezier.length` (count): far more than the smooth speed of a cubic needs.
_NODES = 64


def evenly_spaced(start: float, end: float, points: int) -> list[float]:
    """Evenly spaced numbers, each the float nearest to its decimal value.

    x_i = start + i (end - start) / (points - 1), in rational arithmetic on the decimal values of start and end

    Args:
      start: smallest number.
      end: largest number.
      points: number of points, both ends included (count).

    Returns:
      Ascending numbers.

    Raises:
      ValueError: for fewer than two points, or a start that is not below the end.
    """
    if points < 2 or not start < end:
        raise InputError(f"A path needs at least 2 points from a start below its end; got {points}, {start}, {end}.")
    first, last = Fraction(str(start)), Fraction(str(end))
    return [float(first + (last - first) * i / (points - 1)) for i in range(points)]


def coefficients(start: float = -0.2, end: float = 1.2, points: int = 29) -> list[float]:
    """Evenly spaced coefficients of a path, always with 0 and 1, the ends from which barriers are measured.

    Args:
      start: smallest coefficient; -0.2 as in arXiv 2010.03533, figure 5.
      end: largest coefficient; 1.2 there.
      points: number of points, both ends included (count); 29 there, 0.05 apart.

    Returns:
      Ascending coefficients, each the float nearest to its decimal value, so that 0 and 1 are exact.

    Raises:
      ValueError: for fewer than two points, or a start that is not below the end.
    """
    return sorted({*evenly_spaced(start, end, points), 0.0, 1.0})


def bernstein(degree: int, t: float) -> list[float]:
    """Bernstein weights of the control points of a Bezier curve.

    b_k(t) = C(n, k) (1 - t)^(n - k) t^k

    Args:
      degree: n.
      t: position on the curve; 0 and 1 give the ends exactly.

    Returns:
      n + 1 weights that add up to 1.
    """
    return [math.comb(degree, k) * (1 - t) ** (degree - k) * t**k for k in range(degree + 1)]


@dataclass(frozen=True, eq=False)
class Bezier:
    """A Bezier curve in weight space; the straight line for degree 1.

    B(t) = sum_k b_k(t) points[k]. Garipov et al. (2018, section 3) connect networks by the quadratic one.

    Attributes:
      points: control points from end to end, each a list of arrays.
    """

    points: tuple[Values, ...]

    def __post_init__(self) -> None:
        """Checks the shapes of the points.

        Raises:
          ValueError: for fewer than two points, or shapes that differ.
        """
        shapes = [[np.shape(value) for value in point] for point in self.points]
        if len(shapes) < 2 or any(of_point != shapes[0] for of_point in shapes):
            raise InputError("A path needs two or more points, each a list of arrays of the same shapes.")

    @property
    def degree(self) -> int:
        """Number of control points minus one."""
        return len(self.points) - 1

    def __call__(self, t: float) -> list[np.ndarray]:
        """The weights at a place of the curve.

        Sums are taken in float64 and rounded once. The ends come back bit by bit, and so does what all points of a
        float32 network agree on.

        Args:
          t: 0 and 1 are the ends; beyond them the polynomial goes on.

        Returns:
          Arrays of the shapes and types of the first point.
        """
        # A weight of 0 must not turn an infinity elsewhere on the curve into NaN.
        weighted = [(w, point) for w, point in zip(bernstein(self.degree, t), self.points, strict=True) if w]
        if len(weighted) == 1:
            return [np.array(value) for value in weighted[0][1]]
        shares = np.array([w for w, _ in weighted])
        return [
            np.tensordot(shares, np.array(values, np.float64), 1).astype(np.asarray(values[0]).dtype)
            for values in zip(*(point for _, point in weighted), strict=True)
        ]

    def length(self) -> float:
        """Length from one end to the other, the integral of |B'(t)| over 0 to 1, in the L2 norm of all weights."""
        steps = [
            [np.subtract(b, a, dtype=np.float64) for a, b in zip(first, second, strict=True)]
            for first, second in zip(self.points, self.points[1:], strict=False)
        ]
        gram = np.array([[sum(np.vdot(a, b) for a, b in zip(u, v, strict=True)) for v in steps] for u in steps])
        nodes, shares = np.polynomial.legendre.leggauss(_NODES)
        weights = np.array([bernstein(self.degree - 1, (node + 1) / 2) for node in nodes])
        squares = np.einsum("tk,kl,tl->t", weights, gram, weights)
        return float(self.degree * np.sqrt(np.maximum(squares, 0)) @ shares / 2)


def linear_path(start: Values, end: Values) -> Bezier:
    """The straight line (1 - t) start + t end.

    Args:
      start: arrays of any shapes.
      end: arrays of the same shapes.

    Returns:
      The path.

    Raises:
      ValueError: if the shapes differ.
    """
    return Bezier((start, end))


class Ends(NamedTuple):
    """Two solutions as the ends of a path in a sparse subspace.

    Attributes:
      start: trainable values at coefficient 0.
      end: trainable values at coefficient 1.
      masks: one boolean array per variable, true for weights that may differ from 0 on the path; None where all may.
    """

    start: list[np.ndarray]
    end: list[np.ndarray]
    masks: list[np.ndarray | None]


def masked_ends(
    start: Values,
    end: Values,
    start_masks: Sequence[np.ndarray | None],
    end_masks: Sequence[np.ndarray | None],
    mode: MaskMode = "own",
) -> Ends:
    """Projects two sparse solutions onto the subspace of a path.

    | mode | start | end | the path lies in |
    |---|---|---|---|
    | own | start x its mask | end x its mask | the union of both masks |
    | start | start x its mask | end x mask of start | the mask of start |
    | end | start x mask of end | end x its mask | the mask of end |
    | union | start x union | end x union | the union of both masks |
    | none | start | end | the space of all weights |

    Args:
      start: trainable values of one solution.
      end: trainable values of the other.
      start_masks: one boolean array per variable, None for a dense one.
      end_masks: masks of the other solution.
      mode: row of the table.

    Returns:
      Both ends and the masks of the subspace.

    Raises:
      ValueError: for an unknown mode.
    """
    union = [None if a is None or b is None else a | b for a, b in zip(start_masks, end_masks, strict=True)]
    dense = [None] * len(union)
    modes: dict[str, tuple[Sequence[np.ndarray | None], ...]] = {
        "own": (start_masks, end_masks, union),
        "start": (start_masks, start_masks, start_masks),
        "end": (end_masks, end_masks, end_masks),
        "union": (union, union, union),
        "none": (dense, dense, dense),
    }
    if mode not in modes:
        raise InputError(f"Masks {mode!r} are not known; use one of {', '.join(modes)}.")
    of_start, of_end, of_path = modes[mode]
    return Ends(_apply_masks(start, of_start), _apply_masks(end, of_end), list(of_path))


def _apply_masks(values: Values, masks: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    pairs = zip(values, masks, strict=True)
    return [value if mask is None else np.where(mask, value, np.zeros_like(value)) for value, mask in pairs]
