"""Tables of a study: one row per run, layer densities, sign flips, overlap of masks between seeds."""

import itertools
import math
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.records.checkpoints import read_masks, read_weights
from analysis.similarity import masks as similarity
from analysis.tickets.branches import TICKET, find_branch
from analysis.tickets.levels import Run
from sparse_lib.experiment.storage import files

_REMEDY = "delete the directory and repeat the command"


class Tables(NamedTuple):
    """The tables of a study.

    Attributes:
      runs: one row per run, from `make_row`.
      layers: density of each layer of the chains, by seed and level (fraction).
      signs: share of the active weights of the chains whose sign is not that of the level's start, and not that of the
        dense run's (fraction).
      overlap: intersection over union of the masks of two seeds, by level, and its value by chance (fraction).
      landscape: barriers along the levels, from `landscape.make_table`.
    """

    runs: pd.DataFrame
    layers: pd.DataFrame
    signs: pd.DataFrame
    overlap: pd.DataFrame
    landscape: pd.DataFrame

    def write(self, directory: pathlib.Path) -> list[pathlib.Path]:
        """Writes each table as `<name>.csv`.

        Args:
          directory: existing.

        Returns:
          Paths of the files.
        """
        written = []
        for name, frame in zip(self._fields, self, strict=True):
            path = directory / f"{name}.csv"
            files.write_text(path, frame.to_csv(index=False))
            written.append(path)
        return written


def make_tables(runs: Sequence[Run], landscape: pd.DataFrame) -> Tables:
    """Reads the finished runs of a study.

    Args:
      runs: from `make_runs`.
      landscape: the table of barriers, which may have no rows.

    Returns:
      The tables.

    Raises:
      RunError: if a run cannot be read.
    """
    rows = [make_row(run) for run in runs]
    chains = [run for run in runs if not run.branch]
    layers = [row for run in chains for row in _list_densities(run)]
    signs = [_count_flips(run) for run in chains]
    return Tables(pd.DataFrame(rows), pd.DataFrame(layers), pd.DataFrame(signs), _compare_seeds(chains), landscape)


def make_row(run: Run) -> dict[str, Any]:
    """Reads the row of a run.

    A run's best step is the log step of its lowest validation loss, where early stopping would have ended it. A run
    that is not trained counts as it starts.

    Args:
      run: a finished one.

    Returns:
      seed, level, branch; weights_remaining (fraction) and active_weights (count) of the sparse kernels;
      test_accuracy and validation_accuracy at the end, best_test_accuracy at best_step, start_test_accuracy at step 0
      (fractions); best_step, steps (step); seconds (s); outcome, as in result.json; and the directory.
    """
    result = files.read_json(run.directory / files.RESULT, _REMEDY, ["test_accuracy", "sparsity", "wall_seconds"])
    records = files.JsonLines(run.directory / files.METRICS).read()
    start, last = records[0], records[-1]
    if run.branch and not find_branch(run.branch)[0].trains:
        last, records = start, [start]
    best = min(records, key=lambda record: _number(record.get("validation_loss"), math.inf))
    has_loss = math.isfinite(_number(best.get("validation_loss"), math.inf))
    return {
        "seed": run.seed,
        "level": run.level,
        "branch": run.branch or TICKET,
        "weights_remaining": 1 - result["sparsity"],
        "active_weights": last["active_weights"],
        "test_accuracy": _number(last.get("test_accuracy")),
        "validation_accuracy": _number(last.get("validation_accuracy")),
        "best_step": best["step"] if has_loss else math.nan,
        "best_test_accuracy": _number(best.get("test_accuracy")) if has_loss else math.nan,
        "start_test_accuracy": _number(start.get("test_accuracy")),
        "steps": last["step"],
        "seconds": _number(result["wall_seconds"]),
        "outcome": result.get("outcome"),
        "run": f"{run.directory.parent.name}/{run.directory.name}",
    }


def _number(value: float | None, otherwise: float = math.nan) -> float:
    # JSON has null for NaN.
    return otherwise if value is None else float(value)


def _list_densities(run: Run) -> list[dict[str, Any]]:
    last = files.JsonLines(run.directory / files.METRICS).read()[-1]
    found = {key.partition("/")[2]: value for key, value in last.items() if key.startswith("sparsity/")}
    return [
        {"seed": run.seed, "level": run.level, "weights_remaining": 1 - last["sparsity"], "layer": n, "density": 1 - v}
        for n, v in found.items()
    ]


def _count_flips(run: Run) -> dict[str, Any]:
    dense = run.directory.with_name("level_00")
    masks = read_masks(run.directory)
    end, start, initial = map(read_weights, (run.directory, run.directory / "ckpt-0", dense / "ckpt-0"))
    flips = {"since_start": 0, "since_initialisation": 0}
    for name, mask in masks.items():
        (key,) = [k for k in end if k == name or k.endswith(f".{name}")]
        signs = np.sign(end[key][mask])
        flips["since_start"] += int(np.count_nonzero(signs != np.sign(start[key][mask])))
        flips["since_initialisation"] += int(np.count_nonzero(signs != np.sign(initial[key][mask])))
    active, size = (sum(int(m.sum()) for m in masks.values()), sum(m.size for m in masks.values()))
    shares = {name: count / max(active, 1) for name, count in flips.items()}
    return {"seed": run.seed, "level": run.level, "weights_remaining": active / size, **shares}


def _compare_seeds(chains: Sequence[Run]) -> pd.DataFrame:
    rows = []
    for level in sorted({run.level for run in chains if run.level}):
        own = {run.seed: read_masks(run.directory) for run in chains if run.level == level}
        for one, other in itertools.combinations(sorted(own), 2):
            total = similarity.overlap(own[one], own[other]).iloc[-1]
            active = sum(int(m.sum()) for m in own[one].values()) / sum(m.size for m in own[one].values())
            rows.append(
                {"level": level, "seed": one, "other_seed": other, "weights_remaining": active}
                | {name: float(total[name]) for name in ("iou", "chance", "above_chance")}
            )
    return pd.DataFrame(rows, columns=["level", "seed", "other_seed", "weights_remaining", *_OVERLAP])


_OVERLAP = ("iou", "chance", "above_chance")
