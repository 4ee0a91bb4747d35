"""Sparsity per layer, change of masks, survival of grown weights."""

import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import palette, style
from analysis.records import methods


@style.use_style
def layer_sparsity(layers: pd.DataFrame) -> Figure:
    """Sparsity of each layer at the end of training.

    Args:
      layers: of one case, from `Runs.layers`.

    Returns:
      One row per layer; a point is the mean over the last log steps of a method's runs, a line their range.

    Raises:
      NoData: if no sparse run has logged it.
    """
    missing = "No sparse run has logged the sparsity of its layers yet."
    rows = layers[(layers["metric"] == "sparsity") & ~layers["method"].map(methods.base_of).isin(methods.DENSE)]
    rows = style.require(rows, ["value"], missing)
    last = rows.loc[rows.groupby(["run", "layer"])["step"].idxmax()]
    # Methods with the same sparsities in all layers are drawn once.
    drawn = _group_labels(last)
    names = list(dict.fromkeys(rows["layer"]))
    figure, axes = style.grid(1, 1, 0.9 + 0.42 * len(names) * max(1.0, len(drawn) / 4))
    ax = axes[0, 0]
    for place, (label, (look, members)) in enumerate(drawn.items()):
        own = last[last["label"].isin(members)].groupby("layer")["value"].agg(["mean", "min", "max"]).reindex(names)
        shift = 0.7 * ((place + 0.5) / len(drawn) - 0.5)
        at = [row + shift for row in range(len(names))]
        ax.hlines(at, own["min"], own["max"], color=look.colour, linewidth=1.2)
        ax.plot(own["mean"], at, label=label, **look.of_point())
    for row in range(1, len(names)):
        ax.axhline(row - 0.5, color=style.GRID, linewidth=0.8)
    ax.set_yticks(range(len(names)), [name.removesuffix("/kernel") for name in names])
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    style.set_percent_axis(ax.xaxis, "sparsity of the layer")
    ax.set_title("Sparsity of each layer at the last log step")
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def _group_labels(last: pd.DataFrame) -> dict[str, tuple[palette.Look, list[str]]]:
    """Groups labels with equal sparsities in all layers and seeds; returns look and members by joined label."""
    looks = palette.looks(last)
    table = last.groupby(["label", "layer", "seed"])["value"].mean().round(6).unstack(["layer", "seed"])
    groups: dict[tuple[float, ...], list[str]] = {}
    for label in looks:
        groups.setdefault(tuple(table.loc[label].fillna(-1)), []).append(label)
    return {_join_labels(labels): (looks[labels[0]], labels) for labels in groups.values()}


def _join_labels(labels: list[str]) -> str:
    """Joins labels, two per line."""
    lines = [", ".join(labels[start : start + 2]) for start in range(0, len(labels), 2)]
    return ",\n".join(lines)


@style.use_style
def evolution(metrics: pd.DataFrame) -> Figure:
    """Sparsity, mask churn and exploration rate over training.

    Args:
      metrics: of one case, from `Runs.metrics`.

    Returns:
      Three panels with the methods whose masks change.

    Raises:
      NoData: if no mask changes.
    """
    missing = "No run has changed its masks yet."
    columns = {
        "sparsity": "Sparsity",
        "mask_churn": "Active weights gone\nsince the last log step",
        "exploration_rate": "Weights active\nat any step so far",
    }
    frame = style.require(metrics, list(columns), missing)
    changing = frame.groupby("label")["mask_churn"].transform("max") > 0
    frame = style.require(frame[changing], ["mask_churn"], missing)
    figure, axes = style.grid(1, 3, 2.5)
    drawn = palette.looks(frame)
    for ax, (column, title) in zip(axes[0], columns.items(), strict=True):
        for label, look in drawn.items():
            palette.draw_over_seeds(ax, frame[frame["label"] == label], "step", column, look)
        style.set_percent_axis(ax.yaxis, "")
        ax.set_title(title)
        style.set_steps_axis(ax)
    palette.add_legend(figure, drawn)
    return figure


@style.use_style
def survival(frame: pd.DataFrame) -> Figure:
    """Survival of grown weights (Kaplan-Meier).

    Args:
      frame: from `similarity.masks.survival`, with the columns of `IDENTITY`.

    Returns:
      One step curve per run.

    Raises:
      NoData: if no run with growth left two checkpoints.
    """
    rows = style.require(frame, ["survival"], "No run that grows weights has left two checkpoints.")
    figure, axes = style.grid(1, 1, 2.8)
    ax = axes[0, 0]
    drawn = palette.looks(rows)
    for label, look in drawn.items():
        for _, own in rows[rows["label"] == label].groupby("run"):
            x, y = [0, *own["age"]], [1.0, *own["survival"]]
            ax.step(x, y, where="post", alpha=0.8, **{**look.of_line(), "linewidth": 1.3})
    style.set_percent_axis(ax.yaxis, "grown weights still active")
    ax.set_ylim(0, 1)
    ax.set_title("Survival of grown weights")
    style.set_steps_axis(ax, "steps since they grew")
    palette.add_legend_beside(ax, drawn)
    return figure
