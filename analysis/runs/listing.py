"""What is known of every run below some directories, from its files alone."""

import contextlib
import math
import os
import pathlib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from analysis.records import variants
from sparse_lib._utils.errors import InputError
from sparse_lib.experiment.runtime.errors import RunError
from sparse_lib.experiment.storage import files, gin_text, run_directory
from sparse_lib.experiment.storage.description import Description, read_description

FINISHED, DIVERGED, RUNNING, INTERRUPTED = "finished", "diverged", "running", "interrupted"
# The outcome in result.json that needs no remark.
_TRAINED = "trained"
_REMEDY = "the list leaves it out"
_CHECKPOINT = re.compile(r"ckpt-(\d+)\.index")


class Row(NamedTuple):
    """One run of the list.

    Attributes:
      run: path below the directory that is listed.
      state: finished, diverged, running (a process holds its lock), or interrupted.
      method: name with suffixes, such as `rigl.plus.erk`.
      setting: network and data.
      sparsity: target, or the measured one where the masks are those of another run (fraction).
      seed: of the order of the data.
      step: the last one that was logged (step).
      total_steps: length of the run (step).
      accuracy: at that step, on validation data where there are any (fraction); None before the first log step.
      split: that it was measured on; empty without one.
      seconds_left: of a running process, at the pace that it had so far; None if it is not known (seconds).
      differences: bindings that are not the same in all runs of its method and setting.
      note: how a run ended that has not trained, as result.json names it; else empty.
      path: of its directory.
    """

    run: str
    state: str
    method: str
    setting: str
    sparsity: float
    seed: int
    step: int
    total_steps: int
    accuracy: float | None
    split: str
    seconds_left: float | None
    differences: Mapping[str, Any]
    note: str
    path: str


def list_runs(tops: Sequence[pathlib.Path]) -> list[Row]:
    """Lists the runs below some directories.

    Args:
      tops: every directory below with an operative_config.gin is a run.

    Returns:
      One row per run, in the order of their paths.

    Raises:
      InputError: if a directory does not exist, or there is no run.
    """
    for top in tops:
        if not top.is_dir():
            raise InputError(f"There is no directory {top}; name one that holds runs.")
    directories = sorted({directory.resolve() for top in tops for directory in run_directory.find_runs(top)})
    if not directories:
        raise InputError(f"There is no run below {', '.join(map(str, tops))}; train.py --logdir=DIR makes one.")
    common = pathlib.Path(os.path.commonpath([top.resolve() for top in tops]))
    settings = [_read_settings(directory) for directory in directories]
    rows = [_read_row(path, values, common) for path, values in zip(directories, settings, strict=True)]
    found = _find_differences(rows, settings)
    return [row._replace(differences=found[number]) for number, row in enumerate(rows)]


def _read_settings(directory: pathlib.Path) -> dict[str, Any]:
    with contextlib.suppress(RunError):
        return gin_text.parse(files.read_text(directory / files.OPERATIVE_CONFIG, _REMEDY))
    return {}


def _read_row(directory: pathlib.Path, settings: Mapping[str, Any], common: pathlib.Path) -> Row:
    described, last = _describe(directory, settings), files.JsonLines(directory / files.METRICS).last()
    step, (state, note) = last.get("step", 0), _find_state(directory)
    split = next((name for name in ("validation", "test") if last.get(f"{name}_accuracy") is not None), "")
    target = described.target_sparsity
    name = directory.relative_to(common).as_posix()
    return Row(
        run=directory.name if name == "." else name,
        state=state,
        method=described.method,
        setting=described.setting,
        sparsity=round(last.get("sparsity", math.nan), 3) if math.isnan(target) else target,
        seed=described.seed,
        step=step,
        total_steps=described.total_steps,
        accuracy=last[f"{split}_accuracy"] if split else None,
        split=split,
        seconds_left=_estimate_seconds(directory, step, described.total_steps) if state == RUNNING else None,
        differences={},
        note=note,
        path=str(directory),
    )


def _describe(directory: pathlib.Path, settings: Mapping[str, Any]) -> Description:
    with contextlib.suppress(RunError):
        return read_description(directory / files.RUN)
    # A run of an earlier version has no description. To guess one imports TensorFlow, which takes seconds.
    from analysis.records import methods  # noqa: PLC0415

    return methods.identify(settings)


def _find_state(directory: pathlib.Path) -> tuple[str, str]:
    """Returns the state of a run, and how it ended if it has not trained."""
    result = directory / files.RESULT
    if not result.exists():
        return (RUNNING if run_directory.is_locked(directory) else INTERRUPTED), ""
    with contextlib.suppress(RunError):
        values = files.read_json(result, _REMEDY)
        outcome = str(values.get("outcome", _TRAINED))
        if outcome == DIVERGED:
            return DIVERGED, str(values.get("error", ""))
        return FINISHED, "" if outcome == _TRAINED else outcome.replace("_", " ")
    return FINISHED, ""


def _estimate_seconds(directory: pathlib.Path, step: int, total_steps: int) -> float | None:
    """Extrapolates the pace of a process, which begins with run.json and the last checkpoint before it."""
    try:
        started = (directory / files.RUN).stat().st_mtime
        elapsed = (directory / files.METRICS).stat().st_mtime - started
        checkpoints = [(_CHECKPOINT.fullmatch(entry.name), entry) for entry in os.scandir(directory)]
        before = [int(match[1]) for match, entry in checkpoints if match and entry.stat().st_mtime <= started]
    except OSError:
        return None
    worked = step - max(before, default=0)
    return elapsed / worked * (total_steps - step) if worked > 0 and elapsed > 0 else None


def _find_differences(rows: Sequence[Row], settings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns for each run the bindings that vary among the runs of its method and setting."""
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        groups[row.method, row.setting].append(number)
    found: list[dict[str, Any]] = [{} for _ in rows]
    for group in groups.values():
        # A run of another version lacks some settings; that is no difference.
        names = sorted({name for number in group for name in settings[number] if variants.makes_variant(name)})
        for name in names:
            values = {number: settings[number][name] for number in group if name in settings[number]}
            if len({repr(value) for value in values.values()}) > 1:
                for number, value in values.items():
                    found[number][name] = value
    return found
