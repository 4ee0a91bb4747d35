"""Leaves a plain Keras model where training has ended."""

import keras

from sparse_lib._keras import fitting, graph_cache
from sparse_lib._keras.optimizers import restore_gradient_sum, unwrap
from sparse_lib.kernels import check_model
from sparse_lib.optimizer import SparseOptimizer, restore_model_steps


def strip(model: keras.Model) -> keras.Model:
    """Takes everything of this library off a model, in place; its weights, zeros included, stay.

    A model that is compiled with a `SparseOptimizer` is compiled with the optimizer inside it, which keeps its slots
    and its step count. Files from `model.save` then load with Keras alone. Training goes on as that of a dense model:
    save the masks first (`masks.save`) if they are still needed.

    Args:
      model: any Keras model; its `SparseOptimizer` cannot be used afterwards.

    Returns:
      The same model.

    Examples:
      >>> import keras
      >>> import numpy as np
      >>> import sparse_lib
      >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(10)])
      >>> masks = sparse_lib.sparsify(model, 0.8)
      >>> model.compile(sparse_lib.SparseOptimizer(keras.optimizers.Adam(), masks), "mse")
      >>> _ = model.fit(np.eye(20), np.eye(20)[:, :10], verbose=0)
      >>> type(sparse_lib.strip(model).optimizer).__name__
      'Adam'
      >>> int(np.count_nonzero(model.layers[0].kernel))
      40
    """
    check_model(model)
    fitting.forget(model)
    restore_model_steps(model)
    graph_cache.forget(model)
    optimizer = unwrap(getattr(model, "optimizer", None))
    if isinstance(optimizer, SparseOptimizer):
        restore_gradient_sum(optimizer.inner)
        fitting.compile_again(model, optimizer.inner)
    return model
