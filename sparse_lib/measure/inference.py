"""Inference cost."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import keras

from sparse_lib import counting
from sparse_lib.masks import Masks
from sparse_lib.measure.problem import check_masks


class Cost(NamedTuple):
    """Inference cost of a model for one example, by the honest rule of `sparse_lib.counting`.

    Attributes:
      inference_flops: multiplications and additions with active weights (count).
      dense_inference_flops: multiplications and additions with all weights (count).
      size_bytes: active weights and biases in 32 bits, and one bit per weight for the mask.
      active_weights: active entries of all kernels (count).
      weights: entries of all kernels (count).
    """

    inference_flops: int
    dense_inference_flops: int
    size_bytes: int
    active_weights: int
    weights: int


def cost(model: keras.Model, masks: Masks | None = None, *, input_shape: Any = None) -> Cost:
    """Inference FLOPs and size of a model.

    Args:
      model: a built model.
      masks: of the sparse kernels, see `sparse_lib.measure`.
      input_shape: shape of one example, without the batch; required for subclassed models and inputs of open length. A
        model of several inputs takes a list or dictionary of shapes, as it takes its inputs.

    Returns:
      The cost of one example.

    Examples:
      >>> import keras
      >>> import sparse_lib
      >>> from sparse_lib import measure
      >>> model = keras.Sequential([keras.Input((784,)), keras.layers.Dense(300), keras.layers.Dense(10)])
      >>> cost = measure.cost(model, sparse_lib.sparsify(model, 0.9))
      >>> cost.active_weights, cost.inference_flops, cost.dense_inference_flops
      (23820, 47640, 476400)
    """
    check_masks(masks)
    active: Mapping[str, int | None] = {}
    if masks is not None:
        active = {kernel.path: count for kernel, count in zip(masks.kernels, masks.active(), strict=True)}
    layers = counting.layer_costs(model, active, input_shape=input_shape)
    return Cost(
        inference_flops=counting.inference_flops(layers),
        dense_inference_flops=sum(layer.dense_inference_flops for layer in layers),
        size_bytes=counting.size_bytes(layers),
        active_weights=sum(layer.nnz for layer in layers),
        weights=sum(layer.kernel_size for layer in layers),
    )
