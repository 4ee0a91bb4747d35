"""Names of the files of a run directory, and functions that write them atomically."""

import contextlib
import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from sparse_lib._utils import atomic
from sparse_lib.experiment.runtime.errors import RunError

OPERATIVE_CONFIG = "operative_config.gin"
RUN = "run.json"
METRICS = "metrics.jsonl"
MASK_UPDATES = "mask_updates.jsonl"
RESULT = "result.json"
PREDICTIONS = "predictions.npz"
TENSORBOARD = "train_logs"
HESSIAN = "hessian"
INTERPOLATION = "interpolation.csv"
INTERPOLATION_SUMMARY = "interpolation.json"
INTERPOLATION_CURVE = "interpolation_curve"
PICTURES = tuple(f"{kind}.{ending}" for kind in ("surface", "plane", "trajectory") for ending in ("npz", "json"))
INSTABILITY = "instability.csv"
INSTABILITY_SUMMARY = "instability.json"
# A run directory holds its configuration, these files and checkpoints; any other file is not ours.
RUN_FILES = (
    *(RUN, METRICS, MASK_UPDATES, RESULT, PREDICTIONS, TENSORBOARD, HESSIAN),
    *(INTERPOLATION, INTERPOLATION_SUMMARY, INTERPOLATION_CURVE),
    *(*PICTURES, INSTABILITY, INSTABILITY_SUMMARY),
)


@contextlib.contextmanager
def translate_os_error(what: str | os.PathLike[str]) -> Iterator[None]:
    """Turns an OSError, such as a full disk or a missing permission, into a RunError of one line.

    Args:
      what: path that is being written.

    Yields:
      Nothing.

    Raises:
      RunError: for any OSError inside the context.
    """
    try:
        yield
    except OSError as error:
        raise RunError(f"{what} cannot be written: {error.strerror or error}.") from error


@contextlib.contextmanager
def atomic_path(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Provides a temporary path; the file gets its final name once it is complete.

    Args:
      path: final path of the file.

    Yields:
      The temporary path, in the same directory and with the same suffix.

    Raises:
      RunError: if it cannot be written.
    """
    with translate_os_error(path), atomic.atomic_path(path) as temporary:
        yield temporary


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf8")


def format_json(value: Mapping[str, Any]) -> str:
    """Formats a value as JSON; NaN and infinity become null."""
    return json.dumps(_replace_nonfinite(value), indent=2, allow_nan=False)


def write_json(path: pathlib.Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON file atomically; NaN and infinity become null."""
    write_text(path, format_json(value) + "\n")


def _replace_nonfinite(value: Any) -> Any:
    """Replaces NaN and infinity by None, as JSON has neither."""
    if isinstance(value, Mapping):
        return {key: _replace_nonfinite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_nonfinite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class JsonLines:
    """Growing file with one JSON object per line; a resumed run truncates it to its checkpoint."""

    def __init__(self, path: pathlib.Path) -> None:
        """Stores the path; nothing is opened.

        Args:
          path: of the file.
        """
        self.path = path

    def append(self, record: Mapping[str, Any]) -> None:
        """Appends one line and flushes it to the disk; NaN and infinity become null."""
        with translate_os_error(self.path), self.path.open("a", encoding="utf8") as file:
            file.write(json.dumps(_replace_nonfinite(record), allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> list[dict[str, Any]]:
        """Reads all complete lines; a truncated last line, from a killed process, is skipped."""
        if not self.path.exists():
            return []
        records = []
        for line in self.path.read_text(encoding="utf8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                records.append(json.loads(line))
        return records

    def keep_until(self, step: int, *, inclusive: bool) -> None:
        """Deletes the records that are later than a restored checkpoint.

        Args:
          step: of the checkpoint (step).
          inclusive: whether a record of the same step was written before the checkpoint.
        """
        if not self.path.exists():
            return
        limit = step if inclusive else step - 1
        kept = [record for record in self.read() if record["step"] <= limit]
        write_text(self.path, "".join(json.dumps(record) + "\n" for record in kept))
