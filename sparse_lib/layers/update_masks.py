"""SET and RigL for layers without a dense form."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from sparse_lib import selection
from sparse_lib._utils import distribute
from sparse_lib._utils.errors import InputError
from sparse_lib.layers.positions import draw_outside, find_largest_gradients, find_places
from sparse_lib.layers.sparse_dense import SparseDense
from sparse_lib.layers.sparse_layers import SparseLayers
from sparse_lib.updaters import SET, RigL
from sparse_lib.updaters.drop_and_grow import truncated_product


class UpdateMasks(keras.callbacks.Callback):
    """Changes the active weights of `SparseDense` layers by SET or RigL.

    At an update each layer drops n = int(active * drop fraction) weights of smallest |w| and grows n elsewhere from
    zero: anywhere (SET), or where |x^T dy| of the batch is largest (RigL), which is searched a tile of rows at a time.
    The optimizer's slots of new weights start anew. Masks are those that `SparseOptimizer` finds for dense layers, but
    for the random numbers of SET.

    All state lies in the variables of layers and optimizer, so a run that goes on from a saved model ends as one that
    was not interrupted. Give the callback before those that save: they would see a step without its update.

    Examples:
      >>> import keras
      >>> import numpy as np
      >>> import sparse_lib
      >>> from sparse_lib.layers import SparseDense, UpdateMasks
      >>> model = keras.Sequential([keras.Input((20,)), SparseDense(10, density=0.2)])
      >>> model.compile("adam", "mse")
      >>> updates = UpdateMasks(sparse_lib.RigL(frequency=2, end_step=8))
      >>> _ = model.fit(np.eye(20), np.eye(20)[:, :10], batch_size=2, callbacks=[updates], verbose=0)
      >>> model.layers[0].values.shape  # as many as before, elsewhere
      (40,)
    """

    def __init__(self, updater: SET | RigL, *, seed: int = 0) -> None:
        """Sets the method.

        Args:
          updater: `SET` or `RigL`, with growth from zero.
          seed: of random growth, which is a function of seed, layer and step.

        Raises:
          ValueError: for another method, or settings of it that need the dense matrix.
        """
        super().__init__()
        if type(updater) not in (SET, RigL):
            raise InputError(f"UpdateMasks takes SET(...) or RigL(...), got {updater!r}.")
        if updater.redistribute or updater.growth_init != "zeros":
            raise InputError(
                "SparseDense grows from zero and keeps its number of weights: leave growth_init and redistribute out."
            )
        self.updater, self._seed = updater, seed
        self._due: int | None = None
        self._before: list[tuple[keras.Variable, np.ndarray]] = []

    def on_train_begin(self, logs: Any = None) -> None:
        """Checks the model."""
        del logs
        if self.model.steps_per_execution != 1:
            raise InputError("UpdateMasks sees every step: compile the model with steps_per_execution=1.")
        _check(SparseLayers(self.model), self.model.optimizer)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Prepares a step."""
        del batch, logs
        self._begin(self.model, self.model.optimizer)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Changes the masks, if it is time."""
        del batch, logs
        self._finish(self.model, self.model.optimizer)

    @contextmanager
    def step(self, model: keras.Model, optimizer: keras.optimizers.Optimizer) -> Iterator[None]:
        """Surrounds one training step of a loop of one's own, which calls the model with `training=True`.

        Args:
          model: with the layers.
          optimizer: that the step applies once; it counts the steps.

        Examples:
          >>> import keras
          >>> import tensorflow as tf
          >>> import sparse_lib
          >>> from sparse_lib.layers import SparseDense, UpdateMasks
          >>> model = keras.Sequential([keras.Input((20,)), SparseDense(10, density=0.2)])
          >>> optimizer, updates = keras.optimizers.SGD(0.1), UpdateMasks(sparse_lib.SET(frequency=2, end_step=8))
          >>> for _ in range(10):
          ...     with updates.step(model, optimizer):
          ...         with tf.GradientTape() as tape:
          ...             loss = tf.reduce_mean(model(tf.eye(20), training=True) ** 2)
          ...         optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        """
        _check(SparseLayers(model), optimizer)
        self._begin(model, optimizer)
        yield
        self._finish(model, optimizer)

    def _begin(self, model: keras.Model, optimizer: keras.optimizers.Optimizer) -> None:
        step = int(optimizer.iterations)
        self._due = step if self.updater.schedule.is_update_step(step) else None
        if self._due is None:
            return
        self._record(model, is_on=True)
        if self.updater.replaces_step:
            if not optimizer.built:
                optimizer.build(model.trainable_variables)
            kept = [*model.trainable_variables, *(v for v in optimizer.variables if v is not optimizer.iterations)]
            self._before = [(variable, variable.numpy()) for variable in kept]

    def _finish(self, model: keras.Model, optimizer: keras.optimizers.Optimizer) -> None:
        if self._due is None:
            return
        for variable, value in self._before:
            variable.assign(value)
        self._before = []
        for index, layer in enumerate(SparseLayers(model).layers):
            if layer.trainable:
                rng = np.random.default_rng([self._seed, index, self._due])
                self._update(layer, optimizer, self._due, rng)
        self._record(model, is_on=False)
        self._due = None

    def _record(self, model: keras.Model, is_on: bool) -> None:
        if isinstance(self.updater, RigL):
            for layer in SparseLayers(model).layers:
                layer.recorder.switch(is_on)

    def _update(self, layer: SparseDense, optimizer: Any, step: int, rng: np.random.Generator) -> None:
        """Drops and grows weights of a layer."""
        count = int(layer.values.shape[0])
        drop = int(truncated_product(tf.constant(count), self.updater.fraction(tf.constant(step, tf.int64))))
        if not drop:
            return
        old, values = layer.positions(), layer.values.numpy()
        kept = selection.top_k_mask(np.abs(values), count - drop).numpy()
        grown = self._grow(layer, drop, old[kept], rng)
        new = np.sort(np.append(old[kept], grown))
        # A weight that is dropped and grown at once stays as it is, unless the method says otherwise.
        places = find_places(old, new)
        if self.updater.reinit_regrown:
            places = np.where(kept[places], places, -1)
        for slot, start in _slots(layer, optimizer):
            slot.assign(_carry(slot.numpy(), places, start))
        layer.move(new, _carry(values, places, 0.0))

    def _grow(self, layer: SparseDense, count: int, taken: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        rows, columns = layer.kernel_shape
        if isinstance(self.updater, SET):
            return draw_outside(rng, count, rows * columns, taken)
        x, dy = layer.recorder.read()
        if not len(x):
            raise InputError(f"Layer {layer.name!r} had no gradient in this step: call the model with training=True.")
        return find_largest_gradients(x, dy, count, taken)


def _check(layers: SparseLayers, optimizer: Any) -> None:
    """Raises where slots or gradients of the layers could not be found."""
    if optimizer.gradient_accumulation_steps:
        raise InputError("UpdateMasks counts optimizer steps: leave gradient_accumulation_steps out.")
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        raise InputError("UpdateMasks takes no loss scaling, which may skip a step: use float32 or bfloat16.")
    if any(distribute.owner(layer.values.value) is not None for layer in layers.layers):
        raise InputError("UpdateMasks works on one replica: create the model outside of strategy.scope().")
    paths = [layer.values.path for layer in layers.layers]
    if len(set(paths)) < len(paths):
        raise InputError("Two SparseDense layers have one path, so their slots cannot be told apart: name them.")


def _slots(layer: SparseDense, optimizer: Any) -> list[tuple[keras.Variable, float]]:
    """The optimizer's slots of the active weights, each with the value at which it starts."""
    prefix = f"{layer.values.path.replace('/', '_')}_"
    slots = [v for v in optimizer.variables if v.name.startswith(prefix) and v.shape == layer.values.shape]
    start = getattr(optimizer, "initial_accumulator_value", 0.0)
    return [(slot, start if slot.name == f"{prefix}accumulator" else 0.0) for slot in slots]


def _carry(array: np.ndarray, places: np.ndarray, start: float) -> np.ndarray:
    """Entries of the weights that were there before; others start anew."""
    return np.where(places >= 0, array[places], np.asarray(start, array.dtype))
