"""Colours, markers and lines of methods, the same in all figures, and legends of them."""

import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.records import methods

# After the colour-blind safe palette of Okabe and Ito (2008), in medium tones for light and dark pages.
BLUE, SKY, GREEN, ORANGE, RED, PINK, VIOLET, BROWN, GREY = (
    "#0f73b8",
    "#4aaade",
    "#0b8f6a",
    "#dd9200",
    "#d2560e",
    "#d0408f",
    "#8a63d2",
    "#8f6f3e",
    "#9aa1aa",
)
# Colour and marker of the methods of the papers; any other gets its own by its name, so that a new method needs no row.
_LOOKS = {
    "dense": (GREY, "s"),
    "small_dense": (BROWN, "s"),
    "prune": (GREEN, "P"),
    "prune_global": (GREEN, "X"),
    "prune_once": (GREEN, "*"),
    "lottery": (PINK, "*"),
    "lottery_rewind": (VIOLET, "*"),
    "prune_restart": (VIOLET, "p"),
    "scratch": (ORANGE, "v"),
    "scratch_shuffled": (ORANGE, "<"),
    "static": (ORANGE, ">"),
    "static_reinit": (ORANGE, "D"),
    "set": (SKY, "o"),
    "rigl": (BLUE, "^"),
    "rigl_inverted": (RED, "v"),
    "rigl_s": (RED, "^"),
    "rigl_grasp": (PINK, "^"),
    "riglauto": (ORANGE, "^"),
    "srigl": (VIOLET, "^"),
    "snfs": (RED, "h"),
    "mest": (BROWN, "d"),
    "cht": (SKY, "P"),
    "chts": (SKY, "X"),
    "granet": (GREEN, "D"),
    "acdc": (GREEN, "h"),
    "topkast": (SKY, "h"),
    "dnw": (GREY, "h"),
    "snip": (RED, "x"),
    "grasp": (PINK, "x"),
    "synflow": (BROWN, "x"),
    "wanda": (SKY, "x"),
    "magnitude": (GREEN, "x"),
    "random": (GREY, "x"),
}
_OTHER_LOOKS = [
    (colour, marker)
    for colour in (BLUE, GREEN, ORANGE, RED, PINK, VIOLET, BROWN)
    for marker in "DpPXd"
    if (colour, marker) not in _LOOKS.values()
]
# Share of white in the shade of a variant.
_PALER = 0.3
# Initialisations other than the dense and the sparsity-aware one; their lines are dash-dotted.
_INIT_MARKERS = {"liu": "8", "metainit": "H"}


class Look(NamedTuple):
    """Colour, marker and line of a method.

    Attributes:
      colour: of the base method; paler for masks that do not come from pruning, and for initialisations other than the
        sparsity-aware one.
      marker: marker of the base method; a diamond for masks that do not come from pruning.
      line: solid; dashed for the dense initialisation under a mask; dotted for masks that do not come from pruning;
        dash-dotted for other initialisations and for variants of a method.
      fill: face colour of the marker; `none` for the dense initialisation under a mask.
    """

    colour: str
    marker: str
    line: Any
    fill: str

    def of_line(self) -> dict[str, Any]:
        """Returns arguments of `Axes.plot` for a line without markers."""
        return {"color": self.colour, "linestyle": self.line}

    def of_point(self) -> dict[str, Any]:
        """Returns arguments of `Axes.plot` for markers without a line."""
        return {
            "color": self.colour,
            "marker": self.marker,
            "markerfacecolor": self.fill,
            "markeredgecolor": self.colour,
            "markeredgewidth": 1.3,
            "linestyle": "none",
        }


