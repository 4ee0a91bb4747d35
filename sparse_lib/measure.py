"""The suite's measurements for any model and data, one call each.

`data` is a tuple (x, y) of arrays, a `tf.data.Dataset` of batches, or a list of batches. `loss` is a Keras loss, of any
reduction, or a function (y_true, outputs) -> one loss per example or token, which are averaged as in training; None
means cross-entropy of integer labels and logits. `masks` are those of the model's sparse kernels; None means that all
weights are active. `batch_size` is the number of examples per pass, which bounds the memory and does not change the
result. No measurement changes the model: its weights, batch-norm averages, seeds and masks stay as they are.
"""

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from sparse_lib import counting, curvature, landscape
from sparse_lib import gradient_flow as flow
from sparse_lib._keras import graph_cache, layer_types, tracing
from sparse_lib._utils.errors import InputError
from sparse_lib.curvature.data_mean import DataMean
from sparse_lib.curvature.eigenpairs import Which
from sparse_lib.masks import Masks
from sparse_lib.objective import Loss as _Loss
from sparse_lib.objective import Objective

Loss: TypeAlias = _Loss | None


class GradientFlow(NamedTuple):
    """Norms of the gradient of the mean loss.

    Attributes:
      loss: mean over the examples.
      norm: L2 norm over active weights and dense variables.
      norm_off_mask: L2 norm over inactive weights, by which RigL grows.
      effective: mean over sparse kernels of the root mean square of their active gradient (Tessera et al. 2021); None
        without masks of trainable kernels.
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
      coefficients: positions on the line, 0 at the start and 1 at the end, [points].
      losses: mean over the examples, [points].
      accuracies: share of correct predictions (fraction), [points].
      loss_barrier: barrier of the losses.
      error_barrier: barrier of 1 - accuracy.
    """

    coefficients: list[float]
    losses: list[float]
    accuracies: list[float]
    loss_barrier: landscape.Barrier
    error_barrier: landscape.Barrier


class Cost(NamedTuple):
    """Inference cost of a model for one example, by the honest rule of `sparse_lib.counting`.

    Attributes:
      inference_flops: multiplications and additions with active weights (count).
      dense_inference_flops: multiplications and additions with all weights (count).
      size_bytes: active weights and biases in 32 bits, and one bit per weight for the mask.
      active_weights: active entries of all kernels (count).
      weights: entries of all kernels (count).
    """

    inference_flops: int
    dense_inference_flops: int
    size_bytes: int
    active_weights: int
    weights: int


class _Problem:
    """A model with its data, masks and loss, as the measurements take them."""

    def __init__(self, model: keras.Model, data: Any, masks: Masks | None, loss: Loss, batch_size: int) -> None:
        self.model, self.masks, self.objective = model, masks, Objective(model, loss)
        _check_masks(masks)
        if masks is not None:
            _warn_of_lora(model, masks)
        self.batches = data if isinstance(data, curvature.Batches) else curvature.Batches.of(data, batch_size)
        self._loss = loss

    def hessian(self) -> curvature.HessianOperator:
        """Hessian of the active weights."""
        subspace, params = curvature.Subspace.active(self.model, self.masks), self.objective.params()
        # The operator that is kept has no data, which would stay in memory with it.
        nothing = curvature.Batches([], 0, 1)
        kept = graph_cache.keep(
            self.model,
            "hessian",
            self._loss,
            lambda: curvature.HessianOperator(self.objective, params, nothing, subspace),
        )
        return kept.at(params, batches=self.batches, subspace=subspace)

    def gradient_flow(self) -> GradientFlow:
        """Norms of the gradient; the graph is compiled at the first call."""
        value, *gradient = self.mean("gradient", _differentiate)(self.batches, self.objective.params())
        variables, masks = self.model.trainable_variables, self.masks
        aligned = masks.aligned(variables) if masks is not None else [None] * len(variables)
        norms = flow.norms(gradient, aligned)
        # Kernels with LoRA, or frozen ones, have no gradient.
        is_any = any(mask is not None for mask in aligned)
        return GradientFlow(
            loss=float(value),
            norm=float(norms.total),
            norm_off_mask=float(norms.off_total),
            effective=float(flow.effective_gradient_flow(gradient, aligned)) if is_any else None,
            norm_by_variable={v.path: float(norm) for v, norm in zip(variables, norms.per_tensor, strict=True)},
        )

    def mean(self, kind: str, function: Callable[..., list[tf.Tensor]]) -> DataMean:
        """The mean over the data of a function of the objective, with the graph of earlier calls."""
        bound = functools.partial(function, self.objective)
        return graph_cache.keep(self.model, kind, self._loss, lambda: DataMean(bound, self.model))


def _score(objective: Objective, params: list[tf.Tensor], x: Any, y: Any, index: tf.Tensor) -> list[tf.Tensor]:
    """Loss and accuracy of a batch."""
    del index
    found = landscape.evaluate_batch(objective, x, y, objective.model.trainable_variables, params)
    return [tf.reduce_mean(found.losses), tf.reduce_mean(tf.cast(found.is_right, tf.float64))]


