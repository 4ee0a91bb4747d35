"""Numbers of frames as cells of tables."""

import math
from collections.abc import Mapping

import pandas as pd
from matplotlib.ticker import EngFormatter

from analysis.claims import effects
from analysis.figures import style
from analysis.report import page

# Below figures over seeds.
BAND = "Lines are means over the runs of a method, bands reach from the smallest to the largest."


def means(frame: pd.DataFrame, columns: Mapping[str, str], caption: str) -> page.Markup:
    """A table of means and standard deviations by method.

    Args:
      frame: one row a run, with label and method.
      columns: names in the frame by head.
      caption: of the table.

    Returns:
      The table.
    """
    rows = []
    for label, look in style.looks(frame).items():
        own = frame[frame["label"] == label]
        cells = [plus_minus(own[column].mean(), own[column].std()) for column in columns.values()]
        rows.append([page.method_name(label, look.colour), len(own), *cells])
    return page.table(caption, ["Method", "n", *columns], rows)


def plus_minus(mean: float, std: float, *, percent: bool = False) -> str:
    """Mean and standard deviation; nothing for NaN."""
    if math.isnan(mean):
        return ""
    text, spread = (f"{100 * mean:.2f}%", f"{100 * std:.2f}") if percent else (f"{mean:.3g}", f"{std:.2g}")
    return text if math.isnan(std) else f"{text} \u00b1 {spread}"


def percent(value: float) -> str:
    """A fraction in percent; nothing for NaN."""
    return effects.format_effect(value, "points", sign=False)


def amount(value: float) -> str:
    """A large number in thousands, millions or more."""
    return str(EngFormatter(places=1, sep="")(value))


def number(value: float) -> str:
    """Two digits; nothing for NaN."""
    return "" if math.isnan(value) else f"{value:.2g}"
