"""How alike solutions are."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures import style


@style.styled
def embedding(points: pd.DataFrame, stress: float) -> Figure:
    """Starts and ends of training in the plane, by multidimensional scaling of their L2 distances.

    Args:
      points: one row a solution: x, y, label, method and end ("start" or "end").
      stress: of the embedding.

    Returns:
      One panel of equal units on both axes; starts are small, and a thin line leads to the end of their run.

    Raises:
      NoData: if there are no checkpoints.
    """
    rows = style.need(points, ["x", "y"], "No checkpoints of sparse runs and of the pruned network they come from.")
    figure, axes = style.grid(1, 1, 4.4, width=6.4)
    ax = axes[0, 0]
    drawn = style.looks(rows)
    for label, look in drawn.items():
        own = rows[rows["label"] == label]
        for _, run in own.groupby("run"):
            ax.plot(run["x"], run["y"], color=look.colour, linewidth=0.7, alpha=0.55)
        start, end = own[own["end"] == "start"], own[own["end"] == "end"]
        ax.plot(start["x"], start["y"], **{**look.of_point(), "marker": ".", "markersize": 6, "alpha": 0.7})
        ax.plot(end["x"], end["y"], **{**look.of_point(), "markersize": 9})
    ax.set_aspect("equal", adjustable="datalim")
    ax.set_xlabel("L2 distance of weights")
    ax.set_ylabel("L2 distance of weights")
    ax.set_title(f"stress {stress:.3f}; dots: start of training", fontweight="normal")
    style.legend_beside(ax, drawn, kind="point")
    return figure


@style.styled
def matrix(
    values: np.ndarray,
    groups: Sequence[str],
    *,
    title: str,
    names: Sequence[str] | None = None,
    percent: bool = True,
) -> Figure:
    """A measure of all pairs as a matrix of coloured cells.

    Args:
      values: [n, n], NaN for what is not known.
      groups: what each row is, such as its method; equal neighbours share one label.
      title: of the figure, with the unit.
      names: of each row within its group; None writes none.
      percent: whether the values are fractions.

    Returns:
      A square of cells, with numbers where there is room.

    Raises:
      NoData: if no value is known.
    """
    n = len(values)
    off = values[~np.eye(n, dtype=bool)]
    if n < 2 or not np.isfinite(off).any():
        raise style.NoData("Two finished runs at least are needed to compare what they predict.")
    figure, axes = style.grid(1, 1, 4.3, width=6.4)
    ax = axes[0, 0]
    shown = np.where(np.eye(n, dtype=bool), np.nan, values)
    image = ax.imshow(shown, cmap=style.MATRIX, vmin=0, vmax=max(np.nanquantile(off, 0.85), 1e-9))
    edges = [0, *(i for i in range(1, n) if groups[i] != groups[i - 1]), n]
    for edge in edges[1:-1]:
        ax.axhline(edge - 0.5, color="white", linewidth=1.5)
        ax.axvline(edge - 0.5, color="white", linewidth=1.5)
    middles = [(a + b - 1) / 2 for a, b in itertools.pairwise(edges)]
    kinds = [groups[edge] for edge in edges[:-1]]
    ax.set_yticks(middles if names is None else range(n), kinds if names is None else names)
    ax.set_xticks(middles, kinds, rotation=40, ha="right", rotation_mode="anchor")
    ax.tick_params(length=0)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    if n <= 12:
        _cell_numbers(ax, shown, image, percent=percent)
    bar = figure.colorbar(image, ax=ax, pad=0.02, shrink=0.8, extend="max")
    bar.outline.set_visible(False)
    if percent:
        style.percent_axis(bar.ax.yaxis, "")
    ax.set_title(title)
    return figure


def _cell_numbers(ax: Axes, values: np.ndarray, image: Any, *, percent: bool) -> None:
    for row, column in zip(*np.nonzero(np.isfinite(values)), strict=True):
        value = values[row, column]
        dark = image.norm(value) < 0.5
        text = f"{100 * value:.1f}" if percent else f"{value:.2g}"
        ax.text(column, row, text, ha="center", va="center", fontsize=7, color="white" if dark else "black")
