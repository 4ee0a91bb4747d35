"""Test accuracy by method, against sparsity, and against FLOPs."""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from analysis.figures import palette, style
from analysis.records import methods

_MISSING = "No run is finished: result.json has the final accuracy."
# Runs below this share of the best accuracy are named and do not stretch the axis.
_FAR_BELOW = 0.5


@style.use_style
def by_method(results: pd.DataFrame) -> Figure:
    """Test accuracy of every run, one row per method.

    Args:
      results: of one case, from `Runs.results`.

    Returns:
      Small points are runs, large ones means; lines are 95% intervals over at least three seeds. Runs below half the
      best accuracy stand at the left edge, with their number and their range.

    Raises:
      NoData: if no run is finished.
    """
    frame = style.require(results, ["test_accuracy"], _MISSING)
    drawn = palette.looks(frame)
    figure, axes = style.grid(1, 1, 0.9 + 0.28 * len(drawn))
    ax = axes[0, 0]
    low = _FAR_BELOW * frame["test_accuracy"].max()
    for row, (label, look) in enumerate(drawn.items()):
        accuracy = frame.loc[frame["label"] == label, "test_accuracy"]
        near, far = accuracy[accuracy >= low], accuracy[accuracy < low]
        _draw_row(ax, row, near, look, whole=far.empty)
        if not far.empty:
            ax.annotate(
                f"\u25c2 {_count_below(far, len(accuracy))}",
                (0, row),
                (3, 0),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                va="center",
                color=look.colour,
                fontsize=8,
            )
    dense = frame.loc[(frame["method"] == "dense") & (frame["test_accuracy"] >= low), "test_accuracy"]
    if len(dense):
        ax.axvline(dense.mean(), color=palette.GREY, linewidth=1.2, zorder=0)
    ax.set_yticks(range(len(drawn)), list(drawn))
    ax.set_ylim(len(drawn) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    style.set_percent_axis(ax.xaxis, "test accuracy")
    ax.set_title("Test accuracy by method")
    return figure


def _draw_row(ax: Axes, row: int, accuracy: pd.Series, look: palette.Look, *, whole: bool) -> None:
    """Draws the runs of a method; mean and interval only if no run is missing from the row."""
    spread = np.linspace(-0.16, 0.16, len(accuracy)) if len(accuracy) > 1 else np.zeros(len(accuracy))
    ax.plot(accuracy, row + spread, **{**look.of_point(), "alpha": 0.5, "markersize": 4})
    if not whole:
        return
    if len(accuracy) > 2 and accuracy.std() > 0:
        low, high = stats.t.interval(0.95, len(accuracy) - 1, accuracy.mean(), accuracy.sem())
        ax.hlines(row, max(low, 0), min(high, 1), color=look.colour, linewidth=1.6)
    ax.plot(accuracy.mean(), row, **{**look.of_point(), "markersize": 8})


def _count_below(far: pd.Series, runs: int) -> str:
    low, high = (f"{100 * end:.0f}" for end in (far.min(), far.max()))
    ends = low if low == high else f"{low} to {high}"
    return f"{len(far)} of {runs} run{'s' if runs > 1 else ''} at {ends}%"


@style.use_style
def against_sparsity(results: pd.DataFrame) -> Figure:
    """Test accuracy against sparsity.

    Args:
      results: of one setting, from `Runs.results`.

    Returns:
      Points are runs, lines join the means of a method; the grey line is the mean of the dense networks. The axis of
      sparsity is logarithmic in the weights that remain. Runs below half the best accuracy are named below the panel.

    Raises:
      NoData: if no sparse run is finished.
    """
    frame = style.require(results, ["test_accuracy", "target_sparsity"], _MISSING)
    is_dense = frame["method"].map(methods.base_of) == "dense"
    sparse = frame[~frame["method"].map(methods.base_of).isin(methods.DENSE)]
    sparse = style.require(sparse, ["test_accuracy"], "No sparse run is finished.")
    figure, axes = style.grid(1, 1, 3.4)
    ax = axes[0, 0]
    drawn = palette.looks(sparse)
    kept, note = _set_aside(sparse)
    for label, look in drawn.items():
        own = kept[kept["label"] == label]
        ax.plot(own["target_sparsity"], own["test_accuracy"], **{**look.of_point(), "alpha": 0.45, "markersize": 4})
        means = own.groupby("target_sparsity")["test_accuracy"].mean()
        ax.plot(means.index, means, **{**look.of_point(), **look.of_line(), "markersize": 6})
    style.set_sparsity_axis(ax, kept["target_sparsity"])
    if is_dense.any():
        _draw_dense_line(ax, frame[is_dense])
    style.set_percent_axis(ax.yaxis, "test accuracy")
    ax.set_title("Test accuracy against sparsity")
    palette.add_legend_beside(ax, drawn, kind="both")
    _add_note(figure, note)
    return figure


@style.use_style
def against_flops(results: pd.DataFrame) -> Figure:
    """Test accuracy against the FLOPs of training and of inference, relative to the dense network.

    Args:
      results: of one setting, from `Runs.results`.

    Returns:
      Two panels. Small points are runs, large ones the means of a method at a sparsity. Runs below half the best
      accuracy are named below the panels.

    Raises:
      NoData: if no run is finished.
    """
    costs = ["training_flops", "inference_flops"]
    frame = style.require(results, ["test_accuracy", *costs], _MISSING)
    dense = frame[frame["method"] == "dense"]
    figure, axes = style.grid(1, 2, 3.0, sharey=True)
    drawn = palette.looks(frame)
    kept, note = _set_aside(frame)
    for ax, cost, title in zip(
        axes[0], costs, ("Accuracy and training cost", "Accuracy and inference cost"), strict=True
    ):
        unit = dense[cost].mean() if len(dense) else 1.0
        for label, look in drawn.items():
            own = kept[kept["label"] == label]
            ax.plot(own[cost] / unit, own["test_accuracy"], **{**look.of_point(), "alpha": 0.45, "markersize": 4})
            means = own.groupby("target_sparsity")[[cost, "test_accuracy"]].mean()
            ax.plot(means[cost] / unit, means["test_accuracy"], **{**look.of_point(), "markersize": 8})
        ax.set_title(title)
        style.set_log_axis(ax.xaxis, "FLOPs, relative to the dense network" if len(dense) else "FLOPs")
        style.set_percent_axis(ax.yaxis, "test accuracy" if ax is axes[0, 0] else "")
    palette.add_legend_beside(axes[0, 1], drawn, kind="point")
    _add_note(figure, note)
    return figure


def _set_aside(frame: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Returns the runs whose accuracy is near the best, and a sentence that names the others."""
    is_far = frame["test_accuracy"] < _FAR_BELOW * frame["test_accuracy"].max()
    parts = [
        f"{label}: {_count_below(own.loc[is_far, 'test_accuracy'], len(own))}"
        for label in palette.looks(frame)
        for own in [frame[frame["label"] == label]]
        if is_far[own.index].any()
    ]
    return frame[~is_far], f"Not drawn: {'; '.join(parts)}." if parts else ""


def _add_note(figure: Figure, note: str) -> None:
    if note:
        figure.supxlabel(textwrap.fill(note, 110), fontsize=8, color=style.MUTED, x=0.01, ha="left")


def _draw_dense_line(ax: Axes, dense: pd.DataFrame) -> None:
    mean = dense["test_accuracy"].mean()
    ax.axhline(mean, color=palette.GREY, linewidth=1.2)
    ax.annotate(
        "dense", (0.0, mean), (4, 3), xycoords=("axes fraction", "data"), textcoords="offset points", color=style.MUTED
    )
