"""Sparsity structures: frozen objects that select masks from scores, such as N:M, blocks or channels.

A kernel is read as a matrix [inputs, outputs], where the inputs are the axes that its product contracts.
`Unstructured` is the default; `NM` and `ConstantFanIn` fix the number of active weights per group, `Block` and
`Channel` keep or drop whole tiles. A new structure is one class in one file, one line here and in `text.py`, and one
row in the tests.
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
