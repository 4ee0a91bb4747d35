"""Results of analyses on disk: the same command continues them, a different one must not mix with them."""

import dataclasses
import json
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from sparse_lib._utils.errors import InputError
from sparse_lib.experiment.runtime.errors import RunError
from sparse_lib.experiment.storage import files

OVERWRITE = "choose another --logdir, or --overwrite to start again"


def identify(settings: Any, *, irrelevant: Collection[str] = (), **facts: Any) -> dict[str, Any]:
    """Collects everything that determines a result; its file stores this under `settings`.

    Args:
      settings: of the analysis, a dataclass.
      irrelevant: names of settings that do not change the numbers.
      **facts: about network, data and checkpoints; one with the name of a setting replaces the setting.

    Returns:
      Value by name, as JSON reads them back.
    """
    values = {name: value for name, value in dataclasses.asdict(settings).items() if name not in irrelevant}
    return dict(json.loads(json.dumps(values | facts)))


def claim(
    path: pathlib.Path,
    identity: Mapping[str, Any],
    *,
    overwrite: bool = False,
    remedy: str = OVERWRITE,
    required: Collection[str] = (),
    beside: Collection[pathlib.Path] = (),
) -> dict[str, Any]:
    """Reads a stored result, provided that it is the one this command computes.

    Args:
      path: JSON file of the result; it need not exist.
      identity: from `identify`.
      overwrite: whether a stored result is ignored.
      remedy: advice of the error message.
      required: names that a complete result has.
      beside: files that the result comes with; without it they are somebody else's.

    Returns:
      Content of the file; empty if there is none, or it is to be overwritten.

    Raises:
      RunError: names the first setting in which the stored result differs, the file that cannot be read, or the
        file that is somebody else's.
    """
    if not path.exists():
        for other in beside:
            if other.exists():
                raise RunError(
                    f"{other} comes from elsewhere (there is no {path.name}); move it or choose another --logdir."
                )
        return {}
    if overwrite:
        return {}
    repair = "delete it to compute it again"
    stored = files.read_json(path, repair, ["settings"])
    with files.report_damage(path, repair):
        settings = dict(stored["settings"])
        if stored.get("complete", True) and (missing := [name for name in required if name not in stored]):
            raise InputError(f"it has no {missing[0]!r}")
    for name, value in identity.items():
        old = settings.get(name)
        if old != value:
            raise RunError(f"{path} is another result ({name} is {old!r} there and {value!r} here); {remedy}.")
    return stored
