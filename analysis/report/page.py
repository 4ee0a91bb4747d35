"""A self-contained HTML page: sections, tables, figures, claims. Everything that is text is escaped here."""

import dataclasses
import html
import math
import pathlib
import re
from collections.abc import Iterable, Sequence

from analysis.claims.effects import NOT_ENOUGH, NOT_SUPPORTED, SUPPORTED, UNDECIDED, Status
from analysis.claims.paper import Verdict
from analysis.figures import style

_CSS = pathlib.Path(__file__).with_name("page.css")
_SIGNS: dict[Status, str] = {SUPPORTED: "\u2713", NOT_SUPPORTED: "\u2717", UNDECIDED: "~", NOT_ENOUGH: "\u2013"}
STATUSES: tuple[Status, ...] = (SUPPORTED, NOT_SUPPORTED, UNDECIDED, NOT_ENOUGH)
_THEMED = {style.INK: "var(--ink)", style.MUTED: "var(--muted)", style.GRID: "var(--grid)"}


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


@dataclasses.dataclass
class Section:
    """A part of the page.

    Attributes:
      title: its heading.
      anchor: what links point to; empty takes its number.
      parts: HTML, in order.
      children: sections one level below.
    """

    title: str
    anchor: str = ""
    parts: list[Markup] = dataclasses.field(default_factory=list)
    children: list["Section"] = dataclasses.field(default_factory=list)

    def add(self, *parts: Markup) -> None:
        """Appends to the section."""
        self.parts.extend(parts)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not self.parts and all(child.is_empty for child in self.children)


def escaped(text: object) -> Markup:
    """Text as HTML; markup stays as it is."""
    return text if isinstance(text, Markup) else Markup(html.escape(str(text)))


def paragraph(text: object, kind: str = "") -> Markup:
    """A paragraph of a class such as `note`."""
    return Markup(f'<p class="{kind}">{escaped(text)}</p>' if kind else f"<p>{escaped(text)}</p>")


def listed(items: Iterable[object]) -> Markup:
    """A list with bullets; nothing for none."""
    rows = "".join(f"<li>{escaped(item)}</li>" for item in items)
    return Markup(f"<ul>{rows}</ul>" if rows else "")


def link(text: object, anchor: str) -> Markup:
    """A link to a place on the page."""
    return Markup(f'<a href="#{anchor}">{escaped(text)}</a>')


def command(text: str) -> Markup:
    """A command line to copy."""
    return Markup(f"<pre><code>{escaped(text)}</code></pre>")


def folded(title: str, *parts: Markup) -> Markup:
    """What is shown on demand."""
    return Markup(f"<details><summary>{escaped(title)}</summary>{''.join(parts)}</details>")


def table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[object]], *, names: int = 1) -> Markup:
    """A table.

    Args:
      caption: says what the numbers are.
      heads: of the columns.
      rows: of cells.
      names: number of first columns that hold names; the others are numbers, on the right (count).

    Returns:
      The table, which scrolls sideways where the page is narrow.
    """

    def cells(row: Sequence[object], tag: str) -> str:
        kinds = ["name" if place < names else "number" for place in range(len(row))]
        return "".join(f'<{tag} class="{k}">{escaped(c)}</{tag}>' for k, c in zip(kinds, row, strict=True))

    head = f"<thead><tr>{cells(heads, 'th')}</tr></thead>"
    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return Markup(
        f'<div class="scroll"><table><caption>{escaped(caption)}</caption>{head}<tbody>{body}</tbody></table></div>'
    )


def method_name(label: str, colour: str) -> Markup:
    """The name of a method beside its colour in the figures."""
    return Markup(f'<span class="swatch" style="background:{colour}"></span>{escaped(label)}')


def tiles(counts: Sequence[tuple[int, str, str]]) -> Markup:
    """Large numbers in a row: number, what it counts, class."""
    items = "".join(f'<li class="{kind}"><b>{n}</b>{escaped(what)}</li>' for n, what, kind in counts)
    return Markup(f'<ul class="tiles">{items}</ul>')


def figure(svg: str, caption: str, name: str, links: Sequence[str]) -> Markup:
    """A drawing in the page's own colours, with its caption.

    Args:
      svg: text of the file that matplotlib wrote.
      caption: says what it shows; readers of the screen hear it too.
      name: unique on the page.
      links: files that hold it, relative to the page.

    Returns:
      The figure.
    """
    drawn = svg[svg.index("<svg") :]
    # Descriptions of the maker, not of the drawing.
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', drawn)
    drawn = re.sub(r'(href="#|url\(#)([^")]+)', rf"\g<1>{name}-\2", drawn)
    # Letters have one size in all figures, whatever their width.
    width = float(re.search(r'\bwidth="([\d.]+)pt"', drawn)[1]) / (72 * style.WIDTH)  # type: ignore[index]
    for colour, variable in _THEMED.items():
        drawn = drawn.replace(colour, variable)
    about = f'role="img" style="max-width:{100 * min(width, 1):.1f}%" aria-label="{html.escape(caption, quote=True)}"'
    drawn = drawn.replace("<svg ", f"<svg {about} ", 1)
    files = " \u00b7 ".join(f'<a href="{html.escape(link)}">{escaped(link.rpartition(".")[2])}</a>' for link in links)
    return Markup(f'<figure id="{name}">{drawn}<figcaption>{escaped(caption)} {files}</figcaption></figure>')


