"""Training of Bezier curves of low loss between two solutions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from sparse_lib import selection
from sparse_lib._utils.errors import InputError
from sparse_lib._utils.sums import sum_in_order
from sparse_lib.landscape.paths import Bezier, Values, bernstein
from sparse_lib.objective import Objective

# Separates these random streams from other uses of the same seed.
_STREAM = 0xBE21
# Steps per compiled call (count): enough to hide the cost of a call.
CHUNK = 100


class Examples(NamedTuple):
    """Training data of a curve.

    Attributes:
      batch: from row indices, int32 [batch], to inputs and targets; it is called inside a graph.
      size: number of rows (count).
    """

    batch: Callable[[tf.Tensor], tuple[Any, Any]]
    size: int


def in_memory(x: Any, y: Any) -> Examples:
    """Puts examples on the device.

    Args:
      x: inputs, [n, ...].
      y: targets, [n, ...].

    Returns:
      The examples.
    """
    inputs, targets = tf.constant(x), tf.constant(y)
    return Examples(lambda rows: (tf.gather(inputs, rows), tf.gather(targets, rows)), len(y))


class CurveFit:
    """Stochastic gradient descent on the expected loss along a Bezier curve between two fixed ends.

    min over theta_1..theta_(n-1) of E_{t ~ U(0, 1)} L(B(t)), with one t and one batch a step (Garipov et al. 2018,
    section 3; arXiv 1906.10732 and arXiv 1911.11134, figure 6, for sparse networks). The curve starts as the
    straight line. Batch norm normalizes by the batch, since no moving statistics belong to these weights. The examples
    and the position of a step are a function of (seed, step) alone, so that a restored fit continues exactly.
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
        """Places the control points on the straight line.

        Args:
          objective: the loss.
          start: trainable values of one end.
          end: trainable values of the other end.
          examples: training data.
          optimizer: a new Keras optimizer.
          degree: 2 (quadratic) or more; a curve of degree n has n - 1 trained control points.
          masks: one boolean array per variable, true for weights that may differ from 0, or None where all may; None
            leaves the curve in the space of all weights.
          batch_size: examples per step (count); 128 in Garipov et al.
          seed: seed of positions and batches.

        Raises:
          ValueError: for a degree below 2, ends whose shapes are not the model's, or ends that are not zero off the
            masks.
        """
        variables = objective.model.trainable_variables
        line = Bezier((start, end))
        if degree < 2:
            raise InputError(f"A curve of degree {degree} has no control point to train: choose 2 or more.")
        if [np.shape(value) for value in start] != [tuple(v.shape) for v in variables]:
            raise InputError(f"The ends do not have the shapes of the trainable variables of {objective.model.name!r}.")
        masks = [None] * len(variables) if masks is None else masks
        for mask, a, b in zip(masks, start, end, strict=True):
            if mask is not None and (np.any(np.asarray(a)[~mask]) or np.any(np.asarray(b)[~mask])):
                raise InputError("An end of the curve leaves the subspace: make it zero off the masks, or give others.")
        self._objective, self._examples = objective, examples
        self._degree, self._batch_size, self._seed = degree, batch_size, seed
        self._start, self._end = list(start), list(end)
        # Tensors, so that the graph captures them instead of copying them into constants.
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
        """Variables to checkpoint, by group and name: control points and optimizer."""
        return {
            "points": {variable.name: variable.value for variable in self._flat},
            "optimizer": {f"{i}.{v.name}": v.value for i, v in enumerate(self._optimizer.variables)},
        }

    def curve(self) -> Bezier:
        """The curve at the present control points."""
        inner = [[variable.numpy() for variable in point] for point in self._inner]
        return Bezier((self._start, *inner, self._end))

    def run(self, steps: int) -> np.ndarray:
        """Trains for some steps.

        Args:
          steps: optimizer steps (count).

        Returns:
          The loss of each step's batch at its position on the curve, [steps].

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
            sum_in_order([tf.cast(share, values[0].dtype) * value for share, value in zip(shares, values, strict=True)])
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
    """Trains a curve in one call, by SGD with momentum 0.9 and cosine decay.

    Args:
      objective: the loss.
      start: trainable values of one end.
      end: trainable values of the other end.
      x: training inputs, [n, ...].
      y: training targets, [n, ...].
      steps: optimizer steps (count).
      degree: 2 (quadratic) or more.
      masks: boolean arrays of the weights that may differ from 0; see `CurveFit`.
      learning_rate: initial rate, which decays to 0; Garipov et al. (2018) train the curve of their network without
        batch norm at 0.015, with momentum 0.9 and batches of 128, constant at first and linear afterwards.
      batch_size: examples per step (count).
      seed: seed of positions and batches.

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
