"""Estimated spectra: extreme eigenvalues, density and trace from products with the matrix, each with its error."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from sparse_lib import curvature
from sparse_lib.curvature.stored_parts import Parts, fingerprint
from sparse_lib.experiment.analyses.spectrum import Point, Spectrum, SpectrumMethod
from sparse_lib.experiment.runtime.progress import Progress

# Typical number of products for both ends of a spectrum, for the time left (count).
_END_PRODUCTS = 160


class EstimatedSpectrum(SpectrumMethod):
    """Estimates a spectrum by Lanczos iterations; what is found is stored at once, and an interrupted run continues."""

    def compute(self, point: Point) -> Spectrum:
        """Estimates the spectrum at a point."""
        settings = self._settings
        expected = _END_PRODUCTS + settings.max_probes * settings.lanczos_steps
        progress = Progress(point.title, expected, unit="product")

        def report(products: int) -> None:
            progress.update(min(products, expected))
            self._stop.raise_if_requested(products)

        try:
            operator = curvature.Counted(point.operator(), report)
            parts = self._open_parts(point)
            largest, smallest = self._estimate_ends(operator, parts)
            quadrature = self._estimate_density(operator, parts)
        finally:
            progress.close()
        density = quadrature.density()
        summary = dataclasses.asdict(curvature.summarize_estimates(largest, smallest, quadrature))
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
        probes = len(quadrature.probes)
        products = largest.products + probes * min(settings.lanczos_steps, point.subspace.size)
        return Spectrum({"method": "lanczos", "probes": probes, "products": products, **summary}, arrays)

    def _open_parts(self, point: Point) -> Parts:
        settings = self._settings
        words = (settings.operator, settings.n_eigenvalues, settings.lanczos_steps, settings.seed)
        data = (part.numpy() for batch in point.batches for part in batch)
        values = [variable.numpy() for variable in point.objective.model.variables]
        return Parts(point.store, fingerprint(words, [*values, *point.subspace.indices, *data]))

    def _estimate_ends(
        self, operator: curvature.Counted, parts: Parts
    ) -> tuple[curvature.Eigenpairs, curvature.Eigenpairs]:
        """Computes the largest and the smallest eigenvalues, stored as part 0."""
        if 0 in parts.numbers():
            stored = parts.get(0)
            return _read_pairs(stored, "largest"), _read_pairs(stored, "smallest")
        count = min(self._settings.n_eigenvalues, operator.shape[0])
        largest, smallest = curvature.both_ends(operator, count, seed=self._settings.seed)
        sides = {"largest": largest, "smallest": smallest}
        parts.put(0, **{f"{side}_{name}": v for side, pairs in sides.items() for name, v in pairs._asdict().items()})
        return largest, smallest

    def _estimate_density(self, operator: curvature.Counted, parts: Parts) -> curvature.Quadrature:
        """Computes the spectral density; part n stores the first n probes."""
        settings = self._settings

        def store(probes: tuple[curvature.Probe, ...]) -> None:
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
            on_probe=store,
        )


def _read_pairs(stored: Mapping[str, np.ndarray], side: str) -> curvature.Eigenpairs:
    values, vectors, residuals, products = (stored[f"{side}_{name}"] for name in curvature.Eigenpairs._fields)
    return curvature.Eigenpairs(values, vectors, residuals, int(products))
