"""The text of --help: what an entry point does, its flags, and the gin files that there are."""

import pathlib
import re
import textwrap
from collections.abc import Sequence
from typing import Any

_ROOT = pathlib.Path(__file__).parents[3]
_WIDTH, _INDENT = 100, 24
# Begins the help of flags that only keep old command lines working.
_PUBLISHED = "Of published command lines"
_PREFIX = "LeNet5: "


def format_help(what: str, flags: Sequence[Any]) -> str:
    """Formats the description of an entry point and its flags.

    Args:
      what: what the entry point does, such as the docstring of its module.
      flags: of absl, those of the entry point.

    Returns:
      The text, without a line break at the end.
    """
    current = [flag for flag in flags if not flag.help.startswith(_PUBLISHED)]
    names = ", ".join(f"--{flag.name}" for flag in flags if flag not in current)
    lines = [what.strip(), "", "Flags:", *map(_format_flag, current), _format_entry("--help", "This text.")]
    if names:
        lines += ["", _fill(f"Accepted from published command lines: {names}.")]
    return "\n".join(lines)


def _format_flag(flag: Any) -> str:
    # Absl puts the choices before the help of a flag, and a remark after that of one that may be repeated.
    text = re.sub(r"^<.*?>: |;\s+repeat this option.*$", "", flag.help, flags=re.DOTALL).rstrip(".")
    kind, choices = flag.flag_type(), getattr(flag.parser, "enum_values", None)
    if kind.startswith("multi"):
        text += "; may be given several times"
    default = f" ({flag.default})" if flag.default and kind != "bool" else ""
    value = "" if kind == "bool" else "=N" if kind == "int" else f"={'|'.join(choices)}" if choices else "=..."
    return _format_entry(f"--{flag.name}{value}", f"{text}.{default}")


def _format_entry(name: str, text: str) -> str:
    wrapped = textwrap.wrap(text, _WIDTH - _INDENT, break_long_words=False, break_on_hyphens=False)
    first = f"  {name}".ljust(_INDENT)
    if not first.endswith("  "):
        return "\n".join([first, *(" " * _INDENT + line for line in wrapped)])
    return "\n".join([first + wrapped[0], *(" " * _INDENT + line for line in wrapped[1:])])


def _fill(text: str) -> str:
    return textwrap.fill(text, _WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def list_gin_files(root: pathlib.Path = _ROOT) -> str:
    """Lists the gin files of a checkout: modes with their descriptions, networks, methods and protocols by name.

    Args:
      root: of the checkout.

    Returns:
      The text, without a line break at the end; empty where there are no gin files, as in an installed package.
    """
    configs = root / "configs"
    first_lines = {path.stem: _read_first_comment(path) for path in sorted(configs.glob("*.gin"))}
    modes = {name: text.removeprefix(_PREFIX) for name, text in first_lines.items() if text.startswith(_PREFIX)}
    if not modes:
        return ""
    lines = ["Modes, by --gin_config=configs/MODE.gin for LeNet5 and --gin_config=mlp_configs/MODE.gin for the MLP:"]
    lines += [_format_entry(name, text) for name, text in modes.items()]
    networks, methods, protocols = (
        ", ".join(path.stem for path in sorted((configs / folder).glob("*.gin")))
        for folder in ("networks", "methods", "protocols")
    )
    lines += [
        "",
        "Any network and method, by --gin_config=configs/networks/NETWORK.gin --gin_config=configs/methods/METHOD.gin:",
        _format_entry("networks", networks),
        _format_entry("methods", methods),
        _format_entry("protocols", f"read after them, from configs/protocols: {protocols}"),
    ]
    return "\n".join(lines)


def _read_first_comment(path: pathlib.Path) -> str:
    with path.open(encoding="utf8") as lines:
        first = lines.readline()
    return first.removeprefix("#").strip() if first.startswith("#") else ""
