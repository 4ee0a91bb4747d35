"""Kernels with LoRA, which are dense in effect whatever their mask."""

import warnings
from collections.abc import Collection, Iterable

import keras

from sparse_lib._keras import layer_types


def adapted_kernels(layers: Iterable[keras.Layer]) -> list[keras.Variable]:
    """The stored kernels to which LoRA adds a dense matrix.

    Args:
      layers: any layers.

    Returns:
      One kernel per layer with LoRA.
    """
    return [layer_types.kernel(layer) for layer in layers if layer_types.has_lora(layer)]


def warn_of_lora(names: Collection[str], stacklevel: int) -> None:
    """Warns of sparse kernels that LoRA makes dense; no names, no warning.

    Args:
      names: of the sparse kernels with LoRA.
      stacklevel: frames from the caller of this function to the line that the warning names, 1 for the caller.
    """
    if names:
        warnings.warn(
            f"LoRA adds a dense update to the sparse kernels {', '.join(sorted(names))}: in effect they are dense, and "
            "count as such.",
            stacklevel=stacklevel + 1,
        )
