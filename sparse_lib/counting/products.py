"""Products with weights outside of the layers that have a counting rule: layers of one's own and tied weights."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from sparse_lib import objective
from sparse_lib._utils import distribute

_MATRIX_PRODUCTS = {"MatMul": ("transpose_a", "transpose_b"), "BatchMatMulV2": ("adj_x", "adj_y")}
_PRODUCTS = frozenset(
    {
        *_MATRIX_PRODUCTS,
        *("Einsum", "Conv2D", "Conv3D", "DepthwiseConv2dNative", "Conv2DBackpropInput", "Conv3DBackpropInputV2"),
    }
)


class Product(NamedTuple):
    """A product of the network's activations with a weight.

    Attributes:
      variables: the variables that the weight is computed from.
      applications: products per entry of the weight (count); None if unknown.
      sums: entries of the result (count).
    """

    variables: tuple[keras.Variable, ...]
    applications: int | None
    sums: int


def weight_products(model: keras.Model, example: Any) -> list[Product]:
    """Finds all products of activations with weights in one call of a model, loops excepted.

    Args:
      model: a built model.
      example: its inputs.

    Returns:
      The products in the order of the graph; none for a model that cannot be traced.
    """
    flat = keras.tree.flatten(example)

    def call(*inputs: tf.Tensor) -> Any:
        return keras.tree.flatten(objective.call(model, [], [], keras.tree.pack_sequence_as(example, list(inputs))))

    try:
        graph = tf.function(call, autograph=False).get_concrete_function(*flat).graph
    except Exception:
        # A model that runs eagerly alone may fail in any way.
        return []
    # In a stateless scope the values of variables are tensors, which have no handle.
    copies = ((copy, v) for v in model.variables for copy in distribute.copies(v.value))
    by_handle = {id(copy.handle): variable for copy, variable in copies if hasattr(copy, "handle")}
    captured = {inside.op.name: by_handle.get(id(outside)) for outside, inside in graph.captures}
    inputs = {tensor.op.name for tensor in graph.inputs} - set(captured)
    origins = _Origins(inputs, captured)
    found = []
    for operation in graph.get_operations():
        if operation.type in _PRODUCTS:
            sides = [origins.of(tensor) for tensor in operation.inputs]
            weights = [(i, tuple(side.values())) for i, side in enumerate(sides) if side]
            if weights and None in sides:
                found.append(_product(operation, *weights[0]))
    return found


class _Origins:
    """Variables that tensors are computed from."""

    def __init__(self, inputs: set[str], captured: Mapping[str, keras.Variable | None]) -> None:
        self._inputs = inputs
        self._known: dict[str, dict[int, keras.Variable] | None] = {
            name: {} if variable is None else {id(variable): variable} for name, variable in captured.items()
        }

    def of(self, tensor: tf.Tensor) -> dict[int, keras.Variable] | None:
        """Variables by id, or None for a tensor that depends on the inputs."""
        pending = [tensor.op]
        while pending:
            operation = pending[-1]
            if operation.name in self._known:
                pending.pop()
            elif operation.name in self._inputs:
                self._known[operation.name] = None
            elif missing := [t.op for t in operation.inputs if t.op.name not in self._known]:
                pending += missing
            else:
                parts = [self._known[t.op.name] for t in operation.inputs]
                joined: dict[int, keras.Variable] | None = {}
                for part in parts:
                    joined = None if part is None or joined is None else {**joined, **part}
                self._known[operation.name] = joined
        return self._known[tensor.op.name]


def _product(operation: Any, side: int, variables: tuple[keras.Variable, ...]) -> Product:
    weight, result = operation.inputs[side].shape, operation.outputs[0].shape
    is_plain = len(variables) == 1 and weight.is_fully_defined() and result.is_fully_defined()
    sums = math.prod(result) if result.is_fully_defined() else 0
    if operation.type not in _MATRIX_PRODUCTS or not is_plain or math.prod(weight) != math.prod(variables[0].shape):
        return Product(variables, None, sums)
    is_transposed = operation.get_attr(_MATRIX_PRODUCTS[operation.type][side])
    # The rows of the second factor and the columns of the first are summed over.
    terms = weight[-1] if (side == 0) != is_transposed else weight[-2]
    return Product(variables, sums * terms // math.prod(weight), sums)
