"""Loss along paths, on planes, and between copies of a run."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures import palette, style

# Largest error barrier between copies of a stable run (Frankle et al. 2020, section 3.2) (fraction).
STABLE = 0.02


@style.use_style
def interpolation(paths: pd.DataFrame, split: str = "train") -> Figure:
    """Loss and error along the paths to the pruning solution (Figure 5 of arXiv 2010.03533).

    Args:
      paths: of one case, from `landscapes.Paths.points`.
      split: data split of loss and accuracy.

    Returns:
      Columns: paths from initial weights, paths from the end of training. Rows: loss, accuracy. Lines are means over
      the paths of a method, bands reach from minimum to maximum.

    Raises:
      NoData: if there is no interpolation.
    """
    missing = "There is no interpolation.csv; interpolate.py makes one from two checkpoints."
    frame = style.require(paths, ["loss", "accuracy"], missing)
    frame = style.require(frame[frame["split"] == split], ["loss"], f"No interpolation has the split {split!r}.")
    titles = {True: "From the initial weights", False: "From the end of training"}
    sides = [side for side in titles if (frame["from_start"] == side).any()]
    figure, axes = style.grid(2, len(sides), 2.3, sharex=True, sharey="row")
    for column, side in enumerate(sides):
        rows = frame[frame["from_start"] == side]
        for ax, value in zip(axes[:, column], ("loss", "accuracy"), strict=True):
            for label, look in palette.looks(rows).items():
                palette.draw_over_seeds(ax, rows[rows["label"] == label], "coefficient", value, look)
            for end in (0, 1):
                ax.axvline(end, color=style.MUTED, linewidth=1)
        axes[0, column].set_title(titles[side])
        axes[1, column].set_xlabel("0: method          1: pruning solution")
    axes[0, 0].set_ylabel(f"{split} loss (nats)")
    style.set_percent_axis(axes[1, 0].yaxis, f"{split} accuracy")
    palette.add_legend(figure, palette.looks(frame))
    return figure


@style.use_style
def surface(
    xs: np.ndarray,
    ys: np.ndarray,
    loss: np.ndarray,
    *,
    marks: pd.DataFrame | None = None,
    trajectory: np.ndarray | None = None,
    names: tuple[str, str] = ("first direction", "second direction"),
    title: str = "",
) -> Figure:
    """Loss on a plane in weight space, as filled contours.

    Args:
      xs: first coordinates, [columns].
      ys: second coordinates, [rows].
      loss: [rows, columns] (nats); blank where not finite.
      marks: labelled points: x, y, name.
      trajectory: training trajectory projected on the plane, [n, 2].
      names: labels of the axes.
      title: title of the figure.

    Returns:
      Contours at equal steps in the logarithm of the loss.

    Raises:
      NoData: if no value is finite.
    """
    kept = np.isfinite(loss) & (loss > 0)
    if not kept.any():
        raise style.NoData("The surface has no finite loss yet.")
    shown = np.where(kept, loss, np.nan)
    levels = _contour_levels(shown)
    figure, axes = style.grid(1, 1, 4.3, width=5.4)
    ax = axes[0, 0]
    filled = ax.contourf(xs, ys, shown, levels=levels, cmap=style.SEQUENTIAL, norm="log", extend="max")
    ax.contour(xs, ys, shown, levels=levels, colors="white", linewidths=0.4, alpha=0.6)
    if trajectory is not None and len(trajectory):
        ax.plot(*trajectory.T, color="white", linewidth=1.6, marker="o", markersize=3, markeredgecolor="black")
    if marks is not None:
        _draw_marks(ax, marks)
    bar = figure.colorbar(filled, ax=ax, pad=0.02, ticks=levels[::2])
    bar.set_label("loss (nats)")
    bar.ax.set_yticklabels(style.format_apart([float(level) for level in levels[::2]]))
    ax.set_xlabel(names[0])
    ax.set_ylabel(names[1])
    ax.set_title(title)
    ax.grid(visible=False)
    return figure


def picture(kind: str, xs: np.ndarray, ys: np.ndarray, loss: np.ndarray, marks: pd.DataFrame, split: str) -> Figure:
    """Loss surface written by interpolate.py.

    Args:
      kind: `surface`, `plane` or `trajectory`.
      xs: first coordinates, [columns].
      ys: second coordinates, [rows].
      loss: [rows, columns] (nats).
      marks: x, y, name and step of the checkpoints that span the plane.
      split: data split of the loss.

    Returns:
      The surface with its checkpoints; a trajectory is a line with its last checkpoint labelled.

    Raises:
      NoData: if no value is finite.
    """
    names = {
        "surface": ("first random direction, filter by filter", "second random direction"),
        "plane": ("L2 distance of weights", "L2 distance of weights"),
        "trajectory": ("first principal direction (L2)", "second principal direction (L2)"),
    }[kind]
    path = marks[["x", "y"]].to_numpy(float) if kind == "trajectory" else None
    named = marks.tail(1) if kind == "trajectory" else marks
    return surface(xs, ys, loss, marks=named, trajectory=path, names=names, title=f"{split} loss")


@style.use_style
def instability(frame: pd.DataFrame, split: str = "test") -> Figure:
    """Error barrier between copies of a run against the step at which they part (Frankle et al. 2020, Figure 3).

    Args:
      frame: from `landscapes.load_instability`.
      split: data split of the error.

    Returns:
      Lines are means of a method, points are pairs of copies.

    Raises:
      NoData: if there is no pair.
    """
    rows = style.require(
        frame, ["error_barrier"], "There is no instability.csv; interpolate.py --mode=instability makes one."
    )
    rows = style.require(
        rows[rows["split"] == split], ["error_barrier"], f"No barrier is known on the split {split!r}."
    )
    figure, axes = style.grid(1, 1, 2.8)
    ax = axes[0, 0]
    drawn = palette.looks(rows)
    for label, look in drawn.items():
        own = rows[rows["label"] == label]
        ax.plot(own["step"], own["error_barrier"], **{**look.of_point(), "alpha": 0.5, "markersize": 4})
        ax.plot(own.groupby("step")["error_barrier"].mean(), **look.of_line())
    ax.axhline(STABLE, color=style.MUTED, linewidth=1)
    style.set_percent_axis(ax.yaxis, f"error barrier, {split}", within=False)
    ax.set_title("Error barrier between copies of a run")
    style.set_steps_axis(ax, "step at which the copies part")
    palette.add_legend_beside(ax, drawn)
    return figure


def _contour_levels(loss: np.ndarray, count: int = 15) -> np.ndarray:
    """Returns levels evenly spaced in the logarithm, up to the 90% quantile."""
    low, high = np.nanmin(loss), np.nanquantile(loss, 0.9)
    if not high > low * 1.001:
        low, high = low * 0.95, low * 1.05
    return np.geomspace(low, high, count)


def _draw_marks(ax: Axes, marks: pd.DataFrame) -> None:
    for x, y, name in zip(marks["x"], marks["y"], marks["name"], strict=True):
        ax.plot(x, y, marker="o", markersize=7, color="white", markeredgecolor="black", linestyle="none")
        box = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
        ax.annotate(name, (x, y), (8, 6), textcoords="offset points", color="black", bbox=box)
