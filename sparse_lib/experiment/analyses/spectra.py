"""Spectra of the curvature at the checkpoints of a run: which are missing, and their files."""

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging

from sparse_lib import curvature
from sparse_lib.experiment.analyses.checkpoint_spectrum import Spectrometer
from sparse_lib.experiment.config.analyses import HessianSettings
from sparse_lib.experiment.config.experiment import Experiment
from sparse_lib.experiment.runtime.errors import RunError
from sparse_lib.experiment.runtime.signals import graceful_shutdown
from sparse_lib.experiment.storage import checkpoints, files, resumable, run_directory

# Settings that choose checkpoints, folder, memory and speed; the numbers do not depend on them.
_IRRELEVANT = ("ckpt_ids", "overwrite", "folder", "rows_at_once", "max_exact", "examples_at_once")
_REMEDY = "name another hessian.folder, or set hessian.overwrite=True"


def compute(experiment: Experiment, directory: pathlib.Path, settings: HessianSettings) -> dict[int, dict[str, Any]]:
    """Computes the missing spectra.

    Args:
      experiment: of the run.
      directory: of the run; results go to a folder inside it.
      settings: of checkpoints, matrix and method.

    Returns:
      Summary by checkpoint number, of all selected checkpoints that exist.

    Raises:
      RunError: if no such checkpoint exists, another process works in the directory, or the folder holds results of
        other settings.
      Interrupted: after SIGINT or SIGTERM; the same command continues.
    """
    folder = directory / settings.folder
    numbers = _select_checkpoints(directory, settings.ckpt_ids)
    samples = min(settings.batch_size, len(experiment.dataset.train))
    identity = resumable.identify(settings, irrelevant=_IRRELEVANT, data=experiment.dataset.name, samples=samples)
    with run_directory.lock(directory):
        stored = {
            number: resumable.claim(
                _summary_path(folder, number), identity, overwrite=settings.overwrite, remedy=_REMEDY
            )
            for number in numbers
        }
        missing = [number for number, summary in stored.items() if not summary]
        for number in set(numbers) - set(missing):
            read_summary(folder, number)
        with files.translate_os_error(folder):
            folder.mkdir(exist_ok=True)
            if missing:
                _write_spectra(experiment, directory, settings, missing, identity)
        summaries = {number: read_summary(folder, number) for number in numbers}
        _write_updates(folder, summaries)
    return summaries


def _write_spectra(
    experiment: Experiment,
    directory: pathlib.Path,
    settings: HessianSettings,
    numbers: Sequence[int],
    identity: dict[str, Any],
) -> None:
    folder = directory / settings.folder
    with graceful_shutdown() as stop:
        spectrometer = Spectrometer(experiment, settings, folder, stop)
        for place, number in enumerate(numbers):
            spectrum = spectrometer.compute(directory, number, f"ckpt-{number} ({place + 1} of {len(numbers)})")
            with files.atomic_path(folder / f"ckpt-{number}.npz") as temporary:
                np.savez_compressed(temporary, **spectrum.arrays)  # type: ignore[arg-type]
            # The summary comes last: it marks the checkpoint as complete.
            files.write_json(_summary_path(folder, number), {**spectrum.summary, "settings": identity})
            shutil.rmtree(spectrometer.store(number), ignore_errors=True)
            logging.info("%s: %s", folder / f"ckpt-{number}", format_summary(spectrum.summary))


def _summary_path(folder: pathlib.Path, number: int) -> pathlib.Path:
    return folder / f"ckpt-{number}.json"


def read_summary(folder: pathlib.Path, number: int) -> dict[str, Any]:
    """Reads the summary of a checkpoint.

    Args:
      folder: of the results.
      number: of the checkpoint.

    Returns:
      Value by name.

    Raises:
      RunError: if the file cannot be read, or a value is no number.
    """
    path, remedy = _summary_path(folder, number), "delete it to compute it again"
    summary = files.read_json(path, remedy)
    with files.report_damage(path, remedy):
        files.require_numbers(
            summary, [field.name for field in dataclasses.fields(curvature.Summary) if field.name != "errors"]
        )
    return summary


def format_summary(summary: dict[str, Any]) -> str:
    """Formats a summary as one line."""
    errors = summary["errors"]

    def value(name: str) -> str:
        return f"{summary[name]:.4g}" + (f" ± {errors[name]:.1g}" if name in errors else "")

    return (
        f"{summary['method']}, {summary['parameters']:,} parameters, lambda_max {value('lambda_max')}, lambda_min "
        f"{value('lambda_min')}, {value('negative')} negative, trace {value('trace')}"
    )


def _select_checkpoints(directory: pathlib.Path, wanted: Sequence[int] | None) -> list[int]:
    existing = checkpoints.list_numbers(directory)
    if not existing:
        raise RunError(f"{directory} holds no checkpoint; train the run first, with the same --logdir.")
    if wanted is None:
        return existing
    found = [n for n in dict.fromkeys(wanted) if n in existing]
    missing = [n for n in dict.fromkeys(wanted) if n not in existing]
    if not found:
        listed = ", ".join(f"ckpt-{n}" for n in existing)
        pairs = (
            "; training.save_update_pairs=True saves those around mask updates" if min(wanted, default=0) < 0 else ""
        )
        raise RunError(f"{directory} has none of the checkpoints of hessian.ckpt_ids; it has {listed}{pairs}.")
    if missing:
        logging.warning("%s has no ckpt-%s; the others are taken.", directory, ", ckpt-".join(map(str, missing)))
    return found


def _write_updates(folder: pathlib.Path, summaries: dict[int, dict[str, Any]]) -> None:
    """Writes the change of the spectrum across every mask update with a summary on both sides."""
    records = []
    for number in sorted(summaries, reverse=True):
        # The states before and after the update at step t are numbered -(t - 1) and -t.
        if number >= 0 or number - 1 not in summaries:
            continue
        before, after = summaries[number], summaries[number - 1]
        # Null is a number that is not finite.
        if any(side[name] is None for side in (before, after) for name in ("lambda_max", "lambda_min", "negative")):
            continue
        change = curvature.change(*(_to_summary(side) for side in (before, after)))
        sides = {"before": before, "after": after}
        values = {f"{name}_{side}": of[name] for name in change for side, of in sides.items()}
        records.append({"step": 1 - number, **values, **{f"{name}_change": v for name, v in change.items()}})
    if records:
        files.write_text(folder / files.MASK_UPDATES, "".join(json.dumps(record) + "\n" for record in records))


def _to_summary(record: dict[str, Any]) -> curvature.Summary:
    return curvature.Summary(**{f.name: record[f.name] for f in dataclasses.fields(curvature.Summary)})
