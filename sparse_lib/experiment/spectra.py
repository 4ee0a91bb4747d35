"""The spectra of a run's checkpoints: weights and masks in, eigenvalues and a summary for each out."""

import dataclasses
import functools
import json
import math
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from absl import logging
from scipy.sparse.linalg import aslinearoperator

from sparse_lib import curvature
from sparse_lib.curvature import exact
from sparse_lib.curvature.parts import Parts, fingerprint
from sparse_lib.experiment import checkpoints, files, solutions
from sparse_lib.experiment.analyses import HessianSettings
from sparse_lib.experiment.errors import RunError
from sparse_lib.experiment.progress import Progress
from sparse_lib.experiment.run import Experiment
from sparse_lib.experiment.stopping import Stop, when_asked
from sparse_lib.functional import Objective
from sparse_lib.landscape import batch_norm
from sparse_lib.masks import Masks
from sparse_lib.whole_files import TEMPORARY

# What says which checkpoints, where to and how fast, and not what is computed.
_INCIDENTAL = ("ckpt_ids", "overwrite", "folder", "rows_at_once", "max_exact", "examples_at_once")
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


def compute(experiment: Experiment, directory: pathlib.Path, settings: HessianSettings) -> dict[int, dict[str, Any]]:
    """Computes the spectra that are not there yet.

    Args:
      experiment: of the run.
      directory: of the run; results go to a folder inside it.
      settings: which checkpoints, which matrix, how.

    Returns:
      Summary by checkpoint, of all that were asked for and exist.

    Raises:
      RunError: if there is no such checkpoint, or the folder holds results of other settings.
      Interrupted: after SIGINT or SIGTERM; the same command goes on from there.
    """
    folder = directory / settings.folder
    numbers = _chosen(directory, settings.ckpt_ids)
    identity = {k: v for k, v in dataclasses.asdict(settings).items() if k not in _INCIDENTAL}
    identity |= {"data": experiment.dataset.name, "samples": min(settings.batch_size, len(experiment.dataset.train))}
    # As JSON gives them back.
    identity = json.loads(json.dumps(identity))
    todo = [n for n in numbers if settings.overwrite or not _is_done(folder, n, identity)]
    with files.writing(folder):
        folder.mkdir(exist_ok=True)
    with when_asked() as stop:
        probe = _Probe(experiment, settings, folder, stop) if todo else None
        for place, number in enumerate(todo):
            assert probe is not None
            found = probe.spectrum(directory, number, f"ckpt-{number} ({place + 1} of {len(todo)})")
            with files.atomic(folder / f"ckpt-{number}.npz") as temporary:
                np.savez_compressed(temporary, **found.arrays)  # type: ignore[arg-type]
            # Last: a summary says that everything of its checkpoint is there.
            files.write_json(folder / f"ckpt-{number}.json", {**found.summary, "settings": identity})
            shutil.rmtree(probe.store(number), ignore_errors=True)
            logging.info("%s: %s", folder / f"ckpt-{number}", told(found.summary))
    summaries = {n: read_summary(folder, n) for n in numbers}
    _write_updates(folder, summaries)
    return summaries


