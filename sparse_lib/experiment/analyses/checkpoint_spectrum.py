"""Curvature of the loss at the checkpoints of a run, by an exact or an estimated spectrum."""

import contextlib
import functools
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from sparse_lib import curvature
from sparse_lib._utils.atomic import TEMPORARY
from sparse_lib.execution import Execution
from sparse_lib.experiment.analyses import solutions
from sparse_lib.experiment.analyses.estimated_spectrum import EstimatedSpectrum
from sparse_lib.experiment.analyses.exact_spectrum import ExactSpectrum
from sparse_lib.experiment.analyses.spectrum import Point, Spectrum
from sparse_lib.experiment.config.analyses import HessianSettings
from sparse_lib.experiment.config.experiment import Experiment
from sparse_lib.experiment.runtime.signals import Stop
from sparse_lib.experiment.training.build import build_model
from sparse_lib.landscape import batch_norm
from sparse_lib.masks import Masks
from sparse_lib.objective import Objective

_OPERATORS: dict[str, Callable[..., curvature.CurvatureOperator]] = {
    "hessian": curvature.HessianOperator,
    "gauss_newton": curvature.GaussNewtonOperator,
    "fisher": curvature.FisherOperator,
    "empirical_fisher": functools.partial(curvature.FisherOperator, labels="data"),
}
# Four products of a WRN-22-2 share a pass; over 130 images they take 6.6 GB, over 255 they took 10.4.
_MAX_EXAMPLES, _MAX_PIXELS = 1000, 400_000


def examples_at_once(shape: Sequence[int]) -> int:
    """Returns the number of examples per pass, whose memory grows with the pixels.

    Args:
      shape: of an example.

    Returns:
      510 images of MNIST, 130 of CIFAR, 2 of ImageNet, and at most 1,000 of anything (count).
    """
    return max(1, min(_MAX_EXAMPLES, _MAX_PIXELS // math.prod(shape)))


class Spectrometer:
    """A network that is moved from checkpoint to checkpoint, and the data that its loss is averaged over."""

    def __init__(self, experiment: Experiment, settings: HessianSettings, folder: pathlib.Path, stop: Stop) -> None:
        """Builds the network and batches the data.

        Args:
          experiment: of the run.
          settings: of matrix and method.
          folder: of the results; intermediate results are stored there as well.
          stop: checked after every product.
        """
        self._settings, self._folder = settings, folder
        self._rate = experiment.optimizer.rate(experiment.training.total_steps)
        self._inner = experiment.optimizer.build(self._rate)
        self._has_one_rate = experiment.optimizer.rate_scaling is None
        self._model = build_model(experiment)
        self._kernels = experiment.network.kernels(self._model)
        self._masks = Masks(list(self._kernels.values()), names=list(self._kernels))
        self._objective = Objective(self._model)
        # Exact spectra look into the layers, which have to compute as they are.
        execution = Execution(self._model, self._masks, experiment.training.execution)
        scope = execution.at_masks if settings.space == "active" else contextlib.nullcontext
        self._sparse_objective = Objective(self._model, scope=scope)
        self._compiled: curvature.CurvatureOperator | None = None
        train, size = experiment.dataset.train, settings.batch_size
        data = train.images[:size], train.labels[:size]
        at_once = settings.examples_at_once or examples_at_once(data[0].shape[1:])
        self._batches = curvature.Batches.of(data, min(at_once, len(data[1])))
        self._exact, self._estimated = ExactSpectrum(settings, stop), EstimatedSpectrum(settings, stop)

    def store(self, number: int) -> pathlib.Path:
        """Returns the folder for intermediate results of a checkpoint; it may not exist.

        Args:
          number: of the checkpoint.
        """
        return self._folder / f"{TEMPORARY}ckpt-{number}"

    def compute(self, directory: pathlib.Path, number: int, title: str) -> Spectrum:
        """Computes the spectrum at one checkpoint; an interrupted computation is continued.

        Args:
          directory: of the run.
          number: of the checkpoint.
          title: of the progress line.

        Returns:
          Its summary and arrays.

        Raises:
          RunError: if the checkpoint cannot be read or does not fit the network.
          Interrupted: after SIGINT or SIGTERM.
        """
        settings = self._settings
        self._load(directory / f"ckpt-{number}")
        params = self._objective.params()
        subspace = self._subspace()
        loss, gradient = curvature.consistency(self._objective, params, self._batches)
        slope = np.asarray(subspace.gather(gradient))
        is_exact = settings.method == "exact" or (settings.method == "auto" and subspace.size <= settings.max_exact)
        method = self._exact if is_exact else self._estimated
        operator = functools.partial(self._operator, params, subspace)
        point = Point(self._objective, params, self._batches, subspace, operator, self.store(number), title)
        spectrum = method.compute(point)
        top = spectrum.arrays["eigenvectors"]
        common = {
            "step": abs(number),
            "samples": self._batches.examples,
            "operator": settings.operator,
            "space": settings.space,
            "loss": loss,
            "gradient_norm": float(np.linalg.norm(slope)),
            "gradient_overlap": curvature.overlap(slope, top[:, : settings.n_eigenvalues]),
            **self._stability(abs(number)),
        }
        return Spectrum({**spectrum.summary, **common}, spectrum.arrays)

    def _load(self, checkpoint: pathlib.Path) -> None:
        solution = solutions.read(checkpoint, self._model, self._kernels)
        for variable, value in zip(self._model.trainable_variables, solution.values, strict=True):
            variable.assign(value)
        for variable, value in zip(batch_norm.statistics(self._model), solution.statistics, strict=True):
            variable.assign(value)
        self._masks.assign([m for m in solution.masks if m is not None])

    def _subspace(self) -> curvature.Subspace:
        masks = self._masks if self._settings.space == "active" else None
        subspace = curvature.Subspace.active(self._model, masks)
        return subspace.only(self._settings.layers) if self._settings.layers else subspace

    def _stability(self, step: int) -> dict[str, float | None]:
        """Returns the learning rate and the sharpness above which gradient descent with it diverges."""
        rate, inner = float(self._rate(step)), self._inner
        is_descent = isinstance(inner, keras.optimizers.SGD) and self._has_one_rate and rate > 0
        limit = curvature.stability_limit(rate, inner.momentum, nesterov=inner.nesterov) if is_descent else None
        return {"learning_rate": rate, "stability_limit": limit}

    def _operator(self, params: Sequence[Any], subspace: curvature.Subspace) -> curvature.CurvatureOperator:
        """Returns the matrix at a point; it is compiled once for all checkpoints."""
        if self._compiled is None:
            self._compiled = _OPERATORS[self._settings.operator](
                self._sparse_objective, params, self._batches, subspace
            )
        return self._compiled.at(params, subspace=subspace)
