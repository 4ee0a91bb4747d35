"""Accuracy by setting: mean and interval over seeds, as text and as CSV."""

import csv
import io
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from analysis.claims.statistics import Interval, t_interval
from analysis.sweep.grid import Setting, Sweep
from sparse_lib._utils.tables import text_table
from sparse_lib.experiment.storage import files

_REMEDY = "delete it, and repeat the command"


class Outcome(NamedTuple):
    """What the finished runs of a setting achieved.

    Attributes:
      setting: of the runs.
      seeds: finished runs (count).
      test: test accuracy (fraction).
      validation: validation accuracy, NaN without a validation split (fraction).
      sparsity: share of the weights that are zero, mean over the runs (fraction).
    """

    setting: Setting
    seeds: int
    test: Interval
    validation: Interval
    sparsity: float


def read_validation(directory: pathlib.Path) -> float:
    """Returns the validation accuracy at the end of a run: that of result.json, else of the last log step.

    Args:
      directory: of a finished run.

    Returns:
      The accuracy, NaN without a validation split (fraction).
    """
    result = files.read_json(directory / files.RESULT, _REMEDY)
    value = result.get("validation_accuracy")
    if value is None:
        metrics = files.JsonLines(directory / files.METRICS).read()
        value = metrics[-1].get("validation_accuracy") if metrics else None
    return float("nan") if value is None else float(value)


def summarize(setting: Setting, directories: Sequence[pathlib.Path]) -> Outcome:
    """Reads the results of a setting.

    Args:
      setting: of the runs.
      directories: of its runs; those that are not finished are left out.
    """
    done = [directory for directory in directories if (directory / files.RESULT).exists()]
    results = [files.read_json(directory / files.RESULT, _REMEDY, ["test_accuracy", "sparsity"]) for directory in done]

    def numbers(name: str) -> list[float]:
        return [float("nan") if result[name] is None else float(result[name]) for result in results]

    return Outcome(
        setting,
        len(done),
        t_interval(numbers("test_accuracy")),
        t_interval([read_validation(directory) for directory in done]),
        t_interval(numbers("sparsity")).mean,
    )


def list_outcomes(sweep: Sweep, directory: Callable[[Setting, int], pathlib.Path]) -> list[Outcome]:
    """Returns the outcome of each setting of a sweep.

    Args:
      sweep: what was run.
      directory: returns that of a setting and a seed.
    """
    return [summarize(s, [directory(s, seed) for seed in sweep.seeds]) for s in sweep.settings]


def format_interval(interval: Interval) -> str:
    """Returns an interval in percent, such as `97.1 ± 0.4`; the mean alone where it has no ends."""
    if interval.n == 0:
        return "-"
    mean = f"{100 * interval.mean:.2f}"
    return f"{mean} ± {50 * (interval.high - interval.low):.2f}" if interval.n > 1 else mean


def _columns(outcomes: Sequence[Outcome]) -> list[str]:
    """Returns the names of what differs between settings."""
    return list(dict.fromkeys(name for outcome in outcomes for name, _ in outcome.setting.values))


def format_table(outcomes: Sequence[Outcome]) -> str:
    """Returns the outcomes as plain text, one line per setting.

    Args:
      outcomes: in the order of the lines.
    """
    names = _columns(outcomes)
    header = ["", *(name.rpartition(".")[2] for name in names), "runs", "test accuracy %", "validation %", "sparsity"]
    rows = []
    for outcome in outcomes:
        values = dict(outcome.setting.values)
        shown = [values.get(name, "").strip("'") for name in names]
        accuracies = [format_interval(outcome.test), format_interval(outcome.validation)]
        rows.append([outcome.setting.config, *shown, str(outcome.seeds), *accuracies, f"{outcome.sparsity:.4f}"])
    return text_table([header], rows, underline=True)


def format_csv(outcomes: Sequence[Outcome], more: Sequence[dict[str, Any]] = ()) -> str:
    """Returns the outcomes as CSV; accuracies are fractions, and ends of 95% intervals are empty for one run.

    Args:
      outcomes: one per line.
      more: further columns of each line, first; empty for none.
    """
    names = _columns(outcomes)
    text = io.StringIO()
    lines = []
    for place, outcome in enumerate(outcomes):
        values = dict(outcome.setting.values)
        line: dict[str, Any] = {**(more[place] if more else {}), "config": outcome.setting.config}
        line |= {name: values.get(name, "").strip("'") for name in names} | {"runs": outcome.seeds}
        for kind, interval in (("test", outcome.test), ("validation", outcome.validation)):
            ends = {"mean": interval.mean, "low": interval.low, "high": interval.high}
            line |= {f"{kind}_accuracy_{end}": _format_number(value) for end, value in ends.items()}
        lines.append(line | {"sparsity": _format_number(outcome.sparsity)})
    writer = csv.DictWriter(text, list(lines[0]) if lines else ["config"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _format_number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"