def _differentiate(objective: Objective, params: list[tf.Tensor], x: Any, y: Any, index: tf.Tensor) -> list[tf.Tensor]:
    """Loss and gradient of a batch."""
    del index
    value, gradient = objective.loss_and_gradient(params, x, y)
    return [value, *gradient]


def _check_masks(masks: Any) -> None:
    if masks is not None and not isinstance(masks, Masks):
        raise InputError(f"masks= takes the masks from sparsify(model), got {masks!r}.")


def _warn_of_lora(model: keras.Model, masks: Masks) -> None:
    """Warns of masked kernels that are dense in effect, and frozen."""
    kernels = {id(kernel): name for kernel, name in zip(masks.kernels, masks.names, strict=True)}
    layers = [layer for layer in tracing.all_layers(model) if layer_types.has_lora(layer)]
    adapted = [kernels[id(k)] for k in map(layer_types.kernel, layers) if id(k) in kernels]
    if adapted:
        warnings.warn(
            f"LoRA adds a dense update to the sparse kernels {', '.join(adapted)}: in effect they are dense.",
            stacklevel=4,
        )


def gradient_flow(
    model: keras.Model, data: Any, *, masks: Masks | None = None, loss: Loss = None, batch_size: int = 1000
) -> GradientFlow:
    """Gradient norms on and off the masks.

    ||grad L * m||_2, with L the mean loss over all data, without regularisation (Evci et al. 2022, section 3)

    Args:
      model: a built model.
      data: examples, see the module.
      masks: of the sparse kernels, see the module.
      loss: see the module.
      batch_size: examples per pass (count).

    Returns:
      Norms, in total and by variable.

    Examples:
      >>> import keras
      >>> import numpy as np
      >>> from sparse_lib import measure
      >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
      >>> x, y = np.array([[1.0, 0.0], [0.0, 2.0]], np.float32), np.array([[1.0], [0.0]], np.float32)
      >>> model.set_weights([np.zeros((2, 1))])
      >>> found = measure.gradient_flow(model, (x, y), loss=keras.losses.MeanSquaredError())
      >>> round(found.loss, 6), round(found.norm, 6)
      (0.5, 1.0)
    """
    return _Problem(model, data, masks, loss, batch_size).gradient_flow()


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
    """Outermost eigenvalues of the Hessian of the active weights, by Lanczos iteration.

    Args:
      model: a built model.
      data: examples, see the module.
      k: number of eigenvalues (count).
      which: `largest`, `smallest`, or largest in `magnitude`.
      masks: of the sparse kernels, see the module.
      loss: see the module.
      batch_size: examples per pass (count).
      seed: seed of the start vector.

    Returns:
      Eigenvalues with eigenvectors and residuals.

    Examples:
      >>> import keras
      >>> import numpy as np
      >>> from sparse_lib import measure
      >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
      >>> x, y = np.array([[1.0, 0.0], [0.0, 2.0]], np.float32), np.array([[1.0], [0.0]], np.float32)
      >>> pairs = measure.top_eigenvalues(model, (x, y), loss=keras.losses.MeanSquaredError())
      >>> pairs.values.round(4).tolist()  # the Hessian is x^T x
      [4.0]
    """
    return curvature.extreme(_Problem(model, data, masks, loss, batch_size).hessian(), k, which, seed=seed)


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
    """Density of the Hessian's eigenvalues, by stochastic Lanczos quadrature.

    Args:
      model: a built model.
      data: examples, see the module.
      masks: of the sparse kernels, see the module.
      loss: see the module.
      batch_size: examples per pass (count).
      precision: target standard error of the trace, relative to the sum of |eigenvalues| (fraction).
      max_probes: largest number of random probes (count).
      seed: seed of the probes.

    Returns:
      Grid, density and its standard error.

    Examples:
      >>> import keras
      >>> import numpy as np
      >>> from sparse_lib import measure
      >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
      >>> x, y = np.array([[1.0, 0.0], [0.0, 2.0]], np.float32), np.array([[1.0], [0.0]], np.float32)
      >>> density = measure.spectral_density(model, (x, y), loss=keras.losses.MeanSquaredError())
      >>> round(float(np.trapezoid(density.values, density.grid)), 3)
      1.0
    """
    hessian = _Problem(model, data, masks, loss, batch_size).hessian()
    return curvature.quadrature(hessian, precision=precision, max_probes=max_probes, seed=seed).density()


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
    """Trace of the Hessian of the active weights, by Hutchinson's estimator.

    Args:
      model: a built model.
      data: examples, see the module.
      masks: of the sparse kernels, see the module.
      loss: see the module.
      batch_size: examples per pass (count).
      precision: target relative standard error (fraction).
      max_probes: largest number of random probes (count).
      seed: seed of the probes.

    Returns:
      Value, standard error and number of probes.

    Examples:
      >>> import keras
      >>> import numpy as np
      >>> from sparse_lib import measure
      >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
      >>> x, y = np.array([[1.0, 0.0], [0.0, 2.0]], np.float32), np.array([[1.0], [0.0]], np.float32)
      >>> estimate = measure.trace(model, (x, y), loss=keras.losses.MeanSquaredError())
      >>> round(estimate.value, 3), round(estimate.error, 3)  # a diagonal matrix: the estimate is exact
      (5.0, 0.0)
    """
    hessian = _Problem(model, data, masks, loss, batch_size).hessian()
    return curvature.traces(hessian, precision=precision, max_probes=max_probes, seed=seed).trace


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
    """Loss and accuracy on the line (1 - a) start + a end, and their barriers.

    Batch-norm statistics are those of the model. `sparse_lib.landscape` also has curves, masks along the path and
    re-estimated statistics.

    Args:
      model: a built classifier with one score per class, or one score for two classes; per token, too.
      start: values of the trainable variables at a = 0, such as `[v.numpy() for v in model.trainable_variables]`.
      end: values of the trainable variables at a = 1.
      data: examples with integer labels, see the module.
      loss: see the module.
      points: size of the even grid, to which 0 and 1 are added (count); 29 as in the gradient-flow paper.
      first: smallest a; -0.2 as there.
      last: largest a; 1.2 as there.
      batch_size: examples per pass (count).

    Returns:
      The path.

    Raises:
      ValueError: if the number or the shapes of the values are not those of the trainable variables.

    Examples:
      >>> import keras
      >>> import numpy as np
      >>> from sparse_lib import measure
      >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, use_bias=False)])
      >>> x, y = np.eye(2, dtype=np.float32), np.array([0, 1])
      >>> path = measure.interpolation(model, [x], [-x], (x, y), points=3)  # from the kernel x to -x
      >>> list(zip(path.coefficients, path.accuracies))
      [(-0.2, 1.0), (0.0, 1.0), (0.5, 0.5), (1.0, 0.0), (1.2, 0.0)]
    """
    problem, variables = _Problem(model, data, None, loss, batch_size), model.trainable_variables
    if len(start) != len(variables):
        raise InputError(
            f"Got {len(start)} values for {len(variables)} trainable variables: give one for each, in the order of "
            "model.trainable_variables."
        )

    score = problem.mean("score", _score)
    line = landscape.linear_path([np.asarray(v) for v in start], [np.asarray(v) for v in end])
    grid = landscape.coefficients(first, last, points)
    scores = np.array([[float(v) for v in score(problem.batches, [tf.constant(p) for p in line(a)])] for a in grid])
    losses, accuracies = scores.T
    barriers = landscape.barrier(grid, losses), landscape.barrier(grid, 1 - accuracies)
    return Path(list(grid), losses.tolist(), accuracies.tolist(), *barriers)


