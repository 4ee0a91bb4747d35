"""Figures of a study against the weights remaining: accuracy, early stopping, layers, signs, overlap of seeds."""

import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures import palette, style
from analysis.figures.palette import Look
from analysis.tickets.branches import TICKET, label_branch
from analysis.tickets.landscape import BARRIERS, INSTABILITY
from analysis.tickets.plan import LEARNING_RATE
from analysis.tickets.tables import Tables
from sparse_lib.experiment.analyses.instability import STABLE

_DASHED = (0, (4, 1.6))
_LOOKS = {
    TICKET: Look(palette.BLUE, "*", "-", palette.BLUE),
    "reinit": Look(palette.ORANGE, "v", _DASHED, "none"),
    "shuffle": Look(palette.RED, "<", _DASHED, "none"),
    "random": Look(palette.GREY, ">", _DASHED, "none"),
    "magnitude": Look(palette.GREEN, "X", _DASHED, "none"),
    "rewind": Look(palette.SKY, "o", "-", palette.SKY),
    "signs_constant": Look(palette.VIOLET, "^", "-", palette.VIOLET),
    "signs_random": Look(palette.PINK, "s", _DASHED, "none"),
    "signs_flip": Look(palette.PINK, "d", "-", palette.PINK),
    "inverted": Look(palette.RED, "D", _DASHED, "none"),
    "supermask": Look(palette.BROWN, "P", _DASHED, "none"),
    "prune_restart": Look(palette.GREEN, "p", "-", palette.GREEN),
}
_LAYER_COLOURS = (palette.BLUE, palette.GREEN, palette.ORANGE, palette.RED, palette.PINK, palette.VIOLET, palette.BROWN)
_LANDSCAPE = {BARRIERS: "from the level before", INSTABILITY: "two orders of the data"}
_TICKS = (100, 50, 20, 10, 5, 2, 1, 0.5, 0.2, 0.1)
_FEW_LAYERS = len(_LAYER_COLOURS)


@style.use_style
def accuracy(tables: Tables) -> Figure:
    """Test accuracy against weights remaining, at the end and at the step of the lowest validation loss.

    Args:
      tables: of the study.

    Returns:
      Two panels; lines are means over seeds, bands their range, the grey line is the dense network. What lies far below
      the tickets leaves the panels.

    Raises:
      NoData: if no run is finished.
    """
    rows = style.require(tables.runs, ["test_accuracy"], "No run is finished.")
    figure, axes = style.grid(1, 2, 3.0, sharey=True)
    drawn = _looks(rows)
    columns = {"test_accuracy": "end of training", "best_test_accuracy": "lowest validation loss"}
    for ax, (column, title) in zip(axes[0], columns.items(), strict=True):
        _draw_branches(ax, rows, column, drawn)
        ax.axhline(rows.loc[rows["level"] == 0, column].mean(), color=palette.GREY, linewidth=1.0)
        ax.set_title(title)
    tickets = rows.loc[rows["branch"] == TICKET, list(columns)].to_numpy(float)
    low, high = np.nanmin(tickets), np.nanmax(rows[list(columns)].to_numpy(float))
    # A branch that stays at chance would make the other lines flat.
    axes[0, 0].set_ylim(max(0.0, low - max(high - low, 0.01)), min(1.0, high + 0.1 * (high - low) + 0.001))
    style.set_percent_axis(axes[0, 0].yaxis, "test accuracy")
    palette.add_legend(figure, drawn, kind="both", ncols=3)
    return figure


@style.use_style
def early_stopping(tables: Tables) -> Figure:
    """Step of the lowest validation loss against weights remaining.

    Args:
      tables: of the study.

    Returns:
      One panel.

    Raises:
      NoData: if no run has a validation loss.
    """
    missing = "No run has logged a validation loss; set data.validation_size."
    rows = style.require(tables.runs, ["best_step"], missing)
    rows = rows[rows["branch"] != "supermask"]
    figure, axes = style.grid(1, 1, 3.0)
    drawn = _looks(rows)
    _draw_branches(axes[0, 0], rows, "best_step", drawn)
    axes[0, 0].set_ylabel("step of the lowest\nvalidation loss")
    palette.add_legend_beside(axes[0, 0], drawn, kind="both")
    return figure


