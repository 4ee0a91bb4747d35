"""What arrives of a signal at the end of a sparse network that has not been trained."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures import style

_LINES = {
    "dense": ("Dense init, masked", style.ORANGE, (0, (4, 1.6)), "v"),
    "layer_scaled": ("Layer-scaled (Liu et al.)", style.GREEN, "-.", "s"),
    "unit_scaled": ("Sparsity-aware", style.BLUE, "-", "^"),
}


@style.styled
def signal(frame: pd.DataFrame) -> Figure:
    """Standard deviation of the logits at initialisation against sparsity (Figure 2 of arXiv 2010.03533).

    Args:
      frame: from `propagation.signal`.

    Returns:
      A row a network: logits, and the units of the hidden dense layers. Lines are means over the draws, bands reach
      from the smallest to the largest.

    Raises:
      NoData: if the frame is empty.
    """
    rows = style.need(frame, ["logit_std"], "Signal propagation was not computed.")
    networks = list(dict.fromkeys(rows["network"]))
    figure, axes = style.grid(len(networks), 2, 2.6)
    titles = {"logit_std": "logits", "unit_std": "hidden dense units, mean"}
    for network, pair in zip(networks, axes, strict=True):
        own = rows[rows["network"] == network]
        for ax, (column, title) in zip(pair, titles.items(), strict=True):
            _drawn(ax, own, column)
            ax.set_title(f"{network}: {title}")
        pair[0].set_ylabel("standard deviation")
    for ax in axes[-1]:
        ax.set_xlabel("sparsity")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure


def _drawn(ax: Axes, rows: pd.DataFrame, column: str) -> None:
    sparsities = sorted(rows["sparsity"].unique())
    for init, (title, colour, line, marker) in _LINES.items():
        drawn = rows[rows["init"] == init].groupby("sparsity")[column].agg(["mean", "min", "max"])
        places = [sparsities.index(sparsity) for sparsity in drawn.index]
        ax.plot(places, drawn["mean"], color=colour, linestyle=line, marker=marker, label=title)
        ax.fill_between(places, drawn["min"], drawn["max"], color=colour, alpha=0.15, linewidth=0)
    style.log_axis(ax.yaxis, "")
    # What a network of dead layers lets through is nothing, and has no place on a logarithmic axis.
    ax.set_ylim(bottom=max(1e-6, 0.5 * float(rows.loc[rows[column] > 0, column].min())))
    ax.set_xticks(range(len(sparsities)), [f"{100 * sparsity:.4g}%" for sparsity in sparsities])
