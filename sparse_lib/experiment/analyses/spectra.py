"""The spectra of a run's checkpoints: which are to be computed, and the files of each."""

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
from sparse_lib.experiment.runtime.signals import when_asked
from sparse_lib.experiment.storage import checkpoints, files

# What says which checkpoints, where to and how fast, and not what is computed.
_INCIDENTAL = ("ckpt_ids", "overwrite", "folder", "rows_at_once", "max_exact", "examples_at_once")


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
    if todo:
        _compute(experiment, directory, settings, todo, identity)
    summaries = {n: read_summary(folder, n) for n in numbers}
    _write_updates(folder, summaries)
    return summaries


def _compute(
    experiment: Experiment,
    directory: pathlib.Path,
    settings: HessianSettings,
    todo: Sequence[int],
    identity: dict[str, Any],
) -> None:
    """Writes the files of one checkpoint after the other."""
    folder = directory / settings.folder
    with when_asked() as stop:
        spectrometer = Spectrometer(experiment, settings, folder, stop)
        for place, number in enumerate(todo):
            found = spectrometer.spectrum(directory, number, f"ckpt-{number} ({place + 1} of {len(todo)})")
            with files.atomic(folder / f"ckpt-{number}.npz") as temporary:
                np.savez_compressed(temporary, **found.arrays)  # type: ignore[arg-type]
            # Last: a summary says that everything of its checkpoint is there.
            files.write_json(folder / f"ckpt-{number}.json", {**found.summary, "settings": identity})
            shutil.rmtree(spectrometer.store(number), ignore_errors=True)
            logging.info("%s: %s", folder / f"ckpt-{number}", told(found.summary))


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