@style.use_style
def layer_densities(tables: Tables) -> Figure:
    """Density of each layer against that of all.

    Args:
      tables: of the study.

    Returns:
      One panel.

    Raises:
      NoData: if no run has logged it.
    """
    rows = style.require(tables.layers, ["density"], "No run has logged the sparsity of its layers.")
    names = list(dict.fromkeys(rows["layer"]))
    drawn = {name: _look_of_layer(place, len(names)) for place, name in enumerate(names)}
    figure, axes = style.grid(1, 1, 3.0)
    ax = axes[0, 0]
    for name, look in drawn.items():
        _draw_line(ax, rows[rows["layer"] == name].assign(density_percent=lambda f: 100 * f["density"]), look)
    style.set_log_axis(ax.yaxis, "density of the layer (%)")
    _set_weights_axis(ax)
    labels = {name.removesuffix("/kernel"): look for name, look in drawn.items()}
    if len(names) <= _FEW_LAYERS:
        palette.add_legend_beside(ax, labels)
    return figure


@style.use_style
def sign_flips(tables: Tables) -> Figure:
    """Share of the active weights whose sign changes, against weights remaining.

    Args:
      tables: of the study.

    Returns:
      One panel: since the start of the level, and since the initialisation of the dense network.

    Raises:
      NoData: if no run is finished.
    """
    rows = style.require(tables.signs, ["since_start"], "No run is finished.")
    drawn = {
        "since the level's start": Look(palette.BLUE, "*", "-", palette.BLUE),
        "since initialisation": Look(palette.ORANGE, "v", _DASHED, "none"),
    }
    label = "active weights of another sign\nat the end of the level"
    return _draw_shares(rows, ("since_start", "since_initialisation"), drawn, label)


@style.use_style
def overlap(tables: Tables) -> Figure:
    """Intersection over union of the masks of two seeds, against weights remaining, and by chance.

    Args:
      tables: of the study.

    Returns:
      One panel; lines are means over pairs of seeds, bands their range.

    Raises:
      NoData: if there is one seed alone.
    """
    rows = style.require(tables.overlap, ["iou"], "Masks of two seeds are compared, and there is one: give --seeds=2.")
    rows = rows.assign(run=rows["seed"].astype(str) + "-" + rows["other_seed"].astype(str))
    drawn = {
        "two seeds": Look(palette.BLUE, "*", "-", palette.BLUE),
        "by chance": Look(palette.GREY, "s", _DASHED, "none"),
    }
    return _draw_shares(rows, ("iou", "chance"), drawn, "intersection over union\nof the masks")


@style.use_style
def barriers(tables: Tables) -> Figure:
    """Error barriers against weights remaining: from level to level, and between copies with other orders of data.

    Args:
      tables: of the study.

    Returns:
      Two panels, on the test set. Left, the line from a level to the next; right, two copies of a level, by the
      rewinding step of its weights. Below the grey line, of 2 points, copies count as stable (Frankle et al. 2020).

    Raises:
      NoData: if there is no analysis.
    """
    rows = style.require(tables.landscape, ["error_barrier"], "No barrier was computed: give --landscape=barriers.")
    rows = rows[rows["split"] == "test"]
    figure, axes = style.grid(1, 2, 2.8, sharey=True)
    steps = list(dict.fromkeys(rows["rewind"]))
    drawn = {step: _look_of_layer(place, len(steps)) for place, step in enumerate(steps)}
    for ax, (kind, title) in zip(axes[0], _LANDSCAPE.items(), strict=True):
        for step, look in drawn.items():
            own = rows[(rows["kind"] == kind) & (rows["rewind"] == step)]
            if not own.empty:
                _draw(ax, own, "error_barrier", look)
        ax.axhline(STABLE, color=palette.GREY, linewidth=1.0)
        ax.set_title(title)
        _set_weights_axis(ax)
    style.set_percent_axis(axes[0, 0].yaxis, "error barrier")
    labels = {"learning rate" if step == LEARNING_RATE else f"rewound to step {step}": drawn[step] for step in drawn}
    palette.add_legend(figure, labels)
    return figure


