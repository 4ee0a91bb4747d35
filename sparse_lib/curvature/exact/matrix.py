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
from sparse_lib.curvature.batches import Batches
from sparse_lib.curvature.exact.by_rows import by_rows
from sparse_lib.curvature.exact.by_structure import by_structure
from sparse_lib.curvature.stored_parts import Parts, fingerprint
from sparse_lib.curvature.subspace import Subspace
from sparse_lib.objective import Objective

Dtype = Literal["float64", "float32"]
Structure = Literal["auto", "always", "never"]
Progress = Callable[[int, int], None]

# Above this the eigenvalues alone take many minutes, and matrices gigabytes.
MOST_PARAMETERS = 12_000
# Rows and columns that are symmetrised at once (count).
TILE = 1024


class ExactHessian(NamedTuple):
    """A Hessian and how it was found.

    Attributes:
      matrix: symmetric, float64 [n, n].
      method: `structured` from a chain of piecewise linear layers, or `rows`.
      reason: why the structured way was not taken; empty if it was, or was not wanted.
      symmetry_error: max |H - H^T| / max |H| before symmetrising (fraction); 0 by construction if structured.
      product_error: max |H v - Hv| / max |Hv| for a random v, where Hv is a Hessian-vector product, on the first
        examples (fraction); None by rows, which are such products.
      examples: number of examples in the mean (count).
      dtype: the arithmetic.
    """

    matrix: np.ndarray
    method: Literal["structured", "rows"]
    reason: str
    symmetry_error: float
    product_error: float | None
    examples: int
    dtype: Dtype


def memory_needed(parameters: int, dtype: Dtype = "float64") -> int:
    """What the exact Hessian and its eigenvalues take at most, beside the data and the activations of a batch.

    Args:
      parameters: n (count).
      dtype: the arithmetic of the Hessian.

    Returns:
      Bytes: the matrix and a copy to decompose in float64, and sums in float32 if that is the arithmetic.
    """
    return parameters**2 * (16 + (4 if dtype == "float32" else 0))


def hessian(
    objective: Objective,
    params: Sequence[tf.Tensor],
    batches: Batches,
    subspace: Subspace,
    *,
    dtype: Dtype = "float64",
    structure: Structure = "auto",
    rows_at_once: int = 32,
    store: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    training: bool = False,
    limit: int = MOST_PARAMETERS,
) -> ExactHessian:
    """The Hessian of the mean loss over all examples, on the subspace's coordinates.

    Chains of piecewise linear layers under softmax cross-entropy (Dense, Conv2D, BatchNormalization at inference,
    ReLU, pooling) are computed from their structure, all other models row by row; both are exact.

    Args:
      objective: the loss.
      params: where the Hessian is taken: trainable values, as from `objective.params()`.
      batches: the data.
      subspace: the n coordinates.
      dtype: the arithmetic of the model and of the sums over a batch, whatever the model's own is; float32 takes
        half the time, its error is about 1e-7 of the largest eigenvalue.
      structure: `auto` takes the structured way where it applies, `never` goes by rows, `always` insists.
      rows_at_once: rows that share a gradient, and are saved at once (count).
      store: a directory for what is done so far: the same call, in this process or another, takes up from there and
        ends in the same bits. None keeps nothing.
      progress: is called with what is done and the whole, in examples if structured, else in rows.
      training: whether layers behave as in training.
      limit: the most parameters that are accepted (count).

    Returns:
      The Hessian, symmetrised.

    Raises:
      ValueError: for too many parameters, an unknown choice, a structure that is insisted on and does not apply, a
        model whose code leaves float64, or a result that is not finite.
    """
    _check(subspace.size, dtype, structure, rows_at_once, limit)
    values = [tf.cast(p, dtype) for p in params]

    def parts(method: str) -> Parts:
        if store is None:
            return Parts(None)
        loss = getattr(objective.loss, "__qualname__", type(objective.loss).__name__)
        words = (dtype, training, objective.model.name, loss)
        # Each method has a place of its own: that one was looked at in vain must not remove what the other has done.
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

    Coordinates without any second derivative, such as weights behind dead units, are taken out first: each is an
    eigenvalue of exactly zero.

    Args:
      matrix: symmetric, [n, n].

    Returns:
      Ascending, float64 [n].
    """
    alive = matrix.any(axis=0)
    values = np.zeros(len(matrix))
    if alive.any():
        part = matrix[np.ix_(alive, alive)]
        # Transposed it is in LAPACK's order, and is decomposed in place.
        values[: len(part)] = scipy.linalg.eigvalsh(part.T, driver="evd", overwrite_a=True)
    return np.sort(values)


def eigenvectors(matrix: np.ndarray, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    """Some neighbouring eigenvalues of a symmetric matrix with their eigenvectors.

    Args:
      matrix: symmetric, [n, n].
      first: the lowest that is wanted, counted from the lowest of all, 0 (index).
      last: the highest that is wanted (index).

    Returns:
      Eigenvalues ascending, [k], and unit eigenvectors as columns, [n, k].
    """
    return scipy.linalg.eigh(matrix, subset_by_index=[first, last], driver="evr")


def _arrays(
    objective: Objective, params: Sequence[tf.Tensor], batches: Batches, subspace: Subspace
) -> Iterator[np.ndarray]:
    """Everything that the Hessian depends on."""
    yield from (p.numpy() for p in params)
    yield from (v.numpy() for v in objective.model.non_trainable_variables)
    yield from subspace.indices
    for batch in batches:
        yield from (part.numpy() for part in keras.tree.flatten(batch))


def _check(size: int, dtype: Dtype, structure: str, rows_at_once: int, limit: int) -> None:
    if dtype not in get_args(Dtype) or structure not in get_args(Structure) or rows_at_once < 1:
        raise InputError(
            f"dtype is float64 or float32, structure auto, always or never, rows_at_once at least 1; got {dtype!r}, "
            f"{structure!r} and {rows_at_once}."
        )
    if size > limit:
        gigabytes = memory_needed(size, dtype) / 1e9
        raise InputError(
            f"The exact Hessian of {size:,} parameters takes {gigabytes:.1f} GB, and {limit:,} are the limit: ask for "
            "the largest eigenvalues or the spectral density, for fewer coordinates such as one layer, or raise the "
            "limit."
        )


def symmetrize(matrix: np.ndarray) -> float:
    """Replaces a matrix by its symmetric part, and tells how far from it it was: max |H - H^T| / max |H|."""
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