def examples_at_once(shape: Sequence[int]) -> int:
    """Examples that fit into one pass, whose memory grows with the pixels.

    Args:
      shape: of an example.

    Returns:
      510 images of MNIST, 130 of CIFAR, 2 of ImageNet, and at most 1,000 of anything (count).
    """
    return max(1, min(_AT_ONCE, _PIXELS_AT_ONCE // math.prod(shape)))


def read_summary(folder: pathlib.Path, number: int) -> dict[str, Any]:
    """What a summary file holds."""
    return json.loads((folder / f"ckpt-{number}.json").read_text(encoding="utf8"))


def told(summary: dict[str, Any]) -> str:
    """A summary in a line."""
    errors = summary["errors"]

    def value(name: str) -> str:
        return f"{summary[name]:.4g}" + (f" ± {errors[name]:.1g}" if name in errors else "")

    return (
        f"{summary['method']}, {summary['parameters']:,} parameters, lambda_max {value('lambda_max')}, lambda_min "
        f"{value('lambda_min')}, {value('negative')} negative, trace {value('trace')}"
    )


def _chosen(directory: pathlib.Path, wanted: Sequence[int] | None) -> list[int]:
    """Numbers of the checkpoints to look at; names those that are missing."""
    there = checkpoints.numbered(directory)
    if not there:
        raise RunError(f"{directory} holds no checkpoint; train the run first, with the same --logdir.")
    if wanted is None:
        return there
    found = [n for n in dict.fromkeys(wanted) if n in there]
    missing = [n for n in dict.fromkeys(wanted) if n not in there]
    if not found:
        listed = ", ".join(f"ckpt-{n}" for n in there)
        raise RunError(f"{directory} has none of the checkpoints of hessian.ckpt_ids; it has {listed}.")
    if missing:
        logging.warning("%s has no ckpt-%s; the others are taken.", directory, ", ckpt-".join(map(str, missing)))
    return found


def _is_done(folder: pathlib.Path, number: int, identity: dict[str, Any]) -> bool:
    if not (folder / f"ckpt-{number}.json").exists():
        return False
    there = read_summary(folder, number)["settings"]
    different = [name for name, value in identity.items() if there.get(name) != value]
    if different:
        name = different[0]
        raise RunError(
            f"{folder}/ckpt-{number}.json was computed with {name}={there.get(name)!r}, now it is {identity[name]!r}; "
            "name another hessian.folder, or set hessian.overwrite=True."
        )
    return True


def _write_updates(folder: pathlib.Path, summaries: dict[int, dict[str, Any]]) -> None:
    """The change of the spectrum across every mask update whose two sides were looked at."""
    records = []
    for number in sorted(summaries, reverse=True):
        # The states before and after the update at step t are numbered -(t - 1) and -t.
        if number >= 0 or number - 1 not in summaries:
            continue
        before, after = summaries[number], summaries[number - 1]
        change = curvature.change(*(_as_summary(side) for side in (before, after)))
        sides = {"before": before, "after": after}
        values = {f"{name}_{side}": of[name] for name in change for side, of in sides.items()}
        records.append({"step": 1 - number, **values, **{f"{name}_change": v for name, v in change.items()}})
    if records:
        files.write_text(folder / files.MASK_UPDATES, "".join(json.dumps(record) + "\n" for record in records))


def _as_summary(record: dict[str, Any]) -> curvature.Summary:
    return curvature.Summary(**{f.name: record[f.name] for f in dataclasses.fields(curvature.Summary)})


class _Probe:
    """A network that is moved from checkpoint to checkpoint, and the data that its loss is averaged over."""

    def __init__(self, experiment: Experiment, settings: HessianSettings, folder: pathlib.Path, stop: Stop) -> None:
        self._settings, self._folder, self._stop = settings, folder, stop
        self._rate = experiment.optimizer.rate(experiment.training.total_steps)
        self._inner = experiment.optimizer.build(self._rate)
        self._model = experiment.model()
        self._kernels = experiment.network.kernels(self._model)
        self._masks = Masks(list(self._kernels.values()), names=list(self._kernels))
        self._objective = Objective(self._model)
        self._compiled: curvature.CurvatureOperator | None = None
        train, size = experiment.dataset.train, settings.batch_size
        data = train.images[:size], train.labels[:size]
        at_once = settings.examples_at_once or examples_at_once(data[0].shape[1:])
        self._batches = curvature.Batches.of(data, min(at_once, len(data[1])))

    def store(self, number: int) -> pathlib.Path:
        """Where the rows of a matrix lie while it is being computed."""
        return self._folder / f"{TEMPORARY}ckpt-{number}"

    def spectrum(self, directory: pathlib.Path, number: int, title: str) -> Spectrum:
        """The spectrum at one checkpoint."""
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
