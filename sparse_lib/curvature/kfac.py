"""The Gauss-Newton matrix as one Kronecker product per layer (KFAC), with its inverse."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import tensorflow as tf

from sparse_lib._utils.errors import InputError
from sparse_lib.batches import Batches
from sparse_lib.curvature import output_factors
from sparse_lib.curvature.data_mean import DataMean
from sparse_lib.curvature.kronecker import Block, BlockOperator, DiagonalBlock, KroneckerBlock
from sparse_lib.curvature.linear_layers import LinearLayer, Pass, linear_layers
from sparse_lib.curvature.operators import Tensors, check_shapes
from sparse_lib.curvature.output_factors import Factor, Labels
from sparse_lib.curvature.squared_gradients import SquaredGradients, sum_over_factor
from sparse_lib.curvature.subspace import Subspace
from sparse_lib.objective import Objective

Approximation = Literal["expand", "reduce"]


class KFACOperator(BlockOperator):
    """Kronecker-factored approximation of the Gauss-Newton or Fisher matrix (Martens & Grosse 2015, arXiv 1503.05671).

    G ~ blockdiag(A_l x B_l),  A = mean_i a_i a_i^T,  B = mean_i sum_k b_ik b_ik^T

    with inputs a of a layer, 1 for the bias appended, and gradients b of its sums, over the columns u_ik of a factor of
    the loss's Hessian in the outputs. Where weights are shared over places r (positions of a convolution, tokens),

    expand:  A = mean_i mean_r a_ir a_ir^T,  B = mean_i sum_k sum_r b_ikr b_ikr^T
    reduce:  A = mean_i (mean_r a_ir)(mean_r a_ir)^T,  B = mean_i sum_k (sum_r b_ikr)(sum_r b_ikr)^T

    (Eschenhagen et al. 2023, arXiv 2311.00636: expand for losses per token and, as Grosse & Martens 2016, for
    convolutions; reduce for outputs that average over the places). The block of a layer is exact for one example
    without shared weights, and for networks of linear layers under squared error.

    Dense, Conv1D, Conv2D and EinsumDense layers, also inside attention, have such blocks; for every other variable
    (norms, embeddings, depthwise and recurrent kernels) the exact diagonal is taken. `blocks` says which is which. The
    matrix is the principal submatrix at the active weights. One pass over the data computes all factors; products and
    inverses take none. Layers run in inference mode.

    Attributes:
      objective: the loss.
      subspace: the n coordinates.
      blocks: by the names of their variables, joined by "+"; coordinates of different blocks have entries of zero.

    Examples:
      >>> import keras
      >>> import numpy as np
      >>> from sparse_lib import Objective, curvature
      >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
      >>> x, y = np.array([[1.0, 0.0], [0.0, 2.0]], np.float32), np.zeros((2, 1), np.float32)
      >>> objective = Objective(model, keras.losses.mean_squared_error)
      >>> batches, subspace = curvature.Batches.of((x, y), batch_size=1), curvature.Subspace.active(model)
      >>> kfac = curvature.KFACOperator(objective, objective.params(), batches, subspace)
      >>> (kfac @ np.eye(2)).round(5).tolist()  # x^T x
      [[1.0, 0.0], [0.0, 4.0]]
      >>> (kfac.inverse(damping=1.0) @ np.ones(2)).round(5).tolist()
      [0.5, 0.2]
    """

    def __init__(
        self,
        objective: Objective,
        params: Tensors,
        batches: Batches,
        subspace: Subspace,
        *,
        approximation: Approximation = "expand",
        labels: Labels = "model",
        samples: int = 1,
        seed: int = 0,
    ) -> None:
        """Computes the factors in one pass over the data.

        Args:
          objective: the loss, convex in the outputs.
          params: trainable values at which the matrix is taken, as from `objective.params()`.
          batches: the data set.
          subspace: coordinates of the matrix; all other weights are constants.
          approximation: `expand` or `reduce`; the same where no weights are shared.
          labels: `model` takes the whole Hessian of the loss in the outputs, one gradient per entry of an example's
            outputs; `sampled` draws labels of the model and `data` takes the given ones, as in `FisherOperator`.
          samples: number of labels drawn per example (count).
          seed: random seed of the labels.

        Raises:
          ValueError: for unknown options, parameters of other shapes than those of the subspace, or a loss that has no
            such factor.
        """
        if approximation not in get_args(Approximation):
            raise InputError(
                f"approximation must be one of {', '.join(get_args(Approximation))}; got {approximation!r}."
            )
        output_factors.check_labels(labels, samples)
        self.objective = objective
        params = check_shapes(params, subspace)
        x, y = next(iter(batches))
        _check_loss(objective, output_factors.first_outputs(objective, params, (x, y), training=False), y, labels)
        factor = (
            output_factors.gauss_newton_factor(objective)
            if labels == "model"
            else output_factors.fisher_factor(objective, labels, samples, seed)
        )
        wanted = {number for number, index in enumerate(subspace.indices) if len(index)}
        layers = [each for each in linear_layers(objective, params, x) if {each.kernel, each.bias} & wanted]
        others = wanted - {number for each in layers for number in (each.kernel, each.bias)}
        factors = _Factors(objective, factor, layers, approximation)(batches, params)
        blocks = _kronecker_blocks(layers, factors, subspace)
        if others:
            squares = SquaredGradients(objective, factor, [], sorted(others))(batches, params)
            blocks |= _diagonal_blocks(sorted(others), squares, subspace)
        super().__init__(subspace, blocks)


class _Factors:
    """Means over the examples of A and B of each layer."""

    def __init__(
        self, objective: Objective, factor: Factor, layers: Sequence[LinearLayer], approximation: Approximation
    ) -> None:
        self._objective, self._factor, self._layers = objective, factor, layers
        self._sums_first = approximation == "reduce"
        self._mean = DataMean(self._of_batch, objective.model)

    def __call__(self, batches: Batches, params: Tensors) -> list[tuple[np.ndarray, np.ndarray]]:
        if not self._layers:
            return []
        found = [factor.numpy() for factor in self._mean(batches, list(params))]
        return list(zip(found[: len(self._layers)], found[len(self._layers) :], strict=True))

    def _of_batch(self, params: Tensors, x: Any, y: tf.Tensor, index: tf.Tensor) -> list[tf.Tensor]:
        seen = Pass(self._objective, params, x, self._layers)
        outputs = output_factors.at_least_float32(seen.outputs)
        inputs = [tf.reduce_mean(a, 1, keepdims=True) for a in seen.inputs] if self._sums_first else seen.inputs
        lefts = [_outer_products(a) / tf.cast(tf.size(a[..., 0]), a.dtype) for a in inputs]
        rights = sum_over_factor(
            self._factor(outputs, y, index),
            lambda vectors: [
                _outer_products(tf.reduce_sum(b, 1, keepdims=True) if self._sums_first else b)
                for b in seen.gradients(vectors)
            ],
            [tf.zeros([each.columns, each.columns], outputs.dtype) for each in self._layers],
        )
        examples = tf.shape(outputs)[0]
        return [*lefts, *(right / tf.cast(examples, right.dtype) for right in rights)]


def _outer_products(rows: tf.Tensor) -> tf.Tensor:
    """Sum of v v^T over all vectors along the last axis."""
    flat = tf.reshape(rows, [-1, rows.shape[-1]])
    return tf.matmul(flat, flat, transpose_a=True)


def _check_loss(objective: Objective, outputs: tf.Tensor, y: tf.Tensor, labels: Labels) -> None:
    if labels == "sampled":
        output_factors.check_likelihood(objective, outputs, y)
    elif labels == "model":
        output_factors.check_convexity(objective, outputs, y)


def _kronecker_blocks(
    layers: Sequence[LinearLayer], factors: Sequence[tuple[np.ndarray, np.ndarray]], subspace: Subspace
) -> dict[str, Block]:
    blocks: dict[str, Block] = {}
    for each, (left, right) in zip(layers, factors, strict=True):
        numbers = [each.kernel] if each.bias is None else [each.kernel, each.bias]
        places = [np.arange(subspace.size)[subspace.slices[number]] for number in numbers]
        entries = [each.coordinates(), each.rows * each.columns + np.arange(each.columns)]
        chosen = [entry[subspace.indices[number]] for entry, number in zip(entries, numbers, strict=False)]
        name = "+".join(subspace.names[number] for number in numbers)
        blocks[name] = KroneckerBlock(np.concatenate(places), left, right, np.concatenate(chosen))
    return blocks


def _diagonal_blocks(numbers: Sequence[int], squares: Sequence[tf.Tensor], subspace: Subspace) -> dict[str, Block]:
    places = {number: np.arange(subspace.size)[subspace.slices[number]] for number in numbers}
    return {
        subspace.names[number]: DiagonalBlock(places[number], np.ravel(squares[number])[subspace.indices[number]])
        for number in numbers
    }
