"""The curvature at one checkpoint after the other: weights and masks in, eigenvalues and a summary out."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from absl import logging
from scipy.sparse.linalg import aslinearoperator

from sparse_lib import curvature
from sparse_lib._utils.atomic import TEMPORARY
from sparse_lib.curvature import exact
from sparse_lib.curvature.resumable import Parts, fingerprint
from sparse_lib.experiment.analyses import solutions
from sparse_lib.experiment.config.analyses import HessianSettings
from sparse_lib.experiment.config.experiment import Experiment
from sparse_lib.experiment.runtime.progress import Progress
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
_AT_ONCE, _PIXELS_AT_ONCE = 1000, 400_000
# About what both ends of a spectrum take (count): for the time left.
_END_PRODUCTS = 160
# max |H - H^T| / max |H| that rounding leaves, with room (fraction).
_SYMMETRY_ERRORS = {"float32": 1e-3, "float64": 1e-8}


class Spectrum(NamedTuple):
    """What is known of the curvature at one checkpoint.

    Attributes:
      summary: of `ckpt-<step>.json`.
      arrays: of `ckpt-<step>.npz`.
    """

    summary: dict[str, Any]
    arrays: dict[str, np.ndarray]


def examples_at_once(shape: Sequence[int]) -> int:
    """Examples that fit into one pass, whose memory grows with the pixels.

    Args:
      shape: of an example.

    Returns:
      510 images of MNIST, 130 of CIFAR, 2 of ImageNet, and at most 1,000 of anything (count).
    """
    return max(1, min(_AT_ONCE, _PIXELS_AT_ONCE // math.prod(shape)))


class Spectrometer:
    """A network that is moved from checkpoint to checkpoint, and the data that its loss is averaged over."""

    def __init__(self, experiment: Experiment, settings: HessianSettings, folder: pathlib.Path, stop: Stop) -> None:
        """Builds the network and puts the data into batches.

        Args:
          experiment: of the run.
          settings: which matrix, how.
          folder: that takes what is kept of unfinished computations.
          stop: asked after every product.
        """
        self._settings, self._folder, self._stop = settings, folder, stop
        self._rate = experiment.optimizer.rate(experiment.training.total_steps)
        self._inner = experiment.optimizer.build(self._rate)
        self._model = build_model(experiment)
        self._kernels = experiment.network.kernels(self._model)
        self._masks = Masks(list(self._kernels.values()), names=list(self._kernels))
        self._objective = Objective(self._model)
        self._compiled: curvature.CurvatureOperator | None = None
        train, size = experiment.dataset.train, settings.batch_size
        data = train.images[:size], train.labels[:size]
        at_once = settings.examples_at_once or examples_at_once(data[0].shape[1:])
        self._batches = curvature.Batches.of(data, min(at_once, len(data[1])))

    def store(self, number: int) -> pathlib.Path:
        """Where the parts of a spectrum lie while it is being computed.

        Args:
          number: of the checkpoint.

        Returns:
          A folder, which may not be there.
        """
        return self._folder / f"{TEMPORARY}ckpt-{number}"

    def spectrum(self, directory: pathlib.Path, number: int, title: str) -> Spectrum:
        """The spectrum at one checkpoint; parts of it that an interrupted computation left are taken up.

        Args:
          directory: of the run.
          number: of the checkpoint.
          title: of the progress.

        Returns:
          Its numbers and arrays.

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
        find = self._exact if is_exact else self._estimated
        found = find(params, subspace, number, title)
        top = found.arrays["eigenvectors"]
        about = {
            "step": abs(number),
            "samples": self._batches.examples,
            "operator": settings.operator,
            "space": settings.space,
            "loss": loss,
            "gradient_norm": float(np.linalg.norm(slope)),
            "gradient_overlap": curvature.overlap(slope, top[:, : settings.n_eigenvalues]),
            **self._stability(abs(number)),
        }
        return Spectrum({**found.summary, **about}, found.arrays)

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
        """Learning rate, and the sharpness above which gradient descent with it diverges."""
        rate, inner = float(self._rate(step)), self._inner
        is_descent = isinstance(inner, keras.optimizers.SGD) and rate > 0
        limit = curvature.stability_limit(rate, inner.momentum, nesterov=inner.nesterov) if is_descent else None
        return {"learning_rate": rate, "stability_limit": limit}

    def _operator(self, params: Sequence[Any], subspace: curvature.Subspace) -> curvature.CurvatureOperator:
        if self._compiled is None:
            self._compiled = _OPERATORS[self._settings.operator](self._objective, params, self._batches, subspace)
        return self._compiled.at(params, subspace=subspace)

    def _exact(self, params: Sequence[Any], subspace: curvature.Subspace, number: int, title: str) -> Spectrum:
        """All eigenvalues."""
        settings = self._settings
        progress = Progress(title, 1, unit=None)

        def report(done: int, total: int) -> None:
            progress.update(done / total)
            self._stop.obey(done)

        try:
            if settings.operator == "hessian":
                found = exact.hessian(
                    self._objective,
                    params,
                    self._batches,
                    subspace,
                    dtype=settings.dtype,
                    rows_at_once=settings.rows_at_once,
                    limit=settings.max_exact,
                    store=str(self.store(number)),
                    progress=report,
                )
                matrix, how = found.matrix, {"method": f"exact, {found.method}", "symmetry_error": found.symmetry_error}
                if found.symmetry_error > _SYMMETRY_ERRORS[settings.dtype]:
                    logging.warning(
                        "The Hessian of %s is symmetric to %.1e only, which rounding in %s does not explain: do not "
                        "trust its eigenvalues; compare with hessian.dtype='float64'.",
                        title,
                        found.symmetry_error,
                        settings.dtype,
                    )
            else:
                operator = curvature.Counted(self._operator(params, subspace), lambda n: report(n, subspace.size))
                blocks = np.array_split(np.eye(subspace.size), -(-subspace.size // settings.rows_at_once), axis=1)
                matrix = np.concatenate([operator.matmat(block) for block in blocks], axis=1)
                matrix, how = (matrix + matrix.T) / 2, {"method": "exact, rows", "symmetry_error": None}
        finally:
            progress.close()
        dtype = settings.dtype if settings.operator == "hessian" else "float32"
        top = curvature.extreme(
            aslinearoperator(matrix), min(settings.n_eigenvalues, subspace.size), seed=settings.seed
        )
        eigenvalues = exact.eigenvalues(matrix)
        if settings.is_dense_spectrum:
            masked = curvature.Subspace.all(self._model).size - subspace.size
            eigenvalues = np.sort(np.concatenate([eigenvalues, np.zeros(masked)]))
        summary = dataclasses.asdict(curvature.summarize(eigenvalues, dtype=dtype))
        return Spectrum({**how, **summary}, {"eigenvalues": eigenvalues, "eigenvectors": top.vectors})

    def _estimated(self, params: Sequence[Any], subspace: curvature.Subspace, number: int, title: str) -> Spectrum:
        """Extreme eigenvalues, density and trace from products with the matrix, each with its error."""
        settings = self._settings
        most = _END_PRODUCTS + settings.max_probes * settings.lanczos_steps
        progress = Progress(title, most, unit="product")

        def report(products: int) -> None:
            progress.update(min(products, most))
            self._stop.obey(products)

        try:
            operator = curvature.Counted(self._operator(params, subspace), report)
            parts = self._parts(subspace, number)
            largest, smallest = self._ends(operator, parts)
            spectrum = self._quadrature(operator, parts)
        finally:
            progress.close()
        density = spectrum.density()
        summary = dataclasses.asdict(curvature.summarize_estimates(largest, smallest, spectrum))
        arrays = {
            "largest": largest.values,
            "largest_residuals": largest.residuals,
            "smallest": smallest.values,
            "smallest_residuals": smallest.residuals,
            "eigenvectors": largest.vectors,
            "grid": density.grid,
            "density": density.values,
            "density_errors": density.errors,
        }
        products = largest.products + len(spectrum.probes) * min(settings.lanczos_steps, subspace.size)
        how = {"method": "lanczos", "probes": len(spectrum.probes), "products": products}
        return Spectrum({**how, **summary}, arrays)

    def _parts(self, subspace: curvature.Subspace, number: int) -> Parts:
        """What is kept of an estimate as it comes, so that a killed computation goes on from there."""
        settings = self._settings
        words = (settings.operator, settings.n_eigenvalues, settings.lanczos_steps, settings.seed)
        data = (part.numpy() for batch in self._batches for part in batch)
        values = [variable.numpy() for variable in self._model.variables]
        return Parts(self.store(number), fingerprint(words, [*values, *subspace.indices, *data]))

    def _ends(self, operator: curvature.Counted, parts: Parts) -> tuple[curvature.Eigenpairs, curvature.Eigenpairs]:
        """The largest and the smallest eigenvalues, which are the part of number 0."""
        if 0 in parts.numbers():
            stored = parts.get(0)
            return _pairs(stored, "largest"), _pairs(stored, "smallest")
        count = min(self._settings.n_eigenvalues, operator.shape[0])
        largest, smallest = curvature.both_ends(operator, count, seed=self._settings.seed)
        sides = {"largest": largest, "smallest": smallest}
        parts.put(0, **{f"{side}_{name}": v for side, pairs in sides.items() for name, v in pairs._asdict().items()})
        return largest, smallest

    def _quadrature(self, operator: curvature.Counted, parts: Parts) -> curvature.Quadrature:
        """The density; the part of number n holds the first n probes."""
        settings = self._settings

        def keep(probes: tuple[curvature.Probe, ...]) -> None:
            earlier = [count for count in parts.numbers() if count]
            nodes, weights = map(np.stack, zip(*probes, strict=True))
            parts.put(len(probes), nodes=nodes, weights=weights)
            for count in earlier:
                parts.drop(count)

        done: list[curvature.Probe] = []
        if last := max(parts.numbers()):
            stored = parts.get(last)
            done = [curvature.Probe(*probe) for probe in zip(stored["nodes"], stored["weights"], strict=True)]
        return curvature.quadrature(
            operator,
            steps=settings.lanczos_steps,
            precision=settings.precision,
            max_probes=settings.max_probes,
            seed=settings.seed,
            done=done,
            on_probe=keep,
        )


def _pairs(stored: Mapping[str, np.ndarray], side: str) -> curvature.Eigenpairs:
    """The eigenpairs of a side that an interrupted estimate has found."""
    values, vectors, residuals, products = (stored[f"{side}_{name}"] for name in curvature.Eigenpairs._fields)
    return curvature.Eigenpairs(values, vectors, residuals, int(products))
