"""Numbers as text for tables."""

import math
from collections.abc import Mapping

import pandas as pd
from markupsafe import Markup
from matplotlib.ticker import EngFormatter

from analysis.claims import effects
from analysis.figures import palette
from analysis.report import page

# Caption of figures over seeds.
BAND = "Lines are means over the runs of a method, bands reach from minimum to maximum."


def means_table(frame: pd.DataFrame, columns: Mapping[str, str], caption: str) -> Markup:
    """Renders means and standard deviations by method.

    Args:
      frame: one row per run, with label and method.
      columns: column of the frame by heading.
      caption: of the table.

    Returns:
      The table.
    """
    rows = []
    for label, look in palette.looks(frame).items():
        own = frame[frame["label"] == label]
        cells = [format_mean(own[column].mean(), own[column].std()) for column in columns.values()]
        rows.append([page.method_name(label, look.colour), len(own), *cells])
    return page.table(caption, ["Method", "n", *columns], rows)


def format_mean(mean: float, std: float, *, percent: bool = False) -> str:
    """Formats mean and standard deviation; empty for a NaN mean."""
    if math.isnan(mean):
        return ""
    text, spread = (f"{100 * mean:.2f}%", f"{100 * std:.2f}") if percent else (f"{mean:.3g}", f"{std:.2g}")
    return text if math.isnan(std) else f"{text} \u00b1 {spread}"


def format_percent(value: float) -> str:
    """Formats a fraction in percent; empty for NaN."""
    return effects.format_effect(value, "points", sign=False)


def format_amount(value: float) -> str:
    """Formats a large number with an SI prefix."""
    return str(EngFormatter(places=1, sep="")(value))


def format_number(value: float) -> str:
    """Formats two significant digits; empty for NaN."""
    return "" if math.isnan(value) else f"{value:.2g}"
