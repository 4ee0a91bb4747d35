"""Results of interpolate.py: paths between runs, loss surfaces, instability."""

import contextlib
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.records.runs import IDENTITY, Runs
from sparse_lib.experiment.runtime.errors import RunError
from sparse_lib.experiment.storage import files
from sparse_lib.experiment.storage.checkpoints import split_checkpoint

_LINE = "line"
_LEFT_OUT = "the report leaves it out"
_POINTS = (*IDENTITY, "folder", "path", "other", "to_parent", "from_start", "coefficient", "split", "loss", "accuracy")
_MEASURES = ("above_mean", "above_line", "above_higher_end", "largest_rise")
_BARRIERS = (*IDENTITY, "folder", "path", "other", "to_parent", "from_start", "split", "quantity", *_MEASURES)
_PICTURES = ("surface", "plane", "trajectory")


class Paths(NamedTuple):
    """Interpolations between checkpoints of the runs.

    The columns of `IDENTITY` describe the run at coefficient 0; `other` is the run at 1. If a path connects a run to
    the pruned network that its masks come from, `to_parent` is true and the pruned network is at 1, in whichever order
    they were given.

    Attributes:
      points: one row per path, coefficient and split: loss (nats), accuracy (fraction), and `from_start`, whether the
        path begins at a checkpoint of step 0.
      barriers: one row per finished path, split and quantity (`loss` or `error`): the heights of
        `sparse_lib.landscape.Barrier`.
    """

    points: pd.DataFrame
    barriers: pd.DataFrame


class Picture(NamedTuple):
    """A loss surface.

    Attributes:
      kind: `surface`, `plane` or `trajectory`.
      folder: directory of its files.
      xs: first coordinates, [columns].
      ys: second coordinates, [rows].
      loss: by split, [rows, columns] (nats), NaN where not computed yet.
      marks: one row per checkpoint that spans the plane: x, y, name, run and step.
    """

    kind: str
    folder: str
    xs: np.ndarray
    ys: np.ndarray
    loss: dict[str, np.ndarray]
    marks: pd.DataFrame


def load_paths(tops: Sequence[str | os.PathLike[str]], runs: Runs, notes: list[str] | None = None) -> Paths:
    """Reads all interpolations below some directories, unfinished ones included.

    Args:
      tops: directories.
      runs: runs whose checkpoints are connected; paths between others are skipped.
      notes: list that takes one sentence per file that could not be read; None drops them.

    Returns:
      Points and barriers.
    """
    points, barriers = [], []
    for folder in _find_folders(tops, files.INTERPOLATION_SUMMARY):
        with _note_damage(folder / files.INTERPOLATION_SUMMARY, notes):
            summary = files.read_json(folder / files.INTERPOLATION_SUMMARY, _LEFT_OUT)
            about = _identify_path(summary, runs)
            table = _read_table(folder / files.INTERPOLATION, ["coefficient", "loss", "accuracy"], notes)
            if about is None or table.empty:
                continue
            about["folder"] = str(folder)
            if about.pop("is_reversed"):
                table["coefficient"] = (1 - table["coefficient"]).round(12)
            of_path = [
                {
                    **about,
                    "split": str(split),
                    "quantity": str(quantity),
                    **{name: _to_number(peaks[name]["height"]) for name in _MEASURES if name in peaks},
                }
                for split, of_split in (summary.get("barrier") or {}).items()
                for quantity, peaks in of_split.items()
            ]
            points.append(table.assign(**about))
            barriers += of_path
    joined = pd.concat(points, ignore_index=True) if points else pd.DataFrame()
    return Paths(joined.reindex(columns=list(_POINTS)), pd.DataFrame(barriers, columns=list(_BARRIERS)))


def load_pictures(tops: Sequence[str | os.PathLike[str]], runs: Runs, notes: list[str] | None = None) -> list[Picture]:
    """Reads all loss surfaces below some directories, unfinished ones included.

    Args:
      tops: directories.
      runs: runs that label the checkpoints.
      notes: list that takes one sentence per file that could not be read; None drops them.

    Returns:
      The surfaces.
    """
    pictures = []
    for kind in _PICTURES:
        for folder in _find_folders(tops, f"{kind}.npz"):
            with _note_damage(folder / f"{kind}.npz", notes):
                pictures.append(_read_picture(kind, folder, runs))
    return pictures


