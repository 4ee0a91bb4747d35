"""The exact Hessian of a chain over a data set, resumable."""

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from sparse_lib._keras import precision
from sparse_lib._keras.graph import NoChainError
from sparse_lib._utils.errors import InputError
from sparse_lib.batches import Batches
from sparse_lib.curvature.exact.accumulator import HessianTotal
from sparse_lib.curvature.exact.chain import Chain
from sparse_lib.curvature.stored_parts import Parts
from sparse_lib.curvature.subspace import Subspace
from sparse_lib.objective import Objective

# Examples on which the Hessian is compared with a Hessian-vector product before the others are added (count).
CHECKED_EXAMPLES = 256
# Time between saves (s): writing a large matrix takes seconds.
SECONDS_BETWEEN_SAVES = 30.0
_NOT_FINITE = "The Hessian is not finite: choose weights from before training diverged, or check the data for NaN."


def by_structure(
    objective: Objective,
    params: Sequence[tf.Tensor],
    batches: Batches,
    subspace: Subspace,
    *,
    parts: Parts,
    progress: Callable[[int, int], None],
    training: bool = False,
) -> tuple[np.ndarray, float]:
    """The Hessian of the mean loss of a chain of piecewise linear layers under softmax cross-entropy.

    Args:
      objective: the loss.
      params: trainable values, in the dtype to compute in.
      batches: the data.
      subspace: the n coordinates.
      parts: store of the sum so far, by its number of examples.
      progress: called with the number of finished examples and of all examples.
      training: whether layers behave as in training.

    Returns:
      The Hessian, float64 [n, n], symmetric; and max |H v - Hv| / max |Hv| for a random v, where Hv is a
      Hessian-vector product, on the first examples (fraction).

    Raises:
      NoChainError: if the model is not such a chain, or its Hessian disagrees with a Hessian-vector product.
      ValueError: if the Hessian is not finite, or a layer rounds float64 to less.
    """
    x, y = next(iter(batches))
    chain = Chain.of(objective, subspace, x, training=training)
    total = HessianTotal(chain, params, x, y)
    saved, error = _resume(parts, total)
    last_saved = time.monotonic()
    progress(saved, batches.examples)
    end = 0
    for x, y in _pieces(batches, total):
        end += x.shape[0]
        if end <= saved:
            continue
        total.add(x, y)
        if end == x.shape[0]:
            error = _product_error(objective, params, subspace, total, x, y, training)
        if end == batches.examples or time.monotonic() - last_saved > SECONDS_BETWEEN_SAVES:
            parts.put(end, upper=total.upper, error=error)
            parts.drop(saved)
            saved, last_saved = end, time.monotonic()
        progress(end, batches.examples)
    matrix = total.matrix()
    matrix /= batches.examples
    if not np.isfinite(matrix).all():
        raise InputError(_NOT_FINITE)
    return matrix, error


def _resume(parts: Parts, total: HessianTotal) -> tuple[int, float]:
    """Restores the latest sum; returns its number of examples and the product error on the first ones."""
    for number in parts.numbers()[-1:]:
        part = parts.get(number)
        total.upper[:] = part["upper"]
        return number, float(part["error"])
    return 0, 0.0


def _pieces(batches: Batches, total: HessianTotal) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
    """Splits the data into pieces that fit into memory, the first one small."""
    first = CHECKED_EXAMPLES
    for x, y in batches:
        if first:
            yield from total.pieces(x[:first], y[:first])
        yield from total.pieces(x[first:], y[first:])
        first = 0


def _product_error(
    objective: Objective,
    params: Sequence[tf.Tensor],
    subspace: Subspace,
    total: HessianTotal,
    x: tf.Tensor,
    y: tf.Tensor,
    training: bool,
) -> float:
    """Relative difference between the sum over some examples and a Hessian-vector product.

    Raises:
      NoChainError: if it exceeds rounding error.
      ValueError: if either is not finite.
    """
    dtype = params[0].dtype
    vector = np.random.default_rng(0).standard_normal(subspace.size)
    found = total.product(vector) / x.shape[0]
    tensors = subspace.scatter(tf.constant(vector, dtype))
    product = objective.hvp(params, precision.cast(x, dtype.name), y, tensors, training=training)
    true = subspace.gather(product).numpy().astype(np.float64)
    if not (np.isfinite(found).all() and np.isfinite(true).all()):
        raise InputError(_NOT_FINITE)
    error = float(np.abs(found - true).max() / (np.abs(true).max() or 1.0))
    if error > np.sqrt(np.finfo(dtype.as_numpy_dtype).eps):
        raise NoChainError(f"the structured Hessian differs from a Hessian-vector product by {error:.1g}")
    return error
