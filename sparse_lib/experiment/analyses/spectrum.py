"""What both methods that compute the spectrum at a checkpoint share: input, output and settings."""

import abc
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from sparse_lib import curvature
from sparse_lib.experiment.config.analyses import HessianSettings
from sparse_lib.experiment.runtime.signals import Stop
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


class SpectrumMethod(abc.ABC):
    """A way to compute the spectrum at a checkpoint."""

    def __init__(self, settings: HessianSettings, stop: Stop) -> None:
        """Stores the settings.

        Args:
          settings: of the matrix and the method.
          stop: checked after every product or block of rows.
        """
        self._settings, self._stop = settings, stop

    @abc.abstractmethod
    def compute(self, point: Point) -> Spectrum:
        """Computes the spectrum at a point.

        Args:
          point: the point and the matrix there.

        Returns:
          Summary and arrays; the eigenvectors are those of the largest eigenvalues.

        Raises:
          Interrupted: after SIGINT or SIGTERM.
        """