def load_instability(
    tops: Sequence[str | os.PathLike[str]], runs: Runs, notes: list[str] | None = None
) -> pd.DataFrame:
    """Reads all instability analyses below some directories.

    Args:
      tops: directories.
      runs: runs that may have been analysed.
      notes: list that takes one sentence per file that could not be read; None drops them.

    Returns:
      One row per pair of copies and split, as in instability.csv, with the columns of `IDENTITY` of the analysed run.
    """
    tables = []
    for folder in _find_folders(tops, files.INSTABILITY):
        with _note_damage(folder / files.INSTABILITY_SUMMARY, notes):
            summary = files.read_json(folder / files.INSTABILITY_SUMMARY, _LEFT_OUT)
            name = runs.locate(str(summary.get("run", "")))
            table = _read_table(folder / files.INSTABILITY, ["step", "error_barrier"], notes)
            if name is not None and not table.empty:
                tables.append(table.assign(**_identity_of(runs, name)))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=[*IDENTITY, "step", "split"])


@contextlib.contextmanager
def _note_damage(path: pathlib.Path, notes: list[str] | None) -> Iterator[None]:
    """Turns the failure to read a file into a note."""
    try:
        with files.report_damage(path, _LEFT_OUT):
            yield
    except RunError as error:
        if notes is not None:
            notes.append(str(error))


def _to_number(value: Any) -> float | None:
    if not isinstance(value, int | float | None):
        raise ValueError(f"{value!r} is no number")
    return value


def _identify_path(summary: dict[str, Any], runs: Runs) -> dict[str, Any] | None:
    """Identifies the two end runs; None if either is unknown."""
    ends = [split_checkpoint(str(summary.get(side, ""))) for side in ("start", "end")]
    known = [(name, step) for directory, step in ends if (name := runs.locate(directory)) is not None]
    if len(known) < 2:
        return None
    is_reversed = runs.parent(known[1][0]) == known[0][0] and runs.parent(known[0][0]) != known[1][0]
    (name, step), (other, _) = reversed(known) if is_reversed else known
    identity = _identity_of(runs, name)
    path = str(summary.get("path", _LINE))
    if path != _LINE:
        identity["label"] += f", {path} curve"
    if (summary.get("settings") or {}).get("match"):
        identity["label"] += ", matched"
    return {
        **identity,
        "path": path,
        "other": other,
        "to_parent": runs.parent(name) == other,
        "from_start": step == 0,
        "is_reversed": is_reversed,
    }


def _identity_of(runs: Runs, name: str) -> dict[str, Any]:
    row = runs.runs.loc[runs.runs["run"] == name].iloc[0]
    return {column: row[column] for column in IDENTITY}


def _read_picture(kind: str, folder: pathlib.Path, runs: Runs) -> Picture:
    path = folder / f"{kind}.npz"
    grid = files.read_arrays(path, _LEFT_OUT, ["xs", "ys"])
    loss = {key.removeprefix("loss_"): grid[key] for key in grid if key.startswith("loss_")}
    shape = (grid["ys"].size, grid["xs"].size)
    if not all(values.shape == shape and values.dtype.kind == "f" for values in loss.values()):
        raise ValueError("it is no grid")
    rows = []
    summary = folder / f"{kind}.json"
    for solution in files.read_json(summary, _LEFT_OUT).get("solutions", []) if summary.exists() else []:
        directory, step = split_checkpoint(solution["checkpoint"])
        run = runs.locate(directory)
        label = pathlib.Path(directory).name if run is None else _identity_of(runs, run)["label"]
        x, y = map(float, solution["coordinates"])
        rows.append((x, y, f"{label}, step {step}" if kind == "surface" else label, run, step))
    marks = pd.DataFrame(rows, columns=["x", "y", "name", "run", "step"])
    return Picture(kind, str(folder), grid["xs"], grid["ys"], loss, marks)


def _find_folders(tops: Sequence[str | os.PathLike[str]], name: str) -> Iterator[pathlib.Path]:
    """Yields every directory that contains a file of that name, once."""
    seen = set()
    for top in tops:
        for folder, subfolders, names in os.walk(top):
            subfolders[:] = sorted(n for n in subfolders if n != files.TENSORBOARD)
            path = pathlib.Path(folder).resolve()
            if name in names and path not in seen:
                seen.add(path)
                yield path


def _read_table(path: pathlib.Path, numbers: Sequence[str], notes: list[str] | None) -> pd.DataFrame:
    """Reads a table whose named columns are numbers; one that cannot be read is empty, and noted."""
    tables = []
    with _note_damage(path, notes):
        table = pd.read_csv(path) if path.exists() else pd.DataFrame()
        if not all(table.empty or pd.api.types.is_numeric_dtype(table[name]) for name in numbers):
            raise ValueError("a column holds no numbers")
        tables.append(table if table.empty else table.assign(split=table["split"].astype(str)))
    return tables[0] if tables else pd.DataFrame()
