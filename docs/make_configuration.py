"""Writes docs/configuration.md from the docstrings of the settings: every gin name of the suite."""

import dataclasses
import inspect
import pathlib
import re
import types
import typing
from collections.abc import Iterator
from typing import Any

from sparse_lib import initializers, metainit
from sparse_lib.experiment.config import gin_names
from sparse_lib.experiment.networks import VGG16

PAGE = pathlib.Path(__file__).with_name("configuration.md")

INTRODUCTION = """\
# Configuration

<!-- Written by docs/make_configuration.py from the docstrings; do not edit. -->

A gin file, or `--gin_bindings`, sets `name.parameter = value`. Later bindings win over earlier ones, bindings over
files, and `--seed=N` over `training.seed`. Unbound parameters have the defaults given here. The complete configuration
of a run is in its `operative_config.gin`, which `--preload_gin_config` reads back. A file may `include` others, by
paths relative to its own folder, and may use macros: configs/networks/lenet5.gin defines `SPARSITY`, `UPDATE_FREQ`,
`PRUNED_RUN` and `PRUNED_START`, and `--gin_bindings='SPARSITY=0.9'` changes every setting that uses it. A
file must not `import` modules.

Counts are integers, fractions lie in 0 to 1, and steps count from 0. An unknown name, parameter or choice stops the
run before it begins. How the methods behave in every detail is in [semantics.md](semantics.md).
"""

# Objects whose docstrings explain parameters that the settings pass on to them.
EXPLAINED_BY: dict[str, tuple[Any, ...]] = {
    "unit_scaled_init": (initializers.unit_scaled,),
    "layer_scaled_init": (initializers.layer_scaled,),
    "metainit": (metainit.metainit,),
    "vgg11": (VGG16,),
    "vgg19": (VGG16,),
}
_PARAMETERS = re.compile(r"^(?:Attributes|Args):\n((?: +.*\n|\n)+)", re.MULTILINE)


def explanations(documented: Any) -> dict[str, str]:
    """Parses the entries of a Google-style docstring.

    Args:
      documented: a function or a class.

    Returns:
      Explanation by parameter, in one line.
    """
    section = _PARAMETERS.search(f"{inspect.getdoc(documented)}\n")
    entries: dict[str, str] = {}
    name = ""
    for line in inspect.cleandoc(f"\n{section.group(1)}").splitlines() if section else []:
        if head := re.match(r"(\w+): (.*)", line):
            name = head.group(1)
            entries[name] = head.group(2)
        elif line.strip():
            entries[name] += f" {line.strip()}"
    return entries


def parameters(name: str) -> Iterator[tuple[str, str, str, str]]:
    """Yields the rows of the table of a gin name.

    Args:
      name: of the configurable.

    Yields:
      Parameter, type, default and explanation.

    Raises:
      ValueError: if no docstring explains a parameter.
    """
    configured = gin_names.CONFIGURABLES[name]
    explained: dict[str, str] = {}
    for source in (configured, *EXPLAINED_BY.get(name, ())):
        explained = explanations(source) | explained
    hints = typing.get_type_hints(configured)
    for field in dataclasses.fields(configured):
        if field.name not in explained:
            raise ValueError(f"{name}.{field.name} has no explanation; write one into the docstring.")
        yield field.name, _type(hints[field.name]), repr(field.default), explained[field.name]


def _type(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return " or ".join(repr(a) for a in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(a) for a in arguments)
    if hint is type(None):
        return "None"
    collections = {"Sequence": "tuple of", "Mapping": "dict of"}
    if origin is not None and origin.__name__ in collections:
        return f"{collections[origin.__name__]} {' to '.join(_type(a) for a in arguments)}"
    return str(getattr(hint, "__name__", hint))


def page() -> str:
    """Text of configuration.md."""
    parts = [INTRODUCTION]
    for name, configured in gin_names.CONFIGURABLES.items():
        summary = (inspect.getdoc(configured) or "").split("\n\n")[0].replace("\n", " ")
        parts.append(f"\n## {name}\n\n{summary}\n\n| parameter | type | default | meaning |\n|---|---|---|---|\n")
        for row in parameters(name):
            parameter, kind, default, meaning = (cell.replace("|", "\\|") for cell in row)
            parts.append(f"| `{name}.{parameter}` | {kind} | `{default}` | {meaning} |\n")
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf8")
