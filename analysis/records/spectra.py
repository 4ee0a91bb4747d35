"""Results of hessian.py: Hessian spectra at checkpoints."""

import json
import pathlib
import re
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.records.runs import IDENTITY, Runs
from sparse_lib.experiment.storage import files

_NAME = re.compile(r"^ckpt-(-?\d+)\.json$")
_SUMMARY = (*IDENTITY, "number", "step", "lambda_max", "lambda_min", "negative", "trace")
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


def load(runs: Runs) -> Spectra:
    """Reads the spectra of all runs.

    Args:
      runs: runs whose directories may contain hessian/.

    Returns:
      The frames; unreadable files are skipped.
    """
    summaries, updates = [], []
    for row in runs.runs.to_dict("records"):
        identity = {column: row[column] for column in IDENTITY}
        folder = pathlib.Path(row["path"]) / files.HESSIAN
        if not folder.is_dir():
            continue
        for path in sorted(folder.iterdir()):
            match = _NAME.match(path.name)
            values = _read(path) if match else {}
            if match and values:
                number = int(match[1])
                plain = {"step": abs(number), **{k: v for k, v in values.items() if isinstance(v, int | float | str)}}
                # `method` names the training method of the run, not the estimator of the spectrum.
                summaries.append({**plain, "estimator": plain.get("method"), **identity, "number": number})
        updates += [{**identity, **record} for record in files.JsonLines(folder / files.MASK_UPDATES).read()]
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
    return (arrays["grid"], arrays["density"]) if "density" in arrays else None


def _read_arrays(directory: pathlib.Path, number: int) -> dict[str, np.ndarray]:
    try:
        with np.load(directory / files.HESSIAN / f"ckpt-{number}.npz") as stored:
            return {name: stored[name] for name in ("eigenvalues", "grid", "density") if name in stored}
    except (OSError, ValueError):
        return {}


def _read(path: pathlib.Path) -> dict[str, object]:
    try:
        return dict(json.loads(path.read_text(encoding="utf8")))
    except (OSError, ValueError):
        return {}


def _to_frame(rows: list[dict[str, object]], columns: tuple[str, ...]) -> pd.DataFrame:
    frame = pd.DataFrame(rows)
    return frame.reindex(columns=list(dict.fromkeys([*columns, *frame.columns])))
