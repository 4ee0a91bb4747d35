"""Run directories: one process at a time, one configuration, no foreign files."""

import fcntl
import os
import pathlib
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sparse_lib._utils.atomic import TEMPORARY
from sparse_lib.experiment.runtime.errors import RunError
from sparse_lib.experiment.storage import files, gin_text

# Subdirectories of runs, and copies trained by an instability analysis; not runs in their own right.
_NO_RUNS = re.compile(rf"{files.TENSORBOARD}|{files.HESSIAN}|data-seed-\d+")

# Decides how fast a run is, and not what it computes.
_FREE = "training.execution"
# Bindings that a message names (count).
_SHOWN = 8


def find_runs(top: pathlib.Path) -> Iterator[pathlib.Path]:
    """Finds the run directories below a directory, itself included.

    Args:
      top: directory to search.

    Yields:
      Directories with an operative configuration.
    """
    for folder, subfolders, names in os.walk(top):
        subfolders[:] = sorted(n for n in subfolders if not _NO_RUNS.fullmatch(n))
        if files.OPERATIVE_CONFIG in names:
            yield pathlib.Path(folder)


@contextmanager
def lock(directory: pathlib.Path) -> Iterator[None]:
    """Creates a run directory, and locks it against other processes.

    Args:
      directory: of the run.

    Yields:
      Nothing.

    Raises:
      RunError: if it cannot be written, or another process works there.
    """
    files.check_path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / f"{TEMPORARY}{os.getpid()}-probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise RunError(f"--logdir={directory} cannot be written ({error.strerror}); choose another.") from error
    handle = os.open(directory, os.O_RDONLY)
    try:
        _take_lock(handle)
    except OSError as error:
        os.close(handle)
        raise RunError(f"Another process works in {directory}; wait for it or choose another --logdir.") from error
    try:
        yield
    finally:
        os.close(handle)


def _take_lock(handle: int) -> None:
    for seconds in (0.01, 0.1, None):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError:
            # `is_locked` holds a lock for a moment.
            if seconds is None:
                raise
            time.sleep(seconds)


def is_locked(directory: pathlib.Path) -> bool:
    """Returns whether a process works in a run directory; one that cannot be opened has none."""
    try:
        handle = os.open(directory, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def check_claim(directory: pathlib.Path, config: str, *, overwrite: bool) -> None:
    """Checks that a directory is free for a run or holds it already; changes nothing.

    Args:
      directory: of the run; subdirectories may hold other runs.
      config: the complete configuration as text.
      overwrite: whether a run of another configuration may be deleted.

    Raises:
      RunError: if the directory holds another configuration, or files that do not belong to a run.
    """
    path = directory / files.OPERATIVE_CONFIG
    if path.exists():
        if overwrite:
            return
        stored = files.read_text(path, "choose another --logdir, or --overwrite to start again")
        if _find_identity(stored) != _find_identity(config):
            raise RunError(
                f"{directory} holds a run of another configuration ({_describe_differences(stored, config)}); choose "
                "another --logdir, or --overwrite to start again."
            )
        return
    foreign = sorted(e.name for e in directory.iterdir() if e.is_file() and not e.name.startswith(TEMPORARY))
    if foreign:
        raise RunError(
            f"{directory} is not a run of this suite (it holds {foreign[0]} and no {files.OPERATIVE_CONFIG}); choose "
            "another --logdir."
        )


def _find_identity(config: str) -> list[str]:
    """Returns the lines of a configuration that decide what a run computes, and not how fast."""
    return [line for line in config.splitlines() if not line.startswith(f"{_FREE} ")]


def _describe_differences(stored: str, wanted: str) -> str:
    """Names the bindings that differ, with both values, up to a number that a reader can take in."""
    old, new = gin_text.parse(stored), gin_text.parse(wanted)
    names = [name for name in dict.fromkeys([*old, *new]) if repr(old.get(name)) != repr(new.get(name))]
    names = [name for name in names if name != _FREE]
    shown = [f"{name} is {_show(old, name)} there and {_show(new, name)} here" for name in names[:_SHOWN]]
    more = [f"and {len(names) - _SHOWN} others"] if len(names) > _SHOWN else []
    return "; ".join([*shown, *more]) or "its lines are not those of this command"


def _show(values: Mapping[str, Any], name: str) -> str:
    return repr(values[name]) if name in values else "not set"


def clear(directory: pathlib.Path) -> None:
    """Deletes the files of a run, and no others.

    Args:
      directory: of the run; one without a run does not change.
    """
    config = directory / files.OPERATIVE_CONFIG
    if not config.exists():
        return
    with files.translate_os_error(directory):
        # The configuration last, so that an interrupted deletion can be repeated.
        for path in [*(directory / name for name in files.RUN_FILES), *directory.glob("ckpt-*"), config]:
            is_folder = path.is_dir() and not path.is_symlink()
            shutil.rmtree(path) if is_folder else path.unlink(missing_ok=True)
