"""Metrics of a run: losses, gradient flow, distances, mask statistics and dead units, without side effects."""

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from sparse_lib import dead_neurons, gradient_flow, objective
from sparse_lib._utils.errors import InputError
from sparse_lib.experiment.data import Dataset, Split
from sparse_lib.landscape import Score, batch_norm, evaluate_batch
from sparse_lib.optimizer import SparseOptimizer

# Pixels per forward pass (count): 5,000 images of MNIST, the fastest size on two cores, and 26 of ImageNet.
PIXELS_AT_ONCE = 4_000_000
SPLITS = ("train", "validation", "test")


def select_held_out(dataset: Dataset) -> Split:
    """The split on which gradients are measured: validation, or training where validation is empty."""
    return dataset.validation if len(dataset.validation) else dataset.train


class Evaluator:
    """Loss, accuracy and logits of a split, at inference, with the current weights."""

    def __init__(
        self,
        model: keras.Model,
        seen: Callable[[int], None] | None = None,
        scope: objective.Scope = contextlib.nullcontext,
    ) -> None:
        """Chooses the batch size; tracing happens on the first call.

        Args:
          model: the network; it returns logits.
          seen: called with the number of images of each batch (count), such as `Progress.advance`.
          scope: makes a context for each call of the network, such as `Execution.at_weights`.
        """
        self._seen = seen or (lambda count: None)
        shape = model.input_shape[1:]
        self._objective = objective.Objective(model, scope=scope)
        self._at_once = max(1, PIXELS_AT_ONCE // math.prod(shape))
        self._batch = tf.function(
            self._evaluate_batch,
            input_signature=[tf.TensorSpec([None, *shape]), tf.TensorSpec([None], tf.int32)],
            autograph=False,
        )

    def _evaluate_batch(self, images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        found = evaluate_batch(self._objective, images, labels)
        return found.losses, found.outputs

    def logits(self, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """Evaluates all examples.

        Args:
          split: images and labels.

        Returns:
          Cross-entropies [n] and logits [n, classes].
        """
        parts = []
        for images, labels in split.batches(self._at_once):
            parts.append(self._batch(tf.constant(images), tf.constant(labels)))
            self._seen(len(labels))
        losses, logits = zip(*parts, strict=True)
        return np.concatenate([x.numpy() for x in losses]), np.concatenate([x.numpy() for x in logits])

    def evaluate(self, split: Split) -> Score:
        """Averages cross-entropy (nats) and accuracy (fraction) over a split."""
        losses, logits = self.logits(split)
        return Score.of(losses, np.argmax(logits, axis=-1) == split.labels)


class BatchStatisticsEvaluator(Evaluator):
    """Evaluator whose batch normalisation takes mean and variance of each batch, as in training.

    The `use_batch_statistics` of RigL's TF1 code, for weights whose moving averages belong to other weights. All other
    layers, dropout among them, are at inference.
    """

    def __init__(self, model: keras.Model, batch_size: int, seen: Callable[[int], None] | None = None) -> None:
        """Finds the batch-norm layers.

        Args:
          model: the network; it returns logits.
          batch_size: examples per batch (count); a split is divided into equal batches of about that size.
          seen: called with the number of images of each batch (count).

        Raises:
          InputError: for a network without batch normalisation.
        """
        super().__init__(model, seen)
        self._batch_size, self._statistics = batch_size, batch_norm.statistics(model)
        if not self._statistics:
            raise InputError(f"{model.name} has no batch normalisation; leave --use_batch_statistics out.")
        self._estimate = batch_norm.BatchNormEstimator(model)
        self._at = tf.function(self._evaluate_at, autograph=False, reduce_retracing=True)

    def _evaluate_at(
        self, values: list[tf.Tensor], images: tf.Tensor, labels: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        found = evaluate_batch(self._objective, images, labels, self._statistics, values)
        return found.losses, found.outputs

    def logits(self, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """Evaluates all examples, each with the statistics of its batch."""
        size = -(-len(split) // max(1, round(len(split) / self._batch_size)))
        params, parts = self._objective.params(), []
        for images, labels in split.batches(size):
            values = [tf.constant(value) for value in self._estimate(params, [images])]
            losses, logits = self._at(values, tf.constant(images), tf.constant(labels))
            parts.append((losses.numpy(), logits.numpy()))
            self._seen(len(labels))
        losses, logits = zip(*parts, strict=True)
        return np.concatenate(losses), np.concatenate(logits)


class Measurements:
    """The scalars of a log step; reads model, masks and optimizer and changes none."""

    def __init__(
        self,
        model: keras.Model,
        optimizer: SparseOptimizer,
        dataset: Dataset,
        *,
        held_size: int,
        initial: Sequence[np.ndarray],
        scope: objective.Scope = contextlib.nullcontext,
        dormant_threshold: float = 0.0,
    ) -> None:
        """Puts the held-out batch on the device.

        Args:
          model: the network.
          optimizer: the optimizer, which holds the masks.
          dataset: its held-out split is the data of all gradient metrics.
          held_size: maximum number of held-out examples (count).
          initial: trainable values at step 0, the origin of distances.
          scope: of evaluation, as in `Evaluator`.
          dormant_threshold: tau of dormant units; 0 measures dead ones alone.
        """
        self._dormant_threshold = dormant_threshold
        self._model, self._optimizer, self._dataset = model, optimizer, dataset
        self._variables = model.trainable_variables
        self._names = [v.path.removeprefix(f"{model.name}/") for v in self._variables]
        self._initial = [tf.constant(value) for value in initial]
        held = select_held_out(dataset)
        self._x, self._y = tf.constant(held.images[:held_size]), tf.constant(held.labels[:held_size])
        self._objective = objective.Objective(model)
        self._probe = dead_neurons.UnitProbe(model)
        self._evaluator = Evaluator(model, scope=scope)
        self._held = tf.function(self._held_scalars, autograph=False)
        self._norm = tf.function(self._gradient_norm, autograph=False)

    def _masks(self) -> list[tf.Tensor | None]:
        return self._optimizer.masks.aligned(self._variables)

    def _gradient_norm(self) -> tf.Tensor:
        gradients = self._objective.gradient(self._objective.params(), self._x, self._y)
        return gradient_flow.norms(gradients, self._masks()).total

    def gradient_norm(self) -> float:
        """Norm of the masked gradient of the unregularized loss on the held-out batch."""
        return float(self._norm())

    def _held_scalars(self) -> dict[str, tf.Tensor]:
        params, masks = self._objective.params(), self._masks()
        _, gradients = self._objective.loss_and_gradient(params, self._x, self._y)
        norms = gradient_flow.norms(gradients, masks)
        rate = tf.convert_to_tensor(self._optimizer.learning_rate)
        decrease = gradient_flow.loss_decrease(self._objective, params, gradients, masks, rate, self._x, self._y)
        distance = gradient_flow.distance(params, self._initial)
        scalars = {
            "learning_rate": rate,
            "gradient_norm": norms.total,
            "gradient_norm_off_mask": norms.off_total,
            "effective_gradient_flow": gradient_flow.effective_gradient_flow(gradients, masks, p=2),
            "effective_gradient_flow_l1": gradient_flow.effective_gradient_flow(gradients, masks, p=1),
            "predicted_loss_decrease": decrease.predicted,
            "real_loss_decrease": decrease.real,
            "distance_to_init_l2": distance.l2,
            "distance_to_init_cosine": distance.cosine,
        }
        for index, name in enumerate(self._names):
            scalars[f"gradient_norm/{name}"] = norms.per_tensor[index]
            if masks[index] is not None:
                scalars[f"gradient_norm_off_mask/{name}"] = norms.off_per_tensor[index]
            scalars[f"distance_to_init_l2/{name}"] = distance.l2_per_tensor[index]
            scalars[f"distance_to_init_cosine/{name}"] = distance.cosine_per_tensor[index]
        for slot, variables in self._optimizer.slots_by_name.items():
            scalars[f"{slot}_norm"] = gradient_flow.momentum_norms(
                [None if v is None else v.value for v in variables], masks
            ).total
        # With the same tensors as above, the graph holds this forward pass once.
        activities = self._probe.mean_absolute(self._x, params)
        for layer, activity in activities.items():
            scalars[f"dead_units/{layer}"] = dead_neurons.dormant_fraction(activity)
        if self._dormant_threshold and activities:
            marks = [dead_neurons.is_dormant(each, self._dormant_threshold) for each in activities.values()]
            shares = [tf.reduce_mean(tf.cast(units, tf.float32)) for units in (tf.concat(marks, axis=0), *marks)]
            names = ["dormant_units", *(f"dormant_units/{layer}" for layer in activities)]
            scalars |= dict(zip(names, shares, strict=True))
        return scalars

    def scalars(self) -> dict[str, float]:
        """Computes all scalars of the current state, by name.

        Returns:
          Losses and accuracies of validation and test, gradient flow, distances, slot norms, dead units, and the exact
          sparsity and exploration rate, in total and per layer.
        """
        values: dict[str, float] = {}
        splits = {"validation": self._dataset.validation, "test": self._dataset.test}
        for name, split in splits.items():
            if len(split):
                values[f"{name}_loss"], values[f"{name}_accuracy"] = self._evaluator.evaluate(split)
        values |= {name: float(value) for name, value in self._held().items()}
        return values | self._mask_scalars()

    def _mask_scalars(self) -> dict[str, float]:
        masks = self._optimizer.masks
        active, sizes, explored = masks.active(), masks.sizes(), masks.exploration_rate()
        weights = [rate * size for rate, size in zip(explored, sizes, strict=True)]
        values: dict[str, float] = {
            "sparsity": 1 - sum(active) / sum(sizes),
            "active_weights": sum(active),
            "exploration_rate": sum(weights) / sum(sizes),
        }
        for name, count, size, rate in zip(masks.names, active, sizes, explored, strict=True):
            values[f"sparsity/{name}"] = 1 - count / size
            values[f"exploration_rate/{name}"] = rate
        return values

    def predictions(self) -> dict[str, Any]:
        """Logits [n, classes] and labels [n] of the test set."""
        return {
            "logits": self._evaluator.logits(self._dataset.test)[1],
            "labels": self._dataset.test.labels,
        }

    def final_losses(self) -> dict[str, float]:
        """Loss (nats) and accuracy (fraction) of train, validation and test at the end; NaN for an empty split."""
        values: dict[str, float] = {}
        for name in SPLITS:
            split = self._dataset.reported[name]
            loss, right = self._evaluator.evaluate(split) if len(split) else (math.nan, math.nan)
            values |= {f"{name}_loss": loss, f"{name}_accuracy": right}
        return values
