"""What a tracker is told of a run before its first step, read from the directory of the run."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from sparse_lib.experiment.runtime.errors import RunError
from sparse_lib.experiment.storage import files, gin_text

_REMEDY = "delete it to track the run anew"


@dataclasses.dataclass(frozen=True)
class TrackedRun:
    """A run that starts or goes on.

    Attributes:
      name: the last two parts of its directory, such as `sweep/rigl_0.9`.
      directory: of the run.
      step: from which it goes on; 0 at the start (step).
      description: contents of run.json: method, network, data, target sparsity, seed, length.
      settings: value by gin name, such as `optimizer.learning_rate`.
      config: the same as the text of a gin file.
      id: what the `start` of this tracker returned when the run began; None at the start.
    """

    name: str
    directory: pathlib.Path
    step: int
    description: Mapping[str, Any]
    settings: Mapping[str, Any]
    config: str
    id: str | None = None

    @property
    def parameters(self) -> dict[str, bool | float | str]:
        """Description and settings that are truth values, numbers or texts, by name."""
        both = {**self.settings, **self.description}
        return {name: value for name, value in both.items() if isinstance(value, bool | int | float | str)}


def read_run(directory: pathlib.Path, step: int) -> TrackedRun:
    """Reads what a run directory says of its run.

    Args:
      directory: of the run; without a configuration or a description, as that of a further worker, these are empty.
      step: from which the run goes on (step).
    """
    config, description = "", {}
    with contextlib.suppress(RunError):
        config = files.read_text(directory / files.OPERATIVE_CONFIG, _REMEDY)
    with contextlib.suppress(RunError):
        description = files.read_json(directory / files.RUN, _REMEDY)
    name = "/".join(directory.resolve().parts[-2:])
    return TrackedRun(name, directory, step, description, gin_text.parse(config), config)


def read_ids(directory: pathlib.Path) -> dict[str, str]:
    """Reads the ids that trackers gave to a run, by the name of the tracker.

    Args:
      directory: of the run.
    """
    path = directory / files.TRACKING
    values = files.read_json(path, _REMEDY) if path.exists() else {}
    return {name: value for name, value in values.items() if isinstance(value, str)}