def cost(model: keras.Model, masks: Masks | None = None, *, input_shape: tuple[int, ...] | None = None) -> Cost:
    """Inference FLOPs and size of a model.

    Args:
      model: a built model.
      masks: of the sparse kernels, see the module.
      input_shape: shape of one example, without the batch; required for subclassed models.

    Returns:
      The cost of one example.

    Examples:
      >>> import keras
      >>> import sparse_lib
      >>> from sparse_lib import measure
      >>> model = keras.Sequential([keras.Input((784,)), keras.layers.Dense(300), keras.layers.Dense(10)])
      >>> cost = measure.cost(model, sparse_lib.sparsify(model, 0.9))
      >>> cost.active_weights, cost.inference_flops, cost.dense_inference_flops
      (23820, 47640, 476400)
    """
    _check_masks(masks)
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


class GradientFlowLogger(keras.callbacks.Callback):
    """Keras callback that adds gradient flow and sparsity to the logs at the end of an epoch.

    The logs get `gradient_norm`, `gradient_norm_off_mask`, and with masks `effective_gradient_flow` and `sparsity`; the
    history and later callbacks such as TensorBoard or CSVLogger record them.
    """

    def __init__(
        self, data: Any, masks: Masks | None = None, *, loss: Loss = None, batch_size: int = 1000, every: int = 1
    ) -> None:
        """Creates the callback.

        Args:
          data: examples, see the module; the same at every measurement.
          masks: of the sparse kernels, see the module.
          loss: see the module.
          batch_size: examples per pass (count).
          every: epochs between measurements (count).
        """
        super().__init__()
        self._batches, self._masks, self._loss, self._every = curvature.Batches.of(data, batch_size), masks, loss, every
        self._problem: _Problem

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Prepares the measurement.

        Args:
          logs: not used.
        """
        del logs
        self._problem = _Problem(self.model, self._batches, self._masks, self._loss, self._batches.batch_size)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Measures and logs.

        Args:
          epoch: index of the epoch, from 0.
          logs: metrics of the epoch, to which the values are added.
        """
        if logs is None or (epoch + 1) % self._every:
            return
        found = self._problem.gradient_flow()
        logs["gradient_norm"] = found.norm
        logs["gradient_norm_off_mask"] = found.norm_off_mask
        if self._masks is not None and found.effective is not None:
            logs["effective_gradient_flow"] = found.effective
            logs["sparsity"] = self._masks.sparsity()