def look(method: str) -> Look:
    """Returns the look of a method, the same in all figures.

    Args:
      method: name as in `methods.Description`.

    Returns:
      The look.
    """
    base, *suffixes = method.split(".")
    colour, marker = _LOOKS.get(base) or _look_by_name(base)
    has_dense_twin = base not in (*methods.DENSE, *methods.PRUNING, *methods.TICKETS)
    is_plain = has_dense_twin and not suffixes
    random_masks = set(suffixes) - set(methods.OF_WEIGHTS)
    marker = "D" if random_masks and base != "static" else marker
    marker = next((_INIT_MARKERS[suffix] for suffix in suffixes if suffix in _INIT_MARKERS), marker)
    line: Any = (0, (4, 1.6)) if is_plain else (0, (1.2, 1.2)) if random_masks else "-"
    line = (0, (6, 1.4, 1.2, 1.4)) if marker in _INIT_MARKERS.values() else line
    colour = _lighten(colour, _PALER) if suffixes and line != "-" else colour
    return Look(colour, marker, line, "none" if is_plain else colour)


def _look_by_name(base: str) -> tuple[str, str]:
    return _OTHER_LOOKS[zlib.crc32(base.encode()) % len(_OTHER_LOOKS)]


def looks(frame: pd.DataFrame) -> dict[str, Look]:
    """Returns the looks of all labels in a frame.

    Args:
      frame: columns label and method.

    Returns:
      Look by label, in the order of tables. Among labels of one method, those after the first are dash-dotted and
      increasingly pale.
    """
    pairs = set(zip(frame["label"], frame["method"], strict=True))
    found: dict[str, Look] = {}
    seen: dict[str, int] = {}
    for label, method in sorted(pairs, key=lambda pair: (methods.order(pair[1]), len(pair[0]), pair[0])):
        own, place = look(method), seen.get(method, 0)
        if place:
            colour = _lighten(own.colour, 0.45 * (1 - 0.6**place) / 0.4)
            own = own._replace(colour=colour, fill="none", line=(0, (6, 1.4, *(1.2, 1.4) * place)))
        found[label], seen[method] = own, place + 1
    return found


def _lighten(colour: str, share: float) -> str:
    """Mixes a colour with white."""
    red, green, blue = (part + (1 - part) * min(share, 0.75) for part in mpl.colors.to_rgb(colour))
    return mpl.colors.to_hex((red, green, blue))


def draw_over_seeds(ax: Axes, frame: pd.DataFrame, x: str, y: str, own: Look) -> pd.DataFrame:
    """Draws the mean over the runs of a method with a band from minimum to maximum, up to the end of the shortest run.

    Runs less than half as long as the longest are left out: otherwise, one that died early would hide the others. The
    aggregation is that of pandas: `seaborn.lineplot` takes 20 times as long on the log steps of a study.

    Args:
      ax: axes to draw on.
      frame: one row per run and x.
      x: column of the horizontal axis.
      y: column of the vertical axis.
      own: look of the method.

    Returns:
      mean, min and max by x.
    """
    reach = frame.groupby("run")[x].transform("max")
    drawn = frame[reach >= reach.max() / 2].groupby(x)[y].agg(["mean", "min", "max", "count"])
    # The mean would jump where a run ends.
    drawn = drawn[drawn["count"] == drawn["count"].max()]
    ax.plot(drawn.index, drawn["mean"], **own.of_line())
    if drawn["count"].max() > 1:
        ax.fill_between(drawn.index, drawn["min"], drawn["max"], color=own.colour, alpha=0.14, linewidth=0)
    return drawn


def add_legend(where: Any, drawn: Mapping[str, Look], *, kind: str = "line", **options: Any) -> None:
    """Adds a legend of methods, by default above the figure.

    Args:
      where: figure or axes.
      drawn: look by label.
      kind: `line`, `point` or `both`.
      **options: arguments of matplotlib's legend.
    """
    handles = []
    for label, own in drawn.items():
        arguments = own.of_point() if kind != "line" else {}
        arguments |= own.of_line() if kind != "point" else {}
        handles.append(Line2D([], [], label=label, **arguments))
    options = {"loc": "outside upper left", "ncols": min(len(drawn), 5), **options}
    where.legend(handles=handles, handlelength=2.6, columnspacing=1.4, **options)


def add_legend_beside(ax: Axes, drawn: Mapping[str, Look], *, kind: str = "line") -> None:
    """Adds a legend of methods to the right of a panel."""
    add_legend(ax, drawn, kind=kind, ncols=1, loc="center left", bbox_to_anchor=(1.01, 0.5))