FIGURES: dict[str, Callable[[Tables], Figure]] = {
    "accuracy": accuracy,
    "early_stopping": early_stopping,
    "layer_densities": layer_densities,
    "sign_flips": sign_flips,
    "overlap": overlap,
    "barriers": barriers,
}


def write_figures(tables: Tables, directory: pathlib.Path) -> list[pathlib.Path]:
    """Writes the figures that have data.

    Args:
      tables: of the study.
      directory: existing.

    Returns:
      Paths of the files.
    """
    written: list[pathlib.Path] = []
    for name, draw in FIGURES.items():
        try:
            written += style.save(draw(tables), directory / name)
        except style.NoData:
            continue
    return written


def _looks(rows: pd.DataFrame) -> dict[str, Look]:
    """Returns the looks of the branches of a table by label, the ticket first."""
    found: dict[str, Look] = {}
    seen: list[str] = []
    for text in sorted(set(rows["branch"]), key=lambda text: (text != TICKET, text)):
        name = text.partition(":")[0]
        look = _LOOKS[name]
        if name in seen:
            look = look._replace(line=(0, (6, 1.4, *(1.2, 1.4) * seen.count(name))), fill="none")
        found[label_branch(text)] = look
        seen.append(name)
    return found


def _draw_branches(ax: Axes, rows: pd.DataFrame, column: str, drawn: dict[str, Look]) -> None:
    for label, own in rows.groupby(rows["branch"].map(label_branch)):
        _draw(ax, own, column, drawn[str(label)])
    _set_weights_axis(ax)


def _draw(ax: Axes, rows: pd.DataFrame, column: str, look: Look) -> None:
    """Draws the mean over seeds by level, with a band from minimum to maximum."""
    drawn = _draw_line(ax, rows.dropna(subset=column), look, column)
    ax.plot(drawn.index, drawn["mean"], **{**look.of_point(), "markersize": 5})


def _draw_line(ax: Axes, rows: pd.DataFrame, look: Look, column: str = "density_percent") -> pd.DataFrame:
    # Seeds of global pruning differ by rounding alone.
    at = 100 * rows.groupby("level")["weights_remaining"].transform("mean")
    runs = rows["run"] if "other_seed" in rows else rows["seed"]
    return palette.draw_over_seeds(ax, rows.assign(run=runs, at=at), "at", column, look)


def _draw_shares(rows: pd.DataFrame, columns: Sequence[str], drawn: Mapping[str, Look], label: str) -> Figure:
    """Draws columns of fractions against weights remaining in one panel, each by the look in its place."""
    figure, axes = style.grid(1, 1, 2.6)
    ax = axes[0, 0]
    for column, look in zip(columns, drawn.values(), strict=True):
        _draw(ax, rows, column, look)
    style.set_percent_axis(ax.yaxis, label)
    _set_weights_axis(ax)
    palette.add_legend_beside(ax, drawn, kind="both")
    return figure


def _set_weights_axis(ax: Axes) -> None:
    style.set_log_axis(ax.xaxis, "weights remaining (%)")
    low, high = sorted(ax.get_xlim())
    ax.set_xticks([tick for tick in _TICKS if low <= tick <= high])
    ax.minorticks_off()
    if not ax.xaxis_inverted():
        ax.invert_xaxis()


def _look_of_layer(place: int, count: int) -> Look:
    chosen = _LAYER_COLOURS[place if count <= _FEW_LAYERS else place * _FEW_LAYERS // count]
    # Layers of one density, which per-layer pruning makes, lie on one line.
    return Look(chosen, "o", ("-", _DASHED, (0, (1.2, 1.2)))[place % 3], chosen)
