"""Loss and accuracy of a model at given weights and along a path."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from sparse_lib._keras.losses import is_right
from sparse_lib._utils import distribute
from sparse_lib._utils.errors import InputError
from sparse_lib.batches import Batches
from sparse_lib.landscape import batch_norm
from sparse_lib.objective import Loss, Objective, Scope, call


class Score(NamedTuple):
    """Performance of a classifier on some examples.

    Attributes:
      loss: mean over the examples, in the units of the loss (nats for cross-entropy).
      accuracy: share of correctly classified examples (fraction).
    """

    loss: float
    accuracy: float

    @classmethod
    def of(cls, losses: np.ndarray, is_right: np.ndarray) -> "Score":
        """Averages examples, losses in float64.

        Args:
          losses: of each example, [n].
          is_right: whether each example is correctly classified, [n].

        Returns:
          The score.
        """
        return cls(float(np.mean(losses, dtype=np.float64)), float(np.mean(is_right)))


class BatchScore(NamedTuple):
    """Inference on one batch.

    Attributes:
      losses: of each example, [n].
      is_right: whether the largest output is that of the label, or a single output on its side, [n]; the share of
        tokens per example where there are several.
      outputs: of the model, [n, classes].
    """

    losses: tf.Tensor
    is_right: tf.Tensor
    outputs: tf.Tensor


def evaluate_batch(
    objective: Objective,
    x: tf.Tensor,
    y: tf.Tensor,
    variables: Sequence[keras.Variable] = (),
    values: Sequence[tf.Tensor] = (),
) -> BatchScore:
    """Evaluates a classifier on a batch in inference mode; moves no state.

    Args:
      objective: the model, which returns one score per class (or one for two classes), and its loss.
      x: inputs with n examples.
      y: integer labels with n examples.
      variables: of the model, to be replaced by `values`; all others are read from the model.
      values: one tensor per variable.

    Returns:
      Loss and outcome of each example.
    """
    outputs = call(objective.model, variables, values, x, scope=objective.scope)
    losses = objective.losses_of(outputs, y)
    return BatchScore(losses, is_right(objective.loss, objective.model, y, outputs), outputs)


Scores = Mapping[str, Score]
Evaluate = Callable[[list[np.ndarray]], Scores]


class ModelEvaluator:
    """Evaluates a classifier at given weights, in inference mode, and moves no state of the model.

    At the model's own values the scores equal plain evaluation. Where the model lives under a tf.distribute strategy
    with several replicas, the batches are shared out among them.

    Examples:
      >>> import keras
      >>> import numpy as np
      >>> from sparse_lib import landscape
      >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
      >>> data = {"test": (np.ones((4, 1), "float32"), np.array([0, 0, 0, 1]))}
      >>> score = landscape.ModelEvaluator(model, data)([np.zeros((1, 2), "float32"), np.zeros(2, "float32")])["test"]
      >>> score.accuracy, round(score.loss, 4)  # of equal logits, the loss is log 2
      (0.75, 0.6931)
    """

    def __init__(
        self,
        model: keras.Model,
        data: Mapping[str, Any],
        *,
        loss: Loss | None = None,
        batch_size: int = 1000,
        scope: Scope = contextlib.nullcontext,
    ) -> None:
        """Checks the data; tracing happens on the first call.

        Args:
          model: a built model that returns one score per class, [n, classes].
          data: inputs and integer labels of each split, a tuple of arrays or any form that `Batches.of` takes.
          loss: a Keras loss, or (labels, scores) -> one loss per example; None means cross-entropy of logits.
          batch_size: examples per forward pass (count).
          scope: makes a context for each call of the model, such as `Execution.at_weights`.

        Raises:
          ValueError: for an empty split or one without a label for each example.
        """
        for name, split in data.items():
            x, y = split if isinstance(split, tuple) and len(split) == 2 else ((0,), (0,))
            if not keras.tree.is_nested(x) and (not len(y) or len(x) != len(y)):
                raise InputError(f"Split {name!r} has {len(x)} examples and {len(y)} labels: give one label for each.")
        self._objective = Objective(model, loss, scope)
        self._data = {name: Batches.of(split, batch_size) for name, split in data.items()}
        self._variables = [*model.trainable_variables, *batch_norm.statistics(model)]
        self._trainable = len(model.trainable_variables)
        variable = model.variables[0].value if model.variables else None
        self._strategy = distribute.owner(variable) or tf.distribute.get_strategy()
        self._batches = tf.function(self._evaluate_batches, autograph=False, reduce_retracing=True)

    def _evaluate_batches(self, values: list[tf.Tensor], x: Any, y: Any) -> list[tuple[tf.Tensor, tf.Tensor]]:
        """Evaluates one batch per replica."""
        with self._strategy.scope():
            found = distribute.per_replica(self._strategy, self._evaluate_batch, values, x, y)
        losses, right = map(self._strategy.experimental_local_results, found)
        return list(zip(losses, right, strict=True))

    def _evaluate_batch(self, values: list[tf.Tensor], x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        found = evaluate_batch(self._objective, x, y, self._variables[: len(values)], values)
        return found.losses, found.is_right

    def __call__(
        self, values: Sequence[np.ndarray | tf.Tensor], statistics: Sequence[np.ndarray | tf.Tensor] = ()
    ) -> dict[str, Score]:
        """Evaluates every split.

        Args:
          values: trainable values, in the order of `model.trainable_variables`.
          statistics: batch-norm statistics, as from `BatchNormEstimator`; the model's own if empty.

        Returns:
          Loss and accuracy by split.

        Raises:
          ValueError: for another number of values or statistics than the model has.
        """
        if len(values) != self._trainable or len(statistics) not in (0, len(self._variables) - self._trainable):
            raise InputError(
                f"Got {len(values)} values and {len(statistics)} statistics; model {self._objective.model.name!r} has "
                f"{self._trainable} trainable variables and {len(self._variables) - self._trainable} statistics."
            )
        tensors = [tf.convert_to_tensor(value) for value in (*values, *statistics)]
        return {name: self._score(tensors, batches) for name, batches in self._data.items()}

    def _score(self, tensors: list[tf.Tensor], batches: Batches) -> Score:
        losses, right = [], []
        left = iter(batches)
        replicas = self._strategy.num_replicas_in_sync
        while parts := list(itertools.islice(left, replicas)):
            # Idle replicas repeat a batch, whose result is dropped.
            idle = parts[:1] * (replicas - len(parts))
            found = self._batches(tensors, *distribute.share_out(self._strategy, [*parts, *idle]))
            for loss, correct in found[: len(parts)]:
                losses.append(loss.numpy())
                right.append(correct.numpy())
        return Score.of(np.concatenate(losses), np.concatenate(right))


def evaluate_path(
    path: Callable[[float], list[np.ndarray]], coefficients: Sequence[float], evaluate: Evaluate
) -> Iterator[tuple[float, Scores]]:
    """Evaluates a path lazily, so that each point can be saved before the next one is computed.

    Args:
      path: from a coefficient to weights, such as a `Bezier`.
      coefficients: positions on the path.
      evaluate: from weights to scores by split, such as a `ModelEvaluator`.

    Yields:
      Each coefficient with its scores.
    """
    for coefficient in coefficients:
        yield coefficient, evaluate(path(coefficient))
