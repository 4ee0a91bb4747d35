"""The exact Hessian of the mean loss on a subspace, and its full spectrum."""

import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, get_args

import keras
import numpy as np
import scipy.linalg
import tensorflow as tf

from sparse_lib._keras import precision
from sparse_lib._keras.graph import NoChainError
from sparse_lib._utils.errors import InputError
from sparse_lib.batches import Batches
from sparse_lib.curvature.exact.by_rows import by_rows
from sparse_lib.curvature.exact.by_structure import by_structure
from sparse_lib.curvature.stored_parts import Parts, fingerprint
from sparse_lib.curvature.subspace import Subspace
from sparse_lib.objective import Objective

Dtype = Literal["float64", "float32"]
Route = Literal["auto", "always", "never"]
Progress = Callable[[int, int], None]

# Above this the eigenvalues take many minutes, and matrices gigabytes.
MOST_PARAMETERS = 12_000
# Rows and columns symmetrized per operation (count).
TILE = 1024


class ExactHessian(NamedTuple):
    """An exact Hessian with the method and its errors.

    Attributes:
      matrix: symmetric, float64 [n, n].
      method: `structured` from a chain of piecewise linear layers, or `rows`.
      reason: why the structured method did not apply; empty if it did, or was not tried.
      symmetry_error: max |H - H^T| / max |H| before symmetrization (fraction); 0 by construction if structured.
      product_error: max |H v - Hv| / max |Hv| for a random v, where Hv is a Hessian-vector product, on the first
        examples (fraction); None by rows, which are such products.
      examples: number of examples in the mean (count).
      dtype: dtype of the computation.
    """

    matrix: np.ndarray
    method: Literal["structured", "rows"]
    reason: str
    symmetry_error: float
    product_error: float | None
    examples: int
    dtype: Dtype


def memory_needed(parameters: int, dtype: Dtype = "float64") -> int:
    """Peak memory of the exact Hessian and its eigenvalues, without data and activations.

    Args:
      parameters: n (count).
      dtype: dtype of the computation.

    Returns:
      Bytes: the matrix and a copy to decompose in float64, and the float32 sums if computed in float32.
    """
    return parameters**2 * (16 + (4 if dtype == "float32" else 0))


def hessian(
    objective: Objective,
    params: Sequence[tf.Tensor],
    batches: Any,
    subspace: Subspace,
    *,
    dtype: Dtype = "float64",
    structure: Route = "auto",
    rows_at_once: int = 32,
    store: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    training: bool = False,
    limit: int = MOST_PARAMETERS,
) -> ExactHessian:
    """Computes the Hessian of the mean loss over all examples on a subspace.

    The structured method applies to chains of piecewise linear layers under softmax cross-entropy (Dense, Conv2D,
    BatchNormalization at inference, ReLU, pooling); all other models are computed row by row. Both are exact.

    Args:
      objective: the loss.
      params: trainable values at which to differentiate, as from `objective.params()`.
      batches: the data, in any form that `Batches.of` takes.
      subspace: the n coordinates.
      dtype: dtype of the model and of the sums over a batch, whatever the model's own is; float32 takes half the time,
        with an error of about 1e-7 of the largest eigenvalue.
      structure: `auto` uses the structured method where it applies, `never` goes by rows, `always` requires it.
      rows_at_once: rows that share a gradient and are saved together (count).
      store: directory for partial results, from which the same call, in any process, resumes with the same bits; None
        stores nothing.
      progress: called with finished and total examples if structured, else rows.
      training: whether layers behave as in training.
      limit: largest number of parameters (count).

    Returns:
      The Hessian, symmetrized.

    Raises:
      ValueError: for too many parameters, an unknown choice, a required structured method that does not apply, a model
        that leaves float64, or a result that is not finite.

    Examples:
      >>> import keras
      >>> import tensorflow as tf
      >>> from sparse_lib import curvature
      >>> from sparse_lib.objective import Objective
      >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
      >>> objective = Objective(model, loss=lambda y, outputs: (outputs[:, 0] - y) ** 2)
      >>> data = curvature.Batches.of((tf.constant([[1.0], [2.0]]), tf.constant([0.0, 0.0])), batch_size=2)
      >>> found = curvature.hessian(objective, objective.params(), data, curvature.Subspace.all(model))
      >>> found.method, found.matrix.tolist()  # 2 mean(x^2)
      ('rows', [[5.0]])
    """
    _check(subspace.size, dtype, structure, rows_at_once, limit)
    batches = Batches.of(batches)
    values = [tf.cast(p, dtype) for p in params]

    def parts(method: str) -> Parts:
        if store is None:
            return Parts(None)
        loss = getattr(objective.loss, "__qualname__", type(objective.loss).__name__)
        if isinstance(objective.loss, keras.losses.Loss):
            loss += repr(sorted(objective.loss.get_config().items()))
        words = (dtype, training, objective.model.name, loss)
        # Separate folders: a failed structured attempt must not delete row results.
        return Parts(pathlib.Path(store) / method, fingerprint(words, _arrays(objective, values, batches, subspace)))

    whole: dict[str, Any] = {"training": training, "progress": progress or (lambda done, total: None)}
    with precision.arithmetic(objective.model, dtype):
        reason = ""
        if structure != "never":
            try:
                matrix, error = by_structure(objective, values, batches, subspace, parts=parts("structured"), **whole)
                return ExactHessian(matrix, "structured", "", 0.0, error, batches.examples, dtype)
            except NoChainError as found:
                reason = str(found)
                if structure == "always":
                    raise InputError(f"The Hessian has no known structure: {reason}. Use structure='auto'.") from found
        matrix = by_rows(objective, values, batches, subspace, parts=parts("rows"), rows_at_once=rows_at_once, **whole)
    return ExactHessian(matrix, "rows", reason, symmetrize(matrix), None, batches.examples, dtype)


