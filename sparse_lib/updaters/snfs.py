"""SNFS: growth by a dense momentum."""

import dataclasses
from typing import ClassVar

import tensorflow as tf

from sparse_lib.updaters.base import Kernel, State, WeightGradient
from sparse_lib.updaters.drop_and_grow import DropAndGrow


@dataclasses.dataclass(frozen=True, kw_only=True)
class SNFS(DropAndGrow):
    """Sparse networks from scratch (Dettmers & Zettlemoyer 2019): grow where the smoothed gradient is largest.

    M <- beta M + (1 - beta) g, dense, at every step; grow by |M|, and more where the mean |M| is larger

    Attributes:
      momentum: beta; 0.9 as in the RigL paper, appendix D.

    Examples:
      >>> import keras
      >>> import numpy as np
      >>> import sparse_lib
      >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(20), keras.layers.Dense(10)])
      >>> masks = sparse_lib.sparsify(model, 0.8, "uniform")
      >>> updater = sparse_lib.SNFS(frequency=2, end_step=8)
      >>> model.compile(sparse_lib.SparseOptimizer(keras.optimizers.SGD(0.1), masks, updater), "mse")
      >>> _ = model.fit(np.eye(20), np.eye(20)[:, :10], batch_size=2, verbose=0)  # 10 steps
      >>> sum(masks.active()), masks.active() != [80, 40]  # the budget moves between kernels
      (120, True)
    """

    weight_gradient: ClassVar[WeightGradient] = "dense"

    momentum: float = 0.9
    redistribute: bool = True

    @property
    def state_specs(self) -> tuple[str, ...]:
        """The dense momentum."""
        return (*super().state_specs, "momentum")

    def accumulate(self, state: State, gradient: tf.Tensor) -> State:
        """Updates the momentum by the dense gradient."""
        return {"momentum": self.momentum * state["momentum"] + (1.0 - self.momentum) * gradient}

    def grow_score(self, kernel: Kernel, seed: tf.Tensor) -> tf.Tensor:
        """|M|."""
        del seed
        return tf.abs(kernel.state["momentum"])
