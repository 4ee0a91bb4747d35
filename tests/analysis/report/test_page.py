"""The pieces of a page."""

import json
import math
import re

import pytest

from analysis.claims.effects import NOT_ENOUGH, SUPPORTED, Measured
from analysis.claims.paper import Claim, Verdict
from analysis.claims.statistics import Interval
from analysis.report import charts, page
from analysis.report.page import Section
from tests.analysis.outline import Outline


def verdict(mean: float, low: float, high: float, *, status=SUPPORTED, unit="times", missing="") -> Verdict:
    claim = Claim(name="x", part="Part <1>", statement="A > B.", paper="1 & 2", measure=lambda _: None, high=1.0)
    return Verdict(claim, status, Measured(Interval(mean, low, high, 3, "kind"), unit, "a, b", missing))


def test_text_is_escaped():
    assert page.paragraph("a < b & c") == "<p>a &lt; b &amp; c</p>"
    table = page.table("<caption>", ["<h>"], [["<cell>"], [page.link("x", "y")]])
    assert "&lt;cell&gt;" in table
    assert '<a href="#y">x</a>' in table
    Outline(table)


def test_sections_have_places_in_the_contents():
    first, empty = Section("First", anchor="one"), Section("Empty")
    first.children = [Section("Child"), Section("Nothing")]
    first.children[0].add(page.paragraph("text"))
    outline = Outline(page.document("Title", "lead", [first, empty], {"Date": "<today>"}))
    # Anchors are named by titles, so that they stay where sections come and go.
    assert {"#one", "#one-child"} <= set(outline.links)
    assert {"one", "one-child"} <= set(outline.ids)
    assert "<today>" in outline.text
    assert "Empty" not in outline.text
    assert "Nothing" not in outline.text


def test_every_link_within_the_page_leads_somewhere():
    sections = [Section(f"Section {n}", parts=[page.paragraph("x")]) for n in range(3)]
    outline = Outline(page.document("Title", "lead", sections, {}))
    assert {link[1:] for link in outline.links if link.startswith("#")} <= set(outline.ids)


SVG = (
    '<?xml version="1.0"?>\n<!DOCTYPE svg>\n<svg width="266.4pt" height="100pt" viewBox="0 0 1 1">'
    '<metadata>made by</metadata><defs><path id="glyph"/></defs><use xlink:href="#glyph"/>'
    '<g clip-path="url(#clip)" style="fill: #1f2328"/></svg>'
)


def test_figures_take_the_colours_of_the_page_and_have_ids_of_their_own():
    figure = page.figure(SVG, 'A "figure"', "name", ["figures/a.svg", "figures/a.png"])
    assert "var(--ink)" in figure
    assert "made by" not in figure
    assert 'id="name-glyph"' in figure
    assert 'href="#name-glyph"' in figure
    assert "url(#name-clip)" in figure
    assert "max-width:50.0%" in figure
    assert 'aria-label="A &#34;figure&#34;"' in figure
    assert '<a href="figures/a.svg">svg</a>' in figure
    assert '<a class="anchor" href="#name">' in figure and '<figure id="name">' in figure
    assert not figure.startswith("<?xml")


def test_claims_with_and_without_data():
    text = page.claims(
        [verdict(0.5, 0.25, 0.75), verdict(math.nan, math.nan, math.nan, status=NOT_ENOUGH, missing="runs")]
    )
    outline = Outline(text)
    assert "A > B." in outline.text
    assert "Part <1>" in outline.text
    assert "0.5 times [0.25, 0.75]" in outline.text
    assert "No data for 1 of 2 claims" in outline.text
    assert text.index("supported") < text.index("No data for")


def test_claims_that_all_lack_data_are_one_list():
    text = page.claims([verdict(math.nan, math.nan, math.nan, status=NOT_ENOUGH, missing="runs")])
    assert text.startswith("<details>")


def test_an_effect_without_an_interval_is_shown_with_what_it_lacks():
    text = page.claims([verdict(0.5, math.nan, math.nan, status=NOT_ENOUGH, missing="a third seed")])
    assert "0.5 times" in text and "lacks a third seed" in text
    assert "<details>" not in text and "<svg" not in text


def test_charts_of_a_figure_name_runs_that_cannot_break_out_of_the_page():
    hostile = """</script><img src=x onerror='alert(1)'>&"""
    figure = page.figure(SVG, "caption", "name", [], [charts.Chart("step", "gradient_norm", [hostile], "y")])
    attribute = Outline(figure).attributes["figure"]["data-charts"]
    assert json.loads(attribute) == [{"x": "step", "y": "gradient_norm", "runs": [hostile], "log": "y", "means": True}]
    assert "<img" not in figure


def numbers(drawing: str, name: str) -> float:
    return float(re.search(rf'{name}="([^"]*)"', drawing)[1])


def test_intervals_are_drawn_to_scale():
    drawing = page.interval_drawing(verdict(math.exp(-2), math.exp(-3), math.exp(-1)), width=116)
    # In logarithms from -3 to 0, with margins of 8%: 3.48 over 116 points.
    assert numbers(drawing, "cx") == pytest.approx(116 * (1 + 0.24) / 3.48, abs=0.1)
    assert numbers(drawing, "x1") == pytest.approx(116 * 3.24 / 3.48, abs=0.1)
    assert numbers(drawing, "rect x") == 0
    assert page.interval_drawing(verdict(1, math.nan, math.nan)) == ""


@pytest.mark.parametrize("unit", ["times", "points", "nats", "count"])
def test_intervals_of_no_width_can_be_drawn(unit):
    assert "nan" not in page.interval_drawing(verdict(0.0, 0.0, 0.0, unit=unit))
