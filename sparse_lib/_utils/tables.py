"""Plain-text tables with aligned columns."""

from collections.abc import Collection, Sequence


def text_table(
    headers: Sequence[Sequence[str]],
    rows: Sequence[Sequence[str]],
    *,
    left: Collection[int] = (0,),
    underline: bool = False,
) -> str:
    """Aligns cells in columns, two spaces apart, without trailing spaces.

    Args:
      headers: lines of the heading, one cell per column; a cell padded with spaces sets the least width of its column.
      rows: lines of the body, one cell per column.
      left: indices of the left-aligned columns; the others are right-aligned.
      underline: whether a line of dashes separates heading and body.

    Returns:
      The lines, without a line break at the end.
    """
    lines = [*headers, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    if underline:
        lines.insert(len(headers), ["-" * width for width in widths])

    def align(line: Sequence[str]) -> str:
        cells = zip(line, widths, strict=True)
        return "  ".join(c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(cells)).rstrip()

    return "\n".join(map(align, lines))