def eigenvalues(matrix: np.ndarray) -> np.ndarray:
    """All eigenvalues of a symmetric matrix.

    Zero rows, such as those of weights behind dead units, are removed first: each is an eigenvalue of exactly zero.

    Args:
      matrix: symmetric, [n, n].

    Returns:
      Ascending, float64 [n].
    """
    alive = matrix.any(axis=0)
    values = np.zeros(len(matrix))
    if alive.any():
        part = matrix[np.ix_(alive, alive)]
        # The transpose is in LAPACK's order and is decomposed in place.
        values[: len(part)] = scipy.linalg.eigvalsh(part.T, driver="evd", overwrite_a=True)
    return np.sort(values)


def eigenvectors(matrix: np.ndarray, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    """A range of eigenvalues of a symmetric matrix with their eigenvectors.

    Args:
      matrix: symmetric, [n, n].
      first: index of the lowest eigenvalue in ascending order, from 0.
      last: index of the highest eigenvalue.

    Returns:
      Eigenvalues ascending, [k], and unit eigenvectors as columns, [n, k].
    """
    return scipy.linalg.eigh(matrix, subset_by_index=[first, last], driver="evr")


def _arrays(
    objective: Objective, params: Sequence[tf.Tensor], batches: Batches, subspace: Subspace
) -> Iterator[np.ndarray]:
    """All arrays that determine the Hessian."""
    yield from (p.numpy() for p in params)
    yield from (v.numpy() for v in objective.model.non_trainable_variables)
    yield from subspace.indices
    for batch in batches:
        yield from (part.numpy() for part in keras.tree.flatten(batch))


def _check(size: int, dtype: Dtype, structure: str, rows_at_once: int, limit: int) -> None:
    if dtype not in get_args(Dtype) or structure not in get_args(Route) or rows_at_once < 1:
        raise InputError(
            f"dtype is float64 or float32, structure auto, always or never, rows_at_once at least 1; got {dtype!r}, "
            f"{structure!r} and {rows_at_once}."
        )
    if size > limit:
        gigabytes = memory_needed(size, dtype) / 1e9
        raise InputError(
            f"The exact Hessian of {size:,} parameters takes {gigabytes:.1f} GB, and {limit:,} are the limit: "
            "compute the largest eigenvalues or the spectral density, choose fewer coordinates such as one layer, or "
            "raise the limit."
        )


def symmetrize(matrix: np.ndarray) -> float:
    """Symmetrizes in place; returns the relative asymmetry, max |H - H^T| / max |H|."""
    largest = apart = 0.0
    for i in range(0, len(matrix), TILE):
        for j in range(0, i + 1, TILE):
            low, high = matrix[i : i + TILE, j : j + TILE], matrix[j : j + TILE, i : i + TILE].T
            largest = max(largest, np.abs(low).max(), np.abs(high).max())
            apart = max(apart, np.abs(low - high).max())
            mean = (low + high) / 2
            matrix[i : i + TILE, j : j + TILE] = mean
            matrix[j : j + TILE, i : i + TILE] = mean.T
    return float(apart / largest) if largest else 0.0
