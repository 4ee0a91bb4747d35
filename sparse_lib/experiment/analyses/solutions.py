"""Checkpoints as points in the space of weights: reading, matching and evaluating them."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import keras
import numpy as np

from sparse_lib.experiment.data import SPLITS, Dataset, Split, batch_indices
from sparse_lib.experiment.runtime.errors import RunError
from sparse_lib.experiment.storage.checkpoints import Reader
from sparse_lib.experiment.training.metrics import Evaluator
from sparse_lib.landscape import BatchNormEstimator, Matching, Score, batch_norm, match
from sparse_lib.objective import Scope


class Solution(NamedTuple):
    """Weights, masks and batch-norm statistics of a checkpoint.

    Attributes:
      checkpoint: its prefix.
      values: of the trainable variables, in their order.
      masks: one boolean array per trainable variable, None for a dense one.
      statistics: of batch norm, in the order of `batch_norm.statistics`.
      sha256: digest of values, statistics and masks.
    """

    checkpoint: str
    values: list[np.ndarray]
    masks: list[np.ndarray | None]
    statistics: list[np.ndarray]
    sha256: str


def read(
    checkpoint: str | os.PathLike[str],
    model: keras.Model,
    kernels: Mapping[str, keras.Variable],
    *,
    with_masks: bool = True,
) -> Solution:
    """Reads a checkpoint as a solution of a network; the network does not change.

    Args:
      checkpoint: anything that `checkpoints.find` accepts.
      model: the network.
      kernels: its sparse kernels, by name.
      with_masks: whether to read the masks too; then a checkpoint without masks is refused.

    Returns:
      The solution.

    Raises:
      RunError: if the checkpoint does not exist, belongs to another network or lacks masks, or has weights that are
        not finite.
    """
    reader = Reader(checkpoint)
    shapes = {v.path: tuple(v.shape) for v in model.variables}
    stored = reader.read_group("model", shapes, model.name)
    for path, value in stored.items():
        if not np.isfinite(value.astype(np.float64)).all():
            raise RunError(f"{path} of checkpoint {reader.prefix} is not finite; take an earlier checkpoint.")
    by_kernel = {}
    if with_masks:
        masks = reader.read_group("masks", {n: tuple(k.shape) for n, k in kernels.items()}, model.name)
        by_kernel = {id(kernel): masks[name] for name, kernel in kernels.items()}
    values = [stored[v.path] for v in model.trainable_variables]
    aligned = [by_kernel.get(id(v)) for v in model.trainable_variables]
    statistics = [stored[v.path] for v in batch_norm.statistics(model)]
    sha256 = digest([*values, *statistics, *(mask for mask in aligned if mask is not None)])
    return Solution(reader.prefix, values, aligned, statistics, sha256)


def match_units(model: keras.Model, reference: Solution, solution: Solution, *, seed: int) -> tuple[Solution, Matching]:
    """Permutes the hidden units of a solution to bring it close to another one; its function does not change.

    Args:
      model: the network; its layers form a chain.
      reference: the solution that is not permuted.
      solution: the solution to permute.
      seed: of the search.

    Returns:
      The solution with permuted values, masks and statistics (its digest remains that of the checkpoint), and the
      permutation.

    Raises:
      InputError: if the layers of the network do not form a chain.
    """
    found = match(model, reference.values, solution.values, seed=seed)
    variables = model.trainable_variables
    masks = [
        None if mask is None else found.permute([variable], [mask])[0]
        for variable, mask in zip(variables, solution.masks, strict=True)
    ]
    permuted = solution._replace(
        values=found.permute(variables, solution.values),
        masks=masks,
        statistics=found.permute(batch_norm.statistics(model), solution.statistics),
    )
    return permuted, found


def digest(arrays: Sequence[np.ndarray]) -> str:
    """Computes the SHA-256 of the bytes of arrays."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


class PointEvaluator:
    """Evaluates a network on every split at given weights, bit-identical to the evaluation of runs.

    The weights of the network change from point to point, so that it must not be shared. Points that were evaluated
    before, such as the ends of a path, are looked up.
    """

    def __init__(self, model: keras.Model, dataset: Dataset, scope: Scope, names: Sequence[str] = SPLITS) -> None:
        """Selects the splits; nothing is traced yet.

        Args:
          model: the network.
          dataset: the data; empty splits are left out.
          scope: makes a context for each call of the network, from `build_evaluation_scope`.
          names: of the splits to evaluate.
        """
        self._variables = model.trainable_variables
        self._statistics = batch_norm.statistics(model)
        reported = dataset.reported
        self._splits = {name: reported[name] for name in names if len(reported[name])}
        self._evaluator = Evaluator(model, scope=scope)
        self._known: dict[str, dict[str, Score]] = {}

    def __call__(self, values: Sequence[np.ndarray], statistics: Sequence[np.ndarray]) -> dict[str, Score]:
        """Evaluates a point.

        Args:
          values: of the trainable variables.
          statistics: of batch norm, as in `Solution`; empty for a network without it.

        Returns:
          Loss and accuracy by split.
        """
        point = digest([*values, *statistics])
        if point not in self._known:
            for variable, value in zip([*self._variables, *self._statistics], [*values, *statistics], strict=True):
                variable.assign(value)
            scores = {name: self._evaluator.evaluate(split) for name, split in self._splits.items()}
            self._known[point] = scores
        return self._known[point]


def make_batch_norm_estimator(
    model: keras.Model, train: Split, *, batches: int, batch_size: int, seed: int
) -> Callable[[Sequence[np.ndarray]], list[np.ndarray]]:
    """Returns a function that estimates batch-norm statistics, always from the same training images.

    Args:
      model: the network.
      train: the training split.
      batches: maximal number of batches; one pass over the split at most (count).
      batch_size: images per batch (count).
      seed: of the choice of images.

    Returns:
      A function that maps values of the trainable variables to statistics, in the order of `batch_norm.statistics`.
    """
    size = min(batch_size, len(train))
    rows = batch_indices(seed=seed, first_step=0, steps=min(batches, len(train) // size), batch_size=size, n=len(train))
    estimate = BatchNormEstimator(model)
    return lambda values: estimate(values, (train.images[batch] for batch in rows))
