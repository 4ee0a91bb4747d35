"""Input and output of both methods that compute the spectrum at a checkpoint."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from sparse_lib import curvature
from sparse_lib.objective import Objective


class Point(NamedTuple):
    """A point in the space of weights, and the matrix there.

    Attributes:
      objective: the loss.
      params: values of the trainable variables.
      batches: the data that the loss is averaged over.
      subspace: of the weights that the matrix acts on.
      operator: returns the matrix as an operator, for products.
      store: folder for intermediate results; it may not exist.
      title: of the progress line.
    """

    objective: Objective
    params: Sequence[Any]
    batches: curvature.Batches
    subspace: curvature.Subspace
    operator: Callable[[], curvature.CurvatureOperator]
    store: pathlib.Path
    title: str


class Spectrum(NamedTuple):
    """The spectrum at one checkpoint.

    Attributes:
      summary: content of `ckpt-<step>.json`.
      arrays: content of `ckpt-<step>.npz`.
    """

    summary: dict[str, Any]
    arrays: dict[str, np.ndarray]
