"""Computation of a model in another floating-point dtype."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import keras
import tensorflow as tf

from sparse_lib._keras.tracing import all_layers
from sparse_lib._utils.errors import InputError

_FLOATS = (tf.float64, tf.float32, tf.bfloat16, tf.float16)


@contextmanager
def arithmetic(model: keras.Model, dtype: str) -> Iterator[None]:
    """Makes a model compute in another floating-point dtype inside the context.

    Replaces every layer's dtype policy, the declared dtype of every variable and model input, and Keras' default dtype,
    so that `objective.call` takes values of this dtype and nothing in between rounds to another. The stored values do
    not change. Functions traced inside by `tf.function` keep the dtype.

    Args:
      model: a built model of any kind.
      dtype: `float64` or `float32`.

    Yields:
      Nothing.

    Raises:
      ValueError: for a quantized layer, which does not compute in floating point.
    """
    layers = _all_parts(model)
    quantized = [layer.name for layer in layers if layer.quantization_mode is not None]
    if quantized:
        raise InputError(
            f"Layer {quantized[0]!r} is quantized and cannot compute in {dtype}: pass the model before quantization."
        )
    inputs = [layer for layer in layers if isinstance(layer, keras.layers.InputLayer)]
    tensors = [tensor for layer in layers if _has_graph(layer) for tensor in layer.inputs]
    typed = {id(part): part for part in (*inputs, *tensors, *model.variables)}.values()
    with ExitStack() as stack:
        for layer in layers:
            # Bypasses the setter, which rewrites shared policy maps.
            stack.enter_context(_replace(layer.__dict__, "_dtype_policy", _Policy(dtype, layer.variable_dtype)))
        for part in typed:
            if keras.backend.is_float_dtype(part.dtype):
                stack.enter_context(_replace(part.__dict__, "_dtype", dtype))
        stack.enter_context(_default_dtype(dtype))
        yield


class _Policy(keras.dtype_policies.DTypePolicy):
    """Computes in one dtype and stores variables in another, which layers cast, such as frozen kernels."""

    def __init__(self, compute_dtype: str, variable_dtype: str) -> None:
        super().__init__(compute_dtype)
        self._stored = variable_dtype

    @property
    def variable_dtype(self) -> str:
        return self._stored


def cast(values: Any, dtype: str) -> Any:
    """Casts the floating-point tensors of a structure; others stay.

    Args:
      values: a tensor or a structure of tensors.
      dtype: `float64` or `float32`.

    Returns:
      The same structure.
    """
    return keras.tree.map_structure(lambda t: tf.cast(t, dtype) if t.dtype in _FLOATS else t, values)


def check_float64(function: Any) -> None:
    """Checks that a traced function stays in float64, which models with hard-coded dtypes do not.

    Args:
      function: a concrete function.

    Raises:
      ValueError: if float64 is converted to a shorter floating-point dtype anywhere.
    """
    graph = function.graph.as_graph_def()
    nodes = [*graph.node, *(node for inner in graph.library.function for node in inner.node_def)]
    narrow = {dtype.as_datatype_enum for dtype in _FLOATS[1:]}
    for node in nodes:
        is_from_double = node.op == "Cast" and node.attr["SrcT"].type == tf.float64.as_datatype_enum
        if is_from_double and node.attr["DstT"].type in narrow:
            raise InputError(
                f"The model or its loss converts float64 to a shorter type at {node.name}: compute in the layer's own "
                "dtype there, and in the dtype of the outputs in a loss, or pass dtype='float32'."
            )


def _all_parts(model: keras.Model) -> list[keras.Layer]:
    """The model, its layers, and the functional models inside sequential ones."""
    layers = [model, *all_layers(model)]
    return layers + [layer._functional for layer in layers if getattr(layer, "_functional", None) is not None]


def _has_graph(layer: keras.Layer) -> bool:
    return isinstance(layer, keras.Model) and isinstance(layer.__dict__.get("_inputs"), list)


@contextmanager
def _replace(attributes: dict[str, Any], name: str, value: Any) -> Iterator[None]:
    before = attributes[name]
    attributes[name] = value
    try:
        yield
    finally:
        attributes[name] = before


@contextmanager
def _default_dtype(dtype: str) -> Iterator[None]:
    """Replaces Keras' default dtype, that of Python numbers."""
    before = keras.config.floatx()
    keras.config.set_floatx(dtype)
    try:
        yield
    finally:
        keras.config.set_floatx(before)
