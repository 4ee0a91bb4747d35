"""Hessian spectra around mask updates and over training."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures import palette, style

# All eigenvalues, or a grid and the spectral density on it.
Spectrum = np.ndarray | tuple[np.ndarray, np.ndarray]

_BINS = 70
# Width of the linear part of the eigenvalue axis (fraction of the largest).
_LINEAR = 0.003
# Tails of a smoothed density below this fraction of its peak are artefacts.
_FLOOR = 1e-6


class Pair(NamedTuple):
    """Spectra before and after a mask update.

    Attributes:
      run: run of the update.
      seed: of the run.
      step: of the update.
      before: spectrum before it.
      after: spectrum after it.
    """

    run: str
    seed: int
    step: int
    before: Spectrum
    after: Spectrum


@style.use_style
def before_and_after(pairs: Sequence[Pair], *, title: str = "") -> Figure:
    """Spectra before and after the mask updates of a method (Figure 4 of arXiv 2010.03533, right).

    Args:
      pairs: spectra on both sides of updates.
      title: of the figure, such as the method.

    Returns:
      One row of panels per run, one column per update: histograms of the eigenvalues, or their estimated densities. The
      axis of eigenvalues is linear around zero and logarithmic beyond, which makes negative ones visible beside the
      largest. The legends give the ends of the spectra.

    Raises:
      NoData: if there is no pair.
    """
    if not pairs:
        raise style.NoData(
            "No spectra beside a mask update: train with training.save_update_pairs = True, then run hessian.py."
        )
    runs, steps = list(dict.fromkeys(p.run for p in pairs)), sorted({p.step for p in pairs})
    figure, axes = style.grid(len(runs), len(steps), 2.3, width=max(style.WIDTH, 2.3 * len(steps)))
    for ax in axes.flat:
        ax.set_visible(False)
    for pair in pairs:
        ax = axes[runs.index(pair.run), steps.index(pair.step)]
        ax.set_visible(True)
        _draw_pair(ax, pair)
        ax.set_title(f"step {pair.step:,}, seed {pair.seed}")
    for row in axes:
        first = next(ax for ax in row if ax.get_visible())
        first.set_ylabel("density" if _is_density(pairs[0].before) else "eigenvalues (count)")
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=10)
    return figure


def _draw_pair(ax: Axes, pair: Pair) -> None:
    edges, width = _bin_edges(pair.before, pair.after)
    _draw_side(ax, pair.before, edges, palette.GREY, "before", filled=True)
    _draw_side(ax, pair.after, edges, palette.RED, "after", filled=False)
    ax.set_yscale("log")
    ax.set_xscale("asinh", linear_width=width)
    ticks = _ticks(edges, width)
    ax.set_xticks(ticks, [style.format_tick(tick) for tick in ticks])
    ax.set_xticks([], minor=True)
    ax.axvline(0, color=style.MUTED, linewidth=0.8)
    ax.set_xlabel("eigenvalue of the Hessian")
    # Room for the legend.
    bottom, top = ax.get_ylim()
    ax.set_ylim(bottom, top * (top / bottom) ** 0.35)
    ax.legend(loc="upper right", fontsize=7, handlelength=1.2)


def _is_density(spectrum: Spectrum) -> bool:
    return isinstance(spectrum, tuple)


def _draw_side(ax: Axes, spectrum: Spectrum, edges: np.ndarray, colour: str, name: str, *, filled: bool) -> None:
    if isinstance(spectrum, tuple):
        grid, density = spectrum
        kept = density > _FLOOR * density.max()
        low, high = grid[kept].min(), grid[kept].max()
        ax.plot(grid[kept], density[kept], color=colour)
    else:
        low, high = spectrum.min(), spectrum.max()
        counts, _ = np.histogram(spectrum, edges)
        ax.stairs(counts, edges, color=colour, fill=filled, alpha=0.45 if filled else 1.0)
        ax.set_ylim(bottom=0.7)
    ax.plot([], [], color=colour, label=f"{name}: {low:.3g} to {high:.3g}")


def _bin_edges(*spectra: Spectrum) -> tuple[np.ndarray, float]:
    """Returns edges of bins of equal width on the axis, and the width of its linear part."""
    ends = [np.asarray(s[0] if isinstance(s, tuple) else s) for s in spectra]
    low, high = min(float(e.min()) for e in ends), max(float(e.max()) for e in ends)
    width = _LINEAR * max(abs(low), abs(high), 1e-12)
    low, high = (np.arcsinh(end / width) for end in (low, high if high > low else low + width))
    return width * np.sinh(np.linspace(low, high, _BINS + 1)), width


def _ticks(edges: np.ndarray, width: float) -> list[float]:
    """Returns zero and the powers of ten on the logarithmic parts of the axis."""
    largest = max(abs(edges[0]), abs(edges[-1]))
    last = np.floor(np.log10(largest))
    # At most three powers a side, or their labels would run into each other.
    first = max(np.ceil(np.log10(3 * width)), last - 2)
    powers = 10.0 ** np.arange(first, last + 1)
    return [float(t) for t in (*-powers[::-1], 0.0, *powers) if edges[0] <= t <= edges[-1]]


@style.use_style
def extremes(summaries: pd.DataFrame) -> Figure:
    """Largest and smallest eigenvalue, and number of negative ones, over training.

    Args:
      summaries: of one case, from `spectra.load`, one row per checkpoint.

    Returns:
      Three panels, checkpoints beside mask updates included. As these crowd early in training, the axis of steps is
      linear up to the first one and logarithmic beyond.

    Raises:
      NoData: if no spectrum was computed.
    """
    frame = style.require(
        summaries, ["lambda_max"], "No spectrum was computed; hessian.py computes those of a run's checkpoints."
    )
    # The checkpoints around the update at step t are numbered -(t - 1) and -t, after t and t + 1 steps.
    frame = frame.assign(taken=frame["number"].where(frame["number"] >= 0, 1 - frame["number"]))
    frame = frame.drop_duplicates(["run", "taken"])
    width = frame["taken"][frame["taken"] > 0].min()
    figure, axes = style.grid(1, 3, 2.5)
    drawn = palette.looks(frame)
    columns = {
        "lambda_max": "Largest eigenvalue",
        "lambda_min": "Smallest eigenvalue",
        "negative": "Number of negative eigenvalues",
    }
    for ax, (column, title) in zip(axes[0], columns.items(), strict=True):
        for label, look in drawn.items():
            of_label = frame[frame["label"] == label].dropna(subset=column)
            means = palette.draw_over_seeds(ax, of_label, "taken", column, look)["mean"]
            ax.plot(means.index, means, **{**look.of_point(), "markersize": 3.5})
        _format_axes(ax, title, width)
    palette.add_legend(figure, drawn, kind="both")
    return figure


def _format_axes(ax: Axes, title: str, width: float) -> None:
    ax.set_title(title)
    if width > 0:
        ax.set_xscale("asinh", linear_width=width)
    style.set_steps_axis(ax)
