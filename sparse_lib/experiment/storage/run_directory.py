"""Run directories: one process at a time, one configuration, no foreign files."""

import fcntl
import os
import pathlib
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sparse_lib._utils.atomic import TEMPORARY
from sparse_lib.experiment.runtime.errors import Interrupted, RunError
from sparse_lib.experiment.storage import files

# Subdirectories of runs, and copies trained by an instability analysis; not runs in their own right.
_NO_RUNS = re.compile(rf"{files.TENSORBOARD}|{files.HESSIAN}|data-seed-\d+")


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


@contextmanager
def note_failure(directory: pathlib.Path) -> Iterator[None]:
    """Writes failure.json if an exception ends a run, for lists of runs; a run that goes on loses it.

    Args:
      directory: of the run.

    Yields:
      Nothing.
    """
    path = directory / files.FAILURE
    with files.translate_os_error(path):
        path.unlink(missing_ok=True)
    try:
        yield
    except Interrupted:
        raise
    except Exception as error:
        # A full disk is told by the exception itself.
        with suppress(RunError):
            files.write_json(path, {"error": str(error).strip().partition("\n")[0] or type(error).__name__})
        raise


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
                f"{directory} holds a run of another configuration ({_describe_difference(stored, config)}); choose "
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
    return [line for line in config.splitlines() if not line.startswith("training.execution ")]


def _describe_difference(stored: str, wanted: str) -> str:
    def lines(text: str) -> list[str]:
        return [line for line in text.splitlines() if line and not line.startswith("#")]

    old, new = lines(stored), lines(wanted)
    only_old = [line for line in old if line not in new] or ["less"]
    only_new = [line for line in new if line not in old] or ["less"]
    return f"it has {only_old[0]!r}, this command {only_new[0]!r}"


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
