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
