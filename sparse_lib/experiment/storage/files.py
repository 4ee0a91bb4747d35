"""Names of the files of a run directory, and writing that never leaves half a file."""

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
# Beside its configuration a run directory holds these and checkpoints; anything else in it belongs to somebody.
RUN_FILES = (
    *(RUN, METRICS, MASK_UPDATES, RESULT, PREDICTIONS, TENSORBOARD, HESSIAN),
    *(INTERPOLATION, INTERPOLATION_SUMMARY, INTERPOLATION_CURVE),
    *(*PICTURES, INSTABILITY, INSTABILITY_SUMMARY),
)


@contextlib.contextmanager
def translate_os_error(what: str | os.PathLike[str]) -> Iterator[None]:
    """Tells a full disk or a missing permission in one line.

    Args:
      what: is being written.

    Yields:
      Nothing.

    Raises:
      RunError: if the system refuses.
    """
    try:
        yield
    except OSError as error:
        raise RunError(f"{what} cannot be written: {error.strerror or error}.") from error


@contextlib.contextmanager
def atomic_path(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a temporary path to write to; the file appears under its name only when it is complete.

    Args:
      path: where the file goes.

    Yields:
      The temporary path, in the same directory and with the same ending.

    Raises:
      RunError: if it cannot be written.
    """
    with translate_os_error(path), atomic.atomic_path(path) as temporary:
        yield temporary


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf8")


def write_json(path: pathlib.Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON file, whole or not at all."""
    write_text(path, json.dumps(_standard(value), indent=2, allow_nan=False) + "\n")


def _standard(value: Any) -> Any:
    """JSON has no NaN and no infinity: such a number becomes null."""
    if isinstance(value, Mapping):
        return {key: _standard(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_standard(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class JsonLines:
    """A file of one JSON object a line that grows, and that a resumed run takes up where its checkpoint stands."""

    def __init__(self, path: pathlib.Path) -> None:
        """Names the file; nothing is opened.

        Args:
          path: of the file.
        """
        self.path = path

    def append(self, record: Mapping[str, Any]) -> None:
        """Adds one line and leaves it to the disk before returning; NaN and infinity become null."""
        with translate_os_error(self.path), self.path.open("a", encoding="utf8") as file:
            file.write(json.dumps(_standard(record), allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> list[dict[str, Any]]:
        """All complete lines; a torn last line, from a killed process, is left out."""
        if not self.path.exists():
            return []
        records = []
        for line in self.path.read_text(encoding="utf8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                records.append(json.loads(line))
        return records

    def keep_until(self, step: int, *, inclusive: bool) -> None:
        """Forgets what a restored checkpoint has not seen yet.

        Args:
          step: of the checkpoint (step).
          inclusive: whether a record of that very step was written before the checkpoint.
        """
        if not self.path.exists():
            return
        limit = step if inclusive else step - 1
        kept = [record for record in self.read() if record["step"] <= limit]
        write_text(self.path, "".join(json.dumps(record) + "\n" for record in kept))
