"""Products with the active weights of a sparse kernel: forward, transposed and sampled.

A kernel of shape [..., O] is a matrix W [R, O]: rows are all axes but the last, in row-major order. For a convolution
row r = (ky * kernel_width + kx) * channels + c. The values of the active weights stand in the order of the dense
kernel.

With the trilinear form L(x, v, dy) = <x * W(v), dy>, `matmul` is its derivative by dy, `matmul_transposed` by x, and
`matmul_values` by v; likewise for `conv2d`. So each is a gradient of the others, to any order.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from sparse_lib._utils.errors import InputError
from sparse_lib.execution import library


class Structure(NamedTuple):
    """Where the active weights of a kernel are, in row-major and in column-major order; int32 tensors.

    Attributes:
      index: flat positions in the dense kernel, ascending [nnz].
      row_pointers: the values of row r are row_pointers[r] to row_pointers[r + 1]; length R + 1.
      row_outputs: column of each value [nnz].
      column_pointers: the entries of column o are column_pointers[o] to column_pointers[o + 1]; length O + 1.
      column_rows: row of each entry, column by column [nnz].
      column_values: which value each of these entries is [nnz].
    """

    index: tf.Tensor
    row_pointers: tf.Tensor
    row_outputs: tf.Tensor
    column_pointers: tf.Tensor
    column_rows: tf.Tensor
    column_values: tf.Tensor


def find_structure(mask: Any) -> Structure:
    """Returns the structure of a mask.

    The operation keeps its last mask and structure: a step whose mask did not change costs one pass over the mask.

    Args:
      mask: which weights are active (bool [..., O]).
    """
    mask = tf.convert_to_tensor(mask, tf.bool)
    structure = Structure(*library.operations().sparse_lib_structure(mask=mask))
    shape = mask.shape
    rows = shape[:-1].num_elements() if shape.rank else None
    columns = shape[-1] if shape.rank else None
    for name, length in zip(Structure._fields, (None, rows, None, columns, None, None), strict=True):
        getattr(structure, name).set_shape([None if length is None else length + 1])
    return structure


def _columns(structure: Structure) -> int | None:
    length = structure.column_pointers.shape[0] if structure.column_pointers.shape.rank else None
    return None if length is None else length - 1


def _rows(structure: Structure) -> int | None:
    length = structure.row_pointers.shape[0] if structure.row_pointers.shape.rank else None
    return None if length is None else length - 1


def _nnz(structure: Structure) -> int | None:
    return structure.row_outputs.shape[0] if structure.row_outputs.shape.rank else None


# Of column_pointers the operations read the length alone.
_READ = ("row_pointers", "row_outputs", "column_pointers")
_OPERANDS = {"": ("x", "values"), "_transposed": ("dy", "values"), "_values": ("x", "dy")}


def _run(family: str, kind: str, first: Any, second: Any, structure: Structure, **others: Any) -> tf.Tensor:
    """Runs the operation `family` + `kind`, which orders the entries as it likes."""
    operation = getattr(library.operations(), f"sparse_lib_{family}{kind}")
    operands = dict(zip(_OPERANDS[kind], (first, second), strict=True))
    tensors = {name: getattr(structure, name) for name in _READ}
    return operation(**operands, **tensors, **others)


def matmul(x: Any, values: Any, structure: Structure) -> tf.Tensor:
    """Returns y = x W.

    Args:
      x: inputs [M, R], float32 or float64.
      values: active weights of W [nnz], of the same type.
      structure: of the kernel.

    Returns:
      y [M, O].
    """
    x = tf.convert_to_tensor(x)
    y = _run("matmul", "", x, values, structure)
    y.set_shape([x.shape[0] if x.shape.rank else None, _columns(structure)])
    return y


def matmul_transposed(dy: Any, values: Any, structure: Structure) -> tf.Tensor:
    """Returns dx = dy W^T.

    Args:
      dy: gradient of the outputs [M, O].
      values: active weights of W [nnz].
      structure: of the kernel.

    Returns:
      dx [M, R].
    """
    dy = tf.convert_to_tensor(dy)
    dx = _run("matmul", "_transposed", dy, values, structure)
    dx.set_shape([dy.shape[0] if dy.shape.rank else None, _rows(structure)])
    return dx


def matmul_values(x: Any, dy: Any, structure: Structure) -> tf.Tensor:
    """Returns the active entries of x^T dy.

    Args:
      x: inputs [M, R].
      dy: gradient of the outputs [M, O].
      structure: of the kernel.

    Returns:
      dvalues [nnz].
    """
    dvalues = _run("matmul", "_values", x, dy, structure)
    dvalues.set_shape([_nnz(structure)])
    return dvalues


def _pair(number: int | Sequence[int], name: str) -> list[int]:
    pair = [number, number] if isinstance(number, int) else [int(n) for n in number]
    if len(pair) != 2:
        raise InputError(f"{name} must be an integer or two of them, but it is {number}.")
    return pair


def _attributes(kernel_size: Any, strides: Any, padding: str, dilations: Any) -> dict[str, Any]:
    if padding.lower() not in ("same", "valid"):
        raise InputError(f"padding must be 'same' or 'valid', but it is {padding!r}.")
    return {
        "kernel_size": _pair(kernel_size, "kernel_size"),
        "strides": _pair(strides, "strides"),
        "dilations": _pair(dilations, "dilations"),
        "same": padding.lower() == "same",
    }


def _out_length(length: int | None, i: int, attributes: dict[str, Any]) -> int | None:
    if length is None:
        return None
    span = 0 if attributes["same"] else (attributes["kernel_size"][i] - 1) * attributes["dilations"][i]
    return max(0, -(-(length - span) // attributes["strides"][i]))


def conv2d(
    x: Any,
    values: Any,
    structure: Structure,
    *,
    kernel_size: int | Sequence[int],
    strides: int | Sequence[int] = 1,
    padding: str = "valid",
    dilations: int | Sequence[int] = 1,
) -> tf.Tensor:
    """Returns the convolution of images with a sparse kernel.

    Args:
      x: images [batch, height, width, channels], float32 or float64.
      values: active weights of the kernel [nnz], of the same type.
      structure: of the kernel [kernel height, kernel width, channels, outputs].
      kernel_size: kernel height and width.
      strides: vertical and horizontal stride.
      padding: "same" or "valid".
      dilations: vertical and horizontal distance of the kernel's taps.

    Returns:
      y [batch, out height, out width, outputs].
    """
    x = tf.convert_to_tensor(x)
    attributes = _attributes(kernel_size, strides, padding, dilations)
    y = _run("conv", "", x, values, structure, **attributes)
    shape = x.shape.as_list() if x.shape.rank == 4 else [None] * 4
    y.set_shape([shape[0], *(_out_length(n, i, attributes) for i, n in enumerate(shape[1:3])), _columns(structure)])
    return y


def conv2d_transposed(
    dy: Any,
    values: Any,
    structure: Structure,
    input_size: Any,
    *,
    kernel_size: int | Sequence[int],
    strides: int | Sequence[int] = 1,
    padding: str = "valid",
    dilations: int | Sequence[int] = 1,
) -> tf.Tensor:
    """Returns the gradient of `conv2d` with respect to its images.

    Args:
      dy: gradient of the outputs [batch, out height, out width, outputs].
      values: active weights of the kernel [nnz].
      structure: of the kernel.
      input_size: height and width of the images (int32 [2], or a list of numbers and tensors).
      kernel_size: kernel height and width.
      strides: vertical and horizontal stride.
      padding: "same" or "valid".
      dilations: vertical and horizontal distance of the kernel's taps.

    Returns:
      dx [batch, height, width, channels].
    """
    dy = tf.convert_to_tensor(dy)
    attributes = _attributes(kernel_size, strides, padding, dilations)
    size = tf.convert_to_tensor(input_size, tf.int32)
    dx = _run("conv", "_transposed", dy, values, structure, input_size=size, **attributes)
    known = tf.get_static_value(size, partial=True)
    height, width = (None, None) if known is None else known
    rows, (kernel_height, kernel_width) = _rows(structure), attributes["kernel_size"]
    channels = None if rows is None else rows // (kernel_height * kernel_width)
    dx.set_shape([dy.shape[0] if dy.shape.rank else None, height, width, channels])
    return dx


def conv2d_values(
    x: Any,
    dy: Any,
    structure: Structure,
    *,
    kernel_size: int | Sequence[int],
    strides: int | Sequence[int] = 1,
    padding: str = "valid",
    dilations: int | Sequence[int] = 1,
) -> tf.Tensor:
    """Returns the gradient of `conv2d` with respect to its active weights.

    Args:
      x: images [batch, height, width, channels].
      dy: gradient of the outputs [batch, out height, out width, outputs].
      structure: of the kernel.
      kernel_size: kernel height and width.
      strides: vertical and horizontal stride.
      padding: "same" or "valid".
      dilations: vertical and horizontal distance of the kernel's taps.

    Returns:
      dvalues [nnz].
    """
    attributes = _attributes(kernel_size, strides, padding, dilations)
    dvalues = _run("conv", "_values", x, dy, structure, **attributes)
    dvalues.set_shape([_nnz(structure)])
    return dvalues


def _structure_of(op: tf.Operation) -> Structure:
    """Returns what an operation was given of a structure, which is all that its gradients need."""
    row_pointers, row_outputs, column_pointers = op.inputs[2:5]
    return Structure(None, row_pointers, row_outputs, column_pointers, None, None)


def _conv_options(op: tf.Operation) -> dict[str, Any]:
    return {
        "kernel_size": list(op.get_attr("kernel_size")),
        "strides": list(op.get_attr("strides")),
        "padding": "same" if op.get_attr("same") else "valid",
        "dilations": list(op.get_attr("dilations")),
    }


def _size_of(x: tf.Tensor) -> list[int | tf.Tensor]:
    """Returns height and width of images: numbers where they are known, so that shapes stay static."""
    return [x.shape[i] if x.shape.rank and x.shape[i] is not None else tf.shape(x)[i] for i in (1, 2)]


@tf.RegisterGradient("SparseLibMatmul")
def _differentiate_matmul(op: tf.Operation, dy: tf.Tensor) -> list[tf.Tensor | None]:
    (x, values), structure = op.inputs[:2], _structure_of(op)
    return [matmul_transposed(dy, values, structure), matmul_values(x, dy, structure), *[None] * 3]


@tf.RegisterGradient("SparseLibMatmulTransposed")
def _differentiate_matmul_transposed(op: tf.Operation, x: tf.Tensor) -> list[tf.Tensor | None]:
    (dy, values), structure = op.inputs[:2], _structure_of(op)
    return [matmul(x, values, structure), matmul_values(x, dy, structure), *[None] * 3]


@tf.RegisterGradient("SparseLibMatmulValues")
def _differentiate_matmul_values(op: tf.Operation, values: tf.Tensor) -> list[tf.Tensor | None]:
    (x, dy), structure = op.inputs[:2], _structure_of(op)
    return [matmul_transposed(dy, values, structure), matmul(x, values, structure), *[None] * 3]


@tf.RegisterGradient("SparseLibConv")
def _differentiate_conv2d(op: tf.Operation, dy: tf.Tensor) -> list[tf.Tensor | None]:
    (x, values), structure, options = op.inputs[:2], _structure_of(op), _conv_options(op)
    dx = conv2d_transposed(dy, values, structure, _size_of(x), **options)
    return [dx, conv2d_values(x, dy, structure, **options), *[None] * 3]


@tf.RegisterGradient("SparseLibConvTransposed")
def _differentiate_conv2d_transposed(op: tf.Operation, x: tf.Tensor) -> list[tf.Tensor | None]:
    (dy, values), structure, options = op.inputs[:2], _structure_of(op), _conv_options(op)
    return [conv2d(x, values, structure, **options), conv2d_values(x, dy, structure, **options), *[None] * 4]


@tf.RegisterGradient("SparseLibConvValues")
def _differentiate_conv2d_values(op: tf.Operation, values: tf.Tensor) -> list[tf.Tensor | None]:
    (x, dy), structure, options = op.inputs[:2], _structure_of(op), _conv_options(op)
    dx = conv2d_transposed(dy, values, structure, _size_of(x), **options)
    return [dx, conv2d(x, values, structure, **options), *[None] * 3]
