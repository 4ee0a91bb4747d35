"""Exact spectra: all eigenvalues of the matrix at a checkpoint."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import logging
from scipy.sparse.linalg import aslinearoperator

from sparse_lib import curvature
from sparse_lib.curvature import exact
from sparse_lib.experiment.analyses.spectrum import Point, Spectrum, SpectrumMethod
from sparse_lib.experiment.runtime.progress import Progress

# max |H - H^T| / max |H| that rounding explains, with a margin (fraction).
_SYMMETRY_ERRORS = {"float32": 1e-3, "float64": 1e-8}


class ExactSpectrum(SpectrumMethod):
    """Forms the matrix and computes all of its eigenvalues."""

    def compute(self, point: Point) -> Spectrum:
        """Computes the spectrum at a point."""
        settings, subspace = self._settings, point.subspace
        progress = Progress(point.title, 1, unit=None)

        def report(done: int, total: int) -> None:
            progress.update(done / total)
            self._stop.raise_if_requested(done)

        is_hessian = settings.operator == "hessian"
        try:
            matrix, method = (self._hessian if is_hessian else self._from_products)(point, report)
        finally:
            progress.close()
        count = min(settings.n_eigenvalues, subspace.size)
        top = curvature.extreme(aslinearoperator(matrix), count, seed=settings.seed)
        eigenvalues = exact.eigenvalues(matrix)
        if settings.is_dense_spectrum:
            masked = curvature.Subspace.all(point.objective.model).size - subspace.size
            eigenvalues = np.sort(np.concatenate([eigenvalues, np.zeros(masked)]))
        summary = dataclasses.asdict(
            curvature.summarize(eigenvalues, dtype=settings.dtype if is_hessian else "float32")
        )
        return Spectrum({**method, **summary}, {"eigenvalues": eigenvalues, "eigenvectors": top.vectors})

    def _hessian(self, point: Point, report: Callable[[int, int], None]) -> tuple[np.ndarray, dict[str, Any]]:
        settings = self._settings
        result = exact.hessian(
            point.objective,
            point.params,
            point.batches,
            point.subspace,
            dtype=settings.dtype,
            rows_at_once=settings.rows_at_once,
            limit=settings.max_exact,
            store=str(point.store),
            progress=report,
        )
        if result.symmetry_error > _SYMMETRY_ERRORS[settings.dtype]:
            logging.warning(
                "The Hessian of %s is symmetric to %.1e only, which rounding in %s does not explain: do not "
                "trust its eigenvalues; compare with hessian.dtype='float64'.",
                point.title,
                result.symmetry_error,
                settings.dtype,
            )
        return result.matrix, {"method": f"exact, {result.method}", "symmetry_error": result.symmetry_error}

    def _from_products(self, point: Point, report: Callable[[int, int], None]) -> tuple[np.ndarray, dict[str, Any]]:
        """Multiplies the matrix by the unit vectors."""
        size = point.subspace.size
        operator = curvature.Counted(point.operator(), lambda products: report(products, size))
        blocks = np.array_split(np.eye(size), -(-size // self._settings.rows_at_once), axis=1)
        matrix = np.concatenate([operator.matmat(block) for block in blocks], axis=1)
        return (matrix + matrix.T) / 2, {"method": "exact, rows", "symmetry_error": None}
