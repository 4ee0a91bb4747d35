"""Which weights of a model have no mask, and why."""

import collections
from collections.abc import Collection
from typing import NamedTuple

import keras
import numpy as np

from sparse_lib._keras import layer_types, tracing
from sparse_lib.kernels import is_weight_matrix

_LORA_FACTORS = "lora_"


class DenseWeights(NamedTuple):
    """A matrix without a mask, or all vectors of a model together.

    Attributes:
      name: of the matrix, such as `embedding/embeddings`.
      shape: of the matrix; None for vectors.
      size: number of weights (count).
      reason: why they are dense.
    """

    name: str
    shape: tuple[int, ...] | None
    size: int
    reason: str


def list_dense(model: keras.Model, masked: Collection[keras.Variable]) -> list[DenseWeights]:
    """Lists the parameters of a model that have no mask; averages of batch norm and seeds are none.

    Args:
      model: a built model.
      masked: the kernels with masks.

    Returns:
      Matrices in the order of the model, then one entry for all biases, scales and other vectors, if any.
    """
    known = {id(kernel) for kernel in masked}
    trainable = {id(v) for v in model.trainable_variables}
    left = [(layer, v) for layer, v in tracing.parameters(model) if id(v) not in known]
    matrices = [(layer, v) for layer, v in left if layer_types.is_matrix(v)]
    vectors = [v for _, v in left if not layer_types.is_matrix(v)]
    short = [f"{layer.name}/{v.name}" for layer, v in matrices]
    repeated = collections.Counter(short)
    rows = [
        DenseWeights(
            name if repeated[name] == 1 else v.path,
            tuple(v.shape),
            _size(v),
            _reason(layer, v, id(v) in trainable),
        )
        for name, (layer, v) in zip(short, matrices, strict=True)
    ]
    if vectors:
        all_biases = all(v.name.endswith("bias") for v in vectors)
        name = "biases" if all_biases else "biases and scales"
        rows.append(DenseWeights(name, None, sum(map(_size, vectors)), "no matrix"))
    return rows


def _size(variable: keras.Variable) -> int:
    return int(np.prod(variable.shape))


def _reason(layer: keras.Layer, variable: keras.Variable, is_trainable: bool) -> str:
    quantization = getattr(layer, "quantization_mode", None)
    is_depthwise = variable.name == "depthwise_kernel" or isinstance(layer, layer_types.DEPTHWISE_CONVOLUTIONS)
    reasons = (
        (variable.name.startswith(_LORA_FACTORS), "factor of LoRA"),
        (quantization is not None, f"quantized, {quantization}"),
        (layer_types.has_lora(layer), "LoRA adds to it"),
        (not is_trainable, "frozen"),
        (isinstance(layer, keras.layers.Embedding), "embedding"),
        (is_depthwise, "depthwise"),
        (is_weight_matrix(layer, variable), "left out"),
    )
    return next((reason for holds, reason in reasons if holds), "not called a kernel: see include=")
