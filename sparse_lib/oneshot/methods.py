"""The methods of one-shot pruning: initial masks from saliency scores."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import tensorflow as tf

from sparse_lib._keras.losses import keep_mask
from sparse_lib._utils.errors import InputError
from sparse_lib.objective import Objective
from sparse_lib.oneshot import scores, synflow
from sparse_lib.oneshot.base import OneShot, Problem, Scorer
from sparse_lib.oneshot.input_norms import InputSquares
from sparse_lib.oneshot.scores import Tensors


@dataclasses.dataclass(frozen=True, kw_only=True)
class Magnitude(OneShot):
    """Keeps the largest weights; needs no data."""

    def scorer(self, problem: Problem) -> Scorer:
        """Scores |w|, see `scores.magnitude`."""
        return lambda params: scores.magnitude(params, problem.kernels)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Random(OneShot):
    """Keeps random weights; needs no data."""

    def scorer(self, problem: Problem) -> Scorer:
        """Scores at random, see `scores.random`."""
        return lambda params: scores.random(params, problem.kernels, problem.seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SNIP(OneShot):
    """Keeps the weights to which the loss is most sensitive (Lee et al. 2019).

    More than one round makes it iterative SNIP (de Jorge et al. 2020).

    Examples:
      >>> import keras
      >>> import numpy as np
      >>> import sparse_lib
      >>> from sparse_lib import oneshot
      >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(10)])
      >>> x, y = np.eye(20, dtype=np.float32), np.arange(20) % 10
      >>> kernels = sparse_lib.sparse_kernels(model)
      >>> values = oneshot.SNIP(sparsity=0.8).masks(sparse_lib.Objective(model), kernels, [(x, y)])
      >>> masks = sparse_lib.Masks(list(kernels.values()), values)
      >>> masks.active()
      [40]
    """

    needs_data: ClassVar[bool] = True

    def scorer(self, problem: Problem) -> Scorer:
        """Scores |g w|, see `scores.snip`."""
        loss, batches = _Compiled(problem.objective), problem.data()
        return lambda params: scores.snip(loss, params, problem.kernels, batches)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraSP(OneShot):
    """Keeps the weights that carry the most gradient flow (Wang et al. 2020).

    Attributes:
      temperature: divisor of the outputs before the loss; 200 as in the authors' code, 1 for the paper's formula.
    """

    needs_data: ClassVar[bool] = True

    temperature: float = 200.0

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
          ValueError: for a setting out of range, or more than one round.
        """
        super().__post_init__()
        if self.temperature <= 0:
            raise InputError(f"The temperature is {self.temperature}: give a positive number.")
        if self.rounds != 1:
            raise InputError(f"GraSP is defined for 1 round, not {self.rounds}: leave rounds at 1.")

    def scorer(self, problem: Problem) -> Scorer:
        """Scores w * (H g) of the loss at that temperature, see `scores.grasp`."""
        loss, batches = _Compiled(with_temperature(problem.objective, self.temperature)), problem.data()
        return lambda params: scores.grasp(loss, params, problem.kernels, batches)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SynFlow(OneShot):
    """Keeps the weights that carry the most synaptic flow (Tanaka et al. 2020); needs no data.

    Activations that saturate (ReLU6, sigmoid) cut the flow, since signals grow from layer to layer.

    Attributes:
      rounds: 100, as in the paper, section 6.
      float64: whether the layers compute in float64; the flow of a ResNet-50 is about 1e65. False
        uses the model's own dtype, for layers with hard-coded dtypes.
    """

    rounds: int = 100
    float64: bool = True

    def scorer(self, problem: Problem) -> Scorer:
        """Scores |w| * dR/d|w|, see `scores.synflow` and `synflow.synaptic_flow`."""
        model = problem.objective.model
        ones = synflow.example_of_ones(model, problem.batches)

        def flow(params: Tensors) -> tf.Tensor:
            return synflow.synaptic_flow(model, params, ones, float64=self.float64)

        return tf.function(lambda params: scores.synflow(flow, params, problem.kernels))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanda(OneShot):
    """Keeps the weights that are large in proportion to their inputs (Sun et al. 2024); made for trained models.

    All inputs are those of the network before this round, while the authors recompute them behind every block that is
    pruned; more rounds come between the two.

    Attributes:
      scope: "output" ranks the inputs of each output by themselves, as in the paper, section 3.

    Examples:
      >>> import keras
      >>> import numpy as np
      >>> import sparse_lib
      >>> from sparse_lib import oneshot
      >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, use_bias=False)])
      >>> model.set_weights([np.array([[3.0, 1.0], [2.0, 2.0], [1.0, 3.0]])])
      >>> kernels = sparse_lib.sparse_kernels(model)
      >>> examples = (np.array([[1.0, 2.0, 4.0]]), np.array([0]))
      >>> values = oneshot.Wanda(sparsity=0.6).masks(sparse_lib.Objective(model), kernels, examples)
      >>> values[0].numpy().astype(int).tolist()  # of 3, 4 and 4, and of 1, 4 and 12, two stay
      [[0, 0], [1, 1], [1, 1]]
    """

    needs_data: ClassVar[bool] = True

    scope: Literal["global", "layer", "output"] = "output"

    def scorer(self, problem: Problem) -> Scorer:
        """Scores |w| times the norm of the inputs, see `scores.wanda`."""
        squares = InputSquares(problem.objective.model, problem.kernels)
        compiled, batches = tf.function(squares, reduce_retracing=True), problem.data()
        return lambda params: scores.wanda(compiled, params, problem.kernels, batches)


METHODS: Mapping[str, type[OneShot]] = {
    "magnitude": Magnitude,
    "random": Random,
    "snip": SNIP,
    "grasp": GraSP,
    "synflow": SynFlow,
    "wanda": Wanda,
}


def with_temperature(objective: Objective, temperature: float) -> Objective:
    """Divides the outputs by a temperature before the loss, loss(y, f(x) / T).

    Args:
      objective: model and loss.
      temperature: positive; above 1 it flattens the softmax.

    Returns:
      A new objective of the same model.
    """

    def loss_at_temperature(y_true: Any, outputs: Any) -> tf.Tensor:
        cooled = tf.nest.map_structure(lambda z: keep_mask(z, z / temperature), outputs)
        return objective.losses_of(cooled, y_true)

    return dataclasses.replace(objective, loss=loss_at_temperature)


class _Compiled:
    """Derivatives of an objective as graphs, traced once for all batches and rounds."""

    def __init__(self, objective: Objective) -> None:
        self.gradient = tf.function(objective.gradient, reduce_retracing=True)
        self.hvp = tf.function(objective.hvp, reduce_retracing=True)
