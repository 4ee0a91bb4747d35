"""Reads the text of an operative gin configuration without executing it."""

import ast
import re
from collections.abc import Mapping
from typing import Any

_STATEMENT = re.compile(r"^\s*([\w./]+)\s*=\s*(.*)$", re.DOTALL)
# A quoted string, which may contain a percent sign, or a macro.
_MACRO = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|%([\w./]+)")


def parse(text: str) -> dict[str, Any]:
    """Parses the bindings of a gin file.

    Args:
      text: contents of `operative_config.gin`; includes are not followed.

    Returns:
      Value by name, such as `{"training.seed": 1}`, with macros substituted. A value that is not a Python literal, such
      as a reference to a function, stays text.
    """
    found = dict(_split_statements(text))
    macros = {name: value for name, value in found.items() if "." not in name}
    return {name: _evaluate(value, macros) for name, value in found.items() if "." in name}


def _split_statements(text: str) -> list[tuple[str, str]]:
    """Returns name and text of the value of each binding; a value may span several lines."""
    statements, open_lines = [], ""
    for line in text.splitlines():
        if not open_lines and (not line.strip() or line.lstrip().startswith("#")):
            continue
        open_lines += line.rstrip().removesuffix("\\") + "\n"
        match = _STATEMENT.match(open_lines)
        if match and _is_open(match[2], line):
            continue
        if match:
            statements.append((match[1], match[2].strip()))
        open_lines = ""
    return statements


def _is_open(value: str, line: str) -> bool:
    """Returns whether the value continues on the next line."""
    outside_quotes = _MACRO.sub("", value)
    opened = sum(outside_quotes.count(sign) for sign in "([{") - sum(outside_quotes.count(sign) for sign in ")]}")
    return line.rstrip().endswith("\\") or opened > 0


def _evaluate(text: str, macros: Mapping[str, str], depth: int = 10) -> Any:
    def fill_macro(match: re.Match[str]) -> str:
        name = match[1]
        return repr(_evaluate(macros[name], macros, depth - 1)) if name in macros and depth else match[0]

    try:
        return ast.literal_eval(_MACRO.sub(fill_macro, text))
    except (ValueError, SyntaxError):
        return text
