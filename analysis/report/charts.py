"""Interactive charts: what they look like, and the scripts that draw them."""

import base64
import functools
import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import altair as alt
import vl_convert

_SCRIPT = pathlib.Path(__file__).with_name("explore.js")
# Fields of the rows that the script hands to a chart.
_X, _Y, _COLOUR = "x", "y", "colour"


class Chart(NamedTuple):
    """An interactive chart in the place of a figure.

    Attributes:
      x: measurement or setting on the horizontal axis.
      y: measurement or setting on the vertical axis.
      runs: names of the runs.
      log: logarithmic axes, such as `y`.
      means: whether runs of a method are shown as their mean and range.
    """

    x: str
    y: str
    runs: Sequence[str]
    log: str = ""
    means: bool = True


@functools.cache
def specifications() -> dict[str, Any]:
    """Builds the Vega-Lite specifications of lines, means with ranges, and points.

    Returns:
      Specification by name. The script replaces titles, types and scales by those of what a reader chooses.
    """
    shown = alt.selection_point(name="shown", fields=[_COLOUR], bind="legend")
    zoom = alt.selection_interval(name="zoom", bind="scales")
    # Not `nearest`, with which Vega-Lite reads tooltips of texts from the wrong row.
    near = alt.selection_point(name="near", on="pointerover", clear="pointerout", empty=False)
    chart = alt.Chart(alt.Data(values=[]))
    means = chart.transform_aggregate(mean="mean(y)", low="min(y)", high="max(y)", n="count()", groupby=[_X, _COLOUR])
    tips = {
        name: alt.Tooltip(name, type="nominal")
        for name in ("method", "run", _COLOUR, _X, _Y, "mean", "low", "high", "n")
    }
    of_run, of_mean = (
        [tips[name] for name in names]
        for names in (("method", "run", _COLOUR, _X, _Y), (_COLOUR, _X, "mean", "low", "high", "n"))
    )

    def encode(on: alt.Chart, y: str, opacity: Any, **others: Any) -> alt.Chart:
        colour = alt.Color(_COLOUR, type="nominal")
        across, up = alt.X(_X, type="quantitative"), alt.Y(y, type="quantitative")
        return on.encode(x=across, y=up, color=colour, opacity=opacity, **others)

    def fade(most: float) -> Any:
        return alt.when(shown).then(alt.value(most)).otherwise(alt.value(most / 15))

    # Invisible until the pointer is near.
    hover = alt.when(near).then(alt.value(1)).otherwise(alt.value(0))
    lines = encode(chart.mark_line(clip=True, strokeWidth=1.6), _Y, fade(1), detail="run:N")
    points = encode(chart.mark_point(clip=True, filled=True, size=60), _Y, fade(1), tooltip=of_run)
    band = encode(means.mark_area(clip=True), "low", fade(0.16), y2=alt.Y2("high"))
    line = encode(means.mark_line(clip=True, strokeWidth=2), "mean", fade(1))
    charts = {
        "lines": lines.add_params(shown, zoom)
        + encode(chart.mark_point(clip=True, filled=True, size=110), _Y, hover, tooltip=of_run).add_params(near),
        "points": points.add_params(shown, zoom),
        "means": band
        + line.add_params(shown, zoom)
        + encode(means.mark_point(clip=True, filled=True, size=110), "mean", hover, tooltip=of_mean).add_params(near),
    }
    size = {"width": "container", "height": 340, "autosize": alt.AutoSizeParams(type="fit-x", contains="padding")}
    return {name: chart.properties(**size).to_dict() for name, chart in charts.items()}


@functools.cache
def scripts() -> tuple[str, str]:
    """Returns the scripts of a page: Vega, Vega-Lite and Vega-Embed in one, and that of this package."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"), _SCRIPT.read_text(encoding="utf8")


def content_policy() -> str:
    """Returns the policy of a page: it loads nothing, and no script runs but those of `scripts`.

    Vega compiles the expressions of a specification, which needs `unsafe-eval`.
    """
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts()]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; script-src {allowed} 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:"
