"""Parses structures from their names in configurations and mask files."""

import re

from sparse_lib._utils.errors import InputError
from sparse_lib.structures.base import UNSTRUCTURED, Structure
from sparse_lib.structures.blocks import Block, Channel
from sparse_lib.structures.grouped import NM, ConstantFanIn

_PLAIN: dict[str, Structure] = {str(s): s for s in (UNSTRUCTURED, Channel(), ConstantFanIn())}


def parse(text: str) -> Structure:
    """Parses a structure; the inverse of `str(structure)`.

    Args:
      text: `2:4` (any N:M), `block:4x4` or `block:4x4:max` (inputs x outputs), `channel`, `constant_fan_in` or
        `unstructured`.

    Returns:
      The structure.

    Raises:
      ValueError: if the text names no structure.
    """
    if text in _PLAIN:
        return _PLAIN[text]
    if match := re.fullmatch(r"(\d+):(\d+)", text):
        return NM(int(match[1]), int(match[2]))
    if match := re.fullmatch(r"block:(\d+)x(\d+)(?::(mean|max))?", text):
        return Block(int(match[1]), int(match[2]), match[3] or "mean")
    raise InputError(
        f"Unknown structure {text!r}: use N:M such as '2:4', 'block:4x4' (inputs x outputs), "
        f"{', '.join(map(repr, _PLAIN))}."
    )
