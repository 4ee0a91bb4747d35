"""Gradient norm, loss and accuracy over training."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import palette, style
from analysis.records import methods
from sparse_lib.experiment.jobs.early_gradient import EARLY

_PANELS_IN_A_ROW = 3


@style.use_style
def gradient_norm(metrics: pd.DataFrame) -> Figure:
    """Gradient norm over early and over all of training (Figure 3 of arXiv 2010.03533).

    Args:
      metrics: of one case, from `Runs.metrics`.

    Returns:
      Rows: fixed or shrinking masks, moving masks. Columns: first tenth of training, all of training.

    Raises:
      NoData: if no run has logged it.
    """
    frame = style.require(metrics, ["gradient_norm"], "No run has logged a gradient norm yet.")
    frame = frame[frame["gradient_norm"] > 0]
    families = _split_families(frame)
    last = frame["step"].max()
    figure, axes = style.grid(len(families), 2, 2.55, sharey=True, width_ratios=(1, 1.25))
    for (early, whole), (title, rows) in zip(axes, families.items(), strict=True):
        drawn = palette.looks(rows)
        for label, look in drawn.items():
            own = rows[rows["label"] == label]
            palette.draw_over_seeds(early, own[own["step"] <= EARLY * last], "step", "gradient_norm", look)
            palette.draw_over_seeds(whole, own, "step", "gradient_norm", look)
        style.set_log_axis(early.yaxis, "gradient norm")
        early.set_title(f"{title}: first tenth")
        whole.set_title("all of training", fontweight="normal")
        palette.add_legend_beside(whole, drawn)
    _set_steps_axes(axes)
    return figure


@style.use_style
def mask_update_change(mask_updates: pd.DataFrame) -> Figure:
    """Change of the gradient norm by each mask update (Figure 4 of arXiv 2010.03533).

    Args:
      mask_updates: of one case, from `Runs.mask_updates`.

    Returns:
      One panel per method that grows weights; its initialisations and masks share the panel.

    Raises:
      NoData: if no such run has updated its masks.
    """
    missing = "No mask update has grown a weight: SET, RigL and their like write mask_updates.jsonl."
    frame = style.require(mask_updates, ["gradient_norm_change", "grown"], missing)
    frame = style.require(frame[frame["grown"] > 0], ["grown"], missing)
    base = frame["method"].map(methods.base_of)
    bases = sorted(base.unique(), key=methods.order)
    columns = min(len(bases), _PANELS_IN_A_ROW)
    rows = -(-len(bases) // columns)
    figure, axes = style.grid(rows, columns, 2.6, sharex=True, sharey=True)
    highest, lowest = 0.0, 0.0
    for ax, name in zip(axes.flat, bases, strict=False):
        panel = frame[base == name]
        for label, look in palette.looks(panel).items():
            own = palette.draw_over_seeds(ax, panel[panel["label"] == label], "step", "gradient_norm_change", look)
            highest, lowest = max(highest, own["mean"].max()), min(lowest, own["mean"].min())
        ax.axhline(0, color=style.MUTED, linewidth=1)
        ax.set_title(f"{methods.BASES.get(name, name)}: what an update adds")
        palette.add_legend(ax, palette.looks(panel), ncols=1, loc="upper right")
    for ax in axes.flat[len(bases) :]:
        ax.set_visible(False)
    # Limits from the means: a single run that widens the band would make the lines flat.
    reach = highest - lowest
    axes[0, 0].set_ylim(lowest - 0.35 * reach, highest + 0.5 * reach)
    for ax in axes[:, 0]:
        ax.set_ylabel("change of the gradient norm")
    _set_steps_axes(axes)
    return figure


@style.use_style
def loss(metrics: pd.DataFrame) -> Figure:
    """Training loss and test accuracy over training.

    Args:
      metrics: of one case, from `Runs.metrics`.

    Returns:
      Rows: fixed or shrinking masks, moving masks. Columns: loss, accuracy.

    Raises:
      NoData: if no run has logged them.
    """
    frame = style.require(metrics, ["test_accuracy"], "No run has logged an accuracy yet.")
    families = _split_families(frame)
    figure, axes = style.grid(len(families), 2, 2.4, sharey="col", sharex=True)
    for (left, right), (title, rows) in zip(axes, families.items(), strict=True):
        drawn = palette.looks(rows)
        for label, look in drawn.items():
            own = rows[rows["label"] == label]
            palette.draw_over_seeds(left, own.dropna(subset="train_loss"), "step", "train_loss", look)
            palette.draw_over_seeds(right, own, "step", "test_accuracy", look)
        left.set_title(f"{title}: training loss")
        right.set_title("test accuracy", fontweight="normal")
        style.set_log_axis(left.yaxis, "training loss (nats)")
        style.set_percent_axis(right.yaxis, "test accuracy")
        palette.add_legend_beside(right, drawn)
    _set_steps_axes(axes)
    return figure


def _split_families(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Splits methods by what their masks do, so that a panel has no more lines than can be distinguished."""
    base = frame["method"].map(methods.base_of)
    stays = base.isin([*methods.DENSE, *methods.PRUNING, *methods.STATIC])
    families = {"Masks stay or shrink": frame[stays], "Masks move": frame[~stays]}
    return {title: rows for title, rows in families.items() if not rows.empty}


def _set_steps_axes(axes: np.ndarray) -> None:
    for row in axes:
        for ax in row:
            style.set_steps_axis(ax, "training step" if ax in axes[-1] else "")
