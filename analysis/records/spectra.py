"""Results of hessian.py: Hessian spectra at checkpoints."""

import pathlib
import re
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.records.runs import IDENTITY, Runs
from sparse_lib.experiment.runtime.errors import RunError
from sparse_lib.experiment.storage import files

_NAME = re.compile(r"^ckpt-(-?\d+)\.json$")
_SUMMARY = (*IDENTITY, "number", "step", "lambda_max", "lambda_min", "negative", "trace")
_NUMBERS = ("lambda_max", "lambda_min", "negative", "trace")
_LEFT_OUT = "the report leaves it out"
_UPDATES = (*IDENTITY, "step", "lambda_max_change", "lambda_min_change", "negative_change")


class Spectra(NamedTuple):
    """Spectra of the runs.

    Attributes:
      summaries: one row per checkpoint: `number` as in its name, negative beside a mask update, its `step`, and the
        values of the summary: lambda_max, lambda_min, negative, trace, ...
      updates: one row per mask update with spectra on both sides, as in hessian/mask_updates.jsonl.
    """

    summaries: pd.DataFrame
    updates: pd.DataFrame


def load(runs: Runs, notes: list[str] | None = None) -> Spectra:
    """Reads the spectra of all runs.

    Args:
      runs: runs whose directories may contain hessian/.
      notes: list that takes one sentence per file that could not be read; None drops them.

    Returns:
      The frames, without the files that could not be read.
    """
    notes = [] if notes is None else notes
    summaries, updates = [], []
    for row in runs.runs.to_dict("records"):
        identity = {column: row[column] for column in IDENTITY}
        folder = pathlib.Path(row["path"]) / files.HESSIAN
        if not folder.is_dir():
            continue
        for path in sorted(folder.iterdir()):
            match = _NAME.match(path.name)
            values = _read(path, notes) if match else {}
            if match and values:
                number = int(match[1])
                plain = {"step": abs(number), **{k: v for k, v in values.items() if isinstance(v, int | float | str)}}
                # `method` names the training method of the run, not the estimator of the spectrum.
                summaries.append({**plain, "estimator": plain.get("method"), **identity, "number": number})
        records, problem = files.JsonLines(folder / files.MASK_UPDATES).scan()
        notes += [problem] if problem else []
        updates += [{**record, **identity} for record in records]
    return Spectra(_to_frame(summaries, _SUMMARY), _to_frame(updates, _UPDATES))


def read_spectrum(directory: pathlib.Path, number: int) -> np.ndarray | tuple[np.ndarray, np.ndarray] | None:
    """Reads the spectrum at a checkpoint.

    Args:
      directory: run directory.
      number: number of the checkpoint, negative beside a mask update.

    Returns:
      All eigenvalues; a grid and the spectral density on it, if it was estimated; None if there is neither.
    """
    arrays = _read_arrays(directory, number)
    if "eigenvalues" in arrays:
        return arrays["eigenvalues"]
    return (arrays["grid"], arrays["density"]) if {"grid", "density"} <= arrays.keys() else None


def _read_arrays(directory: pathlib.Path, number: int) -> dict[str, np.ndarray]:
    path = directory / files.HESSIAN / f"ckpt-{number}.npz"
    try:
        arrays = files.read_arrays(path, _LEFT_OUT)
    except RunError:
        return {}
    names = ("eigenvalues", "grid", "density")
    return {n: arrays[n] for n in names if n in arrays and arrays[n].ndim == 1 and arrays[n].dtype.kind == "f"}


def _read(path: pathlib.Path, notes: list[str]) -> dict[str, object]:
    try:
        values = files.read_json(path, _LEFT_OUT)
        with files.report_damage(path, _LEFT_OUT):
            files.require_numbers(values, _NUMBERS)
    except RunError as error:
        notes.append(str(error))
        return {}
    return values


def _to_frame(rows: list[dict[str, object]], columns: tuple[str, ...]) -> pd.DataFrame:
    frame = pd.DataFrame(rows)
    return frame.reindex(columns=list(dict.fromkeys([*columns, *frame.columns])))
