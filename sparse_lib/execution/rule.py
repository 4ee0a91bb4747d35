"""The densities up to which a sparse product is faster than the dense one on a CPU.

`benchmarks/sparse_products.py` measures both. The limits below leave a margin of a fifth to the slowest of the shapes
measured there, forward pass and both gradients together, so that a wrong guess costs little.
"""

import math
from collections.abc import Sequence

from sparse_lib.execution.layer_products import ConvolutionProduct, LayerProduct

# Convolutions break even at densities of 0.7 and more, those of one pixel at 0.5, and dense layers, which XLA would
# compile otherwise, at 0.3 to 0.4.
_WINDOW, _PIXEL, _MATRIX = 0.5, 0.35, 0.25
# Convolutions between few channels break even at 0.9 where TensorFlow uses oneDNN; elsewhere, it takes three to eight
# times as long even for a full kernel.
_NARROW, _FEW_CHANNELS = 0.7, 16
# Multiplications of the dense product below which the calls cost more than the arithmetic (count).
_LEAST_WORK = 2_000_000
# The batch size of Keras, for graphs that take batches of any size (count).
_BATCH = 32


def find_limit(product: LayerProduct, shape: Sequence[int], positions: int | None, batch_size: int | None) -> float:
    """Finds the density up to which a sparse product pays.

    Args:
      product: of the layer.
      shape: of the kernel.
      positions: products per weight and example (count); None if unknown.
      batch_size: examples per step (count); None if unknown.

    Returns:
      Density (fraction); 0 where it never pays.
    """
    if math.prod(shape) * (positions or 1) * (batch_size or _BATCH) < _LEAST_WORK:
        return 0.0
    if not isinstance(product, ConvolutionProduct):
        return _MATRIX
    if math.prod(shape[:2]) == 1:
        return _PIXEL
    return _NARROW if max(shape[2:]) <= _FEW_CHANNELS else _WINDOW
