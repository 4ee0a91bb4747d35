"""The HTML page of a report: sections and the pieces they are made of, rendered by Jinja2 with autoescaping."""

import dataclasses
import itertools
import math
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2
from markupsafe import Markup

from analysis.claims.effects import NOT_ENOUGH, NOT_SUPPORTED, SUPPORTED, UNDECIDED, Status
from analysis.claims.paper import Verdict
from analysis.figures import style
from analysis.report import charts

STATUSES: tuple[Status, ...] = (SUPPORTED, NOT_SUPPORTED, UNDECIDED, NOT_ENOUGH)
_SIGNS: dict[Status, str] = {SUPPORTED: "\u2713", NOT_SUPPORTED: "\u2717", UNDECIDED: "~", NOT_ENOUGH: "\u2013"}
# CSS variables, see page.css.
_COLOURS: dict[Status, str] = {SUPPORTED: "good", NOT_SUPPORTED: "bad", UNDECIDED: "open", NOT_ENOUGH: "none"}
_THEMED = {style.INK: "var(--ink)", style.MUTED: "var(--muted)", style.GRID: "var(--grid)"}
_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)
_TEMPLATES.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
_PARTS: Any = _TEMPLATES.get_template("parts.html.j2").module

# Macros of parts.html.j2; arguments are text, which is escaped, or markup.
paragraph: Callable[..., Markup] = _PARTS.paragraph
bullets: Callable[..., Markup] = _PARTS.bullets
link: Callable[..., Markup] = _PARTS.link
command: Callable[..., Markup] = _PARTS.command
folded: Callable[..., Markup] = _PARTS.folded
method_name: Callable[..., Markup] = _PARTS.method_name
tiles: Callable[..., Markup] = _PARTS.tiles
table: Callable[..., Markup] = _PARTS.table
explore: Callable[..., Markup] = _PARTS.explore


@dataclasses.dataclass
class Section:
    """A section of the page.

    Attributes:
      title: heading.
      anchor: target of links; empty takes the title.
      parts: HTML, in order.
      children: sections one level below.
    """

    title: str
    anchor: str = ""
    parts: list[Markup] = dataclasses.field(default_factory=list)
    children: list["Section"] = dataclasses.field(default_factory=list)

    def add(self, *parts: Markup) -> None:
        """Appends HTML to the section."""
        self.parts.extend(parts)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not self.parts and all(child.is_empty for child in self.children)


def make_slug(text: str) -> str:
    """Returns a name for files and anchors: lower case, with dashes for what is neither letter nor digit."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "unnamed"


def figure(svg: str, caption: str, name: str, links: Sequence[str], live: Sequence[charts.Chart] = ()) -> Markup:
    """Embeds a figure in the page's own colours, with its caption.

    Args:
      svg: SVG text as written by matplotlib.
      caption: shown below, and read out by screen readers.
      name: unique on the page.
      links: files with the same figure, relative to the page.
      live: interactive charts that a reader may put in its place.

    Returns:
      The figure.
    """
    drawn = svg[svg.index("<svg") :]
    # Metadata names the program, not the figure.
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', drawn)
    drawn = re.sub(r'(href="#|url\(#)([^")]+)', rf"\g<1>{name}-\2", drawn)
    # Letters have one size in all figures, whatever their width.
    width = float(re.search(r'\bwidth="([\d.]+)pt"', drawn)[1]) / (72 * style.WIDTH)  # type: ignore[index]
    for colour, variable in _THEMED.items():
        drawn = drawn.replace(colour, variable)
    attributes = _PARTS.svg_attributes(100 * min(width, 1), caption)
    drawn = drawn.replace("<svg ", f"<svg {attributes} ", 1)
    return Markup(_PARTS.figure(Markup(drawn), caption, name, links, [chart._asdict() for chart in live]))


def claims(verdicts: Sequence[Verdict]) -> Markup:
    """Renders the verdicts on the claims of one case.

    Args:
      verdicts: of one case.

    Returns:
      A table of the claims with a measured effect, with a drawing of each interval, and a folded table of the others.
    """
    judged = [v for v in verdicts if v.effect]
    parts = [
        (part, [(v, _SIGNS[v.status], interval_drawing(v)) for v in group])
        for part, group in itertools.groupby(judged, key=lambda v: v.claim.part)
    ]
    lacking = [v for v in verdicts if not v.effect]
    return Markup(_PARTS.claims(parts, lacking, len(verdicts)).strip())


def interval_drawing(verdict: Verdict, width: int = 170, height: int = 20) -> Markup:
    """Draws an interval as a line with a dot, over the range for which the claim holds.

    Args:
      verdict: on a claim; ratios are drawn on a logarithmic axis.
      width: of the drawing (pixels).
      height: of the drawing (pixels).

    Returns:
      An SVG element; empty if there is no interval.
    """
    interval, claim = verdict.measured.interval, verdict.claim
    values = [interval.mean, interval.low, interval.high]
    if any(map(math.isnan, values)):
        return Markup("")
    is_ratio = verdict.measured.unit == "times"
    scale = (lambda x: math.log(max(x, 1e-12))) if is_ratio else float
    borders = [b for b in (claim.low, claim.high) if math.isfinite(b)]
    shown = [scale(x) for x in (*values, *borders, 1.0 if is_ratio else 0.0)]
    low, high = min(shown), max(shown)
    reach = (high - low) or 1.0
    low, high = low - 0.08 * reach, high + 0.08 * reach

    def at(value: float) -> float:
        return round(width * (min(max(value, low), high) - low) / (high - low), 1)

    start = at(scale(claim.low)) if math.isfinite(claim.low) else 0
    end = at(scale(claim.high)) if math.isfinite(claim.high) else width
    mean, left, right = (at(scale(value)) for value in values)
    return Markup(_PARTS.interval(width, height, start, end, at(0.0), left, right, mean, _COLOURS[verdict.status]))


def document(
    title: str,
    lead: str,
    sections: Sequence[Section],
    origin: Mapping[str, str],
    *,
    explored: Mapping[str, Any] | None = None,
) -> str:
    """Renders the whole page.

    Args:
      title: of the page.
      lead: line below the title.
      sections: in order; empty ones are left out.
      origin: of the report, text by heading; stands at the foot.
      explored: data of the interactive parts; None leaves them and their scripts out.

    Returns:
      HTML that needs no other file.
    """
    numbered = [
        _add_anchors(section, section.anchor or make_slug(section.title))
        for section in sections
        if not section.is_empty
    ]
    live: dict[str, Any] = {"explored": None}
    if explored is not None:
        live = {
            "explored": explored,
            "specifications": charts.specifications(),
            "scripts": [Markup(text) for text in charts.scripts()],
        }
    page = _TEMPLATES.get_template("page.html.j2")
    policy = charts.content_policy()
    return page.render(title=title, lead=lead, sections=numbered, origin=origin, policy=policy, **live) + "\n"


def _add_anchors(section: Section, anchor: str) -> Section:
    """Returns the section with anchors for itself and its children, the empty ones of which are left out."""
    children = [child for child in section.children if not child.is_empty]
    return dataclasses.replace(
        section,
        anchor=anchor,
        children=[
            dataclasses.replace(child, anchor=child.anchor or f"{anchor}-{make_slug(child.title)}")
            for child in children
        ],
    )
