"""Bezier curves of low loss between two solutions: their inner control points are trained."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from sparse_lib import selection
from sparse_lib._utils.errors import InputError
from sparse_lib.landscape.paths import Bezier, Values, bernstein
from sparse_lib.objective import Objective

# Keeps the draws apart from other uses of the same seed.
_STREAM = 0xBE21
# Steps of one compiled call: enough to hide the cost of a call.
CHUNK = 100


class Examples(NamedTuple):
    """What a curve is trained on.

    Attributes:
      batch: row numbers, int32 [batch], to inputs and targets; it is called inside a graph.
      size: how many rows there are (count).
    """

    batch: Callable[[tf.Tensor], tuple[Any, Any]]
    size: int


def in_memory(x: Any, y: Any) -> Examples:
    """Puts examples on the device.

    Args:
      x: inputs, an array of n examples.
      y: their targets.

    Returns:
      The examples.
    """
    inputs, targets = tf.constant(x), tf.constant(y)
    return Examples(lambda rows: (tf.gather(inputs, rows), tf.gather(targets, rows)), len(y))


class CurveFit:
    """Stochastic gradient descent on the expected loss along a Bezier curve between two fixed ends.

    min over theta_1..theta_(n-1) of E_{t ~ U(0, 1)} L(B(t)), with one t and one batch a step (Garipov et al. 2018,
    section 3; arXiv 1906.10732 and arXiv 1911.11134, figure 6, for sparse networks). The curve starts as the
    straight line. Batch norm normalises by the batch, as it must where no statistics belong to the weights. What a
    step sees is a function of (seed, step) alone, so that a fit that is restored goes on as if it had not stopped.
    """

    def __init__(
        self,
        objective: Objective,
        start: Values,
        end: Values,
        examples: Examples,
        *,
        optimizer: keras.optimizers.Optimizer,
        degree: int = 2,
        masks: Sequence[np.ndarray | None] | None = None,
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        """Places the control points on the line.

        Args:
          objective: the loss.
          start: trainable values of one end.
          end: of the other.
          examples: to train on.
          optimizer: a new Keras optimizer.
          degree: 2 (quadratic) or more; a curve of degree n has n - 1 points to learn.
          masks: boolean arrays of the weights that may differ from 0, one a value, None for all; None leaves the
            curve in the space of all weights.
          batch_size: examples of a step (count); 128 in Garipov et al.
          seed: of places and batches.

        Raises:
          ValueError: for a degree below 2, ends of other shapes than the model's, or an end that is not zero off the
            masks.
        """
        variables = objective.model.trainable_variables
        line = Bezier((start, end))
        if degree < 2:
            raise InputError(f"A curve of degree {degree} has no point to learn: choose 2 or more.")
        if [np.shape(value) for value in start] != [tuple(v.shape) for v in variables]:
            raise InputError(f"The ends do not have the shapes of the trainable variables of {objective.model.name!r}.")
        masks = [None] * len(variables) if masks is None else masks
        for mask, a, b in zip(masks, start, end, strict=True):
            if mask is not None and (np.any(np.asarray(a)[~mask]) or np.any(np.asarray(b)[~mask])):
                raise InputError("An end of the curve leaves the subspace: make it zero off the masks, or give others.")
        self._objective, self._examples = objective, examples
        self._degree, self._batch_size, self._seed = degree, batch_size, seed
        self._start, self._end = list(start), list(end)
        # Constants of their own, so that the graph refers to them and does not hold copies.
        self._fixed = [[tf.constant(value) for value in point] for point in (start, end)]
        self._masks = [None if mask is None else tf.constant(mask) for mask in masks]
        self._inner = [
            [keras.Variable(value, name=f"point{k}.{i}") for i, value in enumerate(line(k / degree))]
            for k in range(1, degree)
        ]
        self._flat = [variable for point in self._inner for variable in point]
        self._optimizer = optimizer
        self._optimizer.build(self._flat)
        self._run = tf.function(
            self._run_steps,
            input_signature=[tf.TensorSpec([None, degree + 1]), tf.TensorSpec([None, batch_size], tf.int32)],
            autograph=False,
        )

    @property
    def step(self) -> int:
        """Optimizer steps taken so far (step)."""
        return int(self._optimizer.iterations.numpy())

    def state(self) -> Mapping[str, Mapping[str, tf.Variable]]:
        """What a checkpoint must hold for the fit to go on: control points and optimizer, by group and name."""
        return {
            "points": {variable.name: variable.value for variable in self._flat},
            "optimizer": {f"{i}.{v.name}": v.value for i, v in enumerate(self._optimizer.variables)},
        }

    def curve(self) -> Bezier:
        """The curve as it stands."""
        inner = [[variable.numpy() for variable in point] for point in self._inner]
        return Bezier((self._start, *inner, self._end))

    def run(self, steps: int) -> np.ndarray:
        """Takes some steps.

        Args:
          steps: how many (count).

        Returns:
          The loss of each step's batch at the step's place on the curve, [steps].

        Raises:
          ValueError: if a loss is not finite.
        """
        first, stop = self.step, self.step + steps
        chunks = (self.draw(step, min(CHUNK, stop - step)) for step in range(first, stop, CHUNK))
        losses = np.concatenate([self._run(*chunk).numpy() for chunk in chunks])
        bad = np.flatnonzero(~np.isfinite(losses))
        if bad.size:
            raise InputError(
                f"The loss along the curve is {losses[bad[0]]} at step {first + bad[0]}: lower the learning rate."
            )
        return losses

    def draw(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Draws places on the curve and batches.

        Args:
          first: step of the first draw.
          count: number of steps.

        Returns:
          Weights of the control points `[count, degree + 1]` and rows of examples `[count, batch size]`.
        """
        weights, rows = [], []
        for step in range(first, first + count):
            rng = np.random.default_rng([self._seed, _STREAM, step])
            weights.append(bernstein(self._degree, rng.random()))
            rows.append(rng.integers(0, self._examples.size, self._batch_size, np.int32))
        return np.array(weights, np.float32), np.array(rows)

    def _run_steps(self, weights: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        steps = tf.shape(weights)[0]
        losses = tf.TensorArray(tf.float32, steps, element_shape=[])

        def body(i: tf.Tensor, losses: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            return i + 1, losses.write(i, self._take_step(weights[i], rows[i]))

        return tf.while_loop(lambda i, _: i < steps, body, (0, losses), parallel_iterations=1)[1].stack()

    def _take_step(self, weights: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        shares = tf.unstack(weights)
        points = [self._fixed[0], *self._inner, self._fixed[1]]
        params = [
            tf.add_n([tf.cast(share, values[0].dtype) * value for share, value in zip(shares, values, strict=True)])
            for values in zip(*points, strict=True)
        ]
        x, y = self._examples.batch(rows)
        loss, gradient = self._objective.loss_and_gradient(params, x, y, training=True)
        # dL/dtheta_k = b_k(t) dL/dB(t), and the subspace is linear: no second tape.
        pairs = zip(gradient, self._masks, strict=True)
        masked = [g if mask is None else selection.on_mask(mask, g) for g, mask in pairs]
        self._optimizer.apply([tf.cast(share, g.dtype) * g for share in shares[1:-1] for g in masked], self._flat)
        return tf.cast(loss, tf.float32)


def fit_curve(
    objective: Objective,
    start: Values,
    end: Values,
    x: Any,
    y: Any,
    *,
    steps: int,
    degree: int = 2,
    masks: Sequence[np.ndarray | None] | None = None,
    learning_rate: float = 0.015,
    batch_size: int = 128,
    seed: int = 0,
) -> Bezier:
    """Trains a curve from its start to its end in one call, by SGD with momentum 0.9.

    Args:
      objective: the loss.
      start: trainable values of one end.
      end: of the other.
      x: inputs to train on.
      y: their targets.
      steps: length of the training (count).
      degree: 2 (quadratic) or more.
      masks: boolean arrays of the weights that may differ from 0; see `CurveFit`.
      learning_rate: at the start, with cosine decay to 0; Garipov et al. (2018) train the curve of their network
        without batch norm at 0.015, with momentum 0.9 and batches of 128, constant at first and linear afterwards.
      batch_size: examples of a step (count).
      seed: of places and batches.

    Returns:
      The trained curve.

    Raises:
      ValueError: as `CurveFit` does, and if a loss is not finite.
    """
    rate = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    optimizer = keras.optimizers.SGD(rate, momentum=0.9)
    fit = CurveFit(
        objective,
        start,
        end,
        in_memory(x, y),
        optimizer=optimizer,
        degree=degree,
        masks=masks,
        batch_size=batch_size,
        seed=seed,
    )
    fit.run(steps)
    return fit.curve()
