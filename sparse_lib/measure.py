"""The measurements of the suite for a model and data of one's own, one call each.

Data are `(x, y)` arrays, a `tf.data.Dataset` of batches, or a list of batches. A loss maps `(y_true, outputs)` to one
loss an example, or is a Keras loss; None is cross-entropy of integer labels and logits. Nothing moves the model: no
weight, batch-norm average, seed or mask.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from sparse_lib import counting, curvature, landscape
from sparse_lib import gradient_flow as flow
from sparse_lib.curvature.data_mean import DataMean
from sparse_lib.curvature.eigenpairs import Which
from sparse_lib.masks import Masks
from sparse_lib.objective import LossFunction, Objective

Loss: TypeAlias = LossFunction | keras.losses.Loss | None


class GradientFlow(NamedTuple):
    """Gradient of the mean loss at the model's weights.

    Attributes:
      loss: mean over the examples.
      norm: of the gradient of active weights and dense variables.
      norm_off_mask: of the gradient of masked weights, which RigL grows by.
      effective: mean over sparse kernels of the root mean square of their active gradient (Tessera et al. 2021); None
        without masks.
      norm_by_variable: `norm` of each trainable variable, by path.
    """

    loss: float
    norm: float
    norm_off_mask: float
    effective: float | None
    norm_by_variable: dict[str, float]


class Path(NamedTuple):
    """Loss and accuracy on the line between two solutions.

    Attributes:
      coefficients: 0 is the start and 1 the end, [points].
      losses: mean over the examples, [points].
      accuracies: fractions, [points].
      loss_barrier: of the losses.
      error_barrier: of 1 - accuracy.
    """

    coefficients: list[float]
    losses: list[float]
    accuracies: list[float]
    loss_barrier: landscape.Barrier
    error_barrier: landscape.Barrier


class Cost(NamedTuple):
    """What a model costs for one example, counted as `sparse_lib.counting` does by its honest rule.

    Attributes:
      inference_flops: multiplications and additions with active weights.
      dense_inference_flops: the same with all weights.
      size_bytes: of active weights in 32 bits, biases, and one bit a weight for the mask.
      active_weights: active entries of all kernels (count).
      weights: all their entries (count).
    """

    inference_flops: int
    dense_inference_flops: int
    size_bytes: int
    active_weights: int
    weights: int


def gradient_flow(
    model: keras.Model, data: Any, *, masks: Masks | None = None, loss: Loss = None, batch_size: int = 1000
) -> GradientFlow:
    """Gradient norms on and off the masks, at the model's weights.

    ||grad L * m||_2, with L the mean loss over all data, without regularisation (Evci et al. 2022, section 3)

    Args:
      model: a built model.
      data: examples.
      masks: of its sparse kernels; None means that everything is active.
      loss: see the module.
      batch_size: examples of one pass (count); it bounds the memory and changes nothing.

    Returns:
      Norms, in total and by variable.
    """
    return _FlowMeter(model, masks, loss)(curvature.Batches.of(data, batch_size))


def top_eigenvalues(
    model: keras.Model,
    data: Any,
    k: int = 1,
    which: Which = "largest",
    *,
    masks: Masks | None = None,
    loss: Loss = None,
    batch_size: int = 1000,
    seed: int = 0,
) -> curvature.Eigenpairs:
    """The outermost eigenvalues of the Hessian in the space of the active weights.

    Args:
      model: a built model.
      data: examples.
      k: how many (count).
      which: `largest`, `smallest`, or largest in `magnitude`.
      masks: of its sparse kernels; None means that everything is active.
      loss: see the module.
      batch_size: examples of one pass (count).
      seed: of the start vector.

    Returns:
      Eigenvalues with eigenvectors and residuals.
    """
    return curvature.extreme(_hessian(model, data, masks, loss, batch_size), k, which, seed=seed)


def spectral_density(
    model: keras.Model,
    data: Any,
    *,
    masks: Masks | None = None,
    loss: Loss = None,
    batch_size: int = 1000,
    precision: float = 0.05,
    max_probes: int = 20,
    seed: int = 0,
) -> curvature.Density:
    """The density of the Hessian's eigenvalues, by stochastic Lanczos quadrature.

    Args:
      model: a built model.
      data: examples.
      masks: of its sparse kernels; None means that everything is active.
      loss: see the module.
      batch_size: examples of one pass (count).
      precision: standard error of the trace at which it stops, relative to the sum of magnitudes (fraction).
      max_probes: random vectors at most (count).
      seed: of the random vectors.

    Returns:
      Grid, density and its standard error.
    """
    operator = _hessian(model, data, masks, loss, batch_size)
    return curvature.quadrature(operator, precision=precision, max_probes=max_probes, seed=seed).density()


def trace(
    model: keras.Model,
    data: Any,
    *,
    masks: Masks | None = None,
    loss: Loss = None,
    batch_size: int = 1000,
    precision: float = 0.05,
    max_probes: int = 100,
    seed: int = 0,
) -> curvature.Estimate:
    """The trace of the Hessian, by Hutchinson's estimator.

    Args:
      model: a built model.
      data: examples.
      masks: of its sparse kernels; None means that everything is active.
      loss: see the module.
      batch_size: examples of one pass (count).
      precision: relative standard error at which it stops (fraction).
      max_probes: random vectors at most (count).
      seed: of the random vectors.

    Returns:
      Value, standard error and number of probes.
    """
    operator = _hessian(model, data, masks, loss, batch_size)
    return curvature.traces(operator, precision=precision, max_probes=max_probes, seed=seed).trace


def interpolation(
    model: keras.Model,
    start: Sequence[Any],
    end: Sequence[Any],
    data: Any,
    *,
    loss: Loss = None,
    points: int = 29,
    first: float = -0.2,
    last: float = 1.2,
    batch_size: int = 1000,
) -> Path:
    """Loss and accuracy on the line (1 - a) start + a end, and its barriers.

    Batch-norm statistics are those of the model. `sparse_lib.landscape` has curves, masks and statistics on the way.

    Args:
      model: a built classifier with one score a class.
      start: values of the trainable variables at a = 0, such as `[v.numpy() for v in model.trainable_variables]`.
      end: the same at a = 1.
      data: examples with integer labels.
      loss: see the module.
      points: on an even grid, to which 0 and 1 are added (count); 29 as in the gradient-flow paper.
      first: smallest a; -0.2 there.
      last: largest a; 1.2 there.
      batch_size: examples of one pass (count).

    Returns:
      The path.
    """
    objective, batches = _objective(model, loss), curvature.Batches.of(data, batch_size)

    def of_batch(params: list[tf.Tensor], x: Any, y: Any, index: tf.Tensor) -> list[tf.Tensor]:
        del index
        found = landscape.evaluate_batch(objective, x, y, model.trainable_variables, params)
        return [tf.reduce_mean(found.losses), tf.reduce_mean(tf.cast(found.is_right, tf.float64))]

    evaluate = DataMean(of_batch, model)
    line = landscape.linear_path([np.asarray(v) for v in start], [np.asarray(v) for v in end])
    grid = landscape.coefficients(first, last, points)
    values = np.array([[float(v) for v in evaluate(batches, [tf.constant(p) for p in line(a)])] for a in grid])
    losses, accuracies = values.T
    return Path(
        list(grid),
        losses.tolist(),
        accuracies.tolist(),
        landscape.barrier(grid, losses),
        landscape.barrier(grid, 1 - accuracies),
    )


def cost(model: keras.Model, masks: Masks | None = None, *, input_shape: tuple[int, ...] | None = None) -> Cost:
    """Inference FLOPs and size of a model.

    Args:
      model: a built model.
      masks: of its sparse kernels; None means that everything is active.
      input_shape: of one example, without the batch; needed for subclassed models.

    Returns:
      The cost of one example.
    """
    active: Mapping[str, int | None] = {}
    if masks is not None:
        active = {kernel.path: count for kernel, count in zip(masks.kernels, masks.active(), strict=True)}
    layers = counting.layer_costs(model, active, input_shape=input_shape)
    return Cost(
        inference_flops=counting.inference_flops(layers),
        dense_inference_flops=sum(layer.dense_inference_flops for layer in layers),
        size_bytes=counting.size_bytes(layers),
        active_weights=sum(layer.nnz for layer in layers),
        weights=sum(layer.kernel_size for layer in layers),
    )


class _FlowMeter:
    """Gradient flow again and again, with one compiled graph."""

    def __init__(self, model: keras.Model, masks: Masks | None, loss: Loss) -> None:
        self._variables, self._masks = model.trainable_variables, masks
        self._objective = _objective(model, loss)
        self._mean = DataMean(self._of_batch, model)

    def _of_batch(self, params: list[tf.Tensor], x: Any, y: Any, index: tf.Tensor) -> list[tf.Tensor]:
        del index
        value, gradient = self._objective.loss_and_gradient(params, x, y)
        return [value, *gradient]

    def __call__(self, batches: curvature.Batches) -> GradientFlow:
        value, *gradient = self._mean(batches, self._objective.params())
        variables, masks = self._variables, self._masks
        aligned = masks.aligned(variables) if masks is not None else [None] * len(variables)
        norms = flow.norms(gradient, aligned)
        return GradientFlow(
            loss=float(value),
            norm=float(norms.total),
            norm_off_mask=float(norms.off_total),
            effective=float(flow.effective_gradient_flow(gradient, aligned)) if masks is not None else None,
            norm_by_variable={v.path: float(norm) for v, norm in zip(variables, norms.per_tensor, strict=True)},
        )


class GradientFlowLogger(keras.callbacks.Callback):
    """A Keras callback that adds gradient flow and sparsity to the logs of every epoch.

    `gradient_norm`, `gradient_norm_off_mask`, and with masks `effective_gradient_flow` and `sparsity`, appear in the
    history, and wherever later callbacks such as TensorBoard or CSVLogger put the logs.
    """

    def __init__(
        self, data: Any, masks: Masks | None = None, *, loss: Loss = None, batch_size: int = 1000, every: int = 1
    ) -> None:
        """Takes what to measure on.

        Args:
          data: examples, the same at every measurement.
          masks: of the model's sparse kernels; None means that everything is active.
          loss: see the module.
          batch_size: examples of one pass (count).
          every: epochs between measurements (count).
        """
        super().__init__()
        self._batches, self._masks, self._loss, self._every = curvature.Batches.of(data, batch_size), masks, loss, every
        self._meter: _FlowMeter

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Prepares the measurement of the model that trains."""
        del logs
        self._meter = _FlowMeter(self.model, self._masks, self._loss)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Measures.

        Args:
          epoch: its number, from 0.
          logs: to which the values are added.
        """
        if logs is None or (epoch + 1) % self._every:
            return
        found = self._meter(self._batches)
        logs["gradient_norm"] = found.norm
        logs["gradient_norm_off_mask"] = found.norm_off_mask
        if self._masks is not None and found.effective is not None:
            logs["effective_gradient_flow"] = found.effective
            logs["sparsity"] = self._masks.sparsity()


def _objective(model: keras.Model, loss: Loss) -> Objective:
    if isinstance(loss, keras.losses.Loss):
        # `call` is the loss of each example; reduction and sample weights come after it.
        return Objective(model, loss.call)
    return Objective(model, loss)


def _hessian(
    model: keras.Model, data: Any, masks: Masks | None, loss: Loss, batch_size: int
) -> curvature.HessianOperator:
    objective = _objective(model, loss)
    subspace = curvature.Subspace.active(model, masks)
    return curvature.HessianOperator(objective, objective.params(), curvature.Batches.of(data, batch_size), subspace)
