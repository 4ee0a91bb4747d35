"""Structures: which weights of a kernel may be active together, as frozen objects that turn scores into masks.

A kernel is read as the matrix inputs x outputs, inputs being what a product sums over. `Unstructured` is the default;
`NM` and `ConstantFanIn` give every group of weights a quota, `Block` and `Channel` keep or drop whole parts. A new
structure is one class in one file, one line here and in `text.py`, and one row in the tests.
"""

from sparse_lib._keras.layer_types import input_axes, output_axes
from sparse_lib.structures.base import UNSTRUCTURED, Structure, Unstructured, select_globally
from sparse_lib.structures.blocks import Block, Channel
from sparse_lib.structures.grouped import NM, ConstantFanIn, Grouped
from sparse_lib.structures.text import parse

__all__ = [
    "NM",
    "UNSTRUCTURED",
    "Block",
    "Channel",
    "ConstantFanIn",
    "Grouped",
    "Structure",
    "Unstructured",
    "input_axes",
    "output_axes",
    "parse",
    "select_globally",
]
