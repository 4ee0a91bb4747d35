"""Style of all figures: theme, panels, axes, files."""

import functools
import math
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.scale import LinearScale, register_scale
from matplotlib.ticker import EngFormatter, FuncFormatter, Locator, LogLocator, MaxNLocator

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
    # The generic name is the last choice of readers that lack this font.
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "grid.color": GRID,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.8,
    "patch.force_edgecolor": False,
    # Text that can be selected and searched; publishers reject the default, Type 3.
    "pdf.fonttype": 42,
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "sparse_lib",
    "text.color": INK,
    # Names of settings and directories are no formulas.
    "text.parse_math": False,
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
    outlines: bool = False,
) -> list[pathlib.Path]:
    """Writes a figure; equal figures give equal bytes.

    Args:
      figure: drawn by a function of this package.
      path: path without a suffix, in an existing directory.
      formats: suffixes.
      opaque: suffixes of files on white; the others are transparent, for pages with a background of their own.
      outlines: whether an SVG has letters as shapes, which look the same where the font is missing.

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
        with (
            mpl.rc_context({**RC, "svg.fonttype": "path" if outlines else "none"}),
            files.atomic_path(target) as temporary,
        ):
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
    """Makes an axis logarithmic, with a label and ticks that differ however short it is."""
    axis.axes.set_xscale("log") if axis.axis_name == "x" else axis.axes.set_yscale("log")
    axis.set_label_text(label)
    axis.set_major_locator(_LogTicks())
    axis.set_major_formatter(FuncFormatter(lambda value, _: format_tick(value)))
    axis.set_minor_formatter(lambda *_: "")


def set_percent_axis(axis: Any, label: str, *, within: bool = True) -> None:
    """Labels an axis of fractions, with ticks in percent.

    Args:
      axis: axis of a panel, or of a colour bar.
      label: of the axis.
      within: whether the axis ends at 0% and 100%; False for differences.
    """
    if within:
        axis.axes.set_xscale(_FROM_0_TO_1) if axis.axis_name == "x" else axis.axes.set_yscale(_FROM_0_TO_1)
        # Limits that are known already would stay as they are.
        axis.axes.autoscale_view()
        for line in axis.axes.lines:
            # Points at 100% are whole. Empty lines would have a place, outside of the axes.
            if line.get_marker() != "None" and len(line.get_xdata()):
                line.set_clip_on(False)
    axis.set_label_text(label)
    axis.set_major_formatter(_PercentTicks())


def set_sparsity_axis(ax: Axes, sparsities: Iterable[float]) -> None:
    """Makes the horizontal axis that of sparsity, logarithmic in the weights that remain, with ticks at the given ones.

    Args:
      ax: axes with their data.
      sparsities: those of the data (fraction).
    """
    given = sorted(set(sparsities))
    ax.set_xscale("function", functions=(_to_orders, lambda orders: 1 - 10.0**-orders))
    places = [float(_to_orders(s)) for s in given]
    margin = 0.06 * (places[-1] - places[0]) or 0.15
    ax.set_xlim(1 - 10 ** -(places[0] - margin), 1 - 10 ** -(places[-1] + margin))
    kept: list[int] = []
    for number, place in enumerate(places):
        if not kept or place - places[kept[-1]] > margin:
            kept.append(number)
    ticks = [given[number] for number in kept]
    ax.set_xticks(ticks, [f"{100 * tick:.4g}%" for tick in ticks])
    ax.set_xticks([], minor=True)
    ax.set_xlabel("sparsity")


def format_tick(value: float) -> str:
    """Formats the number at a tick: 0.05, 1, 2000, 1e-5."""
    text = f"{value:.6g}"
    return text.replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")


def format_apart(values: Sequence[float]) -> list[str]:
    """Formats numbers with the fewest digits, two at least, by which they differ."""
    for digits in range(2, 12):
        texts = [f"{value:.{digits}g}" for value in values]
        if len(set(texts)) == len(set(values)):
            return texts
    return [repr(value) for value in values]


def _to_orders(sparsity: Any) -> Any:
    """Returns the orders of magnitude by which the weights are fewer."""
    return -np.log10(np.maximum(1 - np.asarray(sparsity, float), 1e-9))


_FROM_0_TO_1 = "from_0_to_1"


class _FractionScale(LinearScale):
    """A linear scale that never leaves 0 to 1."""

    name = _FROM_0_TO_1

    def __init__(self, *_: object) -> None:
        # Older versions of matplotlib hand over the axis, newer ones nothing.
        super().__init__(None)

    def limit_range_for_scale(self, vmin: float, vmax: float, minpos: float) -> tuple[float, float]:
        """Returns the ends of an axis."""
        return max(vmin, 0.0), min(vmax, 1.0)


register_scale(_FractionScale)


class _PercentTicks(FuncFormatter):
    """Percent with as many digits as the ticks need."""

    def __init__(self) -> None:
        super().__init__(lambda value, _: f"{100 * value:.{self._digits}f}%")
        self._digits = 0

    def set_locs(self, locs: Any) -> None:
        """Takes the ticks."""
        super().set_locs(locs)
        exact = [d for d in range(6) if all(abs(round(100 * x, d) - 100 * x) < 1e-7 for x in locs)]
        self._digits = exact[0] if exact else 6


class _LogTicks(Locator):
    """Powers of ten; with 2 and 5 between them, or at equal distances, where those are too few."""

    def __call__(self) -> Any:
        """Returns the ticks of the axis."""
        axis: Any = self.axis
        return self.tick_values(*axis.get_view_interval())

    def tick_values(self, vmin: float, vmax: float) -> Any:
        """Returns the ticks from one value to another."""
        low, high = sorted((vmin, vmax))
        if not low > 0:
            return LogLocator(10, numticks=7).tick_values(low, high)
        if high < 6 * low:
            ticks = np.asarray(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high))
        else:
            powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            factors = (1, 2, 5) if high < 150 * low else (1,)
            step = max(1, len(powers) // 7 + (len(powers) > 7)) if factors == (1,) else 1
            ticks = np.array([factor * 10.0**power for power in powers if power % step == 0 for factor in factors])
        return ticks[(ticks >= low * (1 - 1e-9)) & (ticks <= high * (1 + 1e-9))]
