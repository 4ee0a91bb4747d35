"""Kernels of a LiteRT file that its sparse format cannot hold."""

import copy
from collections.abc import Callable
from typing import Any

from tensorflow.lite.tools import flatbuffer_utils

# BuiltinOperator of the LiteRT schema: unpacks a sparse kernel when the file is loaded.
_DENSIFY = 124


def store_cut_blocks_dense(content: bytes, convert_dense: Callable[[], bytes]) -> bytes:
    """Stores kernels dense whose sides are no multiples of their blocks.

    The converter stores kernels in blocks, such as four inputs of an output, and drops the weights beyond the last
    whole block without a word.

    Args:
      content: a `.tflite` file with sparse kernels.
      convert_dense: makes the same file with dense kernels; called only if a kernel has to be replaced.

    Returns:
      The file; unchanged, to the byte, if all blocks are whole. All kernels are dense if the two files do not have
      the same operations.
    """
    file = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    if not any(_has_cut_blocks(tensor) for graph in file.subgraphs for tensor in graph.tensors):
        return content
    plain = convert_dense()
    dense = flatbuffer_utils.convert_bytearray_to_object(bytearray(plain))
    pairs = list(zip(file.subgraphs, dense.subgraphs, strict=False))
    if len(file.subgraphs) != len(dense.subgraphs) or any(_codes(file, a) != _codes(dense, b) for a, b in pairs):
        return plain
    for graph, twin in pairs:
        for operation, other in zip(_operations(file, graph), _operations(dense, twin), strict=True):
            for index, origin in zip(operation.inputs, other.inputs, strict=True):
                # -1 stands for an optional input.
                if index >= 0 and _has_cut_blocks(graph.tensors[index]):
                    kernel = graph.tensors[index]
                    kernel.sparsity = None
                    kernel.buffer = len(file.buffers)
                    file.buffers.append(copy.copy(dense.buffers[twin.tensors[origin].buffer]))
    return bytes(flatbuffer_utils.convert_object_to_bytearray(file))


def _has_cut_blocks(tensor: Any) -> bool:
    if tensor.sparsity is None or tensor.sparsity.blockMap is None or not len(tensor.sparsity.blockMap):
        return False
    # The sizes of blocks follow those of the tensor's own axes.
    sizes = [axis.denseSize for axis in tensor.sparsity.dimMetadata[len(tensor.shape) :]]
    return any(tensor.shape[axis] % size for axis, size in zip(tensor.sparsity.blockMap, sizes, strict=True))


def _operations(file: Any, graph: Any) -> list[Any]:
    """The operations of a graph in order, without the unpacking of sparse kernels."""
    return [each for each in graph.operators if _code(file, each) != _DENSIFY]


def _codes(file: Any, graph: Any) -> list[tuple[int, int]]:
    return [(_code(file, each), len(each.inputs)) for each in _operations(file, graph)]


def _code(file: Any, operation: Any) -> int:
    code = file.operatorCodes[operation.opcodeIndex]
    return max(code.builtinCode, code.deprecatedBuiltinCode)
