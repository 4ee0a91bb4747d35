"""The coordinates of one layer, by the input and the output that each weight connects."""

from dataclasses import dataclass

import keras
import numpy as np

from sparse_lib.curvature.subspace import Subspace


@dataclass(frozen=True, eq=False)
class Coordinates:
    """The coordinates of one layer z[p, o] = sum_q taps[p, q] kernel[q, o] + bias[o], kernel first.

    A tap q is the factor of a kernel entry: an input unit of a dense layer, an entry of the patch of a convolution, a
    normalized channel of batch norm. The output o is a unit or a channel; p runs over positions.

    Attributes:
      taps: tap of each kernel coordinate, [w].
      outputs: output of each kernel coordinate, [w].
      bias: output of each bias coordinate, [b].
      where: position of each coordinate in the vector of the subspace, [w + b].
    """

    taps: np.ndarray
    outputs: np.ndarray
    bias: np.ndarray
    where: np.ndarray

    @classmethod
    def of(cls, layer: keras.Layer, variables: list[keras.Variable], subspace: Subspace) -> "Coordinates":
        """Selects the coordinates of a dense, convolution or batch-norm layer.

        Args:
          layer: the layer.
          variables: the model's trainable variables.
          subspace: selects among their entries.

        Returns:
          The coordinates, without frozen variables.
        """
        places = {id(variable): place for place, variable in enumerate(variables)}
        is_norm = isinstance(layer, keras.layers.BatchNormalization)
        kernel, bias = (layer.gamma, layer.beta) if is_norm else (layer.kernel, layer.bias)
        (entries, kernel_where), (outputs, bias_where) = (_select_entries(v, places, subspace) for v in (kernel, bias))
        width = 1 if is_norm or kernel is None else kernel.shape[-1]
        return cls(
            taps=entries // width,
            outputs=entries if is_norm else entries % width,
            bias=outputs,
            where=np.concatenate([kernel_where, bias_where]),
        )

    @property
    def size(self) -> int:
        """Number of coordinates (count)."""
        return len(self.where)


def _select_entries(
    variable: keras.Variable | None, places: dict[int, int], subspace: Subspace
) -> tuple[np.ndarray, np.ndarray]:
    """Flat indices of a variable's selected entries, and their positions in the vector."""
    place = places.get(id(variable))
    if place is None:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    part = subspace.slices[place]
    return subspace.indices[place], np.arange(part.start, part.stop)
