"""The list of runs as text and as JSON."""

import collections
import math
from collections.abc import Callable, Sequence
from typing import Any

from analysis.runs.listing import Row
from sparse_lib._utils.tables import text_table
from sparse_lib.experiment.runtime.progress import duration
from sparse_lib.experiment.storage import files

# What the list can be sorted by.
KEYS: dict[str, Callable[[Row], Any]] = {
    "run": lambda row: row.run,
    "state": lambda row: row.state,
    "method": lambda row: row.method,
    "sparsity": lambda row: row.sparsity,
    "seed": lambda row: row.seed,
    "step": lambda row: row.step,
    "accuracy": lambda row: row.accuracy,
    "left": lambda row: row.seconds_left,
}


def sort_rows(rows: Sequence[Row], key: str) -> list[Row]:
    """Sorts the list; runs without a value come last.

    Args:
      rows: of the list.
      key: a name in `KEYS`; with a minus sign before it, from the highest value down.
    """
    value, is_reversed = KEYS[key.removeprefix("-")], key.startswith("-")
    missing = [row for row in rows if _is_missing(value(row))]
    return [*sorted((row for row in rows if row not in missing), key=value, reverse=is_reversed), *missing]


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def format_table(rows: Sequence[Row]) -> str:
    """Formats the list for a terminal.

    Args:
      rows: of the list.

    Returns:
      Lines of a table and one that counts the states, without a line break at the end.
    """
    splits = {row.split for row in rows if row.split}
    several_splits, several_settings = len(splits) > 1, len({row.setting for row in rows}) > 1
    short = _shorten([name for row in rows for name in row.differences])
    cells = []
    for row in rows:
        accuracy = "" if row.accuracy is None else f"{row.accuracy:.4f}"
        differences = ", ".join(f"{short[name]}={value!r}" for name, value in row.differences.items())
        cells.append(
            [
                row.run,
                row.state,
                row.method,
                row.setting if several_settings else "",
                f"{row.step:,}",
                f"{row.total_steps:,}",
                "" if math.isnan(row.sparsity) else f"{row.sparsity:g}",
                str(row.seed),
                f"{accuracy} ({row.split})" if several_splits and accuracy else accuracy,
                "" if row.seconds_left is None else duration(row.seconds_left),
                ", ".join(filter(None, (row.note.rstrip("."), differences))),
            ]
        )
    accuracy = "accuracy" if several_splits else f"{''.join(splits)} accuracy".strip()
    headers = ["run", "state", "method", "setting", "step", "of", "sparsity", "seed", accuracy, "left", "what differs"]
    kept = [number for number, _ in enumerate(headers) if number < 3 or any(line[number] for line in cells)]
    left = [place for place, number in enumerate(kept) if number in (0, 1, 2, 3, len(headers) - 1)]
    lines = [[line[number] for number in kept] for line in (headers, *cells)]
    return f"{text_table(lines[:1], lines[1:], left=left, underline=True)}\n{_count_states(rows)}"


def _shorten(names: Sequence[str]) -> dict[str, str]:
    """Returns the last part of each name where no other name ends alike."""
    ends = collections.Counter(name.rpartition(".")[2] for name in set(names))
    return {name: end if ends[end := name.rpartition(".")[2]] == 1 else name for name in names}


def _count_states(rows: Sequence[Row]) -> str:
    states = collections.Counter(row.state for row in rows)
    counted = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    return f"{len(rows)} run{'' if len(rows) == 1 else 's'}: {counted}"


def format_rows(rows: Sequence[Row]) -> str:
    """Formats the list as JSON: an object whose `runs` has one object per run, with the attributes of `Row`.

    Args:
      rows: of the list.
    """
    return files.format_json({"runs": [row._asdict() for row in rows]})
