"""Test accuracy against sparsity and FLOPs."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures import palette, style
from analysis.records import methods

_MISSING = "No run is finished: result.json has the final accuracy."


@style.use_style
def against_sparsity(results: pd.DataFrame) -> Figure:
    """Test accuracy against sparsity.

    Args:
      results: of one setting, from `Runs.results`.

    Returns:
      Points are runs, lines join the means of a method; the grey line is the mean of the dense networks.

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
    sparsities = sorted(sparse["target_sparsity"].unique())
    there = {s: [x for x in drawn if x in set(sparse.loc[sparse["target_sparsity"] == s, "label"])] for s in sparsities}
    for label, look in drawn.items():
        own = sparse[sparse["label"] == label]
        at = own["target_sparsity"].map(lambda s, x=label: sparsities.index(s) + _offset(there[s], x))
        ax.plot(at, own["test_accuracy"], **{**look.of_point(), "alpha": 0.45, "markersize": 4})
        means = own.groupby(at)["test_accuracy"].mean()
        ax.plot(means.index, means, **{**look.of_point(), **look.of_line(), "markersize": 7})
    if is_dense.any():
        _draw_dense_line(ax, frame[is_dense])
    for border in range(1, len(sparsities)):
        ax.axvline(border - 0.5, color=style.GRID, linewidth=0.8)
    ax.grid(axis="x", visible=False)
    ax.set_xlim(-0.5, len(sparsities) - 0.5)
    ax.set_xticks(range(len(sparsities)), [f"{100 * sparsity:.4g}%" for sparsity in sparsities])
    ax.set_xlabel("sparsity")
    style.set_percent_axis(ax.yaxis, "test accuracy")
    palette.add_legend_beside(ax, drawn, kind="both")
    return figure


@style.use_style
def against_flops(results: pd.DataFrame) -> Figure:
    """Test accuracy against the FLOPs of training and of inference, relative to the dense network.

    Args:
      results: of one setting, from `Runs.results`.

    Returns:
      Two panels. Small points are runs, large ones the means of a method at a sparsity.

    Raises:
      NoData: if no run is finished.
    """
    costs = ["training_flops", "inference_flops"]
    frame = style.require(results, ["test_accuracy", *costs], _MISSING)
    dense = frame[frame["method"] == "dense"]
    figure, axes = style.grid(1, 2, 3.0, sharey=True)
    drawn = palette.looks(frame)
    for ax, cost, title in zip(axes[0], costs, ("Training", "Inference"), strict=True):
        unit = dense[cost].mean() if len(dense) else 1.0
        for label, look in drawn.items():
            own = frame[frame["label"] == label]
            ax.plot(own[cost] / unit, own["test_accuracy"], **{**look.of_point(), "alpha": 0.45, "markersize": 4})
            means = own.groupby("target_sparsity")[[cost, "test_accuracy"]].mean()
            ax.plot(means[cost] / unit, means["test_accuracy"], **{**look.of_point(), "markersize": 8})
        ax.set_title(title)
        style.set_log_axis(ax.xaxis, "FLOPs, relative to the dense network" if len(dense) else "FLOPs")
    style.set_percent_axis(axes[0, 0].yaxis, "test accuracy")
    palette.add_legend_beside(axes[0, 1], drawn, kind="point")
    return figure


def _offset(labels: list[str], label: str) -> float:
    """Returns the horizontal offset that puts methods of one sparsity side by side."""
    return 0.7 * ((labels.index(label) + 0.5) / len(labels) - 0.5)


def _draw_dense_line(ax: Axes, dense: pd.DataFrame) -> None:
    mean = dense["test_accuracy"].mean()
    ax.axhline(mean, color=palette.GREY, linewidth=1.2)
    ax.annotate(
        "dense", (0.0, mean), (4, 3), xycoords=("axes fraction", "data"), textcoords="offset points", color=style.MUTED
    )
