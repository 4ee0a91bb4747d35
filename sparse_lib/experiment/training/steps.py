"""Compiled training steps: many per call on data in memory, one per call on data from disk."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from sparse_lib import gradient_flow
from sparse_lib._keras.tracing import all_layers
from sparse_lib._utils import distribute
from sparse_lib._utils.sums import sum_in_order
from sparse_lib.execution import Execution, Plan
from sparse_lib.experiment.data import Split, batch_indices
from sparse_lib.experiment.data.feeding.resident import Resident
from sparse_lib.experiment.data.feeding.stream import TrainingStream
from sparse_lib.experiment.data.sources.tfrecords import EncodedImages
from sparse_lib.experiment.runtime.errors import SettingError
from sparse_lib.experiment.training.sparse_steps import SparseSteps
from sparse_lib.objective import Scope, call, cross_entropy
from sparse_lib.optimizer import SparseOptimizer

# Steps per compiled call; a static size, as XLA requires. 100 steps hide the overhead of a call.
CHUNK = 100


def wants_xla(model: keras.Model) -> bool:
    """Decides whether XLA compiles the training loop, where `training.jit_compile` is None.

    On a CPU, XLA makes dense layers 1.3 times faster and small convolutions 10 times slower; elsewhere it pays.

    Args:
      model: the network.

    Returns:
      True on accelerators, and on CPUs for networks without convolutions on one device.
    """
    if tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("TPU"):
        return True
    convolutional = any("Conv" in type(layer).__name__ for layer in all_layers(model))
    return not convolutional and not tf.distribute.has_strategy()


@dataclasses.dataclass(frozen=True)
class ChunkResult:
    """Losses and hits of a chunk of training steps.

    Attributes:
      losses: mean cross-entropy of each batch, without regularisation, [steps] (nats).
      correct: correctly classified examples of each batch, [steps] (count).
    """

    losses: np.ndarray
    correct: np.ndarray


class Steps:
    """Compiled training steps; the batch of a step is a function of (seed, step) alone."""

    def __init__(
        self,
        model: keras.Model,
        optimizer: SparseOptimizer,
        train: Split,
        *,
        batch_size: int,
        seed: int,
        augmentation: str | None = None,
        label_smoothing: float = 0.0,
        gradient_regularization: float = 0.0,
        weight_decay_warmup: int = 0,
        jit_compile: bool | None = None,
        execution: Execution | None = None,
    ) -> None:
        """Moves data in memory to the device; nothing is traced yet.

        Args:
          model: the network; it returns logits.
          optimizer: built on the model's trainable variables.
          train: images and labels.
          batch_size: global batch size (examples).
          seed: of the order and of the augmentation of the data.
          augmentation: of the images, as in `Dataset`.
          label_smoothing: share of the target distributed evenly over all classes (fraction).
          gradient_regularization: lambda of the penalty lambda/2 ||g||^2 on the masked gradient of the loss.
          weight_decay_warmup: steps over which the L2 term rises linearly from 0 (step); 0 has no warm-up.
          jit_compile: whether XLA compiles the loop; None means `wants_xla(model)`.
          execution: which layers multiply by their active weights alone between mask updates; None means none.

        Raises:
          SettingError: if the batch size is not a multiple of the number of replicas.
        """
        self._strategy = tf.distribute.get_strategy()
        self._replicas = self._strategy.num_replicas_in_sync
        if batch_size % self._replicas:
            raise SettingError(
                f"training.batch_size={batch_size} cannot be shared out over {self._replicas} replicas; use a multiple."
            )
        self._model, self._optimizer = model, optimizer
        self._examples = len(train)
        self._batch_size, self._seed, self._penalty = batch_size, seed, gradient_regularization
        self._smoothing, self._decay_warmup = label_smoothing, weight_decay_warmup
        self._resident: Resident | None = None
        if isinstance(train.images, EncodedImages):
            self._stream = TrainingStream(
                train.images,
                train.labels,
                augmentation=augmentation,
                batch_size=batch_size,
                seed=seed,
                places=self._own_places(),
            )
        else:
            self._resident = Resident(train, augmentation=augmentation, seed=seed)
        jit = wants_xla(model) if jit_compile is None else jit_compile
        execution = execution or Execution(model, optimizer.masks, "dense")
        self._sparse = SparseSteps(model.trainable_variables, optimizer, execution, batch_size)
        # Autograph is not needed, and would take longer than the rest of the tracing.
        self._chunk = tf.function(self._run_chunk, jit_compile=jit, autograph=False)
        self._one = tf.function(self._run_one, jit_compile=jit, autograph=False)
        self._sparse_chunk = tf.function(self._run_sparse_chunk, autograph=False)
        self._sparse_one = tf.function(self._run_sparse_one, autograph=False)
        self._begin_update = tf.function(self._run_begin_update, autograph=False)
        self._finish_update = tf.function(self._run_finish_update, autograph=False)

    def _own_places(self) -> range:
        """Returns the positions in the global batch that the replicas of this process see."""
        replicas: list[int] = []

        def note(context: Any) -> tf.Tensor:
            replicas.append(context.replica_id_in_sync_group)
            return tf.zeros([])

        self._strategy.experimental_distribute_values_from_function(note)
        share = self._batch_size // self._replicas
        return range(min(replicas) * share, (max(replicas) + 1) * share)

    @property
    def evaluation_scope(self) -> Scope:
        """Makes a context for evaluation, in which layers are executed as in training."""
        return self._sparse.execution.at_weights

    def explain_execution(self) -> dict[str, str]:
        """Describes how each sparse kernel is executed at the present density, by name."""
        return self._sparse.explain()

    def indices(self, step: int, steps: int) -> np.ndarray:
        """Returns the examples of the batches of consecutive steps, [steps, batch_size] int32.

        Args:
          step: the first one (step).
          steps: number of steps (count).
        """
        return batch_indices(
            seed=self._seed, first_step=step, steps=steps, batch_size=self._batch_size, n=self._examples
        )

    def run(self, step: int, steps: int, *, with_updates: bool = False) -> ChunkResult:
        """Takes up to `CHUNK` training steps in one call.

        Args:
          step: the first one (step).
          steps: number of steps (count).
          with_updates: whether masks change within the chunk, for updaters that change them at every step.

        Returns:
          Loss and number of correct examples of each step.
        """
        if with_updates:
            self._sparse.invalidate()
        plan = self._sparse.plan()
        kind = (plan, with_updates) if plan else (with_updates,)
        one = functools.partial(self._sparse_one if plan else self._one, *kind)
        chunk = functools.partial(self._sparse_chunk if plan else self._chunk, *kind)
        if self._resident is None:
            taken = [one(*self._feed(step + i)) for i in range(steps)]
            return ChunkResult(*(np.array([value.numpy() for value in values]) for values in zip(*taken, strict=True)))
        orders = self._resident.orders(self.indices(step, steps), step)
        padded = np.zeros((CHUNK, *orders.shape[1:]), np.int32)
        padded[:steps] = orders
        losses, correct = chunk(tf.constant(padded), tf.constant(steps))
        return ChunkResult(losses.numpy()[:steps], correct.numpy()[:steps])

    def begin_mask_update(self, step: int) -> tuple[ChunkResult, list[Any]]:
        """Runs the first half of an updating step: gradients, and the optimizer step unless the update replaces it.

        Args:
          step: of the batch (step).

        Returns:
          Loss and number of correct examples of the batch, and the gradients for `finish_mask_update`.
        """
        loss, correct, gradients = self._begin_update(*self._feed(step))
        return ChunkResult(loss.numpy()[None], correct.numpy()[None]), gradients

    def finish_mask_update(self, gradients: list[Any]) -> None:
        """Runs the second half of an updating step: changes the masks.

        Args:
          gradients: from `begin_mask_update`.
        """
        self._finish_update(gradients)
        self._sparse.invalidate()

    def _feed(self, step: int) -> tuple[Any, ...]:
        """Returns the input of a step: row orders for images in memory, else the images and labels of each replica."""
        if self._resident is not None:
            return (tf.constant(self._resident.orders(self.indices(step, 1), step)[0]),)
        images, labels = self._stream.batch(step)
        if self._replicas == 1:
            return images, labels
        share = self._batch_size // self._replicas
        first = self._own_places().start

        def part(values: tf.Tensor) -> Any:
            def own(context: Any) -> tf.Tensor:
                start = context.replica_id_in_sync_group * share - first
                return values[start : start + share]

            return self._strategy.experimental_distribute_values_from_function(own)

        return part(images), part(labels)

    def _batch(self, *feed: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Returns images and labels of this replica, from the output of `_feed`."""
        if self._resident is None:
            return feed
        share = self._batch_size // self._replicas
        context = tf.distribute.get_replica_context()
        start = (context.replica_id_in_sync_group if self._replicas > 1 else 0) * share
        (orders,) = feed
        return self._resident.batch(tf.slice(orders, [start, 0], [share, -1]))

    def _dense_gradients(self, *feed: Any) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        variables = self._model.trainable_variables
        return self._gradients(feed, variables, self._optimizer.masks.aligned(variables))

    def _gradients(
        self, feed: Sequence[Any], weights: Sequence[Any], masks: Sequence[Any]
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """Returns the contributions of this replica: loss, number of correct examples, and gradients by weights."""
        images, labels = self._batch(*feed)
        with tf.GradientTape() as tape:
            logits = self._model(images, training=True)
            loss = tf.reduce_mean(cross_entropy(labels, logits))
            objective = self._smooth(loss, logits)
            if self._penalty:
                objective += self._gradient_penalty(images, labels, weights, masks)
            if self._model.losses:
                objective += self._warm_up(sum_in_order(self._model.losses))
            share = objective / self._replicas
        correct = tf.math.count_nonzero(tf.argmax(logits, -1, output_type=tf.int32) == labels, dtype=tf.int32)
        return loss / self._replicas, correct, tape.gradient(share, weights)

    def _smooth(self, loss: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Mean cross-entropy with targets (1 - s) one-hot + s / classes (Szegedy et al. 2016, section 7)."""
        if not self._smoothing:
            return loss
        logits = tf.cast(logits, loss.dtype)
        uniform = tf.reduce_mean(tf.reduce_logsumexp(logits, -1) - tf.reduce_mean(logits, -1))
        return (1 - self._smoothing) * loss + self._smoothing * uniform

    def _warm_up(self, penalty: tf.Tensor) -> tf.Tensor:
        """L2 term times min(1, step / warm-up)."""
        if not self._decay_warmup:
            return penalty
        step = tf.cast(self._optimizer.iterations, penalty.dtype)
        return penalty * tf.minimum(step / self._decay_warmup, 1.0)

    def _gradient_penalty(
        self, images: tf.Tensor, labels: tf.Tensor, weights: Sequence[Any], masks: Sequence[Any]
    ) -> tf.Tensor:
        with tf.GradientTape() as tape:
            # Not the model itself: the penalty must not update batch-norm averages and dropout seeds a second time.
            logits = call(self._model, [], [], images, training=True)
            loss = self._smooth(tf.reduce_mean(cross_entropy(labels, logits)), logits)
        masked = gradient_flow.apply_masks(tape.gradient(loss, weights), masks)
        return self._penalty * sum_in_order([tf.nn.l2_loss(g) for g in masked])

    def _sum_over_replicas(self, loss: Any, correct: Any) -> tuple[tf.Tensor, tf.Tensor]:
        if self._replicas == 1:
            return loss, correct
        total = tf.distribute.ReduceOp.SUM
        return self._strategy.reduce(total, loss, None), self._strategy.reduce(total, correct, None)

    def _run_chunk(self, with_updates: bool, orders: tf.Tensor, steps: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return _repeat(lambda order: self._run_one(with_updates, order), orders, steps)

    def _run_one(self, with_updates: bool, *feed: Any) -> tuple[tf.Tensor, tf.Tensor]:
        def step(*feed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            loss, correct, gradients = self._dense_gradients(*feed)
            if with_updates:
                self._optimizer.apply(gradients)
            else:
                self._optimizer.train_step(self._optimizer.reduce(gradients))
            return loss, correct

        return self._sum_over_replicas(*distribute.per_replica(self._strategy, step, *feed))

    def _run_sparse_chunk(
        self, plan: Plan, with_updates: bool, orders: tf.Tensor, steps: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        with self._sparse.steps(plan, with_updates=with_updates) as step:
            return _repeat(lambda order: step(functools.partial(self._gradients, (order,))), orders, steps)

    def _run_sparse_one(self, plan: Plan, with_updates: bool, *feed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with self._sparse.steps(plan, with_updates=with_updates) as step:
            return step(functools.partial(self._gradients, feed))

    def _run_begin_update(self, *feed: Any) -> tuple[tf.Tensor, tf.Tensor, list[Any]]:
        def step(*feed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
            loss, correct, gradients = self._dense_gradients(*feed)
            reduced = self._optimizer.reduce(gradients)
            if not self._optimizer.updater.replaces_step:
                self._optimizer.train_step(reduced)
            return loss, correct, [None if g is None else tf.identity(g) for g in reduced]

        loss, correct, kept = distribute.per_replica(self._strategy, step, *feed)
        return *self._sum_over_replicas(loss, correct), kept

    def _run_finish_update(self, gradients: list[Any]) -> None:
        distribute.per_replica(self._strategy, self._optimizer.mask_step, gradients)


def _repeat(
    step: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]], orders: tf.Tensor, steps: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Takes steps one after the other; returns their losses and numbers of correct examples, [CHUNK]."""
    losses = tf.TensorArray(tf.float64 if keras.config.floatx() == "float64" else tf.float32, CHUNK, element_shape=[])
    correct = tf.TensorArray(tf.int32, CHUNK, element_shape=[])

    def body(
        i: tf.Tensor, losses: tf.TensorArray, correct: tf.TensorArray
    ) -> tuple[tf.Tensor, tf.TensorArray, tf.TensorArray]:
        loss, right = step(orders[i])
        return i + 1, losses.write(i, loss), correct.write(i, right)

    _, losses, correct = tf.while_loop(lambda i, *_: i < steps, body, (0, losses, correct), parallel_iterations=1)
    return losses.stack(), correct.stack()
