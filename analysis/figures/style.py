"""Style of all figures: theme, panels, axes, files."""

import functools
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, StrMethodFormatter

from sparse_lib.experiment.storage import files

# Colours that a page may replace for a dark background; not used for data.
INK, MUTED, GRID = "#1f2328", "#666f79", "#dfe3e8"
WIDTH = 7.4
# Seaborn's theme, with the page's colours.
RC: Any = {
    **seaborn.axes_style("ticks"),
    **seaborn.plotting_context("paper", font_scale=0.95),
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "figure.dpi": 100,
    "figure.facecolor": "none",
    "font.family": "DejaVu Sans",
    "grid.color": GRID,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.8,
    "patch.force_edgecolor": False,
    "savefig.facecolor": "none",
    "svg.fonttype": "path",
    "svg.hashsalt": "sparse_lib",
    "text.color": INK,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
}
# Colour maps of filled contours and matrices; perceptually uniform and colour-blind safe.
SEQUENTIAL, MATRIX = "viridis", "cividis"

P = ParamSpec("P")


class NoData(ValueError):
    """A figure has no data; the message says what is missing."""


def use_style(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Wraps a function to draw its figure in the suite's style, whatever style the process has set."""

    @functools.wraps(draw)
    def draw_in_style(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(RC):
            return draw(*args, **kwargs)

    return draw_in_style


def save(
    figure: Figure,
    path: pathlib.Path,
    *,
    formats: Sequence[str] = ("svg", "pdf", "png"),
    opaque: Sequence[str] = ("png",),
) -> list[pathlib.Path]:
    """Writes a figure; equal figures give equal bytes.

    Args:
      figure: drawn by a function of this package.
      path: path without a suffix, in an existing directory.
      formats: suffixes.
      opaque: suffixes of files on white; the others are transparent, for pages with a background of their own.

    Returns:
      Paths of the files.
    """
    written = []
    with mpl.rc_context(RC):
        figure.draw_without_rendering()
    # Computing the layout again for every format would take longer than drawing.
    figure.set_layout_engine("none")
    for ending in formats:
        target = path.with_name(f"{path.name}.{ending}")
        stamp = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(ending, {})
        face = "white" if ending in opaque else "none"
        with mpl.rc_context(RC), files.atomic_path(target) as temporary:
            figure.savefig(temporary, dpi=200, metadata=stamp, facecolor=face)
        written.append(target)
    return written


def require(frame: pd.DataFrame, columns: Iterable[str], sentence: str) -> pd.DataFrame:
    """Selects the rows that have values in all of some columns.

    Args:
      frame: data of a figure.
      columns: columns without missing values.
      sentence: error message: what is missing, and how to get it.

    Returns:
      The rows, at least one.

    Raises:
      NoData: with the sentence, if there is no such row.
    """
    columns = list(columns)
    rows = frame.dropna(subset=columns) if set(columns) <= set(frame.columns) else frame.iloc[:0]
    if rows.empty:
        raise NoData(sentence)
    return rows


def grid(rows: int, columns: int, height: float, *, width: float = WIDTH, **shared: Any) -> tuple[Figure, np.ndarray]:
    """Creates a figure of panels.

    Args:
      rows: rows of panels (count).
      columns: columns of panels (count).
      height: height of a panel (inches).
      width: width of the figure (inches).
      **shared: arguments of `Figure.subplots`.

    Returns:
      The figure and its axes, [rows, columns].
    """
    figure = Figure(figsize=(width, rows * height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **shared)


def set_steps_axis(ax: Axes, label: str = "training step") -> None:
    """Labels the axis of training steps, in thousands for large numbers."""
    ax.set_xlabel(label)
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.margins(x=0.01)


def set_log_axis(axis: Any, label: str) -> None:
    """Makes an axis logarithmic, with a label and ticks such as 0.01, 0.1, 1, 10."""
    axis.axes.set_xscale("log") if axis.axis_name == "x" else axis.axes.set_yscale("log")
    axis.set_label_text(label)
    axis.set_major_locator(LogLocator(10, numticks=7))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))

    def format_minor(value: float, _: object) -> str:
        low, high = axis.get_view_interval()
        # Powers of ten are too few ticks below one and a half decades.
        is_short = 0 < low < high < 32 * low
        return f"{value:g}" if is_short and f"{value:e}"[0] in "25" else ""

    axis.set_minor_formatter(format_minor)


def set_percent_axis(axis: Any, label: str) -> None:
    """Labels an axis of fractions, with ticks in percent."""
    axis.set_label_text(label)
    axis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
