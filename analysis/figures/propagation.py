"""Signal propagation through untrained sparse networks."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures import palette, style
from analysis.figures.palette import Look

# Label and look by initialisation.
_INITS = {
    "dense": ("Dense init, masked", Look(palette.ORANGE, "v", (0, (4, 1.6)), palette.ORANGE)),
    "layer_scaled": (
        "Layer-scaled (Liu et al.)",
        Look(palette.GREEN, "s", (0, (6.4, 1.6, 1, 1.6)), palette.GREEN),
    ),
    "unit_scaled": ("Sparsity-aware", Look(palette.BLUE, "^", "-", palette.BLUE)),
}


@style.use_style
def signal(frame: pd.DataFrame) -> Figure:
    """Standard deviation of the logits at initialisation against sparsity (Figure 2 of arXiv 2010.03533).

    Args:
      frame: from `propagation.signal`.

    Returns:
      One row per network: logits, and units of the hidden dense layers. Lines are means over the draws, bands reach
      from minimum to maximum.

    Raises:
      NoData: if the frame is empty.
    """
    rows = style.require(frame, ["logit_std"], "Signal propagation was not computed.")
    networks = list(dict.fromkeys(rows["network"]))
    figure, axes = style.grid(len(networks), 2, 2.6)
    titles = {"logit_std": "signal at the logits", "unit_std": "in hidden dense units"}
    for network, pair in zip(networks, axes, strict=True):
        own = rows[rows["network"] == network]
        for ax, (column, title) in zip(pair, titles.items(), strict=True):
            _draw_lines(ax, own, column)
            ax.set_title(f"{network}: {title}")
        pair[0].set_ylabel("standard deviation")
    palette.add_legend(figure, dict(_INITS.values()), kind="both")
    return figure


def _draw_lines(ax: Axes, rows: pd.DataFrame, column: str) -> None:
    for init, (_, look) in _INITS.items():
        by_sparsity = rows[rows["init"] == init].groupby("sparsity")[column]
        means = by_sparsity.mean()
        ax.plot(means.index, means, **{**look.of_point(), **look.of_line(), "markersize": 6})
        ax.fill_between(means.index, by_sparsity.min(), by_sparsity.max(), color=look.colour, alpha=0.15, linewidth=0)
    style.set_log_axis(ax.yaxis, "")
    style.set_sparsity_axis(ax, rows["sparsity"])
    # Zeros of dead layers have no place on a logarithmic axis.
    ax.set_ylim(bottom=max(1e-6, 0.5 * float(rows.loc[rows[column] > 0, column].min())))
