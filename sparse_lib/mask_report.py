"""The table of a model's weights: kernels with masks, and what stays dense."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras

from sparse_lib._keras import lora, tracing
from sparse_lib._utils.tables import text_table
from sparse_lib.dense_weights import list_dense
from sparse_lib.structures import Structure, Unstructured

_COLUMNS = ("kernel", "shape", f"{'active':>11}", f"{'of':>11}", "sparsity", "structure", "dense because", "execution")
# Always shown, and right-aligned from the second of them on.
_ALWAYS = range(5)


class Row(NamedTuple):
    """One kernel with a mask.

    Attributes:
      name: of the kernel.
      shape: of the kernel.
      active: number of active weights (count).
      size: number of weights (count).
      structure: of the mask.
    """

    name: str
    shape: tuple[int, ...]
    active: int
    size: int
    structure: Structure


def format_table(
    rows: Sequence[Row], kernels: Sequence[keras.Variable], model: keras.Model | None, execution: Any = None
) -> str:
    """Formats the table.

    Args:
      rows: one per kernel with a mask.
      kernels: the kernels.
      model: of the kernels; None leaves the dense weights out.
      execution: the `Execution` of the model; None, or one where everything is dense, leaves its column out.

    Returns:
      The lines, without a line break at the end.
    """
    layers = [] if model is None else tracing.all_layers(model)
    adapted = {id(kernel) for kernel in lora.adapted_kernels(layers)}
    lines, active, size = [], 0, 0
    decisions = [False] * len(rows) if execution is None else [d.is_sparse for d in execution.explain()]
    words = {True: "sparse", False: "dense" if any(decisions) else ""}
    for row, kernel, is_sparse in zip(rows, kernels, decisions, strict=True):
        has_lora = id(kernel) in adapted
        count = row.size if has_lora else row.active
        rule = "" if isinstance(row.structure, Unstructured) else str(row.structure)
        lines.append(
            _line(row.name, row.shape, count, row.size, rule, "LoRA adds to it" if has_lora else "", words[is_sparse])
        )
        active, size = active + count, size + row.size
    dense = [] if model is None else list_dense(model, kernels)
    if dense:
        lines.append(_line("sparse kernels", None, active, size))
        lines += [_line(d.name, d.shape, d.size, d.size, reason=d.reason) for d in dense]
        extra = sum(d.size for d in dense)
        active, size = active + extra, size + extra
    lines.append(_line("total", None, active, size))
    shown = [i for i in range(len(_COLUMNS)) if i in _ALWAYS or any(line[i] for line in lines)]
    header, *cells = ([line[i] for i in shown] for line in (_COLUMNS, *lines))
    return text_table([header], cells, left=(0, *range(len(_ALWAYS), len(shown))))


def _line(
    name: str,
    shape: tuple[int, ...] | None,
    active: int,
    size: int,
    structure: str = "",
    reason: str = "",
    execution: str = "",
) -> tuple[str, ...]:
    sides = "" if shape is None else "x".join(map(str, shape))
    return name, sides, f"{active:,}", f"{size:,}", f"{1 - active / max(size, 1):.4f}", structure, reason, execution
