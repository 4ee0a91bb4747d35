"""Names of the files of a run directory, and functions that write them atomically."""

import contextlib
import json
import math
import os
import pathlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from sparse_lib._utils import atomic
from sparse_lib._utils.damage import DAMAGE
from sparse_lib._utils.errors import InputError
from sparse_lib.experiment.runtime.errors import RunError

OPERATIVE_CONFIG = "operative_config.gin"
RUN = "run.json"
METRICS = "metrics.jsonl"
MASK_UPDATES = "mask_updates.jsonl"
RESULT = "result.json"
PREDICTIONS = "predictions.npz"
TRACKING = "tracking.json"
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
    *(RUN, METRICS, MASK_UPDATES, RESULT, PREDICTIONS, TRACKING, TENSORBOARD, HESSIAN),
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


@contextlib.contextmanager
def report_damage(path: pathlib.Path, remedy: str) -> Iterator[None]:
    """Turns every exception of reading a file into a RunError of one line that names the file.

    Args:
      path: of the file.
      remedy: what the user can do, the end of the message.

    Yields:
      Nothing.

    Raises:
      RunError: if the file cannot be read, or its content is not what it should be.
    """
    try:
        yield
    except DAMAGE as error:
        reason: str = error.strerror if isinstance(error, OSError) and error.strerror else str(error).partition("\n")[0]
        raise RunError(
            f"{path} cannot be read ({reason[:200].rstrip('. ') or type(error).__name__}); {remedy}."
        ) from error


def read_text(path: pathlib.Path, remedy: str) -> str:
    """Reads a text file.

    Args:
      path: of the file.
      remedy: end of the error message.

    Returns:
      Its text.

    Raises:
      RunError: if it cannot be read as text.
    """
    with report_damage(path, remedy):
        return path.read_text(encoding="utf8")


def read_json(path: pathlib.Path, remedy: str, required: Collection[str] = ()) -> dict[str, Any]:
    """Reads a JSON object.

    Args:
      path: of the file.
      remedy: end of the error message.
      required: names that the object must have.

    Returns:
      Value by name.

    Raises:
      RunError: if the file cannot be read, is no JSON object, or lacks a name.
    """
    with report_damage(path, remedy):
        value = json.loads(path.read_text(encoding="utf8"))
        if not isinstance(value, dict):
            raise InputError(f"it holds a {type(value).__name__}, not an object")
        if missing := [name for name in required if name not in value]:
            raise InputError(f"it has no {missing[0]!r}")
        return value


def require_numbers(values: Mapping[str, Any], names: Collection[str]) -> None:
    """Checks that values are numbers, or null for those that are not finite.

    Args:
      values: by name.
      names: of the numbers.

    Raises:
      ValueError: names the first that is missing or another type.
    """
    for name in names:
        if name not in values or not isinstance(values[name], int | float | None):
            raise InputError(f"its {name!r} is no number")


def read_arrays(path: pathlib.Path, remedy: str, required: Collection[str] = ()) -> dict[str, np.ndarray]:
    """Reads all arrays of an .npz file.

    Args:
      path: of the file.
      remedy: end of the error message.
      required: names that the file must have.

    Returns:
      Array by name.

    Raises:
      RunError: if the file cannot be read, is no archive of arrays, or lacks a name.
    """
    with report_damage(path, remedy):
        stored = np.load(path, allow_pickle=False)
        if not isinstance(stored, np.lib.npyio.NpzFile):
            raise InputError("it is no archive of arrays")
        with stored:
            arrays = {name: stored[name] for name in stored.files}
        if missing := [name for name in required if name not in arrays]:
            raise InputError(f"it has no array {missing[0]!r}")
        return arrays


def check_path(path: str | os.PathLike[str]) -> None:
    """Checks that TensorFlow can read files in a directory: it takes some characters for patterns.

    Args:
      path: directory or prefix, as it is given to TensorFlow.

    Raises:
      RunError: names the characters.
    """
    text = str(path)
    bad = " and ".join(letter for letter in ("[", "\\") if letter in text)
    try:
        text.encode("utf8")
    except UnicodeEncodeError:
        bad = "bytes that are not UTF-8"
    if bad:
        shown = text.encode("ascii", "backslashreplace").decode()
        raise RunError(f"TensorFlow cannot read checkpoints below {shown}, for {bad} in the name; choose another.")


# Read at once from the end of a file (bytes).
_BLOCK = 65_536


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

    def scan(self) -> tuple[list[dict[str, Any]], str | None]:
        """Reads all complete lines; a truncated last line, from a killed process, is skipped.

        Returns:
          The intact records, and one sentence about the first damaged line; None if there is none.
        """
        if not self.path.exists():
            return [], None
        remedy = "delete it to go on without its records"
        try:
            lines = read_text(self.path, remedy).split("\n")
        except RunError as error:
            return [], str(error)
        records, problem = [], None
        for number, line in enumerate(lines, start=1):
            try:
                with report_damage(self.path, remedy):
                    records.append(_parse_record(line))
            except RunError as error:
                # Complete lines end in a line feed.
                if number < len(lines):
                    where = f"{self.path} cannot be read (line {number}: "
                    problem = problem or str(error).replace(f"{self.path} cannot be read (", where)
        return records, problem

    def last(self) -> dict[str, Any]:
        """Reads the last intact line, from the end of the file; empty without one."""
        try:
            with self.path.open("rb") as file:
                size, kept = file.seek(0, os.SEEK_END), b""
                while size > 0:
                    start = max(0, size - _BLOCK)
                    file.seek(start)
                    first, *lines = (file.read(size - start) + kept).split(b"\n")
                    kept, size = first, start
                    for line in reversed(lines if start else [first, *lines]):
                        with contextlib.suppress(*DAMAGE):
                            return _parse_record(line.decode("utf8"))
        except OSError:
            pass
        return {}

    def read(self) -> list[dict[str, Any]]:
        """Reads all complete lines; a truncated last line, from a killed process, is skipped.

        Returns:
          The records.

        Raises:
          RunError: if another line is damaged.
        """
        records, problem = self.scan()
        if problem:
            raise RunError(problem)
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


def _parse_record(line: str) -> dict[str, Any]:
    record = json.loads(line)
    step = record["step"]
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < 2**63:
        raise InputError("its step is no step")
    if bad := [name for name, value in record.items() if not isinstance(value, int | float | str | None)]:
        raise InputError(f"its {bad[0]!r} is no number")
    return record
