"""Embedding of solutions in the plane, and matrices of pairwise measures."""

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn
from matplotlib.figure import Figure

from analysis.figures import palette, style


@style.use_style
def embedding(points: pd.DataFrame, stress: float) -> Figure:
    """Starts and ends of training, embedded in the plane by multidimensional scaling of their L2 distances.

    Args:
      points: one row per solution: x, y, label, method and end ("start" or "end").
      stress: of the embedding.

    Returns:
      One panel with equal units on both axes; starts are small points, and a thin line leads to the end of their run.

    Raises:
      NoData: if there are no checkpoints.
    """
    rows = style.require(points, ["x", "y"], "No checkpoints of sparse runs and of the pruned network they come from.")
    figure, axes = style.grid(1, 1, 4.4, width=6.4)
    ax = axes[0, 0]
    drawn = palette.looks(rows)
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
    ax.set_title(f"Distances of solutions in the plane (stress {stress:.3f}); dots: start of training")
    palette.add_legend_beside(ax, drawn, kind="point")
    return figure


@style.use_style
def matrix(
    values: np.ndarray,
    groups: Sequence[str],
    *,
    title: str,
    names: Sequence[str] | None = None,
    percent: bool = True,
) -> Figure:
    """A measure of all pairs as a heat map.

    Args:
      values: [n, n], NaN for missing pairs.
      groups: group of each row, such as its method; equal neighbours share one label.
      title: title of the figure, with the unit.
      names: name of each row within its group; None labels the groups alone.
      percent: whether the values are fractions, shown in percent.

    Returns:
      A heat map, with numbers if there is room.

    Raises:
      NoData: if there are no values off the diagonal.
    """
    n = len(values)
    off = values[~np.eye(n, dtype=bool)]
    if n < 2 or not np.isfinite(off).any():
        raise style.NoData("Two finished runs at least are needed to compare what they predict.")
    figure, axes = style.grid(1, 1, 4.3, width=6.4)
    ax = axes[0, 0]
    seaborn.heatmap(
        values,
        mask=np.eye(n, dtype=bool) | ~np.isfinite(values),
        vmin=0,
        vmax=max(np.nanquantile(off, 0.85), 1e-9),
        cmap=style.MATRIX,
        # Numbers are legible in up to twelve columns.
        annot=(100 * values if percent else values) if n <= 12 else None,
        fmt=".1f" if percent else ".2g",
        annot_kws={"fontsize": 7},
        cbar_kws={"pad": 0.02, "shrink": 0.8, "extend": "max"},
        square=True,
        rasterized=True,
        ax=ax,
    )
    edges = [0, *(i for i in range(1, n) if groups[i] != groups[i - 1]), n]
    for edge in edges[1:-1]:
        ax.axhline(edge, color="white", linewidth=1.5)
        ax.axvline(edge, color="white", linewidth=1.5)
    middles = [(a + b) / 2 for a, b in itertools.pairwise(edges)]
    kinds = [groups[edge] for edge in edges[:-1]]
    ax.set_yticks(middles if names is None else np.arange(n) + 0.5, kinds if names is None else names, rotation=0)
    ax.set_xticks(middles, kinds, rotation=40, ha="right", rotation_mode="anchor")
    ax.tick_params(length=0)
    ax.grid(visible=False)
    if percent:
        style.set_percent_axis(ax.collections[0].colorbar.ax.yaxis, "", within=False)
    ax.set_title(title)
    return figure
