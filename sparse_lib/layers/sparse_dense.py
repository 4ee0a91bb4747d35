"""A dense layer's map with active weights alone: memory and time are those of the active weights."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from sparse_lib._utils.errors import InputError
from sparse_lib.execution import library
from sparse_lib.execution.products import Structure, matmul
from sparse_lib.layers.positions import draw_distinct
from sparse_lib.layers.recorder import Recorder

# Limits of the products: weights are numbered in int32, and so are the numbers of the largest tile, 192 a unit.
_MOST_WEIGHTS = 2**31 - 1
_MOST_UNITS = 10_000_000


@keras.saving.register_keras_serializable("sparse_lib")
class SparseDense(keras.layers.Layer):
    """A fully connected layer that keeps the indices and values of its active weights, and never a dense matrix.

    y = activation(x W + b), with W [R, O] zero but for round(density R O) weights at random places

    W is stored row by row: `values`, the output of each value in `columns`, and where each row begins in
    `row_pointers`. Optimizers see `values`, so slots have the length of the active weights. Any Keras optimizer trains
    static masks; `UpdateMasks` adds SET and RigL. Runs on CPUs with the native library of sparse products, in float32
    or float64, without XLA.

    Initial weights are N(0, scale / fan-in) with the number of active weights of each unit as its fan-in, as in the
    gradient-flow paper (Evci et al. 2022, section 3.1); `scale` is 2 there, for ReLU.

    Attributes:
      values: active weights in row-major order, trainable [nnz].
      columns: output that each of them belongs to, int32 [nnz].
      row_pointers: the weights of input r are row_pointers[r] to row_pointers[r + 1], int32 [R + 1].
      bias: [O], or None.

    Examples:
      >>> import keras
      >>> from sparse_lib.layers import SparseDense
      >>> layer = SparseDense(units=100_000, density=1e-4, activation="relu")
      >>> model = keras.Sequential([keras.Input((1000,)), layer, keras.layers.Dense(10)])
      >>> layer.values.shape, layer.kernel_shape  # 10,000 of 100 million weights
      ((10000,), (1000, 100000))
    """

    def __init__(
        self,
        units: int,
        density: float,
        *,
        activation: Any = None,
        use_bias: bool = True,
        scale: float = 2.0,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Describes the layer; its weights are drawn when it is built.

        Args:
          units: number of outputs (count).
          density: active share of the weights (fraction), in (0, 1].
          activation: as in `keras.layers.Dense`.
          use_bias: whether outputs have a bias.
          scale: numerator of the initial variance.
          seed: of places and values; None draws one from `keras.utils.set_random_seed`.
          **kwargs: of `keras.layers.Layer`, such as `name`.

        Raises:
          ValueError: if units, density or scale are out of range.
        """
        super().__init__(**kwargs)
        if not 1 <= units <= _MOST_UNITS:
            raise InputError(f"The layer has {units} units; give a number from 1 to {_MOST_UNITS:,}.")
        if not 0 < density <= 1:
            raise InputError(f"The density is {density}; give the active fraction of the weights, in (0, 1].")
        if not scale > 0:
            raise InputError(f"The initialisation has scale {scale}; give a positive number.")
        self.units, self.density, self.use_bias = units, density, use_bias
        self.activation = keras.activations.get(activation)
        self.scale, self.seed = scale, seed
        # The products have no XLA kernel.
        self.supports_jit = False

    def build(self, input_shape: Any) -> None:
        """Draws places and values of the active weights.

        Args:
          input_shape: of the inputs, [..., R].

        Raises:
          ValueError: if the number of inputs or of active weights is out of range, or the native library is missing.
        """
        library.operations()
        rows = input_shape[-1]
        if rows is None or rows > _MOST_UNITS:
            raise InputError(f"Layer {self.name!r} has {rows} inputs; give a number up to {_MOST_UNITS:,}.")
        count = max(1, round(self.density * rows * self.units))
        if count > _MOST_WEIGHTS:
            raise InputError(
                f"Layer {self.name!r} has {count:,} active weights and can have {_MOST_WEIGHTS:,}: lower the density."
            )
        seed = int(keras.random.randint((), 0, 2**31 - 1)) if self.seed is None else self.seed
        rng = np.random.default_rng(seed)
        positions = draw_distinct(rng, count, rows * self.units)
        columns = (positions % self.units).astype(np.int32)
        fan_in = np.maximum(np.bincount(columns, minlength=self.units), 1)
        values = rng.standard_normal(count) * np.sqrt(self.scale / fan_in)[columns]
        self.values = self._add("values", values, self.variable_dtype, trainable=True)
        self.columns = self._add("columns", columns, "int32", trainable=False)
        self.row_pointers = self._add("row_pointers", self._pointers(positions, rows), "int32", trainable=False)
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight((self.units,), "zeros", name="bias")
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: rows})
        with tf.init_scope():
            self.recorder = Recorder(rows, self.units, self.variable_dtype)

    def _add(self, name: str, array: np.ndarray, dtype: str, trainable: bool) -> keras.Variable:
        # Not cast to lower precision, which the products do not have.
        return self.add_weight(
            array.shape,
            lambda shape, dtype: tf.constant(array, dtype, shape),
            dtype=dtype,
            trainable=trainable,
            autocast=False,
            name=name,
        )

    def _pointers(self, positions: np.ndarray, rows: int) -> np.ndarray:
        return np.searchsorted(positions, np.arange(rows + 1) * self.units).astype(np.int32)

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Returns the outputs.

        Args:
          inputs: [..., R].
          training: whether `UpdateMasks` may see the step.

        Returns:
          Tensor [..., O].
        """
        values = tf.convert_to_tensor(self.values)
        x = tf.reshape(tf.cast(inputs, values.dtype), [-1, self.kernel_shape[0]])
        y = matmul(x, values, self.structure())
        if training:
            y = self.recorder.watch(x, y)
        y = tf.cast(tf.reshape(y, [*_sizes(inputs)[:-1], self.units]), self.compute_dtype)
        y = y if self.bias is None else y + self.bias
        return y if self.activation is None else self.activation(y)

    def structure(self) -> Structure:
        """Returns the places of the active weights, as the products take them."""
        # Of the columns' pointers the products read the number alone.
        ends = tf.zeros([self.units + 1], tf.int32)
        pointers, columns = (tf.convert_to_tensor(v) for v in (self.row_pointers, self.columns))
        return Structure(None, pointers, columns, ends, None, None)

    @property
    def kernel_shape(self) -> tuple[int, int]:
        """Inputs and outputs, the shape [R, O] of the matrix that is not there."""
        return self.row_pointers.shape[0] - 1, self.units

    def positions(self) -> np.ndarray:
        """Returns the row-major positions of the active weights, int64 [nnz], ascending."""
        pointers = self.row_pointers.numpy()
        rows = np.repeat(np.arange(pointers.size - 1), np.diff(pointers))
        return rows * self.units + self.columns.numpy()

    def move(self, positions: np.ndarray, values: np.ndarray) -> None:
        """Gives the layer other active weights, as many as it has.

        Args:
          positions: row-major, ascending [nnz].
          values: of these weights [nnz].
        """
        self.columns.assign((positions % self.units).astype(np.int32))
        self.row_pointers.assign(self._pointers(positions, self.kernel_shape[0]))
        self.values.assign(values)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the layer."""
        return {
            **super().get_config(),
            "units": self.units,
            "density": self.density,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "scale": self.scale,
            "seed": self.seed,
        }


def _sizes(tensor: tf.Tensor) -> list[Any]:
    """Sizes of the axes: numbers where they are known, so that shapes stay static."""
    dynamic = tf.shape(tensor)
    return [dynamic[i] if size is None else size for i, size in enumerate(tensor.shape)]
