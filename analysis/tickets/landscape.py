"""Landscape along the levels: barriers from each level to the next, and stability to the order of the data."""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.tickets.levels import Run
from analysis.tickets.plan import Plan
from sparse_lib.experiment.jobs import protocol
from sparse_lib.experiment.jobs.stages import Stage
from sparse_lib.experiment.storage import files

BARRIERS, INSTABILITY = "barriers", "instability"
KINDS = (BARRIERS, INSTABILITY)
# Evaluated points of each line (count), and seeds of the orders of data of two copies.
_POINTS = 11
_DATA_SEEDS = (1001, 1002)
_REMEDY = "delete the directory and repeat the command"
# Work of a line in steps of training.
_LINE_WORK = 100.0
_COLUMNS = ("kind", "seed", "level", "rewind", "weights_remaining", "split", "error_barrier", "loss_barrier")


def make_stages(plan: Plan, runs: Sequence[Run], of_level: Mapping[pathlib.Path, str]) -> list[Stage]:
    """Makes the stages of the landscape that the plan asks for.

    Args:
      plan: size of the study.
      runs: of the study.
      of_level: name of the stage that trains a run, by its directory.

    Returns:
      The stages.
    """
    stages = []
    for run in _select(plan, runs, BARRIERS):
        before = plan.run_directory(run.seed, run.level - 1)
        folder = _folder(run, BARRIERS)
        stages.append(
            Stage(
                _name(folder),
                protocol.make_command(
                    "interpolate.py",
                    folder,
                    "configs/analyses/interpolate.gin",
                    (*(f"interpolate.{name}" for name in ("i_start=0.0", "i_end=1.0", f"n_interpolation={_POINTS}")),),
                    (f"--ckpt_start={before}", f"--ckpt_end={run.directory}"),
                ),
                functools.partial(protocol.is_interpolated, folder / files.INTERPOLATION_SUMMARY),
                tuple(dict.fromkeys((of_level[before], of_level[run.directory]))),
                _LINE_WORK,
            )
        )
    for run in _select(plan, runs, INSTABILITY):
        folder = _folder(run, INSTABILITY)
        settings = ("steps=[0]", f"data_seeds={list(_DATA_SEEDS)}", f"points={_POINTS}")
        stages.append(
            Stage(
                _name(folder),
                protocol.make_command(
                    "interpolate.py",
                    folder,
                    "configs/analyses/instability.gin",
                    (*(f"instability.{setting}" for setting in settings),),
                    ("--mode=instability", f"--run={run.directory}"),
                ),
                # The table comes last.
                (folder / files.INSTABILITY).exists,
                (of_level[run.directory],),
                float(len(_DATA_SEEDS) * run.steps),
            )
        )
    return stages


def make_table(plan: Plan, runs: Sequence[Run]) -> pd.DataFrame:
    """Reads the finished analyses.

    Args:
      plan: size of the study.
      runs: of the study.

    Returns:
      One row per line and split: kind, seed, level (of `barriers`, the line leads to it from the level before), rewind
      (the step of the weights that the level starts from), weights_remaining, and error_barrier (fractions) and
      loss_barrier (nats) above the mean of the ends.
    """
    rows: list[dict[str, Any]] = []
    for run in _select(plan, runs, BARRIERS):
        summary = files.read_json(_folder(run, BARRIERS) / files.INTERPOLATION_SUMMARY, _REMEDY, ["barrier"])
        for split, measured in summary["barrier"].items():
            heights = {name: measured[name]["above_mean"]["height"] for name in ("error", "loss")}
            named = {f"{name}_barrier": height for name, height in heights.items()}
            rows.append({**_about(plan, run, BARRIERS), "split": split, **named})
    for run in _select(plan, runs, INSTABILITY):
        summary = files.read_json(_folder(run, INSTABILITY) / files.INSTABILITY_SUMMARY, _REMEDY, ["instability"])
        for found in summary["instability"]:
            measured = {name: found[name] for name in ("split", "error_barrier", "loss_barrier")}
            rows.append({**_about(plan, run, INSTABILITY), **measured})
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def _select(plan: Plan, runs: Sequence[Run], kind: str) -> list[Run]:
    """Selects the runs of an analysis: the levels of the chains, and with other rewinding steps for instability."""
    if kind not in plan.landscape:
        return []
    if kind == BARRIERS:
        return [run for run in runs if run.level and not run.branch]
    at = plan.branch_levels or range(plan.levels + 1)
    return [run for run in runs if run.level in at and (not run.branch or run.branch.startswith("rewind:"))]


def _folder(run: Run, kind: str) -> pathlib.Path:
    return run.directory.parent / kind / run.directory.name


def _name(folder: pathlib.Path) -> str:
    return "/".join(folder.parts[-3:])


def _about(plan: Plan, run: Run, kind: str) -> dict[str, Any]:
    result = files.read_json(run.directory / files.RESULT, _REMEDY, ["sparsity"])
    return {
        "kind": kind,
        "seed": run.seed,
        "level": run.level,
        "rewind": run.branch.partition(":")[2] or str(plan.rewind),
        "weights_remaining": 1 - result["sparsity"],
    }