def claims(verdicts: Sequence[Verdict]) -> Markup:
    """The claims with what the data say, and, below, those that lack data.

    Args:
      verdicts: of one case.

    Returns:
      Two tables; the first one has a drawing of each interval.
    """
    judged = [v for v in verdicts if v.status != NOT_ENOUGH]
    rows = []
    part = ""
    for v in judged:
        if v.claim.part != part:
            part = v.claim.part
            rows.append(f'<tr><th colspan="3" scope="rowgroup">{escaped(part)}</th></tr>')
        kind = v.measured.interval.kind
        rows.append(
            f'<tr class="claim"><td class="status {_class(v.status)}">{_SIGNS[v.status]} {v.status}</td>'
            f"<td>{escaped(v.claim.statement)}<small>{escaped(v.measured.sides)}. Paper: {escaped(v.claim.paper)}."
            f'</small></td><td class="number">{interval_drawing(v)}{escaped(v.effect)}'
            f"<small>{escaped(kind)}, n = {v.measured.interval.n}</small></td></tr>"
        )
    lacking = [(v.claim.statement, v.measured.missing, v.effect) for v in verdicts if v.status == NOT_ENOUGH]
    parts = []
    if rows:
        heads = "<thead><tr><th>These runs</th><th>Claim</th><th class='number'>Effect [95% interval]</th></tr></thead>"
        parts.append(f'<div class="scroll"><table>{heads}<tbody>{"".join(rows)}</tbody></table></div>')
    if lacking:
        body = "".join(
            f"<tr><td>{escaped(said)}</td><td>{escaped(missing)}</td><td class='number'>{escaped(effect)}</td></tr>"
            for said, missing, effect in lacking
        )
        heads = "<thead><tr><th>Claim</th><th>Needed</th><th class='number'>So far</th></tr></thead>"
        needed = Markup(f'<div class="scroll"><table>{heads}<tbody>{body}</tbody></table></div>')
        parts.append(folded(f"Not enough data for {len(lacking)} of {len(verdicts)} claims", needed))
    return Markup("".join(parts))


def interval_drawing(verdict: Verdict, width: int = 170, height: int = 20) -> Markup:
    """An interval as a line with a dot, over the range for which the claim holds."""
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
    middle = height / 2
    colour = f"var(--{ {SUPPORTED: 'good', NOT_SUPPORTED: 'bad', UNDECIDED: 'open'}.get(verdict.status, 'none') })"
    (mean, left, right), nothing = (at(scale(v)) for v in values), at(0.0)
    return Markup(
        f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" aria-hidden="true">'
        f'<rect x="{start}" y="2" width="{max(end - start, 0):.1f}" height="{height - 4}" fill="var(--grid)"/>'
        f'<line x1="{nothing}" x2="{nothing}" y1="0" y2="{height}" stroke="var(--muted)" stroke-width="1"/>'
        f'<line x1="{left}" x2="{right}" y1="{middle}" y2="{middle}" stroke="{colour}" stroke-width="2"/>'
        f'<circle cx="{mean}" cy="{middle}" r="4" fill="{colour}"/></svg><br>'
    )


def document(title: str, lead: str, sections: Sequence[Section], footer: str) -> str:
    """The whole page.

    Args:
      title: of the page.
      lead: a line below it.
      sections: in order; empty ones are left out.
      footer: a line at the end.

    Returns:
      HTML that needs no other file.
    """
    kept = [section for section in sections if not section.is_empty]
    bodies, contents = [], []
    for number, section in enumerate(kept, 1):
        anchor = section.anchor or f"s{number}"
        children = [child for child in section.children if not child.is_empty]
        inner = "".join(
            f'<section id="{anchor}-{place}"><h3>{escaped(child.title)}</h3>{"".join(child.parts)}</section>'
            for place, child in enumerate(children, 1)
        )
        bodies.append(
            f'<section id="{anchor}"><h2>{escaped(section.title)}</h2>{"".join(section.parts)}{inner}</section>'
        )
        below = "".join(
            f'<li><a href="#{anchor}-{place}">{escaped(child.title)}</a></li>'
            for place, child in enumerate(children, 1)
        )
        below = f"<ol>{below}</ol>" if below else ""
        contents.append(f'<li><a href="#{anchor}">{escaped(section.title)}</a>{below}</li>')
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(title)}</title>\n<style>\n{_CSS.read_text(encoding='utf8')}</style>\n</head>\n<body>\n"
        f'<div class="frame">\n<nav aria-label="Contents"><ol>{"".join(contents)}</ol></nav>\n<main>\n'
        f'<h1>{escaped(title)}</h1>\n<p class="lead">{escaped(lead)}</p>\n{"".join(bodies)}\n'
        f"<footer>{escaped(footer)}</footer>\n</main>\n</div>\n</body>\n</html>\n"
    )


def _class(status: Status) -> str:
    return status.replace(" ", "-")
