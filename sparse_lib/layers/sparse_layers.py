"""The masks of the layers without a dense form, as a view: nothing is copied until it is asked for."""

import keras
import numpy as np

from sparse_lib import mask_report
from sparse_lib._keras import tracing
from sparse_lib._utils.errors import InputError
from sparse_lib.kernels import check_model
from sparse_lib.layers.sparse_dense import SparseDense
from sparse_lib.structures import UNSTRUCTURED


class SparseLayers:
    """What `Masks` says of kernels, for the `SparseDense` layers of a model, in their order there.

    Attributes:
      layers: the layers.
      names: one name per layer, such as `hidden/values`.

    Examples:
      >>> import keras
      >>> from sparse_lib.layers import SparseDense, SparseLayers
      >>> layers = [SparseDense(50, density=0.1, name="hidden"), SparseDense(20, density=0.2)]
      >>> masks = SparseLayers(keras.Sequential([keras.Input((100,)), *layers]))
      >>> masks.active(), masks.sparsity()
      ([500, 200], 0.8833333333333333)
      >>> masks.indices()[0].shape, masks.names[0]
      ((500,), 'hidden/values')
    """

    def __init__(self, model: keras.Model) -> None:
        """Finds the layers.

        Args:
          model: a built model.

        Raises:
          ValueError: if the model is not built or has no such layer.
        """
        check_model(model)
        self._model = model
        self.layers = [layer for layer in tracing.all_layers(model) if isinstance(layer, SparseDense)]
        if not self.layers or not all(layer.built for layer in self.layers):
            raise InputError(f"Model {model.name!r} has no SparseDense layer that is built: call it on a batch first.")
        self.names = [f"{layer.name}/{layer.values.name}" for layer in self.layers]

    def active(self) -> list[int]:
        """Number of active weights of each layer (count)."""
        return [int(layer.values.shape[0]) for layer in self.layers]

    def sizes(self) -> list[int]:
        """Number of weights that a dense layer of this shape has, of each layer (count)."""
        return [layer.kernel_shape[0] * layer.kernel_shape[1] for layer in self.layers]

    def sparsity(self) -> float:
        """Share of the weights of all layers that are not there (fraction)."""
        return 1 - sum(self.active()) / sum(self.sizes())

    def indices(self) -> list[np.ndarray]:
        """Row-major positions of the active weights of each layer, int64 [nnz], ascending."""
        return [layer.positions() for layer in self.layers]

    def report(self) -> str:
        """Returns a table of all weights of the model, as `Masks.report` does."""
        rows = [
            mask_report.Row(name, layer.kernel_shape, active, size, UNSTRUCTURED)
            for name, layer, active, size in zip(self.names, self.layers, self.active(), self.sizes(), strict=True)
        ]
        return mask_report.format_table(rows, [layer.values for layer in self.layers], self._model)
