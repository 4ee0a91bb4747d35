"""Data of the interactive part of a page: runs, their settings, and their measurements over training."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.figures import palette
from analysis.records.runs import IDENTITY, Runs

# Numbers in a page; with about seven characters each, two megabytes.
BUDGET = 280_000
_MOST_POINTS, _FEWEST_POINTS = 250, 40
# Settings that name places, and those that a label or a column of its own tells already.
_TOLD = ("mask_init_path", "weight_init_path", "data_dir", "cache_dir", "training.seed", "training.total_steps")
# Columns of the table by column of the frames.
_OF_RUNS = {
    "label": "method",
    "run": "run",
    "setting": "setting",
    "seed": "seed",
    "target_sparsity": "sparsity",
    "parent": "masks of",
    "state": "state",
    "last_step": "last step",
    "total_steps": "length of the run (steps)",
}
_FINAL = "final "
_OF_RESULTS = {
    _FINAL + "test_accuracy": "final test accuracy",
    _FINAL + "validation_accuracy": "final validation accuracy",
    _FINAL + "test_loss": "final test loss (nats)",
    _FINAL + "train_loss": "final training loss (nats)",
    _FINAL + "active_parameters": "active parameters",
    _FINAL + "size_bytes": "size (bytes)",
    _FINAL + "inference_flops": "inference FLOPs",
    _FINAL + "training_flops": "training FLOPs of the run",
    _FINAL + "wall_seconds": "duration (s)",
    _FINAL + "steps_per_second": "steps per second",
}
_ALWAYS = ("label", "run", "seed", "state")
_FRACTIONS = ("accuracy", "sparsity", "exploration_rate", "mask_churn", "dead_units", "drop_fraction", "cosine")
_UNITS = {"loss": " (nats)", "loss_decrease": " (nats)", "flops": "", "seconds": " (s)"}
_STEP = "step"


class Column(NamedTuple):
    """A setting or a result of runs.

    Attributes:
      name: identifier.
      title: for readers.
      kind: `text`, `number` or `fraction`.
    """

    name: str
    title: str
    kind: str


def gather(runs: Runs, budget: int = BUDGET) -> dict[str, Any]:
    """Gathers what a reader may sort, filter and plot.

    Args:
      runs: all runs of the report.
      budget: numbers in all series together, about (count).

    Returns:
      `columns` and, in their order, `rows`, one per run; `groups` of measurements with the same steps, each with its
      `measures` and the `series` of every run, thinned to evenly spaced log steps, first and last included; `colours`
      and `dashes` of lines by method; `note`, on what was left out.
    """
    columns, table = _gather_table(runs)
    names = list(runs.runs["run"])
    by_layer = _pivot_layers(runs.layers)
    frames = [(runs.metrics, None), (runs.mask_updates, "at mask updates")]
    if by_layer is not None:
        frames.append((by_layer, None))
    measures = [_measures_of(frame) for frame, _ in frames]
    points, keep = _share_budget(budget, len(names), [len(own) for own in measures])
    groups = [
        _gather_group(frame, own, names, points, suffix)
        for (frame, suffix), own in list(zip(frames, measures, strict=True))[:keep]
        if own
    ]
    speeds = runs.results.set_index("run").get("steps_per_second", pd.Series(dtype=float))
    looks = palette.looks(runs.runs)
    return {
        "columns": [column._asdict() for column in columns],
        "rows": table,
        "groups": groups,
        "speeds": [_number(speeds.get(name, math.nan)) for name in names],
        "colours": {label: look.colour for label, look in looks.items()},
        "dashes": {label: _dashes(look) for label, look in looks.items()},
        "note": "" if keep == len(frames) else "Measurements of layers are left out: data/ has them.",
        "points": points,
    }


def _dashes(look: palette.Look) -> list[float]:
    """Returns lengths of strokes and gaps (pixels)."""
    return [1, 0] if look.line == "-" else [1.6 * length for length in look.line[1]]


def _gather_table(runs: Runs) -> tuple[list[Column], list[list[Any]]]:
    frame = runs.runs.set_index("run", drop=False)
    # Measurements over training have the plain names.
    chosen = frame.rename(columns={_STEP: "last_step"})[list(_OF_RUNS)]
    results = runs.results.set_index("run").add_prefix(_FINAL)
    results = results[[name for name in _OF_RESULTS if name in results]].dropna(axis=1, how="all")
    bound = runs.configs.loc[:, [not name.endswith(_TOLD) for name in runs.configs.columns]]
    bound = bound.loc[:, [len({repr(value) for value in bound[name]}) > 1 for name in bound.columns]]
    titles = {**_OF_RUNS, **_OF_RESULTS}
    joined = pd.concat([chosen, results.reindex(frame.index), bound.reindex(frame.index)], axis=1)
    # Names of settings that are also names of columns.
    joined = joined.loc[:, ~joined.columns.duplicated()]
    columns, values = [], []
    for name in joined.columns:
        cells = [_cell(value) for value in joined[name]]
        if name not in _ALWAYS and len({repr(cell) for cell in cells}) < 2:
            continue
        is_number = all(cell is None or isinstance(cell, int | float) for cell in cells)
        kind = ("fraction" if name.endswith(_FRACTIONS) else "number") if is_number else "text"
        columns.append(Column(str(name), titles.get(name, str(name)), kind))
        values.append(cells if is_number else ["" if cell is None else str(cell) for cell in cells])
    return columns, [list(row) for row in zip(*values, strict=True)]


def _cell(value: Any) -> Any:
    """Returns a number, a text, or None for what is missing."""
    if value is None or isinstance(value, bool | str):
        return str(value) if isinstance(value, bool) else value
    if isinstance(value, int | float | np.number):
        return _number(float(value))
    return str(value)


def _number(value: float, digits: int = 6) -> float | int | None:
    if not math.isfinite(value):
        return None
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() and abs(short) < 2**53 else short


def _pivot_layers(layers: pd.DataFrame) -> pd.DataFrame | None:
    """Returns one column per measurement and layer, or None without any."""
    if layers.empty:
        return None
    named = layers.assign(key=layers["metric"] + "/" + layers["layer"])
    wide = named.pivot_table(index=["run", "step"], columns="key", values="value", sort=False)
    return wide.reset_index().rename_axis(columns=None)


def _measures_of(frame: pd.DataFrame) -> list[str]:
    columns = [name for name in frame.columns if name not in (*IDENTITY, _STEP)]
    return [name for name in columns if pd.api.types.is_numeric_dtype(frame[name]) and frame[name].notna().any()]


def _share_budget(budget: int, runs: int, measures: Sequence[int]) -> tuple[int, int]:
    """Returns the points of each series, and how many of the groups have room; the first two always have."""
    for keep in range(len(measures), 1, -1):
        points = budget // max(1, runs * (sum(measures[:keep]) + keep))
        if points >= _FEWEST_POINTS or keep == 2:
            return int(np.clip(points, 2, _MOST_POINTS)), keep
    return _FEWEST_POINTS, len(measures)


def _gather_group(
    frame: pd.DataFrame, measures: Sequence[str], names: Sequence[str], points: int, suffix: str | None
) -> dict[str, Any]:
    by_run: Mapping[Any, pd.DataFrame] = dict(iter(frame.groupby("run")))
    series = [_thin(by_run[name], measures, points) if name in by_run else None for name in names]
    listed = [{"name": _key(m, suffix), "title": _title(m, suffix), "kind": _kind(m)} for m in measures]
    return {"measures": listed, "series": series}


def _key(measure: str, suffix: str | None) -> str:
    return f"{measure} {suffix}" if suffix else measure


def _title(measure: str, suffix: str | None) -> str:
    name, _, layer = measure.partition("/")
    unit = next((text for ending, text in _UNITS.items() if name.endswith(ending)), "")
    words = name.replace("_", " ").replace("flops", "FLOPs").replace(" l2", " (L2)").replace("train ", "training ")
    return " ".join(filter(None, (words, layer, suffix))) + unit


def _kind(measure: str) -> str:
    return "fraction" if measure.partition("/")[0].endswith(_FRACTIONS) else "number"


def _thin(own: pd.DataFrame, measures: Sequence[str], points: int) -> list[list[Any] | None]:
    """Returns the steps and, in their order, the values of every measurement; None for one without values."""
    own = own.sort_values(_STEP)
    kept = np.unique(np.linspace(0, len(own) - 1, min(points, len(own))).round().astype(int))
    own = own.iloc[kept]
    found: list[list[Any] | None] = [[int(step) for step in own[_STEP]]]
    for measure in measures:
        values = [_number(float(value), 4) for value in own[measure]]
        found.append(values if any(value is not None for value in values) else None)
    return found
